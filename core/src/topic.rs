//! Topics, their messages and groups: their rows, and reads of them. What changes them is in `rules::topic`.
//!
//! A topic is a log of its own: messages have offsets without a gap, from 0 on, and go from the old end only. A group is a
//! cursor that many consumers share. Whoever consumes claims messages for the life of a lease, so there is one clock for
//! locks and claims alike; see `rules::topic::group`.

use std::collections::BTreeMap;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::command::Delivery;
use crate::error::Error;
use crate::id::{Millis, Revision};
use crate::keyspace::{Keyspace, key::topic as key};
use crate::kv::KeyRange;
use crate::record::{Record, record};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::View;

/// What somebody publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Message {
    /// What it is about; the rules do not look at it.
    #[n(0)]
    pub key: Option<String>,
    /// What the publisher says besides.
    #[n(1)]
    pub attributes: BTreeMap<String, String>,
    /// Type of the value.
    #[n(2)]
    pub content_type: Option<String>,
    /// The value.
    #[cbor(n(3), with = "crate::command::shared_bytes")]
    pub value: Bytes,
}

/// Where a group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Start {
    /// At the oldest message that is kept.
    #[n(0)]
    Oldest,
    /// At the next that is published.
    #[n(1)]
    Latest,
    /// At this one.
    #[n(2)]
    Offset(#[n(0)] u64),
}

/// A topic. Key: name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TopicRow {
    /// Identity: the revision that made it.
    #[n(0)]
    pub id: Revision,
    /// When.
    #[n(1)]
    pub created_ms: Millis,
    /// How long messages are kept.
    #[n(2)]
    pub keep_ms: Millis,
    /// How many bytes of them.
    #[n(3)]
    pub keep_bytes: u64,
    /// Offset of the oldest message that is kept.
    #[n(4)]
    pub oldest: u64,
    /// Offset of the next one that is published.
    #[n(5)]
    pub next: u64,
    /// Bytes of the messages, keys of rows included.
    #[n(6)]
    pub bytes: u64,
    /// Groups.
    #[n(7)]
    pub groups: u32,
    /// When the oldest was published; no meaning without messages.
    #[n(8)]
    pub oldest_ms: Millis,
}

impl TopicRow {
    /// Whether messages are too old or too many.
    #[must_use]
    pub fn is_trim_due(&self, now_ms: Millis) -> bool {
        self.oldest < self.next && self.is_over(self.oldest_ms, now_ms)
    }

    pub(crate) fn is_over(&self, at_ms: Millis, now_ms: Millis) -> bool {
        at_ms.saturating_add(self.keep_ms) < now_ms || self.bytes > self.keep_bytes
    }
}

/// A message. Key: topic id, offset.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MessageRow {
    /// State time of its commit.
    #[n(0)]
    pub at_ms: Millis,
    /// Revision of its commit.
    #[n(1)]
    pub revision: Revision,
    /// What was published.
    #[n(2)]
    pub message: Message,
    /// Of a message that was given up elsewhere: where.
    #[n(3)]
    pub dead: Option<DeadLetter>,
}

/// Where a dead letter comes from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeadLetter {
    /// The topic it was published to.
    #[n(0)]
    pub topic: String,
    /// Its offset there.
    #[n(1)]
    pub offset: u64,
    /// The group that gave it up.
    #[n(2)]
    pub group: String,
    /// How often it was delivered.
    #[n(3)]
    pub deliveries: u32,
}

/// A group: a cursor that consumers share. Key: topic id, name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GroupRow {
    /// Identity: the revision that made it.
    #[n(0)]
    pub id: Revision,
    /// Offset of the next message that was never delivered.
    #[n(1)]
    pub next: u64,
    /// Messages that leases hold.
    #[n(2)]
    pub pending: u32,
    /// Messages that are to be delivered again.
    #[n(3)]
    pub redeliver: u32,
    /// Life of a claim that names none.
    #[n(4)]
    pub ttl_ms: Millis,
    /// How often a message is delivered before it is given up.
    #[n(5)]
    pub max_deliveries: Option<u32>,
    /// The topic that gets what is given up; without one it is dropped.
    #[n(6)]
    pub dead_letter: Option<String>,
    /// Messages that were trimmed before they were acknowledged.
    #[n(7)]
    pub missed: u64,
    /// Messages that were given up.
    #[n(8)]
    pub given_up: u64,
    /// Messages that were acknowledged.
    #[n(9)]
    pub acknowledged: u64,
}

impl GroupRow {
    /// Messages that were never delivered.
    #[must_use]
    pub fn undelivered(&self, topic: &TopicRow) -> u64 {
        topic.next.saturating_sub(self.next.max(topic.oldest))
    }

    /// Whether a claim would find something.
    #[must_use]
    pub fn has_work(&self, topic: &TopicRow) -> bool {
        self.redeliver > 0 || (self.undelivered(topic) > 0 && self.has_room())
    }

    pub(crate) fn has_room(&self) -> bool {
        u64::from(self.pending) + u64::from(self.redeliver) < u64::from(crate::rules::topic::GROUP_PENDING_MAX)
    }
}

/// What a lease has claimed. Key: the lease.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ClaimRow {
    /// Topic id.
    #[n(0)]
    pub topic_id: Revision,
    /// The topic's name.
    #[n(1)]
    pub topic: String,
    /// Group id.
    #[n(2)]
    pub group_id: Revision,
    /// The group's name.
    #[n(3)]
    pub group: String,
    /// Messages that it holds.
    #[n(4)]
    pub messages: u32,
}

/// A message that a lease holds (key: lease, offset), or that is to be delivered again (key: group id, offset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeliveryRow {
    /// How often it was delivered.
    #[n(0)]
    pub deliveries: u32,
}

record! {
    TopicRow => "topic",
    MessageRow => "message",
    GroupRow => "group",
    ClaimRow => "claim",
    DeliveryRow => "delivery",
}

/// Some messages in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagePage {
    /// Each with its offset.
    pub messages: Vec<(u64, MessageRow)>,
    /// Where to go on.
    pub next: u64,
    /// The topic.
    pub topic: TopicRow,
}

/// How much to read.
#[derive(Clone, Copy, Debug)]
pub struct Much {
    /// Most messages.
    pub messages: usize,
    /// Bytes of rows after which no further one is read.
    pub bytes: usize,
}

impl View<'_> {
    /// A topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`], [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn topic(&self, permit: &Permit, name: &str) -> Result<TopicRow, Stop> {
        permit.require(&[Action::UseTopics])?;
        self.reader.topic(name)
    }

    /// Topics after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn topics(&self, permit: &Permit, after: &str, limit: usize) -> Result<Vec<(String, TopicRow)>, Stop> {
        permit.require(&[Action::UseTopics, Action::Maintain])?;
        named(self.reader, &key::topic(""), after, limit, key::topic_name)
    }

    /// A topic's groups after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`View::topics`].
    pub fn groups(
        &self,
        permit: &Permit,
        topic: &TopicRow,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, GroupRow)>, Stop> {
        permit.require(&[Action::UseTopics])?;
        named(self.reader, &key::group(topic.id, ""), after, limit, key::group_name)
    }

    /// A group.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`]; as [`View::topics`].
    pub fn group(&self, permit: &Permit, topic: &TopicRow, name: &str) -> Result<GroupRow, Stop> {
        permit.require(&[Action::UseTopics])?;
        Ok(self.reader.group(topic.id, name)?.ok_or(Error::NoSuchGroup)?)
    }

    /// The messages from an offset on.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::OffsetGone`] when the first of them is not kept any more;
    /// [`Error::InvalidArgument`] when the offset lies ahead; as [`View::topics`].
    pub fn messages(&self, permit: &Permit, name: &str, from: Start, much: Much) -> Result<MessagePage, Stop> {
        permit.require(&[Action::UseTopics])?;
        let topic = self.reader.topic(name)?;
        let from = match from {
            Start::Oldest => topic.oldest,
            Start::Latest => topic.next,
            Start::Offset(offset) if offset < topic.oldest => {
                return Err(Error::OffsetGone { oldest: topic.oldest }.into());
            }
            Start::Offset(offset) if offset > topic.next => return Err(ahead().into()),
            Start::Offset(offset) => offset,
        };
        let mut page = MessagePage { messages: Vec::new(), next: from, topic };
        let range = KeyRange::prefix_from(&key::messages(topic.id), key::message(topic.id, from));
        let mut bytes = 0;
        for row in self.reader.rows(Keyspace::Topics, range).take(much.messages) {
            let (row_key, value) = row?;
            let offset = key::offset(&row_key)?;
            page.next = offset + 1;
            bytes += value.len();
            page.messages.push((offset, <MessageRow as Record>::decode(&value)?));
            if bytes >= much.bytes {
                break;
            }
        }
        Ok(page)
    }

    /// The messages of a claim, without those that were trimmed meanwhile.
    ///
    /// # Errors
    /// As [`View::topics`].
    pub fn delivered(
        &self,
        permit: &Permit,
        topic: Revision,
        deliveries: &[Delivery],
    ) -> Result<Vec<(Delivery, MessageRow)>, Stop> {
        permit.require(&[Action::UseTopics])?;
        let mut found = Vec::new();
        for delivery in deliveries {
            if let Some(row) = self.reader.message(topic, delivery.offset)? {
                found.push((*delivery, row));
            }
        }
        Ok(found)
    }

    /// Whether rows of deleted topics or groups remain.
    ///
    /// # Errors
    /// As [`View::topics`].
    pub fn has_doomed_topics(&self, permit: &Permit) -> Result<bool, Stop> {
        permit.require(&[Action::Maintain])?;
        self.reader.any(Keyspace::Topics, &key::all_doomed())
    }
}

/// An offset that nothing was published at.
pub(crate) fn ahead() -> Error {
    Error::invalid("the offset is ahead of the topic: it is mistyped, or of another topic")
}

/// Rows under `prefix` whose name is after `after`.
fn named<R: Record>(
    reader: Reader<'_>,
    prefix: &[u8],
    after: &str,
    limit: usize,
    name: fn(&[u8]) -> Result<String, crate::record::DecodeError>,
) -> Result<Vec<(String, R)>, Stop> {
    let mut from = prefix.to_vec();
    if !after.is_empty() {
        from.extend(after.as_bytes());
        from.push(0);
    }
    let rows = reader.rows(Keyspace::Topics, KeyRange::prefix_from(prefix, from)).take(limit);
    rows.map(|row| {
        let (row_key, value) = row?;
        Ok((name(&row_key)?, R::decode(&value)?))
    })
    .collect()
}

impl Reader<'_> {
    pub(crate) fn topic(self, name: &str) -> Result<TopicRow, Stop> {
        Ok(self.row(Keyspace::Topics, &key::topic(name))?.ok_or(Error::NoSuchTopic)?)
    }

    pub(crate) fn group(self, topic: Revision, name: &str) -> Result<Option<GroupRow>, Stop> {
        self.row(Keyspace::Topics, &key::group(topic, name))
    }

    pub(crate) fn message(self, topic: Revision, offset: u64) -> Result<Option<MessageRow>, Stop> {
        self.row(Keyspace::Topics, &key::message(topic, offset))
    }
}
