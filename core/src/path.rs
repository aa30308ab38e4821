//! Names of blobs in the backend: readable by other tools, safe on every store, and taken apart again by sweeps.
//!
//! ```text
//! partitions/<bucket>/<dir>/.../<stem>.<blob-id>.<ext>      key a/b/report.pdf
//! partitions/<bucket>/<dir>/.../<stem>.<blob-id>            key a/b/report
//! partitions/<bucket>/.long/<blob-id>.<ext>                 a key that does not fit
//! ```
//! The key is split at `/`. All pieces but the last are directories. The last is split at its last dot: what follows is
//! the *extension*, if that is 1 to 16 ASCII letters, digits, `-` or `_` and something precedes the dot; else there is no
//! extension. What precedes is the *stem*.
//!
//! Directories and stems are escaped, each by itself, as `%` and two upper-case hexadecimal digits for each byte of:
//! - control characters, the code points U+FFFE and U+FFFF, and the characters `% \ : * ? " < > |`;
//! - a dot at the start; a dot or space at the end;
//! - the dot before a piece that has the form of a blob id (32 hexadecimal digits), where that piece is the last one, or
//!   the one before an extension.
//!
//! An empty piece is a lone `%`. A directory or stem of more than [`PIECE_BYTES_MAX`] escaped bytes, or a path of more than
//! [`PATH_BYTES_MAX`], gives the `.long` form.
//!
//! Promises:
//! - The last dotted piece of 32 lower-case hexadecimal digits in the file name is the blob id, always.
//! - No directory ever equals a file name of another blob, in any case of letters: `a` and `a/b` live side by side.
//! - Names that start with a dot are never made from a key, so `.long` and `.packs` are ours.
//! - [`parse_blob_path`] accepts exactly what [`blob_path`] makes. Whatever else lies in the backend is not ours.
//!
//! Absent on purpose: a meaning of the name. The table says which blob is current; a name carries no authority.

use crate::id::{BlobId, BucketName, ObjectKey};

/// Where blobs live.
pub const BLOBS_PREFIX: &str = "partitions/";
/// Most bytes of an escaped directory or stem. With id and extension a file name has at most 250.
pub const PIECE_BYTES_MAX: usize = 200;
/// Most bytes of a path.
pub const PATH_BYTES_MAX: usize = 800;
/// Most characters of an extension.
pub const EXTENSION_CHARS_MAX: usize = 16;

const LONG: &str = ".long";
const EMPTY: &str = "%";
const ID_CHARS: usize = 32;

/// The name of a blob that holds bytes of `key`.
#[must_use]
pub fn blob_path(bucket: &BucketName, key: &ObjectKey, blob: BlobId) -> String {
    let (directories, file) = key.as_str().rsplit_once('/').map_or((None, key.as_str()), |(d, f)| (Some(d), f));
    let (stem, extension) = split_extension(file);
    let pieces: Vec<String> = directories.iter().flat_map(|d| d.split('/')).chain([stem]).map(escape).collect();
    let suffix = extension.map(|extension| format!(".{extension}")).unwrap_or_default();
    let path = format!("{BLOBS_PREFIX}{bucket}/{}.{blob}{suffix}", pieces.join("/"));
    if path.len() > PATH_BYTES_MAX || pieces.iter().any(|piece| piece.len() > PIECE_BYTES_MAX) {
        return format!("{BLOBS_PREFIX}{bucket}/{LONG}/{blob}{suffix}");
    }
    path
}

/// Bucket and blob of a name that [`blob_path`] made; `None` for every other name.
#[must_use]
pub fn parse_blob_path(path: &str) -> Option<(BucketName, BlobId)> {
    let (bucket, rest) = path.strip_prefix(BLOBS_PREFIX)?.split_once('/')?;
    let bucket: BucketName = bucket.parse().ok()?;
    let blob = match rest.strip_prefix(LONG).and_then(|rest| rest.strip_prefix('/')) {
        Some(file) => {
            let (id, extension) = file.split_once('.').map_or((file, None), |(id, ext)| (id, Some(ext)));
            extension.is_none_or(is_extension).then_some(id)?.parse().ok()?
        }
        None => {
            let (key, blob) = parse_file(rest)?;
            (blob_path(&bucket, &key, blob) == path).then_some(blob)?
        }
    };
    Some((bucket, blob))
}

/// The name beside `path` for another blob of the same key; `None` when `path` is not a blob's.
#[must_use]
pub fn sibling_path(path: &str, blob: BlobId) -> Option<String> {
    let (_, old) = parse_blob_path(path)?;
    let at = path.rfind(&old.to_string())?;
    Some(format!("{}{blob}{}", &path[..at], &path[at + ID_CHARS..]))
}

/// The key and id that a path below its bucket was made of, if it was made of any.
fn parse_file(rest: &str) -> Option<(ObjectKey, BlobId)> {
    let (directories, file) = rest.rsplit_once('/').map_or((None, rest), |(d, f)| (Some(d), f));
    let (head, last) = file.rsplit_once('.')?;
    let (stem, id, extension) = match last.parse::<BlobId>() {
        Ok(id) => (head, id, None),
        Err(_) => {
            let (stem, id) = head.rsplit_once('.')?;
            (stem, id.parse().ok()?, Some(last))
        }
    };
    let mut pieces = Vec::new();
    for piece in directories.iter().flat_map(|d| d.split('/')).chain([stem]) {
        pieces.push(unescape(piece)?);
    }
    let mut key = pieces.join("/");
    if let Some(extension) = extension {
        key.push('.');
        key.push_str(extension);
    }
    Some((key.parse().ok()?, id))
}

fn split_extension(file: &str) -> (&str, Option<&str>) {
    match file.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && is_extension(extension) => (stem, Some(extension)),
        _ => (file, None),
    }
}

fn is_extension(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=EXTENSION_CHARS_MAX).contains(&text.len()) && text.bytes().all(safe)
}

/// A piece of a path that every store takes; see the module.
pub(crate) fn escape(piece: &str) -> String {
    if piece.is_empty() {
        return EMPTY.to_owned();
    }
    let id_dot = dot_before_id(piece);
    let last = piece.len() - 1;
    let mut escaped = String::with_capacity(piece.len());
    for (at, c) in piece.char_indices() {
        let edge = (c == '.' && at == 0) || (matches!(c, '.' | ' ') && at == last);
        if edge || is_unsafe(c) || id_dot == Some(at) {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escaped.push_str(&format!("%{byte:02X}")));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '%' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
}

/// The dot that must not stand, lest the piece read as the file name of a blob.
fn dot_before_id(piece: &str) -> Option<usize> {
    let is_id = |text: &str| text.len() == ID_CHARS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (head, last) = piece.rsplit_once('.')?;
    if is_id(last) {
        return Some(head.len());
    }
    let (stem, id) = head.rsplit_once('.')?;
    (is_id(id) && is_extension(last)).then_some(stem.len())
}

/// What [`escape`] made a piece of; `None` when it has no such form.
pub(crate) fn unescape(piece: &str) -> Option<String> {
    if piece == EMPTY {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(piece.len());
    let mut rest = piece.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
