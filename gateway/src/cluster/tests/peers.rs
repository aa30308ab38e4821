//! Clusters of several nodes: forming, writing and reading anywhere, losing nodes and messages, changing members.

use super::world::{World, leader, make_bucket, put_in, put_until, stop, until};
use super::*;
use crate::cluster::CommittedEntries;
use crate::cluster::peer::switchboard::Passage;
use crate::cluster::restore::Restore;

const THREE: [&str; 3] = ["a:1", "b:1", "c:1"];

fn in_short() -> Instant {
    Instant::now() + Duration::from_millis(1500)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_any_node_is_read_on_all() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    for (number, writer) in nodes.iter().enumerate() {
        let (key, text) = (format!("key-{number}"), number.to_string());
        let revision = put_in(writer, bucket, &key, text.as_bytes()).await.unwrap();
        let own = writer.view(Consistency::Local, soon()).await.unwrap();
        assert!(own.revision() >= revision, "the writer's own state has it");
        for reader in &nodes {
            assert_eq!(value(reader, &key).await.as_deref(), Some(text.as_bytes()));
        }
    }
    let ids: std::collections::BTreeSet<_> = nodes.iter().map(|node| node.identity().node_id).collect();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    let members = nodes[2].members(soon()).await.unwrap();
    assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
    assert_eq!(members.iter().filter(|member| member.leader).count(), 1);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_first_starts_make_one_cluster() {
    for round in 0..20 {
        let world = World::new(round, 3);
        let nodes = world.form(&THREE).await;
        let clusters: std::collections::BTreeSet<_> = nodes.iter().map(|node| &node.identity().cluster_id).collect();
        assert_eq!(clusters.len(), 1, "round {round}");
        let ids: std::collections::BTreeSet<_> = nodes.iter().map(|node| node.identity().node_id).collect();
        assert_eq!(ids.len(), 3, "round {round}");
        make_bucket(&nodes[round as usize % 3]).await;
        stop(nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_nodes_than_expected_wait_and_begin_nothing() {
    let world = World::new(1, 3);
    let two = async { tokio::join!(world.start("a:1"), world.start("b:1")) };
    let opened = tokio::time::timeout(Duration::from_secs(3), two).await;
    assert!(opened.is_err(), "two of three do not begin");
    use crate::cluster::claim::ClusterClaim as _;
    assert_eq!(world.claim.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_leader_that_was_cut_off_fails_rather_than_being_stale() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    put_in(&nodes[0], bucket, "key", b"old").await.unwrap();
    let old = leader(&nodes).await;
    world.board.isolate(THREE[old]);
    let rest: Vec<_> = nodes.iter().enumerate().filter(|(at, _)| *at != old).map(|(_, node)| node.clone()).collect();
    put_in(&rest[0], bucket, "key", b"new").await.unwrap();
    let read = nodes[old].view(Consistency::Linearizable, in_short()).await;
    assert!(matches!(read, Err(Error::Unavailable(_))), "{:?}", read.err());
    let written = put_until(&nodes[old], bucket, "key", b"lost", in_short()).await;
    assert!(matches!(written, Err(Error::Unavailable(_) | Error::UnknownOutcome(_))), "{written:?}");
    assert!(!nodes[old].is_ready());
    world.board.heal();
    assert_eq!(value(&nodes[old], "key").await, Some(b"new".to_vec()));
    nodes[old].wait_ready(soon()).await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_the_leader() {
    let world = World::new(1, 3);
    let mut nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    for number in 0..100 {
        put_in(&nodes[number % 3], bucket, &format!("key-{number}"), b"value").await.unwrap();
    }
    let old = leader(&nodes).await;
    let began = Instant::now();
    world.kill(THREE[old], nodes.remove(old)).await;
    put_in(&nodes[0], bucket, "after", b"value").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "a new leader came after {:?}", began.elapsed());
    for node in &nodes {
        for number in 0..100 {
            assert_eq!(value(node, &format!("key-{number}")).await, Some(b"value".to_vec()));
        }
    }
    // It comes back as what it was.
    let back = world.start(THREE[old]).await;
    assert_eq!(value(&back, "after").await, Some(b"value".to_vec()));
    nodes.push(back);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_are_applied_once() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    let at = leader(&nodes).await;
    let follower = &nodes[(at + 1) % 3];
    let before = put_in(follower, bucket, "key", b"before").await.unwrap();
    let mut left = 1;
    world.board.set_filter(Some(Box::new(move |passage: &Passage<'_>| {
        let lose = passage.method == "propose" && passage.is_reply && left > 0;
        left -= i32::from(lose);
        lose
    })));
    let command = sample::in_bucket(sample::put("key", b"once"), bucket);
    let committed = follower.propose(command.clone(), normal()).await.unwrap();
    // The copies are in the log as well, and say what the first one did and when.
    assert_eq!(committed.revision, before + 1);
    let again = nodes[at].propose(command, normal()).await.unwrap();
    assert_eq!((committed.revision, &committed.reply), (again.revision, &again.reply));
    assert!(nodes[at].status().revision > before + 2, "two copies are in the log");
    // With all replies lost the outcome is unknown, and says so.
    world.board.set_filter(Some(Box::new(|passage| passage.method == "propose" && passage.is_reply)));
    let open = put_until(follower, bucket, "key", b"open", in_short()).await;
    assert!(matches!(open, Err(Error::UnknownOutcome(_))), "{open:?}");
    world.board.heal();
    assert_eq!(value(follower, "key").await, Some(b"open".to_vec()), "it was done");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_refused_by_the_leader() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    let at = leader(&nodes).await;
    for off_ms in [-400_000_i64, 400_000] {
        let mut command = sample::in_bucket(sample::put("key", b"value"), bucket);
        command.stamp_ms = command.stamp_ms.saturating_add_signed(off_ms);
        let refused = nodes[(at + 1) % 3].propose(command, normal()).await.unwrap_err();
        assert!(matches!(&refused, Error::Unavailable(why) if why.contains("clock")), "{refused}");
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_serves_all_readers_that_were_waiting() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    make_bucket(&nodes[0]).await;
    let at = leader(&nodes).await;
    let follower = nodes[(at + 1) % 3].clone();
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = asked.clone();
    world.board.set_faults(crate::cluster::peer::switchboard::Faults { delay_ms_max: 5, ..Default::default() });
    world.board.set_filter(Some(Box::new(move |passage| {
        count.fetch_add(u64::from(passage.method == "read-index" && !passage.is_reply), Ordering::SeqCst);
        false
    })));
    let mut readers = JoinSet::new();
    for _ in 0..500 {
        let follower = follower.clone();
        readers.spawn(async move { follower.view(Consistency::Linearizable, soon()).await.map(|_| ()) });
    }
    for read in readers.join_all().await {
        read.unwrap();
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..100).contains(&asked), "{asked} requests for 500 reads");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let world = World::new(1, 3);
    let small = |address: &str| ClusterConfig { snapshot_bytes: 200 << 10, log_keep_bytes: 0, ..world.config(address) };
    let nodes = futures::future::join_all(THREE.iter().map(|address| world.start_with(small(address)))).await;
    let mut nodes: Vec<_> = nodes;
    let bucket = make_bucket(&nodes[0]).await;
    let at = leader(&nodes).await;
    let away = (at + 1) % 3;
    world.kill(THREE[away], nodes.remove(away)).await;
    for number in 0..60 {
        put_in(&nodes[0], bucket, &format!("key-{}", number % 7), &vec![number; 100_000]).await.unwrap();
    }
    until("the log is purged", async || nodes.iter().all(|node| node.local.log.purged().is_some())).await;
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = sent.clone();
    world.board.set_filter(Some(Box::new(move |passage| {
        count.fetch_add(u64::from(passage.method == "snapshot" && !passage.is_reply), Ordering::SeqCst);
        false
    })));
    let back = world.start_with(small(THREE[away])).await;
    assert_eq!(value(&back, "key-3").await, Some(vec![59; 100_000]));
    assert!(sent.load(Ordering::SeqCst) > 0, "through a snapshot");
    put_in(&back, bucket, "after", b"value").await.unwrap();
    nodes.push(back);
    until("no file is left behind", async || {
        THREE.iter().all(|address| {
            let left = std::fs::read_dir(world.dir(address).join("state")).unwrap();
            left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("snapshot-")).count()
                == 0
        })
    })
    .await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_a_new_node_and_takes_the_place_of_the_old() {
    let world = World::new(1, 3);
    let mut nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    put_in(&nodes[0], bucket, "key", b"value").await.unwrap();
    let at = leader(&nodes).await;
    let gone = (at + 1) % 3;
    let old = nodes[gone].identity().clone();
    world.kill(THREE[gone], nodes.remove(gone)).await;
    world.wipe(THREE[gone]);
    let new = world.start(THREE[gone]).await;
    assert_eq!(new.identity().cluster_id, old.cluster_id);
    assert!(new.identity().node_id > 1000, "{:?}", new.identity());
    nodes.push(new.clone());
    let voters = async |node: &Cluster| {
        let members = node.members(soon()).await.unwrap();
        members.into_iter().filter(|member| member.voter).map(|member| member.id).collect::<Vec<_>>()
    };
    until("it votes, and the old one does not", async || {
        let voters = voters(&nodes[0]).await;
        voters.len() == 3 && voters.contains(&new.identity().node_id) && !voters.contains(&old.node_id)
    })
    .await;
    assert_eq!(value(&new, "key").await, Some(b"value".to_vec()));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_removed_within_bounds_and_never_come_back() {
    let world = World::new(1, 3);
    let mut nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    let at = leader(&nodes).await;
    let gone = (at + 1) % 3;
    let victim = nodes[gone].identity().node_id;
    let refused = nodes[at].remove_member(victim, soon()).await.unwrap_err();
    assert!(refused.to_string().contains("minimum"), "{refused}");
    let fourth = world.start("d:1").await;
    let id = fourth.identity().node_id;
    until("the new node has caught up", async || {
        let members = nodes[at].members(soon()).await.unwrap();
        members.iter().any(|member| member.id == id && member.lag.is_some_and(|lag| lag < 10))
    })
    .await;
    let removed = nodes.remove(gone);
    removed.remove_member(victim, soon()).await.unwrap();
    let members = nodes[0].members(soon()).await.unwrap();
    assert!(members.iter().all(|member| member.id != victim), "{members:?}");
    assert!(members.iter().any(|member| member.id == id && member.voter), "{members:?}");
    until("the removed node knows", async || removed.not_ready().is_some_and(|why| why.contains("not a member"))).await;
    let lost = put_until(&removed, bucket, "key", b"value", in_short()).await;
    assert!(lost.is_err(), "{lost:?}");
    nodes.push(fourth);
    put_in(&nodes[2], bucket, "key", b"value").await.unwrap();
    nodes.push(removed);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_before_a_leader_stops() {
    let world = World::new(1, 3);
    let mut nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    let old = leader(&nodes).await;
    let began = Instant::now();
    nodes.remove(old).shutdown(soon()).await.unwrap();
    world.board.hang_up(THREE[old]);
    put_in(&nodes[0], bucket, "key", b"value").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_three() {
    let world = World::new(1, 1);
    let mut nodes = world.form(&["a:1"]).await;
    let bucket = make_bucket(&nodes[0]).await;
    put_in(&nodes[0], bucket, "key", b"value").await.unwrap();
    for address in ["b:1", "c:1"] {
        let node = world.start(address).await;
        assert_eq!(value(&node, "key").await, Some(b"value".to_vec()));
        nodes.push(node);
    }
    until("three vote", async || {
        nodes[0].members(soon()).await.unwrap().iter().filter(|member| member.voter).count() == 3
    })
    .await;
    world.kill("a:1", nodes.remove(0)).await;
    put_in(&nodes[0], bucket, "key", b"after").await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_elsewhere_is_found_there() {
    let world = World::new(7, 3);
    let mut nodes = world.form(&THREE).await;
    let at = leader(&nodes).await;
    let bucket = make_bucket(&nodes[at]).await;
    let moves = (at + 1) % 3;
    let (term, data_dir) = (nodes[at].status().term, world.dir(THREE[moves]));
    world.kill(THREE[moves], nodes.remove(moves)).await;
    let moved = world.start_with(ClusterConfig { data_dir, ..world.config("elsewhere:1") }).await;
    moved.wait_ready(soon()).await.unwrap();
    let at = leader(&nodes).await;
    let revision = put_in(&nodes[at], bucket, "key", b"value").await.unwrap();
    let view = moved.view(Consistency::AtLeast(revision), soon()).await.unwrap();
    assert_eq!(sample::value(&view, "key").as_deref(), Some(&b"value"[..]));
    assert_eq!(nodes[at].status().term, term, "no election was needed");
    stop(nodes).await;
    stop(vec![moved]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_on_copies_of_a_directory_the_older_stops() {
    let world = World::new(1, 3);
    let nodes = world.form(&THREE).await;
    let at = leader(&nodes).await;
    let copied = (at + 1) % 3;
    let from = world.dir(THREE[copied]);
    until("the first start is complete", async || {
        std::fs::read_to_string(from.join("identity.json")).unwrap().contains("\"initialized\": true")
    })
    .await;
    let to = world.dir("copy:1");
    std::fs::copy(from.join("identity.json"), to.join("identity.json")).unwrap();
    let copy = std::process::Command::new("cp")
        .arg("-r")
        .args([from.join("log"), from.join("state")])
        .arg(&to)
        .status()
        .unwrap();
    assert!(copy.success());
    let clone = world.start("copy:1").await;
    let fatal = tokio::time::timeout(Duration::from_secs(20), nodes[copied].fatal()).await.unwrap();
    assert!(fatal.to_string().contains("copy of its data directory"), "{fatal}");
    stop(nodes).await;
    stop(vec![clone]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_not_listened_to() {
    let (ours, theirs) = (World::new(1, 1), World::new(2, 1));
    let (a, b) = (ours.form(&["a:1"]).await, theirs.form(&["b:1"]).await);
    // The same network, and the same claim of who it is, but another cluster.
    let line = ours.board.line("b:1");
    ours.board.certify("b:1", Some(1));
    let links = &b[0].peers.as_ref().unwrap().links;
    let peer = crate::cluster::peer::PeerAddress { address: "a:1".into(), node: Some(1) };
    let refused = line.call(&peer, "read-index", links.head().into(), soon()).await.unwrap_err();
    assert!(refused.to_string().contains("this is cluster"), "{refused}");
    stop(a).await;
    stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_a_restored_cluster_and_get_its_state() {
    let (world, old) = (World::new(11, 3), World::new(12, 1));
    let origin = old.form(&["o:1"]).await;
    let bucket = make_bucket(&origin[0]).await;
    let last = put_in(&origin[0], bucket, "before", b"1").await.unwrap();
    let CommittedEntries::Entries(entries) = origin[0].committed_entries(0, usize::MAX).await.unwrap() else {
        panic!("nothing was purged")
    };
    stop(origin).await;

    let mut restore = Restore::begin(&world.dir("a:1"), 1 << 20).unwrap();
    restore.apply(&entries, 0).unwrap();
    let first = last + 1000;
    let node_id = restore.begin_log_at(first).unwrap();
    restore.finish("ab".repeat(16), 2, node_id).unwrap();

    let mut nodes = world.form(&["a:1"]).await;
    assert!(put_in(&nodes[0], bucket, "after", b"2").await.unwrap() >= first, "no revision comes twice");
    nodes.extend(world.form(&["b:1", "c:1"]).await);
    until("three vote", async || nodes[0].status().members.len() == 3 && nodes[0].is_ready()).await;
    for node in &nodes {
        let view = node.view(Consistency::Linearizable, soon()).await.unwrap();
        for (key, value) in [("before", b"1"), ("after", b"2")] {
            assert_eq!(sample::value(&view, key).as_deref(), Some(&value[..]), "on node {}", node.identity().node_id);
        }
        assert!(view.revision() >= first);
        assert_eq!(node.identity().generation, 2);
    }
    let revision = put_in(&nodes[2], bucket, "joined", b"3").await.unwrap();
    for node in &nodes {
        let view = node.view(Consistency::AtLeast(revision), soon()).await.unwrap();
        assert_eq!(sample::value(&view, "joined").as_deref(), Some(&b"3"[..]));
    }
    stop(nodes).await;
}
