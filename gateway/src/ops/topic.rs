//! Topics: publish, read from an offset on, and claim for a group.
//!
//! Whoever waits for messages looks at this node's own state each time the notifier tells of the topic, and costs the log
//! nothing; only a claim that found something to claim is a command. A read or claim that waits began with a linearizable
//! look, so its answer has everything that was acknowledged before it was asked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::{
    Acknowledge, Acknowledged, Claim, Claimed, DeleteTopic, Delivery, Op, Publish, Published, ReleaseLease, Reply,
    SetGroup, SetTopic,
};
use holdfast_core::effect::Effect;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::{Action, Permit, Resource};
use holdfast_core::topic::{GroupRow, Message, MessagePage, MessageRow, Much, Start, TopicRow};
use tokio::time::{Instant, timeout_at};

use super::{Call, Done, done, view_of};
use crate::cluster::{Consistency, StateView};
use crate::error::Error;
use crate::feed::notifier::Subscription;
use crate::gateway::Gateway;

/// Topics or groups of one answer.
pub const LISTED_MAX: usize = 1000;
/// Messages of one answer.
pub const READ_MESSAGES_MAX: usize = 1000;
/// Bytes of messages after which an answer takes no further one.
pub const READ_BYTES_MAX: usize = 4 << 20;
/// Longest wait for messages.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// How often whoever waits looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A topic with its groups, at most [`LISTED_MAX`].
#[derive(Clone, Debug)]
pub struct TopicState {
    /// The topic.
    pub row: TopicRow,
    /// Its groups by name.
    pub groups: Vec<(String, GroupRow)>,
}

/// What a consumer got.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The lease, when there was something to claim.
    pub lease: Option<Revision>,
    /// Its life.
    pub ttl_ms: u64,
    /// The messages; what was trimmed since it was claimed is left out.
    pub messages: Vec<(Delivery, MessageRow)>,
}

impl Gateway {
    /// Creates a topic, or changes how long its messages are kept.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_topic(&self, call: &Call, op: SetTopic) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::SetTopic(op)).await?)
    }

    /// Removes a topic, or one of its groups.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTopic`] or [`Refusal::NoSuchGroup`].
    pub async fn delete_topic(&self, call: &Call, topic: String, group: Option<String>) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::DeleteTopic(DeleteTopic { topic, group })).await?)
    }

    /// Writes messages at the end of a topic; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn publish(&self, call: &Call, topic: String, messages: Vec<Message>) -> Result<Done<Published>, Error> {
        match self.authorized(call, Op::Publish(Publish { topic, messages })).await? {
            (revision, Reply::Published(value)) => {
                self.published().fetch_add(value.count.into(), Ordering::Relaxed);
                Ok(Done { revision, value })
            }
            _ => Err(Error::UnexpectedReply),
        }
    }

    /// Creates a group, changes its settings, or lets it begin anew.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_group(&self, call: &Call, op: SetGroup) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::SetGroup(op)).await?)
    }

    /// Messages of a claim are done.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchLease`] when the claim has ended: its messages may be delivered again.
    pub async fn acknowledge(&self, call: &Call, op: Acknowledge) -> Result<Done<Acknowledged>, Error> {
        match self.authorized(call, Op::Acknowledge(op)).await? {
            (revision, Reply::Acknowledged(value)) => Ok(Done { revision, value }),
            _ => Err(Error::UnexpectedReply),
        }
    }

    /// A topic with its groups.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTopic`]; [`Error::Cluster`].
    pub async fn topic(&self, call: &Call, name: &str) -> Result<Done<TopicState>, Error> {
        let permit = call.permit(Action::UseTopics, Resource::Service)?;
        let name = name.to_owned();
        let view = self.read_view(call).await?;
        let read = self.read_many(view, move |view| {
            let row = view.topic(&permit, &name)?;
            let groups = view.groups(&permit, &row, "", LISTED_MAX)?;
            Ok(TopicState { row, groups })
        });
        read.await
    }

    /// A group, with its topic.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTopic`] or [`Refusal::NoSuchGroup`]; [`Error::Cluster`].
    pub async fn group(&self, call: &Call, topic: &str, name: &str) -> Result<Done<(TopicRow, GroupRow)>, Error> {
        let permit = call.permit(Action::UseTopics, Resource::Service)?;
        let view = self.read_view(call).await?;
        let revision = view.revision();
        let view = view_of(&view);
        let row = view.topic(&permit, topic)?;
        let group = view.group(&permit, &row, name)?;
        Ok(Done { revision, value: (row, group) })
    }

    /// Topics after `after`, at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// [`Error::Cluster`].
    pub async fn topics(&self, call: &Call, after: String) -> Result<Done<Vec<(String, TopicRow)>>, Error> {
        let permit = call.permit(Action::UseTopics, Resource::Service)?;
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.topics(&permit, &after, LISTED_MAX)?)).await
    }

    /// The messages from `from` on, at most `max`; waits for one when there is none yet.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTopic`], or [`Refusal::OffsetGone`] when the first of them is not kept any
    /// more; [`Error::Cluster`].
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn read_messages(
        &self,
        call: &Call,
        name: &str,
        from: Start,
        max: usize,
        wait: Duration,
    ) -> Result<Done<MessagePage>, Error> {
        let permit = call.permit(Action::UseTopics, Resource::Service)?;
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let max = max.min(READ_MESSAGES_MAX);
        let mut page = self.page(self.read_view(call).await?, &permit, name, from, max).await?;
        if !page.value.messages.is_empty() || wait.is_zero() {
            return Ok(page);
        }
        let topic = page.value.topic.id;
        let subscription = self.notifier().subscribe(Effect::Topic(topic));
        loop {
            let view = self.cluster().view_now()?;
            if view.revision() >= page.revision {
                page = self.page(view, &permit, name, Start::Offset(page.value.next), max).await?;
            }
            if page.value.topic.id != topic {
                // Another of the same name: its offsets are others.
                return Err(Refusal::NoSuchTopic.into());
            }
            if !page.value.messages.is_empty() || !self.waits(&subscription, deadline).await {
                return Ok(page);
            }
        }
    }

    async fn page(
        &self,
        view: StateView,
        permit: &Permit,
        name: &str,
        from: Start,
        max: usize,
    ) -> Result<Done<MessagePage>, Error> {
        let (permit, name) = (permit.clone(), name.to_owned());
        let much = Much { messages: max, bytes: READ_BYTES_MAX };
        self.read_many(view, move |view| Ok(view.messages(&permit, &name, from, much)?)).await
    }

    /// Waits for news, or for the moment to look without any; whether to go on.
    async fn waits(&self, subscription: &Subscription, deadline: Instant) -> bool {
        if Instant::now() >= deadline {
            return false;
        }
        let look = deadline.min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            _ = timeout_at(look, subscription.notify.notified()) => true,
            // Whoever waits asks another node.
            () = self.left() => false,
        }
    }

    /// Claims messages for a consumer; waits for some when there are none.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchTopic`]; [`Error::Cluster`].
    ///
    /// # Cancel safety
    /// Dropped, what was claimed meanwhile is given back.
    pub async fn claim(&self, call: &Call, want: Claim, wait: Duration) -> Result<Done<Delivered>, Error> {
        let permit = call.permit(Action::UseTopics, Resource::Service)?;
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let mut view = self.read_view(call).await?;
        let topic = view_of(&view).topic(&permit, &want.topic)?.id;
        let subscription = self.notifier().subscribe(Effect::Topic(topic));
        // Whether this call's id has named a command.
        let mut spent = false;
        loop {
            let mut revision = view.revision();
            let ttl_ms = match claimable(&view, &permit, &want)? {
                Some(ttl_ms) => ttl_ms,
                None => {
                    let call = if spent { call.again() } else { call.clone() };
                    spent = true;
                    let (at, claimed, place) = self.take_place(&call, Op::Claim(want.clone()), claimed_by).await?;
                    let ttl_ms = claimed.ttl_ms;
                    if claimed.lease.is_some() {
                        let delivered = self.delivered(&permit, at, claimed).await?;
                        place.keep();
                        return Ok(delivered);
                    }
                    place.keep();
                    // Another consumer was quicker, or all of it was trimmed.
                    revision = at;
                    ttl_ms
                }
            };
            if !self.waits(&subscription, deadline).await {
                let value = Delivered { lease: None, ttl_ms, messages: Vec::new() };
                return Ok(Done { revision, value });
            }
            view = self.view(Consistency::AtLeast(revision)).await?;
        }
    }

    async fn delivered(&self, permit: &Permit, revision: Revision, claimed: Claimed) -> Result<Done<Delivered>, Error> {
        let permit = permit.clone();
        let view = self.view(Consistency::AtLeast(revision)).await?;
        let read = self.read_many(view, move |view| {
            let messages = view.delivered(&permit, claimed.topic, &claimed.messages)?;
            Ok(Delivered { lease: claimed.lease, ttl_ms: claimed.ttl_ms, messages })
        });
        Ok(Done { revision, ..read.await? })
    }
}

/// What a claim got, and what gives it back when its consumer does not hear of it.
fn claimed_by(reply: Reply) -> Option<(Claimed, Op)> {
    let Reply::Claimed(claimed) = reply else { return None };
    // One that got nothing made no lease, and is kept.
    let lease = claimed.lease.unwrap_or_default();
    let give_up = Op::ReleaseLease(ReleaseLease { lease, name: None, unless_granted: false });
    Some((claimed, give_up))
}

/// The life of the claim when there is nothing to claim yet; `None` when it is worth a command: there is something, or the
/// group is still to be made.
fn claimable(view: &StateView, permit: &Permit, want: &Claim) -> Result<Option<u64>, Error> {
    let view = view_of(view);
    let topic = view.topic(permit, &want.topic)?;
    match view.group(permit, &topic, &want.group) {
        Ok(group) if !group.has_work(&topic) => Ok(Some(want.ttl_ms.unwrap_or(group.ttl_ms))),
        Ok(_) | Err(holdfast_core::state::Stop::Refused(Refusal::NoSuchGroup)) => Ok(None),
        Err(stop) => Err(stop.into()),
    }
}
