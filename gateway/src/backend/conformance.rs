//! The one suite that every implementation of [`Backend`] passes.
//!
//! Each check is one promise of the seam and gets a fresh, empty store. A broken promise comes back as a [`Violation`] that
//! names it, so the suite can run wherever a store is at hand: in unit tests, under fault layers, against a real server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::error::chain;
use super::{
    Backend, Body, Condition, DeleteOptions, Error, GetOptions, HeadOptions, ListOptions, ObjectPath, PutOptions,
    Result, Stored,
};

mod reads;
mod writes;

/// Longest time that one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);

/// A promise that a store does not keep.
#[derive(Debug, thiserror::Error)]
#[error("{promise}: {what}")]
pub struct Violation {
    /// The name of the check.
    pub promise: &'static str,
    /// What happened instead.
    pub what: String,
}

/// What a check found: nothing, or how the promise was broken.
type Verdict = std::result::Result<(), String>;
type Store = Arc<dyn Backend>;
type Check = fn(Store) -> BoxFuture<'static, Verdict>;

const CHECKS: &[(&str, Check)] = &[
    ("a blob comes back as it was put", |store| reads::comes_back(store).boxed()),
    ("a long blob streams in and out", |store| reads::long_blob(store).boxed()),
    ("a range delivers exactly its bytes", |store| reads::ranges(store).boxed()),
    ("a missing blob is not found", |store| reads::missing(store).boxed()),
    ("odd names are ordinary names", |store| reads::odd_names(store).boxed()),
    ("listings are in byte order, whole, and pages fit together", |store| reads::listing(store).boxed()),
    ("a listing follows every put and delete at once", |store| reads::listing_is_current(store).boxed()),
    ("head tells length, version and time", |store| reads::head(store).boxed()),
    ("a create-only put never overwrites", |store| writes::create_only(store).boxed()),
    ("exactly one of many racing creators wins", |store| writes::racing_creators(store).boxed()),
    ("a conditional put replaces exactly the version it names", |store| writes::if_match(store).boxed()),
    ("exactly one of many racing replacements wins", |store| writes::racing_replacements(store).boxed()),
    ("an unconditional put replaces", |store| writes::overwrite(store).boxed()),
    ("a body that fails stores nothing", |store| writes::failing_bodies(store).boxed()),
    ("a body of another length stores nothing", |store| writes::wrong_lengths(store).boxed()),
    ("nothing is visible before it is complete", |store| writes::invisible_before_complete(store).boxed()),
    ("a dropped put stores nothing", |store| writes::dropped_put(store).boxed()),
    ("a put ends at its deadline", |store| writes::deadline(store).boxed()),
    ("a delete removes, and an absent blob is a success", |store| writes::delete(store).boxed()),
    ("puts and deletes in one directory do not disturb each other", |store| writes::puts_and_deletes(store).boxed()),
    ("a join is the bytes of its sources", |store| writes::join(store).boxed()),
    ("a join of missing or other sources stores nothing", |store| writes::join_refuses(store).boxed()),
    ("a sweep touches no blob", |store| writes::sweep(store).boxed()),
];

/// Runs all checks, each on a store that `make` makes, and returns the promises that were kept.
///
/// # Errors
/// The first promise that is broken.
pub async fn run<M, F>(make: M) -> std::result::Result<Vec<&'static str>, Violation>
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn Backend>>,
{
    let mut kept = Vec::new();
    for &(promise, check) in CHECKS {
        let store = make().await;
        let verdict = tokio::time::timeout(CHECK_TIMEOUT, check(Arc::clone(&store))).await;
        let verdict = verdict.unwrap_or_else(|_| Err(format!("no result after {CHECK_TIMEOUT:?}")));
        store.close().await;
        match verdict {
            Ok(()) => kept.push(promise),
            Err(what) => return Err(Violation { promise, what }),
        }
    }
    Ok(kept)
}

fn name(text: &str) -> std::result::Result<ObjectPath, String> {
    ObjectPath::new(text).map_err(|error| error.to_string())
}

/// Bytes that differ at every position and for every seed, so that misplaced ones are noticed.
fn pattern(seed: u64, range: std::ops::Range<u64>) -> Bytes {
    range
        .map(|at| ((at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xff51_afd7_ed55_8ccd)) >> 32) as u8)
        .collect()
}

/// The same bytes in pieces, for a body without a known length.
fn pattern_stream(seed: u64, length: u64, piece: u64) -> Body {
    let starts = (0..length.div_ceil(piece)).map(move |n| n * piece);
    Body::stream(
        stream::iter(starts).map(move |start| Ok::<_, std::io::Error>(pattern(seed, start..length.min(start + piece)))),
    )
}

async fn put(store: &Store, path: &str, bytes: impl Into<Body>) -> std::result::Result<Stored, String> {
    let put = store.put(&name(path)?, bytes.into(), PutOptions::default()).await;
    put.map_err(|error| format!("put {path:?}: {}", chain(&error)))
}

async fn put_if(store: &Store, path: &ObjectPath, bytes: Bytes, condition: Condition) -> Result<Stored> {
    store.put(path, bytes.into(), PutOptions { condition, ..PutOptions::default() }).await
}

async fn read(store: &Store, path: &str) -> std::result::Result<Bytes, String> {
    read_range(store, path, None).await
}

async fn read_range(
    store: &Store,
    path: &str,
    range: Option<std::ops::Range<u64>>,
) -> std::result::Result<Bytes, String> {
    let failed = |error| format!("get {path:?}: {}", chain(&error));
    let fetched = store.get(&name(path)?, GetOptions { range, deadline: None }).await.map_err(failed)?;
    let promised = fetched.length;
    let pieces: Vec<Bytes> = fetched.stream.try_collect().await.map_err(failed)?;
    let bytes: Bytes = pieces.concat().into();
    ensure(bytes.len() as u64 == promised, || {
        format!("get {path:?} promised {promised} bytes and delivered {}", bytes.len())
    })?;
    Ok(bytes)
}

async fn expect_absent(store: &Store, path: &str) -> Verdict {
    let head = store.head(&name(path)?, HeadOptions::default()).await;
    expect_error(&head, |error| matches!(error, Error::NotFound { .. }), "head of an absent blob")?;
    let get = store.get(&name(path)?, GetOptions::default()).await;
    expect_error(&get, |error| matches!(error, Error::NotFound { .. }), "get of an absent blob")?;
    let names = names_under(store, path).await?;
    ensure(!names.iter().any(|listed| listed == path), || format!("{path:?} is absent and listed"))
}

async fn expect_bytes(store: &Store, path: &str, expected: &Bytes) -> Verdict {
    let bytes = read(store, path).await?;
    ensure(bytes == expected, || {
        format!("{path:?} holds {} bytes that are not the {} put", bytes.len(), expected.len())
    })
}

async fn delete(store: &Store, path: &str) -> Verdict {
    let deleted = store.delete(&name(path)?, DeleteOptions::default()).await;
    deleted.map_err(|error| format!("delete {path:?}: {}", chain(&error)))
}

async fn names_under(store: &Store, prefix: &str) -> std::result::Result<Vec<String>, String> {
    names_by(store, prefix, None, super::LIST_LIMIT_MAX).await
}

/// All names from the first page to the last.
async fn names_by(
    store: &Store,
    prefix: &str,
    after: Option<ObjectPath>,
    limit: usize,
) -> std::result::Result<Vec<String>, String> {
    let mut options = ListOptions { start_after: after, limit, ..ListOptions::under(prefix) };
    let mut names = Vec::new();
    loop {
        let page = store.list(options.clone()).await.map_err(|error| format!("list {prefix:?}: {}", chain(&error)))?;
        ensure(page.entries.len() <= limit, || format!("a page of {} names, asked for {limit}", page.entries.len()))?;
        names.extend(page.entries.into_iter().map(|entry| entry.path.to_string()));
        match page.next {
            Some(next) => options.start_after = Some(next),
            None => return Ok(names),
        }
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn expect_error<T: std::fmt::Debug>(result: &Result<T>, is_expected: impl Fn(&Error) -> bool, what: &str) -> Verdict {
    match result {
        Err(error) if is_expected(error) => Ok(()),
        Err(error) => Err(format!("{what}: unexpected error: {}", chain(error))),
        Ok(value) => Err(format!("{what}: succeeded with {value:?}")),
    }
}
