//! Promises about what comes out.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use futures::StreamExt;

use super::super::error::chain;
use super::super::{Error, GetOptions, HeadOptions, ListOptions, PutOptions};
use super::{
    Store, Verdict, delete, ensure, expect_absent, expect_bytes, expect_error, name, names_by, names_under, pattern,
    pattern_stream, put, read_range,
};

/// Long enough that every implementation cuts it into pieces, and no multiple of anything.
const LONG_BYTES: u64 = 21 * 1024 * 1024 + 13;
/// How far a store's clock may be off in a test.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

pub(super) async fn comes_back(store: Store) -> Verdict {
    for length in [0, 1, 4095, 65_536, 1_048_576, 1_048_577] {
        let (path, bytes) = (format!("d/e/{length}.bin"), pattern(length, 0..length));
        let stored = put(&store, &path, bytes.clone()).await?;
        ensure(stored.length == length, || format!("put of {length} bytes says {}", stored.length))?;
        expect_bytes(&store, &path, &bytes).await?;
        let streamed = format!("d/e/{length}.streamed");
        put(&store, &streamed, pattern_stream(length, length, 1000)).await?;
        expect_bytes(&store, &streamed, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn long_blob(store: Store) -> Verdict {
    for (path, length) in [("long/known", Some(LONG_BYTES)), ("long/unknown", None)] {
        let body = pattern_stream(3, LONG_BYTES, 300_000);
        let options = PutOptions { length, ..PutOptions::default() };
        let stored =
            store.put(&name(path)?, body, options).await.map_err(|error| format!("{path}: {}", chain(&error)))?;
        ensure(stored.length == LONG_BYTES, || format!("{path}: stored {} bytes", stored.length))?;
        let mut fetched = store.get(&name(path)?, GetOptions::default()).await.map_err(|error| chain(&error))?;
        let mut at = 0;
        while let Some(piece) = fetched.stream.next().await {
            let piece = piece.map_err(|error| format!("{path}: {}", chain(&error)))?;
            let end = at + piece.len() as u64;
            ensure(piece == pattern(3, at..end), || format!("{path}: other bytes between {at} and {end}"))?;
            at = end;
        }
        ensure(at == LONG_BYTES, || format!("{path}: delivered {at} bytes"))?;
    }
    Ok(())
}

pub(super) async fn ranges(store: Store) -> Verdict {
    const LENGTH: u64 = 3_000_000;
    let bytes = pattern(5, 0..LENGTH);
    put(&store, "r/blob", bytes.clone()).await?;
    put(&store, "r/empty", pattern(0, 0..0)).await?;
    for range in [0..1, 0..LENGTH, LENGTH - 1..LENGTH, 1_048_575..1_048_577, 17..2_500_000, 5..5, LENGTH..LENGTH] {
        let got = read_range(&store, "r/blob", Some(range.clone())).await?;
        // These ranges fit into memory.
        let expected = bytes.slice(range.start as usize..range.end as usize);
        ensure(got == expected, || format!("range {range:?} delivered {} other bytes", got.len()))?;
    }
    read_range(&store, "r/empty", Some(0..0)).await?;
    let backwards = Range { start: 9, end: 8 };
    for (path, range) in
        [("r/blob", 0..LENGTH + 1), ("r/blob", LENGTH..LENGTH + 1), ("r/blob", backwards), ("r/empty", 0..1)]
    {
        let got = store.get(&name(path)?, GetOptions { range: Some(range.clone()), deadline: None }).await;
        expect_error(&got, |error| matches!(error, Error::RangeOutside { .. }), &format!("range {range:?} of {path}"))?;
    }
    Ok(())
}

pub(super) async fn missing(store: Store) -> Verdict {
    expect_absent(&store, "nothing").await?;
    expect_absent(&store, "nothing/at/all").await?;
    put(&store, "some/blob", pattern(0, 0..10)).await?;
    expect_absent(&store, "some").await?;
    expect_absent(&store, "some/blo").await?;
    expect_absent(&store, "some/blob2").await?;
    let got = store.get(&name("nothing")?, GetOptions { range: Some(3..5), deadline: None }).await;
    expect_error(&got, |error| matches!(error, Error::NotFound { .. }), "range of an absent blob")
}

pub(super) async fn odd_names(store: Store) -> Verdict {
    let long_segment = "s".repeat(250);
    let long_path = format!("{}/x.jpg", vec!["p".repeat(198); 4].join("/"));
    let names = [
        "odd/ü€😀.jpg",
        "odd/a%41%2F%.txt",
        "odd/with space/ and more ",
        "odd/+plus&amp;=eq?query#hash",
        "odd/quote'\"<tag>`$(x)`",
        "odd/back\\slash",
        "odd/...",
        "odd/.hidden/.tmp",
        "odd/UPPER/lower",
        "odd/e\u{301}",
        "odd/é",
        &long_segment,
        &long_path,
    ];
    for (seed, path) in (0..).zip(names) {
        put(&store, path, pattern(seed, 0..100 + seed)).await?;
    }
    for (seed, path) in (0..).zip(names) {
        expect_bytes(&store, path, &pattern(seed, 0..100 + seed)).await?;
        let listed = names_under(&store, path).await?;
        ensure(listed == [path], || format!("list of {path:?} says {listed:?}"))?;
    }
    let mut expected = names.map(str::to_owned);
    expected.sort();
    let listed = names_under(&store, "").await?;
    ensure(listed == expected, || format!("all odd names: listed {listed:?}, expected {expected:?}"))?;
    for path in names {
        delete(&store, path).await?;
        expect_absent(&store, path).await?;
    }
    Ok(())
}

pub(super) async fn listing(store: Store) -> Verdict {
    // Directories and files whose order differs when segments rather than bytes are compared.
    let mut names = vec![
        "a/b!", "a/b!/c", "a/b-c", "a/b/c", "a/b/d/e", "a/b.c", "a/b0", "a/bb/c", "a/b~", "a.txt", "a0", "b/x",
        "b/y/z", "é/x", "z",
    ];
    names.retain(|name| *name != "a/b!");
    for name in &names {
        put(&store, name, pattern(1, 0..name.len() as u64)).await?;
    }
    names.sort_unstable();
    let after_names = [None, Some("a/b"), Some("a/b.c"), Some("a/b/c"), Some("a/b/cc"), Some("a/zzz"), Some("zz")];
    for prefix in ["", "a", "a/", "a/b", "a/b/", "a/b/d", "b/y/z", "é", "q", "a/b/c/"] {
        for after in after_names {
            let expected: Vec<&str> = names
                .iter()
                .copied()
                .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after))
                .collect();
            for limit in [1, 2, 3, 5, 1000] {
                let after = after.map(name).transpose()?;
                let listed = names_by(&store, prefix, after.clone(), limit).await?;
                let what =
                    || format!("prefix {prefix:?} after {after:?} by {limit}: {listed:?}, expected {expected:?}");
                ensure(listed == expected, what)?;
            }
        }
    }
    for limit in [0, 1001] {
        let page = store.list(ListOptions { limit, ..ListOptions::default() }).await;
        expect_error(&page, |error| matches!(error, Error::Invalid { .. }), "a page of impossible size")?;
    }
    Ok(())
}

pub(super) async fn listing_is_current(store: Store) -> Verdict {
    for round in 0..20 {
        let path = format!("current/{round:03}");
        put(&store, &path, pattern(round, 0..round)).await?;
        let page = store.list(ListOptions::under("current/")).await.map_err(|error| chain(&error))?;
        let entry = page.entries.last().ok_or("nothing listed")?;
        ensure(entry.path.as_str() == path && entry.length == round, || {
            format!("{path} was put, the last is {entry:?}")
        })?;
        if round % 2 == 0 {
            delete(&store, &path).await?;
            let listed = names_under(&store, "current/").await?;
            ensure(!listed.contains(&path), || format!("{path} was deleted and is listed"))?;
        }
    }
    Ok(())
}

pub(super) async fn head(store: Store) -> Verdict {
    let stored = put(&store, "h/blob", pattern(1, 0..1234)).await?;
    let head = store.head(&name("h/blob")?, HeadOptions::default()).await.map_err(|error| chain(&error))?;
    ensure(head.length == 1234, || format!("length {}", head.length))?;
    ensure(head.etag == stored.etag, || format!("put said {:?}, head says {:?}", stored.etag, head.etag))?;
    let fetched = store
        .get(&name("h/blob")?, GetOptions { range: Some(3..7), deadline: None })
        .await
        .map_err(|error| chain(&error))?;
    ensure(fetched.head == head, || format!("get of a range says {:?}, head says {head:?}", fetched.head))?;
    let now = SystemTime::now();
    let distance = now.duration_since(head.last_modified).unwrap_or_else(|error| error.duration());
    ensure(distance < CLOCK_TOLERANCE, || format!("modified {distance:?} away from now"))
}
