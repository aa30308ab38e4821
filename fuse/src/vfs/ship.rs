//! The stream of commits: how one gets to the repository, and what becomes of what it carried.
//!
//! A commit whose answer is lost is sent again, with its number and its id, until it is answered: the rules give the first
//! outcome. When it is refused after such a doubt, the session is opened again, which tells whether it was applied. When the
//! session's lease ended meanwhile, somebody else may have written: what was written here by then goes to the repository only
//! where the file is still what it was, and to a conflict copy beside it otherwise.
//!
//! What is refused as a whole is sent piece by piece, so that one file or request does not take others with it. Bytes are
//! given up only when the file has become another's; otherwise they wait here, and every `fsync` says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use holdfast_core::command::mount::{CreateFile, FileRef, FileWrite, MountUpload, Origin, Step, StepOutcome};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::Revision;
use holdfast_core::mount::{Answer, Call, Commit, Node};

use super::Vfs;
use super::commit::{Asked, Batch, Patch, Staging};
use super::content::{RECORD_ASSIGNED, RECORD_REFUSED};
use super::session::Flying;
use crate::attributes::{Time, directory_metadata};
use crate::client::Error;
use crate::error::{Errno, errno_of_refusal};
use crate::file::File;
use crate::layer::Layer;
use crate::tree::{Ino, ROOT};

/// A commit of up to so many bytes carries them; longer ones travel before it as parts of an upload.
const CARRIED_BYTES_MAX: usize = 8 << 20;
/// Bytes of a part.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at a time.
const PARTS_AT_ONCE: usize = 4;
/// Pause before a commit is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The bytes of a batch, where they are by now.
struct Carried {
    raw: Bytes,
    /// The upload that has them, and the number of the first part.
    staged: Option<(MountUpload, u16)>,
}

/// What became of a batch that was committed.
struct Sent<'a> {
    outcomes: Vec<StepOutcome>,
    revision: Revision,
    /// News of the feed wait until the outcomes are known here.
    flying: Option<Flying<'a>>,
}

/// Why a batch was not committed.
enum Failure {
    /// For good.
    Refused(Errno),
    /// The locks on these files are another's.
    Fenced(Vec<Ino>),
}

/// What is known of a commit that was sent.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// It may have been applied.
    in_doubt: bool,
    /// It was applied, and only its answer is missing.
    is_done: bool,
}

/// What is done about a commit that did not get through.
enum Next {
    Again,
    /// With its bytes.
    Anew,
}

impl Vfs {
    /// Sends a batch until it is answered, and tells everybody.
    pub(super) async fn ship(&self, batch: Batch) {
        if batch.patches.is_empty() && batch.asked.iter().all(|asked| asked.steps.is_empty()) {
            return self.settle(batch, Sent { outcomes: Vec::new(), revision: 0, flying: None }).await;
        }
        let mut batch = batch;
        loop {
            match self.send(&batch).await {
                Ok(sent) => return self.settle(batch, sent).await,
                Err(Failure::Fenced(lost)) => {
                    self.without(&mut batch, &lost).await;
                    if batch.members() == 0 {
                        return;
                    }
                }
                Err(Failure::Refused(errno)) if batch.members() == 1 => return self.refused(batch, errno),
                Err(Failure::Refused(_)) => break,
            }
        }
        for one in batch.split() {
            match self.send(&one).await {
                Ok(sent) => self.settle(one, sent).await,
                Err(Failure::Refused(errno)) => self.refused(one, errno),
                Err(Failure::Fenced(lost)) => {
                    let mut one = one;
                    self.without(&mut one, &lost).await;
                    self.refused(one, Errno::EIO);
                }
            }
        }
    }

    /// The outcomes of a batch's steps.
    async fn send(&self, batch: &Batch) -> Result<Sent<'_>, Failure> {
        let (id, mut number) = (rand::random(), self.last_number() + 1);
        self.assign(batch, number)?;
        let (mut carried, mut fate, mut flying, mut again) = (None, Fate::default(), None, false);
        loop {
            let sent = match carried.take() {
                Some(ready) => Ok(ready),
                None => self.carry(batch).await,
            };
            let sent = match sent {
                Ok(ready) => {
                    flying.get_or_insert_with(|| self.stream.flight.begin());
                    self.send_once(batch, (number, id), carried.insert(ready)).await
                }
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok((outcomes, revision)) => {
                    self.set_number(number);
                    self.stream.remember(revision);
                    self.stream.progressed();
                    if again {
                        // It may be done since long: what was told since then is not older than this answer.
                        self.tree().begin_epoch();
                    }
                    return Ok(Sent { outcomes, revision, flying });
                }
                Err(error) => error,
            };
            fate.in_doubt |= error.is_unknown();
            again = true;
            if matches!(self.consider(batch, error, (&mut number, &mut fate)).await?, Next::Anew) {
                carried = None;
            }
        }
    }

    fn last_number(&self) -> u64 {
        *self.stream.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_number(&self, number: u64) {
        *self.stream.number.lock().unwrap_or_else(PoisonError::into_inner) = number;
    }

    /// The journal says which commit carries its records.
    fn assign(&self, batch: &Batch, number: u64) -> Result<(), Failure> {
        let Some(journal) = self.journal.as_ref().filter(|_| batch.journaled > 0) else { return Ok(()) };
        let mark = [number.to_be_bytes(), batch.journaled.to_be_bytes()].concat();
        let synced = journal.append_mark(RECORD_ASSIGNED, &[&mark]).and_then(|at| journal.sync(at));
        synced.map_err(|error| {
            tracing::error!(%error, "the journal failed");
            Failure::Refused(Errno::EIO)
        })
    }

    async fn send_once(
        &self,
        batch: &Batch,
        (number, id): (u64, u64),
        carried: &Carried,
    ) -> Result<(Vec<StepOutcome>, Revision), Error> {
        let now = Time::now();
        let steps = self.steps(batch, carried.staged.as_ref().map(|(_, first)| *first));
        let count = steps.len();
        let commit = Commit {
            client: self.client,
            lease: self.session.lease(),
            number,
            steps,
            upload: carried.staged.as_ref().map(|(upload, _)| upload.clone()),
            directory: directory_metadata(&self.options.defaults, now),
            now: now.to_string(),
            id,
        };
        let told = self.remote.call(&Call::Commit(commit), carried.raw.clone(), &batch.fences, Vfs::deadline()).await?;
        match told.answer {
            Answer::Outcomes(outcomes) if outcomes.len() == count => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters.steps.fetch_add(count as u64, Ordering::Relaxed);
                Ok((outcomes, told.revision))
            }
            _ => Err(Error::unexpected()),
        }
    }

    /// The steps of a batch, as they travel now: where their bytes are, and what they are guarded by.
    fn steps(&self, batch: &Batch, first_part: Option<u16>) -> Vec<Step> {
        let mut at = 0;
        let mut steps = Vec::new();
        for patch in &batch.patches {
            let mut step = Step::Patch(patch.step.clone());
            place(&mut step, at, first_part);
            guard(&mut step, &patch.file);
            steps.push(step);
            at += patch.layer.bytes();
        }
        for asked in &batch.asked {
            for step in &asked.steps {
                let mut step = step.clone();
                place(&mut step, at, first_part);
                if let Step::Patch(patch) = &step {
                    let ino = self.tree().by_object(patch.file.object);
                    let file = ino.and_then(|ino| self.open_file(ino));
                    let apart = |file: &Arc<File>| !batch.patches.iter().any(|patch| Arc::ptr_eq(&patch.file, file));
                    if let Some(file) = file.filter(apart) {
                        guard(&mut step, &file);
                    }
                }
                steps.push(step);
            }
            at += asked.bytes.len() as u64;
        }
        steps
    }

    /// What to do about a commit that did not get through.
    async fn consider(
        &self,
        batch: &Batch,
        error: Error,
        (number, fate): (&mut u64, &mut Fate),
    ) -> Result<Next, Failure> {
        if error.is_staging_lost() {
            self.stream.unstage();
            tokio::time::sleep(AGAIN_AFTER).await;
            return Ok(Next::Anew);
        }
        if error.is_unknown() || fate.is_done {
            tracing::warn!(%error, "a commit did not get through; it is sent again");
            tokio::time::sleep(AGAIN_AFTER).await;
            return Ok(Next::Again);
        }
        // The number is another commit's.
        let taken = error.is_superseded();
        let lost = error.is_session_lost() || taken;
        if lost || fate.in_doubt {
            tracing::warn!(%error, "the session of the mount is opened again");
            match self.open_again(self.session.lease()).await {
                Ok(applied) => {
                    let done = applied >= *number && !taken;
                    if !done && *number != applied + 1 {
                        *number = applied + 1;
                        self.assign(batch, *number)?;
                    }
                    self.set_number(*number - 1);
                    *fate = Fate { in_doubt: false, is_done: done };
                    if done || lost {
                        // What was staged went with the session.
                        return Ok(Next::Anew);
                    }
                }
                Err(error) if error.is_unknown() => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    return Ok(Next::Again);
                }
                Err(error) => return Err(Failure::Refused(error.errno())),
            }
        }
        if error.is_fenced() {
            return Err(self.fenced_by(batch).await);
        }
        tracing::error!(%error, "a commit was refused");
        Err(Failure::Refused(error.errno()))
    }

    /// What is dirty goes only to what files are now.
    pub(super) fn guard_files(&self) {
        for file in self.files().values() {
            let mut state = file.state();
            if !state.is_clean() {
                let generation = state.generation;
                state.guarded.get_or_insert(generation);
            }
        }
    }

    /// Which locks of a batch are another's by now.
    async fn fenced_by(&self, batch: &Batch) -> Failure {
        let mut lost = Vec::new();
        let asked = self.asked_of(batch);
        let inos = batch.patches.iter().map(|patch| patch.file.ino).chain(asked).chain([ROOT]);
        for (ino, grant) in self.session.granted(inos) {
            if let Err(error) = self.remote.renew(grant.lease, Vfs::deadline()).await
                && !error.is_unknown()
            {
                lost.push(ino);
            }
        }
        if lost.contains(&ROOT) {
            self.fenced.store(true, Ordering::Release);
            tracing::error!("another has the lock of this mount: it changes nothing any more; mount again");
        }
        if lost.is_empty() { Failure::Refused(Errno::EIO) } else { Failure::Fenced(lost) }
    }

    /// Takes files out of a batch whose locks are another's: what was written to them goes to copies.
    async fn without(&self, batch: &mut Batch, lost: &[Ino]) {
        let all = lost.contains(&ROOT);
        let (gone, kept): (Vec<Patch>, Vec<Patch>) =
            std::mem::take(&mut batch.patches).into_iter().partition(|patch| all || lost.contains(&patch.file.ino));
        batch.patches = kept;
        for ino in lost.iter().filter(|ino| **ino != ROOT) {
            let _ = self.session.gives_up(*ino);
        }
        for patch in gone {
            patch.file.state().lock_lost = true;
            tracing::error!(key = ?patch.sent_as.key, "another has the lock on an open file: it answers EIO until it is closed");
            if all {
                patch.file.state().give_up(Errno::EIO);
            } else {
                self.replaced(&patch.file, &patch.sent_as).await;
            }
        }
        let mut failed = Vec::new();
        let tree_has = |step: &Step| match step {
            Step::Patch(patch) => self.tree().by_object(patch.file.object).is_some_and(|ino| lost.contains(&ino)),
            _ => false,
        };
        for asked in std::mem::take(&mut batch.asked) {
            if all || asked.steps.iter().any(tree_has) { failed.push(asked) } else { batch.asked.push(asked) }
        }
        for asked in failed {
            answer(asked, Err(Errno::EIO));
        }
        let asked = self.asked_of(batch);
        batch.fences = self.session.fences(batch.patches.iter().map(|patch| patch.file.ino).chain(asked));
    }

    /// The bytes of a batch: in the commit itself, or as parts of the mount's upload, which the steps name then.
    async fn carry(&self, batch: &Batch) -> Result<Carried, Error> {
        let length = batch.bytes();
        if length <= CARRIED_BYTES_MAX {
            let mut raw = BytesMut::with_capacity(length);
            batch.each_piece(|piece| raw.extend_from_slice(piece));
            return Ok(Carried { raw: raw.freeze(), staged: None });
        }
        let mut staging = self.staging(batch).await?;
        let first = staging.next_part;
        staging.next_part += length.div_ceil(PART_BYTES) as u16;
        *self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging.clone());
        let upload = &staging.upload;
        stream::iter((first..).zip(parts(batch)))
            .map(|(number, bytes)| async move {
                self.remote.upload_part(upload, number, bytes, Vfs::deadline()).await?;
                self.stream.progressed();
                Ok::<_, Error>(())
            })
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(Carried { raw: Bytes::new(), staged: Some((staging.upload, first)) })
    }

    async fn staging(&self, batch: &Batch) -> Result<Staging, Error> {
        /// Part numbers end at 10,000: a new upload begins in time.
        const PARTS_USED_MAX: u16 = 9_000;
        let known = self.stream.upload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.next_part < PARTS_USED_MAX) {
            return Ok(known);
        }
        let patched = batch.patches.iter().find_map(|patch| patch.sent_as.key.clone());
        let steps = || batch.asked.iter().flat_map(|asked| &asked.steps);
        let key = patched.or_else(|| steps().find_map(|step| step.keys().first().map(|key| (*key).clone())));
        let key = match key {
            Some(key) => key,
            None => format!("{}unnamed", self.options.prefix).parse().map_err(|_| Error::unexpected())?,
        };
        let upload = self.remote.create_upload(&key, Vfs::deadline()).await?;
        Ok(Staging { upload, next_part: 1 })
    }

    /// Tells everybody what became of a batch.
    async fn settle(&self, batch: Batch, sent: Sent<'_>) {
        let Sent { outcomes, revision, flying } = sent;
        let mut outcomes = outcomes.into_iter();
        let mut refused = Vec::new();
        for patch in batch.patches {
            match outcomes.next() {
                Some(StepOutcome::Node(node)) => self.patched(&patch, node, revision),
                Some(StepOutcome::Done) | None => patch.file.state().is_through(),
                Some(StepOutcome::Refused(refusal)) => refused.push((patch, refusal)),
            }
        }
        let mut answers = Vec::new();
        for asked in batch.asked {
            let told: Vec<StepOutcome> = outcomes.by_ref().take(asked.steps.len()).collect();
            for outcome in &told {
                if let StepOutcome::Node(node) = outcome {
                    self.learn(node, revision);
                }
            }
            answers.push((asked, told));
        }
        // The answer is learnt: the feed goes on, as what follows may wait for its news.
        drop(flying);
        for (patch, refusal) in refused {
            let Patch { file, sent_as, layer, .. } = patch;
            // The layer goes back into the file.
            drop(layer);
            self.record_refusal(&sent_as);
            self.not_written(&file, &sent_as, refusal).await;
        }
        self.discard(batch.journaled);
        self.drop_clean_files();
        for (asked, told) in answers {
            if !answer(asked, Ok((told, revision))) {
                // Whoever asked was told that it failed: what is known of names counts no more.
                self.tree().begin_epoch();
            }
        }
    }

    /// A patch is in the repository.
    fn patched(&self, patch: &Patch, node: Node, revision: Revision) {
        self.counters.committed_bytes.fetch_add(patch.layer.bytes(), Ordering::Relaxed);
        let mut state = patch.file.state();
        let alone = self.is_alone() || self.session.is_held(patch.file.ino);
        let before = state.generation;
        state.rebase(&node, revision);
        if alone && state.generation == revision {
            let ranges = patch.step.writes.iter().map(|write| write.offset..write.offset + write.length);
            state.map.go_on(before, revision, patch.step.size, ranges);
        }
        state.is_through();
        if patch.step.cut {
            state.uncut_since = state.dirty_since;
        }
        drop(state);
        self.tree().update(patch.file.ino, node, revision);
    }

    /// What a commit made of a file that is known. Here, in the order of commits: whoever waits for one may wake up late.
    fn learn(&self, node: &Node, revision: Revision) {
        let ino = self.tree().by_object(node.object);
        let Some(ino) = ino else { return };
        if let Some(file) = self.open_file(ino) {
            file.state().rebase(node, revision);
        }
        self.tree().update(ino, node.clone(), revision);
    }

    /// The journal is told that a commit did not do what it carried for a file.
    fn record_refusal(&self, sent_as: &FileRef) {
        let Some(journal) = self.journal.as_ref().filter(|_| self.journals) else { return };
        let mark = [self.last_number().to_be_bytes(), sent_as.object.0.to_be_bytes()].concat();
        if let Err(error) = journal.append_mark(RECORD_REFUSED, &[&mark]) {
            tracing::error!(%error, "the journal failed");
        }
    }

    /// A batch of one is refused for good: its bytes wait here, and whoever asks is told so.
    fn refused(&self, batch: Batch, errno: Errno) {
        self.stream.pause();
        for Patch { file, layer, .. } in batch.patches {
            drop(layer);
            let mut state = file.state();
            state.put_back();
            state.fail(errno);
        }
        for asked in batch.asked {
            answer(asked, Err(errno));
        }
    }

    /// A patch was refused: it is tried again under the file's new name, or goes to a conflict copy.
    async fn not_written(&self, file: &Arc<File>, sent_as: &FileRef, refusal: Refusal) {
        match refusal {
            Refusal::NoSuchUpload | Refusal::InvalidPart { .. } => {
                // The parts are gone, as an upload that somebody gave up: the bytes are still here, and travel anew.
                self.stream.unstage();
                file.state().put_back();
            }
            // The gateway compacts the page before the next commit; or it was too much for one.
            Refusal::TooManyExtents | Refusal::TooManyRows { .. } => file.state().put_back(),
            Refusal::Changed | Refusal::NoSuchKey => {
                if self.has_moved(file, sent_as).await {
                    file.state().put_back();
                } else if !self.goes_to_what_it_was(file, sent_as).await {
                    self.replaced(file, sent_as).await;
                }
            }
            refusal => {
                tracing::error!(key = ?sent_as.key, %refusal, "what was written is refused");
                file.state().give_up(errno_of_refusal(&refusal));
            }
        }
    }

    /// Whether the file has another name, or object, than a commit said.
    async fn has_moved(&self, file: &Arc<File>, sent_as: &FileRef) -> bool {
        /// A rename by another mount is told by the feed a moment later.
        const MOMENT: Duration = Duration::from_millis(200);
        if file.state().guarded.is_some() {
            // It may have been anybody's while the session was lost.
            return false;
        }
        for _ in 0..5 {
            let now = self.tree().file(file.ino);
            if now.is_some_and(|now| now.key != sent_as.key || now.object != sent_as.object) {
                return true;
            }
            tokio::time::sleep(MOMENT).await;
        }
        false
    }

    /// A file is another client's by now: what was written here goes to a copy beside it.
    async fn replaced(&self, file: &Arc<File>, sent_as: &FileRef) {
        let metadata = self.tree().get(file.ino).map(|inode| inode.node.metadata.clone()).unwrap_or_default();
        let Some(layer) = file.state().give_up(Errno::EIO) else { return };
        self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        let copied = async {
            let key = sent_as.key.as_ref().ok_or(Errno::EIO)?;
            let (name, step, bytes) = conflict_copy(key.as_str(), metadata, layer)?;
            match self.send_alone(step, bytes).await?.0 {
                StepOutcome::Node(_) | StepOutcome::Done => {
                    self.tree().doubt_above(&name);
                    Ok(name)
                }
                StepOutcome::Refused(refusal) => Err(errno_of_refusal(&refusal)),
            }
        };
        match copied.await {
            Ok(name) => {
                tracing::error!(key = ?sent_as.key, copy = %name, "the file was replaced by another client; what was written here is in the copy");
            }
            Err(errno) => {
                tracing::error!(key = ?sent_as.key, %errno, "the file was replaced by another client, and no copy could be made: what was written here is lost");
            }
        }
    }

    /// Sends one step apart from the stream's queue, for the stream's own task.
    async fn send_alone(&self, step: Step, bytes: Bytes) -> Result<(StepOutcome, Revision), Errno> {
        let asked = vec![Asked { reply: None, steps: vec![step], bytes }];
        let batch = Batch { asked, fences: self.session.fences(std::iter::empty()), ..Batch::default() };
        match self.send(&batch).await {
            Ok(sent) => Ok((sent.outcomes.into_iter().next().ok_or(Errno::EIO)?, sent.revision)),
            Err(Failure::Refused(errno)) => Err(errno),
            Err(Failure::Fenced(_)) => Err(Errno::EIO),
        }
    }

    /// What was written to a file that another client removed or replaced goes to what it was, which the session holds from
    /// now on, as after an unlink here. Only while the feed tells that it was not renamed.
    async fn goes_to_what_it_was(&self, file: &Arc<File>, sent_as: &FileRef) -> bool {
        let open = self.tree().get(file.ino).is_some_and(|inode| inode.opens > 0);
        if !open || sent_as.key.is_none() || !self.is_live() || file.state().guarded.is_some() {
            return false;
        }
        let (outcome, revision) = match self.send_alone(Step::Adopt(sent_as.clone()), Bytes::new()).await {
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
}

/// A new file beside one, with what was written to that: its name, the step that makes it, and the bytes that this sends.
pub(super) fn conflict_copy(
    key: &str,
    metadata: BTreeMap<String, String>,
    layer: Layer,
) -> Result<(String, Step, Bytes), Errno> {
    let name = format!("{key}.conflict-{}", Time::now());
    let mut raw = BytesMut::with_capacity(layer.bytes() as usize);
    let mut bytes = Vec::new();
    for run in layer.runs() {
        bytes.push(FileWrite { offset: run.offset, length: run.length, from: Origin::Sent(raw.len() as u64) });
        layer.data_of(&run).for_each(|piece| raw.extend_from_slice(piece));
    }
    let key = name.parse().map_err(|_| Errno::ENAMETOOLONG)?;
    Ok((name, Step::Create(CreateFile { key, metadata, content_type: None, bytes }), raw.freeze()))
}

/// Tells whoever asked; whether somebody still waited.
fn answer(asked: Asked, told: Result<(Vec<StepOutcome>, Revision), Errno>) -> bool {
    asked.reply.is_none_or(|reply| reply.send(told).is_ok())
}

/// Others may have written since the session was lost: a patch is applied only to what the file still is.
fn guard(step: &mut Step, file: &File) {
    if let Step::Patch(patch) = step {
        patch.base = file.state().guarded;
    }
}

/// The bytes of a batch, in parts.
fn parts(batch: &Batch) -> Vec<Bytes> {
    let (mut parts, mut part) = (Vec::new(), BytesMut::with_capacity(PART_BYTES));
    batch.each_piece(|mut piece| {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(PART_BYTES - part.len()));
            part.extend_from_slice(now);
            piece = later;
            if part.len() == PART_BYTES {
                parts.push(std::mem::replace(&mut part, BytesMut::with_capacity(PART_BYTES)).freeze());
            }
        }
    });
    if !part.is_empty() {
        parts.push(part.freeze());
    }
    parts
}

/// Names where the bytes of a step are: from `base` on among those of the batch, which are in parts from `first` on, if they
/// are in parts.
fn place(step: &mut Step, base: u64, first: Option<u16>) {
    let writes = match step {
        Step::Create(step) => &mut step.bytes,
        Step::Patch(step) => &mut step.writes,
        _ => return,
    };
    let part_bytes = PART_BYTES as u64;
    let mut placed = Vec::with_capacity(writes.len());
    for write in writes.drain(..) {
        let (Origin::Sent(start), Some(first)) = (&write.from, first) else {
            let from = match write.from {
                Origin::Sent(at) => Origin::Sent(at + base),
                from => from,
            };
            placed.push(FileWrite { from, ..write });
            continue;
        };
        let (start, mut done) = (start + base, 0);
        while done < write.length {
            let at = start + done;
            let length = (write.length - done).min(part_bytes - at % part_bytes);
            let from = Origin::Part(first + (at / part_bytes) as u16, at % part_bytes);
            placed.push(FileWrite { offset: write.offset + done, length, from });
            done += length;
        }
    }
    *writes = placed;
}
