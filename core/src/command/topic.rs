//! Commands of topics and their groups, and what they reply.

use minicbor::{Decode, Encode};

use crate::id::{Millis, Revision};
use crate::record::known;
use crate::topic::{Message, Start};

/// See [`super::Op::SetTopic`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetTopic {
    /// The topic.
    #[n(0)]
    pub topic: String,
    /// How long messages are kept; `None` leaves it, or is the default of a new topic.
    #[n(1)]
    pub keep_ms: Option<Millis>,
    /// How many bytes of them; as above.
    #[n(2)]
    pub keep_bytes: Option<u64>,
}

/// See [`super::Op::DeleteTopic`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeleteTopic {
    /// The topic.
    #[n(0)]
    pub topic: String,
    /// One of its groups, which goes alone.
    #[n(1)]
    pub group: Option<String>,
}

/// See [`super::Op::Publish`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Publish {
    /// The topic; it comes to be with the default settings when there is none.
    #[n(0)]
    pub topic: String,
    /// Messages, in order.
    #[n(1)]
    pub messages: Vec<Message>,
}

/// See [`super::Op::SetGroup`]. What is `None` stays, or is the default of a new group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetGroup {
    /// The topic.
    #[n(0)]
    pub topic: String,
    /// The group.
    #[n(1)]
    pub group: String,
    /// Where it begins. A group that exists begins anew there: nothing that was claimed before counts any more. Empty or
    /// one.
    #[cbor(n(2), decode_with = "known")]
    pub from: Vec<Start>,
    /// Life of a claim that names none.
    #[n(3)]
    pub ttl_ms: Option<Millis>,
    /// How often a message is delivered before it is given up; 0 is without end.
    #[n(4)]
    pub max_deliveries: Option<u32>,
    /// The topic that gets what is given up; an empty name is none.
    #[n(5)]
    pub dead_letter: Option<String>,
}

/// See [`super::Op::Claim`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claim {
    /// The topic.
    #[n(0)]
    pub topic: String,
    /// The group; it comes to be, from the oldest message on, when there is none.
    #[n(1)]
    pub group: String,
    /// Who, as it names itself.
    #[n(2)]
    pub owner: String,
    /// Most messages.
    #[n(3)]
    pub max: u32,
    /// Life of the lease; `None` is the group's.
    #[n(4)]
    pub ttl_ms: Option<Millis>,
}

/// See [`super::Op::Acknowledge`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Acknowledge {
    /// The topic that the claim must be of.
    #[n(0)]
    pub topic: String,
    /// The group that the claim must be of.
    #[n(1)]
    pub group: String,
    /// The lease of the claim.
    #[n(2)]
    pub lease: Revision,
    /// Which messages; `None` is all. What the claim does not hold is passed over.
    #[n(3)]
    pub offsets: Option<Vec<u64>>,
}

/// See [`super::Op::TrimTopic`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TrimTopic {
    /// The topic whose old messages go; `None` removes rows of deleted topics and groups.
    #[n(0)]
    pub topic: Option<String>,
    /// Most rows to remove, at most [`crate::rules::JOB_ROWS_MAX`].
    #[n(1)]
    pub rows: u32,
}

/// Messages that were published.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Published {
    /// Offset of the first; the others follow without a gap.
    #[n(0)]
    pub first: u64,
    /// How many.
    #[n(1)]
    pub count: u32,
}

/// What a claim got. The messages themselves are read from their rows, so that no stored reply repeats them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claimed {
    /// The topic's id.
    #[n(0)]
    pub topic: Revision,
    /// The lease; none when there was nothing to claim.
    #[n(1)]
    pub lease: Option<Revision>,
    /// Its life.
    #[n(2)]
    pub ttl_ms: Millis,
    /// Which messages.
    #[n(3)]
    pub messages: Vec<Delivery>,
}

/// A message that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Delivery {
    /// Which.
    #[n(0)]
    pub offset: u64,
    /// How often it was delivered to the group, this time included.
    #[n(1)]
    pub deliveries: u32,
}

/// What an acknowledgement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Acknowledged {
    /// Messages that were acknowledged by it.
    #[n(0)]
    pub count: u32,
    /// Messages that the claim still holds; at 0 its lease has ended.
    #[n(1)]
    pub left: u32,
}
