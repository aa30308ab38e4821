//! Names of blobs.
//!
//! One rule for all backends, the narrowest of them: what is a valid name here is a valid key on every S3 store and a valid
//! relative path on a local disk, and it survives an XML listing unchanged. Names compare as bytes, everywhere.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::error::{Error, Result};

/// Longest name in bytes. With the longest repository prefix it stays within the 1,024 bytes of an S3 key.
pub const PATH_BYTES_MAX: usize = 900;
/// Longest segment in bytes: what common file systems and MinIO accept.
pub const SEGMENT_BYTES_MAX: usize = 250;
/// First segment that the local backend keeps for unfinished writes.
pub const RESERVED_SEGMENT: &str = ".tmp";

/// The validated name of a blob, relative to the repository: `partitions/photos/2024/cat.<blob-id>.jpg`.
///
/// Non-empty segments joined by `/`; no `.` or `..` segment, no control character, not under `.tmp`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(Arc<str>);

impl ObjectPath {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that the name breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        check_name(name).map_err(|rule| Error::invalid(format_args!("blob name {name:?} {rule}")))?;
        Ok(ObjectPath(Arc::from(name)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory part, without a trailing slash; empty at the top.
    pub fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for ObjectPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ObjectPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Checks the rules of a name; also used for the repository's prefix inside a bucket.
pub(super) fn check_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > PATH_BYTES_MAX {
        return Err("is longer than 900 bytes");
    }
    if name.chars().any(is_unsafe_char) {
        return Err("contains a control character");
    }
    let mut segments = name.split('/').peekable();
    if segments.peek() == Some(&RESERVED_SEGMENT) {
        return Err("lies under .tmp, which is reserved");
    }
    segments.try_for_each(check_segment)
}

fn check_segment(segment: &str) -> std::result::Result<(), &'static str> {
    match segment {
        "" => Err("has an empty segment"),
        "." | ".." => Err("has a dot segment"),
        long if long.len() > SEGMENT_BYTES_MAX => Err("has a segment longer than 250 bytes"),
        _ => Ok(()),
    }
}

/// Control characters, and the two code points that XML cannot carry.
fn is_unsafe_char(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: std::result::Result<(), &str>) {
        assert_eq!(check_name(name), expected, "{name:?}");
    }

    #[test]
    fn names_follow_the_rules() {
        check("partitions/photos/2024/cat.01.jpg", Ok(()));
        check("a b/ü%41+&=?#/\\x", Ok(()));
        check("", Err("is empty"));
        check("/a", Err("has an empty segment"));
        check("a//b", Err("has an empty segment"));
        check("a/", Err("has an empty segment"));
        check("a/../b", Err("has a dot segment"));
        check("./b", Err("has a dot segment"));
        check("a/...", Ok(()));
        check("a\nb", Err("contains a control character"));
        check("a\0b", Err("contains a control character"));
        check("a\u{ffff}", Err("contains a control character"));
        check(".tmp/x", Err("lies under .tmp, which is reserved"));
        check("a/.tmp/x", Ok(()));
        check(&"x".repeat(251), Err("has a segment longer than 250 bytes"));
        check(&["y".repeat(250), "y".repeat(250), "y".repeat(250), "y".repeat(147)].join("/"), Ok(()));
        check(
            &["y".repeat(250), "y".repeat(250), "y".repeat(250), "y".repeat(148)].join("/"),
            Err("is longer than 900 bytes"),
        );
    }

    #[test]
    fn parent_and_file_name_split_at_the_last_slash() {
        let path = ObjectPath::new("a/b/c").expect("valid");
        assert_eq!((path.parent(), path.file_name()), ("a/b", "c"));
        let top = ObjectPath::new("c").expect("valid");
        assert_eq!((top.parent(), top.file_name()), ("", "c"));
    }
}
