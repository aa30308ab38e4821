//! A decorator that makes any store fail, by a script or by a seeded generator.
//!
//! It injects what real stores do: refuse, do it and lose the reply, take long, store nothing of a torn body, stop in the
//! middle of a blob, run full, lose a sync. It never breaks a promise that a store must keep: a blob is never visible in part,
//! and a get that stops early ends with an error. Each injected fault is counted, so a test can prove that it happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::body::{Body, exact};
use super::{
    Backend, Capabilities, DeleteOptions, Error, Fetched, GetOptions, Head, HeadOptions, JoinOptions, JoinSource,
    ListOptions, ObjectPath, Page, Probe, ProbeOptions, PutOptions, Result, Stored, SweepOptions, Swept, within,
};

/// A call of the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`Backend::put`].
    Put,
    /// [`Backend::get`].
    Get,
    /// [`Backend::head`].
    Head,
    /// [`Backend::delete`].
    Delete,
    /// [`Backend::list`].
    List,
    /// [`Backend::join`].
    Join,
    /// [`Backend::sweep_unfinished`].
    Sweep,
    /// [`Backend::probe`].
    Probe,
}

impl Op {
    fn is_write(self) -> bool {
        matches!(self, Op::Put | Op::Join)
    }

    fn action(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Head => "head",
            Op::Delete => "delete",
            Op::List => "list",
            Op::Join => "join",
            Op::Sweep => "sweep",
            Op::Probe => "probe",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing happens.
    Before,
    /// It happens, and the caller is told that the outcome is unknown.
    After,
    /// The store asks for less load.
    Busy,
    /// It takes this much longer, within the caller's deadline.
    Delay(Duration),
    /// The connection breaks after this many bytes of a put's body; nothing is stored.
    TornBody(u64),
    /// A get ends with an error after this many bytes.
    ShortGet(u64),
    /// A get gives as many bytes as it should, all of them wrong.
    WrongBytes,
    /// The store is full. Reads and deletes are not affected.
    NoSpace,
    /// A sync fails: this write and every later one is refused for good.
    FailedSync,
}

impl Fault {
    /// Whether this fault can happen to that call.
    fn suits(self, op: Op) -> bool {
        match self {
            Fault::Before | Fault::Busy | Fault::Delay(_) => true,
            Fault::After => matches!(op, Op::Put | Op::Join | Op::Delete),
            Fault::TornBody(_) => op == Op::Put,
            Fault::ShortGet(_) | Fault::WrongBytes => op == Op::Get,
            Fault::NoSpace => op.is_write(),
            Fault::FailedSync => op.is_write() || op == Op::Delete,
        }
    }
}

/// One line of a script: which calls get which fault.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Only this call; any when absent.
    pub op: Option<Op>,
    /// Only names that begin with this text.
    pub prefix: String,
    /// Matching calls to let through first.
    pub skip: u64,
    /// Matching calls to hit after that.
    pub times: u64,
    /// What happens to them.
    pub fault: Fault,
}

impl Rule {
    /// The next matching call gets the fault.
    pub fn once(op: Op, fault: Fault) -> Self {
        Rule { op: Some(op), prefix: String::new(), skip: 0, times: 1, fault }
    }

    /// Every matching call gets the fault, until the script is replaced.
    pub fn always(op: Op, fault: Fault) -> Self {
        Rule { times: u64::MAX, ..Rule::once(op, fault) }
    }

    /// Whether this call is to be hit; counts it.
    fn hits(&mut self, op: Op, name: &str) -> bool {
        let matches = self.op.is_none_or(|only| only == op) && name.starts_with(&self.prefix) && self.fault.suits(op);
        if !matches || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// Where faults come from.
enum Plan {
    Script(Vec<Rule>),
    Random { rng: Box<StdRng>, one_in: u32, faults: Vec<Fault> },
}

impl Plan {
    fn next(&mut self, op: Op, name: &str) -> Option<Fault> {
        match self {
            Plan::Script(rules) => rules.iter_mut().find_map(|rule| rule.hits(op, name).then_some(rule.fault)),
            Plan::Random { rng, one_in, faults } => {
                let suitable: Vec<Fault> = faults.iter().copied().filter(|fault| fault.suits(op)).collect();
                if suitable.is_empty() || !rng.random_ratio(1, *one_in) {
                    return None;
                }
                Some(suitable[rng.random_range(0..suitable.len())])
            }
        }
    }
}

/// A store that fails now and then.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    name: String,
    plan: Mutex<Plan>,
    injected: AtomicU64,
    poison: OnceLock<String>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("injected", &self.injected).finish_non_exhaustive()
    }
}

impl Faulty {
    /// Fails as a script says; not at all with an empty one.
    pub fn scripted(inner: Arc<dyn Backend>, rules: Vec<Rule>) -> Self {
        Faulty::new(inner, Plan::Script(rules))
    }

    /// Fails one call in `one_in`, with one of the faults; the same seed fails the same way for the same calls.
    pub fn seeded(inner: Arc<dyn Backend>, seed: u64, one_in: u32, faults: Vec<Fault>) -> Self {
        tracing::info!(seed, one_in, "injecting faults into the backend");
        Faulty::new(inner, Plan::Random { rng: Box::new(StdRng::seed_from_u64(seed)), one_in: one_in.max(1), faults })
    }

    fn new(inner: Arc<dyn Backend>, plan: Plan) -> Self {
        let name = format!("faulty {}", inner.name());
        Faulty { inner, name, plan: Mutex::new(plan), injected: AtomicU64::new(0), poison: OnceLock::new() }
    }

    /// Replaces whatever was to come.
    pub fn set_script(&self, rules: Vec<Rule>) {
        *self.plan() = Plan::Script(rules);
    }

    /// How many faults were injected so far.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, op: Op, name: &str) -> Option<Fault> {
        let fault = self.plan().next(op, name)?;
        self.injected.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(?op, name, ?fault, "injected a fault");
        Some(fault)
    }

    fn check_writable(&self) -> Result<()> {
        self.poison.get().map_or(Ok(()), |cause| Err(Error::Poisoned { cause: cause.clone() }))
    }

    /// Runs a call with the fault that hits all kinds of calls.
    async fn disturbed<T>(
        &self,
        op: Op,
        name: &str,
        fault: Option<Fault>,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if op.is_write() || op == Op::Delete {
            self.check_writable()?;
        }
        let (action, path) = (op.action(), name.to_owned());
        let source = || -> super::BoxError { "injected fault".into() };
        match fault {
            None | Some(Fault::TornBody(_) | Fault::ShortGet(_) | Fault::WrongBytes) => call.await,
            Some(Fault::Before) => Err(Error::Unavailable { action, path, source: source() }),
            Some(Fault::Busy) => Err(Error::Busy { action, path, retry_after: None, source: source() }),
            Some(Fault::NoSpace) => Err(Error::NoSpace { action, path, source: source() }),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                call.await
            }
            Some(Fault::After) => {
                call.await?;
                Err(Error::Unknown { action, path, source: source() })
            }
            Some(Fault::FailedSync) => {
                let cause = self.poison.get_or_init(|| format!("sync of {path}: injected fault"));
                Err(Error::Poisoned { cause: cause.clone() })
            }
        }
    }
}

/// A body whose connection breaks after some bytes.
fn torn(body: Body, after: u64) -> Body {
    let state = Some((body.into_stream(), after));
    Body::stream(futures::stream::unfold(state, |state| async move {
        let (mut stream, left) = state?;
        match stream.next().await {
            Some(Ok(piece)) if piece.len() as u64 <= left => {
                let left = left - piece.len() as u64;
                Some((Ok(piece), Some((stream, left))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            Some(Ok(_)) | None => Some((Err("injected fault: connection to the backend broke".into()), None)),
        }
    }))
}

/// A blob whose connection breaks after some bytes.
fn short(path: &ObjectPath, fetched: Fetched, after: u64) -> Fetched {
    let state = Some((fetched.stream, after, path.clone()));
    let stream = futures::stream::unfold(state, |state| async move {
        let (mut stream, left, path) = state?;
        match stream.next().await? {
            Ok(mut piece) if left > 0 => {
                // What is left of the permitted bytes, at most the piece.
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
                let left = left - piece.len() as u64;
                Some((Ok(piece), Some((stream, left, path))))
            }
            Ok(_) => {
                Some((Err(Error::unavailable("get", path, "injected fault: connection to the backend broke")), None))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Fetched { stream: exact(path, fetched.length, stream), ..fetched }
}

fn wrong(fetched: Fetched) -> Fetched {
    let inverted = |piece: Bytes| piece.iter().map(|byte| !byte).collect::<Vec<u8>>().into();
    Fetched { stream: fetched.stream.map(move |piece| piece.map(inverted)).boxed(), ..fetched }
}

#[async_trait]
impl Backend for Faulty {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
        let fault = self.draw(Op::Put, path.as_str());
        let deadline = options.deadline;
        let body = match fault {
            // The length stays known, so that the way the blob takes is the same as without the fault.
            Some(Fault::TornBody(after)) => torn(body, after),
            _ => body,
        };
        let put = async {
            self.inner.put(path, body, options).await.map_err(|error| match (fault, error) {
                // To the caller it is the backend that failed, not the body.
                (Some(Fault::TornBody(_)), Error::Body { source, .. }) => Error::unavailable("put", path, source),
                (_, error) => error,
            })
        };
        within(deadline, "put", path, self.disturbed(Op::Put, path.as_str(), fault, put)).await
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        let fault = self.draw(Op::Get, path.as_str());
        let deadline = options.deadline;
        let get = self.disturbed(Op::Get, path.as_str(), fault, self.inner.get(path, options));
        let fetched = within(deadline, "get", path, get).await?;
        match fault {
            Some(Fault::ShortGet(after)) => Ok(short(path, fetched, after)),
            Some(Fault::WrongBytes) => Ok(wrong(fetched)),
            _ => Ok(fetched),
        }
    }

    async fn head(&self, path: &ObjectPath, options: HeadOptions) -> Result<Head> {
        let (fault, deadline) = (self.draw(Op::Head, path.as_str()), options.deadline);
        let head = self.disturbed(Op::Head, path.as_str(), fault, self.inner.head(path, options));
        within(deadline, "head", path, head).await
    }

    async fn delete(&self, path: &ObjectPath, options: DeleteOptions) -> Result<()> {
        let (fault, deadline) = (self.draw(Op::Delete, path.as_str()), options.deadline);
        let delete = self.disturbed(Op::Delete, path.as_str(), fault, self.inner.delete(path, options));
        within(deadline, "delete", path, delete).await
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        let (prefix, deadline) = (options.prefix.clone(), options.deadline);
        let fault = self.draw(Op::List, &prefix);
        within(deadline, "list", &prefix, self.disturbed(Op::List, &prefix, fault, self.inner.list(options))).await
    }

    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored> {
        let (fault, deadline) = (self.draw(Op::Join, target.as_str()), options.deadline);
        let join = self.disturbed(Op::Join, target.as_str(), fault, self.inner.join(sources, target, options));
        within(deadline, "join", target, join).await
    }

    async fn sweep_unfinished(&self, options: SweepOptions) -> Result<Swept> {
        let (prefix, deadline) = (options.prefix.clone(), options.deadline);
        let fault = self.draw(Op::Sweep, &prefix);
        let sweep = self.disturbed(Op::Sweep, &prefix, fault, self.inner.sweep_unfinished(options));
        within(deadline, "sweep", &prefix, sweep).await
    }

    async fn probe(&self, options: ProbeOptions) -> Result<Probe> {
        self.check_writable()?;
        let (fault, deadline) = (self.draw(Op::Probe, ""), options.deadline);
        within(deadline, "probe", &self.name, self.disturbed(Op::Probe, "", fault, self.inner.probe(options))).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests;
