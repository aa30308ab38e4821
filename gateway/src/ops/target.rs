//! Targets of events: their rows. What is delivered to them is in [`crate::notify`].

use holdfast_core::command::{Op, RemoveTarget, SetTarget};
use holdfast_core::error::Error as Refusal;
use holdfast_core::notify::TargetRow;
use holdfast_core::rules::authorize::{Action, Resource};

use super::{Call, Done, done, view_of};
use crate::error::Error;
use crate::gateway::Gateway;

impl Gateway {
    /// Makes a target, or changes its settings; its cursor stays.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn set_target(&self, call: &Call, name: String, settings: Vec<u8>) -> Result<Done<()>, Error> {
        let op = Op::SetTarget(SetTarget { name, settings });
        done(self.authorized(call, op).await?)
    }

    /// Removes a target; events that it did not get are nobody's.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTarget`]; [`Error::Cluster`].
    pub async fn remove_target(&self, call: &Call, name: String) -> Result<Done<()>, Error> {
        let op = Op::RemoveTarget(RemoveTarget { name });
        done(self.authorized(call, op).await?)
    }

    /// A target.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTarget`]; [`Error::Cluster`].
    pub async fn target(&self, call: &Call, name: &str) -> Result<Done<TargetRow>, Error> {
        let permit = call.permit(Action::ManageTargets, Resource::Service)?;
        let view = self.read_view(call).await?;
        let row = view_of(&view).target(&permit, name)?.ok_or(Refusal::NoSuchTarget)?;
        Ok(Done { revision: view.revision(), value: row })
    }

    /// All targets, by name.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn targets(&self, call: &Call) -> Result<Done<Vec<(String, TargetRow)>>, Error> {
        let permit = call.permit(Action::ManageTargets, Resource::Service)?;
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.targets(&permit)?)).await
    }
}
