//! What the journal of an earlier run holds comes to the repository, before anything else is written.
//!
//! Records are taken together to a layer a file. A file that is still what it was, or what an own commit made of it, gets its
//! layer; of one that others have changed since, removed or locked, the layer goes to a conflict copy beside it. Nothing is
//! discarded before all of it is in the repository; what cannot be reached now ends the mount with the journal intact.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::mount::StepOutcome;
use holdfast_core::id::Revision;
use holdfast_core::mount::Node;
use tokio::time::Instant;

use super::Vfs;
use super::content::{RECORD_ASSIGNED, RECORD_REFUSED, RECORD_SIZE, RECORD_WRITE};
use super::ship::conflict_copy;
use crate::attributes::Time;
use crate::client::Error;
use crate::error::{Errno, errno_of_refusal};
use crate::journal::Record;
use crate::layer::Layer;
use crate::tree::{Ino, ROOT, Segment};

/// Bytes that are brought back before they are committed.
const ROUND_BYTES: u64 = 32 << 20;
/// Records that are brought back before they are committed: a conflict copy of one file writes no more places at once.
const ROUND_RECORDS: u64 = 2_000;
/// How long a replay waits for a gateway that does not answer.
const REPLAY_PATIENCE: Duration = Duration::from_secs(120);
/// Pause before it asks again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A change that a record tells.
struct Change<'r> {
    object: u64,
    key: &'r str,
    generation: Revision,
    number: u64,
    data: &'r [u8],
}

impl<'r> Change<'r> {
    fn of(record: &'r Record) -> Option<Self> {
        let payload = &record.payload;
        let length = usize::from(u16::from_be_bytes(payload.get(8..10)?.try_into().ok()?));
        let end = 10 + length;
        Some(Self {
            object: number_at(payload, 0)?,
            key: std::str::from_utf8(payload.get(10..end)?).ok()?,
            generation: number_at(payload, end)?,
            number: number_at(payload, end + 8)?,
            data: payload.get(end + 16..)?,
        })
    }
}

/// What is brought back of a file.
struct Waiting {
    generation: Revision,
    layer: Layer,
    last: u64,
}

impl Vfs {
    /// See the module.
    ///
    /// # Errors
    /// [`Error`] when the repository cannot be reached; the journal keeps everything then.
    pub(super) async fn replay(
        &self,
        records: impl IntoIterator<Item = Result<Record, crate::journal::Error>>,
    ) -> Result<(), Error> {
        let mut waiting = Vec::new();
        let (mut carried, mut refused) = (Vec::new(), BTreeSet::new());
        for record in records {
            let record = record.map_err(|error| unreadable(&error))?;
            let numbers = (number_at(&record.payload, 0), number_at(&record.payload, 8));
            match (record.kind, numbers) {
                (RECORD_ASSIGNED, (Some(number), Some(upto))) => carried.push((number, upto, record.sequence)),
                (RECORD_REFUSED, (Some(number), Some(object))) => drop(refused.insert((number, object))),
                _ => waiting.push(record),
            }
        }
        let applied = self.session.applied();
        // What a commit carried that was applied is there, but for what that did not do.
        let is_there = |sequence: u64, object: u64| {
            let by = |(number, upto, _): &&(u64, u64, u64)| *number <= applied && sequence <= *upto;
            carried.iter().find(by).is_some_and(|(number, ..)| !refused.contains(&(*number, object)))
        };
        let mut files: BTreeMap<(u64, String), Waiting> = BTreeMap::new();
        let (mut count, mut bytes, mut last) = (0_u64, 0, 0);
        let mut round = 0;
        for record in &waiting {
            let Some(change) = Change::of(record) else {
                return Err(Error::Setting { what: format!("record {} of the journal is damaged", record.sequence) });
            };
            if is_there(record.sequence, change.object) {
                continue;
            }
            let fresh = Waiting { generation: change.generation, layer: Layer::default(), last: 0 };
            let file = files.entry((change.object, change.key.to_owned())).or_insert(fresh);
            match record.kind {
                RECORD_WRITE => file.layer.write(change.number, change.data),
                RECORD_SIZE => file.layer.truncate(change.number),
                kind => tracing::warn!(kind, "the journal has a record of a kind that is not known"),
            }
            file.last = record.sequence;
            count += 1;
            bytes += change.data.len() as u64;
            last = record.sequence;
            round += 1;
            if bytes >= ROUND_BYTES || round >= ROUND_RECORDS {
                self.bring_back(std::mem::take(&mut files)).await?;
                (bytes, round) = (0, 0);
            }
        }
        self.bring_back(files).await?;
        if let (Some(journal), true) = (&self.journal, last > 0 || !carried.is_empty()) {
            tracing::warn!(records = count, "brought back what an earlier run of this mount had written");
            let upto = carried.iter().map(|(_, _, sequence)| *sequence).max().unwrap_or(0).max(last);
            journal.discard(upto).map_err(|error| unreadable(&error))?;
        }
        Ok(())
    }

    async fn bring_back(&self, files: BTreeMap<(u64, String), Waiting>) -> Result<(), Error> {
        let mut found = HashMap::new();
        for ((object, key), waiting) in files {
            match self.is_still(&key, object, waiting.generation).await? {
                Ok((ino, generation)) => {
                    self.put_over(ino, generation, waiting.layer);
                    found.insert(ino, key);
                }
                Err(metadata) => self.save_beside(&key, metadata, waiting.layer).await?,
            }
        }
        let flushed = self.flush_all().await;
        for ino in found.into_keys() {
            self.unlock_file(ino).await;
            self.forget(ino, 1);
        }
        flushed.map_err(|errno| Error::Setting {
            what: format!("what the journal holds could not be brought back ({errno}); it is kept there"),
        })
    }

    /// The layer of a file that is still what it was; a commit of it is guarded by that.
    fn put_over(&self, ino: Ino, generation: Revision, layer: Layer) {
        let Ok(file) = self.hold(ino) else { return };
        let mut state = file.state();
        *state.layer(Instant::now(), None) = layer;
        state.guarded = Some(generation);
        state.mtime = Some(Time::now());
    }

    /// The inode and generation of a file that nobody else has changed since, and that is locked for this mount where the
    /// profile demands it; else what is known of its attributes.
    async fn is_still(
        &self,
        key: &str,
        object: u64,
        generation: Revision,
    ) -> Result<Result<(Ino, Revision), BTreeMap<String, String>>, Error> {
        let Some((ino, node)) = self.insist(key).await? else { return Ok(Err(BTreeMap::new())) };
        let own = self.session.last_revision();
        let is_own = Some(node.generation) == own || self.stream.is_own(node.generation);
        let same = node.object.0 == object && (node.generation == generation || is_own);
        if same && self.lock_file(ino).await.is_ok() {
            return Ok(Ok((ino, node.generation)));
        }
        self.forget(ino, 1);
        Ok(Err(node.metadata))
    }

    /// What has a key now; asks until it is told.
    async fn insist(&self, key: &str) -> Result<Option<(Ino, Node)>, Error> {
        let deadline = Instant::now() + REPLAY_PATIENCE;
        loop {
            match self.find_key(key).await {
                Ok(ino) => {
                    let node = self.tree().get(ino).map(|inode| inode.node.clone());
                    return Ok(node.map(|node| (ino, node)));
                }
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) if Instant::now() >= deadline => {
                    let what = format!("cannot look up {key} to bring back what the journal holds ({errno})");
                    return Err(Error::Setting { what });
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// The inode of a key, looked up from the root on; it is known until it is forgotten once.
    async fn find_key(&self, key: &str) -> Result<Ino, Errno> {
        let path = key.strip_prefix(&self.options.prefix).filter(|path| !path.is_empty()).ok_or(Errno::ENOENT)?;
        let (above, last) = Segment::of_path(path);
        let mut parent = ROOT;
        for segment in above.into_iter().chain([last]) {
            let found = self.find_segment(parent, segment).await;
            if parent != ROOT {
                self.forget(parent, 1);
            }
            parent = found?;
        }
        Ok(parent)
    }

    async fn save_beside(&self, key: &str, metadata: BTreeMap<String, String>, layer: Layer) -> Result<(), Error> {
        let asked = async {
            let (name, step, bytes) = conflict_copy(key, metadata, layer)?;
            match self.submit(move |_| Ok((vec![step], bytes))).await?.into_iter().next() {
                Some(StepOutcome::Refused(refusal)) => Err(errno_of_refusal(&refusal)),
                Some(StepOutcome::Node(_) | StepOutcome::Done) => Ok(name),
                None => Err(Errno::EIO),
            }
        };
        match asked.await {
            Ok(name) => {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                tracing::error!(key, copy = %name, "the file is another's by now; what was written to it is in the copy");
                Ok(())
            }
            Err(errno) => Err(Error::Setting {
                what: format!("{key} is another's by now, and no copy could be made ({errno}); the journal keeps it"),
            }),
        }
    }
}

fn unreadable(error: &crate::journal::Error) -> Error {
    Error::Setting { what: format!("the journal cannot be read: {error}") }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
