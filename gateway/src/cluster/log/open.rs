//! Opening a log: finding its segments, checking that they are whole, replaying their records.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::{Notify, watch};

use super::files::LogFile;
use super::segment::{self, HEADER_BYTES, Header, Link};
use super::state::{Marks, Place, Segment, Spare, State};
use super::wal::{self, Active, SPARE_SUFFIX, Writer, segment_name};
use super::{LogConfig, Shared};
use crate::cluster::codec;
use crate::cluster::error::Error;

/// Smallest size a segment may have.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Replays the log of `config` and prepares its writer.
pub(super) fn open(config: LogConfig) -> Result<(Arc<Shared>, Writer), Error> {
    assert!((SEGMENT_BYTES_MIN..u64::from(u32::MAX)).contains(&config.segment_bytes), "a segment's size is bounded");
    crate::durable_dir::create(&config.dir).map_err(|source| Error::io("create", &config.dir, source))?;
    let (numbers, spares) = list(&config)?;
    let next_spare = spares.last().map_or(0, |(number, _)| number + 1);
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        work: Condvar::new(),
        syncs: AtomicU64::new(0),
        entries_synced: AtomicU64::new(0),
        room_common: AtomicU64::new(0),
        room_reserve: AtomicU64::new(0),
        active_left: AtomicU64::new(0),
        spares: AtomicU64::new(next_spare),
        failure: watch::Sender::new(None),
        writer: Mutex::new(None),
        inline: Mutex::new(None),
        asked: Notify::new(),
        config,
    });
    adopt(&shared, spares)?;
    let replayed = if numbers.is_empty() { create_first(&shared)? } else { replay(&shared, &numbers)? };
    let left = replayed.active.bytes.saturating_sub(replayed.active.end);
    shared.measure(&shared.lock(), left);
    let writer = Writer {
        shared: shared.clone(),
        active: replayed.active,
        link: replayed.link,
        marks: replayed.marks,
        frame: segment::FrameBuilder::default(),
    };
    Ok((shared, writer))
}

struct Replayed {
    active: Active,
    link: Link,
    marks: Marks,
}

type Numbered = Vec<(u64, PathBuf)>;

/// Segments and allocated files, by number. Other names are left alone and reported.
fn list(config: &LogConfig) -> Result<(Vec<u32>, Numbered), Error> {
    let names = config.files.names(&config.dir).map_err(|source| Error::io("list", &config.dir, source))?;
    let (mut segments, mut spares) = (Vec::new(), Vec::new());
    for name in names {
        let segment = name.strip_suffix(".wal").and_then(|number| number.parse().ok());
        let spare = name.strip_suffix(SPARE_SUFFIX).and_then(|number| number.parse().ok());
        match (segment, spare) {
            (Some(number), _) if segment_name(number) == name => segments.push(number),
            (_, Some(number)) => spares.push((number, config.dir.join(name))),
            _ => tracing::warn!(dir = %config.dir.display(), name, "a file in the log's directory is not the log's"),
        }
    }
    segments.sort_unstable();
    spares.sort();
    Ok((segments, spares))
}

/// Uses allocated files of the right size again and removes the others.
fn adopt(shared: &Shared, spares: Numbered) -> Result<(), Error> {
    for (_, path) in spares {
        let file = shared.config.files.open(&path).map_err(|source| Error::io("open", &path, source))?;
        let bytes = file.size().map_err(|source| Error::io("read", &path, source))?;
        let spare = Spare { path, file, bytes };
        let surplus = if bytes == shared.config.segment_bytes { shared.keep(spare) } else { Some(spare) };
        if let Some(surplus) = surplus {
            let removed = shared.config.files.remove(&surplus.path);
            removed.map_err(|source| Error::io("remove", &surplus.path, source))?;
        }
    }
    Ok(())
}

fn create_first(shared: &Shared) -> Result<Replayed, Error> {
    let config = &shared.config;
    let path = config.dir.join(segment_name(1));
    let failed = |source| Error::io("create", &path, source);
    let spare = match shared.lock().spare.take() {
        Some(spare) => spare,
        None => shared.allocate().map_err(failed)?,
    };
    let header = Header { owner: config.owner, number: 1, first: Link::default(), salt: rand::random() };
    spare
        .file
        .write_at(&header.encode(), 0)
        .and_then(|()| spare.file.sync_data())
        .and_then(|()| config.files.rename(&spare.path, &path))
        .and_then(|()| config.files.sync_dir(&config.dir))
        .map_err(failed)?;
    let active = Active {
        number: 1,
        file: spare.file.clone(),
        salt: header.salt,
        bytes: spare.bytes,
        end: HEADER_BYTES as u64,
        fresh: true,
    };
    shared.lock().segments.insert(1, Segment { path, file: spare.file, bytes: spare.bytes, max_index: None });
    Ok(Replayed { active, link: header.first, marks: Marks::default() })
}

fn replay(shared: &Shared, numbers: &[u32]) -> Result<Replayed, Error> {
    let mut state = shared.lock();
    let mut replay = Replay { state: &mut state, marks: Marks::default(), first: true, entries: 0 };
    let mut link: Option<Link> = None;
    let mut active = None;
    for (&number, next) in numbers.iter().zip(numbers.iter().skip(1).map(Some).chain([None])) {
        let read = read_segment(shared, number)?;
        let end = replay.segment(&read, number, link)?;
        if end.torn && next.is_none() {
            let offset = end.end;
            tracing::warn!(path = %read.path.display(), offset, "dropped a torn write at the log's end; it was never acknowledged");
        }
        link = Some(end.next);
        active = Some(Active {
            number,
            file: read.file.clone(),
            salt: read.header.salt,
            bytes: read.bytes.len() as u64,
            end: end.end as u64,
            fresh: end.next.sequence == read.header.first.sequence,
        });
    }
    let path = shared.config.dir.join(segment_name(numbers[numbers.len() - 1]));
    replay.check_first(numbers[0], &path)?;
    tracing::info!(entries = replay.entries, segments = numbers.len(), last = ?replay.marks.last.map(|id| id.index), "log opened");
    let marks = replay.marks;
    state.marks = marks.clone();
    let (active, link) = active.zip(link).expect("there is at least one segment");
    Ok(Replayed { active, link, marks })
}

struct ReadSegment {
    path: PathBuf,
    file: Arc<dyn LogFile>,
    bytes: Vec<u8>,
    header: Header,
}

fn read_segment(shared: &Shared, number: u32) -> Result<ReadSegment, Error> {
    let path = shared.config.dir.join(segment_name(number));
    let failed = |source| Error::io("read", &path, source);
    let file = shared.config.files.open(&path).map_err(failed)?;
    let size = usize::try_from(file.size().map_err(failed)?).unwrap_or(usize::MAX).min(u32::MAX as usize);
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0).map_err(failed)?;
    let header = Header::decode(&bytes, &path)?;
    let wrong = |what: String| Error::LogDamaged { path: path.clone(), offset: 0, what };
    if header.number != u64::from(number) {
        return Err(wrong(format!("the file says it is segment {}", header.number)));
    }
    if header.owner != shared.config.owner {
        return Err(wrong(format!("it belongs to node {} of another cluster or generation", header.owner.node)));
    }
    Ok(ReadSegment { path, file, bytes, header })
}

struct Replay<'a> {
    state: &'a mut State,
    marks: Marks,
    /// The next record is the first of all.
    first: bool,
    entries: u64,
}

impl Replay<'_> {
    fn segment(&mut self, read: &ReadSegment, number: u32, link: Option<Link>) -> Result<segment::Scanned, Error> {
        if let Some(expected) = link.filter(|expected| *expected != read.header.first) {
            let what = format!(
                "it starts at frame {}, but the segment before it ends before frame {}: frames are damaged or a segment is missing",
                read.header.first.sequence, expected.sequence
            );
            return Err(Error::LogDamaged { path: read.path.clone(), offset: 0, what });
        }
        let segment = Segment {
            path: read.path.clone(),
            file: read.file.clone(),
            bytes: read.bytes.len() as u64,
            max_index: None,
        };
        self.state.segments.insert(number, segment);
        segment::scan(&read.bytes, &read.header, &read.path, |kind, payload, range| {
            let place = Place {
                segment: number,
                offset: u32::try_from(range.start).map_err(|_| "beyond 4 GiB")?,
                bytes: u32::try_from(range.len()).map_err(|_| "beyond 4 GiB")?,
            };
            self.record(kind, payload, place)
        })
    }

    fn record(&mut self, kind: u8, payload: &[u8], place: Place) -> Result<(), String> {
        let text = |error: codec::CodecError| error.to_string();
        let first = std::mem::replace(&mut self.first, false);
        match kind {
            wal::ENTRY => self.entry(payload, place)?,
            wal::VOTE => self.marks.vote = Some(codec::vote(payload).map_err(text)?),
            wal::COMMITTED => self.marks.committed = codec::optional_log_id(payload).map_err(text)?.0,
            wal::TRUNCATE => {
                let after = codec::optional_log_id(payload).map_err(text)?.0;
                self.state.truncated(after.as_ref());
                self.marks.truncate(after.as_ref());
            }
            wal::PURGE => {
                let upto = codec::log_id(payload).map_err(text)?;
                self.state.purged(&upto);
                self.marks.purge(upto);
            }
            wal::CHECKPOINT => {
                let marks = wal::marks(payload).map_err(text)?;
                if !first && marks != self.marks {
                    return Err("a checkpoint does not agree with the records before it".into());
                }
                self.marks = marks;
            }
            other => return Err(format!("record kind {other} is not one that this release reads")),
        }
        Ok(())
    }

    fn entry(&mut self, payload: &[u8], place: Place) -> Result<(), String> {
        let id = codec::entry_log_id(payload).map_err(|error| error.to_string())?;
        if let Some(last) = self.marks.last.filter(|last| id.index != last.index + 1) {
            return Err(format!("entry {} does not follow entry {}", id.index, last.index));
        }
        self.marks.last = Some(id);
        self.state.written(&id, place);
        self.entries += 1;
        Ok(())
    }

    /// Everything after the purged entries must be there: the segments before may be gone only if they were purged.
    fn check_first(&self, oldest: u32, newest: &std::path::Path) -> Result<(), Error> {
        // Segments go only after a purge, and the first record after that says so.
        if oldest > 1 && self.marks.purged.is_none() {
            let what = "the segments before it are missing, and nothing was purged".into();
            return Err(Error::LogDamaged { path: newest.to_owned(), offset: 0, what });
        }
        let (Some(first), Some(purged)) = (self.state.first_place(), self.marks.purged) else { return Ok(()) };
        if first == purged.index + 1 {
            return Ok(());
        }
        let what = format!(
            "the log was purged up to entry {} but its first entry is {first}: older segments are missing",
            purged.index
        );
        Err(Error::LogDamaged { path: newest.to_owned(), offset: 0, what })
    }
}
