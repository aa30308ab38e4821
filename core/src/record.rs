//! Stored records: the values of the rows.
//!
//! Each record is a CBOR map (RFC 8949) from field number to value: fields are added, never renumbered, and an unknown
//! field is skipped. An unknown *variant* of an enumeration is refused, also inside optional fields: a node that does
//! not know an envelope or location must not guess. `docs/formats.md` lists every number.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::id::{BlobId, BucketId, Millis, ObjectId, Place, Revision, Stamp};

/// Bytes that do not decode to their record.
#[derive(Debug, thiserror::Error)]
#[error("{what} does not decode")]
pub struct DecodeError {
    /// The kind of record.
    pub what: &'static str,
    /// Where and why decoding stopped.
    #[source]
    pub source: minicbor::decode::Error,
}

/// A record with its stored form.
pub trait Record: Sized {
    /// What it is called in messages.
    const WHAT: &'static str;

    /// The stored bytes; equal records give equal bytes.
    fn encode(&self) -> Vec<u8>;

    /// The record that `bytes` store.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not such a record or hold a variant that is not built.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

macro_rules! record {
    ($($name:ty => $what:literal),* $(,)?) => {$(
        impl $crate::record::Record for $name {
            const WHAT: &'static str = $what;

            fn encode(&self) -> Vec<u8> {
                minicbor::to_vec(self).expect("writing to a vector cannot fail")
            }

            fn decode(bytes: &[u8]) -> Result<Self, $crate::record::DecodeError> {
                $crate::record::decode_whole(bytes).map_err(|source| $crate::record::DecodeError { what: $what, source })
            }
        }
    )*};
}
pub(crate) use record;

/// The value that all of `bytes` encode: bytes that follow it are an error, because nothing writes any.
pub(crate) fn decode_whole<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode()?;
    if decoder.position() != bytes.len() {
        return Err(minicbor::decode::Error::message("bytes follow the record").at(decoder.position()));
    }
    Ok(value)
}

/// An enumeration without data, stored as its number. Unknown numbers fail as a plain message, because the derived
/// decoder would turn an unknown variant inside an optional field into "absent".
macro_rules! stored_enum {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.u8(*self as u8)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                match d.u8()? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(minicbor::decode::Error::message(concat!("a ", stringify!($name), " that is not built"))),
                }
            }
        }
    };
}
pub(crate) use stored_enum;

stored_enum! {
    /// A bucket's versioning state. Source: S3 API, PutBucketVersioning.
    pub enum Versioning {
        /// Never enabled: every object is its key's only version, "null".
        Never = 0,
        /// Every write makes a version.
        Enabled = 1,
        /// Writes replace the "null" version; others stay.
        Suspended = 2,
    }
}

stored_enum! {
    /// When a write is acknowledged; see `docs/semantics.md`.
    pub enum Durability {
        /// Bytes in the backend, metadata on a majority.
        Backend = 0,
        /// Both in the logs of a majority, packed to the backend later.
        Quorum = 1,
        /// As `Quorum`, and archived in the bucket before the reply.
        Bucket = 2,
    }
}

stored_enum! {
    /// What an index does with content that does not parse.
    pub enum OnParseError {
        /// Stores the object, records the failure.
        Record = 0,
        /// Refuses the write.
        Strict = 1,
    }
}

stored_enum! {
    /// A checksum algorithm. Source: S3 user guide, "Checking object integrity".
    pub enum ChecksumAlgorithm {
        /// CRC-32 (ISO-HDLC), 4 bytes.
        Crc32 = 0,
        /// CRC-32C (iSCSI), 4 bytes.
        Crc32c = 1,
        /// CRC-64/NVME, 8 bytes.
        Crc64Nvme = 2,
        /// SHA-1, 20 bytes.
        Sha1 = 3,
        /// SHA-256, 32 bytes.
        Sha256 = 4,
    }
}

stored_enum! {
    /// What a multipart object's checksum covers.
    pub enum ChecksumType {
        /// The bytes of the object.
        FullObject = 0,
        /// The checksums of its parts.
        Composite = 1,
    }
}

stored_enum! {
    /// How a blob's bytes are wrapped. Only unwrapped bytes are built.
    pub enum Envelope {
        /// The bytes as they are.
        None = 0,
    }
}

/// Decodes a field whose type has variants with data: an unknown variant becomes a plain failure, which no optional
/// field further out can take for absence.
pub(crate) fn known<'b, C, T: Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<T, minicbor::decode::Error> {
    T::decode(d, context).map_err(|error| {
        if error.is_unknown_variant() { minicbor::decode::Error::message("a variant that is not built") } else { error }
    })
}

/// A checksum in the form the client named.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Checksum {
    /// The algorithm.
    #[n(0)]
    pub algorithm: ChecksumAlgorithm,
    /// What it covers.
    #[n(1)]
    pub kind: ChecksumType,
    /// Big-endian bytes of the algorithm's length.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// A bucket. Key: name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BucketRow {
    /// Identity.
    #[n(0)]
    pub id: BucketId,
    /// State time of creation.
    #[n(1)]
    pub created_ms: Millis,
    /// Versioning state.
    #[n(2)]
    pub versioning: Versioning,
    /// What was set beyond the defaults.
    #[n(3)]
    pub settings: BucketSettings,
    /// What the bucket holds.
    #[n(4)]
    pub usage: Usage,
    /// Revision of the last change to a name: a listing at or after it may read the names as they are.
    #[n(5)]
    pub changed: Revision,
    /// Indexes of the bucket; `None` for none.
    #[n(6)]
    pub indexes: Option<u32>,
}

/// Default of [`BucketSettings::history_ms`]: ten minutes.
pub const HISTORY_MS_DEFAULT: u64 = 10 * 60 * 1000;

/// Settings of a bucket; `None` means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BucketSettings {
    /// When a write is acknowledged.
    #[n(0)]
    pub durability: Option<Durability>,
    /// Most bytes of a small object.
    #[n(1)]
    pub inline_bytes: Option<u64>,
    /// How long replaced versions stay readable.
    #[n(2)]
    pub history_ms: Option<u64>,
    /// What an index does with content that does not parse.
    #[n(3)]
    pub on_parse_error: Option<OnParseError>,
}

/// What a bucket holds: versions and delete markers that S3 shows, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Usage {
    /// Live names.
    #[n(0)]
    pub objects: u64,
    /// Versions, markers included.
    #[n(1)]
    pub versions: u64,
    /// Bytes of those versions.
    #[n(2)]
    pub bytes: u64,
    /// Uploads in progress.
    #[n(3)]
    pub uploads: u64,
}

/// A live name: what LIST prints. Key: bucket id, object key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NameRow {
    /// Row of `history` that is the latest version.
    #[n(0)]
    pub place: Place,
    /// Identity of what is behind the name.
    #[n(1)]
    pub object: ObjectId,
    /// Bytes.
    #[n(2)]
    pub size: u64,
    /// Without quotes.
    #[n(3)]
    pub etag: String,
    /// Last modified.
    #[n(4)]
    pub modified_ms: Millis,
    /// Whether it is the "null" version.
    #[n(5)]
    pub null: bool,
    /// Algorithm and type of the checksum that LIST names.
    #[n(6)]
    pub checksum: ChecksumAlgorithm,
    /// See `checksum`.
    #[n(7)]
    pub checksum_type: ChecksumType,
}

/// HTTP headers that are stored with an object and returned as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Headers {
    /// `Content-Type`.
    #[n(0)]
    pub content_type: Option<String>,
    /// `Cache-Control`.
    #[n(1)]
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    #[n(2)]
    pub content_disposition: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    #[n(3)]
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    #[n(4)]
    pub content_language: Option<String>,
    /// `Expires`.
    #[n(5)]
    pub expires: Option<String>,
}

/// What a writer says of an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attributes {
    /// Stored headers.
    #[n(0)]
    pub headers: Headers,
    /// User metadata, names in lower case without `x-amz-meta-`.
    #[n(1)]
    pub metadata: BTreeMap<String, String>,
    /// Tags.
    #[n(2)]
    pub tags: BTreeMap<String, String>,
}

/// A range of an object and the blob bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extent {
    /// First byte in the object.
    #[n(0)]
    pub offset: u64,
    /// Bytes.
    #[n(1)]
    pub length: u64,
    /// Whose bytes.
    #[n(2)]
    pub blob: BlobId,
    /// First byte in the blob.
    #[n(3)]
    pub blob_offset: u64,
}

/// Content of an object at a revision: names pages, or a base of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct ContentId {
    /// The object.
    #[n(0)]
    pub object: ObjectId,
    /// Its content revision.
    #[n(1)]
    pub revision: Revision,
}

/// Boundaries of a finished multipart upload, kept apart from the record because there may be 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PartsRef {
    /// Content whose boundaries these are.
    #[n(0)]
    pub content: ContentId,
    /// Number of parts.
    #[n(1)]
    pub count: u32,
}

/// Where a version's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Body {
    /// No bytes.
    #[n(0)]
    Empty,
    /// One extent, carried here.
    #[n(1)]
    Single(#[n(0)] Extent),
    /// Pages of this content.
    #[n(2)]
    Pages(#[n(0)] ContentId),
}

/// A version. Part of [`HistoryRow`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Version {
    /// Identity of what is behind the name.
    #[n(0)]
    pub object: ObjectId,
    /// Bytes.
    #[n(1)]
    pub size: u64,
    /// Without quotes: MD5, `MD5-N`, or opaque with a dash after an append.
    #[n(2)]
    pub etag: String,
    /// Where the bytes are.
    #[cbor(n(3), decode_with = "known")]
    pub body: Body,
    /// Headers, user metadata, tags.
    #[n(4)]
    pub attributes: Attributes,
    /// SHA-256 of the bytes; `None` until a job has read them.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub sha256: Option<[u8; 32]>,
    /// CRC-64/NVME of the bytes.
    #[n(6)]
    pub crc64nvme: u64,
    /// The checksum that the client declared, when it was another.
    #[n(7)]
    pub checksum: Option<Checksum>,
    /// Boundaries, when it was a multipart upload.
    #[n(8)]
    pub parts: Option<PartsRef>,
    /// When the name came into being; kept while the name lives.
    #[n(9)]
    pub created_ms: Millis,
    /// Revision of the content: differs from the row's place after a rename.
    #[n(10)]
    pub content_revision: Revision,
    /// Revision of the last patch by a mount, which changes content where it is.
    #[n(11)]
    pub patched: Option<Revision>,
    /// The mount that is writing it: its further patches change this version, which is none for S3 before it is cut.
    #[n(12)]
    pub open: Option<crate::mount::MountId>,
    /// The CRC-64/NVME is not that of the bytes: it follows with the SHA-256.
    #[n(13)]
    pub crc_pending: Option<bool>,
}

/// A version or delete marker with its life. Key: bucket id, object key, place descending.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HistoryRow {
    /// Random part of the version id.
    #[n(0)]
    pub nonce: BlobId,
    /// Whether its version id is "null".
    #[n(1)]
    pub null: bool,
    /// Last modified.
    #[n(2)]
    pub modified_ms: Millis,
    /// The version; `None` for a delete marker.
    #[n(3)]
    pub version: Option<Version>,
    /// When it ceased to be: the end of its life, exclusive. Rows that have ended are seen only by reads at a revision.
    #[n(4)]
    pub ended: Option<Revision>,
}

/// The place of the "null" version when it is not the latest. Key: bucket id, object key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NullRow {
    /// Row of `history`.
    #[n(0)]
    pub place: Place,
}

/// What is known of an object beyond the default (one link, no attributes of its own). Key: object id. Written by the
/// mount; absent for objects that only S3 has touched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ObjectRow {
    /// Names of the object.
    #[n(0)]
    pub links: u32,
    /// It has no name any more, and the session of a mount holds it.
    #[n(1)]
    pub orphan: Option<crate::mount::Orphan>,
}

/// A name of an object that has several. Key: object id, ordinal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LinkRow {
    /// Bucket of the name.
    #[n(0)]
    pub bucket: BucketId,
    /// The name.
    #[n(1)]
    pub key: String,
}

/// Content that has pages or boundaries. Key: object id, content revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ContentRow {
    /// Rows of history and contents based on it.
    #[n(0)]
    pub refs: u64,
    /// The content this one changes; pages that it lacks are there.
    #[n(1)]
    pub base: Option<ContentId>,
    /// Number of contents from here to the deepest base.
    #[n(2)]
    pub depth: u8,
    /// Bytes.
    #[n(3)]
    pub size: u64,
    /// Extents in all pages, those of the base included.
    #[n(4)]
    pub extents: u32,
    /// Pages of boundaries in `parts`.
    #[n(5)]
    pub parts_pages: u32,
    /// Bytes of extents that are holes; absent is none.
    #[n(6)]
    pub hole_bytes: Option<u64>,
}

impl ContentRow {
    /// Whether it is worth joining after a mount wrote to it: it is small, or in short pieces.
    #[must_use]
    pub fn joins_when_patched(&self) -> bool {
        joins_when_patched(self.size, u64::from(self.extents))
    }

    /// Whether it has so many extents that what a mount writes to it may soon be refused.
    #[must_use]
    pub fn has_many_extents(&self) -> bool {
        self.extents as usize > crate::rules::EXTENTS_MAX / 2
    }
}

/// Whether a content of so many bytes and extents is worth joining after a mount wrote to it.
#[must_use]
pub fn joins_when_patched(size: u64, extents: u64) -> bool {
    use crate::rules::{PATCHED_JOIN_BYTES, PATCHED_JOIN_EXTENT_BYTES};
    size <= PATCHED_JOIN_BYTES || size / extents.max(1) < PATCHED_JOIN_EXTENT_BYTES
}

/// A page of extents. Key: object id, page number, revision descending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PageRow {
    /// Extents that start in the page, by offset.
    #[n(0)]
    pub extents: Vec<Extent>,
}

/// An upload in progress. Key: bucket id, object key, place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UploadRow {
    /// Random part of the upload id.
    #[n(0)]
    pub nonce: BlobId,
    /// When it was initiated.
    #[n(1)]
    pub initiated_ms: Millis,
    /// What the object will carry.
    #[n(2)]
    pub attributes: Attributes,
    /// Declared algorithm; `None` when the client named none (CRC64NVME, full object).
    #[n(3)]
    pub checksum: Option<ChecksumAlgorithm>,
    /// Declared type.
    #[n(4)]
    pub checksum_type: Option<ChecksumType>,
    /// Extents of its parts beyond one each: parts that were copied in pieces. Absent is none.
    #[n(5)]
    pub extra_extents: Option<u64>,
}

/// A part of an upload in progress. Key: upload place, part number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PartRow {
    /// Bytes, offsets from the start of the part.
    #[n(0)]
    pub extents: Vec<Extent>,
    /// Size in bytes.
    #[n(1)]
    pub size: u64,
    /// MD5 of the bytes; while `crc_pending`, another name of them.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub md5: [u8; 16],
    /// CRC-64/NVME of the bytes; not known while `crc_pending`.
    #[n(3)]
    pub crc64nvme: u64,
    /// Declared checksum of the bytes.
    #[n(4)]
    pub checksum: Option<Checksum>,
    /// Last modified.
    #[n(5)]
    pub modified_ms: Millis,
    /// Whether it was copied without being read. Absent is not.
    #[n(6)]
    pub crc_pending: Option<bool>,
}

impl PartRow {
    /// The checksum that replies show: the declared one, else CRC-64/NVME; none while that is pending.
    #[must_use]
    pub fn shown_checksum(&self) -> Option<Checksum> {
        let pending = self.crc_pending == Some(true);
        self.checksum.clone().or_else(|| (!pending).then(|| Checksum::crc64nvme(self.crc64nvme)))
    }
}

/// Boundaries of a finished multipart upload, at most [`crate::rules::PARTS_PER_PAGE`]. Key: object id, content
/// revision, page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BoundariesRow {
    /// Parts by number.
    #[n(0)]
    pub parts: Vec<Boundary>,
}

/// One part of a finished object.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Boundary {
    /// Part number, 1 to 10,000, as the client gave it.
    #[n(0)]
    pub number: u16,
    /// Bytes.
    #[n(1)]
    pub size: u64,
    /// Checksum value in the upload's declared algorithm.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub checksum: Option<Vec<u8>>,
}

/// A finished upload, so that completing it again gives the first answer. Key: upload place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FinishedRow {
    /// Stored reply.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub reply: Vec<u8>,
    /// MD5 over the part list that completed it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub parts_md5: [u8; 16],
}

/// Where a copy of a blob's bytes is. Slices, adopted keys and other backends are specified and not built.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Location {
    /// In keyspace `inline`.
    #[n(0)]
    Inline,
    /// A file of the backend, under the repository's prefix.
    #[n(1)]
    Path(#[n(0)] String),
}

/// A blob. Key: blob id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BlobRow {
    /// Bytes.
    #[n(0)]
    pub length: u64,
    /// Extents that name it.
    #[n(1)]
    pub refs: u64,
    /// Copies; reading any is enough.
    #[cbor(n(2), decode_with = "known")]
    pub locations: Vec<Location>,
    /// How the bytes are wrapped.
    #[n(3)]
    pub envelope: Envelope,
    /// CRC-32C of each 128 KiB block of the first 64 MiB, big-endian.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub crcs: Vec<u8>,
    /// Revision that condemned it: nothing may name it any more.
    #[n(5)]
    pub condemned: Option<Revision>,
}

/// The state's own counters. Key: `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StateRow {
    /// What `apply` may do; raised by a command when every node can.
    #[n(0)]
    pub feature_level: u32,
    /// State time: the largest stamp applied.
    #[n(1)]
    pub now_ms: Millis,
    /// Next object id.
    #[n(2)]
    pub next_object: u64,
    /// Rows of `dedupe`.
    #[n(3)]
    pub replies: u64,
    /// Commands stamped up to here are expired: their replies are gone.
    #[n(4)]
    pub replies_floor_ms: Millis,
}

/// A stored reply. Key: stamp, request id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReplyRow {
    /// Encoded [`crate::command::Reply`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub reply: Vec<u8>,
    /// Its revision.
    #[n(1)]
    pub revision: Revision,
}

record! {
    BucketRow => "bucket",
    NameRow => "name",
    HistoryRow => "version",
    NullRow => "null pointer",
    ObjectRow => "object",
    LinkRow => "link",
    ContentRow => "content",
    PageRow => "extent page",
    UploadRow => "upload",
    PartRow => "part",
    BoundariesRow => "part boundaries",
    FinishedRow => "finished upload",
    BlobRow => "blob",
    StateRow => "state",
    ReplyRow => "reply",
}

impl Version {
    /// Revision of the last change of the bytes.
    #[must_use]
    pub fn generation(&self) -> Revision {
        self.patched.unwrap_or(self.content_revision)
    }

    /// Whether its bytes are those that were read at a generation; none is one that no mount has changed.
    #[must_use]
    pub fn is_as_read(&self, generation: Option<Revision>) -> bool {
        generation.map_or(self.patched.is_none(), |read| read == self.generation())
    }

    /// Whether a mount is writing it: it may still change where it is.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The checksum that replies show: the declared one, else CRC-64/NVME; none while that is pending.
    #[must_use]
    pub fn shown_checksum(&self) -> Option<Checksum> {
        let pending = self.crc_pending == Some(true);
        self.checksum.clone().or_else(|| (!pending).then(|| Checksum::crc64nvme(self.crc64nvme)))
    }
}

impl Checksum {
    /// CRC-64/NVME of all bytes of an object or part.
    #[must_use]
    pub fn crc64nvme(value: u64) -> Self {
        let (algorithm, kind) = (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject);
        Self { algorithm, kind, value: value.to_be_bytes().to_vec() }
    }
}

impl Extent {
    /// Whether it has no bytes and reads as zeros.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.blob == BlobId::HOLE
    }

    /// First byte past it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

impl HistoryRow {
    /// The version id, for the row at `place`.
    #[must_use]
    pub fn version_id(&self, place: Place) -> crate::id::VersionId {
        if self.null {
            crate::id::VersionId::Null
        } else {
            crate::id::VersionId::Stamp(Stamp { place, nonce: self.nonce })
        }
    }

    /// Whether it existed at `revision`, for the row at `place`.
    #[must_use]
    pub fn lives_at(&self, place: Place, revision: Revision) -> bool {
        place.revision <= revision && self.ended.is_none_or(|ended| ended > revision)
    }

    /// Bytes; 0 for a delete marker.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.version.as_ref().map_or(0, |version| version.size)
    }
}
