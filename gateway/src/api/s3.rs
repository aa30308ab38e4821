//! The S3 protocol.

pub mod body;
pub mod digest;
