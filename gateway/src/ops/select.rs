//! S3 Select: a statement over the records of an object, or of all objects under a prefix.

use std::sync::Arc;

use holdfast_query::select::{Error, Request, Selection, Target};

use super::Call;
use super::query::CallerRepository;
use crate::gateway::Gateway;

impl Gateway {
    /// Parses a statement, and opens the first object that it reads, as the caller may.
    ///
    /// # Errors
    /// What the engine refuses, and what the repository answers, by AWS's codes.
    ///
    /// # Cancel safety
    /// Dropping it, or the events, ends the work.
    pub async fn select(&self, call: &Call, target: Target, request: Request) -> Result<Selection, Error> {
        let repository = Arc::new(CallerRepository::new(self.clone(), call.clone()));
        self.queries().select(repository, target, request).await
    }
}
