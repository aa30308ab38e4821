//! Stand-in, replaced at merge.

use crate::command::{Command, Reply};
use crate::effect::Effect;
use crate::keyspace::Keyspace;
use crate::kv::{Batch, KvError, KvRead};

/// What applying a command came to.
pub struct Applied {
    /// For the proposer.
    pub reply: Reply,
    /// Hints for jobs.
    pub effects: Vec<Effect>,
    /// What changes.
    pub batch: Batch,
}

/// Applies `command` to `view` at `revision`.
///
/// # Errors
/// When the engine cannot read.
pub fn apply(view: &dyn KvRead, revision: u64, command: &Command) -> Result<Applied, KvError> {
    view.get(Keyspace::Names, &command.key)?;
    let mut batch = Batch::default();
    match &command.value {
        Some(value) => {
            batch.put(Keyspace::Inline, command.key.clone(), value.clone());
            batch.put(Keyspace::Names, command.key.clone(), revision.to_be_bytes().to_vec());
        }
        None => {
            batch.delete(Keyspace::Inline, command.key.clone());
            batch.delete(Keyspace::Names, command.key.clone());
        }
    }
    Ok(Applied { reply: Reply::Done, effects: vec![Effect::BlobsCondemned], batch })
}
