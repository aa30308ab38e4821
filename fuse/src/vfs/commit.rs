//! The stream of commits.
//!
//! Whoever changes something leaves a [`Request`] and waits. One task takes all that wait, and every layer that was written
//! by then, makes steps of them and sends one commit with the next number; what comes meanwhile waits for the next one. So
//! many processes share a commit, and the order in the repository is the order here.
//!
//! A commit whose answer is lost is sent again with its number until it is answered: the rules give the first outcome. When
//! the session's lease ended meanwhile, somebody else may have written: then what was written here goes to the repository
//! only where the file is still what it was, and to a conflict copy beside it otherwise.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use holdfast_core::command::mount::{
    CreateFile, FileRef, FileWrite, MOUNT_STEPS_MAX, MountUpload, Origin, PatchFile, Step, StepOutcome,
};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::Revision;
use holdfast_core::mount::{Answer, Call, Commit, Node};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{PATIENCE, Profile, Sync, Vfs};
use crate::attributes::{Time, directory_metadata, time_changes};
use crate::client::Error;
use crate::error::{Errno, errno_of_refusal};
use crate::file::File;
use crate::layer::Layer;
use crate::tree::{Ino, Tree};

/// A commit of up to so many bytes carries them; longer ones travel before it as parts of an upload.
const CARRIED_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a part.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at a time.
const PARTS_AT_ONCE: usize = 4;
/// Files whose layers one commit takes.
const FILES_MAX: usize = 400;
/// As [`FILES_MAX`], where each has a lock that the commit is fenced by: a request carries 16 fences at most.
const FENCED_FILES_MAX: usize = 12;
/// Requests that may wait; a process more than that waits for its turn to wait.
const REQUESTS_MAX: usize = 4_096;
/// Written bytes past which a commit begins by itself.
const EAGER_BYTES: u64 = 32 << 20;
/// Pieces of layers past which writers wait: a commit writes at most 4,096 extents.
pub(super) const PIECES_MAX: usize = 3_000;
/// A file that is open is a version for S3 at least so often.
const CUT_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often the stream looks for what is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause before a commit is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Makes the steps of a request from what the tree knows when its turn comes, with the bytes that they send.
type Make = Box<dyn FnOnce(&Tree) -> Result<(Vec<Step>, Bytes), Errno> + Send>;

/// Who waits for what became of its steps, and at which revision.
type Waiting = oneshot::Sender<Result<(Vec<StepOutcome>, Revision), Errno>>;

struct Request {
    make: Make,
    reply: Waiting,
}

/// What waits, and where the stream is.
pub struct Stream {
    requests: Mutex<VecDeque<Request>>,
    wake: Notify,
    number: Mutex<u64>,
    upload: Mutex<Option<Staging>>,
    /// A commit is under way: events of the feed wait until its revision is known.
    pub(super) under_way: tokio::sync::watch::Sender<bool>,
    /// Revisions of the last commits.
    pub(super) own: Mutex<VecDeque<u64>>,
}

#[derive(Clone)]
struct Staging {
    upload: MountUpload,
    next_part: u16,
}

/// Revisions of own commits that are remembered.
const OWN_MAX: usize = 4_096;

impl Stream {
    /// A stream that goes on after a commit.
    #[must_use]
    pub fn after(number: u64) -> Self {
        Self {
            requests: Mutex::new(VecDeque::new()),
            wake: Notify::new(),
            number: Mutex::new(number),
            upload: Mutex::new(None),
            under_way: tokio::sync::watch::Sender::new(false),
            own: Mutex::new(VecDeque::new()),
        }
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a revision is a commit of this mount.
    pub(super) fn is_own(&self, revision: u64) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&revision)
    }

    fn remember(&self, revision: u64) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.push_back(revision);
        if own.len() > OWN_MAX {
            own.pop_front();
        }
    }
}

/// Whose outcome a step's is.
enum Owner {
    /// A patch of a file; the last of its steps tells what the file is.
    Patch { file: Arc<File>, sent_as: FileRef, last: bool },
    /// A step of a request.
    Request(usize),
}

/// Everything that one commit carries.
struct Batch {
    steps: Vec<Step>,
    owners: Vec<Owner>,
    /// Who waits, with the outcomes so far.
    replies: Vec<(Waiting, Vec<StepOutcome>)>,
    /// Layers, in the order of their bytes.
    layers: Vec<Arc<Layer>>,
    /// Bytes of the layers.
    layered: u64,
    /// Bytes that requests send, after those of the layers.
    sent: BytesMut,
    /// Records of the journal up to here are in it.
    journaled: u64,
}

/// A batch in the form in which it travels.
struct Carried {
    raw: Bytes,
    upload: Option<MountUpload>,
    steps: Vec<Step>,
}

/// Others may have written meanwhile: patches are applied only to what the files still are.
fn guard(batch: &Batch, steps: &mut [Step]) {
    let mut last = None;
    for (step, owner) in steps.iter_mut().zip(&batch.owners) {
        if let (Step::Patch(patch), Owner::Patch { file, .. }) = (step, owner) {
            // The second patch of a file finds what the first one made of it.
            patch.base = (last != Some(file.ino)).then(|| file.state().generation);
            last = Some(file.ino);
        }
    }
}

impl Vfs {
    /// Commits everything that is written by now, then `make`'s steps; their outcomes.
    pub(super) async fn submit(
        &self,
        make: impl FnOnce(&Tree) -> Result<(Vec<Step>, Bytes), Errno> + Send + 'static,
    ) -> Result<Vec<StepOutcome>, Errno> {
        self.submit_at(make).await.map(|(outcomes, _)| outcomes)
    }

    /// As [`Vfs::submit`], with the revision of the commit.
    pub(super) async fn submit_at(
        &self,
        make: impl FnOnce(&Tree) -> Result<(Vec<Step>, Bytes), Errno> + Send + 'static,
    ) -> Result<(Vec<StepOutcome>, Revision), Errno> {
        let (reply, outcome) = oneshot::channel();
        let deadline = Instant::now() + PATIENCE;
        let mut request = Some(Request { make: Box::new(make), reply });
        loop {
            {
                let mut requests = self.stream.requests();
                if requests.len() < REQUESTS_MAX {
                    requests.extend(request.take());
                    break;
                }
            }
            let room = tokio::time::timeout_at(deadline, self.room.notified()).await;
            room.map_err(|_| Errno::EIO)?;
        }
        self.stream.wake.notify_one();
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(_)) | Err(_) => Err(Errno::EIO),
        }
    }

    /// As [`Vfs::submit`], for one step.
    pub(super) async fn submit_one(
        &self,
        make: impl FnOnce(&Tree) -> Result<Step, Errno> + Send + 'static,
    ) -> Result<StepOutcome, Errno> {
        let outcomes = self.submit(move |tree| Ok((vec![make(tree)?], Bytes::new()))).await?;
        outcomes.into_iter().next().ok_or(Errno::EIO)
    }

    /// Commits everything that is written by now.
    ///
    /// # Errors
    /// When a commit did not get through in time; what failed for one file is in that file's state.
    pub async fn flush_all(&self) -> Result<(), Errno> {
        // Two rounds at most: the first may have been refused for a name that moved.
        for _ in 0..3 {
            self.submit(|_| Ok((Vec::new(), Bytes::new()))).await?;
            if self.unsynced().0 == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Wakes the stream: there is much to commit.
    pub(super) fn nudge(&self) {
        if self.dirty_bytes.load(Ordering::Relaxed) > EAGER_BYTES
            || self.dirty_pieces.load(Ordering::Relaxed) > PIECES_MAX / 2
        {
            self.stream.wake.notify_one();
        }
    }

    /// The task of the stream.
    pub(super) async fn run_stream(self: Arc<Self>) {
        loop {
            let stopping = self.stopping.is_cancelled();
            let batch = self.assemble(self.is_flush_due());
            match batch {
                Some(batch) => self.ship(batch).await,
                None if stopping => return,
                None => {
                    tokio::select! {
                        () = self.stream.wake.notified() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                        () = self.stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Whether something dirty has waited long enough, or is too much.
    fn is_flush_due(&self) -> bool {
        let wait = match self.options.sync {
            Sync::Store => self.options.loss_time,
            Sync::Journal | Sync::Async => self.options.loss_time / 2,
        };
        let many = self.dirty_bytes.load(Ordering::Relaxed) > EAGER_BYTES.min(self.options.loss_bytes / 2)
            || self.dirty_pieces.load(Ordering::Relaxed) > PIECES_MAX / 2;
        many || {
            let now = Instant::now();
            self.files().values().any(|file| file.state().dirty_since.is_some_and(|since| now - since >= wait))
        }
    }

    /// Takes everything that waits. None when there is nothing.
    fn assemble(&self, flush: bool) -> Option<Batch> {
        let waiting = !self.stream.requests().is_empty();
        if !waiting && !flush {
            return None;
        }
        let mut batch = Batch {
            steps: Vec::new(),
            owners: Vec::new(),
            replies: Vec::new(),
            layers: Vec::new(),
            layered: 0,
            sent: BytesMut::new(),
            journaled: 0,
        };
        {
            let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
            let files: Vec<Arc<File>> = self.files().values().cloned().collect();
            let most = if self.options.profile == Profile::Vm { FENCED_FILES_MAX } else { FILES_MAX };
            for file in files {
                if batch.layers.len() >= most {
                    break;
                }
                self.take_layer(&file, &mut batch);
            }
            self.count_dirty();
        }
        self.room.notify_waiters();
        let mut taken = Vec::new();
        {
            let mut requests = self.stream.requests();
            while let Some(request) = requests.pop_front() {
                taken.push(request);
                if batch.steps.len() + taken.len() >= MOUNT_STEPS_MAX / 2 {
                    break;
                }
            }
        }
        for request in taken {
            self.take_request(request, &mut batch);
        }
        Some(batch)
    }

    /// Counts what is dirty anew.
    fn count_dirty(&self) {
        let (mut bytes, mut pieces) = (0, 0);
        for file in self.files().values() {
            let state = file.state();
            bytes += state.dirty.as_ref().map_or(0, Layer::bytes);
            pieces += state.dirty.as_ref().map_or(0, Layer::pieces);
        }
        self.dirty_bytes.store(bytes, Ordering::Relaxed);
        self.dirty_pieces.store(pieces, Ordering::Relaxed);
    }

    /// Takes what is written to a file into a batch.
    fn take_layer(&self, file: &Arc<File>, batch: &mut Batch) {
        let Some(reference) = self.tree().file(file.ino) else { return };
        let mut state = file.state();
        if state.flushing.is_some() {
            return;
        }
        let Some(layer) = state.dirty.take() else { return };
        state.dirty_since = None;
        batch.journaled = batch.journaled.max(state.journaled);
        if !layer.changes(state.size) {
            return;
        }
        let layer = Arc::new(layer);
        state.flushing = Some(Arc::clone(&layer));
        let reference = FileRef { key: reference.key, object: state.object };
        let set = state.mtime.take().map(|time| time_changes(Some(time), Some(time))).unwrap_or_default();
        let base = state.size;
        drop(state);
        let mut at = batch.layered;
        let writes: Vec<FileWrite> = layer
            .runs()
            .into_iter()
            .map(|run| {
                let from = Origin::Sent(at);
                at += run.length;
                FileWrite { offset: run.offset, length: run.length, from }
            })
            .collect();
        batch.layered = at;
        batch.layers.push(Arc::clone(&layer));
        let cut = layer.cut().filter(|cut| *cut < base);
        let written = writes.last().map_or(0, |last| last.offset + last.length);
        let after = cut.unwrap_or(base).max(written);
        let (mut size, mut more) = (cut, None);
        if layer.size() > after {
            // The end is a hole: told first when nothing else is cut.
            if cut.is_none() { size = Some(layer.size()) } else { more = Some(layer.size()) }
        }
        let last = more.is_none();
        let step = PatchFile { file: reference.clone(), size, writes, set, cut: false, base: None };
        batch.steps.push(Step::Patch(step));
        batch.owners.push(Owner::Patch { file: Arc::clone(file), sent_as: reference.clone(), last });
        if more.is_some() {
            let step = PatchFile {
                file: reference.clone(),
                size: more,
                writes: Vec::new(),
                set: Default::default(),
                cut: false,
                base: None,
            };
            batch.steps.push(Step::Patch(step));
            batch.owners.push(Owner::Patch { file: Arc::clone(file), sent_as: reference, last: true });
        }
    }

    fn take_request(&self, request: Request, batch: &mut Batch) {
        let made = (request.make)(&self.tree());
        match made {
            Err(errno) => {
                // Whoever asked may have gone.
                let _ = request.reply.send(Err(errno));
            }
            Ok((steps, bytes)) => {
                let number = batch.replies.len();
                batch.replies.push((request.reply, Vec::new()));
                let base = batch.layered + batch.sent.len() as u64;
                batch.sent.extend_from_slice(&bytes);
                for mut step in steps {
                    shift(&mut step, base);
                    batch.steps.push(step);
                    batch.owners.push(Owner::Request(number));
                }
            }
        }
    }

    /// Sends a batch until it is answered, and tells everybody.
    async fn ship(&self, batch: Batch) {
        if batch.steps.is_empty() {
            for (reply, _) in batch.replies {
                // Whoever asked may have gone.
                let _ = reply.send(Ok((Vec::new(), 0)));
            }
            self.discard(batch.journaled);
            return;
        }
        let _ = self.stream.under_way.send_replace(true);
        let outcome = self.send(&batch).await;
        match outcome {
            Ok((outcomes, revision)) => {
                self.stream.remember(revision);
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters.steps.fetch_add(batch.steps.len() as u64, Ordering::Relaxed);
                self.counters.committed_bytes.fetch_add(batch.layered, Ordering::Relaxed);
                self.settle(batch, outcomes, revision).await;
            }
            Err(errno) => self.give_up(batch, errno),
        }
        let _ = self.stream.under_way.send_replace(false);
    }

    /// The outcomes of a batch's steps; an error only when the whole commit was refused for good.
    async fn send(&self, batch: &Batch) -> Result<(Vec<StepOutcome>, u64), Errno> {
        let number = *self.stream.number.lock().unwrap_or_else(PoisonError::into_inner) + 1;
        if let Some(journal) = &self.journal
            && batch.journaled > 0
        {
            let mark = [number.to_be_bytes(), batch.journaled.to_be_bytes()].concat();
            let synced = journal.append(super::content::RECORD_ASSIGNED, &[&mark]).and_then(|at| journal.sync(at));
            if let Err(error) = synced {
                tracing::error!(%error, "the journal failed");
                return Err(Errno::EIO);
            }
        }
        let mut carried = None;
        let outcome = loop {
            let sent = match carried.take() {
                Some(ready) => Ok(ready),
                None => self.carry(batch).await,
            };
            let sent = match sent {
                Ok(ready) => self.send_once(batch, number, carried.insert(ready)).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(outcome) => break outcome,
                Err(error) => {
                    if error.is_staging_lost() {
                        carried = None;
                    }
                    self.consider(batch, carried.as_mut(), error).await?;
                }
            }
        };
        *self.stream.number.lock().unwrap_or_else(PoisonError::into_inner) = number;
        Ok(outcome)
    }

    async fn send_once(
        &self,
        batch: &Batch,
        number: u64,
        Carried { raw, upload, steps }: &Carried,
    ) -> Result<(Vec<StepOutcome>, u64), Error> {
        let now = Time::now();
        let commit = Commit {
            client: self.client,
            lease: self.session.lease(),
            number,
            steps: steps.clone(),
            upload: upload.clone(),
            directory: directory_metadata(&self.options.defaults, now),
            now: now.to_string(),
        };
        let fences = self.session.fences(batch.owners.iter().filter_map(|owner| match owner {
            Owner::Patch { file, .. } => Some(file.ino),
            Owner::Request(_) => None,
        }));
        let told = self.remote.call(&Call::Commit(commit), raw.clone(), &fences, Vfs::deadline()).await?;
        match told.answer {
            Answer::Outcomes(outcomes) if outcomes.len() == steps.len() => Ok((outcomes, told.revision)),
            _ => Err(Error::unexpected()),
        }
    }

    /// What to do about a commit that did not get through: `Ok` sends it again.
    async fn consider(&self, batch: &Batch, carried: Option<&mut Carried>, error: Error) -> Result<(), Errno> {
        if error.is_session_lost() {
            tracing::warn!(%error, "the session of the mount has ended; opening it again");
            self.counters.sessions_lost.fetch_add(1, Ordering::Relaxed);
            self.locks_are_lost();
            match self.session.reopen(&*self.remote, self.client).await {
                // The number tells by itself whether the commit was applied.
                Ok(()) => {
                    carried.into_iter().for_each(|carried| guard(batch, &mut carried.steps));
                    return Ok(());
                }
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(error.errno()),
            }
        } else if error.is_fenced() {
            self.fenced.store(true, Ordering::Release);
            tracing::error!(%error, "another has what this mount held: it changes nothing any more; mount again");
            return Err(Errno::EIO);
        } else if error.is_staging_lost() {
            *self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner) = None;
        } else if !error.is_unknown() {
            tracing::error!(%error, "a commit was refused");
            return Err(error.errno());
        } else {
            tracing::warn!(%error, "a commit did not get through; it is sent again");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        Ok(())
    }

    /// The bytes of a batch: in the commit itself, or as parts of the mount's upload, which the steps name then.
    async fn carry(&self, batch: &Batch) -> Result<Carried, Error> {
        if batch.layered <= CARRIED_BYTES_MAX {
            let mut raw = BytesMut::with_capacity(batch.layered as usize + batch.sent.len());
            for layer in &batch.layers {
                layer.data().for_each(|(_, piece)| raw.extend_from_slice(piece));
            }
            raw.extend_from_slice(&batch.sent);
            return Ok(Carried { raw: raw.freeze(), upload: None, steps: batch.steps.clone() });
        }
        let mut staging = self.staging(batch).await?;
        let mut parts = Vec::new();
        let mut part = BytesMut::with_capacity(PART_BYTES);
        for layer in &batch.layers {
            for (_, mut piece) in layer.data() {
                while !piece.is_empty() {
                    let (now, later) = piece.split_at(piece.len().min(PART_BYTES - part.len()));
                    part.extend_from_slice(now);
                    piece = later;
                    if part.len() == PART_BYTES {
                        parts.push(std::mem::replace(&mut part, BytesMut::with_capacity(PART_BYTES)).freeze());
                    }
                }
            }
        }
        if !part.is_empty() {
            parts.push(part.freeze());
        }
        let first = staging.next_part;
        staging.next_part += parts.len() as u16;
        *self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging.clone());
        let upload = &staging.upload;
        stream::iter((first..).zip(parts))
            .map(|(number, bytes)| self.remote.upload_part(upload, number, bytes, Vfs::deadline()))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut steps = batch.steps.clone();
        for (step, owner) in steps.iter_mut().zip(&batch.owners) {
            stage(step, matches!(owner, Owner::Patch { .. }), first, batch.layered);
        }
        Ok(Carried { raw: batch.sent.clone().freeze(), upload: Some(staging.upload), steps })
    }

    async fn staging(&self, batch: &Batch) -> Result<Staging, Error> {
        /// Part numbers end at 10,000: a new upload begins in time.
        const PARTS_USED_MAX: u16 = 9_000;
        let known = self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.next_part < PARTS_USED_MAX) {
            return Ok(known);
        }
        let key = batch.steps.iter().find_map(|step| step.keys().first().map(|key| (*key).clone()));
        let key = match key {
            Some(key) => key,
            None => format!("{}unnamed", self.options.prefix).parse().map_err(|_| Error::unexpected())?,
        };
        let upload = self.remote.create_upload(&key, Vfs::deadline()).await?;
        Ok(Staging { upload, next_part: 1 })
    }

    /// Tells everybody what became of a batch.
    async fn settle(&self, mut batch: Batch, outcomes: Vec<StepOutcome>, revision: Revision) {
        let mut moved = Vec::new();
        for ((owner, outcome), step) in batch.owners.iter().zip(outcomes).zip(&batch.steps) {
            match owner {
                Owner::Request(number) => {
                    if let StepOutcome::Node(node) = &outcome {
                        self.learn(node, revision);
                    }
                    batch.replies[*number].1.push(outcome);
                }
                Owner::Patch { file, sent_as, last } => match outcome {
                    StepOutcome::Node(node) => {
                        let mut state = file.state();
                        state.rebase(&node, revision);
                        if *last {
                            state.flushing = None;
                        }
                        drop(state);
                        let mut tree = self.tree();
                        tree.update(file.ino, node, revision);
                    }
                    StepOutcome::Done => {}
                    StepOutcome::Refused(refusal) => {
                        if file.state().flushing.is_some() {
                            let writes = matches!(step, Step::Patch(_));
                            moved.push((Arc::clone(file), sent_as.clone(), refusal, writes));
                        }
                    }
                },
            }
        }
        for (file, sent_as, refusal, _) in moved {
            self.not_written(&file, &sent_as, refusal).await;
        }
        self.discard(batch.journaled);
        self.drop_clean_files();
        for (reply, outcomes) in batch.replies {
            let _ = reply.send(Ok((outcomes, revision)));
        }
    }

    /// What a commit made of a file that is known. Here, in the order of commits: whoever waits for one may wake up late.
    fn learn(&self, node: &Node, revision: Revision) {
        let ino = self.tree().by_object(node.object);
        let Some(ino) = ino else { return };
        if let Some(file) = self.open_file(ino) {
            let mut state = file.state();
            let grown = state.dirty.as_mut().filter(|dirty| dirty.size() < node.size && dirty.cut().is_none());
            if let Some(dirty) = grown {
                dirty.truncate(node.size);
            }
            state.rebase(node, revision);
        }
        self.tree().update(ino, node.clone(), revision);
    }

    /// The records of what is in the repository, or will never be, go.
    pub(super) fn discard(&self, journaled: u64) {
        if let Some(journal) = &self.journal
            && journaled > 0
            && let Err(error) = journal.discard(journaled)
        {
            tracing::warn!(%error, "the journal keeps what it needs no more");
        }
    }

    /// A patch was refused: it is tried again under the file's new name, or goes to a conflict copy.
    async fn not_written(&self, file: &Arc<File>, sent_as: &FileRef, refusal: Refusal) {
        let gone = matches!(refusal, Refusal::Changed | Refusal::NoSuchKey);
        if matches!(refusal, Refusal::NoSuchUpload | Refusal::InvalidPart { .. }) {
            // The parts are gone, as an upload that somebody gave up: the bytes are still here, and travel anew.
            *self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner) = None;
            file.state().put_back();
            return;
        }
        if matches!(refusal, Refusal::TooManyExtents) || gone && self.has_moved(file, sent_as).await {
            file.state().put_back();
            return;
        }
        if gone && self.goes_to_what_it_was(file, sent_as).await {
            return;
        }
        if gone {
            match self.conflict_copy(file, sent_as).await {
                Ok(name) => {
                    tracing::error!(key = ?sent_as.key, copy = %name, "the file was replaced by another client; what was written here is in the copy")
                }
                Err(errno) => {
                    tracing::error!(key = ?sent_as.key, %errno, "the file was replaced by another client, and no copy could be made: what was written here is lost")
                }
            }
            file.state().fail(Errno::EIO);
        } else {
            tracing::error!(key = ?sent_as.key, %refusal, "what was written is refused");
            file.state().fail(errno_of_refusal(&refusal));
        }
        let mut state = file.state();
        state.flushing = None;
        state.dirty = None;
        state.stale = true;
    }

    /// Whether the file has another name, or object, than a commit said.
    async fn has_moved(&self, file: &Arc<File>, sent_as: &FileRef) -> bool {
        /// A rename by another mount is told by the feed a moment later.
        const MOMENT: Duration = Duration::from_millis(200);
        for _ in 0..5 {
            let now = self.tree().file(file.ino);
            if now.is_some_and(|now| now.key != sent_as.key || now.object != sent_as.object) {
                return true;
            }
            tokio::time::sleep(MOMENT).await;
        }
        false
    }

    /// Brings what was written to a file to a new one beside it.
    async fn conflict_copy(&self, file: &Arc<File>, sent_as: &FileRef) -> Result<String, Errno> {
        self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        let key = sent_as.key.as_ref().ok_or(Errno::EIO)?;
        let name = format!("{key}.conflict-{}", Time::now());
        let (layer, metadata) = {
            let mut state = file.state();
            state.put_back();
            let metadata = self.tree().get(file.ino).map(|inode| inode.node.metadata.clone()).unwrap_or_default();
            (state.dirty.take().ok_or(Errno::EIO)?, metadata)
        };
        let mut raw = BytesMut::new();
        let mut bytes = Vec::new();
        for (offset, piece) in layer.data() {
            bytes.push(FileWrite { offset, length: piece.len() as u64, from: Origin::Sent(raw.len() as u64) });
            raw.extend_from_slice(piece);
        }
        let create =
            CreateFile { key: name.parse().map_err(|_| Errno::ENAMETOOLONG)?, metadata, content_type: None, bytes };
        match self.send_alone(Step::Create(create), raw).await?.0 {
            StepOutcome::Node(_) | StepOutcome::Done => {
                self.tree().doubt_above(&name);
                Ok(name)
            }
            StepOutcome::Refused(refusal) => Err(errno_of_refusal(&refusal)),
        }
    }

    /// Sends one step apart from the stream's queue, for the stream's own task.
    async fn send_alone(&self, step: Step, sent: BytesMut) -> Result<(StepOutcome, Revision), Errno> {
        let batch = Batch {
            steps: vec![step],
            owners: vec![Owner::Request(0)],
            replies: Vec::new(),
            layers: Vec::new(),
            layered: 0,
            sent,
            journaled: 0,
        };
        let (outcomes, revision) = self.send(&batch).await?;
        self.stream.remember(revision);
        Ok((outcomes.into_iter().next().ok_or(Errno::EIO)?, revision))
    }

    /// What was written to a file that another client removed or replaced goes to what it was, which the session holds from
    /// now on, as after an unlink here. Only while the feed tells that it was not renamed.
    async fn goes_to_what_it_was(&self, file: &Arc<File>, sent_as: &FileRef) -> bool {
        let open = self.tree().get(file.ino).is_some_and(|inode| inode.opens > 0);
        if !open || sent_as.key.is_none() || !self.is_live() {
            return false;
        }
        let (outcome, revision) = match self.send_alone(Step::Adopt(sent_as.clone()), BytesMut::new()).await {
            Ok((StepOutcome::Node(node), revision)) if node.key.is_none() => (StepOutcome::Node(node), revision),
            Ok(_) | Err(_) => return false,
        };
        {
            let mut tree = self.tree();
            let name = tree.get(file.ino).and_then(|inode| inode.names.last().cloned());
            if let Some((parent, segment)) = name {
                tree.unname(parent, &segment);
            }
        }
        file.state().put_back();
        self.adopted(file.ino, outcome, revision).is_ok()
    }

    /// The whole commit is refused for good.
    fn give_up(&self, batch: Batch, errno: Errno) {
        for owner in &batch.owners {
            if let Owner::Patch { file, .. } = owner {
                let mut state = file.state();
                if state.flushing.take().is_some() {
                    state.fail(errno);
                }
            }
        }
        for (reply, _) in batch.replies {
            let _ = reply.send(Err(errno));
        }
    }

    /// Forgets files that are neither open nor dirty.
    pub(super) fn drop_clean_files(&self) {
        let mut files = self.files();
        let tree = self.tree();
        files.retain(|ino, file| tree.get(*ino).is_some_and(|inode| inode.opens > 0) || !file.state().is_clean());
    }

    /// Files that were written since their last version was cut, longer ago than a version may be.
    pub(super) fn due_for_cut(&self) -> Vec<Ino> {
        let now = Instant::now();
        let is_due = |file: &Arc<File>| file.state().uncut_since.is_some_and(|since| now - since >= CUT_EVERY);
        self.files().values().filter(|file| is_due(file)).map(|file| file.ino).collect()
    }
}

/// What a request sends lies after the bytes of the layers.
fn shift(step: &mut Step, base: u64) {
    let writes = match step {
        Step::Create(step) => &mut step.bytes,
        Step::Patch(step) => &mut step.writes,
        _ => return,
    };
    for write in writes {
        if let Origin::Sent(at) = &mut write.from {
            *at += base;
        }
    }
}

/// Names parts in place of the commit's own bytes: of layers, which are cut where parts end; what requests send comes first
/// in the commit then.
fn stage(step: &mut Step, layered: bool, first: u16, layered_bytes: u64) {
    let writes = match step {
        Step::Create(step) => &mut step.bytes,
        Step::Patch(step) => &mut step.writes,
        _ => return,
    };
    if !layered {
        for write in writes {
            if let Origin::Sent(at) = &mut write.from {
                *at -= layered_bytes;
            }
        }
        return;
    }
    let part_bytes = PART_BYTES as u64;
    let mut staged = Vec::with_capacity(writes.len());
    for write in writes.drain(..) {
        let Origin::Sent(start) = write.from else {
            staged.push(write);
            continue;
        };
        let mut done = 0;
        while done < write.length {
            let at = start + done;
            let length = (write.length - done).min(part_bytes - at % part_bytes);
            let part = first + (at / part_bytes) as u16;
            staged.push(FileWrite { offset: write.offset + done, length, from: Origin::Part(part, at % part_bytes) });
            done += length;
        }
    }
    *writes = staged;
}
