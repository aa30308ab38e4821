//! A file system that can lose power.
//!
//! It lives in memory and keeps two states of everything: **live**, what the running programs see, and **durable**, what
//! they have synced. A cut throws the live state away. File data becomes durable by `fsync` or `fdatasync` of the file; a
//! name (create, link, rename, unlink, mkdir) by `fsync` of its directory. A file that was synced but whose directory was
//! not has no name after a cut; a name that was synced but whose file was not shows an empty or older file.
//!
//! Faults that are fair, and so can happen: any unsynced page is lost, also a page in the middle of a kept range
//! ([`Loss::Some`]); unsynced changes of names end at any point of their order. Faults that would be unfair, and so never
//! happen: a rename of which only one half is kept (journaled file systems log it whole), a synced byte that changes, the
//! order of names turned around.
//!
//! `state` is the model, without a kernel; `mount` shows it through FUSE. Idea: LazyFS. Deliberately absent: permissions,
//! extended attributes, devices, quotas, shared writable maps across a cut.

mod mount;
mod state;

pub use mount::PowerFs;
pub use state::{Cut, Loss};
