//! Three nodes under random faults: what clients saw must be a history of registers, one for each key.
//!
//! A seed draws the faults and what clients do; threads and clocks are real, so a seed repeats the plan and not each
//! interleaving. `HOLDFAST_CLUSTER_SEEDS` says how many seeds, from which on (`20` or `100..120`); 2 when it is not set.

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::history::{History, OPERATIONS_MAX, Operation, is_linearizable, read, seeds};
use super::world::{World, make_bucket, put_until, stop};
use super::*;
use crate::cluster::peer::switchboard::Faults;

const THREE: [&str; 3] = ["a:1", "b:1", "c:1"];
const CLIENTS: u64 = 4;
const KEYS: u64 = 3;
const RUN: Duration = Duration::from_secs(8);

struct Run {
    world: Arc<World>,
    nodes: Mutex<Vec<Option<Arc<Cluster>>>>,
    history: Mutex<History>,
    bucket: u64,
    end: Instant,
}

impl Run {
    fn node(&self, at: usize) -> Option<Arc<Cluster>> {
        self.nodes.lock().unwrap()[at].clone()
    }

    fn record(&self, key: u64, operation: Operation) {
        let mut history = self.history.lock().unwrap();
        history.entry(key).or_default().push(operation);
    }

    fn is_full(&self, key: u64) -> bool {
        self.history.lock().unwrap().get(&key).is_some_and(|operations| operations.len() >= OPERATIONS_MAX)
    }
}

async fn client(run: Arc<Run>, number: u64, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
    let mut value = number << 32;
    while Instant::now() < run.end {
        tokio::time::sleep(Duration::from_millis(random.random_range(5..120))).await;
        let (at, key) = (random.random_range(0..THREE.len()), random.random_range(0..KEYS));
        let Some(node) = run.node(at).filter(|_| !run.is_full(key)) else { continue };
        let (began, deadline) = (Instant::now(), Instant::now() + Duration::from_millis(1500));
        if random.random_range(0..2) == 0 {
            value += 1;
            let written = put_until(&node, run.bucket, &key.to_string(), &value.to_le_bytes(), deadline).await;
            let ended = match written {
                Ok(_) => Some(Instant::now()),
                Err(Error::UnknownOutcome(_) | Error::Fatal(_)) => None,
                // Said to be not done: whoever reads it finds the lie.
                Err(_) => continue,
            };
            run.record(key, Operation { began, ended, write: Some(value), read: None });
        } else if let Some(read) = read(&node, key, deadline).await {
            run.record(key, Operation { began, ended: Some(Instant::now()), write: None, read });
        }
    }
}

/// Breaks things, one after the other.
async fn break_things(run: Arc<Run>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while Instant::now() < run.end {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..900))).await;
        let at = random.random_range(0..THREE.len());
        let other = (at + random.random_range(1..THREE.len())) % THREE.len();
        match random.random_range(0..7) {
            0 => run.world.board.isolate(THREE[at]),
            1 => run.world.board.cut(THREE[at], THREE[other]),
            2 => run.world.board.set_faults(Faults { lost_replies: 100, lost_requests: 20, delay_ms_max: 10 }),
            3 => run.world.board.set_faults(Faults { delay_ms_max: 60, ..Faults::default() }),
            4 => restart(&run, at).await,
            _ => run.world.board.heal(),
        }
    }
}

async fn restart(run: &Run, at: usize) {
    let node = run.nodes.lock().unwrap()[at].take().unwrap();
    run.world.kill(THREE[at], node).await;
    let node = run.world.start(THREE[at]).await;
    run.nodes.lock().unwrap()[at] = Some(node);
}

async fn check_seed(seed: u64) {
    let world = World::new(seed, 3);
    let nodes = world.form(&THREE).await;
    let bucket = make_bucket(&nodes[0]).await;
    let run = Arc::new(Run {
        world,
        nodes: Mutex::new(nodes.into_iter().map(Some).collect()),
        history: Mutex::default(),
        bucket,
        end: Instant::now() + RUN,
    });
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        tasks.spawn(client(run.clone(), number, seed));
    }
    tasks.spawn(break_things(run.clone(), seed));
    tasks.join_all().await;
    run.world.board.heal();
    let nodes: Vec<_> = run.nodes.lock().unwrap().iter_mut().map(|node| node.take().unwrap()).collect();
    for node in &nodes {
        for key in 0..KEYS {
            let began = Instant::now();
            let read = read(node, key, soon()).await.unwrap_or_else(|| panic!("seed {seed}: no read after the faults"));
            run.record(key, Operation { began, ended: Some(Instant::now()), write: None, read });
        }
        node.wait_ready(soon()).await.unwrap();
    }
    for (key, operations) in &*run.history.lock().unwrap() {
        assert!(is_linearizable(operations), "seed {seed}, key {key}: {operations:#?}");
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_under_faults_is_linearizable() {
    for seed in seeds("HOLDFAST_CLUSTER_SEEDS", 2) {
        check_seed(seed).await;
    }
}
