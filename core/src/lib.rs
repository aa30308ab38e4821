//! The rules and stored formats of Holdfast.

pub mod keyspace;
pub mod kv;
