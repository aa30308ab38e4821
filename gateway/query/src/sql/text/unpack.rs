//! Bytes out of compressed ones, as they come.

use std::io::Write;

use bytes::{Buf as _, Bytes};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// How the bytes of an object are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Bzip2,
    Zstd,
}

/// Bytes that one step unpacks to at most, about: a few compressed ones may be very many.
const UNPACKED_BYTES: usize = 1 << 20;
/// Compressed bytes that are unpacked at once: they bound what a step of GZIP, which is not cut off, can blow up to.
const PACKED_BYTES: usize = 16 << 10;
/// Room that one step of a decoder gets.
const STEP_BYTES: usize = 64 << 10;

pub(crate) enum Unpack {
    None,
    Gzip(Box<flate2::write::MultiGzDecoder<Vec<u8>>>),
    Bzip2 { stream: bzip2::Decompress, inside: bool },
    Zstd { stream: Decoder<'static>, inside: bool },
}

impl Unpack {
    pub(crate) fn new(compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Vec::new()))),
            Compression::Bzip2 => Self::Bzip2 { stream: bzip2::Decompress::new(false), inside: false },
            Compression::Zstd => Self::Zstd { stream: Decoder::new()?, inside: false },
        })
    }

    /// Appends what the next bytes hold, and takes those off that are done. True when there is more in it, which comes with
    /// the next call, even without bytes.
    pub(crate) fn push(&mut self, packed: &mut Bytes, out: &mut Vec<u8>) -> std::io::Result<bool> {
        match self {
            Self::None => {
                out.extend_from_slice(&packed.split_to(packed.len()));
                Ok(false)
            }
            Self::Gzip(decoder) => {
                decoder.write_all(&packed.split_to(packed.len().min(PACKED_BYTES)))?;
                out.append(decoder.get_mut());
                Ok(!packed.is_empty())
            }
            Self::Bzip2 { stream, inside } => bunzip(stream, inside, packed, out),
            Self::Zstd { stream, inside } => unzstd(stream, inside, packed, out),
        }
    }

    /// Appends the rest.
    ///
    /// # Errors
    /// When the bytes ended too early.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                out.append(decoder.get_mut());
                Ok(())
            }
            Self::Bzip2 { inside, .. } | Self::Zstd { inside, .. } => {
                if *inside {
                    Err(std::io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(())
                }
            }
        }
    }
}

fn bunzip(
    stream: &mut bzip2::Decompress,
    inside: &mut bool,
    packed: &mut Bytes,
    out: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let start = out.len();
    loop {
        if out.len() - start >= UNPACKED_BYTES {
            return Ok(true);
        }
        let (read, written) = (stream.total_in(), out.len());
        out.reserve(STEP_BYTES);
        let status = stream.decompress_vec(packed, out).map_err(std::io::Error::other)?;
        let used = usize::try_from(stream.total_in() - read).map_err(std::io::Error::other)?;
        packed.advance(used);
        *inside |= used > 0;
        if status == bzip2::Status::StreamEnd {
            // Streams may follow one another.
            *stream = bzip2::Decompress::new(false);
            *inside = false;
        } else if used == 0 && out.len() == written {
            return Ok(false);
        }
        if packed.is_empty() && !*inside {
            return Ok(false);
        }
    }
}

fn unzstd(
    stream: &mut Decoder<'static>,
    inside: &mut bool,
    packed: &mut Bytes,
    out: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let start = out.len();
    loop {
        // After the end of a frame the decoder waits for another one, which is no reason to say that one is open.
        if packed.is_empty() && !*inside {
            return Ok(false);
        }
        if out.len() - start >= UNPACKED_BYTES {
            return Ok(true);
        }
        let mut input = InBuffer::around(&packed[..]);
        let mut room = vec![0; STEP_BYTES];
        let mut output = OutBuffer::around(&mut room[..]);
        let left = stream.run(&mut input, &mut output)?;
        let written = output.pos();
        out.extend_from_slice(&room[..written]);
        *inside = left != 0;
        let used = input.pos();
        packed.advance(used);
        if packed.is_empty() && written < STEP_BYTES {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    fn unpacked(compression: Compression, bytes: &[u8], step: usize) -> std::io::Result<Vec<u8>> {
        let (mut unpack, mut out) = (Unpack::new(compression)?, Vec::new());
        for piece in bytes.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            while unpack.push(&mut piece, &mut out)? {}
        }
        unpack.finish(&mut out)?;
        Ok(out)
    }

    const ALL: [Compression; 4] = [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Zstd];

    #[test]
    fn what_was_packed_comes_out_however_it_is_cut() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n % 977).to_string().into_bytes()).collect();
        for compression in ALL {
            let mut twice = packed(compression, &text);
            twice.extend(packed(compression, b"and more"));
            for step in [7, 1000, PACKED_BYTES] {
                let out = unpacked(compression, &twice, step).unwrap();
                assert!(out == [&text[..], b"and more"].concat(), "{compression:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn one_step_unpacks_to_a_bounded_number_of_bytes() {
        for compression in ALL.into_iter().skip(1) {
            let mut bomb = Bytes::from(packed(compression, &vec![0; 64 << 20]));
            let (mut unpack, mut out, mut all) = (Unpack::new(compression).unwrap(), Vec::new(), 0);
            loop {
                let more = unpack.push(&mut bomb, &mut out).unwrap();
                // GZIP is bounded by its bytes: 16 KiB are 16 MiB at most.
                assert!(out.len() <= 17 << 20, "{compression:?} {}", out.len());
                all += out.len();
                out.clear();
                if !more {
                    break;
                }
            }
            unpack.finish(&mut out).unwrap();
            assert_eq!(all + out.len(), 64 << 20, "{compression:?}");
        }
    }

    #[test]
    fn an_early_end_and_noise_are_errors() {
        for compression in ALL.into_iter().skip(1) {
            let whole = packed(compression, &[7; 10_000]);
            assert!(unpacked(compression, &whole[..whole.len() - 3], 100).is_err(), "{compression:?}");
            assert!(unpacked(compression, b"this was never packed at all", 100).is_err(), "{compression:?}");
        }
    }
}
