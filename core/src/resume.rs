//! What a read that began earlier may still use.
//!
//! A read streams for longer than it may hold a view. It looks on in later views: the version is pinned by its place, and
//! blobs that were condemned meanwhile are still there, because the reader holds them back.

use crate::error::Error;
use crate::id::Revision;
use crate::record::{Extent, HistoryRow, Version};
use crate::state::Stop;
use crate::view::{BlobSource, Found, View};

impl View<'_> {
    /// The version that was found earlier, as it is now: the same bytes, perhaps in other blobs. Also when its life has
    /// ended meanwhile.
    ///
    /// # Errors
    /// [`Error::Changed`] when its row is gone or a mount has changed its bytes, or [`Stop`] when the engine fails.
    pub fn again(&self, found: &Found) -> Result<Found, Stop> {
        let row = match found.orphan() {
            Some(object) => self.reader.orphan(object)?.map(crate::mount::row_of),
            None => self.reader.history(found.bucket.row.id, &found.key, found.place)?,
        };
        let row = row.ok_or(Error::Changed)?;
        let generation = |row: &HistoryRow| row.version.as_ref().map(Version::generation);
        if generation(&row) != generation(&found.row) {
            return Err(Error::Changed.into());
        }
        Ok(Found { row, ..found.clone() })
    }

    /// As [`View::blob`], also for a blob that was condemned after `since`, by a reader who holds it back.
    ///
    /// # Errors
    /// [`Error::Changed`] when the blob is gone or was condemned before, or [`Stop`].
    pub fn blob_since(&self, extent: &Extent, since: Revision) -> Result<BlobSource, Stop> {
        let row = self.reader.blob(extent.blob)?.filter(|row| row.condemned.is_none_or(|at| at > since));
        let row = row.ok_or(Error::Changed)?;
        let inline = self.reader.inline(extent.blob)?;
        Ok(BlobSource { row, inline })
    }
}
