//! Topics over a real cluster: what waits is woken, and what nobody heard of is given back.

use futures::FutureExt as _;
use holdfast_core::command::{Acknowledge, Claim, SetGroup};
use holdfast_core::topic::{Message, Start};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

fn want(max: u32) -> Claim {
    let (topic, group, owner) = ("t".into(), "g".into(), "me".into());
    Claim { topic, group, owner, max, ttl_ms: Some(3_600_000) }
}

async fn publish(node: &Node, count: usize) {
    let messages = vec![Message { value: Bytes::from_static(b"x"), ..Message::default() }; count];
    node.gateway.publish(&root(), "t".into(), messages).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_heard_of_is_given_back() {
    let node = Node::start().await;
    publish(&node, 1000).await;
    let mut heard = 0;
    for number in 0..60 {
        let (call, patience) = (root(), Duration::from_micros(number * 60));
        let claim = node.gateway.claim(&call, want(10), Duration::ZERO);
        // A timer is no finer than a millisecond, which may be enough for all: some are looked at once only.
        let claimed = if number % 3 == 0 { claim.now_or_never() } else { timeout(patience, claim).await.ok() };
        let Some(claimed) = claimed else { continue };
        let lease = claimed.unwrap().value.lease.unwrap();
        node.gateway.release_lease(&root(), lease, None).await.unwrap();
        heard += 1;
    }
    assert!(heard < 60, "all were heard of");
    // No lease ends by itself for an hour.
    let all_given_back = async {
        loop {
            let (topic, group) = node.gateway.group(&root(), "t", "g").await.unwrap().value;
            if group.pending == 0 {
                assert_eq!(u64::from(group.redeliver) + group.undelivered(&topic), 1000);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), all_given_back).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_wait_get_each_message_once() {
    let node = Node::start().await;
    publish(&node, 1).await;
    let group = SetGroup {
        topic: "t".into(),
        group: "g".into(),
        from: vec![Start::Latest],
        ttl_ms: None,
        max_deliveries: None,
        dead_letter: None,
    };
    node.gateway.set_group(&root(), group).await.unwrap();
    let mut consumers = JoinSet::new();
    for _ in 0..20 {
        let gateway = node.gateway.clone();
        consumers.spawn(async move {
            let mut got = Vec::new();
            loop {
                let claimed = gateway.claim(&root(), want(3), Duration::from_secs(2)).await.unwrap().value;
                let Some(lease) = claimed.lease else { return got };
                got.extend(claimed.messages.iter().map(|(delivery, _)| delivery.offset));
                let done = Acknowledge { topic: "t".into(), group: "g".into(), lease, offsets: None };
                assert_eq!(gateway.acknowledge(&root(), done).await.unwrap().value.left, 0);
            }
        });
    }
    for _ in 0..50 {
        publish(&node, 2).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut got = Vec::new();
    while let Some(consumer) = consumers.join_next().await {
        got.extend(consumer.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (1..=100).collect::<Vec<u64>>());
    node.stop().await;
}
