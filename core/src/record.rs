//! Stand-in, replaced at merge.

/// Bytes that do not decode to their record.
#[derive(Debug, thiserror::Error)]
#[error("{what} does not decode")]
pub struct DecodeError {
    /// The kind of record.
    pub what: &'static str,
    /// Where and why decoding stopped.
    #[source]
    pub source: minicbor::decode::Error,
}
