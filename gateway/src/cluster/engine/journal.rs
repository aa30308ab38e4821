//! The end of a journal that a power cut tore.
//!
//! A disk writes the pages of an unsynced file in any order, so after a cut the journal's end may hold a batch whose
//! middle is missing. fjall (3.1.13) discards a batch without its end, yet refuses the whole database over one whose
//! bytes do not match its checksum. Here such an end is cut off: nothing in it was synced, and the log replays it. A
//! journal is synced before the next one is begun, so only the newest can be torn; damage in an older one stays an error.
//!
//! A journal is a sequence of batches, all integers little-endian:
//!
//! | part | bytes |
//! | --- | --- |
//! | start | `1`, u32 number of items, u64 sequence number |
//! | item | `2`, u8 kind, u8 compression, u64 keyspace, u16 key length, u32 value length, u32 stored length, key, value |
//! | clear | `4`, u64 keyspace |
//! | end | `3`, u64 xxh3 of all items and clears, `FJL\3` |

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const EXTENSION: &str = "jnl";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// What was cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) journal: PathBuf,
    /// Bytes of whole batches, which stay.
    pub(super) kept: u64,
    /// Bytes after them up to the last that is not zero.
    pub(super) dropped: u64,
}

/// Cuts the newest journal in `dir` after its last whole batch; `None` when nothing but zeros follows it.
pub(super) fn cut_torn_end(dir: &Path) -> io::Result<Option<Torn>> {
    let Some(journal) = newest(dir)? else { return Ok(None) };
    let bytes = std::fs::read(&journal)?;
    let kept = whole_batches(&bytes);
    let dropped = bytes[kept..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if dropped == 0 {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(kept as u64)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Some(Torn { journal, kept: kept as u64, dropped: dropped as u64 }))
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// The length of the batches at the beginning of `bytes` that are whole.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut kept = 0;
    while batch(&mut rest).is_some() {
        kept = bytes.len() - rest.len();
    }
    kept
}

fn batch(rest: &mut &[u8]) -> Option<()> {
    let [START] = take(rest)? else { return None };
    let items = u32::from_le_bytes(take(rest)?);
    let _sequence: [u8; 8] = take(rest)?;
    let mut hash = Xxh3::new();
    for _ in 0..items {
        let before = *rest;
        item(rest)?;
        hash.update(&before[..before.len() - rest.len()]);
    }
    let [END] = take(rest)? else { return None };
    let whole = u64::from_le_bytes(take(rest)?) == hash.digest() && take(rest)? == *TRAILER.first_chunk::<4>()?;
    whole.then_some(())
}

fn item(rest: &mut &[u8]) -> Option<()> {
    match take(rest)? {
        [CLEAR] => take::<8>(rest).map(|_| ()),
        [ITEM] => {
            let _kind_compression_keyspace: [u8; 10] = take(rest)?;
            let key = usize::from(u16::from_le_bytes(take(rest)?));
            let _length: [u8; 4] = take(rest)?;
            let stored = u32::from_le_bytes(take(rest)?) as usize;
            *rest = rest.get(key + stored..)?;
            Some(())
        }
        _ => None,
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}
