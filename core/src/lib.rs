//! The rules and stored formats of Holdfast.

pub mod apply;
pub mod command;
pub mod effect;
pub mod error;
pub mod id;
pub mod keyspace;
pub mod kv;
pub mod list;
pub mod path;
pub mod queue;
pub mod record;
pub mod resume;
pub mod rules;
pub mod snapshot;
pub mod state;
pub mod view;
