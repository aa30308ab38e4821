//! Promises about what goes in, and what is left when it does not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{SinkExt, StreamExt, stream};
use tokio::time::Instant;

use super::super::error::chain;
use super::super::{Body, Condition, ETag, Error, JoinOptions, JoinSource, PutOptions, Stored, SweepOptions};
use super::{
    Store, Verdict, delete as remove, ensure, expect_absent, expect_bytes, expect_error, name, names_under, pattern,
    pattern_stream, put, put_if,
};

const MIB: u64 = 1024 * 1024;
const RACERS: u64 = 16;

pub(super) async fn create_only(store: Store) -> Verdict {
    put(&store, "c/blob", pattern(1, 0..100)).await?;
    for body in [Body::from(pattern(2, 0..100)), pattern_stream(2, 9 * MIB, MIB)] {
        let second = store.put(&name("c/blob")?, body, PutOptions::default()).await;
        expect_error(&second, |error| matches!(error, Error::Exists { .. }), "second create")?;
    }
    let in_parts = PutOptions { in_parts: true, ..PutOptions::default() };
    let second = store.put(&name("c/blob")?, pattern(2, 0..100).into(), in_parts.clone()).await;
    expect_error(&second, |error| matches!(error, Error::Exists { .. }), "second create, in parts")?;
    expect_bytes(&store, "c/blob", &pattern(1, 0..100)).await?;
    let stored = store.put(&name("c/parts")?, pattern(3, 0..100).into(), in_parts).await;
    stored.map_err(|error| format!("create in parts: {}", chain(&error)))?;
    expect_bytes(&store, "c/parts", &pattern(3, 0..100)).await
}

pub(super) async fn racing_creators(store: Store) -> Verdict {
    for round in 0..4 {
        let path = name(&format!("race/{round}/deep/er"))?;
        let racers = (0..RACERS).map(|seed| put_if(&store, &path, pattern(seed, 0..5000), Condition::IfAbsent));
        let results = join_all(racers).await;
        let winner = only_winner(&results, |error| matches!(error, Error::Exists { .. }))?;
        expect_bytes(&store, path.as_str(), &pattern(winner, 0..5000)).await?;
    }
    Ok(())
}

/// The number of the one that succeeded; all others must have got the expected error.
fn only_winner(
    results: &[super::Result<Stored>],
    is_expected: impl Fn(&Error) -> bool,
) -> std::result::Result<u64, String> {
    let mut winners = Vec::new();
    for (seed, result) in (0..).zip(results) {
        match result {
            Ok(_) => winners.push(seed),
            Err(_) => expect_error(result, &is_expected, "a loser")?,
        }
    }
    match winners[..] {
        [winner] => Ok(winner),
        _ => Err(format!("winners: {winners:?}")),
    }
}

pub(super) async fn if_match(store: Store) -> Verdict {
    let path = name("m/cluster.json")?;
    let first = put(&store, "m/cluster.json", pattern(1, 0..10)).await?;
    let second = put_if(&store, &path, pattern(2, 0..10), Condition::IfMatch(first.etag.clone())).await;
    let second = second.map_err(|error| format!("replace: {}", chain(&error)))?;
    ensure(second.etag != first.etag, || "two versions have one etag".into())?;
    let stale = put_if(&store, &path, pattern(3, 0..10), Condition::IfMatch(first.etag)).await;
    expect_error(&stale, |error| matches!(error, Error::Changed { .. }), "a stale version")?;
    expect_bytes(&store, "m/cluster.json", &pattern(2, 0..10)).await?;
    remove(&store, "m/cluster.json").await?;
    let absent = put_if(&store, &path, pattern(3, 0..10), Condition::IfMatch(second.etag)).await;
    let is_absent = |error: &Error| matches!(error, Error::NotFound { .. } | Error::Changed { .. });
    expect_error(&absent, is_absent, "a condition on an absent blob")?;
    let odd = put_if(&store, &path, pattern(3, 0..10), Condition::IfMatch(ETag("\"0123\"".into()))).await;
    expect_error(&odd, is_absent, "a condition on a version that never was")?;
    expect_absent(&store, "m/cluster.json").await
}

pub(super) async fn racing_replacements(store: Store) -> Verdict {
    let path = name("m/cluster.json")?;
    let mut current = put(&store, "m/cluster.json", pattern(99, 0..10)).await?.etag;
    for round in 0..4 {
        let seeds = round * RACERS..(round + 1) * RACERS;
        let racers = seeds.map(|seed| put_if(&store, &path, pattern(seed, 0..10), Condition::IfMatch(current.clone())));
        let results = join_all(racers).await;
        let winner = only_winner(&results, |error| matches!(error, Error::Changed { .. } | Error::Busy { .. }))?;
        expect_bytes(&store, path.as_str(), &pattern(round * RACERS + winner, 0..10)).await?;
        let head = store.head(&path, super::HeadOptions::default()).await.map_err(|error| chain(&error))?;
        current = head.etag;
    }
    Ok(())
}

pub(super) async fn overwrite(store: Store) -> Verdict {
    let path = name("o/blob")?;
    for seed in 0..3 {
        let stored = put_if(&store, &path, pattern(seed, 0..10 + seed), Condition::Overwrite).await;
        stored.map_err(|error| chain(&error))?;
        expect_bytes(&store, "o/blob", &pattern(seed, 0..10 + seed)).await?;
    }
    Ok(())
}

/// A body that delivers this many bytes and then fails.
fn failing_body(bytes: u64) -> Body {
    let pieces = (0..bytes.div_ceil(MIB)).map(move |n| Ok(pattern(1, n * MIB..bytes.min((n + 1) * MIB))));
    Body::stream(stream::iter(pieces.chain([Err(std::io::Error::other("the client went away"))])))
}

pub(super) async fn failing_bodies(store: Store) -> Verdict {
    for (bytes, declared) in
        [(0, None), (100, Some(200)), (100, None), (3 * MIB, None), (20 * MIB, None), (20 * MIB, Some(30 * MIB))]
    {
        let path = name(&format!("f/{bytes}"))?;
        let options = PutOptions { length: declared, ..PutOptions::default() };
        let result = store.put(&path, failing_body(bytes), options).await;
        expect_error(
            &result,
            |error| matches!(error, Error::Body { .. }),
            &format!("a body that fails after {bytes} bytes"),
        )?;
        expect_absent(&store, path.as_str()).await?;
    }
    Ok(())
}

pub(super) async fn wrong_lengths(store: Store) -> Verdict {
    for (bytes, declared) in
        [(100, 99), (100, 101), (0, 1), (20 * MIB, 20 * MIB - 1), (20 * MIB, 20 * MIB + 1), (9 * MIB, 0)]
    {
        let path = name(&format!("w/{bytes}.{declared}"))?;
        let options = PutOptions { length: Some(declared), ..PutOptions::default() };
        let result = store.put(&path, pattern_stream(1, bytes, MIB), options).await;
        let what = format!("{bytes} bytes declared as {declared}");
        expect_error(&result, |error| matches!(error, Error::LengthMismatch { .. }), &what)?;
        expect_absent(&store, path.as_str()).await?;
    }
    Ok(())
}

pub(super) async fn invisible_before_complete(store: Store) -> Verdict {
    for pieces in [1, 12] {
        let path = format!("v/{pieces}");
        let (mut sender, body) = futures::channel::mpsc::channel::<std::io::Result<Bytes>>(0);
        let (name, options) = (name(&path)?, PutOptions::default());
        let putting = store.put(&name, Body::stream(body), options);
        let watching = async {
            for piece in 0..pieces {
                sender.send(Ok(pattern(1, piece * MIB..(piece + 1) * MIB))).await.map_err(|error| error.to_string())?;
                expect_absent(&store, &path).await?;
            }
            sender.close().await.map_err(|error| error.to_string())
        };
        let (stored, watched) = tokio::join!(putting, watching);
        watched?;
        stored.map_err(|error| chain(&error))?;
        expect_bytes(&store, &path, &pattern(1, 0..pieces * MIB)).await?;
    }
    Ok(())
}

pub(super) async fn dropped_put(store: Store) -> Verdict {
    for megabytes in [0, 1, 12] {
        let path = name(&format!("dropped/{megabytes}"))?;
        let some = stream::iter(0..megabytes).map(|n| Ok::<_, std::io::Error>(pattern(1, n * MIB..(n + 1) * MIB)));
        let endless = Body::stream(some.chain(stream::pending()));
        let putting = store.put(&path, endless, PutOptions::default());
        let ended = tokio::time::timeout(Duration::from_millis(300), putting).await;
        ensure(ended.is_err(), || "a put ended before its body".into())?;
        expect_absent(&store, path.as_str()).await?;
    }
    Ok(())
}

pub(super) async fn deadline(store: Store) -> Verdict {
    let path = name("late/blob")?;
    let options = PutOptions { deadline: Some(Instant::now() + Duration::from_millis(200)), ..PutOptions::default() };
    let endless = Body::stream(stream::pending::<std::io::Result<Bytes>>());
    let started = Instant::now();
    let result = store.put(&path, endless, options).await;
    expect_error(&result, |error| matches!(error, Error::Deadline { .. }), "a body without an end")?;
    ensure(started.elapsed() < Duration::from_secs(5), || format!("it took {:?}", started.elapsed()))?;
    expect_absent(&store, path.as_str()).await
}

pub(super) async fn delete(store: Store) -> Verdict {
    put(&store, "del/a/b/c", pattern(1, 0..10)).await?;
    put(&store, "del/a/d", pattern(1, 0..10)).await?;
    remove(&store, "del/a/b/c").await?;
    expect_absent(&store, "del/a/b/c").await?;
    remove(&store, "del/a/b/c").await?;
    remove(&store, "del/never/was").await?;
    remove(&store, "del/a/d/below").await?;
    expect_bytes(&store, "del/a/d", &pattern(1, 0..10)).await?;
    remove(&store, "del/a").await?;
    expect_bytes(&store, "del/a/d", &pattern(1, 0..10)).await?;
    put(&store, "del/a/b/c", pattern(2, 0..10)).await?;
    expect_bytes(&store, "del/a/b/c", &pattern(2, 0..10)).await
}

pub(super) async fn puts_and_deletes(store: Store) -> Verdict {
    let workers = (0..8).map(|worker| churn(Arc::clone(&store), worker));
    join_all(workers).await.into_iter().collect::<Verdict>()?;
    let left = names_under(&store, "churn/").await?;
    ensure(left.is_empty(), || format!("left over: {left:?}"))
}

/// Puts and deletes where deletes keep emptying the directory under the feet of other puts.
async fn churn(store: Store, worker: u64) -> Verdict {
    for round in 0..12 {
        let path = format!("churn/{}/x/y/{worker}", round % 3);
        put(&store, &path, pattern(worker, 0..64)).await?;
        expect_bytes(&store, &path, &pattern(worker, 0..64)).await?;
        remove(&store, &path).await?;
    }
    Ok(())
}

pub(super) async fn join(store: Store) -> Verdict {
    let lengths = [5 * MIB, 6 * MIB + 1, 0, 100, 200, 2 * MIB];
    let mut sources = Vec::new();
    for (seed, length) in (0..).zip(lengths) {
        let path = format!("j/part {seed}");
        put(&store, &path, pattern_stream(seed, length, MIB)).await?;
        sources.push(JoinSource { path: name(&path)?, length });
    }
    for (target, chosen) in
        [("parts", &[0, 1, 2, 3][..]), ("short", &[3, 0, 4, 3]), ("one", &[4]), ("none", &[]), ("empty", &[2])]
    {
        let target = format!("j/joined {target}");
        let chosen_sources: Vec<JoinSource> = chosen.iter().map(|&at| sources[at].clone()).collect();
        let joined = store.join(&chosen_sources, &name(&target)?, JoinOptions::default()).await;
        let joined = joined.map_err(|error| format!("{target}: {}", chain(&error)))?;
        let pieces: Vec<Bytes> = chosen.iter().map(|&at| pattern(at as u64, 0..lengths[at])).collect();
        let expected: Bytes = pieces.concat().into();
        ensure(joined.length == expected.len() as u64, || format!("{target} has {} bytes", joined.length))?;
        expect_bytes(&store, &target, &expected).await?;
        let again = store.join(&chosen_sources, &name(&target)?, JoinOptions::default()).await;
        expect_error(&again, |error| matches!(error, Error::Exists { .. }), "a join onto a taken name")?;
    }
    expect_bytes(&store, "j/part 3", &pattern(3, 0..100)).await
}

pub(super) async fn join_refuses(store: Store) -> Verdict {
    put(&store, "j/a", pattern_stream(1, 5 * MIB, MIB)).await?;
    put(&store, "j/b", pattern(2, 0..100)).await?;
    let source = |path: &str, length| name(path).map(|path| JoinSource { path, length });
    let (a, b) = (source("j/a", 5 * MIB)?, source("j/b", 100)?);
    let target = name("j/target")?;
    for sources in [[a.clone(), source("j/gone", 5)?], [source("j/gone", 5)?, a.clone()]] {
        let result = store.join(&sources, &target, JoinOptions::default()).await;
        expect_error(&result, |error| matches!(error, Error::NotFound { .. }), "a missing source")?;
    }
    for sources in [[a.clone(), source("j/b", 99)?], [a, source("j/b", 101)?], [b, source("j/a", 5 * MIB - 1)?]] {
        let result = store.join(&sources, &target, JoinOptions::default()).await;
        expect_error(&result, |error| matches!(error, Error::Truncated { .. }), "a source of another length")?;
    }
    expect_absent(&store, "j/target").await
}

pub(super) async fn sweep(store: Store) -> Verdict {
    put(&store, "s/blob", pattern(1, 0..10)).await?;
    let options = SweepOptions { prefix: String::new(), older_than: Duration::from_secs(3600), deadline: None };
    store.sweep_unfinished(options).await.map_err(|error| chain(&error))?;
    expect_bytes(&store, "s/blob", &pattern(1, 0..10)).await?;
    store.probe(super::super::ProbeOptions::default()).await.map(drop).map_err(|error| chain(&error))
}
