//! Topics: messages in order, and how long they are kept.
//!
//! A publish takes the next offsets, so the order of offsets is that of commits and has no gap. Messages go from the old end
//! only, by [`TrimTopic`], and [`TopicRow::oldest`] tells how far: who asks for less is told so, never given a topic with a
//! hole. Retention does not wait for groups; a group that was overtaken goes on at the oldest and counts what it missed.
//!
//! A deleted topic is gone at once; its rows, of which there may be any number, go in steps: a row names what is doomed, and
//! a job drains it. So a delete is bounded work and nothing has to be emptied first.

pub(crate) mod group;

use crate::apply::Txn;
use crate::command::{DeleteTopic, Publish, Published, Reply, SetTopic, TrimTopic};
use crate::effect::Effect;
use crate::error::Error;
use crate::id::{Millis, Revision};
use crate::keyspace::{Keyspace, key::topic as key};
use crate::kv::KeyRange;
use crate::record::Record as _;
use crate::rules::{HISTORY_MS_MAX, JOB_ROWS_MAX};
use crate::state::Stop;
use crate::topic::{DeadLetter, GroupRow, Message, MessageRow, TopicRow};

/// Bytes of the name of a topic or group.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;
/// Bytes of a message's value.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message's key.
pub const MESSAGE_KEY_BYTES_MAX: usize = 1024;
/// Attributes of a message.
pub const MESSAGE_ATTRIBUTES_MAX: usize = 64;
/// Bytes of a message's attributes and content type.
pub const MESSAGE_ATTRIBUTES_BYTES_MAX: usize = 8 << 10;
/// Messages of one publish.
pub const PUBLISH_MESSAGES_MAX: usize = 1000;
/// Bytes of one publish: it travels in a command.
pub const PUBLISH_BYTES_MAX: usize = 2 << 20;
/// How long messages are kept unless the topic says otherwise.
pub const TOPIC_KEEP_MS_DEFAULT: Millis = 7 * 24 * 60 * 60 * 1000;
/// Shortest time that a topic may say.
pub const TOPIC_KEEP_MS_MIN: Millis = 1000;
/// Longest.
pub const TOPIC_KEEP_MS_MAX: Millis = HISTORY_MS_MAX;
/// How many bytes of messages are kept unless the topic says otherwise.
pub const TOPIC_KEEP_BYTES_DEFAULT: u64 = 1 << 30;
/// Most that a topic may say.
pub const TOPIC_KEEP_BYTES_MAX: u64 = 1 << 40;
/// Topics.
pub const TOPICS_MAX: usize = 10_000;
/// Groups of one topic.
pub const GROUPS_MAX: u32 = 1000;
/// Messages that a group's leases hold or that it is to get again.
pub const GROUP_PENDING_MAX: u32 = 10_000;
/// Messages of one claim.
pub const CLAIM_MESSAGES_MAX: u32 = 1000;
/// Bytes of messages after which a claim takes no further one: what it holds may have to be moved by one command.
pub const CLAIM_BYTES_MAX: usize = 4 << 20;
/// Life of a claim unless it or its group says otherwise.
pub const CLAIM_TTL_MS_DEFAULT: Millis = 30_000;
/// Bytes of messages that one command of the job reads before it stops and says that more is to do.
pub const TRIM_BYTES_MAX: usize = 16 << 20;
/// Most deliveries that a group may say.
pub const DELIVERIES_MAX: u32 = 1000;

fn check_name(name: &str) -> Result<(), Error> {
    let bad = name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX || matches!(name, "." | "..");
    if bad || name.contains(|c: char| c.is_control() || c == '/') {
        return Err(Error::invalid(
            "a name of a topic or group has 1 to 255 bytes, no slash and no control characters, and is not . or ..",
        ));
    }
    Ok(())
}

/// The bytes that count against [`PUBLISH_BYTES_MAX`].
fn check_message(message: &Message) -> Result<usize, Error> {
    let key = message.key.as_ref().map_or(0, String::len);
    if message.value.len() > MESSAGE_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    if key > MESSAGE_KEY_BYTES_MAX {
        return Err(Error::invalid("a message's key has at most 1,024 bytes"));
    }
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let attributes = attributes + message.content_type.as_ref().map_or(0, String::len);
    if message.attributes.len() > MESSAGE_ATTRIBUTES_MAX || attributes > MESSAGE_ATTRIBUTES_BYTES_MAX {
        return Err(Error::invalid("a message has at most 64 attributes of 8 KiB, its content type included"));
    }
    Ok(message.value.len() + key + attributes)
}

/// The topic, or a new one with the default settings. Topics of dead letters, one for each group at most, are not counted
/// against the bound: a lease that could not end would hold up all others.
fn load_or_new(txn: &Txn<'_>, name: &str, bounded: bool) -> Result<TopicRow, Stop> {
    match txn.reader().topic(name) {
        Err(Stop::Refused(Error::NoSuchTopic)) if bounded && is_full(txn)? => {
            Err(Error::invalid("there are 10,000 topics already").into())
        }
        Err(Stop::Refused(Error::NoSuchTopic)) => Ok(TopicRow {
            id: txn.revision(),
            created_ms: txn.now_ms(),
            keep_ms: TOPIC_KEEP_MS_DEFAULT,
            keep_bytes: TOPIC_KEEP_BYTES_DEFAULT,
            oldest: 0,
            next: 0,
            bytes: 0,
            groups: 0,
            oldest_ms: 0,
        }),
        found => found,
    }
}

/// Whether there are as many topics as may be. They are counted only when one is to be made.
fn is_full(txn: &Txn<'_>) -> Result<bool, Stop> {
    let all = txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::topic("")));
    let counted = all.take(TOPICS_MAX).try_fold(0, |count, row| row.map(|_| count + 1))?;
    Ok(counted >= TOPICS_MAX)
}

fn save(txn: &mut Txn<'_>, name: &str, row: &TopicRow) {
    txn.put(Keyspace::Topics, key::topic(name), row);
}

pub(crate) fn set(txn: &mut Txn<'_>, op: &SetTopic) -> Result<Reply, Stop> {
    check_name(&op.topic)?;
    let mut row = load_or_new(txn, &op.topic, true)?;
    row.keep_ms = op.keep_ms.unwrap_or(row.keep_ms);
    row.keep_bytes = op.keep_bytes.unwrap_or(row.keep_bytes);
    if !(TOPIC_KEEP_MS_MIN..=TOPIC_KEEP_MS_MAX).contains(&row.keep_ms) {
        return Err(Error::invalid("messages are kept from 1 second to 3,653 days").into());
    }
    if !(1..=TOPIC_KEEP_BYTES_MAX).contains(&row.keep_bytes) {
        return Err(Error::invalid("of messages at least 1 byte and at most 1 TiB is kept").into());
    }
    save(txn, &op.topic, &row);
    Ok(Reply::Done)
}

pub(crate) fn publish(txn: &mut Txn<'_>, op: &Publish) -> Result<Reply, Stop> {
    check_name(&op.topic)?;
    if op.messages.is_empty() || op.messages.len() > PUBLISH_MESSAGES_MAX {
        return Err(Error::invalid("a publish has 1 to 1,000 messages").into());
    }
    let mut bytes = 0;
    for message in &op.messages {
        bytes += check_message(message)?;
    }
    if bytes > PUBLISH_BYTES_MAX {
        return Err(Error::TooLarge.into());
    }
    let count = u32::try_from(op.messages.len()).unwrap_or(u32::MAX);
    let first = append(txn, &op.topic, true, op.messages.iter().map(|message| (message.clone(), None)))?;
    Ok(Reply::Published(Published { first, count }))
}

/// Writes messages at the end of a topic, which comes to be when there is none. The offset of the first.
fn append(
    txn: &mut Txn<'_>,
    name: &str,
    bounded: bool,
    messages: impl IntoIterator<Item = (Message, Option<DeadLetter>)>,
) -> Result<u64, Stop> {
    let mut row = load_or_new(txn, name, bounded)?;
    let first = row.next;
    if row.oldest == row.next {
        row.oldest_ms = txn.now_ms();
    }
    for (message, dead) in messages {
        let row_key = key::message(row.id, row.next);
        let value = MessageRow { at_ms: txn.now_ms(), revision: txn.revision(), message, dead }.encode();
        row.bytes += (row_key.len() + value.len()) as u64;
        row.next += 1;
        txn.put_bytes(Keyspace::Topics, row_key, value);
    }
    save(txn, name, &row);
    txn.effect(Effect::Topic(row.id));
    Ok(first)
}

/// The topic, or a group of it, is gone with this commit; a job removes its messages.
pub(crate) fn delete(txn: &mut Txn<'_>, op: &DeleteTopic) -> Result<Reply, Stop> {
    if let Some(name) = &op.group {
        return group::delete(txn, &op.topic, name);
    }
    let row = txn.reader().topic(&op.topic)?;
    let mut groups = Vec::new();
    for group in txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::group(row.id, ""))) {
        let (row_key, value) = group?;
        groups.push((row_key.to_vec(), GroupRow::decode(&value)?.id));
    }
    for (row_key, id) in groups {
        txn.delete(Keyspace::Topics, row_key);
        doom(txn, id);
    }
    txn.delete(Keyspace::Topics, key::topic(&op.topic));
    doom(txn, row.id);
    // Whoever waits for its messages finds that it is gone.
    txn.effect(Effect::Topic(row.id));
    Ok(Reply::Done)
}

/// Rows under the id of a topic or group go later.
fn doom(txn: &mut Txn<'_>, id: Revision) {
    txn.put_bytes(Keyspace::Topics, key::doomed(id), Vec::new());
}

/// Removes messages that are too old or too many, or what deleted topics and groups left behind.
pub(crate) fn trim(txn: &mut Txn<'_>, op: &TrimTopic) -> Result<Reply, Stop> {
    if op.rows as usize > JOB_ROWS_MAX {
        return Err(Error::invalid("too many rows for one command").into());
    }
    match &op.topic {
        Some(topic) => trim_messages(txn, topic, op.rows),
        None => trim_doomed(txn, op.rows),
    }
}

fn trim_messages(txn: &mut Txn<'_>, name: &str, most: u32) -> Result<Reply, Stop> {
    let mut row = match txn.reader().topic(name) {
        Err(Stop::Refused(Error::NoSuchTopic)) => return Ok(Reply::Trimmed { rows: 0, more: false }),
        found => found?,
    };
    let (mut old, mut bytes, mut more) = (Vec::new(), 0, false);
    for message in txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::messages(row.id))) {
        let (row_key, value) = message?;
        row.oldest_ms = MessageRow::decode(&value)?.at_ms;
        if !row.is_over(row.oldest_ms, txn.now_ms()) {
            break;
        }
        if old.len() >= most as usize || bytes >= TRIM_BYTES_MAX {
            more = true;
            break;
        }
        row.oldest = key::offset(&row_key)? + 1;
        bytes += value.len();
        row.bytes -= (row_key.len() + value.len()) as u64;
        old.push(row_key.to_vec());
    }
    let rows = u32::try_from(old.len()).unwrap_or(u32::MAX);
    for row_key in old {
        txn.delete(Keyspace::Topics, row_key);
    }
    if rows > 0 {
        save(txn, name, &row);
    }
    Ok(Reply::Trimmed { rows, more })
}

fn trim_doomed(txn: &mut Txn<'_>, most: u32) -> Result<Reply, Stop> {
    let mut rows = 0;
    loop {
        let next = txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::all_doomed())).next().transpose()?;
        let Some((doomed, _)) = next else { return Ok(Reply::Trimmed { rows, more: false }) };
        let id = key::doomed_id(&doomed)?;
        // An id is a topic's or a group's: what has none of one kind costs a look.
        let (mut of_it, mut bytes) = (Vec::new(), 0);
        for prefix in [key::messages(id), key::redeliveries(id)] {
            for row in txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&prefix)) {
                if of_it.len() >= (most - rows) as usize || bytes >= TRIM_BYTES_MAX {
                    break;
                }
                let (row_key, value) = row?;
                bytes += value.len();
                of_it.push(row_key.to_vec());
            }
        }
        rows += u32::try_from(of_it.len()).unwrap_or(u32::MAX);
        of_it.into_iter().for_each(|row_key| txn.delete(Keyspace::Topics, row_key));
        if rows >= most || bytes >= TRIM_BYTES_MAX {
            return Ok(Reply::Trimmed { rows, more: true });
        }
        // Itself a row, so that many empty ones are bounded work, too.
        txn.delete(Keyspace::Topics, key::doomed(id));
        rows += 1;
    }
}
