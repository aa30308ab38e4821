//! The verbs: what the gateway can do, whatever protocol asks. One file per verb; each reads from top to bottom.
//!
//! A verb asks [`authorize`] first, looks at one view of the state, and commits at most one command. What must hold of the
//! state is decided where the command is applied; what a verb decides from its view is only ever a refusal that was true at
//! that moment of the request.
//!
//! Absent on purpose: wire forms, status codes, signatures.

pub mod append;
pub mod attributes;
pub mod bucket;
pub mod copy;
pub mod delete;
mod digest;
pub mod get;
pub mod index;
pub mod inspect;
pub mod list;
pub mod lock;
pub mod mount;
pub mod multipart;
pub mod put;
pub mod query;
pub mod range;
pub mod rename;
mod search;
pub mod select;
pub mod tagging;
pub mod target;
pub mod topic;
mod wait;

use holdfast_core::command::{BucketRef, Conditions, Extracted, Fence, Match, Op, Reply, Written};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, RequestId, Revision};
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Caller, Context, Permit, Resource, authorize};
use holdfast_core::view::{Bucket, View};

use crate::clock::now_ms;
use crate::cluster::{Consistency, StateView};
use crate::error::Error;
use crate::gateway::{Gateway, Origin};

/// Times a verb looks again when what it had prepared was overtaken.
const ATTEMPTS_MAX: usize = 4;

/// Which state a read may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Whatever this node has applied; else everything that was acknowledged anywhere before.
    pub local: bool,
    /// At least this revision.
    pub min_revision: Option<Revision>,
}

/// Who asks, and how.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// What the decision may look at besides.
    pub context: Context,
    /// The request's id, and its command's.
    pub request: RequestId,
    /// Which state a read may see.
    pub freshness: Freshness,
    /// Grants of locks that must be live when a write is applied.
    pub fences: Vec<Fence>,
}

/// A result, with the revision of its commit, or of the state that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// See [`Done`].
    pub revision: Revision,
    /// The result.
    pub value: T,
}

impl Call {
    /// A call that the node makes for root by itself.
    pub(crate) fn internal() -> Self {
        Self {
            caller: Caller::Root,
            context: Context::default(),
            request: RequestId::new(now_ms(), rand::random()),
            freshness: Freshness::default(),
            fences: Vec::new(),
        }
    }

    /// The same call, for another command: an id names one command only.
    fn again(&self) -> Self {
        Self { request: RequestId::new(self.request.minted_ms(), rand::random()), ..self.clone() }
    }

    /// Where its commands come from.
    fn origin(&self) -> Origin {
        self.origin_with(Vec::new())
    }

    /// Where a command comes from that brings in bytes which indexes want to know of.
    fn origin_with(&self, extracted: Vec<Extracted>) -> Origin {
        Origin { request: self.request, fences: self.fences.clone(), extracted }
    }

    fn permit(&self, action: Action, resource: Resource) -> Result<Permit, Error> {
        Ok(authorize(self.caller, action, resource, &self.context)?)
    }

    fn on_bucket(&self, action: Action, bucket: &BucketName) -> Result<Permit, Error> {
        self.permit(action, Resource::Bucket(bucket.clone()))
    }

    fn on_object(&self, action: Action, bucket: &BucketName, key: &ObjectKey) -> Result<Permit, Error> {
        self.permit(action, Resource::Object(bucket.clone(), key.clone()))
    }
}

/// Does something again, as another command, while what it had prepared is overtaken.
async fn retried<T, F>(call: &Call, once: impl Fn(Call) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (mut call, mut attempt) = (call.clone(), 1);
    loop {
        match once(call.clone()).await {
            Err(error) if error.is_changed() && attempt < ATTEMPTS_MAX => attempt += 1,
            done => return done,
        }
        call = call.again();
    }
}

impl Gateway {
    /// Commits `op` for `call`, when it may.
    async fn authorized(&self, call: &Call, op: Op) -> Result<(Revision, Reply), Error> {
        self.commit(AuthorizedOp::authorize(op, call.caller, &call.context)?, call.origin()).await
    }

    /// The state that a read of this call sees.
    async fn read_view(&self, call: &Call) -> Result<StateView, Error> {
        let Freshness { local, min_revision } = call.freshness;
        let view = match (local, min_revision) {
            (true, Some(revision)) => return self.view(Consistency::AtLeast(revision)).await,
            (true, None) => return self.view(Consistency::Local).await,
            (false, _) => self.view(Consistency::Linearizable).await?,
        };
        match min_revision {
            Some(revision) if revision > view.revision() => self.view(Consistency::AtLeast(revision)).await,
            _ => Ok(view),
        }
    }

    /// The permit's bucket, for a command: found in a linearizable view, checked again where the command is applied.
    async fn bucket_for(&self, permit: &Permit) -> Result<Bucket, Error> {
        let state = self.view(Consistency::Linearizable).await?;
        Ok(view_of(&state).bucket(permit)?)
    }

    /// Reads much of a state: the engine may block, so it leaves the reactor.
    async fn read_many<T: Send + 'static>(
        &self,
        state: StateView,
        read: impl FnOnce(&View<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<Done<T>, Error> {
        let revision = state.revision();
        let task = tokio::task::spawn_blocking(move || read(&view_of(&state)));
        let value = task.await.map_err(|_| Error::Stopping)??;
        Ok(Done { revision, value })
    }
}

/// The view of a state.
fn view_of(state: &StateView) -> View<'_> {
    View::new(state, state.revision())
}

/// A bucket, as commands name it.
pub(crate) fn bucket_ref(bucket: &Bucket) -> BucketRef {
    BucketRef { name: bucket.name.clone(), id: bucket.row.id }
}

fn written((revision, reply): (Revision, Reply)) -> Result<Done<Written>, Error> {
    match reply {
        Reply::Written(value) => Ok(Done { revision, value }),
        _ => Err(Error::UnexpectedReply),
    }
}

fn done((revision, reply): (Revision, Reply)) -> Result<Done<()>, Error> {
    match reply {
        Reply::Done => Ok(Done { revision, value: () }),
        _ => Err(Error::UnexpectedReply),
    }
}

/// Whether conditions fail already, so that a body need not be read: `etag` is that of the live version.
fn fails_already(conditions: &Conditions, etag: Option<&str>) -> Result<(), Refusal> {
    match etag {
        Some(_) if conditions.if_none_match => Err(Refusal::failed("If-None-Match")),
        None if !conditions.if_match.is_empty() => Err(Refusal::NoSuchKey),
        Some(etag) if !conditions.if_match.is_empty() => {
            let holds = conditions.if_match.iter().any(|wanted| match wanted {
                Match::Any => true,
                Match::Etag(wanted) => wanted == etag,
            });
            if holds { Ok(()) } else { Err(Refusal::failed("If-Match")) }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
