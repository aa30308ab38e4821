//! What time it is. State time, which commands carry and `apply` goes by, is the core's.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_core::id::Millis;

/// Milliseconds since 1970, as a node's clock has them.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(now_ms)
}

/// The wall clock, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
