//! Ends leases that were not renewed in their time, by this node's monotonic clock.
//!
//! Only the leader counts, and it counts from the moment when it saw a lease granted or renewed, or became leader: later than
//! its holder counts, never earlier. The command names the renewals that were seen, so a renewal that comes in between wins.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_core::command::{ExpireLease, Op};
use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use holdfast_core::lock::Claim;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Instant, sleep};

use super::{Context, Error};

/// How exactly leases end.
const TICK: Duration = Duration::from_millis(100);
/// Leases that are read at once.
const PAGE: usize = 1000;
/// Leases that are looked up one by one; of more all are read.
const TOUCHED_MAX: usize = 200;

/// When a lease ends, unless its renewals change.
#[derive(Clone, Copy, Debug)]
struct Running {
    renewals: u64,
    ends: Instant,
}

/// Counts while this node leads.
pub(super) async fn run(context: Context) {
    let mut effects = context.ledger.effects();
    let mut running: HashMap<Revision, Running> = HashMap::new();
    let mut counts = false;
    loop {
        sleep(TICK).await;
        if !context.ledger.leads() {
            (counts, running) = (false, HashMap::new());
            continue;
        }
        // Whoever has just become leader reads all: nothing was counted before.
        let mut all = !counts;
        let mut touched = Vec::new();
        loop {
            match effects.try_recv() {
                Ok(some) => touched.extend(some.iter().filter_map(|effect| match effect {
                    Effect::Lease(lease) => Some(*lease),
                    _ => None,
                })),
                Err(TryRecvError::Lagged(_)) => all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let looked = if all || touched.len() > TOUCHED_MAX {
            read_all(&context).await.map(|claims| (claims, None))
        } else if touched.is_empty() {
            Ok((Vec::new(), Some(Vec::new())))
        } else {
            read_some(&context, touched.clone()).await.map(|claims| (claims, Some(touched)))
        };
        match looked {
            Ok((claims, touched)) => {
                counts = true;
                note(&mut running, &claims, touched.as_deref());
            }
            Err(error) => {
                tracing::warn!(error = crate::backend::chain(&error), "leases cannot be read; tried again");
                counts = false;
                continue;
            }
        }
        for (lease, renewals) in due(&running) {
            let op = Op::ExpireLease(ExpireLease { lease, renewals });
            match context.commit(op).await {
                Ok(_) => {
                    running.remove(&lease);
                    tracing::info!(lease, "a lease was not renewed and has ended");
                }
                Err(error) => {
                    // One that the rules will not end holds up no other.
                    let refused = matches!(error, Error::Refused(_));
                    tracing::warn!(
                        error = crate::backend::chain(&error),
                        lease,
                        "a lease cannot be ended; tried again"
                    );
                    if !refused {
                        break;
                    }
                }
            }
        }
    }
}

async fn read_all(context: &Context) -> Result<Vec<Claim>, Error> {
    let read = context.look(|view, permit| {
        let (mut claims, mut after) = (Vec::new(), 0);
        loop {
            let page = view.leases(permit, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(claims) };
            after = last.lease;
            claims.extend(page);
        }
    });
    read.await
}

async fn read_some(context: &Context, touched: Vec<Revision>) -> Result<Vec<Claim>, Error> {
    let read = context.look(move |view, permit| {
        let mut claims = Vec::new();
        for lease in touched {
            if let Some(row) = view.lease(permit, lease)? {
                claims.push(Claim { lease, row });
            }
        }
        Ok(claims)
    });
    read.await
}

/// Takes over what was read: all leases, or those that were `touched`.
fn note(running: &mut HashMap<Revision, Running>, claims: &[Claim], touched: Option<&[Revision]>) {
    let now = Instant::now();
    let there: HashMap<Revision, &Claim> = claims.iter().map(|claim| (claim.lease, claim)).collect();
    match touched {
        Some(touched) => touched.iter().filter(|lease| !there.contains_key(lease)).for_each(|lease| {
            running.remove(lease);
        }),
        None => running.retain(|lease, _| there.contains_key(lease)),
    }
    for claim in claims {
        let fresh = Running { renewals: claim.row.renewals, ends: now + Duration::from_millis(claim.row.lasts_ms()) };
        let known = running.entry(claim.lease).or_insert(fresh);
        if known.renewals != fresh.renewals {
            *known = fresh;
        }
    }
}

fn due(running: &HashMap<Revision, Running>) -> Vec<(Revision, u64)> {
    let now = Instant::now();
    let mut due: Vec<_> =
        running.iter().filter(|(_, run)| run.ends <= now).map(|(lease, run)| (*lease, run.renewals)).collect();
    due.sort_unstable();
    due
}
