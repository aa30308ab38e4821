//! Samples of topics and groups.

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::keyspace::key::topic as key;
use holdfast_core::topic::*;

use super::{Sample, sample, text_map};

fn message() -> Message {
    Message {
        key: Some("order-7".into()),
        attributes: text_map(&[("kind", "created"), ("region", "süd")]),
        content_type: Some("application/json".into()),
        value: b"{}".as_slice().into(),
    }
}

pub fn records() -> Vec<Sample> {
    let topic = TopicRow {
        id: 258,
        created_ms: 1_700_000_000_000,
        keep_ms: 604_800_000,
        keep_bytes: 1 << 30,
        oldest: 3,
        next: 10,
        bytes: 400,
        groups: 2,
        oldest_ms: 1_700_000_000_001,
    };
    let dead = DeadLetter { topic: "orders".into(), offset: 7, group: "billing".into(), deliveries: 5 };
    let row = MessageRow { at_ms: 1_700_000_000_001, revision: 260, message: message(), dead: Some(dead) };
    let group = GroupRow {
        id: 259,
        next: 9,
        pending: 2,
        redeliver: 1,
        ttl_ms: 30_000,
        max_deliveries: Some(5),
        dead_letter: Some("orders-dead".into()),
        missed: 4,
        given_up: 6,
        acknowledged: 70,
    };
    let claim = ClaimRow { topic_id: 258, topic: "orders".into(), group_id: 259, group: "billing".into(), messages: 2 };
    vec![
        sample("record-topic", topic),
        sample("record-message", row.clone()),
        sample("record-message-plain", MessageRow { message: Message::default(), dead: None, ..row }),
        sample("record-group", group),
        sample("record-claim", claim),
        sample("record-delivery", DeliveryRow { deliveries: 3 }),
    ]
}

pub fn keys() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("key-topic", key::topic("orders")),
        ("key-message", key::message(258, 7)),
        ("key-group", key::group(258, "billing")),
        ("key-claim", key::claim(260)),
        ("key-pending", key::pending(260, 7)),
        ("key-redelivery", key::redelivery(259, 7)),
        ("key-doomed-topic", key::doomed(258)),
    ]
}

pub fn ops() -> Vec<(&'static str, Op)> {
    let (topic, group) = (|| "orders".to_owned(), || "billing".to_owned());
    let set = SetGroup {
        topic: topic(),
        group: group(),
        from: vec![Start::Offset(7)],
        ttl_ms: Some(30_000),
        max_deliveries: Some(5),
        dead_letter: Some("orders-dead".into()),
    };
    let plain =
        SetGroup { from: vec![Start::Oldest], ttl_ms: None, max_deliveries: None, dead_letter: None, ..set.clone() };
    vec![
        ("set-topic", Op::SetTopic(SetTopic { topic: topic(), keep_ms: Some(60_000), keep_bytes: Some(1 << 20) })),
        ("delete-topic", Op::DeleteTopic(DeleteTopic { topic: topic(), group: Some(group()) })),
        ("publish", Op::Publish(Publish { topic: topic(), messages: vec![message(), Message::default()] })),
        ("set-group", Op::SetGroup(set)),
        ("set-group-oldest", Op::SetGroup(plain)),
        (
            "claim",
            Op::Claim(Claim { topic: topic(), group: group(), owner: "host-1".into(), max: 10, ttl_ms: Some(30_000) }),
        ),
        (
            "acknowledge",
            Op::Acknowledge(Acknowledge { topic: topic(), group: group(), lease: 260, offsets: Some(vec![7, 8]) }),
        ),
        ("trim-topic", Op::TrimTopic(TrimTopic { topic: Some(topic()), rows: 1000 })),
    ]
}

pub fn replies() -> Vec<Sample> {
    let messages = vec![Delivery { offset: 7, deliveries: 2 }, Delivery { offset: 9, deliveries: 1 }];
    let claimed = Claimed { topic: 258, lease: Some(260), ttl_ms: 30_000, messages };
    vec![
        sample("reply-published", Reply::Published(Published { first: 7, count: 2 })),
        sample("reply-claimed", Reply::Claimed(claimed)),
        sample("reply-acknowledged", Reply::Acknowledged(Acknowledged { count: 2, left: 1 })),
    ]
}

pub fn errors() -> [(&'static str, Error); 3] {
    [
        ("no-such-topic", Error::NoSuchTopic),
        ("no-such-group", Error::NoSuchGroup),
        ("offset-gone", Error::OffsetGone { oldest: 3 }),
    ]
}
