//! The stream of commits: what goes into one.
//!
//! Whoever changes something leaves a [`Request`] and waits. One task takes every layer that was written by then, and all
//! that wait, makes steps of them and sends one commit with the next number; what comes meanwhile waits for the next one. So
//! many processes share a commit, and the order in the repository is the order here: a request is never carried before what
//! was written before it.
//!
//! A commit is small enough for its rules: writers wait when a file has [`LAYER_PIECES_MAX`] pieces, or when as many files
//! are dirty as one commit takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::mount::{
    FileRef, FileWrite, MOUNT_STEPS_MAX, MountUpload, Origin, PatchFile, Step, StepOutcome,
};
use holdfast_core::id::Revision;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::session::Flight;
use super::{PATIENCE, Profile, Sync, Vfs};
use crate::attributes::time_changes;
use crate::error::{Errno, errno_of_refusal};
use crate::file::File;
use crate::journal::Journal;
use crate::layer::Layer;
use crate::tree::{Ino, Tree};

/// Files whose layers one commit takes.
const FILES_MAX: usize = 400;
/// As [`FILES_MAX`], where each has a lock that the commit is fenced by: a request carries 16 fences at most.
const FENCED_FILES_MAX: usize = 12;
/// Requests that may wait; a process more than that waits for its turn to wait.
const REQUESTS_MAX: usize = 4_096;
/// Steps of requests past which a commit takes no further one: the last may cut many versions.
const ASKED_STEPS_MAX: usize = MOUNT_STEPS_MAX - FILES_MAX - CUTS_AT_ONCE;
/// Written bytes past which a commit begins by itself.
const EAGER_BYTES: u64 = 32 << 20;
/// Pieces of all layers past which writers wait: a commit writes at most 4,096 extents.
const PIECES_MAX: usize = 3_000;
/// Pieces of one file's layer past which its writers wait: two extents each, so many fit into a page that was compacted.
pub(super) const LAYER_PIECES_MAX: usize = 200;
/// A file that is open is a version for S3 at least so often.
const CUT_EVERY: Duration = Duration::from_secs(5 * 60);
/// Versions that are cut by one request.
const CUTS_AT_ONCE: usize = 256;
/// How often the stream looks for what is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After a refusal nothing is sent by itself for so long.
const PAUSE: Duration = Duration::from_secs(2);

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
    /// Number of the last commit that was answered.
    pub(super) number: Mutex<u64>,
    pub(super) upload: Mutex<Option<Staging>>,
    /// Commits under way: events of the feed wait until their revisions are known.
    pub(super) flight: Flight,
    /// Revisions of the last commits.
    own: Mutex<VecDeque<u64>>,
    /// A writer waits for the next commit.
    urgent: AtomicBool,
    /// Parts and commits that got through: whoever waits goes on waiting while this moves.
    progress: AtomicU64,
    /// Nothing is sent by itself before this.
    paused: Mutex<Option<Instant>>,
}

/// The upload that long commits use, and the number of its next part.
#[derive(Clone)]
pub(super) struct Staging {
    pub(super) upload: MountUpload,
    pub(super) next_part: u16,
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
            flight: Flight::new(),
            own: Mutex::new(VecDeque::new()),
            urgent: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            paused: Mutex::new(None),
        }
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a revision is a commit of this mount.
    pub(super) fn is_own(&self, revision: u64) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&revision)
    }

    pub(super) fn remember(&self, revision: u64) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.push_back(revision);
        if own.len() > OWN_MAX {
            own.pop_front();
        }
    }

    /// The upload that commits used is gone.
    pub(super) fn unstage(&self) {
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Something got through.
    pub(super) fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was refused: it is not sent again at once.
    pub(super) fn pause(&self) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + PAUSE);
    }

    fn is_paused(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = paused.filter(|until| *until > Instant::now());
        paused.is_some()
    }
}

/// What of a file a commit carries.
pub(super) struct Patch {
    pub(super) file: Arc<File>,
    /// As the commit names it.
    pub(super) sent_as: FileRef,
    pub(super) layer: Arc<Layer>,
    /// Its step; the bytes it sends begin at 0.
    pub(super) step: PatchFile,
}

/// A request, made.
pub(super) struct Asked {
    /// Who waits; nobody, when the stream itself asks.
    pub(super) reply: Option<Waiting>,
    /// Its steps; the bytes they send begin at 0.
    pub(super) steps: Vec<Step>,
    pub(super) bytes: Bytes,
}

/// Everything that one commit carries: patches first, then requests.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) patches: Vec<Patch>,
    pub(super) asked: Vec<Asked>,
    /// Records of the journal up to here are in it.
    pub(super) journaled: u64,
    /// By what it is fenced, as of the moment when it was put together.
    pub(super) fences: Vec<holdfast_core::command::Fence>,
}

impl Batch {
    /// Bytes that it carries.
    pub(super) fn bytes(&self) -> usize {
        let layers: u64 = self.patches.iter().map(|patch| patch.layer.bytes()).sum();
        layers as usize + self.asked.iter().map(|asked| asked.bytes.len()).sum::<usize>()
    }

    /// Those bytes, in their order.
    pub(super) fn each_piece(&self, mut take: impl FnMut(&[u8])) {
        for patch in &self.patches {
            patch.layer.data().for_each(|(_, piece)| take(piece));
        }
        self.asked.iter().for_each(|asked| take(&asked.bytes));
    }

    /// Patches and requests.
    pub(super) fn members(&self) -> usize {
        self.patches.len() + self.asked.len()
    }

    /// Each patch and request by itself: one that is refused does not take the others with it.
    pub(super) fn split(self) -> impl Iterator<Item = Self> {
        let fences = self.fences;
        let patches = self.patches.into_iter().map(|patch| Self { patches: vec![patch], ..Self::default() });
        let asked = self.asked.into_iter().map(|asked| Self { asked: vec![asked], ..Self::default() });
        patches.chain(asked).map(move |one| Self { fences: fences.clone(), ..one })
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
        let mut request = Some(Request { make: Box::new(make), reply });
        loop {
            let room = self.room.notified();
            {
                let mut requests = self.stream.requests();
                if requests.len() < REQUESTS_MAX {
                    requests.extend(request.take());
                    break;
                }
            }
            self.patiently(room).await?;
        }
        self.stream.wake.notify_one();
        self.patiently(outcome).await?.unwrap_or(Err(Errno::EIO))
    }

    /// Waits as long as something gets through, and [`PATIENCE`] more.
    pub(super) async fn patiently<T>(&self, wait: impl Future<Output = T>) -> Result<T, Errno> {
        let mut wait = std::pin::pin!(wait);
        loop {
            let before = self.stream.progress.load(Ordering::Relaxed);
            match tokio::time::timeout(PATIENCE, &mut wait).await {
                Ok(done) => return Ok(done),
                Err(_) if self.stream.progress.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(Errno::EIO),
            }
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
    /// When a commit did not get through in time, or something could not be written; what failed for one file is in that
    /// file's state.
    pub async fn flush_all(&self) -> Result<(), Errno> {
        let files: Vec<Arc<File>> = self.files().values().filter(|file| !file.state().is_clean()).cloned().collect();
        let mut done = Ok(());
        for file in files {
            done = done.and(self.flush_file(&file).await);
        }
        done
    }

    /// Commits what is written to a file by now, and everything that was written before.
    pub(super) async fn flush_file(&self, file: &File) -> Result<(), Errno> {
        let (target, failures) = {
            let state = file.state();
            (state.written, state.failures())
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let state = file.state();
                match state.failed {
                    Some((errno, count)) if count > failures => return Err(errno),
                    _ if state.committed >= target => return Ok(()),
                    _ => {}
                }
            }
            let before = self.stream.progress.load(Ordering::Relaxed);
            self.submit(|_| Ok((Vec::new(), Bytes::new()))).await?;
            let moved = self.stream.progress.load(Ordering::Relaxed) != before;
            if !moved && file.state().committed < target {
                // It was put back: its name moved, or its parts are gone.
                tokio::time::sleep(LOOK_EVERY).await;
                if Instant::now() >= deadline {
                    return Err(Errno::EIO);
                }
            }
        }
    }

    /// Wakes the stream: there is much to commit.
    pub(super) fn nudge(&self) {
        if self.is_much() {
            self.stream.wake.notify_one();
        }
    }

    /// Wakes the stream: somebody waits for room.
    pub(super) fn hurry(&self) {
        self.stream.urgent.store(true, Ordering::Release);
        self.stream.wake.notify_one();
    }

    /// Whether so much is dirty that a commit begins by itself.
    fn is_much(&self) -> bool {
        self.dirty_bytes.load(Ordering::Relaxed) >= EAGER_BYTES.min(self.options.loss_bytes / 2)
            || self.dirty_pieces.load(Ordering::Relaxed) >= PIECES_MAX / 2
            || self.is_journal_filling()
    }

    fn is_journal_filling(&self) -> bool {
        self.journals && self.journal.as_ref().is_some_and(Journal::is_filling)
    }

    /// Whether as much is dirty as may be lost, or as one commit takes.
    pub(super) fn is_full(&self) -> bool {
        let late = self.options.sync != Sync::Store
            && self.oldest().is_some_and(|since| Instant::now() - since >= self.options.loss_time);
        late || self.dirty_bytes.load(Ordering::Relaxed) >= self.options.loss_bytes / 2
            || self.dirty_pieces.load(Ordering::Relaxed) >= PIECES_MAX
            || self.is_journal_filling()
    }

    /// Takes the place of one more dirty file in the next commit, if there is one.
    pub(super) fn begins_a_layer(&self) -> bool {
        let most = self.files_max();
        let took = |count: usize| (count < most).then_some(count + 1);
        let begins = self.dirty_files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, took).is_ok();
        if begins {
            self.oldest.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
        begins
    }

    fn files_max(&self) -> usize {
        if self.options.profile == Profile::Vm { FENCED_FILES_MAX } else { FILES_MAX }
    }

    fn oldest(&self) -> Option<Instant> {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.stream.is_paused() {
            return false;
        }
        let wait = match self.options.sync {
            Sync::Store => self.options.loss_time,
            Sync::Journal | Sync::Async => self.options.loss_time / 2,
        };
        self.stream.urgent.load(Ordering::Acquire)
            || self.is_much()
            || self.oldest().is_some_and(|since| Instant::now() - since >= wait)
    }

    /// Takes everything that waits. None when there is nothing.
    fn assemble(&self, flush: bool) -> Option<Batch> {
        if !flush && self.stream.requests().is_empty() {
            return None;
        }
        let mut batch = Batch::default();
        let all = self.take_layers(&mut batch);
        self.room.notify_waiters();
        if all || batch.patches.is_empty() {
            self.take_requests(&mut batch);
        } else {
            // What was written before a request goes before it.
            self.hurry();
        }
        batch.fences =
            self.session.fences(batch.patches.iter().map(|patch| patch.file.ino).chain(self.asked_of(&batch)));
        (batch.members() > 0).then_some(batch)
    }

    /// The files that requests write to.
    pub(super) fn asked_of(&self, batch: &Batch) -> Vec<Ino> {
        let tree = self.tree();
        let steps = batch.asked.iter().flat_map(|asked| &asked.steps);
        steps
            .filter_map(|step| match step {
                Step::Patch(patch) => tree.by_object(patch.file.object),
                _ => None,
            })
            .collect()
    }

    /// Takes what is written to all files; whether nothing was left.
    fn take_layers(&self, batch: &mut Batch) -> bool {
        let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        self.stream.urgent.store(false, Ordering::Release);
        let mut files: Vec<Arc<File>> =
            self.files().values().filter(|file| file.state().dirty.is_some()).cloned().collect();
        // What waits longest goes first, should not all fit.
        files.sort_by_key(|file| file.state().dirty_since);
        let most = self.files_max();
        for file in files.iter().take(most) {
            batch.patches.extend(self.take_layer(file));
        }
        let journaled = batch.patches.iter().map(|patch| patch.file.state().journaled).max().unwrap_or(0);
        let left: Vec<u64> = files
            .iter()
            .filter_map(|file| {
                let state = file.state();
                state.dirty.is_some().then_some(state.first_record)
            })
            .collect();
        let first_left = left.iter().filter(|record| **record > 0).min();
        batch.journaled = first_left.map_or(journaled, |first| journaled.min(first - 1));
        self.count_dirty();
        left.is_empty()
    }

    /// Counts what is dirty anew.
    fn count_dirty(&self) {
        let (mut bytes, mut pieces, mut count, mut oldest) = (0, 0, 0, None::<Instant>);
        for file in self.files().values() {
            let state = file.state();
            if let Some(dirty) = &state.dirty {
                bytes += dirty.bytes();
                pieces += dirty.pieces();
                count += 1;
            }
            oldest = [oldest, state.oldest()].into_iter().flatten().min();
        }
        self.dirty_bytes.store(bytes, Ordering::Relaxed);
        self.dirty_pieces.store(pieces, Ordering::Relaxed);
        self.dirty_files.store(count, Ordering::Relaxed);
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    /// Takes what is written to a file.
    fn take_layer(&self, file: &Arc<File>) -> Option<Patch> {
        let (reference, closed) = {
            let tree = self.tree();
            let opens = tree.get(file.ino).map_or(0, |inode| inode.opens);
            (tree.file(file.ino)?, opens == 0)
        };
        let mut state = file.state();
        let mtime = state.shown_mtime();
        let layer = state.take(LAYER_PIECES_MAX)?;
        let sent_as = FileRef { key: reference.key, object: state.object };
        drop(state);
        let set = mtime.map(|time| time_changes(Some(time), Some(time))).unwrap_or_default();
        let mut at = 0;
        let mut writes: Vec<FileWrite> = Vec::new();
        for run in layer.runs() {
            writes.push(FileWrite { offset: run.offset, length: run.length, from: Origin::Sent(at) });
            at += run.length;
        }
        // The end may be a hole.
        let written = writes.last().map_or(0, |last| last.offset + last.length).max(layer.cut().unwrap_or(0));
        if layer.end() > written {
            writes.push(FileWrite { offset: written, length: layer.end() - written, from: Origin::Hole });
        }
        let step = PatchFile { file: sent_as.clone(), size: layer.cut(), writes, set, cut: closed, base: None };
        Some(Patch { file: Arc::clone(file), sent_as, layer, step })
    }

    fn take_requests(&self, batch: &mut Batch) {
        let mut steps = 0;
        while steps < ASKED_STEPS_MAX {
            let Some(request) = self.stream.requests().pop_front() else { break };
            if request.reply.is_closed() {
                // Whoever asked was told that it failed.
                continue;
            }
            match (request.make)(&self.tree()) {
                Err(errno) => {
                    let _ = request.reply.send(Err(errno));
                }
                Ok((made, bytes)) => {
                    steps += made.len();
                    batch.asked.push(Asked { reply: Some(request.reply), steps: made, bytes });
                }
            }
        }
    }

    /// The records of what is in the repository, or will never be, go: those up to `journaled`, as far as none of them stands
    /// for what still waits.
    pub(super) fn discard(&self, journaled: u64) {
        let Some(journal) = self.journal.as_ref().filter(|_| journaled > 0) else { return };
        let waiting = |file: &Arc<File>| {
            let state = file.state();
            let flushing = state.flushing.as_ref().map_or(0, |flushing| flushing.first_record);
            [state.first_record, flushing].into_iter().filter(|record| *record > 0).min()
        };
        let first = self.files().values().filter_map(waiting).min();
        let upto = first.map_or(journaled, |first| journaled.min(first - 1));
        if let Err(error) = journal.discard(upto) {
            tracing::warn!(%error, "the journal keeps what it needs no more");
        }
    }

    /// Forgets files that are neither open nor dirty, and that nobody is at.
    pub(super) fn drop_clean_files(&self) {
        let mut files = self.files();
        let mut tree = self.tree();
        files.retain(|ino, file| {
            let open = tree.get(*ino).is_some_and(|inode| inode.opens > 0);
            let used = Arc::strong_count(file) > 1;
            let waits = {
                let state = file.state();
                !state.is_clean() || state.uncut_since.is_some()
            };
            let stays = open || used || waits;
            if !stays {
                tree.unpin(*ino);
            }
            stays
        });
    }

    /// Cuts versions of files that have been open for long, and of those that were closed after they were committed.
    pub(super) async fn cut_versions(&self) {
        let now = Instant::now();
        let due: Vec<Ino> = {
            let files = self.files();
            let tree = self.tree();
            let is_due = |file: &Arc<File>| {
                let closed = tree.get(file.ino).is_none_or(|inode| inode.opens == 0);
                let state = file.state();
                state.uncut_since.is_some_and(|since| now - since >= CUT_EVERY || closed && state.is_clean())
            };
            files.values().filter(|file| is_due(file)).map(|file| file.ino).collect()
        };
        for some in due.chunks(CUTS_AT_ONCE) {
            // What fails is tried again at the next look.
            let _ = self.cut_files(some.to_vec()).await;
        }
        self.drop_clean_files();
    }

    /// Commits what is written, and cuts a version of a file, or of every file below a directory that has been written to
    /// since its last one. Of as many as one commit takes (256) it is the same moment.
    ///
    /// # Errors
    /// What could not be written, or cut.
    pub async fn snapshot(&self, ino: Ino) -> Result<(), Errno> {
        self.writable()?;
        let written: Vec<Arc<File>> = {
            let files = self.files();
            let tree = self.tree();
            let below = tree.get(ino).ok_or(Errno::ESTALE)?.directory.then(|| tree.key(ino)).flatten();
            let is_meant = |file: &&Arc<File>| {
                file.ino == ino || below.as_ref().is_some_and(|below| tree.is_below(file.ino, below))
            };
            let is_written = |file: &&Arc<File>| file.state().uncut_since.is_some();
            files.values().filter(is_meant).filter(is_written).cloned().collect()
        };
        let mut done = Ok(());
        for some in written.chunks(CUTS_AT_ONCE) {
            let outcomes = self.cut_files(some.iter().map(|file| file.ino).collect()).await?;
            for outcome in outcomes {
                if let StepOutcome::Refused(refusal) = outcome {
                    done = done.and(Err(errno_of_refusal(&refusal)));
                }
            }
            for file in some {
                done = done.and(self.flush_file(file).await);
            }
        }
        done
    }

    /// Commits what is written, and cuts versions of files; what became of each that has a name.
    pub(super) async fn cut_files(&self, inos: Vec<Ino>) -> Result<Vec<StepOutcome>, Errno> {
        let wanted = inos.clone();
        let outcomes = self.submit(move |tree| {
            let files = wanted.iter().filter_map(|ino| tree.file(*ino).filter(|file| file.key.is_some()));
            Ok((files.map(Step::Cut).collect(), Bytes::new()))
        });
        let outcomes = outcomes.await?;
        for file in inos.into_iter().filter_map(|ino| self.open_file(ino)) {
            // One that was refused has another name or object by now: the next version is cut with that.
            let mut state = file.state();
            state.uncut_since = state.oldest();
        }
        Ok(outcomes)
    }
}
