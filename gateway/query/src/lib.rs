//! Queries: the bucket answers questions.
//!
//! Two engines over one seam: S3 Select as AWS specifies it ([`select`]), and SQL by DataFusion ([`sql`]). [`extract`] reads
//! what indexes want to know of content. A crate of its
//! own, so that the rest builds fast. It opens no file and no socket: versions and bytes come through [`repository`].

pub mod extract;
pub mod filter;
pub mod repository;
pub mod select;
pub mod sql;
