//! Identifiers: parsed once at the edge, then the type is the proof.
//!
//! Stored forms: integers are numbers, 16-byte ids are byte strings, names and keys are text. The text forms of version
//! and upload ids have a fixed length, so that a marker taken from them keeps its order after the row is gone.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

/// An identifier or name that does not have its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {reason}")]
pub struct InvalidId {
    /// Which kind of identifier.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The clock of the system: log index plus the offset that `recover` raises. Below 2^53.
pub type Revision = u64;

/// Milliseconds since the Unix epoch, of state time (see `apply`).
pub type Millis = u64;

/// The last moment that a [`RequestId`] or [`BlobId`] can carry: six bytes. No stamp is later, so that sums of times do
/// not overflow.
pub const MILLIS_MAX: Millis = (1 << 48) - 1;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A bucket's identity: the revision of its creation, never reused.
    BucketId
}
number_id! {
    /// Identity of content and attributes behind a name (the mount's inode). Taken from a counter in apply.
    ObjectId
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { what: stringify!($name), reason: "is not 32 lower-case hexadecimal digits" };
                let digits = text.as_bytes();
                if digits.len() != 32 || digits.iter().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(invalid);
                }
                let number = u128::from_str_radix(text, 16).map_err(|_| invalid)?;
                Ok(Self(number.to_be_bytes()))
            }
        }
    };
}

bytes_id! {
    /// One request of a client or job: six bytes of milliseconds, ten random. Ordered by time, so that old replies are
    /// found without an index. The text is what the client gets as `x-amz-request-id`.
    RequestId
}
bytes_id! {
    /// Names immutable bytes: cluster generation (4 bytes), milliseconds (6), random (6). Minted before the upload and
    /// never reused.
    BlobId
}

impl RequestId {
    /// An id minted at `ms`.
    #[must_use]
    pub fn new(ms: Millis, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// When it was minted.
    #[must_use]
    pub fn minted_ms(&self) -> Millis {
        millis(&self.0[..6])
    }
}

impl BlobId {
    /// The blob of holes: no bytes, reads as zeros, has no row and is not counted.
    pub const HOLE: Self = Self([0; 16]);

    /// An id minted at `ms` in cluster generation `generation`.
    #[must_use]
    pub fn new(generation: u32, ms: Millis, random: [u8; 6]) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&generation.to_be_bytes());
        bytes[4..10].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[10..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The cluster generation that minted it.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.0[..4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    /// When it was minted.
    #[must_use]
    pub fn minted_ms(&self) -> Millis {
        millis(&self.0[4..10])
    }
}

fn millis(bytes: &[u8]) -> Millis {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where in the history something happened: the revision of its command and, within it, an ordinal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Place {
    /// Revision of the command.
    #[n(0)]
    pub revision: Revision,
    /// Number of the row within the command.
    #[n(1)]
    pub ordinal: u16,
}

/// The stamp of a version or upload: its place and a random part. Text: 40 characters of base 32 (RFC 4648 extended hex
/// alphabet, lower case) over seven bytes of revision, two of ordinal, sixteen of nonce, so text order is place order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Where it was made.
    pub place: Place,
    /// The blob id that was minted for it; makes the id unguessable.
    pub nonce: BlobId,
}

const STAMP_BYTES: usize = 25;
const STAMP_CHARS: usize = 40;
const BASE32: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; STAMP_BYTES];
        bytes[..7].copy_from_slice(&self.place.revision.to_be_bytes()[1..]);
        bytes[7..9].copy_from_slice(&self.place.ordinal.to_be_bytes());
        bytes[9..].copy_from_slice(&self.nonce.0);
        for chunk in bytes.chunks(5) {
            let bits = millis(chunk);
            for shift in (0..8).rev() {
                write!(f, "{}", char::from(BASE32[(bits >> (shift * 5) & 31) as usize]))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Stamp {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "id", reason: "is not one that this service gave" };
        if text.len() != STAMP_CHARS {
            return Err(invalid);
        }
        let mut bytes = Vec::with_capacity(STAMP_BYTES);
        for chunk in text.as_bytes().chunks(8) {
            let mut bits = 0u64;
            for digit in chunk {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'v' => digit - b'a' + 10,
                    _ => return Err(invalid),
                };
                bits = bits << 5 | u64::from(value);
            }
            bytes.extend_from_slice(&bits.to_be_bytes()[3..]);
        }
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[9..]);
        let place = Place { revision: millis(&bytes[..7]), ordinal: u16::from_be_bytes([bytes[7], bytes[8]]) };
        Ok(Self { place, nonce: BlobId(nonce) })
    }
}

/// An S3 version id: `null`, or the stamp that apply gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionId {
    /// The version written while the bucket was not versioned or suspended.
    Null,
    /// A version of an enabled bucket.
    Stamp(Stamp),
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Stamp(stamp) => stamp.fmt(f),
        }
    }
}

impl FromStr for VersionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "null" { Ok(Self::Null) } else { text.parse().map(Self::Stamp) }
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.to_string())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                d.str()?.parse().map_err(|_| minicbor::decode::Error::message(concat!("not a ", stringify!($name))))
            }
        }
    };
}

text_form!(VersionId);
text_form!(Stamp);
text_form!(BucketName);
text_form!(ObjectKey);

/// A multipart upload's id.
pub type UploadId = Stamp;

/// A bucket name by the general purpose naming rules.
///
/// 3 to 63 characters of lower-case letters, digits, dots and hyphens; starts and ends with a letter or digit; no two
/// dots in a row; not shaped like an IPv4 address; none of AWS's reserved prefixes and suffixes; not `minio`, whose path
/// carries health aliases. Source: S3 user guide, "General purpose bucket naming rules".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

const RESERVED_PREFIXES: [&str; 4] = ["xn--", "sthree-", "amzn-s3-demo-", "_"];
const RESERVED_SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

impl FromStr for BucketName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = |reason| Err(InvalidId { what: "bucket name", reason });
        let bytes = text.as_bytes();
        if !(3..=63).contains(&bytes.len()) {
            return refuse("must be 3 to 63 characters long");
        }
        if bytes.iter().any(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')) {
            return refuse("may hold only lower-case letters, digits, dots and hyphens");
        }
        if !bytes[0].is_ascii_alphanumeric() || !bytes[bytes.len() - 1].is_ascii_alphanumeric() {
            return refuse("must start and end with a letter or digit");
        }
        if text.contains("..") {
            return refuse("may not hold two dots in a row");
        }
        if text.parse::<std::net::Ipv4Addr>().is_ok() {
            return refuse("may not look like an IP address");
        }
        if RESERVED_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
            || RESERVED_SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
            || text == "minio"
        {
            return refuse("is reserved");
        }
        Ok(Self(text.to_owned()))
    }
}

/// Most bytes of an object key. Source: S3 user guide, "Naming Amazon S3 objects".
pub const KEY_BYTES_MAX: usize = 1024;

/// An object key: 1 to 1,024 bytes of UTF-8, opaque to the rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// What stands for the key of a file that has no name.
    pub(crate) fn of_orphan() -> Self {
        Self("(no name)".to_owned())
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = |reason| Err(InvalidId { what: "object key", reason });
        match text.len() {
            0 => refuse("is empty"),
            1..=KEY_BYTES_MAX => Ok(Self(text.to_owned())),
            _ => refuse("is longer than 1,024 bytes"),
        }
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The bytes, as keys are ordered.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

text_id!(BucketName);
text_id!(ObjectKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_keep_their_order_as_text_and_come_back() {
        let stamp = |revision, ordinal| Stamp { place: Place { revision, ordinal }, nonce: BlobId::new(1, 99, [7; 6]) };
        let stamps = [stamp(0, 0), stamp(1, 0), stamp(1, 1), stamp(256, 0), stamp((1 << 53) - 1, u16::MAX)];
        let texts: Vec<String> = stamps.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted());
        for (stamp, text) in stamps.iter().zip(&texts) {
            assert_eq!(text.len(), STAMP_CHARS);
            assert_eq!(text.parse(), Ok(*stamp));
        }
        assert!("null".parse::<VersionId>().is_ok());
        assert!("nul".parse::<VersionId>().is_err());
        assert!("z".repeat(40).parse::<VersionId>().is_err());
    }

    #[test]
    fn bucket_names_follow_the_naming_rules() {
        for good in ["abc", "a-b.c", "0bucket", "a".repeat(63).as_str()] {
            assert!(good.parse::<BucketName>().is_ok(), "{good}");
        }
        for bad in ["ab", "Abc", "a..b", "-ab", "ab-", "192.168.1.1", "minio", "_holdfast", "xn--a", "a_b", "b--x-s3"] {
            assert!(bad.parse::<BucketName>().is_err(), "{bad}");
        }
        assert!("a".repeat(64).parse::<BucketName>().is_err());
    }

    #[test]
    fn ids_carry_their_time_and_generation() {
        let blob = BlobId::new(3, 1_700_000_000_123, [1; 6]);
        assert_eq!((blob.generation(), blob.minted_ms()), (3, 1_700_000_000_123));
        assert_eq!(blob.to_string().parse(), Ok(blob));
        assert!("+0000000000000000000000000000000".parse::<BlobId>().is_err());
        assert_eq!(RequestId::new(5, [9; 10]).minted_ms(), 5);
    }
}
