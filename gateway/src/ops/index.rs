//! Indexes: made, dropped, listed; and what they want to know of the bytes of a write.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use holdfast_core::command::{CreateIndex, DropIndex, Extracted, NewContent, NewPlace, Op, Outcome};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey};
use holdfast_core::index::{Aside, ContentIndex, Expression, IndexInfo, IndexKind};
use holdfast_core::queue::maintain_permit;
use holdfast_core::rules::authorize::Action;
use holdfast_core::view::{Bucket, Found, View};
use holdfast_query::extract::{Compression, Format, READ_BYTES_MAX, extract, format_of};

use super::{Call, Done, bucket_ref, view_of};
use crate::blobs::Incoming;
use crate::error::Error;
use crate::gateway::Gateway;

/// Objects that did not parse, of which a listing of an index tells.
pub const UNPARSED_SHOWN_MAX: usize = 100;

/// Plain text that is read at once: it takes no longer than to wake another thread.
const AT_ONCE_BYTES_MAX: usize = 16 << 10;

/// An index to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIndex {
    /// Bucket.
    pub bucket: BucketName,
    /// Name, unique in the bucket.
    pub name: String,
    /// Prefix of its partition.
    pub prefix: String,
    /// How entries are kept.
    pub kind: IndexKind,
    /// Whether two rows may not share their values.
    pub unique: bool,
    /// What is indexed.
    pub expressions: Vec<Expression>,
    /// Whether one of this name that is there already will do.
    pub if_not_exists: bool,
}

/// The start of a body that passes, or all of it.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Option<BytesMut>>>);

/// The body, and its bytes once it has ended, when they are few.
pub(super) fn kept(body: Incoming) -> (Incoming, Kept) {
    let short = body.length().is_none_or(|length| length <= READ_BYTES_MAX);
    let kept = Kept(Arc::new(Mutex::new(short.then(BytesMut::new))));
    let copy = kept.clone();
    let body = body.inspect(move |piece| {
        let mut held = copy.0.lock().expect("nobody panics while holding it");
        let fits = held.as_ref().is_some_and(|held| held.len() + piece.len() <= READ_BYTES_MAX as usize);
        match held.as_mut() {
            Some(bytes) if fits => bytes.extend_from_slice(piece),
            _ => *held = None,
        }
    });
    (body, kept)
}

impl Kept {
    fn into_bytes(self) -> Option<Bytes> {
        self.0.lock().expect("nobody panics while holding it").take().map(BytesMut::freeze)
    }
}

/// What is said of bytes that nobody has read.
pub(super) fn unread(indexes: &[ContentIndex]) -> Vec<Extracted> {
    indexes.iter().map(|index| Extracted { index: index.id, outcome: Outcome::Pending }).collect()
}

/// What indexes want to know of the bytes of a write that has passed.
pub(super) async fn extracted(
    indexes: Vec<ContentIndex>,
    key: &ObjectKey,
    content_type: Option<&str>,
    kept: Kept,
) -> Result<Vec<Extracted>, Error> {
    match kept.into_bytes() {
        Some(bytes) => read_for(indexes, key, content_type, bytes).await,
        None => Ok(unread(&indexes)),
    }
}

async fn read_for(
    indexes: Vec<ContentIndex>,
    key: &ObjectKey,
    content_type: Option<&str>,
    bytes: Bytes,
) -> Result<Vec<Extracted>, Error> {
    let format = format_of(key.as_str(), content_type);
    let at_once = bytes.len() <= AT_ONCE_BYTES_MAX
        && matches!(format, None | Some((Format::Csv(_) | Format::Ndjson | Format::Json, Compression::None)));
    let work = move || {
        let outcomes = extract(format, &bytes, &indexes);
        indexes.into_iter().zip(outcomes).map(|(index, outcome)| Extracted { index: index.id, outcome }).collect()
    };
    if at_once {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopping)
}

/// The unique indexes of a key that do not know the content of `found`, which gets the key as a second name, or another.
/// An index takes over what it knows of a name of its own; those that are not unique can wait for a job.
pub(super) fn unknown_indexes(
    view: &View<'_>,
    bucket: &Bucket,
    target: &ObjectKey,
    found: &Found,
) -> Result<Vec<ContentIndex>, Error> {
    let mut indexes = view.indexes_of_content(bucket, target)?;
    indexes.retain(|index| index.unique);
    if !indexes.is_empty() && found.is_latest && found.bucket.row.id == bucket.row.id {
        let known = view.indexes_of_content(bucket, &found.key)?;
        indexes.retain(|index| known.iter().all(|known| known.id != index.id));
    }
    Ok(indexes)
}

impl Gateway {
    /// Makes an index. What is there already is read by a job; until then queries read it whole.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn create_index(&self, call: &Call, new: NewIndex) -> Result<Done<()>, Error> {
        let permit = call.on_bucket(Action::ManageIndexes, &new.bucket)?;
        let bucket = bucket_ref(&self.bucket_for(&permit).await?);
        let NewIndex { name, prefix, kind, unique, expressions, if_not_exists, .. } = new;
        let op = Op::CreateIndex(CreateIndex { bucket, name, prefix, kind, unique, expressions });
        self.done_unless(call, op, if_not_exists.then_some(Refusal::IndexExists)).await
    }

    /// Drops an index.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn drop_index(
        &self,
        call: &Call,
        bucket: &BucketName,
        name: &str,
        if_exists: bool,
    ) -> Result<Done<()>, Error> {
        let permit = call.on_bucket(Action::ManageIndexes, bucket)?;
        let bucket = bucket_ref(&self.bucket_for(&permit).await?);
        let op = Op::DropIndex(DropIndex { bucket, name: name.to_owned() });
        self.done_unless(call, op, if_exists.then_some(Refusal::NoSuchIndex)).await
    }

    /// Commits `op`; the refusal `fine` says that it was done before.
    async fn done_unless(&self, call: &Call, op: Op, fine: Option<Refusal>) -> Result<Done<()>, Error> {
        let revision = match self.authorized(call, op).await {
            Err(Error::Refused(refusal)) if Some(&refusal) == fine.as_ref() => self.read_view(call).await?.revision(),
            done => done?.0,
        };
        Ok(Done { revision, value: () })
    }

    /// The indexes of a bucket, each with objects that did not parse, at most [`UNPARSED_SHOWN_MAX`].
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_indexes(
        &self,
        call: &Call,
        bucket: &BucketName,
    ) -> Result<Done<Vec<(IndexInfo, Vec<Aside>)>>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            let bucket = view.bucket(&permit)?;
            let with_unparsed = |index: IndexInfo| {
                let unparsed = view.unparsed_of_index(&permit, &index, UNPARSED_SHOWN_MAX)?;
                Ok((index, unparsed))
            };
            view.indexes(&bucket)?.into_iter().map(with_unparsed).collect()
        })
        .await
    }

    /// Indexes of all buckets as this node has them, at most `limit`: what the node says of itself, so no other is asked.
    ///
    /// # Errors
    /// [`Error`] when the state cannot be read.
    pub async fn known_indexes(&self, limit: usize) -> Result<Vec<IndexInfo>, Error> {
        let facts = Arc::clone(self.facts());
        let look = move || {
            let (local, permit) = (facts.local(), maintain_permit()?);
            let indexes = local.view().all_indexes(&permit)?;
            Ok(indexes.into_iter().map(|(_, index)| index).take(limit).collect())
        };
        tokio::task::spawn_blocking(look).await.map_err(|_| Error::Stopping)?
    }

    /// What indexes want to know of bytes that are written and have no name yet.
    pub(super) async fn extracted_of_written(
        &self,
        content: &NewContent,
        content_type: Option<&str>,
        key: &ObjectKey,
        indexes: Vec<ContentIndex>,
    ) -> Result<Vec<Extracted>, Error> {
        if indexes.is_empty() || content.size > READ_BYTES_MAX {
            return Ok(unread(&indexes));
        }
        let bytes = match &content.blob {
            None => Bytes::new(),
            Some(blob) => match &blob.place {
                NewPlace::Inline(bytes) => bytes.clone(),
                NewPlace::Path(path) => self.blobs().read_back(blob.id, path, &blob.crcs).await?,
            },
        };
        read_for(indexes, key, content_type, bytes).await
    }

    /// What [`unknown_indexes`] want to know of a version that is there; the caller's permit to get it was checked when it
    /// was found.
    pub(super) async fn extracted_of(
        &self,
        found: &Found,
        content_type: Option<&str>,
        target: &ObjectKey,
        indexes: Vec<ContentIndex>,
    ) -> Result<Vec<Extracted>, Error> {
        if indexes.is_empty() || found.row.size() > READ_BYTES_MAX {
            return Ok(unread(&indexes));
        }
        let plan = {
            let state = self.view(crate::cluster::Consistency::Local).await?;
            self.blobs().plan(&view_of(&state), found, 0..found.row.size())?
        };
        let body = self.blobs().open(plan).await?;
        let bytes = body.map_err(Error::from).try_fold(BytesMut::new(), |mut bytes, piece| async move {
            bytes.extend_from_slice(&piece);
            Ok(bytes)
        });
        read_for(indexes, target, content_type, bytes.await?.freeze()).await
    }
}
