//! The format of a segment, and writing and reading one. All integers are little endian.
//!
//! ```text
//! journal-<first sequence, 16 hex digits>.log
//!      0  header  magic 8 | version u32 | 0 u32 | client 16 | first u64 | salt u64 | crc u32
//!    512  mark    salt u64 | discarded u64 | durable u64 | crc u32        rewritten in place, not synced
//!   4096  records, each at a multiple of 8:
//!           magic u32 | length u32 | sequence u64 | salt u64 | durable u64 | previous u32 | payload crc u32
//!           | kind u8 | 0 (3 bytes) | crc u32 of the 44 bytes before | payload | 0 up to a multiple of 8
//! ```
//!
//! The salt is random for each segment, and `previous` is the checksum of the frame before (of the header, for the first):
//! bytes of an earlier life of the file, or behind a cut, never continue the chain. The mark has a sector of its own, so
//! that a torn write of it does not harm the header; one that does not check out counts as none.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, IoSlice, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Error, RECORD_BYTES_MAX, Result};

/// Bytes before the first record.
pub(super) const HEADER_BYTES: u64 = 4096;

const MAGIC: [u8; 8] = *b"HFJOURNL";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 52;
const MARK_OFFSET: u64 = 512;
const MARK_LEN: usize = 28;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HfJr");
const FRAME_LEN: usize = 48;
const ALIGNMENT: u64 = 8;
/// Slices that one `pwritev` takes at most (`IOV_MAX`).
const SLICES_MAX: usize = 1024;
const READ_BUFFER_BYTES: usize = 256 << 10;
const TEMPORARY: &str = "segment.tmp";
const SPARE_PREFIX: &str = "spare-";

/// Identity of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) client: [u8; 16],
    pub(super) first: u64,
    pub(super) salt: u64,
}

/// What is discarded, and what was durable when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) salt: u64,
    pub(super) discarded: u64,
    pub(super) durable: u64,
}

/// What precedes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) length: u32,
    pub(super) sequence: u64,
    pub(super) salt: u64,
    /// Up to here the journal was durable when this was written.
    pub(super) durable: u64,
    pub(super) previous: u32,
    pub(super) payload_crc: u32,
}

/// Name of the segment whose first record has this sequence.
pub(super) fn name(first: u64) -> String {
    format!("journal-{first:016x}.log")
}

/// Name of a segment that waits for reuse.
pub(super) fn spare_name(first: u64) -> String {
    format!("{SPARE_PREFIX}{first:016x}.log")
}

/// Bytes that a record takes in a segment.
pub(super) fn frame_bytes(payload_bytes: u64) -> u64 {
    (FRAME_LEN as u64 + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// First sequences and paths of the segments, oldest first.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else { continue };
        let digits = text.strip_prefix("journal-").and_then(|rest| rest.strip_suffix(".log"));
        let first = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let Some(first) = first.filter(|&first| name(first) == text) {
            found.push((first, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Deletes what an earlier process left half done or kept for reuse.
pub(super) fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name == TEMPORARY || name.starts_with(SPARE_PREFIX)) {
            std::fs::remove_file(entry.path()).map_err(Error::io("delete", &entry.path()))?;
        }
    }
    Ok(())
}

/// Makes a segment of `size` allocated bytes, durable but for its name, in the place of any at `path`.
pub(super) fn create(dir: &Path, path: &Path, size: u64, header: &Header, mark: &Mark) -> io::Result<File> {
    let temporary = dir.join(TEMPORARY);
    let made = (|| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        allocate(dir, &file, size)?;
        write_header(&file, header, mark)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(file)
    })();
    if made.is_err() {
        // It may hold the last blocks of a full disk.
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

/// Gives a used segment a new identity, durably.
pub(super) fn reuse(spare: &Path, header: &Header, mark: &Mark) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(spare)?;
    write_header(&file, header, mark)?;
    file.sync_all()?;
    Ok(file)
}

fn allocate(dir: &Path, file: &File, bytes: u64) -> io::Result<()> {
    // Some file systems allocate all they have before they refuse: everyone else would see a full disk meanwhile.
    let stat = rustix::fs::statvfs(dir)?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < bytes {
        return Err(Errno::NOSPC.into());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, bytes),
        other => other.map_err(io::Error::from),
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; READ_BUFFER_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let piece = (bytes - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..piece as usize], offset)?;
        offset += piece;
    }
    Ok(())
}

fn write_header(file: &File, header: &Header, mark: &Mark) -> io::Result<()> {
    let mut page = vec![0; HEADER_BYTES as usize];
    page[..HEADER_LEN].copy_from_slice(&header.encode());
    page[MARK_OFFSET as usize..][..MARK_LEN].copy_from_slice(&mark.encode());
    file.write_all_at(&page, 0)
}

/// Replaces the mark, without a sync.
pub(super) fn write_mark(file: &File, mark: &Mark) -> io::Result<()> {
    file.write_all_at(&mark.encode(), MARK_OFFSET)
}

/// Writes a record, without a sync, and gives the checksum that the next one continues.
pub(super) fn write_record(file: &File, offset: u64, frame: &Frame, parts: &[&[u8]]) -> io::Result<u32> {
    let (head, checksum) = frame.encode();
    let bytes = frame_bytes(u64::from(frame.length));
    let padding = [0; ALIGNMENT as usize];
    let padding = &padding[..(bytes - FRAME_LEN as u64 - u64::from(frame.length)) as usize];
    let mut slices = Vec::with_capacity(parts.len() + 2);
    slices.push(IoSlice::new(&head));
    slices.extend(parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
    if !padding.is_empty() {
        slices.push(IoSlice::new(padding));
    }
    let mut left = slices.as_mut_slice();
    let mut at = offset;
    while !left.is_empty() {
        let count = left.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &left[..count], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(checksum)
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.client);
        bytes[32..40].copy_from_slice(&self.first.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.salt.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// What the first record continues.
    pub(super) fn checksum(&self) -> u32 {
        u32_at(&self.encode(), HEADER_LEN - 4)
    }

    fn decode(path: &Path, bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let damaged = |what| Error::Damaged { path: path.to_owned(), offset: 0, what };
        if bytes[..8] != MAGIC {
            return Err(damaged("not the header of a segment"));
        }
        if !is_sealed(bytes) {
            return Err(damaged("the checksum of the header is wrong"));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(Error::Version { path: path.to_owned(), version });
        }
        let mut client = [0; 16];
        client.copy_from_slice(&bytes[16..32]);
        Ok(Self { client, first: u64_at(bytes, 32), salt: u64_at(bytes, 40) })
    }
}

impl Mark {
    fn encode(&self) -> [u8; MARK_LEN] {
        let mut bytes = [0; MARK_LEN];
        bytes[..8].copy_from_slice(&self.salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.discarded.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.durable.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8; MARK_LEN], salt: u64) -> Option<Self> {
        let mark = Self { salt: u64_at(bytes, 0), discarded: u64_at(bytes, 8), durable: u64_at(bytes, 16) };
        (is_sealed(bytes) && mark.salt == salt).then_some(mark)
    }
}

impl Frame {
    fn encode(&self) -> ([u8; FRAME_LEN], u32) {
        let mut bytes = [0; FRAME_LEN];
        bytes[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[40] = self.kind;
        seal(&mut bytes);
        (bytes, u32_at(&bytes, FRAME_LEN - 4))
    }

    /// The frame and its checksum, if these bytes are one.
    fn decode(bytes: &[u8; FRAME_LEN]) -> Option<(Self, u32)> {
        if u32_at(bytes, 0) != FRAME_MAGIC || !is_sealed(bytes) {
            return None;
        }
        let frame = Self {
            kind: bytes[40],
            length: u32_at(bytes, 4),
            sequence: u64_at(bytes, 8),
            salt: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            previous: u32_at(bytes, 32),
            payload_crc: u32_at(bytes, 36),
        };
        (frame.length as usize <= RECORD_BYTES_MAX).then_some((frame, u32_at(bytes, FRAME_LEN - 4)))
    }
}

/// Reads a segment from its first record on.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    size: u64,
    offset: u64,
    header: Header,
    mark: Option<Mark>,
    sequence: u64,
    chain: u32,
}

/// What lies behind the first record that cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beyond {
    /// Frames of this segment that follow.
    pub(super) frames: u64,
    /// The most that any of them says was durable.
    pub(super) durable: u64,
}

impl Reader {
    /// Opens a segment of this client; `None` when there is no such file.
    pub(super) fn open(path: &Path, client: &[u8; 16]) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", path))?,
        };
        let size = file.metadata().map_err(Error::io("open", path))?.len();
        if size < HEADER_BYTES {
            return Err(Error::Damaged { path: path.to_owned(), offset: 0, what: "shorter than a header" });
        }
        let (mut head, mut mark) = ([0; HEADER_LEN], [0; MARK_LEN]);
        file.read_exact_at(&mut head, 0).map_err(Error::io("read", path))?;
        file.read_exact_at(&mut mark, MARK_OFFSET).map_err(Error::io("read", path))?;
        let header = Header::decode(path, &head)?;
        if header.client != *client {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        let mut file = BufReader::with_capacity(READ_BUFFER_BYTES, file);
        file.seek(SeekFrom::Start(HEADER_BYTES)).map_err(Error::io("read", path))?;
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            size,
            offset: HEADER_BYTES,
            header,
            mark: Mark::decode(&mark, header.salt),
            sequence: header.first,
            chain: header.checksum(),
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the next record with its payload into `payload`. `None` when there is none that continues the chain; then
    /// the reader is of no more use but for [`Reader::beyond`].
    pub(super) fn next(&mut self, payload: &mut Vec<u8>) -> Result<Option<Frame>> {
        if self.offset + FRAME_LEN as u64 > self.size {
            return Ok(None);
        }
        let mut bytes = [0; FRAME_LEN];
        self.file.read_exact(&mut bytes).map_err(Error::io("read", &self.path))?;
        let Some((frame, checksum)) = Frame::decode(&bytes) else { return Ok(None) };
        let chained = (frame.salt, frame.sequence, frame.previous) == (self.header.salt, self.sequence, self.chain);
        let end = self.offset + frame_bytes(u64::from(frame.length));
        if !chained || end > self.size {
            return Ok(None);
        }
        payload.resize(frame.length as usize, 0);
        self.file.read_exact(payload).map_err(Error::io("read", &self.path))?;
        if crc32c::crc32c(payload) != frame.payload_crc {
            return Ok(None);
        }
        let padding = end - self.offset - FRAME_LEN as u64 - u64::from(frame.length);
        self.file.seek_relative(padding as i64).map_err(Error::io("read", &self.path))?;
        self.offset = end;
        self.sequence += 1;
        self.chain = checksum;
        Ok(Some(frame))
    }

    /// Looks for frames of this segment at or behind where [`Reader::next`] stopped, of sequences not read yet.
    pub(super) fn beyond(&self) -> Result<Beyond> {
        let mut beyond = Beyond::default();
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut at = self.offset;
        while at + FRAME_LEN as u64 <= self.size {
            let length = (self.size - at).min(buffer.len() as u64) as usize;
            let window = &mut buffer[..length];
            self.file.get_ref().read_exact_at(window, at).map_err(Error::io("read", &self.path))?;
            let starts = (length - FRAME_LEN) / ALIGNMENT as usize + 1;
            for start in (0..starts).map(|position| position * ALIGNMENT as usize) {
                let Some(bytes) = window[start..].first_chunk::<FRAME_LEN>() else { break };
                if let Some((frame, _)) = Frame::decode(bytes)
                    && frame.salt == self.header.salt
                    && frame.sequence >= self.sequence
                {
                    beyond.frames += 1;
                    beyond.durable = beyond.durable.max(frame.durable);
                }
            }
            at += starts as u64 * ALIGNMENT;
        }
        Ok(beyond)
    }
}

/// Ends the bytes with the checksum of those before.
fn seal(bytes: &mut [u8]) {
    let (body, tail) = bytes.split_at_mut(bytes.len() - 4);
    tail.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let (body, _) = bytes.split_at(bytes.len() - 4);
    crc32c::crc32c(body) == u32_at(bytes, body.len())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
