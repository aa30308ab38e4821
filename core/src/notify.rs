//! Where events go: targets with their cursors, and which events of a bucket go to which target. What changes them is in
//! `rules::notify`.
//!
//! Events are not copied into queues: the feed's rows are the queue of every target, and a target is a cursor in them. The
//! rules of a bucket are kept by the revision that set them, as long as the feed holds events that they decide: an event goes
//! where the rules of its own moment say, however late it is delivered.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::id::{BucketName, Place, Revision};
use crate::keyspace::{Keyspace, key};
use crate::kv::{KeyRange, successor};
use crate::record::{Record, record};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::View;

/// A target. Key: name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TargetRow {
    /// The revision that made it.
    #[n(0)]
    pub id: Revision,
    /// Its settings, JSON of the gateway, secrets sealed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub settings: Vec<u8>,
    /// Everything up to here was delivered, or needed not be.
    #[n(2)]
    pub cursor: Place,
    /// Events that were delivered.
    #[n(3)]
    pub delivered: u64,
    /// Events that were put under the dead-letter prefix.
    #[n(4)]
    pub dead_lettered: u64,
    /// Gaps in which events were lost.
    #[n(5)]
    pub lost: u64,
    /// Why it stands still.
    #[n(6)]
    pub problem: Option<String>,
    /// The revision that gave it its settings.
    #[n(7)]
    pub changed: Revision,
}

record! {
    TargetRow => "target",
}

impl View<'_> {
    /// A target.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`], or [`Stop`] when the engine fails.
    pub fn target(&self, permit: &Permit, name: &str) -> Result<Option<TargetRow>, Stop> {
        permit.require(&[Action::ManageTargets, Action::Maintain])?;
        self.reader.target(name)
    }

    /// Targets by name, at most [`crate::rules::notify::TARGETS_MAX`].
    ///
    /// # Errors
    /// As [`View::target`].
    pub fn targets(&self, permit: &Permit) -> Result<Vec<(String, TargetRow)>, Stop> {
        permit.require(&[Action::ManageTargets, Action::Maintain])?;
        let rows = self.reader.rows(Keyspace::Targets, KeyRange::prefix(&key::target("")));
        let row = |row: Result<(Bytes, Bytes), _>| {
            let (row_key, value) = row?;
            Ok((key::target_name(&row_key)?, <TargetRow as Record>::decode(&value)?))
        };
        rows.map(row).collect()
    }

    /// The notification document that was in force in a bucket at a revision, with the revision that set it.
    ///
    /// # Errors
    /// As [`View::target`].
    pub fn notification_at(
        &self,
        permit: &Permit,
        bucket: &BucketName,
        at: Revision,
    ) -> Result<Option<(Revision, Bytes)>, Stop> {
        permit.require(&[Action::Maintain])?;
        self.reader.notification(bucket, at)
    }
}

impl Reader<'_> {
    pub(crate) fn target(self, name: &str) -> Result<Option<TargetRow>, Stop> {
        self.row(Keyspace::Targets, &key::target(name))
    }

    /// The document in force at a revision; none where it was removed or never set.
    pub(crate) fn notification(self, bucket: &BucketName, at: Revision) -> Result<Option<(Revision, Bytes)>, Stop> {
        let from = key::notification(bucket, at);
        let range = KeyRange { from, to: successor(&key::notifications(bucket)) };
        let Some((row_key, document)) = self.rows(Keyspace::Targets, range).next().transpose()? else {
            return Ok(None);
        };
        let revision = key::notification_revision(&row_key)?;
        Ok((!document.is_empty()).then_some((revision, document)))
    }
}
