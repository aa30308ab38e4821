//! The clocks of the other members, as this node hears them in the replies to its appends.
//!
//! The time of a cluster is the median of its members' clocks: while most of them are right it is right, whoever leads. A
//! leader whose own clock is wrong therefore refuses its own commands and admits those of the others. Two clocks have no
//! majority; then the own one counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::time::{Duration, Instant};

/// What was heard longer ago does not count.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// Fewer clocks, the own one included, have no majority.
const CLOCKS_MIN: usize = 3;

/// How far the others' clocks are ahead of this node's. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks(Arc<Mutex<BTreeMap<u64, Heard>>>);

#[derive(Clone, Copy, Debug)]
struct Heard {
    ahead_ms: i64,
    at: Instant,
}

impl Clocks {
    /// `their_ms` was told in a reply that took from `asked_ms` to `now_ms` by the own clock.
    pub(super) fn hear(&self, node: u64, their_ms: u64, asked_ms: u64, now_ms: u64) {
        let middle = asked_ms / 2 + now_ms / 2;
        let ahead_ms = if their_ms >= middle { millis(their_ms - middle) } else { -millis(middle - their_ms) };
        let mut heard = self.0.lock().expect("only held for a moment");
        // Who was removed is not heard any more, so this stays as small as the cluster.
        heard.retain(|_, other| other.at.elapsed() <= FRESH_FOR);
        heard.insert(node, Heard { ahead_ms, at: Instant::now() });
    }

    /// How far the cluster's time is ahead of the own clock, in milliseconds.
    pub(super) fn ahead_ms(&self) -> i64 {
        let heard = self.0.lock().expect("only held for a moment");
        let fresh = heard.values().filter(|heard| heard.at.elapsed() <= FRESH_FOR).map(|heard| heard.ahead_ms);
        let mut all: Vec<i64> = fresh.chain([0]).collect();
        drop(heard);
        if all.len() < CLOCKS_MIN {
            return 0;
        }
        all.sort_unstable();
        // Of the two in the middle of an even number the one that is nearer to the own clock.
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        if low.abs() <= high.abs() { low } else { high }
    }
}

fn millis(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[tokio::test(start_paused = true)]
    async fn the_median_of_the_clocks_counts() {
        let clocks = Clocks::default();
        let now = 10 * HOUR;
        clocks.hear(2, now + HOUR, now, now);
        assert_eq!(clocks.ahead_ms(), 0, "two clocks have no majority");
        clocks.hear(3, now, now, now);
        assert_eq!(clocks.ahead_ms(), 0, "one that is ahead is outvoted");
        clocks.hear(3, now + HOUR, now, now);
        assert_eq!(clocks.ahead_ms(), 3_600_000, "the own one is outvoted");
        clocks.hear(4, now - HOUR, now, now);
        assert_eq!(clocks.ahead_ms(), 0, "of an even number the nearer one");
        clocks.hear(5, now - HOUR, now - 200, now);
        assert_eq!(clocks.ahead_ms(), 0);
        tokio::time::advance(FRESH_FOR * 2).await;
        assert_eq!(clocks.ahead_ms(), 0, "old news do not count");
    }
}
