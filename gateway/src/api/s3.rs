//! The S3 protocol.

pub mod body;
mod buckets;
pub(crate) mod convert;
mod copying;
pub mod digest;
pub(crate) mod error;
mod incoming;
mod listing;
mod multipart;
mod notifications;
mod reading;
mod select;
mod service;
mod tags;
mod token;
mod writing;

pub use self::buckets::BucketCors;
pub use self::error::to_s3;
pub use self::service::{S3Api, call_of};
