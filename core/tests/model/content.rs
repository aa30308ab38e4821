//! Bytes that need no memory: runs of endless streams, each named by a seed. Two contents are equal exactly when their
//! bytes are, and 70 MiB cost as much as seven bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use crc_fast::CrcAlgorithm;
use holdfast_core::record::{Checksum, ChecksumAlgorithm, ChecksumType};
use md5::Digest;

/// Bytes `start..start + length` of the stream `seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub seed: u64,
    pub start: u64,
    pub length: u64,
}

/// Runs one after the other; neighbours that continue each other are one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content(Vec<Run>);

impl Content {
    pub fn of(seed: u64, length: u64) -> Self {
        let mut content = Self::default();
        content.push(Run { seed, start: 0, length });
        content
    }

    pub fn len(&self) -> u64 {
        self.0.iter().map(|run| run.length).sum()
    }

    fn push(&mut self, run: Run) {
        if run.length == 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.seed == run.seed && last.start + last.length == run.start => last.length += run.length,
            _ => self.0.push(run),
        }
    }

    pub fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|run| self.push(*run));
    }

    pub fn slice(&self, range: Range<u64>) -> Self {
        let (mut slice, mut at) = (Self::default(), 0);
        for run in &self.0 {
            let (from, to) = (range.start.max(at), range.end.min(at + run.length));
            if from < to {
                slice.push(Run { start: run.start + (from - at), length: to - from, ..*run });
            }
            at += run.length;
        }
        slice
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() as usize);
        for run in &self.0 {
            let end = run.start + run.length;
            let mut at = run.start;
            while at < end {
                let word = mixed(run.seed, at / 8).to_le_bytes();
                let from = (at % 8) as usize;
                let to = 8.min(from + (end - at) as usize);
                bytes.extend_from_slice(&word[from..to]);
                at += (to - from) as u64;
            }
        }
        bytes
    }

    /// MD5 of small contents; of large ones, which nothing here hashes again, one of their description.
    pub fn md5(&self) -> [u8; 16] {
        md5::Md5::digest(self.hashed()).into()
    }

    pub fn sha256(&self) -> [u8; 32] {
        sha2::Sha256::digest(self.hashed()).into()
    }

    fn hashed(&self) -> Vec<u8> {
        if self.len() <= 1 << 16 { self.bytes() } else { format!("{self:?}").into_bytes() }
    }

    pub fn crc64(&self) -> u64 {
        self.crc(CrcAlgorithm::Crc64Nvme)
    }

    fn crc(&self, algorithm: CrcAlgorithm) -> u64 {
        static KNOWN: Mutex<BTreeMap<(&str, Run), u64>> = Mutex::new(BTreeMap::new());
        let mut crc = None;
        for run in &self.0 {
            let of_run = || crc_fast::checksum(algorithm, &Self(vec![*run]).bytes());
            let next = if run.length < 1 << 20 {
                of_run()
            } else {
                *KNOWN.lock().unwrap().entry((name(algorithm), *run)).or_insert_with(of_run)
            };
            crc = Some(match crc {
                None => next,
                Some(crc) => crc_fast::checksum_combine(algorithm, crc, next, run.length),
            });
        }
        crc.unwrap_or_else(|| crc_fast::checksum(algorithm, &[]))
    }

    pub fn checksum(&self, algorithm: ChecksumAlgorithm) -> Checksum {
        let value = match algorithm {
            ChecksumAlgorithm::Crc32 => (self.crc(CrcAlgorithm::Crc32IsoHdlc) as u32).to_be_bytes().to_vec(),
            ChecksumAlgorithm::Crc32c => (self.crc(CrcAlgorithm::Crc32Iscsi) as u32).to_be_bytes().to_vec(),
            ChecksumAlgorithm::Crc64Nvme => self.crc64().to_be_bytes().to_vec(),
            ChecksumAlgorithm::Sha1 => sha1::Sha1::digest(self.hashed()).to_vec(),
            ChecksumAlgorithm::Sha256 => self.sha256().to_vec(),
        };
        Checksum { algorithm, kind: ChecksumType::FullObject, value }
    }
}

fn name(algorithm: CrcAlgorithm) -> &'static str {
    match algorithm {
        CrcAlgorithm::Crc64Nvme => "64",
        CrcAlgorithm::Crc32Iscsi => "32c",
        _ => "32",
    }
}

fn mixed(seed: u64, word: u64) -> u64 {
    let mixed = (seed ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 29
}

#[test]
fn contents_are_equal_when_their_bytes_are() {
    let whole = Content::of(7, 1000);
    let mut again = whole.slice(0..13);
    again.extend(&whole.slice(13..998));
    again.extend(&whole.slice(998..1000));
    assert_eq!(whole, again);
    assert_eq!(whole.bytes()[13..998], whole.slice(13..998).bytes());
    let mut two = Content::of(1, 333);
    two.extend(&Content::of(2, 777));
    assert_eq!(two.crc64(), crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &two.bytes()));
}
