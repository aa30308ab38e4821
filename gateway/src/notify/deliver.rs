//! Delivers events to one target, from its cursor on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::{AdvanceTarget, Conditions, Op};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, Place, Revision};
use holdfast_core::notify::TargetRow;
use holdfast_core::record::Attributes;
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Caller, Context, Resource, authorize};
use holdfast_core::rules::notify::PROBLEM_BYTES_MAX;
use holdfast_core::view::View;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::message::Message;
use super::rules::Rules;
use super::senders::{self, SendError, Sender};
use super::settings::TargetSettings;
use super::{NotifyContext, look};
use crate::backend::chain;
use crate::clock::now_ms;
use crate::error::Error;
use crate::feed::{Event, Filter, Next, Watcher};
use crate::gateway::Gateway;
use crate::ops::Call;
use crate::ops::put::{Put, at_hand};

/// Pause after a failed attempt; doubled each time, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause: a target that comes back waits no longer for its events.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Pause of a delivery that was broken off.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a quiet feed is watched before the cursor is looked at.
const IDLE: Duration = Duration::from_secs(5);
/// How often a cursor that moves is written: a commit for each event would double the work of a small PUT. What was
/// delivered since comes again after a crash.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// A cursor that moved past events of others is written at least as often: else they would count as lost once compacted.
const WRITE_SKIPPED_EVERY: Duration = Duration::from_secs(60);
/// Events that may pass without a delivery until the cursor is written.
const SKIPPED_MAX: u64 = 1000;
/// Rules that are kept parsed.
const RULES_KEPT: usize = 64;
/// How often a problem that lasts is written.
const PROBLEM_EVERY: Duration = Duration::from_secs(30);
/// Longest time for a dead letter.
const DEAD_LETTER_WITHIN: Duration = Duration::from_secs(60);

/// One target's delivery.
pub(super) struct Delivery {
    gateway: Gateway,
    context: NotifyContext,
    name: String,
    id: Revision,
    stored: Vec<u8>,
    /// The cursor as the row has it.
    written: Place,
    /// Everything up to here is done with.
    done: Place,
    delivered: u64,
    dead_lettered: u64,
    lost: u64,
    skipped: u64,
    problem: Option<String>,
    written_at: Instant,
    rules: Vec<KnownRules>,
    /// Tells this cluster's events from those of others.
    origin: String,
    /// When something was last sent to a target that does not take events.
    probed: Instant,
}

/// The rules of a bucket by the revision that set them; none when they do not parse.
type KnownRules = ((BucketName, Revision), Option<Arc<Rules>>);

/// Why a delivery begins again.
enum Broken {
    /// Events were compacted before they were delivered; the oldest revision that can be asked for.
    Compacted(Revision),
    /// Another delivers, or the target is gone.
    Overtaken,
    /// Something else.
    Failed(String),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(Refusal::Compacted { oldest }) => Self::Compacted(oldest),
            Error::Refused(Refusal::Changed | Refusal::NoSuchTarget) => Self::Overtaken,
            error => Self::Failed(chain(&error)),
        }
    }
}

impl Delivery {
    pub(super) fn new(gateway: Gateway, context: NotifyContext, name: String, row: TargetRow) -> Self {
        let origin = gateway.cluster().identity().cluster_id.to_string();
        Self {
            gateway,
            context,
            name,
            id: row.id,
            stored: row.settings,
            written: row.cursor,
            done: row.cursor,
            delivered: 0,
            dead_lettered: 0,
            lost: 0,
            skipped: 0,
            problem: row.problem,
            written_at: Instant::now(),
            rules: Vec::new(),
            origin,
            probed: Instant::now(),
        }
    }

    /// Delivers until it is overtaken; the supervisor begins anew if it still leads.
    pub(super) async fn run(mut self) {
        let opened = self.context.sealer.open(&self.name, &self.stored);
        let settings = match opened.and_then(|settings| TargetSettings::parse(&settings)) {
            Ok(settings) => settings,
            Err(error) => return self.say(error.to_string()).await,
        };
        loop {
            let broken = match self.deliver(&settings).await {
                Ok(never) => match never {},
                Err(broken) => broken,
            };
            match broken {
                // The row says where to go on; the supervisor reads it.
                Broken::Overtaken => return sleep(AGAIN_AFTER).await,
                Broken::Failed(why) => {
                    tracing::warn!(target_name = self.name, why, "a delivery begins again");
                    return sleep(AGAIN_AFTER).await;
                }
                Broken::Compacted(oldest) => {
                    tracing::warn!(target_name = self.name, oldest, "events were compacted before they were delivered");
                    self.done = self.done.max(Place { revision: oldest, ordinal: u16::MAX });
                    self.lost += 1;
                    count(&self.context.stats.lost, 1);
                    if let Err(Broken::Overtaken | Broken::Failed(_)) = self.write().await {
                        return sleep(AGAIN_AFTER).await;
                    }
                }
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn deliver(&mut self, settings: &TargetSettings) -> Result<std::convert::Infallible, Broken> {
        let permit = authorize(Caller::Root, Action::WatchEvents, Resource::Service, &Context::default());
        let permit = permit.map_err(Error::from)?;
        let mut watcher = self.gateway.feed().watch(&permit, Filter::default(), Some(self.done)).await?;
        let mut sender: Option<Box<dyn Sender>> = None;
        loop {
            let (batch, last) = self.collect(settings, &mut watcher).await?;
            if !batch.is_empty() {
                self.deliver_batch(settings, &mut sender, &batch).await?;
            }
            self.done = last;
            let waited = self.written_at.elapsed();
            let passed = self.skipped >= SKIPPED_MAX || (self.skipped > 0 && waited >= WRITE_SKIPPED_EVERY);
            if passed || (self.has_news() && waited >= WRITE_EVERY) {
                self.write().await?;
            }
        }
    }

    /// Whether something happened that the row does not tell yet.
    fn has_news(&self) -> bool {
        self.delivered + self.dead_lettered + self.lost > 0
    }

    /// Events for this target, at most a batch of them, and the place of the last event that was looked at.
    async fn collect(
        &mut self,
        settings: &TargetSettings,
        watcher: &mut Watcher,
    ) -> Result<(Vec<(Event, Message)>, Place), Broken> {
        let (mut batch, mut last) = (Vec::new(), self.done);
        let mut deadline = Instant::now() + IDLE;
        if self.has_news() {
            deadline = deadline.min(self.written_at + WRITE_EVERY);
        }
        while batch.len() < settings.batch && self.skipped < SKIPPED_MAX {
            let event = match watcher.next(deadline).await? {
                Next::Event(event) => *event,
                Next::Mark(_) => break,
            };
            last = event.place;
            match self.message(settings, &event)? {
                Some(message) => batch.push((event, message)),
                None => self.skipped += 1,
            }
            // What is there already goes along; nothing waits for company.
            deadline = Instant::now();
        }
        Ok((batch, last))
    }

    /// The message that an event becomes, if a rule of its bucket, at its time, sends it here.
    fn message(&mut self, settings: &TargetSettings, event: &Event) -> Result<Option<Message>, Broken> {
        let Some(bucket) = event.row.bucket.clone() else { return Ok(None) };
        // What is put under the dead-letter prefix, by whichever target, would come back and fail again.
        if let (Some((dead, prefix)), Some(key)) = (&settings.dead_letter, &event.row.key)
            && *dead == bucket
            && key.starts_with(prefix.as_str())
        {
            return Ok(None);
        }
        let Some(rules) = self.rules_at(&bucket, event.place.revision)? else { return Ok(None) };
        let rule = rules.rule_for(&self.name, &event.row);
        let origin = (self.gateway.region(), self.origin.as_str());
        Ok(rule.map(|rule| Message::of(event, settings.format, origin, rule)))
    }

    fn rules_at(&mut self, bucket: &BucketName, at: Revision) -> Result<Option<Arc<Rules>>, Broken> {
        let (state, permit) = look(&self.gateway)?;
        let view = View::new(&state, state.revision());
        // The rules of an event may go when it goes.
        still_kept(&view, at)?;
        let found = view.notification_at(&permit, bucket, at).map_err(Error::from)?;
        let Some((revision, document)) = found else { return Ok(None) };
        let wanted = (bucket.clone(), revision);
        if let Some((_, rules)) = self.rules.iter().find(|(known, _)| *known == wanted) {
            return Ok(rules.clone());
        }
        let parsed = Rules::parse(&document);
        if let Err(error) = &parsed {
            tracing::error!(%bucket, %error, "the stored notification configuration does not parse");
        }
        if self.rules.len() >= RULES_KEPT {
            self.rules.remove(0);
        }
        let rules = parsed.ok().map(Arc::new);
        self.rules.push((wanted, rules.clone()));
        Ok(rules)
    }

    fn is_kept(&self, at: Revision) -> Result<(), Broken> {
        let (state, _) = look(&self.gateway)?;
        still_kept(&View::new(&state, state.revision()), at)
    }

    /// Returns once each message has arrived, or is a dead letter.
    async fn deliver_batch(
        &mut self,
        settings: &TargetSettings,
        sender: &mut Option<Box<dyn Sender>>,
        batch: &[(Event, Message)],
    ) -> Result<(), Broken> {
        let messages: Vec<Message> = batch.iter().map(|(_, message)| message.clone()).collect();
        if !batch.iter().any(|(event, _)| self.is_hopeless(settings, event)) {
            match self.attempt(settings, sender, &messages).await {
                Ok(()) => {
                    self.arrived(messages.len());
                    return Ok(());
                }
                // One by one: the others are not held up by the one that is refused.
                Err(error) => self.failed(&error).await?,
            }
        }
        for (event, message) in batch {
            self.deliver_one(settings, sender, event, message).await?;
        }
        Ok(())
    }

    async fn deliver_one(
        &mut self,
        settings: &TargetSettings,
        sender: &mut Option<Box<dyn Sender>>,
        event: &Event,
        message: &Message,
    ) -> Result<(), Broken> {
        let (mut pause, mut refusals) = (PAUSE_MIN, 0);
        loop {
            if let Some((bucket, prefix)) = settings.dead_letter.as_ref().filter(|_| self.is_hopeless(settings, event))
            {
                let problem = self.problem.clone().unwrap_or_default();
                return Ok(self.bury(bucket, prefix, event, message, &SendError::Failed(problem)).await?);
            }
            let error = match self.attempt(settings, sender, std::slice::from_ref(message)).await {
                Ok(()) => {
                    self.arrived(1);
                    return Ok(());
                }
                Err(error) => error,
            };
            self.failed(&error).await?;
            refusals += u32::from(matches!(error, SendError::Refused(_)));
            if let Some((bucket, prefix)) = &settings.dead_letter
                && (refusals >= settings.attempts || is_past(settings, event))
            {
                match self.bury(bucket, prefix, event, message, &error).await {
                    Ok(()) => return Ok(()),
                    Err(error) => self.failed(&SendError::Failed(format!("dead letter: {}", chain(&error)))).await?,
                }
            }
            if let Err(broken) = self.is_kept(event.place.revision) {
                // The last moment at which there is something to put there.
                if let Some((bucket, prefix)) = &settings.dead_letter {
                    self.bury(bucket, prefix, event, message, &error).await?;
                }
                return Err(broken);
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether an event is past its time, and the target has failed a short while ago: trying each such event would take
    /// longer than the feed keeps the next ones.
    fn is_hopeless(&self, settings: &TargetSettings, event: &Event) -> bool {
        let given_up = settings.dead_letter.is_some() && is_past(settings, event);
        given_up && self.problem.is_some() && self.probed.elapsed() < PAUSE_MAX
    }

    async fn attempt(
        &mut self,
        settings: &TargetSettings,
        sender: &mut Option<Box<dyn Sender>>,
        messages: &[Message],
    ) -> Result<(), SendError> {
        self.probed = Instant::now();
        let mut open = match sender.take() {
            Some(open) => open,
            None => {
                let source = format!("{}/{}", self.origin, self.name);
                senders::connect(settings, self.context.reach, &source).await?
            }
        };
        senders::within(settings, open.send(messages)).await?;
        *sender = Some(open);
        Ok(())
    }

    fn arrived(&mut self, count_of: usize) {
        self.delivered += count_of as u64;
        count(&self.context.stats.delivered, count_of as u64);
        if self.problem.take().is_some() {
            tracing::info!(target_name = self.name, "the target takes events again");
        }
    }

    /// Tells of a failure, in the row too when it is news.
    async fn failed(&mut self, error: &SendError) -> Result<(), Broken> {
        count(&self.context.stats.failed, 1);
        let problem = cut(error.to_string());
        let news = self.problem.is_none();
        if news {
            tracing::warn!(target_name = self.name, problem, "a target does not take events");
        }
        let changed = self.problem.as_ref() != Some(&problem);
        if news || (changed && self.written_at.elapsed() >= PROBLEM_EVERY) {
            self.problem = Some(problem);
            self.write().await?;
        }
        Ok(())
    }

    /// Writes why nothing is delivered at all.
    async fn say(mut self, problem: String) {
        tracing::warn!(target_name = self.name, problem, "a target cannot be used");
        if self.problem.as_ref() != Some(&problem) {
            self.problem = Some(cut(problem));
            if let Err(Broken::Failed(why)) = self.write().await {
                tracing::warn!(target_name = self.name, why, "a target's problem cannot be written");
            }
        }
        // New settings begin anew.
        std::future::pending().await
    }

    /// Puts a message where somebody may look at it.
    async fn bury(
        &mut self,
        bucket: &BucketName,
        prefix: &str,
        event: &Event,
        message: &Message,
        error: &SendError,
    ) -> Result<(), Error> {
        let letter = json!({
            "target": self.name,
            "problem": error.to_string(),
            "event": crate::feed::forms::plain(event),
            "content_type": message.content_type,
            "message": serde_json::from_slice::<serde_json::Value>(&message.body).unwrap_or_default(),
        });
        let key: ObjectKey = format!("{prefix}{}/{}.json", self.name, message.id)
            .parse()
            .map_err(|_| Refusal::invalid("the dead-letter prefix makes no key"))?;
        let mut attributes = Attributes::default();
        attributes.headers.content_type = Some("application/json".into());
        let body = at_hand(Bytes::from(letter.to_string()));
        // Root set the target: this is done for root.
        let call = Call::internal();
        let put = Put { bucket: bucket.clone(), key, conditions: Conditions::default(), attributes, body };
        let done = timeout(DEAD_LETTER_WITHIN, self.gateway.put(&call, put)).await;
        done.map_err(|_| Error::Stopping)??;
        self.dead_lettered += 1;
        count(&self.context.stats.dead_lettered, 1);
        tracing::warn!(target_name = self.name, id = message.id, "an event is a dead letter");
        Ok(())
    }

    /// Writes the cursor.
    async fn write(&mut self) -> Result<(), Broken> {
        let op = AdvanceTarget {
            name: self.name.clone(),
            id: self.id,
            from: self.written,
            to: self.done,
            delivered: self.delivered,
            dead_lettered: self.dead_lettered,
            lost: self.lost,
            problem: self.problem.clone(),
        };
        let op = AuthorizedOp::authorize(Op::AdvanceTarget(op), Caller::System, &Context::default());
        let request = holdfast_core::id::RequestId::new(now_ms(), rand::random());
        self.gateway.commit_job(op.map_err(Error::from)?, request).await?;
        self.written = self.done;
        self.written_at = Instant::now();
        (self.delivered, self.dead_lettered, self.lost, self.skipped) = (0, 0, 0, 0);
        Ok(())
    }
}

/// Fails when the event of a revision is kept no more: a cursor behind it would stand in a hole.
fn still_kept(view: &View<'_>, at: Revision) -> Result<(), Broken> {
    let feed = view.feed().map_err(Error::from)?;
    if feed.floor >= at { Err(Broken::Compacted(feed.floor)) } else { Ok(()) }
}

/// Whether an event is older than it may be delivered.
fn is_past(settings: &TargetSettings, event: &Event) -> bool {
    Duration::from_millis(now_ms().saturating_sub(event.row.at_ms)) >= settings.give_up
}

fn cut(mut text: String) -> String {
    let end = (0..=PROBLEM_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
