//! Keyspaces and the ordered encoding of keys.
//!
//! Every key starts with a group id (two bytes, big-endian, 0 today). Integers are big-endian; a revision that must sort
//! newest first is stored complemented. An object key that is followed by more components is escaped so that order is
//! kept: `00` becomes `00 FF`, the end is `00 01`. `docs/formats.md` specifies each key for strangers.

use crate::id::{BlobId, BucketId, BucketName, Millis, ObjectId, Place, RequestId};
use crate::record::ContentId;

/// The group that all rows belong to today.
pub const GROUP: u16 = 0;

/// The keyspaces of the state. The number is the stored one and never changes meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyspace {
    /// Applied index, membership, revision offset, feature level, counters.
    Sys = 0,
    /// Bucket name → bucket record.
    Buckets = 1,
    /// Bucket id, document kind → settings documents (CORS, tags).
    Settings = 2,
    /// Bucket id, key → the live name.
    Names = 3,
    /// Bucket id, key, revision descending → a version or delete marker with its life.
    History = 4,
    /// Bucket id, key → place of the "null" version when it is not the latest.
    Nulls = 5,
    /// Object id (and content revision) → what is known beyond the default.
    Objects = 6,
    /// Object id → its names, when it has more than one.
    Links = 7,
    /// Object id, page, revision descending → a page of extents.
    Extents = 8,
    /// Uploads in progress and their parts; boundaries of finished ones.
    Parts = 9,
    /// Blob id → blob record; pages of block checksums.
    Blobs = 10,
    /// Blob id → bytes of a small blob.
    Inline = 11,
    /// Work that jobs drain.
    Queues = 12,
    /// Stamp, request id → reply.
    Dedupe = 13,
    /// Locks with holders and waiters, leases, ephemeral keys, ranges of files, sessions of mounts.
    Locks = 14,
    /// Revision, ordinal → what happened.
    Events = 15,
    /// Where events go (targets with their cursors), and which events of a bucket go where.
    Targets = 16,
    /// Topics, their messages and groups.
    Topics = 17,
    /// Indexes, what they hold of each object, and what waits for them.
    Indexes = 18,
}

impl Keyspace {
    /// All keyspaces, in stored order.
    pub const ALL: [Self; 19] = [
        Self::Sys,
        Self::Buckets,
        Self::Settings,
        Self::Names,
        Self::History,
        Self::Nulls,
        Self::Objects,
        Self::Links,
        Self::Extents,
        Self::Parts,
        Self::Blobs,
        Self::Inline,
        Self::Queues,
        Self::Dedupe,
        Self::Locks,
        Self::Events,
        Self::Targets,
        Self::Topics,
        Self::Indexes,
    ];

    /// The name used for files and in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sys => "sys",
            Self::Buckets => "buckets",
            Self::Settings => "settings",
            Self::Names => "names",
            Self::History => "history",
            Self::Nulls => "nulls",
            Self::Objects => "objects",
            Self::Links => "links",
            Self::Extents => "extents",
            Self::Parts => "parts",
            Self::Blobs => "blobs",
            Self::Inline => "inline",
            Self::Queues => "queues",
            Self::Dedupe => "dedupe",
            Self::Locks => "locks",
            Self::Events => "events",
            Self::Targets => "targets",
            Self::Topics => "topics",
            Self::Indexes => "indexes",
        }
    }

    /// The keyspace with this stored number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Builds and takes apart the keys of each keyspace.
pub mod key {
    pub mod index;
    pub mod topic;

    use super::{BlobId, BucketId, BucketName, ContentId, GROUP, Millis, ObjectId, Place, RequestId};
    use crate::mount::MountId;
    use crate::record::DecodeError;

    mod mount;
    pub use mount::{
        mount, mount_client, mount_count, mount_of_lease, mount_open_file, mount_open_file_key, mount_open_files,
        mount_orphan, mount_orphan_object, mount_orphans, mount_reply,
    };
    mod range;
    pub use range::{
        range, range_count, range_count_of, range_count_resource, range_parts, range_wait, range_wait_of,
        range_wait_of_parts, range_wait_parts, range_waits, range_waits_of, ranges,
    };

    /// Starts a key: the group.
    #[derive(Clone, Debug)]
    pub struct Key(Vec<u8>);

    impl Key {
        fn new() -> Self {
            Self(GROUP.to_be_bytes().to_vec())
        }
        fn u8(mut self, number: u8) -> Self {
            self.0.push(number);
            self
        }
        fn u16(mut self, number: u16) -> Self {
            self.0.extend(number.to_be_bytes());
            self
        }
        fn u32(mut self, number: u32) -> Self {
            self.0.extend(number.to_be_bytes());
            self
        }
        fn u64(mut self, number: u64) -> Self {
            self.0.extend(number.to_be_bytes());
            self
        }
        fn bytes(mut self, bytes: &[u8]) -> Self {
            self.0.extend_from_slice(bytes);
            self
        }
        /// Bytes that are followed by more components: `00` → `00 FF`, end `00 01`.
        fn escaped(mut self, bytes: &[u8]) -> Self {
            for &byte in bytes {
                self.0.push(byte);
                if byte == 0 {
                    self.0.push(0xff);
                }
            }
            self.0.extend([0, 1]);
            self
        }
        /// The start of an escaped component.
        fn escaped_prefix(self, bytes: &[u8]) -> Self {
            let mut key = self.escaped(bytes);
            key.0.truncate(key.0.len() - 2);
            key
        }
        fn place(self, place: Place) -> Self {
            self.u64(place.revision).u16(place.ordinal)
        }
        /// Newest first.
        fn place_descending(self, place: Place) -> Self {
            self.u64(!place.revision).u16(!place.ordinal)
        }
    }

    /// `sys`: a named row.
    #[must_use]
    pub fn sys(name: &str) -> Vec<u8> {
        Key::new().bytes(name.as_bytes()).0
    }

    /// `buckets`: start of all.
    #[must_use]
    pub fn buckets() -> Vec<u8> {
        Key::new().0
    }

    /// `buckets`: one; also the start of those whose name begins with it.
    #[must_use]
    pub fn bucket(name: &str) -> Vec<u8> {
        Key::new().bytes(name.as_bytes()).0
    }

    /// The bucket name in a `buckets` key.
    #[must_use]
    pub fn bucket_name(key: &[u8]) -> Option<BucketName> {
        std::str::from_utf8(key.get(2..)?).ok()?.parse().ok()
    }

    /// `settings`: a document of a bucket.
    #[must_use]
    pub fn document(bucket: BucketId, kind: u8) -> Vec<u8> {
        Key::new().u64(bucket.0).u8(kind).0
    }

    /// `settings`: reads of the bucket at a revision below this row's value (8 bytes, big-endian) are not exact any more.
    #[must_use]
    pub fn history_floor(bucket: BucketId) -> Vec<u8> {
        document(bucket, 0xff)
    }

    /// `settings`, `names`, `history`, `nulls`: start of a bucket's rows.
    #[must_use]
    pub fn of_bucket(bucket: BucketId) -> Vec<u8> {
        Key::new().u64(bucket.0).0
    }

    /// `names`, `nulls`: one key; also the start of the keys that begin with it.
    #[must_use]
    pub fn name(bucket: BucketId, key: &str) -> Vec<u8> {
        Key::new().u64(bucket.0).bytes(key.as_bytes()).0
    }

    /// The object key in a `names` key.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn name_key(key: &[u8]) -> Result<&str, DecodeError> {
        key.get(10..).and_then(|key| std::str::from_utf8(key).ok()).ok_or_else(|| bad("name key"))
    }

    /// The bucket in a `names` key.
    #[must_use]
    pub fn name_bucket(key: &[u8]) -> Option<BucketId> {
        Some(BucketId(u64_at(key, 2)?))
    }

    /// `history`: one row.
    #[must_use]
    pub fn history(bucket: BucketId, key: &str, place: Place) -> Vec<u8> {
        Key::new().u64(bucket.0).escaped(key.as_bytes()).place_descending(place).0
    }

    /// `history`: start of one key's rows.
    #[must_use]
    pub fn history_of(bucket: BucketId, key: &str) -> Vec<u8> {
        Key::new().u64(bucket.0).escaped(key.as_bytes()).0
    }

    /// `history`: start of the rows of keys that begin with `prefix`.
    #[must_use]
    pub fn history_prefix(bucket: BucketId, prefix: &str) -> Vec<u8> {
        Key::new().u64(bucket.0).escaped_prefix(prefix.as_bytes()).0
    }

    /// Object key and place in a `history` key.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn history_parts(key: &[u8]) -> Result<(String, Place), DecodeError> {
        let (name, rest) = key.get(10..).and_then(unescape).ok_or_else(|| bad("history key"))?;
        let place = place(rest).ok_or_else(|| bad("history key"))?;
        Ok((name, Place { revision: !place.revision, ordinal: !place.ordinal }))
    }

    /// `objects`: one object; also the start of its contents.
    #[must_use]
    pub fn object(object: ObjectId) -> Vec<u8> {
        Key::new().u64(object.0).0
    }

    /// `objects`: one content.
    #[must_use]
    pub fn content(content: ContentId) -> Vec<u8> {
        Key::new().u64(content.object.0).u64(content.revision).0
    }

    /// The content in an `objects` key, `None` for the object's own row.
    #[must_use]
    pub fn content_id(key: &[u8]) -> Option<ContentId> {
        Some(ContentId { object: ObjectId(u64_at(key, 2)?), revision: u64_at(key, 10)? })
    }

    /// `links`: start of the names of an object.
    #[must_use]
    pub fn links(object: ObjectId) -> Vec<u8> {
        Key::new().u64(object.0).0
    }

    /// The number of the name in a `links` key.
    #[must_use]
    pub fn link_ordinal(key: &[u8]) -> Option<u32> {
        u32_at(key, 10)
    }

    /// `links`: one name of an object.
    #[must_use]
    pub fn link(object: ObjectId, ordinal: u32) -> Vec<u8> {
        Key::new().u64(object.0).u32(ordinal).0
    }

    /// `extents`: a page at a revision.
    #[must_use]
    pub fn page(content: ContentId, page: u32) -> Vec<u8> {
        Key::new().u64(content.object.0).u32(page).u64(!content.revision).0
    }

    /// `extents`: start of a page's revisions.
    #[must_use]
    pub fn page_revisions(object: ObjectId, page: u32) -> Vec<u8> {
        Key::new().u64(object.0).u32(page).0
    }

    /// `extents`: start of an object's pages.
    #[must_use]
    pub fn pages_of(object: ObjectId) -> Vec<u8> {
        Key::new().u64(object.0).0
    }

    /// Page number and revision in an `extents` key.
    #[must_use]
    pub fn page_parts(key: &[u8]) -> Option<(u32, u64)> {
        Some((u32_at(key, 10)?, !u64_at(key, 14)?))
    }

    const UPLOAD: u8 = 0;
    const PART: u8 = 1;
    const BOUNDARIES: u8 = 2;
    const FINISHED: u8 = 3;

    /// `parts`: an upload in progress.
    #[must_use]
    pub fn upload(bucket: BucketId, key: &str, place: Place) -> Vec<u8> {
        Key::new().u8(UPLOAD).u64(bucket.0).escaped(key.as_bytes()).place(place).0
    }

    /// `parts`: start of one key's uploads.
    #[must_use]
    pub fn uploads_of(bucket: BucketId, key: &str) -> Vec<u8> {
        Key::new().u8(UPLOAD).u64(bucket.0).escaped(key.as_bytes()).0
    }

    /// `parts`: start of the uploads of keys that begin with `prefix`.
    #[must_use]
    pub fn uploads_prefix(bucket: BucketId, prefix: &str) -> Vec<u8> {
        Key::new().u8(UPLOAD).u64(bucket.0).escaped_prefix(prefix.as_bytes()).0
    }

    /// Object key and place in the key of an upload.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn upload_parts(key: &[u8]) -> Result<(String, Place), DecodeError> {
        let (name, rest) = key.get(11..).and_then(unescape).ok_or_else(|| bad("upload key"))?;
        Ok((name, place(rest).ok_or_else(|| bad("upload key"))?))
    }

    /// `parts`: a part of an upload in progress.
    #[must_use]
    pub fn part(upload: Place, number: u16) -> Vec<u8> {
        Key::new().u8(PART).place(upload).u16(number).0
    }

    /// `parts`: start of an upload's parts.
    #[must_use]
    pub fn parts_of(upload: Place) -> Vec<u8> {
        Key::new().u8(PART).place(upload).0
    }

    /// The part number in the key of a part.
    #[must_use]
    pub fn part_number(key: &[u8]) -> Option<u16> {
        Some(u16::from_be_bytes(key.get(13..15)?.try_into().ok()?))
    }

    /// `parts`: a page of boundaries.
    #[must_use]
    pub fn boundaries(content: ContentId, page: u32) -> Vec<u8> {
        Key::new().u8(BOUNDARIES).u64(content.object.0).u64(content.revision).u32(page).0
    }

    /// `parts`: a finished upload.
    #[must_use]
    pub fn finished(upload: Place) -> Vec<u8> {
        Key::new().u8(FINISHED).place(upload).0
    }

    /// `blobs`, `inline`: a blob.
    #[must_use]
    pub fn blob(blob: BlobId) -> Vec<u8> {
        Key::new().bytes(&blob.0).0
    }

    /// `blobs`: a page of block checksums past the first 64 MiB; page 0 is in the record.
    #[must_use]
    pub fn blob_checksums(blob: BlobId, page: u32) -> Vec<u8> {
        Key::new().bytes(&blob.0).u32(page).0
    }

    /// The blob id in a `blobs` or `inline` key, and the checksum page if it is one.
    #[must_use]
    pub fn blob_id(key: &[u8]) -> Option<(BlobId, Option<u32>)> {
        Some((BlobId(key.get(2..18)?.try_into().ok()?), u32_at(key, 18)))
    }

    /// Kinds of rows in `queues`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Queue {
        /// Rows of history that have ended, by the time they are due for trimming.
        Ended = 0,
        /// Condemned blobs whose bytes are to be deleted, by revision.
        Condemned = 1,
        /// Contents of many blobs that may be joined into one.
        Join = 2,
        /// Finished uploads, by the time they are forgotten.
        Finished = 3,
        /// Condemned blobs whose bytes are gone, by the time the row is forgotten.
        Forgotten = 4,
        /// Versions whose SHA-256 is pending.
        Digest = 5,
        /// Pages of so many extents that they are to be compacted.
        Compact = 6,
        /// Sessions of mounts whose lease has ended, by the time they are forgotten.
        Session = 7,
    }

    /// `queues`: start of a queue.
    #[must_use]
    pub fn queue(queue: Queue) -> Vec<u8> {
        Key::new().u8(queue as u8).0
    }

    /// The due time in the key of an ended row, a finished upload or a forgotten blob.
    #[must_use]
    pub fn due_ms(key: &[u8]) -> Option<Millis> {
        u64_at(key, 3)
    }

    /// `queues`: an ended row of history.
    #[must_use]
    pub fn ended(due_ms: Millis, bucket: BucketId, key: &str, place: Place) -> Vec<u8> {
        Key::new().u8(Queue::Ended as u8).u64(due_ms).u64(bucket.0).escaped(key.as_bytes()).place(place).0
    }

    /// Due time, bucket, object key and place in the key of an ended row.
    #[must_use]
    pub fn ended_parts(key: &[u8]) -> Option<(Millis, BucketId, String, Place)> {
        let (name, rest) = unescape(key.get(19..)?)?;
        Some((u64_at(key, 3)?, BucketId(u64_at(key, 11)?), name, place(rest)?))
    }

    /// `queues`: a condemned blob (number = revision) or a forgotten one (number = due time).
    #[must_use]
    pub fn queued_blob(queue: Queue, number: u64, blob: BlobId) -> Vec<u8> {
        Key::new().u8(queue as u8).u64(number).bytes(&blob.0).0
    }

    /// Number and blob in the key of a queued blob.
    #[must_use]
    pub fn queued_blob_parts(key: &[u8]) -> Option<(u64, BlobId)> {
        Some((u64_at(key, 3)?, BlobId(key.get(11..27)?.try_into().ok()?)))
    }

    /// `queues`: a content to join.
    #[must_use]
    pub fn queued_content(content: ContentId) -> Vec<u8> {
        Key::new().u8(Queue::Join as u8).u64(content.object.0).u64(content.revision).0
    }

    /// The content in the key of a content to join.
    #[must_use]
    pub fn queued_content_id(key: &[u8]) -> Option<ContentId> {
        Some(ContentId { object: ObjectId(u64_at(key, 3)?), revision: u64_at(key, 11)? })
    }

    /// `queues`: a finished upload.
    #[must_use]
    pub fn queued_upload(due_ms: Millis, upload: Place) -> Vec<u8> {
        Key::new().u8(Queue::Finished as u8).u64(due_ms).place(upload).0
    }

    /// Due time and place in the key of a finished upload.
    #[must_use]
    pub fn queued_upload_parts(key: &[u8]) -> Option<(Millis, Place)> {
        Some((u64_at(key, 3)?, place(key.get(11..)?)?))
    }

    /// `queues`: a version whose SHA-256 is pending.
    #[must_use]
    pub fn queued_digest(bucket: BucketId, key: &str, place: Place) -> Vec<u8> {
        Key::new().u8(Queue::Digest as u8).u64(bucket.0).escaped(key.as_bytes()).place(place).0
    }

    /// Bucket, object key and place in the key of a pending digest.
    #[must_use]
    pub fn queued_digest_parts(key: &[u8]) -> Option<(BucketId, String, Place)> {
        let (name, rest) = unescape(key.get(11..)?)?;
        Some((BucketId(u64_at(key, 3)?), name, place(rest)?))
    }

    /// `queues`: start of the pages of a content that are to be compacted.
    #[must_use]
    pub fn queued_pages(content: ContentId) -> Vec<u8> {
        Key::new().u8(Queue::Compact as u8).u64(content.object.0).u64(content.revision).0
    }

    /// `queues`: a page that is to be compacted.
    #[must_use]
    pub fn queued_page(content: ContentId, page: u32) -> Vec<u8> {
        Key::new().u8(Queue::Compact as u8).u64(content.object.0).u64(content.revision).u32(page).0
    }

    /// Content and page in the key of a page that is to be compacted.
    #[must_use]
    pub fn queued_page_parts(key: &[u8]) -> Option<(ContentId, u32)> {
        Some((ContentId { object: ObjectId(u64_at(key, 3)?), revision: u64_at(key, 11)? }, u32_at(key, 19)?))
    }

    /// `queues`: a session of a mount without a lease.
    #[must_use]
    pub fn queued_session(due_ms: Millis, client: MountId) -> Vec<u8> {
        Key::new().u8(Queue::Session as u8).u64(due_ms).bytes(&client.0).0
    }

    /// Due time and client in the key of a session without a lease.
    #[must_use]
    pub fn queued_session_parts(key: &[u8]) -> Option<(Millis, MountId)> {
        Some((u64_at(key, 3)?, MountId(key.get(11..27)?.try_into().ok()?)))
    }

    /// `dedupe`: start of the replies to commands stamped at or after `stamp_ms`.
    #[must_use]
    pub fn replies_from(stamp_ms: Millis) -> Vec<u8> {
        Key::new().u64(stamp_ms).0
    }

    /// `dedupe`: one reply.
    #[must_use]
    pub fn reply(stamp_ms: Millis, request: RequestId) -> Vec<u8> {
        Key::new().u64(stamp_ms).bytes(&request.0).0
    }

    /// The stamp in a `dedupe` key.
    #[must_use]
    pub fn reply_stamp(key: &[u8]) -> Option<Millis> {
        u64_at(key, 2)
    }

    const LOCK: u8 = 0;
    const HOLDER: u8 = 1;
    const WAITER: u8 = 2;
    const LEASE: u8 = 3;
    const EPHEMERAL: u8 = 4;
    const EPHEMERAL_LINK: u8 = 5;

    /// `locks`: one lock; also the start of those whose name begins with it.
    #[must_use]
    pub fn lock(name: &str) -> Vec<u8> {
        Key::new().u8(LOCK).bytes(name.as_bytes()).0
    }

    /// The name in the key of a lock.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn lock_name(key: &[u8]) -> Result<String, DecodeError> {
        text_from(key, 3).ok_or_else(|| bad("lock key"))
    }

    /// `locks`: a lease that holds a lock by a grant.
    #[must_use]
    pub fn lock_holder(name: &str, token: u64, lease: u64) -> Vec<u8> {
        Key::new().u8(HOLDER).escaped(name.as_bytes()).u64(token).u64(lease).0
    }

    /// `locks`: start of a lock's holders.
    #[must_use]
    pub fn lock_holders(name: &str) -> Vec<u8> {
        Key::new().u8(HOLDER).escaped(name.as_bytes()).0
    }

    /// `locks`: start of a lock's holders by one grant.
    #[must_use]
    pub fn lock_grants(name: &str, token: u64) -> Vec<u8> {
        Key::new().u8(HOLDER).escaped(name.as_bytes()).u64(token).0
    }

    /// `locks`: a lease that waits for a lock; their order is that of the queue.
    #[must_use]
    pub fn lock_waiter(name: &str, lease: u64) -> Vec<u8> {
        Key::new().u8(WAITER).escaped(name.as_bytes()).u64(lease).0
    }

    /// `locks`: start of a lock's waiters.
    #[must_use]
    pub fn lock_waiters(name: &str) -> Vec<u8> {
        Key::new().u8(WAITER).escaped(name.as_bytes()).0
    }

    /// `locks`: start of the leases.
    #[must_use]
    pub fn leases() -> Vec<u8> {
        Key::new().u8(LEASE).0
    }

    /// `locks`: one lease.
    #[must_use]
    pub fn lease(lease: u64) -> Vec<u8> {
        Key::new().u8(LEASE).u64(lease).0
    }

    /// The lease in the key of a lease, holder or waiter.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn lease_at_end(key: &[u8]) -> Result<u64, DecodeError> {
        key.len().checked_sub(8).and_then(|at| u64_at(key, at)).ok_or_else(|| bad("lease key"))
    }

    /// `locks`: an ephemeral key; also the start of those that begin with it.
    #[must_use]
    pub fn ephemeral(name: &str) -> Vec<u8> {
        Key::new().u8(EPHEMERAL).bytes(name.as_bytes()).0
    }

    /// The name in the key of an ephemeral key.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn ephemeral_name(key: &[u8]) -> Result<String, DecodeError> {
        text_from(key, 3).ok_or_else(|| bad("ephemeral key"))
    }

    /// `locks`: start of the ephemeral keys of a lease.
    #[must_use]
    pub fn ephemerals_of(lease: u64) -> Vec<u8> {
        Key::new().u8(EPHEMERAL_LINK).u64(lease).0
    }

    /// `locks`: an ephemeral key of a lease.
    #[must_use]
    pub fn ephemeral_link(lease: u64, name: &str) -> Vec<u8> {
        Key::new().u8(EPHEMERAL_LINK).u64(lease).bytes(name.as_bytes()).0
    }

    /// The name in the key of a lease's ephemeral key.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn ephemeral_of_lease(key: &[u8]) -> Result<String, DecodeError> {
        text_from(key, 11).ok_or_else(|| bad("ephemeral key of a lease"))
    }

    /// `events`: start of all.
    #[must_use]
    pub fn events() -> Vec<u8> {
        Key::new().0
    }

    /// `events`: one event.
    #[must_use]
    pub fn event(at: Place) -> Vec<u8> {
        Key::new().place(at).0
    }

    /// The place in the key of an event.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn event_place(key: &[u8]) -> Result<Place, DecodeError> {
        key.get(2..).and_then(place).ok_or_else(|| bad("event key"))
    }

    const TARGET: u8 = 0;
    const NOTIFICATION: u8 = 1;
    const NOTIFICATION_ENDED: u8 = 2;

    /// `targets`: one target; also the start of those whose name begins with it.
    #[must_use]
    pub fn target(name: &str) -> Vec<u8> {
        Key::new().u8(TARGET).bytes(name.as_bytes()).0
    }

    /// The name in the key of a target.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn target_name(key: &[u8]) -> Result<String, DecodeError> {
        text_from(key, 3).ok_or_else(|| bad("target key"))
    }

    /// `targets`: start of the notification documents of a bucket, newest first.
    #[must_use]
    pub fn notifications(bucket: &BucketName) -> Vec<u8> {
        Key::new().u8(NOTIFICATION).escaped(bucket.as_str().as_bytes()).0
    }

    /// `targets`: the notification document that a revision gave to a bucket.
    #[must_use]
    pub fn notification(bucket: &BucketName, revision: u64) -> Vec<u8> {
        Key::new().u8(NOTIFICATION).escaped(bucket.as_str().as_bytes()).u64(!revision).0
    }

    /// The revision in the key of a notification document.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn notification_revision(key: &[u8]) -> Result<u64, DecodeError> {
        let at = key.len().checked_sub(8);
        at.and_then(|at| u64_at(key, at)).map(|revision| !revision).ok_or_else(|| bad("notification key"))
    }

    /// `targets`: start of the notification documents that have ended.
    #[must_use]
    pub fn ended_notifications() -> Vec<u8> {
        Key::new().u8(NOTIFICATION_ENDED).0
    }

    /// `targets`: the document of revision `old` has ended with revision `ended`.
    #[must_use]
    pub fn ended_notification(ended: u64, old: u64, bucket: &BucketName) -> Vec<u8> {
        Key::new().u8(NOTIFICATION_ENDED).u64(ended).u64(old).bytes(bucket.as_str().as_bytes()).0
    }

    /// The revisions and bucket in the key of a document that has ended.
    ///
    /// # Errors
    /// [`DecodeError`] when the row key has no such form.
    pub fn ended_notification_parts(key: &[u8]) -> Result<(u64, u64, BucketName), DecodeError> {
        let parts = || Some((u64_at(key, 3)?, u64_at(key, 11)?, text_from(key, 19)?.parse().ok()?));
        parts().ok_or_else(|| bad("key of a notification document that has ended"))
    }

    fn text_from(key: &[u8], at: usize) -> Option<String> {
        String::from_utf8(key.get(at..)?.to_vec()).ok()
    }

    fn bad(what: &'static str) -> DecodeError {
        DecodeError { what, source: minicbor::decode::Error::message("it is cut short") }
    }

    fn u64_at(key: &[u8], at: usize) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
    }

    fn u32_at(key: &[u8], at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?))
    }

    fn place(bytes: &[u8]) -> Option<Place> {
        let ordinal = u16::from_be_bytes(bytes.get(8..10)?.try_into().ok()?);
        Some(Place { revision: u64_at(bytes, 0)?, ordinal })
    }

    /// The escaped component at the start of `bytes`, and what follows it.
    fn unescape(bytes: &[u8]) -> Option<(String, &[u8])> {
        let mut text = Vec::new();
        let mut rest = bytes.iter().enumerate();
        while let Some((_, &byte)) = rest.next() {
            if byte != 0 {
                text.push(byte);
                continue;
            }
            match rest.next()? {
                (_, 0xff) => text.push(0),
                (at, 1) => return Some((String::from_utf8(text).ok()?, &bytes[at + 1..])),
                _ => return None,
            }
        }
        None
    }
}
