//! Notifications: events that buckets send to targets outside, by rules of their own.
//!
//! ```text
//! bucket's rules (PUT ?notification) ─┐
//! feed ─▶ Delivery, one per target ───┴─▶ message ─▶ sender ─▶ webhook, NATS, Kafka, AMQP, MQTT, Redis, PostgreSQL
//!           ▲ cursor, a row                                └─ refused or too old ─▶ dead-letter prefix
//! ```
//! The rows of events are the queue of every target, and a target is a cursor in them: it moves when the target has said
//! that it has what came before. The leader delivers; whoever leads next goes on from the cursor. So an event is delivered
//! at least once, in order, and an event's id is the same at each attempt. A target that stands still holds up nobody
//! else, and nothing is kept for it beyond what the feed keeps: what is compacted first is counted as a gap.
//!
//! Absent: queues on disk, targets in files of a node's configuration, delivery by followers.

mod deliver;
pub mod message;
pub mod rules;
pub mod senders;
pub mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_core::effect::Effect;
use holdfast_core::notify::TargetRow;
use holdfast_core::queue::maintain_permit;
use holdfast_core::rules::authorize::Permit;
use holdfast_core::view::View;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::deliver::Delivery;
use self::settings::Sealer;
use crate::cluster::StateView;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::outbound::Reach;

/// How often targets are looked at without a hint.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// While another node leads.
const FOLLOWER_PAUSE: Duration = Duration::from_millis(500);

/// What deliveries did since start, for metrics.
#[derive(Debug, Default)]
pub struct NotifyStats {
    /// Events that targets have.
    pub delivered: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Events under a dead-letter prefix.
    pub dead_lettered: AtomicU64,
    /// Gaps.
    pub lost: AtomicU64,
    /// Targets that stand still now.
    pub stuck: AtomicU64,
}

/// What delivering needs besides the gateway. Clones share it.
#[derive(Clone, Debug)]
pub struct NotifyContext {
    /// Opens the secrets of targets.
    pub sealer: Sealer,
    /// Where it may connect to.
    pub reach: Reach,
    /// Counters.
    pub stats: Arc<NotifyStats>,
}

/// The running notifications of a node.
#[derive(Debug)]
pub struct Notifications {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Notifications {
    /// Starts them; they work while the node leads.
    #[must_use]
    pub fn start(gateway: Gateway, context: NotifyContext) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (own, deliveries) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            own.run_until_cancelled(supervise(gateway, context, deliveries)).await;
        });
        Self { tasks, stop }
    }

    /// Stops them. What was on its way is delivered again by whoever goes on.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The state of this node as deliveries look at it, with the permit they look by.
fn look(gateway: &Gateway) -> Result<(StateView, Permit), Error> {
    Ok((gateway.cluster().view_now()?, maintain_permit()?))
}

fn targets(gateway: &Gateway) -> Result<Vec<(String, TargetRow)>, Error> {
    let (state, permit) = look(gateway)?;
    Ok(View::new(&state, state.revision()).targets(&permit)?)
}

/// A delivery that runs; it ends with its handle.
struct Running {
    changed: u64,
    id: u64,
    task: tokio::task::JoinHandle<()>,
    _stop: tokio_util::sync::DropGuard,
}

/// One task for each target while this node leads.
async fn supervise(gateway: Gateway, context: NotifyContext, tasks: TaskTracker) {
    let mut effects = gateway.cluster().effects();
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        if !gateway.cluster().leads() {
            running.clear();
            context.stats.stuck.store(0, Ordering::Relaxed);
            sleep(FOLLOWER_PAUSE).await;
            continue;
        }
        match targets(&gateway) {
            Ok(found) => reconcile(&gateway, &context, &tasks, &mut running, found),
            Err(error) => tracing::warn!(error = crate::backend::chain(&error), "targets cannot be read; tried again"),
        }
        wait(&mut effects, Instant::now() + LOOK_EVERY).await;
    }
}

fn reconcile(
    gateway: &Gateway,
    context: &NotifyContext,
    tasks: &TaskTracker,
    running: &mut HashMap<String, Running>,
    found: Vec<(String, TargetRow)>,
) {
    running.retain(|name, running| {
        let same = |row: &TargetRow| (row.id, row.changed) == (running.id, running.changed);
        found.iter().any(|(other, row)| other == name && same(row)) && !running.task.is_finished()
    });
    let stuck = found.iter().filter(|(_, row)| row.problem.is_some()).count() as u64;
    context.stats.stuck.store(stuck, Ordering::Relaxed);
    for (name, row) in found {
        if running.contains_key(&name) {
            continue;
        }
        let stop = CancellationToken::new();
        let (id, changed) = (row.id, row.changed);
        let delivery = Delivery::new(gateway.clone(), context.clone(), name.clone(), row);
        let own = stop.clone();
        let task = tasks.spawn(async move {
            own.run_until_cancelled(delivery.run()).await;
        });
        running.insert(name, Running { changed, id, task, _stop: stop.drop_guard() });
    }
}

/// Until a target is changed, or the time is over.
async fn wait(effects: &mut broadcast::Receiver<Arc<[Effect]>>, deadline: Instant) {
    loop {
        match timeout_at(deadline, effects.recv()).await {
            Ok(Ok(some)) if some.contains(&Effect::TargetsChanged) => return,
            Ok(Ok(_)) => {}
            // Some were lost: one may have been ours.
            Ok(Err(RecvError::Lagged(_))) => return,
            Ok(Err(RecvError::Closed)) => return sleep(LOOK_EVERY).await,
            Err(_) => return,
        }
    }
}
