//! Thin runners around real clients, each given one [`Endpoint`](crate::target::Endpoint).
//!
//! `aws_cli`, `boto3`, `duckdb`, `mc`, `rclone`, `s3fs` run released programs with a configuration of their own (never the user's);
//! `sdk` is the AWS SDK for Rust; `raw` is HTTP on a socket with our own signature, for what no client would send and for
//! loads where an unknown outcome must be seen as one; `sql` and `select` send statements by it.

pub mod aws_cli;
pub mod boto3;
pub mod cli;
pub mod command;
pub mod curl;
pub mod duckdb;
pub mod mc;
pub mod raw;
pub mod rclone;
pub mod s3fs;
pub mod sdk;
pub mod select;
pub mod sign;
pub mod sql;
pub mod topic;
