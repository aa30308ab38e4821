//! S3 Select.
