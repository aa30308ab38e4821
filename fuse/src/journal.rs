//! The local write-ahead journal of a mount's write-back.
//!
//! ```text
//! append ──► write(2) into the active segment ──► sync: one fdatasync for all who wait ──► discard: segment deleted
//!            survives kill -9                     survives a power cut
//! ```
//!
//! Promised:
//! - What [`Journal::append`] returned for survives the death of the process, what [`Journal::sync`] returned for survives
//!   that of the machine, as far as the disk keeps its word. Replay gives whole records, in order, without a gap.
//! - Room for records is allocated before they are accepted: "no space" comes from `append`, never from `sync`. (File
//!   systems that copy on write may still break this.)
//! - A failed `fdatasync` is final. Its pages may be marked clean although they never reached the disk, so a second try
//!   would lie: each later append and sync fails with [`Error::Poisoned`].
//! - One mount per directory, and one client id per directory for as long as it exists.
//!
//! Torn or damaged: a segment is begun only when all before it are durable, so only the newest one may end in the middle of
//! a record. Every frame says up to which sequence the journal was durable when it was written. If a bad record is at or
//! below what any later frame or mark claims, it was durable once and is lost: [`Error::Damaged`]. Otherwise power failed
//! before its sync (pages reach the disk in any order, so good records may follow a bad one): it and what follows are cut
//! off, see [`Journal::torn`]. A flipped bit in the very last durable record cannot be told from a torn tail.
//!
//! A discard is written, but synced only when it frees a segment: it survives `kill -9`, and after a power cut discarded
//! records may come again.
//!
//! Disk use: pending records, up to two segments of which a part is in use, and [`SPARES_MAX`] segments kept for reuse.
//! Memory: 4 bytes for each pending record, at most [`PENDING_RECORDS_MAX`] of them.
//!
//! Deliberately absent: what records mean, threads, retries. The format is in `segment`.

mod directory;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use recover::Recovered;
pub use recover::{Replay, Torn};
use segment::{Frame, HEADER_BYTES, Header, Mark};

/// Payload bytes of one record at most.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Bytes of a segment at least: its header and one small record.
pub const SEGMENT_BYTES_MIN: u64 = 2 * HEADER_BYTES;
/// Records that are pending at most, whatever their size; more are [`Error::Full`].
pub const PENDING_RECORDS_MAX: usize = 16 << 20;
/// Discarded segments that are kept for reuse at most. Their blocks are allocated and written once already, so a sync of a
/// reused segment changes no metadata of the file system.
pub const SPARES_MAX: usize = 2;

/// What goes wrong in the journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another mount uses the directory.
    #[error("journal directory {} is in use by another mount", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Nothing is wrong with the disk, but more may not be pending: wait for a discard.
    #[error("journal is full: {bytes} bytes are pending and {wanted} more would pass the limit of {bytes_max}")]
    Full {
        /// Bytes pending now.
        bytes: u64,
        /// Bytes of the refused record with its frame.
        wanted: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The payload passes [`RECORD_BYTES_MAX`]: it can never be appended.
    #[error("journal record of {bytes} bytes is larger than {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// The limits contradict themselves.
    #[error(
        "journal limits: segments of {segment_bytes} bytes, of at least {SEGMENT_BYTES_MIN}, do not fit {bytes_max}"
    )]
    Limits {
        /// As given.
        segment_bytes: u64,
        /// As given.
        bytes_max: u64,
    },
    /// The system refused. [`Error::is_disk_full`] tells a full disk.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
    /// The file belongs to a different client than the directory.
    #[error("{} belongs to another client", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a format that this program does not know.
    #[error("{} has format version {version}, which this program does not know", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// A sync failed earlier: nothing can be promised any more.
    #[error("journal is unusable since a sync failed: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// There is no record with this sequence yet.
    #[error("journal sequence {sequence} was never appended, the last is {last}")]
    NotAppended {
        /// As asked.
        sequence: u64,
        /// Sequence of the last record.
        last: u64,
    },
}

impl Error {
    /// Whether the disk, or the user's quota, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, Self::Io { source, .. } if full(source.kind()))
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Result of the journal.
pub type Result<T> = std::result::Result<T, Error>;

/// Bounds of a journal.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of pending records with their frames at most.
    pub bytes_max: u64,
    /// Bytes of a segment, at least [`SEGMENT_BYTES_MIN`]. A larger record gets a segment of its own.
    pub segment_bytes: u64,
}

/// What was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Starts at 1 and rises by one, also across restarts. It may skip after a power cut that took discarded records.
    pub sequence: u64,
    /// Its writer's.
    pub kind: u8,
    /// Its writer's.
    pub payload: Vec<u8>,
}

/// An open journal. All calls block; any thread may make them.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    client: [u8; 16],
    limits: Limits,
    torn: Option<Torn>,
    /// Taken before `writer`, for as long as segments are being given up.
    reclaim: Mutex<()>,
    /// Taken before `durable`.
    writer: Mutex<Writer>,
    durable: Mutex<Durable>,
    synced: Condvar,
    /// Holds the lock of the directory until it is dropped.
    _lock: directory::Lock,
}

#[derive(Debug)]
struct Writer {
    active: Option<Active>,
    /// Oldest first; none of them is written to but for its mark.
    sealed: VecDeque<Sealed>,
    spares: Vec<PathBuf>,
    /// Sequence of the next record.
    next: u64,
    /// Frame bytes of the pending records: the first is that of `discarded + 1`.
    pending: VecDeque<u32>,
    pending_bytes: u64,
    discarded: u64,
}

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    path: PathBuf,
    salt: u64,
    first: u64,
    /// Checksum of the last frame, or of the header.
    chain: u32,
    offset: u64,
    size: u64,
}

#[derive(Debug)]
struct Sealed {
    path: PathBuf,
    salt: u64,
    first: u64,
    /// `first - 1` when there is no record in it.
    last: u64,
    /// Segments from before the last start are cut to their records and may still be read by a [`Replay`].
    reusable: bool,
}

#[derive(Debug, Default)]
struct Durable {
    upto: u64,
    running: bool,
    poison: Option<String>,
    /// How many times the disk was asked, for tests.
    syncs: u64,
}

impl Journal {
    /// Opens the journal in `dir`, which is created if missing, and gives what is pending in it, oldest first.
    ///
    /// The whole journal is read and checked here; the records are read again, one by one, as the iterator is driven.
    /// Appending, syncing and discarding may start before it is exhausted; what is discarded meanwhile may be left out.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Limits`], [`Error::Damaged`], [`Error::Foreign`], [`Error::Version`], [`Error::Io`].
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Replay)> {
        if limits.segment_bytes < SEGMENT_BYTES_MIN || limits.segment_bytes > limits.bytes_max {
            return Err(Error::Limits { segment_bytes: limits.segment_bytes, bytes_max: limits.bytes_max });
        }
        let lock = directory::lock(dir)?;
        let client = directory::client(dir)?;
        let Recovered { sealed, last, discarded, pending, torn } = recover::recover(dir, &client)?;
        let replay = Replay::new(&sealed, client, discarded, last);
        let next = last.max(discarded) + 1;
        let writer = Writer {
            active: None,
            sealed,
            spares: Vec::new(),
            next,
            pending_bytes: pending.iter().map(|&bytes| u64::from(bytes)).sum(),
            pending,
            discarded,
        };
        let journal = Self {
            dir: dir.to_owned(),
            client,
            limits,
            torn,
            reclaim: Mutex::new(()),
            writer: Mutex::new(writer),
            durable: Mutex::new(Durable { upto: next - 1, ..Durable::default() }),
            synced: Condvar::new(),
            _lock: lock,
        };
        Ok((journal, replay))
    }

    /// The random id that was given to this directory when it was first opened.
    #[must_use]
    pub fn client(&self) -> [u8; 16] {
        self.client
    }

    /// Leases of locks that the client's last life did not give back.
    #[must_use]
    pub fn leases(&self) -> Vec<u64> {
        directory::leases(&self.dir)
    }

    /// Remembers the leases of locks that are held now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep_leases(&self, leases: &[u64]) -> Result<()> {
        directory::keep_leases(&self.dir, leases)
    }

    /// What was cut off the end when the journal was opened.
    #[must_use]
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Bytes of the records that are not discarded, with their frames.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.writer).pending_bytes
    }

    /// Sequence of the last record, 0 when there never was one.
    #[must_use]
    pub fn last(&self) -> u64 {
        lock(&self.writer).next - 1
    }

    /// Adds a record whose payload is the concatenation of `parts` and gives its sequence. It is with the system now: it
    /// survives the process, and the machine only after [`Journal::sync`].
    ///
    /// Beginning a segment waits for the sync of the one before.
    ///
    /// # Errors
    /// [`Error::Full`] until something is discarded; [`Error::Io`] with [`Error::is_disk_full`] when there is no room for
    /// another segment; other [`Error::Io`]; [`Error::TooLarge`]; [`Error::Poisoned`]. Nothing is appended then.
    pub fn append(&self, kind: u8, parts: &[&[u8]]) -> Result<u64> {
        self.write(kind, parts, self.limits.bytes_max, PENDING_RECORDS_MAX)
    }

    /// As [`Journal::append`], also when it is full: for the few short records without which nothing could be discarded.
    ///
    /// # Errors
    /// As [`Journal::append`], but for [`Error::Full`].
    pub fn append_mark(&self, kind: u8, parts: &[&[u8]]) -> Result<u64> {
        self.write(kind, parts, u64::MAX, usize::MAX)
    }

    /// Whether so much is pending that it is time to discard.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        let writer = lock(&self.writer);
        writer.pending_bytes >= self.limits.bytes_max / 2 || writer.pending.len() >= PENDING_RECORDS_MAX / 2
    }

    fn write(&self, kind: u8, parts: &[&[u8]], bytes_max: u64, records_max: usize) -> Result<u64> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if bytes > RECORD_BYTES_MAX {
            return Err(Error::TooLarge { bytes });
        }
        let payload_crc = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let frame_bytes = segment::frame_bytes(bytes as u64);

        let mut writer = lock(&self.writer);
        let durable = self.usable(&lock(&self.durable))?;
        if writer.pending_bytes.saturating_add(frame_bytes) > bytes_max || writer.pending.len() >= records_max {
            return Err(Error::Full { bytes: writer.pending_bytes, wanted: frame_bytes, bytes_max });
        }
        if writer.active.as_ref().is_none_or(|active| active.offset + frame_bytes > active.size) {
            self.rotate(&mut writer, frame_bytes)?;
        }
        let sequence = writer.next;
        let active = writer.active.as_mut().expect("a rotation that succeeds leaves an active segment");
        let frame = Frame {
            kind,
            length: bytes as u32,
            sequence,
            salt: active.salt,
            durable,
            previous: active.chain,
            payload_crc,
        };
        // After a failure the next record is written over the torn one.
        active.chain = segment::write_record(&active.file, active.offset, &frame, parts)
            .map_err(Error::io("write", &active.path))?;
        active.offset += frame_bytes;
        writer.next += 1;
        writer.pending.push_back(frame_bytes as u32);
        writer.pending_bytes += frame_bytes;
        Ok(sequence)
    }

    /// Returns when every record up to `sequence` is durable. Whoever comes while a sync runs shares the next one.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when this or an earlier sync failed, [`Error::NotAppended`].
    pub fn sync(&self, sequence: u64) -> Result<()> {
        let last = self.last();
        if sequence > last {
            return Err(Error::NotAppended { sequence, last });
        }
        let mut durable = lock(&self.durable);
        loop {
            // In this order: what was durable before a failure still is.
            if durable.upto >= sequence {
                return Ok(());
            }
            self.usable(&durable)?;
            if durable.running {
                durable = self.synced.wait(durable).expect("no holder of the mutex panics");
                continue;
            }
            durable.running = true;
            drop(durable);
            let (upto, active) = {
                let writer = lock(&self.writer);
                let active = writer.active.as_ref().map(|active| (Arc::clone(&active.file), active.path.clone()));
                (writer.next - 1, active)
            };
            // All segments but the active one are durable.
            let outcome = active.map_or(Ok(()), |(file, path)| file.sync_data().map_err(|error| (path, error)));
            durable = lock(&self.durable);
            durable.running = false;
            durable.note(upto, outcome);
            self.synced.notify_all();
        }
    }

    /// Gives up the records up to `upto`, or all there are if it is larger. Their segments are deleted or reused once all
    /// records in them are given up. May be lost in a power cut: see the module.
    ///
    /// # Errors
    /// [`Error::Io`]: the records are given up nevertheless, but may come again at the next start, or their segments stay
    /// until then.
    pub fn discard(&self, upto: u64) -> Result<()> {
        let _reclaim = lock(&self.reclaim);
        let mut writer = lock(&self.writer);
        let upto = upto.min(writer.next - 1);
        if upto <= writer.discarded {
            return Ok(());
        }
        for _ in writer.discarded..upto {
            let bytes = writer.pending.pop_front().expect("each sequence above the discarded ones is pending");
            writer.pending_bytes -= u64::from(bytes);
        }
        writer.discarded = upto;
        let marked = self.mark(&writer);
        let mut victims = if marked.is_ok() { writer.take_victims() } else { VecDeque::new() };
        let newest = writer.newest().filter(|_| !victims.is_empty());
        drop(writer);
        // The mark is durable before the segments are gone: one that is missing at a start was not discarded.
        let reclaimed = match newest {
            Some(path) => self.sync_file(&path).and_then(|()| self.give_up(&mut victims)),
            None => Ok(()),
        };
        // Those that could not be given up are tried again with the next discard.
        let mut writer = lock(&self.writer);
        while let Some(victim) = victims.pop_back() {
            writer.sealed.push_front(victim);
        }
        marked.and(reclaimed)
    }

    /// Deletes segments or keeps them for reuse, oldest first and each durably before the next, so that no crash leaves a
    /// gap between two segments.
    fn give_up(&self, victims: &mut VecDeque<Sealed>) -> Result<()> {
        while let Some(victim) = victims.front() {
            let path = &victim.path;
            if victim.reusable && lock(&self.writer).spares.len() < SPARES_MAX {
                let spare = self.dir.join(segment::spare_name(victim.first));
                std::fs::rename(path, &spare).map_err(Error::io("rename", path))?;
                lock(&self.writer).spares.push(spare);
            } else {
                std::fs::remove_file(path).map_err(Error::io("delete", path))?;
            }
            victims.pop_front();
            directory::sync(&self.dir)?;
        }
        Ok(())
    }

    /// Makes the active segment durable and begins another one with room for `frame_bytes`.
    fn rotate(&self, writer: &mut Writer, frame_bytes: u64) -> Result<()> {
        if let Some(active) = &writer.active {
            let outcome = active.file.sync_data().map_err(|error| (active.path.clone(), error));
            let mut durable = lock(&self.durable);
            durable.note(writer.next - 1, outcome);
            self.synced.notify_all();
            self.usable(&durable)?;
        }
        let (first, salt) = (writer.next, rand::random::<u64>());
        let header = Header { client: self.client, first, salt };
        let mark = Mark { salt, discarded: writer.discarded, durable: first - 1 };
        let size = self.limits.segment_bytes.max(HEADER_BYTES + frame_bytes);
        let path = self.dir.join(segment::name(first));
        let spare = if size == self.limits.segment_bytes { writer.spares.pop() } else { None };
        let file = match &spare {
            Some(spare) => segment::reuse(spare, &header, &mark).and_then(|file| {
                std::fs::rename(spare, &path)?;
                Ok(file)
            }),
            None => segment::create(&self.dir, &path, size, &header, &mark),
        };
        let file = file.map_err(Error::io("create", &path))?;
        if let Err(error) = File::open(&self.dir).and_then(|dir| dir.sync_all()) {
            // Its name is there, so no record may follow in the segment before.
            let mut durable = lock(&self.durable);
            durable.note(0, Err((self.dir.clone(), error)));
            return self.usable(&durable).map(drop);
        }
        if writer.sealed.back().is_some_and(|newest| newest.first == first) {
            // It had no record, and was replaced.
            writer.sealed.pop_back();
        }
        let chain = header.checksum();
        let active = Active { file: Arc::new(file), path, salt, first, chain, offset: HEADER_BYTES, size };
        if let Some(old) = writer.active.replace(active) {
            let reusable = old.size == self.limits.segment_bytes;
            let Active { path, salt, first: old_first, .. } = old;
            writer.sealed.push_back(Sealed { path, salt, first: old_first, last: first - 1, reusable });
        }
        Ok(())
    }

    /// Writes what is discarded and durable into the newest segment.
    fn mark(&self, writer: &Writer) -> Result<()> {
        let durable = lock(&self.durable).upto;
        let mark = |salt| Mark { salt, discarded: writer.discarded, durable };
        match (&writer.active, writer.sealed.back()) {
            (Some(active), _) => {
                segment::write_mark(&active.file, &mark(active.salt)).map_err(Error::io("mark", &active.path))
            }
            (None, Some(newest)) => OpenOptions::new()
                .write(true)
                .open(&newest.path)
                .and_then(|file| segment::write_mark(&file, &mark(newest.salt)))
                .map_err(Error::io("mark", &newest.path)),
            (None, None) => Ok(()),
        }
    }

    /// Makes a segment durable, whatever is in it.
    fn sync_file(&self, path: &Path) -> Result<()> {
        let outcome = File::open(path).and_then(|file| file.sync_data()).map_err(|error| (path.to_owned(), error));
        let mut durable = lock(&self.durable);
        durable.note(0, outcome);
        self.usable(&durable).map(drop)
    }

    /// Up to where the journal is durable, if it is usable at all.
    fn usable(&self, durable: &Durable) -> Result<u64> {
        match &durable.poison {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(durable.upto),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Only sharpens the detection of damage at the next start; the marks that count were written by `discard`.
        if let Ok(writer) = self.writer.lock() {
            let _ = self.mark(&writer);
        }
    }
}

impl Writer {
    /// Takes out the oldest segments without a pending record. The newest segment stays: it carries the mark and the
    /// sequence.
    fn take_victims(&mut self) -> VecDeque<Sealed> {
        let kept = usize::from(self.active.is_none());
        let mut victims = VecDeque::new();
        while self.sealed.len() > kept && self.sealed.front().is_some_and(|oldest| oldest.last <= self.discarded) {
            victims.extend(self.sealed.pop_front());
        }
        victims
    }

    fn newest(&self) -> Option<PathBuf> {
        self.active.as_ref().map(|active| &active.path).or(self.sealed.back().map(|sealed| &sealed.path)).cloned()
    }
}

impl Durable {
    fn note(&mut self, upto: u64, outcome: std::result::Result<(), (PathBuf, io::Error)>) {
        self.syncs += 1;
        match outcome {
            Err((path, error)) => {
                let reason = format!("{}: {error}", path.display());
                tracing::error!(reason, "sync of the journal failed: it takes no more writes");
                self.poison.get_or_insert(reason);
            }
            Ok(()) if self.poison.is_none() => self.upto = self.upto.max(upto),
            // The failure of another sync may have been that of these very pages.
            Ok(()) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the mutex panics")
}
