//! The mount: files of a Holdfast repository, which are S3 objects at the same time.
//!
//! ```text
//! main ─▶ adapter ─▶ vfs ─▶ remote ◀─ client ─▶ a gateway
//!            │        ├ tree file layer      what is known, open and dirty; held: in which order they are locked
//!         kernel      ├ journal cache        on the local disk
//!                     └ attributes names error
//! ```
//! Everything but `adapter` and `main` is free of FUSE, and is tested without a kernel.

pub mod adapter;
pub mod attributes;
pub mod cache;
pub mod client;
pub mod error;
pub mod file;
pub mod held;
pub mod journal;
pub mod layer;
pub mod names;
pub mod remote;
pub mod run;
pub mod tree;
pub mod vfs;
