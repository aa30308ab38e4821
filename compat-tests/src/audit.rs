//! What a client was promised, and whether the server keeps it.
//!
//! An [`Auditor`] belongs to one worker, which owns a prefix of keys and sends one operation at a time. Every acknowledged
//! operation moves the model; an operation without an answer stays **pending**, and the next look at the server decides
//! which of the two allowed outcomes it had: all of it or nothing of it. So at every moment at most one operation per
//! worker is unknown, and everything else must be exactly there:
//!
//! - no acknowledged write is lost, and no deleted object comes back;
//! - none is torn: each body is regenerated from the operation that wrote it and compared byte by byte;
//! - in a versioned bucket every version ever acknowledged is there under its id, in order, and no other;
//! - the listing equals the model.
//!
//! A reply of status 5xx counts as no answer: the server may have committed before it failed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::client::raw::{Raw, Reply, elements, same_bytes};
use crate::fixture;

/// What an object holds: pieces, each written by one operation. A plain write has one, a multipart upload or an append
/// more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub Vec<Piece>);

/// The bytes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The seed of the bytes, unique per run.
    pub seed: u64,
    /// How many.
    pub length: usize,
}

impl Content {
    /// One piece.
    #[must_use]
    pub fn piece(seed: u64, length: usize) -> Self {
        Self(vec![Piece { seed, length }])
    }

    /// This content with `piece` after it.
    #[must_use]
    pub fn with(&self, piece: Piece) -> Self {
        Self(self.0.iter().copied().chain([piece]).collect())
    }

    /// The length of all pieces.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.iter().map(|piece| piece.length).sum()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|piece| fixture::bytes(piece.seed, piece.length)).collect()
    }
}

/// A version or delete marker that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its id; empty when the acknowledgement was lost and the id not yet seen.
    pub id: String,
    /// `None` is a delete marker.
    pub content: Option<Content>,
}

/// A change of one or two keys that is one operation.
#[derive(Clone, Debug)]
pub struct Change {
    /// The keys and what each holds afterwards; `None` is deleted.
    pub writes: Vec<(String, Option<Content>)>,
}

impl Change {
    /// A change of one key.
    #[must_use]
    pub fn one(key: &str, content: Option<Content>) -> Self {
        Self { writes: vec![(key.to_owned(), content)] }
    }
}

/// How many operations had which end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Without an answer, later found done.
    pub unknown_done: u64,
    /// Without an answer, later found not done.
    pub unknown_not_done: u64,
}

impl Tally {
    /// Adds what another run did.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown_done += other.unknown_done;
        self.unknown_not_done += other.unknown_not_done;
    }
}

/// The model of one worker's keys.
#[derive(Debug)]
pub struct Auditor {
    /// The bucket.
    pub bucket: String,
    /// The prefix that only this worker writes.
    pub prefix: String,
    /// Whether the bucket keeps versions.
    pub versioned: bool,
    /// Ends of operations so far.
    pub tally: Tally,
    /// Versions of each key, oldest first; in an unversioned bucket at most one, never a delete marker.
    keys: BTreeMap<String, Vec<Version>>,
    pending: Option<Change>,
}

impl Auditor {
    /// Nothing written yet.
    #[must_use]
    pub fn new(bucket: &str, prefix: &str, versioned: bool) -> Self {
        Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            versioned,
            tally: Tally::default(),
            keys: BTreeMap::new(),
            pending: None,
        }
    }

    /// What `key` holds now.
    #[must_use]
    pub fn current(&self, key: &str) -> Option<&Content> {
        self.keys.get(key)?.last()?.content.as_ref()
    }

    /// The keys that hold something now.
    #[must_use]
    pub fn live(&self) -> Vec<&String> {
        self.keys.keys().filter(|key| self.current(key).is_some()).collect()
    }

    /// A change is about to be sent.
    pub fn begin(&mut self, change: Change) {
        debug_assert!(self.pending.is_none(), "one operation at a time");
        self.pending = Some(change);
    }

    /// The change was acknowledged; `version` is the id that the reply carried, of its last write.
    pub fn acknowledge(&mut self, version: Option<&str>) {
        let Some(change) = self.pending.take() else { return };
        self.tally.acknowledged += 1;
        self.apply(&change, version.unwrap_or_default());
    }

    /// The change was refused, and so did nothing.
    pub fn refused(&mut self) {
        self.pending = None;
    }

    fn apply(&mut self, change: &Change, id: &str) {
        for (key, content) in &change.writes {
            let versions = self.keys.entry(key.clone()).or_default();
            if !self.versioned {
                versions.clear();
                if content.is_none() {
                    continue;
                }
            }
            versions.push(Version { id: id.to_owned(), content: content.clone() });
        }
        self.keys.retain(|_, versions| !versions.is_empty());
    }

    /// Decides a change without an answer by looking at the server.
    ///
    /// # Errors
    /// When what is there is neither the whole change nor nothing of it.
    pub fn resolve(&mut self, raw: &mut Raw) -> Result<()> {
        let Some(change) = self.pending.take() else { return Ok(()) };
        let done = if self.versioned { self.find_version(raw, &change)? } else { self.find_content(raw, &change)? };
        match done {
            Some(id) => {
                self.tally.unknown_done += 1;
                self.apply(&change, &id);
            }
            None => self.tally.unknown_not_done += 1,
        }
        Ok(())
    }

    /// In an unversioned bucket: each key of the change holds either the old or the new content, and all agree.
    fn find_content(&self, raw: &mut Raw, change: &Change) -> Result<Option<String>> {
        let mut outcomes = Vec::new();
        for (key, new) in &change.writes {
            let old = self.current(key);
            if new.as_ref() == old {
                continue;
            }
            let reply = raw.get(&self.bucket, key, &[])?;
            let is_new = holds(&reply, new.as_ref());
            let is_old = holds(&reply, old);
            ensure!(
                is_new || is_old,
                "{key}: torn: neither the content before the unanswered operation nor after it (status {}, {} bytes; \
                 before {:?}, after {new:?})",
                reply.status,
                reply.body.len(),
                old
            );
            outcomes.push(is_new);
        }
        let done = outcomes.first().copied().unwrap_or(true);
        ensure!(outcomes.iter().all(|outcome| *outcome == done), "half of an operation happened: {change:?}");
        Ok(done.then(String::new))
    }

    /// In a versioned bucket: the key of the change has at most one version more than the model, and it is the change.
    fn find_version(&self, raw: &mut Raw, change: &Change) -> Result<Option<String>> {
        let [(key, new)] = change.writes.as_slice() else { bail!("changes of several keys are audited unversioned") };
        let known = self.keys.get(key).map_or(0, Vec::len);
        let there = versions_of(raw, &self.bucket, key)?.remove(key).unwrap_or_default();
        if there.len() == known {
            return Ok(None);
        }
        ensure!(there.len() == known + 1, "{key}: {} versions where {known} were acknowledged", there.len());
        let Listed { id, marker, .. } = there.into_iter().find(|listed| listed.latest).context("no latest version")?;
        ensure!(marker == new.is_none(), "{key}: the unanswered operation left the wrong kind of version");
        if let Some(content) = new {
            let reply = raw.get(&self.bucket, key, &[("versionId", &id)])?.expect(200)?;
            same_bytes(key, &reply.body, &content.bytes()).context("torn version of an unanswered operation")?;
        }
        Ok(Some(id))
    }

    /// Compares one key with the server: the current content, and in a versioned bucket every version.
    ///
    /// # Errors
    /// When an acknowledged write is lost or torn, or something is there that was never written.
    pub fn check_key(&self, raw: &mut Raw, key: &str) -> Result<()> {
        let reply = raw.get(&self.bucket, key, &[])?;
        let current = self.current(key);
        ensure!(
            holds(&reply, current),
            "{key}: status {} with {} bytes where {current:?} was acknowledged ({})",
            reply.status,
            reply.body.len(),
            reply.code()
        );
        if !self.versioned {
            return Ok(());
        }
        let there = versions_of(raw, &self.bucket, key)?.remove(key).unwrap_or_default();
        self.same_versions(key, &there)?;
        for version in self.keys.get(key).into_iter().flatten() {
            if let Some(content) = &version.content {
                let reply = raw.get(&self.bucket, key, &[("versionId", &version.id)])?.expect(200)?;
                same_bytes(key, &reply.body, &content.bytes())?;
            }
        }
        Ok(())
    }

    /// Compares everything this worker wrote with the server: each key and version, the listing, and in a versioned
    /// bucket the listing of versions.
    ///
    /// # Errors
    /// With the first difference.
    pub fn check_all(&self, raw: &mut Raw) -> Result<()> {
        self.check_listing(raw)?;
        for key in self.keys.keys() {
            self.check_key(raw, key)?;
        }
        Ok(())
    }

    /// Compares the listings alone.
    ///
    /// # Errors
    /// With the first difference.
    pub fn check_listing(&self, raw: &mut Raw) -> Result<()> {
        let listed = raw.list(&self.bucket, &self.prefix)?;
        let live: Vec<String> = self.live().into_iter().cloned().collect();
        if listed != live {
            let lost: Vec<_> = live.iter().filter(|key| !listed.contains(key)).collect();
            let extra: Vec<_> = listed.iter().filter(|key| !live.contains(key)).collect();
            bail!("listing of {}: lost {lost:?}, extra {extra:?}, {} listed", self.prefix, listed.len());
        }
        if self.versioned {
            let there = versions_of(raw, &self.bucket, &self.prefix)?;
            ensure!(there.len() == self.keys.len(), "{} keys with versions, not {}", there.len(), self.keys.len());
            for (key, versions) in &there {
                self.same_versions(key, versions)?;
            }
        }
        Ok(())
    }

    fn same_versions(&self, key: &str, there: &[Listed]) -> Result<()> {
        let known = self.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        let last = known.last().map(|version| version.id.as_str());
        for marker in [false, true] {
            let want: Vec<&str> = known
                .iter()
                .filter(|version| version.content.is_none() == marker)
                .map(|version| version.id.as_str())
                .collect();
            let have: Vec<&str> =
                there.iter().filter(|listed| listed.marker == marker).map(|listed| listed.id.as_str()).collect();
            let kind = if marker { "delete markers" } else { "versions" };
            ensure!(have == want, "{key}: {kind} {have:?} where {want:?} were acknowledged");
        }
        let latest: Vec<&str> = there.iter().filter(|listed| listed.latest).map(|listed| listed.id.as_str()).collect();
        ensure!(latest.iter().copied().eq(last), "{key}: the latest is {latest:?}, acknowledged was {last:?}");
        Ok(())
    }
}

/// A version as the listing shows it.
#[derive(Clone, Debug)]
struct Listed {
    id: String,
    marker: bool,
    latest: bool,
}

/// Whether a reply to GET is `content`: whole, or a clean 404 for nothing.
fn holds(reply: &Reply, content: Option<&Content>) -> bool {
    match content {
        None => reply.status == 404 && reply.code() == "NoSuchKey",
        Some(content) => reply.status == 200 && reply.body.len() == content.length() && reply.body == content.bytes(),
    }
}

/// Every version under `prefix`, oldest first among the versions and among the delete markers of a key, page by page. The
/// order between the two kinds is not in the reply: clients read them as two lists.
fn versions_of(raw: &mut Raw, bucket: &str, prefix: &str) -> Result<BTreeMap<String, Vec<Listed>>> {
    let mut found: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    let (mut key_marker, mut version_marker) = (String::new(), String::new());
    loop {
        let mut query = vec![("versions", ""), ("prefix", prefix)];
        if !key_marker.is_empty() {
            query.extend([("key-marker", key_marker.as_str()), ("version-id-marker", version_marker.as_str())]);
        }
        let page = raw.get(bucket, "", &query)?.expect(200)?;
        let text = page.text();
        for (part, marker) in entries(&text) {
            let key = elements(part, "Key").into_iter().next().context("a version without a key")?;
            let id = elements(part, "VersionId").into_iter().next().context("a version without an id")?;
            let latest = elements(part, "IsLatest").first().is_some_and(|text| text == "true");
            found.entry(key).or_default().push(Listed { id, marker, latest });
        }
        if page.element("IsTruncated").as_deref() != Some("true") {
            break;
        }
        key_marker = page.element("NextKeyMarker").context("a truncated page without NextKeyMarker")?;
        version_marker = page.element("NextVersionIdMarker").unwrap_or_default();
    }
    // The API lists newest first.
    found.values_mut().for_each(|versions| versions.reverse());
    Ok(found)
}

/// The `<Version>` and `<DeleteMarker>` elements of a page in document order, with whether each is a marker.
fn entries(xml: &str) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    let mut rest = xml;
    loop {
        let version = rest.find("<Version>");
        let marker = rest.find("<DeleteMarker>");
        let (at, is_marker) = match (version, marker) {
            (Some(version), Some(marker)) if marker < version => (marker, true),
            (Some(version), _) => (version, false),
            (None, Some(marker)) => (marker, true),
            (None, None) => return found,
        };
        let close = if is_marker { "</DeleteMarker>" } else { "</Version>" };
        let Some(end) = rest[at..].find(close) else { return found };
        found.push((&rest[at..at + end], is_marker));
        rest = &rest[at + end..];
    }
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn versions_and_markers_are_read_in_document_order() {
        let xml = "<R><Version><Key>a</Key></Version><DeleteMarker><Key>b</Key></DeleteMarker><Version><Key>c</Key>\
                   </Version></R>";
        let kinds: Vec<bool> = entries(xml).into_iter().map(|(_, marker)| marker).collect();
        assert_eq!(kinds, [false, true, false]);
    }
}
