//! Queries: the bucket answers questions.
//!
//! SQL by DataFusion ([`sql`]), the filter of a listing ([`filter`]), and what indexes want to know of content
//! ([`extract`]). A crate of its own, so that the rest builds fast. It opens no socket, and no file but those of spilled
//! rows: versions and bytes come through [`repository`].

mod compare;
pub mod engine;
pub mod extract;
pub mod filter;
mod header;
pub mod repository;
pub mod select;
pub mod sql;
