//! What was written to a file and is not in the repository yet: a layer over its content.
//!
//! A layer says, in this order: make the file `cut` bytes long, write `runs`, and it ends at `end` or later. So any mix of
//! writes and truncations becomes one patch, and what another client did to the file below shows where this one did nothing. A file has at most two: the one that a commit carries, and the one that is filled
//! meanwhile. A layer is plain memory; who fills it bounds it by [`Layer::bytes`] and [`Layer::runs`].

use std::collections::BTreeMap;

/// Runs are kept in pieces of at most so many bytes, so that no write copies more than its own bytes and one piece.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Writes and truncations of a file, in the order of their effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// What is below is made so long first.
    cut: Option<u64>,
    /// Bytes by offset: never empty, never overlapping, at most [`PIECE_BYTES_MAX`] each.
    runs: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
    /// Past the last byte that was written or made room for.
    end: u64,
}

/// A contiguous range of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Layer {
    /// Bytes of the file with this layer, of one of `below` bytes.
    #[must_use]
    pub fn size(&self, below: u64) -> u64 {
        if self.cut.is_some() { self.end } else { below.max(self.end) }
    }

    /// Past the last byte that it writes or makes room for.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What the file below is made to first.
    #[must_use]
    pub fn cut(&self) -> Option<u64> {
        self.cut
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces that it holds: at least as many as it has runs.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.runs.len()
    }

    /// Writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        self.end = self.end.max(end);
        if let Some((start, piece)) = self.runs.range_mut(..=offset).next_back() {
            let at = (offset - start) as usize;
            if at + data.len() <= piece.len() {
                piece[at..at + data.len()].copy_from_slice(data);
                return;
            }
        }
        self.clear(offset, end);
        self.bytes += data.len() as u64;
        let mut offset = offset;
        let mut rest = data;
        if let Some((start, piece)) = self.runs.range_mut(..offset).next_back()
            && start + piece.len() as u64 == offset
        {
            let fits = rest.len().min(PIECE_BYTES_MAX.saturating_sub(piece.len()));
            piece.extend_from_slice(&rest[..fits]);
            offset += fits as u64;
            rest = &rest[fits..];
        }
        for piece in rest.chunks(PIECE_BYTES_MAX) {
            self.runs.insert(offset, piece.to_vec());
            offset += piece.len() as u64;
        }
    }

    /// Makes the file so long, whatever it is now.
    pub fn truncate(&mut self, size: u64) {
        self.clear(size, u64::MAX);
        self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
        self.end = size;
    }

    /// Drops what it holds from `start` to `end`, exclusive.
    fn clear(&mut self, start: u64, end: u64) {
        if let Some((&first, piece)) = self.runs.range_mut(..start).next_back()
            && first + piece.len() as u64 > start
        {
            let tail = piece.split_off((start - first) as usize);
            self.bytes -= tail.len() as u64;
            if start + tail.len() as u64 > end {
                self.keep_from(start, tail, end);
            }
        }
        while let Some((&first, _)) = self.runs.range(start..end).next() {
            let Some(piece) = self.runs.remove(&first) else { break };
            self.bytes -= piece.len() as u64;
            if first + piece.len() as u64 > end {
                self.keep_from(first, piece, end);
            }
        }
    }

    /// Keeps what of a piece that begins at `first` is at and after `end`.
    fn keep_from(&mut self, first: u64, mut piece: Vec<u8>, end: u64) {
        let rest = piece.split_off((end - first) as usize);
        self.bytes += rest.len() as u64;
        self.runs.insert(end, rest);
    }

    /// Puts what it says over `buffer`, the bytes of the file below from `offset` on, zeros past its end.
    pub fn lay_over(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        if let Some(cut) = self.cut.filter(|cut| *cut < end) {
            let from = cut.saturating_sub(offset) as usize;
            buffer[from..].fill(0);
        }
        let first = self.runs.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (&start, piece) in self.runs.range(first..end) {
            let piece_end = start + piece.len() as u64;
            if piece_end <= offset {
                continue;
            }
            let from = start.max(offset);
            let to = piece_end.min(end);
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&piece[(from - start) as usize..(to - start) as usize]);
        }
    }

    /// Whether it says all bytes from `offset` to `end`, so that those below need not be read. `below` is the size below.
    #[must_use]
    pub fn covers(&self, offset: u64, end: u64, below: u64) -> bool {
        let below = self.cut.map_or(below, |cut| cut.min(below));
        let end = end.min(below);
        let mut at = offset;
        while at < end {
            let Some((start, piece)) = self.runs.range(..=at).next_back() else { return false };
            let to = start + piece.len() as u64;
            if to <= at {
                return false;
            }
            at = to;
        }
        true
    }

    /// Its contiguous ranges, in order.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (&offset, piece) in &self.runs {
            let length = piece.len() as u64;
            match runs.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => runs.push(Run { offset, length }),
            }
        }
        runs
    }

    /// The bytes of one of its runs.
    pub fn data_of(&self, run: &Run) -> impl Iterator<Item = &[u8]> {
        self.runs.range(run.offset..run.offset + run.length).map(|(_, piece)| piece.as_slice())
    }

    /// Its bytes, run by run.
    pub fn data(&self) -> impl Iterator<Item = (u64, &[u8])> + Clone {
        self.runs.iter().map(|(offset, piece)| (*offset, piece.as_slice()))
    }

    /// Keeps its first `pieces` pieces, and gives the rest as a layer over it.
    pub fn split_off(&mut self, pieces: usize) -> Option<Self> {
        let (&from, _) = self.runs.iter().nth(pieces)?;
        let runs = self.runs.split_off(&from);
        let bytes = runs.values().map(|piece| piece.len() as u64).sum();
        self.bytes -= bytes;
        let (end, first) = (self.end, self.runs.last_key_value().map_or(0, |(at, piece)| at + piece.len() as u64));
        self.end = first.max(self.cut.unwrap_or(0));
        Some(Self { cut: None, runs, bytes, end })
    }

    /// Puts `later` on top of it: what a failed commit gives back goes below what was written since.
    #[must_use]
    pub fn below(mut self, later: &Self) -> Self {
        if let Some(cut) = later.cut {
            self.truncate(cut);
        }
        for (offset, piece) in later.data() {
            self.write(offset, piece);
        }
        self.end = self.end.max(later.end);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Write(u64, Vec<u8>),
        Truncate(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0u64..200, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(at, data)| Act::Write(at, data)),
            1 => (0u64..250).prop_map(Act::Truncate),
        ]
    }

    fn play(layer: &mut Layer, model: &mut Vec<u8>, acts: &[Act]) {
        for act in acts {
            match act {
                Act::Write(at, data) if !data.is_empty() => {
                    layer.write(*at, data);
                    let end = *at as usize + data.len();
                    model.resize(model.len().max(end), 0);
                    model[*at as usize..end].copy_from_slice(data);
                }
                Act::Write(..) => {}
                Act::Truncate(size) => {
                    layer.truncate(*size);
                    model.resize(*size as usize, 0);
                }
            }
        }
    }

    fn shown(layers: &[&Layer], base: &[u8], offset: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = base.get(offset as usize + at).copied().unwrap_or(0);
        }
        for layer in layers {
            layer.lay_over(offset, &mut buffer);
        }
        buffer
    }

    proptest! {
        #[test]
        fn two_layers_over_a_file_read_as_the_file(
            base in prop::collection::vec(any::<u8>(), 0..150),
            first in prop::collection::vec(act(), 0..12),
            second in prop::collection::vec(act(), 0..12),
            at in 0u64..200,
            length in 0usize..150,
        ) {
            let mut model = base.clone();
            let below = base.len() as u64;
            let mut lower = Layer::default();
            play(&mut lower, &mut model, &first);
            prop_assert_eq!(lower.size(below), model.len() as u64);
            let mut upper = Layer::default();
            play(&mut upper, &mut model, &second);
            prop_assert_eq!(upper.size(lower.size(below)), model.len() as u64);
            prop_assert_eq!(upper.bytes(), upper.data().map(|(_, piece)| piece.len() as u64).sum::<u64>());
            let wanted: Vec<u8> = (0..length).map(|n| model.get(at as usize + n).copied().unwrap_or(0)).collect();
            prop_assert_eq!(&shown(&[&lower, &upper], &base, at, length), &wanted);
            let joined = lower.clone().below(&upper);
            prop_assert_eq!(joined.size(below), model.len() as u64);
            prop_assert_eq!(&shown(&[&joined], &base, at, length), &wanted);
            if joined.covers(at, at + length as u64, base.len() as u64) {
                prop_assert_eq!(&shown(&[&joined], &vec![0xaa; base.len()], at, length), &wanted);
            }
        }
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let mut layer = Layer::default();
        for at in 0..600 {
            layer.write(at * 4096, &[1; 4096]);
        }
        layer.write(1 << 30, &[2]);
        assert_eq!(layer.runs().len(), 2);
        assert!(layer.pieces() < 5, "{} pieces", layer.pieces());
        assert_eq!(layer.size(0), (1 << 30) + 1);
    }
}
