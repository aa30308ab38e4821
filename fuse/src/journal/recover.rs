//! What a start finds: the check of all segments, the cut of a torn tail, and reading the records again.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::segment::{self, Reader};
use super::{Error, Record, Result, Sealed, directory};

/// A journal as found, with its tail cut and durable.
pub(super) struct Recovered {
    pub(super) sealed: VecDeque<Sealed>,
    /// Sequence of the last record that is there.
    pub(super) last: u64,
    pub(super) discarded: u64,
    /// Frame bytes of the records above `discarded`.
    pub(super) pending: VecDeque<u32>,
    pub(super) torn: Option<Torn>,
}

/// The end of a journal that did not reach the disk: records that were appended but never synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where it was cut, in bytes.
    pub offset: u64,
    /// Records whose beginning was still there. More may have been lost without a trace.
    pub records: u64,
}

/// Checks the segments in `dir`, drops those that are discarded, and cuts the last one to its records.
pub(super) fn recover(dir: &Path, client: &[u8; 16]) -> Result<Recovered> {
    segment::remove_leftovers(dir)?;
    let mut readers = open(dir, client)?;
    let marks = || readers.iter().filter_map(Reader::mark);
    let discarded = marks().map(|mark| mark.discarded).max().unwrap_or(0);
    let durable = marks().map(|mark| mark.durable).max().unwrap_or(0);
    drop_discarded(dir, &mut readers, discarded)?;

    if let Some(oldest) = readers.front().filter(|oldest| oldest.header().first - 1 > discarded) {
        return Err(damaged(oldest, "an older segment is missing whose records were not discarded"));
    }
    let firsts = readers.iter().map(|reader| reader.header().first).collect::<Vec<_>>();
    let mut found = Recovered { sealed: VecDeque::new(), last: 0, discarded, pending: VecDeque::new(), torn: None };
    for (position, mut reader) in readers.into_iter().enumerate() {
        let first = firsts[position];
        found.last = scan(&mut reader, first - 1, discarded, &mut found.pending)?;
        match firsts.get(position + 1) {
            Some(&following) if found.last + 1 == following => {}
            Some(_) => return Err(damaged(&reader, "a record is missing or damaged, and later ones are there")),
            None => found.torn = finish(&reader, found.last.max(discarded), durable)?,
        }
        let path = reader.path().to_owned();
        let salt = reader.header().salt;
        found.sealed.push_back(Sealed { path, salt, first, last: found.last, reusable: false });
    }
    directory::sync(dir)?;
    Ok(found)
}

fn open(dir: &Path, client: &[u8; 16]) -> Result<VecDeque<Reader>> {
    let mut readers = VecDeque::new();
    for (first, path) in segment::list(dir)? {
        let Some(reader) = Reader::open(&path, client)? else { continue };
        if reader.header().first != first || first == 0 {
            return Err(damaged(&reader, "the header belongs to another name"));
        }
        readers.push_back(reader);
    }
    Ok(readers)
}

/// Deletes the oldest segments as long as all their records are discarded, but never the newest segment.
fn drop_discarded(dir: &Path, readers: &mut VecDeque<Reader>, discarded: u64) -> Result<()> {
    while readers.get(1).is_some_and(|following| following.header().first - 1 <= discarded) {
        if let Some(oldest) = readers.pop_front() {
            std::fs::remove_file(oldest.path()).map_err(Error::io("delete", oldest.path()))?;
            directory::sync(dir)?;
        }
    }
    Ok(())
}

/// Reads all records and gives the sequence of the last one, or `last` if there is none.
fn scan(reader: &mut Reader, mut last: u64, discarded: u64, pending: &mut VecDeque<u32>) -> Result<u64> {
    let mut payload = Vec::new();
    while let Some(frame) = reader.next(&mut payload)? {
        last = frame.sequence;
        if last > discarded {
            pending.push_back(segment::frame_bytes(u64::from(frame.length)) as u32);
        }
    }
    Ok(last)
}

/// Cuts the newest segment behind its last record, if nothing above `last` was ever durable, and makes it durable.
fn finish(reader: &Reader, last: u64, durable: u64) -> Result<Option<Torn>> {
    let beyond = reader.beyond()?;
    if durable.max(beyond.durable) > last {
        return Err(damaged(reader, "a record that was durable is missing or damaged"));
    }
    let path = reader.path();
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| {
            if reader.offset() < reader.size() {
                file.set_len(reader.offset())?;
            }
            file.sync_all()
        })
        .map_err(Error::io("cut", path))?;
    if beyond.frames == 0 {
        return Ok(None);
    }
    let torn = Torn { path: path.to_owned(), offset: reader.offset(), records: beyond.frames };
    tracing::warn!(
        path = %path.display(),
        offset = torn.offset,
        records = torn.records,
        "the journal ends in records that never reached the disk whole: they were not synced, and are cut off"
    );
    Ok(Some(torn))
}

fn damaged(reader: &Reader, what: &'static str) -> Error {
    Error::Damaged { path: reader.path().to_owned(), offset: reader.offset(), what }
}

/// The records that were pending at the start, oldest first. Holds one record and one open file at a time.
#[derive(Debug)]
pub struct Replay {
    segments: VecDeque<(PathBuf, u64)>,
    reader: Option<(Reader, u64)>,
    client: [u8; 16],
    discarded: u64,
}

impl Replay {
    pub(super) fn new(sealed: &VecDeque<Sealed>, client: [u8; 16], discarded: u64, last: u64) -> Self {
        let pending = sealed.iter().filter(|segment| segment.last > discarded && segment.last >= segment.first);
        let segments = pending.map(|segment| (segment.path.clone(), segment.last.min(last))).collect();
        Self { segments, reader: None, client, discarded }
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        loop {
            let Some((reader, last)) = &mut self.reader else {
                let Some((path, last)) = self.segments.pop_front() else { return Ok(None) };
                // No such file: all that was in it was discarded since the start.
                self.reader = Reader::open(&path, &self.client)?.map(|reader| (reader, last));
                continue;
            };
            let mut payload = Vec::new();
            let Some(frame) = reader.next(&mut payload)? else {
                return Err(damaged(reader, "a record that was there at the start is gone"));
            };
            if frame.sequence >= *last {
                self.reader = None;
            }
            if frame.sequence > self.discarded {
                return Ok(Some(Record { sequence: frame.sequence, kind: frame.kind, payload }));
            }
        }
    }
}

impl Iterator for Replay {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.advance();
        if step.is_err() {
            self.reader = None;
            self.segments.clear();
        }
        step.transpose()
    }
}
