//! The rules and stored formats of Holdfast.

pub mod apply;
pub mod command;
pub mod effect;
pub mod keyspace;
pub mod kv;
pub mod record;
pub mod snapshot;
