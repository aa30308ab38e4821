//! Names of runs in the backend.
//!
//! ```text
//! indexes/<bucket>/<dir>/.../<name>.<revision>.btree     index <name> on the prefix <dir>/.../
//! indexes/<bucket>/<dir>/.../<name>.<revision>.hash      the same, of a hash index
//! indexes/<bucket>/.long/<index id>.<revision>.btree     what does not fit, .hash likewise
//! ```
//! Pieces are escaped as those of blobs are, see [`crate::path`]; besides, in a directory that has the form of a run's file
//! name, in any case of letters, the dot before the revision is. Revision and index id have sixteen decimal digits.
//!
//! Promises: no directory equals the file name of a run; [`parse_run_path`] accepts exactly what [`run_path`] makes.

use crate::id::{BucketName, Revision};
use crate::index::IndexKind;
use crate::path::{PATH_BYTES_MAX, PIECE_BYTES_MAX, escape, unescape};

/// Where runs live.
pub const RUNS_PREFIX: &str = "indexes/";
const LONG: &str = ".long";
const DIGITS: usize = 16;

/// What the name of a run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunName<'a> {
    /// Bucket.
    pub bucket: &'a BucketName,
    /// Prefix of the index: empty, or ending in a slash.
    pub prefix: &'a str,
    /// Name of the index, without slashes.
    pub name: &'a str,
    /// Id of the index.
    pub index: Revision,
    /// Revision of the run.
    pub revision: Revision,
    /// Kind of the index.
    pub kind: IndexKind,
}

/// The name of a run in the backend.
#[must_use]
pub fn run_path(run: &RunName<'_>) -> String {
    let RunName { bucket, prefix, name, index, revision, kind } = run;
    let mut pieces: Vec<String> = prefix.split_terminator('/').map(directory).collect();
    pieces.push(escape(name));
    let suffix = format!("{revision:0DIGITS$}.{}", extension(*kind));
    let path = format!("{RUNS_PREFIX}{bucket}/{}.{suffix}", pieces.join("/"));
    if path.len() > PATH_BYTES_MAX || pieces.iter().any(|piece| piece.len() > PIECE_BYTES_MAX) {
        return format!("{RUNS_PREFIX}{bucket}/{LONG}/{index:0DIGITS$}.{suffix}");
    }
    path
}

/// Bucket, revision and kind of a name that [`run_path`] made; `None` for every other name.
#[must_use]
pub fn parse_run_path(path: &str) -> Option<(BucketName, Revision, IndexKind)> {
    let (bucket, rest) = path.strip_prefix(RUNS_PREFIX)?.split_once('/')?;
    let bucket: BucketName = bucket.parse().ok()?;
    let (directories, file) = rest.rsplit_once('/').map_or((None, rest), |(d, f)| (Some(d), f));
    let (stem, revision, kind) = split_file(file)?;
    if directories == Some(LONG) {
        digits(stem)?;
        return Some((bucket, revision, kind));
    }
    let mut prefix = String::new();
    for piece in directories.iter().flat_map(|directories| directories.split('/')) {
        prefix.push_str(&unescape(piece)?);
        prefix.push('/');
    }
    let name = unescape(stem)?;
    let run = RunName { bucket: &bucket, prefix: &prefix, name: &name, index: 0, revision, kind };
    (!name.contains('/') && run_path(&run) == path).then_some((bucket, revision, kind))
}

fn extension(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::BTree => "btree",
        IndexKind::Hash => "hash",
    }
}

fn directory(piece: &str) -> String {
    let escaped = escape(piece);
    match split_file(&escaped.to_ascii_lowercase()) {
        Some((stem, ..)) => format!("{}%2E{}", &escaped[..stem.len()], &escaped[stem.len() + 1..]),
        None => escaped,
    }
}

/// Stem, revision and kind that a file name says.
fn split_file(file: &str) -> Option<(&str, Revision, IndexKind)> {
    let (head, extension_of) = file.rsplit_once('.')?;
    let kind = IndexKind::ALL.iter().find(|kind| extension(**kind) == extension_of)?;
    let (stem, revision) = head.rsplit_once('.')?;
    (!stem.is_empty()).then_some((stem, digits(revision)?, *kind))
}

fn digits(text: &str) -> Option<Revision> {
    (text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUFFIX: &str = "0000000000000042.btree";

    fn path_of(prefix: &str, name: &str) -> String {
        let bucket = "photos".parse().unwrap();
        run_path(&RunName { bucket: &bucket, prefix, name, index: 7, revision: 42, kind: IndexKind::BTree })
    }

    #[test]
    fn prefix_and_name_stay_readable() {
        let check = |prefix: &str, name: &str, expected: &str| {
            let path = path_of(prefix, name);
            assert_eq!(path, format!("indexes/photos/{expected}.{SUFFIX}"), "{prefix:?} {name:?}");
            assert_eq!(parse_run_path(&path), Some(("photos".parse().unwrap(), 42, IndexKind::BTree)), "{path}");
        };
        check("", "by_size", "by_size");
        check("logs/2026/", "by user", "logs/2026/by user");
        check("/", "a", "%/a");
        check("a//", "b", "a/%/b");
        check(".long/", "..", "%2Elong/%2E%2E");
        check("grüße/", "日本?", "grüße/日本%3F");
        check("a.0000000000000042.btree/", "b", "a%2E0000000000000042.btree/b");
        check("a.0000000000000042.HASH/", "b", "a%2E0000000000000042.HASH/b");
        check("a.000000000000042.hash/", "b", "a.000000000000042.hash/b");
        check("", "a.0000000000000042.btree", "a.0000000000000042.btree");
    }

    #[test]
    fn what_does_not_fit_has_the_long_form() {
        let long = format!("indexes/photos/.long/0000000000000007.{SUFFIX}");
        assert_eq!(path_of("", &"x".repeat(201)), long);
        assert_eq!(path_of(&format!("{}/", "é".repeat(101)), "a"), long);
        assert_eq!(path_of(&"abc/".repeat(250), "a"), long);
        assert_eq!(parse_run_path(&long), Some(("photos".parse().unwrap(), 42, IndexKind::BTree)));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        let foreign = [
            "indexes/photos/a.btree".to_owned(),
            format!("indexes/photos/.{SUFFIX}"),
            format!("indexes/photos/{SUFFIX}"),
            format!("indexes/photos/a.{}", SUFFIX.to_uppercase()),
            format!("indexes/photos/a.{SUFFIX}.bak"),
            format!("indexes/photos/a//b.{SUFFIX}"),
            format!("indexes/photos/a%2Fb.{SUFFIX}"),
            format!("indexes/photos/.hidden/b.{SUFFIX}"),
            format!("indexes/photos/.long/7.{SUFFIX}"),
            format!("indexes/photos/{}.{SUFFIX}", "x".repeat(201)),
            "indexes/photos/a.+000000000000042.hash".to_owned(),
            "indexes/photos/a.0000000000000042.parquet".to_owned(),
            format!("indexes/P/a.{SUFFIX}"),
            format!("partitions/photos/a.{SUFFIX}"),
        ];
        for name in foreign {
            assert_eq!(parse_run_path(&name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_taken_apart_again(prefix in "([^/]{0,9}/){0,4}", name in "[^/]{1,9}", revision in 0u64..1 << 53) {
            let bucket = "photos".parse().unwrap();
            let kind = if revision % 2 == 0 { IndexKind::BTree } else { IndexKind::Hash };
            let run = RunName { bucket: &bucket, prefix: &prefix, name: &name, index: 7, revision, kind };
            let path = run_path(&run);
            prop_assert_eq!(parse_run_path(&path), Some(("photos".parse().unwrap(), revision, kind)), "{}", path);
        }
    }
}
