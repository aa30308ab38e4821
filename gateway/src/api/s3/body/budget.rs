//! The one budget of bytes that bodies hold while they are hashed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BodyError;

/// Bytes that all bodies together hold while they are hashed; past it streams wait.
pub const BODY_BUDGET_BYTES: usize = 128 << 20;
/// How long a stream waits for budget before the client is told to slow down.
pub const BODY_BUDGET_WAIT: Duration = Duration::from_secs(30);

const BUDGET_UNIT_BYTES: usize = 1024;

/// The bytes that all bodies together may hold.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    units: Arc<Semaphore>,
    capacity_units: usize,
    pub(super) wait: Duration,
}

/// Budget held until it is dropped.
#[derive(Debug)]
pub struct Reservation(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(BODY_BUDGET_BYTES)
    }
}

impl BodyBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let capacity_units = (bytes / BUDGET_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(capacity_units)), capacity_units, wait: BODY_BUDGET_WAIT }
    }

    /// Waits until `bytes` are free and holds them. More than the whole budget counts as the whole.
    ///
    /// Whoever fills a buffer of known size reserves all of it first: taking it bit by bit could leave everyone waiting.
    ///
    /// # Errors
    /// [`BodyError::Busy`] after [`BODY_BUDGET_WAIT`].
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, BodyError> {
        let units = bytes.div_ceil(BUDGET_UNIT_BYTES).min(self.capacity_units);
        let units = u32::try_from(units).map_err(|_| BodyError::TooLarge)?;
        let waiting = Arc::clone(&self.units).acquire_many_owned(units);
        match tokio::time::timeout(self.wait, waiting).await {
            Ok(Ok(permit)) => Ok(Reservation(permit)),
            Ok(Err(_)) | Err(_) => Err(BodyError::Busy),
        }
    }

    /// Bytes free now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * BUDGET_UNIT_BYTES
    }
}
