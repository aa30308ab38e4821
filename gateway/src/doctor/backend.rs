//! Checks of a backend: small groups of calls that run side by side, each group on names of its own.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use tokio::time::Instant;

use super::{Finding, Report, Verdict};
use crate::backend::{
    Backend, Condition, DeleteOptions, Error, GetOptions, HeadOptions, JoinOptions, JoinSource, ListOptions,
    ObjectPath, ProbeOptions, PutOptions, chain,
};

/// Longest time for all checks together.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for removing what the checks put.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(20);
/// A difference of clocks that somebody should know of.
const SKEW_WARN: Duration = Duration::from_secs(30);
/// A difference of clocks that is not accepted: ages and signatures become unreliable.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Creators that race for one name.
const RACERS: usize = 8;

/// Why a check did not find what it should.
enum Trouble {
    /// The store broke a promise.
    Broken(String),
    /// A call failed.
    Failed(&'static str, Error),
}

type Outcome<T> = Result<T, Trouble>;

/// Checks whether a backend is consistent enough to carry a repository, and cleans up after itself.
pub async fn check_backend(backend: &dyn Backend) -> Report {
    let started = Instant::now();
    let checks = Checks::new(backend, started + CHECK_TIMEOUT);
    let mut findings = match checks.reachable().await {
        Ok(text) => vec![found("reachable", Ok(text))],
        Err(trouble) => {
            let findings = vec![found("reachable", Err(trouble))];
            return Report { subject: backend.name().to_owned(), findings, took: started.elapsed() };
        }
    };
    let groups = tokio::join!(checks.plain(), checks.race(), checks.replace(), checks.parts());
    findings.extend(groups.0);
    findings.extend([groups.1, groups.2].into_iter().chain(groups.3));
    findings.push(found("delete", checks.clean_up().await));
    Report { subject: backend.name().to_owned(), findings, took: started.elapsed() }
}

fn found(check: &'static str, outcome: Outcome<String>) -> Finding {
    let (verdict, text) = match outcome {
        Ok(text) => (Verdict::Ok, text),
        Err(Trouble::Broken(text)) => (Verdict::Fail, text),
        Err(Trouble::Failed(what, error)) if error.is_no_space() => (
            Verdict::Warn,
            format!("{what} was not possible because the backend is full; reads and deletes still work"),
        ),
        Err(Trouble::Failed(what, error)) => (Verdict::Fail, format!("{what} failed: {}", chain(&error))),
    };
    Finding { check, verdict, text }
}

fn failed(what: &'static str) -> impl Fn(Error) -> Trouble {
    move |error| Trouble::Failed(what, error)
}

fn broken<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Broken(text.into()))
}

struct Checks<'a> {
    backend: &'a dyn Backend,
    /// `metadata/.doctor/<random>`.
    base: String,
    deadline: Instant,
}

impl<'a> Checks<'a> {
    fn new(backend: &'a dyn Backend, deadline: Instant) -> Self {
        Checks { backend, base: format!("metadata/.doctor/{:016x}", rand::random::<u64>()), deadline }
    }

    fn path(&self, name: &str) -> ObjectPath {
        ObjectPath::new(format!("{}/{name}", self.base))
            .expect("a fixed name under a hexadecimal one follows the rules")
    }

    async fn put(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<crate::backend::Stored, Error> {
        let options = PutOptions { condition, deadline: Some(self.deadline), ..PutOptions::default() };
        self.backend.put(path, bytes.into(), options).await
    }

    async fn read(&self, path: &ObjectPath, range: Option<std::ops::Range<u64>>) -> Result<Bytes, Error> {
        let fetched = self.backend.get(path, GetOptions { range, deadline: Some(self.deadline) }).await?;
        let pieces: Vec<Bytes> = fetched.stream.try_collect().await?;
        Ok(pieces.concat().into())
    }

    async fn names(&self) -> Result<Vec<ObjectPath>, Error> {
        let options = ListOptions { deadline: Some(self.deadline), ..ListOptions::under(format!("{}/", self.base)) };
        Ok(self.backend.list(options).await?.entries.into_iter().map(|entry| entry.path).collect())
    }

    async fn reachable(&self) -> Outcome<String> {
        let probe = self
            .backend
            .probe(ProbeOptions { deadline: Some(self.deadline) })
            .await
            .map_err(failed("a first request"))?;
        Ok(format!("answers in {} ms", probe.took.as_millis()))
    }

    /// What one small blob shows. Later findings need the blob, so the first failed put ends the group.
    async fn plain(&self) -> Vec<Finding> {
        let path = self.path("plain");
        let bytes = Bytes::from_static(b"written by holdfast doctor; safe to delete");
        let before = SystemTime::now();
        if let Err(error) = self.put(&path, bytes.clone(), Condition::IfAbsent).await {
            return vec![found("read-after-write", Err(Trouble::Failed("a put", error)))];
        }
        let after = SystemTime::now();
        // In this order: the first read and listing are the ones right after the write.
        let read = self.read_after_write(&path, &bytes).await;
        let listed = self.list_after_write(&path).await;
        let (refused, ranges, clock) =
            tokio::join!(self.create_only(&path, &bytes), self.ranges(&path, &bytes), self.clock(&path, before, after));
        let clock = clock.unwrap_or_else(|trouble| found("clock", Err(trouble)));
        vec![
            found("read-after-write", read),
            found("list-after-write", listed),
            found("create-only", refused),
            found("ranges", ranges),
            clock,
        ]
    }

    async fn read_after_write(&self, path: &ObjectPath, bytes: &Bytes) -> Outcome<String> {
        match self.read(path, None).await {
            Ok(read) if read == bytes => Ok("a blob is read back right after its put".into()),
            Ok(_) => broken("other bytes are read than were put"),
            Err(Error::NotFound { .. }) => {
                broken("a blob is not found right after its put: the store is not consistent")
            }
            Err(error) => Err(Trouble::Failed("reading a blob right after its put", error)),
        }
    }

    async fn list_after_write(&self, path: &ObjectPath) -> Outcome<String> {
        let names = self.names().await.map_err(failed("listing"))?;
        match names.contains(path) {
            true => Ok("a blob is listed right after its put".into()),
            false => broken("a blob is not listed right after its put: listings of the store are not consistent"),
        }
    }

    async fn create_only(&self, path: &ObjectPath, bytes: &Bytes) -> Outcome<String> {
        let other = Bytes::from_static(b"must never be stored");
        match self.put(path, other, Condition::IfAbsent).await {
            Err(Error::Exists { .. }) => {}
            Ok(_) => return broken("a second create-only put succeeded: the store ignores If-None-Match"),
            Err(error) => return Err(Trouble::Failed("a second create-only put", error)),
        }
        match self.read(path, None).await.map_err(failed("reading"))? == bytes {
            true => Ok("a put onto a taken name is refused".into()),
            false => broken("a put onto a taken name was refused and still changed the blob"),
        }
    }

    async fn ranges(&self, path: &ObjectPath, bytes: &Bytes) -> Outcome<String> {
        let length = bytes.len() as u64;
        for range in [0..1, 3..11, length - 1..length] {
            let read = self.read(path, Some(range.clone())).await.map_err(failed("reading a range"))?;
            // The blob is a sentence long.
            if read != bytes.slice(range.start as usize..range.end as usize) {
                return broken(format!("bytes {range:?} of a blob are not what was asked for"));
            }
        }
        Ok("ranges deliver exactly their bytes".into())
    }

    async fn clock(&self, path: &ObjectPath, before: SystemTime, after: SystemTime) -> Outcome<Finding> {
        let options = HeadOptions { deadline: Some(self.deadline) };
        let head = self.backend.head(path, options).await.map_err(failed("looking up a blob"))?;
        let skew = skew(head.last_modified, before, after);
        let (verdict, text) = match skew {
            close if close < SKEW_WARN => (Verdict::Ok, "the clocks agree".to_owned()),
            far if far <= SKEW_MAX => {
                (Verdict::Warn, format!("the clocks differ by {} s; synchronise them", far.as_secs()))
            }
            far => {
                (Verdict::Fail, format!("the clocks differ by {} s, more than {} s", far.as_secs(), SKEW_MAX.as_secs()))
            }
        };
        Ok(Finding { check: "clock", verdict, text })
    }

    async fn race(&self) -> Finding {
        let path = self.path("race");
        let racers = (0..RACERS).map(|racer| self.put(&path, format!("racer {racer}").into(), Condition::IfAbsent));
        let (mut winners, mut trouble) = (Vec::new(), None);
        for (racer, result) in join_all(racers).await.into_iter().enumerate() {
            match result {
                Ok(_) => winners.push(racer),
                // A store may tell losers to try later instead of deciding at once.
                Err(Error::Exists { .. } | Error::Busy { .. }) => {}
                Err(error) => trouble = Some(error),
            }
        }
        let outcome = match (&winners[..], trouble) {
            (_, Some(error)) => Err(Trouble::Failed("a create-only put in a race", error)),
            (&[winner], None) => self.race_won(&path, winner).await,
            (winners, None) => {
                broken(format!("of {RACERS} racing creators {} won: create-only is not atomic", winners.len()))
            }
        };
        found("racing-creators", outcome)
    }

    async fn race_won(&self, path: &ObjectPath, winner: usize) -> Outcome<String> {
        let read = self.read(path, None).await.map_err(failed("reading"))?;
        match read == format!("racer {winner}").as_bytes() {
            true => Ok(format!("of {RACERS} racing creators exactly one won")),
            false => broken("the blob of a race is not the winner's"),
        }
    }

    async fn replace(&self) -> Finding {
        found("conditional-put", self.replaced().await)
    }

    async fn replaced(&self) -> Outcome<String> {
        let path = self.path("replace");
        let put =
            async |text: &'static str, condition| self.put(&path, Bytes::from_static(text.as_bytes()), condition).await;
        let first = put("first", Condition::IfAbsent).await.map_err(failed("a put"))?;
        let second = put("second", Condition::IfMatch(first.etag.clone())).await;
        second.map_err(failed("a put that names the current version"))?;
        if self.read(&path, None).await.map_err(failed("reading"))? != "second" {
            return broken("an old version is read right after it was replaced: the store is not consistent");
        }
        match put("stale", Condition::IfMatch(first.etag)).await {
            Err(Error::Changed { .. }) => Ok("a version is replaced only by a put that names it".into()),
            Ok(_) => broken("a put that names an old version succeeded: the store ignores If-Match"),
            Err(error) => Err(Trouble::Failed("a put that names an old version", error)),
        }
    }

    async fn parts(&self) -> Vec<Finding> {
        let put = found("multipart", self.put_in_parts().await);
        if put.verdict != Verdict::Ok {
            return vec![put];
        }
        vec![put, found("join", self.joined().await)]
    }

    async fn put_in_parts(&self) -> Outcome<String> {
        let path = self.path("parts");
        let options = PutOptions { in_parts: true, deadline: Some(self.deadline), ..PutOptions::default() };
        let bytes = Bytes::from_static(b"one part");
        self.backend.put(&path, bytes.clone().into(), options).await.map_err(failed("an upload in parts"))?;
        match self.read(&path, None).await.map_err(failed("reading an upload in parts"))? == bytes {
            true => Ok("an upload in parts is one blob".into()),
            false => broken("an upload in parts reads back as other bytes"),
        }
    }

    async fn joined(&self) -> Outcome<String> {
        let (source, target) = (JoinSource { path: self.path("parts"), length: 8 }, self.path("joined"));
        let options = JoinOptions { deadline: Some(self.deadline), ..JoinOptions::default() };
        self.backend.join(&[source], &target, options).await.map_err(failed("copying inside of the store"))?;
        match self.read(&target, None).await.map_err(failed("reading a copy"))? == "one part" {
            true => Ok("blobs are copied inside of the store".into()),
            false => broken("a copy inside of the store reads back as other bytes"),
        }
    }

    /// Removes everything, which is the last check. Has a time of its own, so that it also follows a timeout.
    async fn clean_up(&self) -> Outcome<String> {
        let deadline = Some(self.deadline.max(Instant::now()) + CLEANUP_TIMEOUT);
        let paths = ["plain", "race", "replace", "parts", "joined"].map(|name| self.path(name));
        let deletes = paths.iter().map(|path| self.backend.delete(path, DeleteOptions { deadline }));
        for result in join_all(deletes).await {
            result.map_err(failed("a delete"))?;
        }
        let heads = paths.iter().map(|path| self.backend.head(path, HeadOptions { deadline }));
        for (path, head) in paths.iter().zip(join_all(heads).await) {
            match head {
                Err(Error::NotFound { .. }) => {}
                Ok(_) => return broken(format!("{path} is found right after its delete: the store is not consistent")),
                Err(error) => return Err(Trouble::Failed("looking for a deleted blob", error)),
            }
        }
        let options = ListOptions { deadline, ..ListOptions::under(format!("{}/", self.base)) };
        let listed = self.backend.list(options).await.map_err(failed("listing"))?;
        match listed.entries.first() {
            None => Ok("a deleted blob is neither found nor listed".into()),
            Some(entry) => {
                broken(format!("{} is listed right after its delete: listings are not consistent", entry.path))
            }
        }
    }
}

/// How far the store's time of a put lies outside of the put, allowing for stores that tell whole seconds.
fn skew(stored: SystemTime, before: SystemTime, after: SystemTime) -> Duration {
    const SECOND: Duration = Duration::from_secs(1);
    let early = before.duration_since(stored).unwrap_or_default().saturating_sub(SECOND);
    let late = stored.duration_since(after).unwrap_or_default();
    early.max(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_allows_for_whole_seconds() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        for (stored, expected_ms) in [(5000, 0), (5900, 0), (4999, 0), (4000, 500), (7000, 1000), (0, 4500)] {
            let skew = skew(at(stored), at(5500), at(6000));
            assert_eq!(skew, Duration::from_millis(expected_ms), "{stored}");
        }
    }
}
