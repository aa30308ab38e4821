//! Reading and writing of files.
//!
//! A write goes to the file's layer, and to the journal first where local bytes count. A read lays the layers over bytes of
//! the base.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use holdfast_core::command::mount::{FileRef, FileWrite, Origin, PatchFile, Step, StepOutcome};
use holdfast_core::id::BlobId;
use holdfast_core::mount::{Answer, Call, Map};
use tokio::time::Instant;

use super::commit::LAYER_PIECES_MAX;
use super::fetch::{Missed, Window};
use super::{ASK_DEADLINE, Sync, Vfs};
use crate::attributes::time_changes;
use crate::error::{Errno, errno_of_refusal};
use crate::file::{File, State};
use crate::layer::Layer;
use crate::tree::{Ino, Tree};

/// Largest file.
pub const FILE_BYTES_MAX: u64 = 50 << 40;

/// A record of the journal: what was written. Payload: object (8 bytes), length of the key (2 bytes), key, generation that
/// it was written over (8 bytes), offset (8 bytes), data.
pub(super) const RECORD_WRITE: u8 = 1;
/// A record of the journal: a new size. Payload: object, length of the key, key, generation, size (8 bytes).
pub(super) const RECORD_SIZE: u8 = 2;
/// A record of the journal: commit number (8 bytes) carries the records up to this sequence (8 bytes).
pub(super) const RECORD_ASSIGNED: u8 = 3;
/// A record of the journal: commit number (8 bytes) did not do what it carried for this object (8 bytes).
pub(super) const RECORD_REFUSED: u8 = 4;

impl Vfs {
    /// Opens a file: what is read is what was closed anywhere before. Whether the kernel's pages of it are still right.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE` when it is gone.
    pub async fn open(&self, ino: Ino, truncates: bool) -> Result<bool, Errno> {
        if truncates {
            self.writable()?;
        }
        let known = |tree: &Tree| tree.get(ino).map(|inode| inode.node.generation);
        let before = known(&self.tree());
        if !self.is_alone() {
            self.look_again(ino).await?;
        }
        let _turn = self.lock_file(ino).await?;
        let mut changed = before != known(&self.tree());
        let keep = {
            let mut files = self.files();
            let mut tree = self.tree();
            let inode = tree.get_mut(ino).ok_or(Errno::ESTALE)?;
            if inode.directory {
                return Err(Errno::EISDIR);
            }
            inode.opens += 1;
            let generation = inode.node.generation;
            let keep = inode.cached == Some(generation);
            changed |= !keep && inode.cached.is_some();
            inode.cached = Some(generation);
            self.file_in(&mut files, &mut tree, ino)?;
            keep
        };
        if changed {
            // Its size, too: a read at the end that the kernel remembers would not come here.
            self.forget_content(ino).await;
        }
        Ok(keep)
    }

    /// The kernel forgets pages and attributes of a file, before it is told anything else of it.
    pub(super) async fn forget_content(&self, ino: Ino) {
        /// What the kernel does meanwhile may need this mount; it goes on without.
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
        let Some(kernel) = self.kernel.get().map(Arc::clone) else { return };
        // Not in this thread, for the same reason.
        let forgotten = tokio::task::spawn_blocking(move || kernel.forget_content_now(ino));
        let _ = tokio::time::timeout(PATIENCE, forgotten).await;
    }

    /// Looks at a file anew, so that what others have closed is seen. What is dirty here stays on top of it.
    async fn look_again(&self, ino: Ino) -> Result<(), Errno> {
        self.refresh(ino).await?;
        let Some(file) = self.open_file(ino) else { return Ok(()) };
        self.rebase(&file);
        Ok(())
    }

    /// An open file stands on what the tree knows of it; what is dirty stays on top of that.
    pub(super) fn rebase(&self, file: &File) {
        let known = self.tree().get(file.ino).map(|inode| (inode.node.clone(), inode.as_of));
        if let Some((node, as_of)) = known {
            file.state().rebase(&node, as_of);
        }
    }

    /// Reads at most `length` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// `EIO` when the repository does not answer in time.
    pub async fn read(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        length: u32,
        window: &std::sync::Mutex<Window>,
    ) -> Result<Bytes, Errno> {
        let file = self.open_file(ino).ok_or(Errno::EBADF)?;
        let mut ahead = self.read_by(window, offset, length);
        let deadline = Instant::now() + ASK_DEADLINE;
        // It begins again when the file changes under it.
        while Instant::now() < deadline {
            let (base, range, covered) = {
                let state = file.state();
                if state.lock_lost {
                    return Err(Errno::EIO);
                }
                let size = state.shown_size();
                let end = offset.saturating_add(u64::from(length)).min(size);
                let range = offset.min(end)..end;
                let covered = state.is_covered(&range);
                (state.base(), range, covered)
            };
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            if base.stale && !covered {
                self.look_again_at_open(&file).await?;
                continue;
            }
            let below = range.start.min(base.size)..range.end.min(base.size);
            let mut bytes = Bytes::new();
            if !covered && !below.is_empty() {
                // Read ahead once, however often it begins again.
                let ahead = std::mem::take(&mut ahead);
                match self.base_bytes(&file, &base, &below, ahead).await {
                    Ok(read) => bytes = read,
                    Err(Missed::Changed) => {
                        file.state().stale = true;
                        continue;
                    }
                    Err(Missed::Failed(errno)) => return Err(errno),
                }
            }
            let state = file.state();
            // A commit that came through meanwhile took its layer with it: then the bytes above the base are missing here.
            if state.generation != base.generation {
                continue;
            }
            let length = (range.end - range.start) as usize;
            if state.is_clean() && bytes.len() == length {
                return Ok(bytes);
            }
            let mut buffer = BytesMut::from(bytes);
            buffer.resize(length, 0);
            state.lay_over(range.start, &mut buffer);
            return Ok(buffer.freeze());
        }
        Err(Errno::EIO)
    }

    /// The base of an open file was changed by others: takes what it is now.
    async fn look_again_at_open(&self, file: &Arc<File>) -> Result<(), Errno> {
        match self.refresh(file.ino).await {
            // Its name is gone, or another's: once more, without it.
            Err(Errno::ESTALE) => self.refresh(file.ino).await?,
            refreshed => refreshed?,
        }
        self.rebase(file);
        file.state().stale = false;
        Ok(())
    }

    /// Writes, waiting for room. It is in the repository after a `fsync` or close, or when the loss window ends.
    ///
    /// # Errors
    /// `EFBIG`, `ENOSPC` when the journal's disk is full, `EIO` when there is no room in time.
    pub async fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), Errno> {
        loop {
            let room = self.room.notified();
            if self.write_now(ino, offset, data)? {
                return Ok(());
            }
            self.hurry();
            self.patiently(room).await?;
        }
    }

    /// Writes, if there is room.
    ///
    /// # Errors
    /// As [`Vfs::write`].
    pub fn write_now(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<bool, Errno> {
        self.writable()?;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        let file = self.open_file(ino).ok_or(Errno::EBADF)?;
        let change = Change { kind: RECORD_WRITE, number: offset, data };
        let written = self.record(&file, &change, |layer| layer.write(offset, data))?;
        self.nudge();
        Ok(written)
    }

    /// Changes the layer of a file, and the journal before it, if there is room.
    fn record(&self, file: &File, change: &Change<'_>, make: impl FnOnce(&mut Layer)) -> Result<bool, Errno> {
        if self.is_full() {
            return Ok(false);
        }
        let key = self.tree().key(file.ino);
        let _order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let mut state = file.state();
        if state.lock_lost {
            return Err(Errno::EIO);
        }
        let full = state.dirty.as_ref().map(|dirty| dirty.pieces() >= LAYER_PIECES_MAX);
        if full.unwrap_or_else(|| !self.begins_a_layer()) {
            return Ok(false);
        }
        let record = match self.journal.as_ref().filter(|_| self.journals) {
            None => None,
            Some(journal) => {
                let head = journal_head(key.as_deref().unwrap_or_default(), &state, change.number);
                match journal.append(change.kind, &[&head, change.data]) {
                    Ok(record) => Some(record),
                    Err(crate::journal::Error::Full { .. }) => return Ok(false),
                    Err(error) => return Err(journal_errno(&error)),
                }
            }
        };
        let layer = state.layer(Instant::now(), record);
        let before = (layer.bytes(), layer.pieces());
        make(layer);
        let (bytes, pieces) = (layer.bytes().saturating_sub(before.0), layer.pieces().saturating_sub(before.1));
        state.mtime = Some(Vfs::now());
        self.dirty_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.dirty_pieces.fetch_add(pieces, Ordering::Relaxed);
        Ok(true)
    }

    /// Gives a file a size.
    ///
    /// # Errors
    /// As [`Vfs::write`].
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result<(), Errno> {
        self.writable()?;
        if size > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let file = self.hold(ino)?;
        let change = Change { kind: RECORD_SIZE, number: size, data: &[] };
        loop {
            let room = self.room.notified();
            if self.record(&file, &change, |layer| layer.truncate(size))? {
                break;
            }
            self.hurry();
            self.patiently(room).await?;
        }
        // Of a file that nobody has open, nobody would wait for it later.
        if self.tree().get(ino).is_some_and(|inode| inode.opens == 0) {
            let done = self.flush_file(&file).await;
            drop(file);
            self.drop_clean_files();
            done?;
        }
        Ok(())
    }

    /// The file of an inode, made if nobody has it open.
    pub(super) fn hold(&self, ino: Ino) -> Result<Arc<File>, Errno> {
        let mut files = self.files();
        let mut tree = self.tree();
        if tree.get(ino).ok_or(Errno::ESTALE)?.directory {
            return Err(Errno::EISDIR);
        }
        self.file_in(&mut files, &mut tree, ino)
    }

    /// The file of an inode in the table, which keeps the inode known.
    pub(super) fn file_in(
        &self,
        files: &mut std::collections::HashMap<Ino, Arc<File>>,
        tree: &mut Tree,
        ino: Ino,
    ) -> Result<Arc<File>, Errno> {
        if let Some(file) = files.get(&ino) {
            return Ok(Arc::clone(file));
        }
        let inode = tree.get(ino).ok_or(Errno::ESTALE)?;
        let file = File::new(ino, &inode.node, inode.as_of);
        files.insert(ino, Arc::clone(&file));
        tree.pin(ino);
        Ok(file)
    }

    /// What was written to a file goes to the repository, with all that was written before anywhere; an error is that of
    /// this file.
    ///
    /// # Errors
    /// What failed since `seen` failures of the file.
    pub async fn flush(&self, ino: Ino) -> Result<(), Errno> {
        match self.open_file(ino) {
            Some(file) => self.flush_file(&file).await,
            None => Ok(()),
        }
    }

    /// `fsync`: what that promises depends on [`Sync`]. An error that the handle has not seen yet is told, and told again to
    /// every other handle.
    ///
    /// # Errors
    /// See above.
    pub async fn sync(&self, ino: Ino, seen: &AtomicFailures) -> Result<(), Errno> {
        let Some(file) = self.open_file(ino) else { return Ok(()) };
        let done = match self.options.sync {
            Sync::Store => self.flush(ino).await,
            Sync::Async => Ok(()),
            Sync::Journal => {
                let at = file.state().journaled;
                self.sync_journal(at).await
            }
        };
        self.tell_failure(&file, seen)?;
        done
    }

    async fn sync_journal(&self, at: u64) -> Result<(), Errno> {
        let Some(journal) = &self.journal else { return Ok(()) };
        tokio::task::block_in_place(|| journal.sync(at)).map_err(|error| journal_errno(&error))
    }

    /// How often something of a file could not be written.
    #[must_use]
    pub fn failures(&self, ino: Ino) -> u64 {
        self.open_file(ino).map_or(0, |file| file.state().failures())
    }

    fn tell_failure(&self, file: &Arc<File>, seen: &AtomicFailures) -> Result<(), Errno> {
        match file.state().failed {
            Some((errno, count)) if seen.0.swap(count, Ordering::Relaxed) < count => Err(errno),
            _ => Ok(()),
        }
    }

    /// A handle is closed by a process: what it wrote is seen by the next open anywhere.
    ///
    /// # Errors
    /// What could not be written.
    pub async fn close(&self, ino: Ino, seen: &AtomicFailures) -> Result<(), Errno> {
        let Some(file) = self.open_file(ino) else { return Ok(()) };
        let mut done = Ok(());
        if self.options.sync == Sync::Store && !file.state().is_clean() {
            // By the only handle: it may be the last close, and a version is cut along with it.
            if self.tree().get(ino).is_some_and(|inode| inode.opens == 1) {
                done = self.cut_files(vec![ino]).await.map(drop);
            }
            done = done.and(self.flush_file(&file).await);
        }
        self.tell_failure(&file, seen)?;
        done
    }

    /// The last handle of the kernel is gone.
    pub async fn release(&self, ino: Ino) {
        let last = {
            let mut tree = self.tree();
            let Some(inode) = tree.get_mut(ino) else { return };
            inode.opens = inode.opens.saturating_sub(1);
            (inode.opens == 0).then_some((inode.node.object, inode.names.is_empty(), inode.held))
        };
        let Some((object, nameless, held)) = last else { return };
        if nameless && held {
            // Nobody can read what is written to it any more.
            if self.files().remove(&ino).is_some() {
                self.tree().unpin(ino);
            }
            let _ = self.submit_one(move |_| Ok(Step::Release(object))).await;
        } else if self.options.sync == Sync::Store
            && self.open_file(ino).is_some_and(|file| file.state().uncut_since.is_some())
        {
            let _ = self.cut_files(vec![ino]).await;
        }
        self.unlock_file(ino).await;
        self.drop_clean_files();
        self.tree().drop_unknown(ino);
    }

    /// One patch that carries no bytes of this mount, after everything that is written.
    async fn patch(&self, ino: Ino, size: Option<u64>, write: Option<(FileWrite, Option<Ino>)>) -> Result<(), Errno> {
        self.writable()?;
        let now = Vfs::now();
        let outcome = self
            .submit_one(move |tree| {
                let file = tree.file(ino).ok_or(Errno::ESTALE)?;
                let mut writes = Vec::new();
                if let Some((mut write, source)) = write {
                    if let (Origin::File(from, _), Some(source)) = (&mut write.from, source) {
                        *from = tree.file(source).ok_or(Errno::ESTALE)?;
                    }
                    writes.push(write);
                }
                let set = time_changes(Some(now), Some(now));
                Ok(Step::Patch(PatchFile { file, size, writes, set, cut: false, base: None }))
            })
            .await?;
        match outcome {
            StepOutcome::Node(_) | StepOutcome::Done => {
                if let Some(file) = self.open_file(ino) {
                    file.state().uncut_since.get_or_insert_with(Instant::now);
                }
                Ok(())
            }
            StepOutcome::Refused(refusal) => Err(errno_of_refusal(&refusal)),
        }
    }

    /// Makes a hole, or room. `keep_size` leaves the end where it is.
    ///
    /// # Errors
    /// `EFBIG`, and as a write.
    pub async fn allocate(&self, ino: Ino, range: Range<u64>, hole: bool, keep_size: bool) -> Result<(), Errno> {
        if range.end > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        self.flush(ino).await?;
        let size = self.attr_of(ino)?.size;
        let end = if keep_size { range.end.min(size) } else { range.end };
        if hole && range.start < end {
            let write = FileWrite { offset: range.start, length: end - range.start, from: Origin::Hole };
            return self.patch(ino, None, Some((write, None))).await;
        }
        if !hole && !keep_size && range.end > size {
            return self.truncate(ino, range.end).await;
        }
        Ok(())
    }

    /// Copies a range from file to file; no bytes move. How many were copied.
    ///
    /// # Errors
    /// As a write.
    pub async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), length: u64) -> Result<u64, Errno> {
        self.flush(from.0).await?;
        self.flush(to.0).await?;
        let length = length.min(self.attr_of(from.0)?.size.saturating_sub(from.1));
        if length == 0 {
            return Ok(0);
        }
        if to.1.checked_add(length).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        let nothing = FileRef { key: None, object: Default::default() };
        let write = FileWrite { offset: to.1, length, from: Origin::File(nothing, from.1) };
        self.patch(to.0, None, Some((write, Some(from.0)))).await?;
        Ok(length)
    }

    /// The next byte at or after `offset` that is data, or in a hole. The end of the file is a hole.
    ///
    /// # Errors
    /// `ENXIO` past the end, or when no data follows.
    pub async fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<u64, Errno> {
        self.flush(ino).await?;
        let size = self.attr_of(ino)?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        while at < size {
            let file = self.tree().file(ino).ok_or(Errno::ESTALE)?;
            let map = Map { file, offset: at, length: size - at };
            let told = self.remote.call(&Call::Map(map), Bytes::new(), &[], Vfs::deadline()).await;
            let Answer::Mapped(mapped) = told.map_err(|error| error.errno())?.answer else { return Err(Errno::EIO) };
            let found = mapped.extents.iter().find(|extent| (extent.blob == BlobId::HOLE) != data);
            if let Some(found) = found {
                return Ok(found.offset.max(offset));
            }
            match mapped.extents.last() {
                Some(last) => at = last.offset + last.length,
                None => break,
            }
        }
        if data { Err(Errno::ENXIO) } else { Ok(size) }
    }
}

/// Failures of a file that a handle has told its process.
#[derive(Debug, Default)]
pub struct AtomicFailures(pub std::sync::atomic::AtomicU64);

/// What is about to be changed, as the journal records it.
struct Change<'d> {
    kind: u8,
    /// Offset, or size.
    number: u64,
    data: &'d [u8],
}

/// The start of a record of the journal: whose bytes, over which generation, and where.
fn journal_head(key: &str, state: &State, number: u64) -> Vec<u8> {
    let mut head = state.object.0.to_be_bytes().to_vec();
    head.extend((key.len() as u16).to_be_bytes());
    head.extend(key.as_bytes());
    head.extend(state.generation.to_be_bytes());
    head.extend(number.to_be_bytes());
    head
}

pub(super) fn journal_errno(error: &crate::journal::Error) -> Errno {
    if error.is_disk_full() { Errno::ENOSPC } else { Errno::EIO }
}
