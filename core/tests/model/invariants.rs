//! What holds of the raw rows at every moment, whatever was asked for: no reference is counted wrong, nothing is left
//! behind, nothing points nowhere.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::event::FeedRow;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{KvRead, MemView};
use holdfast_core::record::*;
use holdfast_core::rules::{BASE_DEPTH_MAX, BLOCK_BYTES, BLOCKS_PER_PAGE, EXTENTS_PER_PAGE_MAX, PAGE_BYTES};

use crate::rows;
use crate::support::row;

type HistoryKey = (BucketId, String, Place);

/// The rows, decoded.
struct Rows {
    buckets: BTreeMap<BucketId, BucketRow>,
    names: BTreeMap<(BucketId, String), NameRow>,
    history: BTreeMap<HistoryKey, HistoryRow>,
    nulls: BTreeMap<(BucketId, String), Place>,
    objects: BTreeMap<ObjectId, ObjectRow>,
    links: BTreeMap<ObjectId, Vec<LinkRow>>,
    contents: BTreeMap<ContentId, ContentRow>,
    pages: BTreeMap<(ObjectId, u32, u64), PageRow>,
    uploads: BTreeMap<Place, BucketId>,
    extra_extents: BTreeMap<Place, u64>,
    parts: BTreeMap<(Place, u16), PartRow>,
    boundaries: BTreeMap<(ContentId, u32), BoundariesRow>,
    finished: BTreeSet<Place>,
    blobs: BTreeMap<BlobId, BlobRow>,
    checksum_pages: BTreeSet<(BlobId, u32)>,
    inline: BTreeMap<BlobId, u64>,
    mounts: usize,
}

fn number(key: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(key[at..at + 8].try_into().unwrap())
}

fn bucket_of(key: &[u8]) -> BucketId {
    BucketId(number(key, 2))
}

fn place_of(key: &[u8], at: usize) -> Place {
    Place { revision: number(key, at), ordinal: u16::from_be_bytes(key[at + 8..at + 10].try_into().unwrap()) }
}

impl Rows {
    fn read(view: &MemView) -> Self {
        let decode_names = |keyspace| {
            rows(view, keyspace).map(|(key, value)| ((bucket_of(&key), key::name_key(&key).unwrap().to_owned()), value))
        };
        let mut these = Self {
            buckets: rows(view, Keyspace::Buckets)
                .map(|row| decode::<BucketRow>(&row.1))
                .map(|row| (row.id, row))
                .collect(),
            names: decode_names(Keyspace::Names).map(|(key, value)| (key, decode(&value))).collect(),
            history: BTreeMap::new(),
            nulls: decode_names(Keyspace::Nulls).map(|(key, value)| (key, decode::<NullRow>(&value).place)).collect(),
            objects: BTreeMap::new(),
            links: BTreeMap::new(),
            contents: BTreeMap::new(),
            pages: BTreeMap::new(),
            uploads: BTreeMap::new(),
            extra_extents: BTreeMap::new(),
            parts: BTreeMap::new(),
            boundaries: BTreeMap::new(),
            finished: BTreeSet::new(),
            blobs: BTreeMap::new(),
            checksum_pages: BTreeSet::new(),
            inline: BTreeMap::new(),
            mounts: rows(view, Keyspace::Locks).filter(|(key, _)| key[2] == 10).count(),
        };
        these.read_history_and_contents(view);
        these.read_parts(view);
        these.read_blobs(view);
        these
    }

    fn read_history_and_contents(&mut self, view: &MemView) {
        for (key, value) in rows(view, Keyspace::History) {
            let (object, place) = key::history_parts(&key).unwrap();
            self.history.insert((bucket_of(&key), object, place), decode(&value));
        }
        for (key, value) in rows(view, Keyspace::Objects) {
            match key::content_id(&key) {
                Some(id) => drop(self.contents.insert(id, decode(&value))),
                None => drop(self.objects.insert(ObjectId(number(&key, 2)), decode(&value))),
            }
        }
        for (key, value) in rows(view, Keyspace::Links) {
            self.links.entry(ObjectId(number(&key, 2))).or_default().push(decode(&value));
        }
        for (key, value) in rows(view, Keyspace::Extents) {
            let (page, revision) = key::page_parts(&key).unwrap();
            self.pages.insert((ObjectId(number(&key, 2)), page, revision), decode(&value));
        }
    }

    fn read_parts(&mut self, view: &MemView) {
        for (key, value) in rows(view, Keyspace::Parts) {
            match key[2] {
                0 => {
                    let (_, place) = key::upload_parts(&key).unwrap();
                    let row: UploadRow = decode(&value);
                    self.uploads.insert(place, BucketId(number(&key, 3)));
                    self.extra_extents.insert(place, row.extra_extents.unwrap_or_default());
                }
                1 => {
                    self.parts.insert((place_of(&key, 3), key::part_number(&key).unwrap()), decode(&value));
                }
                2 => {
                    let content = ContentId { object: ObjectId(number(&key, 3)), revision: number(&key, 11) };
                    let page = u32::from_be_bytes(key[19..23].try_into().unwrap());
                    self.boundaries.insert((content, page), decode(&value));
                }
                3 => {
                    let _: FinishedRow = decode(&value);
                    self.finished.insert(place_of(&key, 3));
                }
                kind => panic!("a row of kind {kind} in parts"),
            }
        }
    }

    fn read_blobs(&mut self, view: &MemView) {
        for (key, value) in rows(view, Keyspace::Blobs) {
            match key::blob_id(&key).unwrap() {
                (blob, None) => {
                    self.blobs.insert(blob, decode(&value));
                }
                (blob, Some(page)) => {
                    self.checksum_pages.insert((blob, page));
                }
            }
        }
        for (key, value) in rows(view, Keyspace::Inline) {
            self.inline.insert(key::blob_id(&key).unwrap().0, value.len() as u64);
        }
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        let orphans = self.objects.values().filter_map(|row| row.orphan.as_ref()).map(|orphan| &orphan.version);
        self.history.values().filter_map(|row| row.version.as_ref()).chain(orphans)
    }
}

fn decode<R: Record>(bytes: &[u8]) -> R {
    let row = R::decode(bytes).unwrap();
    assert_eq!(row.encode(), bytes, "encoding a row again gives the same bytes");
    row
}

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

/// Checks all.
pub fn check(view: &MemView) -> Result<(), String> {
    let rows = Rows::read(view);
    names_follow_history(&rows)?;
    null_pointers_are_where_no_name_stands(&rows)?;
    usage_counts_rows(&rows)?;
    blobs_count_their_extents(&rows)?;
    contents_count_their_users(&rows)?;
    no_page_is_orphaned(&rows)?;
    contents_know_their_size(view, &rows)?;
    parts_have_uploads(&rows)?;
    links_are_names(&rows)?;
    sessions_hold_orphans(view, &rows)?;
    queues_and_rows_agree(view, &rows)?;
    bookkeeping_agrees(view, &rows)
}

fn names_follow_history(rows: &Rows) -> Result<(), String> {
    let mut newest: BTreeMap<(BucketId, String), (Place, &HistoryRow)> = BTreeMap::new();
    for ((bucket, key, place), row) in rows.history.iter().filter(|(_, row)| row.ended.is_none()) {
        newest.insert((*bucket, key.clone()), (*place, row));
    }
    let mut names = BTreeMap::new();
    for (key, (place, row)) in newest {
        if let Some(version) = &row.version {
            let declared = version.checksum.as_ref();
            let name = NameRow {
                place,
                object: version.object,
                size: version.size,
                etag: version.etag.clone(),
                modified_ms: row.modified_ms,
                null: row.null,
                checksum: declared.map_or(ChecksumAlgorithm::Crc64Nvme, |sum| sum.algorithm),
                checksum_type: declared.map_or(ChecksumType::FullObject, |sum| sum.kind),
            };
            names.insert(key, name);
        }
    }
    ensure!(names == rows.names, "names are\n {:?}\nnot\n {names:?}", rows.names);
    Ok(())
}

fn null_pointers_are_where_no_name_stands(rows: &Rows) -> Result<(), String> {
    let mut nulls = BTreeMap::new();
    for ((bucket, key, place), _) in rows.history.iter().filter(|(_, row)| row.ended.is_none() && row.null) {
        let at = (*bucket, key.clone());
        if rows.names.get(&at).is_none_or(|name| name.place != *place) {
            ensure!(nulls.insert(at, *place).is_none(), "{key:?} has two null rows");
        }
    }
    ensure!(nulls == rows.nulls, "null pointers are {:?}, not {nulls:?}", rows.nulls);
    Ok(())
}

fn usage_counts_rows(rows: &Rows) -> Result<(), String> {
    for (id, bucket) in &rows.buckets {
        let of_bucket = rows.history.iter().filter(|((bucket, ..), row)| bucket == id && row.ended.is_none());
        let (versions, bytes) =
            of_bucket.fold((0, 0), |(versions, bytes), (_, row)| (versions + 1, bytes + row.size()));
        let usage = Usage {
            objects: rows.names.keys().filter(|(bucket, _)| bucket == id).count() as u64,
            versions,
            bytes,
            uploads: rows.uploads.values().filter(|bucket| *bucket == id).count() as u64,
        };
        ensure!(bucket.usage == usage, "usage of bucket {id} is {:?}, not {usage:?}", bucket.usage);
    }
    Ok(())
}

fn blobs_count_their_extents(rows: &Rows) -> Result<(), String> {
    let mut refs: BTreeMap<BlobId, u64> = BTreeMap::new();
    let singles = rows.versions().filter_map(|version| match version.body {
        Body::Single(extent) => Some(extent),
        _ => None,
    });
    let paged = rows.pages.values().flat_map(|page| page.extents.iter().copied());
    let parts = rows.parts.values().flat_map(|part| part.extents.iter().copied());
    for extent in singles.chain(paged).chain(parts) {
        if extent.is_hole() {
            ensure!(extent.blob_offset == 0 && extent.length > 0, "{extent:?} is no hole");
            continue;
        }
        *refs.entry(extent.blob).or_default() += 1;
        let length = rows.blobs.get(&extent.blob).map(|blob| blob.length);
        let fits = length.is_some_and(|length| extent.blob_offset + extent.length <= length && extent.length > 0);
        ensure!(fits, "{extent:?} is not within its blob of {length:?} bytes");
    }
    for (id, blob) in &rows.blobs {
        let named = refs.remove(id).unwrap_or_default();
        ensure!(blob.refs == named, "blob {id} counts {} references, {named} extents name it", blob.refs);
        ensure!((named == 0) == blob.condemned.is_some(), "blob {id} with {named} references: {:?}", blob.condemned);
        let inline = blob.locations.contains(&Location::Inline).then_some(blob.length).filter(|_| named > 0);
        ensure!(rows.inline.get(id).copied() == inline, "inline bytes of blob {id}");
        let pages =
            if blob.locations.is_empty() { 0 } else { blob.length.div_ceil(BLOCK_BYTES * BLOCKS_PER_PAGE as u64) };
        let found = rows.checksum_pages.range((*id, 0)..=(*id, u32::MAX)).map(|(_, page)| u64::from(*page));
        ensure!(found.eq(1..pages.max(1)), "checksum pages of blob {id}");
    }
    ensure!(refs.is_empty(), "extents name blobs without a row: {refs:?}");
    ensure!(rows.inline.keys().all(|id| rows.blobs.contains_key(id)), "inline bytes without a blob");
    ensure!(rows.checksum_pages.iter().all(|(id, _)| rows.blobs.contains_key(id)), "checksum pages without a blob");
    Ok(())
}

fn contents_count_their_users(rows: &Rows) -> Result<(), String> {
    let mut refs: BTreeMap<ContentId, u64> = BTreeMap::new();
    for version in rows.versions() {
        let held = match version.body {
            Body::Pages(content) => Some(content),
            _ => version.parts.map(|parts| parts.content),
        };
        if let Some(content) = held {
            *refs.entry(content).or_default() += 1;
        }
        if let (Body::Pages(content), Some(parts)) = (version.body, version.parts) {
            ensure!(content == parts.content, "a version of two contents");
        }
    }
    for content in rows.contents.values().filter_map(|content| content.base) {
        *refs.entry(content).or_default() += 1;
    }
    for (id, content) in &rows.contents {
        let held = refs.remove(id).unwrap_or_default();
        ensure!(content.refs == held && held > 0, "content {id:?} counts {} references, {held} hold it", content.refs);
        let depth = content.base.map_or(0, |base| rows.contents[&base].depth + 1);
        // A join flattens a base below those that are built on it, which keep their own count.
        ensure!(content.depth >= depth && content.depth <= BASE_DEPTH_MAX, "depth of {id:?}: {}", content.depth);
        let pages = rows.boundaries.range((*id, 0)..=(*id, u32::MAX)).map(|((_, page), _)| *page);
        ensure!(pages.eq(0..content.parts_pages), "boundaries of {id:?}");
    }
    ensure!(refs.is_empty(), "contents without a row are held: {refs:?}");
    let mut orphans = rows.boundaries.keys().filter(|(content, _)| !rows.contents.contains_key(content));
    ensure!(orphans.next().is_none(), "boundaries without a content");
    Ok(())
}

/// Every page row is the newest that some content of its object sees.
fn no_page_is_orphaned(rows: &Rows) -> Result<(), String> {
    for ((object, page, revision), row) in &rows.pages {
        let newer = rows.pages.range((*object, *page, revision + 1)..=(*object, *page, u64::MAX)).next();
        let end = newer.map_or(u64::MAX, |((_, _, newer), _)| newer - 1);
        let of_object =
            ContentId { object: *object, revision: *revision }..=ContentId { object: *object, revision: end };
        let seen = rows.contents.range(of_object).any(|(_, content)| content.extents > 0);
        ensure!(seen, "no content sees page {page} of object {object} at revision {revision}");
        // A page without extents hides an older one, which may be gone by now.
        ensure!(row.extents.len() <= EXTENTS_PER_PAGE_MAX, "a page of too many extents");
        ensure!(row.extents.is_sorted_by(|one, next| one.end() <= next.offset), "a page out of order: {row:?}");
        let right = |extent: &Extent| extent.offset / PAGE_BYTES == u64::from(*page);
        ensure!(row.extents.iter().all(right), "an extent in the wrong page");
    }
    Ok(())
}

/// The extents of a content with pages, read the slow way.
pub fn extents_of(view: &MemView, content: ContentId) -> Option<Vec<Extent>> {
    let mut pages: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
    let mut next = Some(content);
    while let Some(content) = next {
        let mut own: BTreeMap<u32, (u64, Vec<Extent>)> = BTreeMap::new();
        for (key, value) in rows(view, Keyspace::Extents) {
            let (page, revision) = key::page_parts(&key).unwrap();
            let newest = own.get(&page).is_none_or(|(newest, _)| *newest < revision);
            if number(&key, 2) == content.object.0 && revision <= content.revision && newest {
                own.insert(page, (revision, PageRow::decode(&value).unwrap().extents));
            }
        }
        for (page, (_, extents)) in own {
            pages.entry(page).or_insert(extents);
        }
        next = row::<ContentRow>(view, Keyspace::Objects, &key::content(content))?.base;
    }
    // What a joined base holds in one extent, pages above it may hold again: the rest of each extent counts.
    let mut extents: Vec<Extent> = Vec::new();
    let mut position = 0;
    for extent in pages.into_values().flatten() {
        let end = extent.offset + extent.length;
        if end > position && extent.offset <= position {
            let cut = position - extent.offset;
            let (length, blob_offset) = (extent.length - cut, extent.blob_offset + cut);
            extents.push(Extent { offset: position, length, blob_offset, ..extent });
            position = end;
        }
    }
    Some(extents)
}

fn contents_know_their_size(view: &MemView, rows: &Rows) -> Result<(), String> {
    for (id, content) in rows.contents.iter().filter(|(_, content)| content.extents > 0) {
        let extents = extents_of(view, *id).unwrap_or_default();
        let size: u64 = extents.iter().map(|extent| extent.length).sum();
        ensure!(size == content.size, "content {id:?} is {} bytes long, its extents {size}", content.size);
        let holes: u64 = extents.iter().filter(|extent| extent.is_hole()).map(|extent| extent.length).sum();
        let counted = content.hole_bytes.unwrap_or_default();
        // A compaction of its base may have filled some.
        ensure!(
            counted == holes || (content.base.is_some() && counted > holes),
            "{holes} bytes of holes in {id:?}: {content:?}"
        );
    }
    Ok(())
}

/// The names of an object that has several: live ones, whose current versions are the same.
fn links_are_names(rows: &Rows) -> Result<(), String> {
    let mut live: BTreeMap<ObjectId, BTreeSet<(BucketId, &str)>> = BTreeMap::new();
    for ((bucket, key), name) in &rows.names {
        live.entry(name.object).or_default().insert((*bucket, key));
    }
    for (object, names) in &live {
        let listed: BTreeSet<_> =
            rows.links.get(object).into_iter().flatten().map(|row| (row.bucket, row.key.as_str())).collect();
        let expected = if names.len() > 1 { names.clone() } else { BTreeSet::new() };
        ensure!(listed == expected, "names of object {object} are {names:?}, its links {listed:?}");
        let counted = rows.objects.get(object).map(|row| row.links as usize);
        ensure!(counted == (names.len() > 1).then_some(names.len()), "object {object} counts {counted:?}: {names:?}");
        let same = |bucket: &BucketId, key: &str| {
            let name = &rows.names[&(*bucket, key.to_owned())];
            let version = rows.history[&(*bucket, key.to_owned(), name.place)].version.clone().unwrap();
            Version { created_ms: 0, ..version }
        };
        let versions: Vec<Version> = names.iter().map(|(bucket, key)| same(bucket, key)).collect();
        ensure!(versions.windows(2).all(|pair| pair[0] == pair[1]), "versions of {object} differ: {versions:?}");
    }
    for (object, row) in &rows.objects {
        let orphan = row.orphan.is_some();
        ensure!(
            orphan != live.contains_key(object),
            "object {object} is {row:?}, and has names {:?}",
            live.get(object)
        );
        ensure!(orphan == (row.links == 0), "object {object} is {row:?}");
    }
    let stray = rows.links.keys().find(|object| !rows.objects.contains_key(object));
    ensure!(stray.is_none(), "links of object {stray:?}, which has no row");
    Ok(())
}

/// Each file without a name is held by a session that counts it, and each session knows its lease.
fn sessions_hold_orphans(view: &MemView, rows: &Rows) -> Result<(), String> {
    use holdfast_core::mount::{MountId, MountRow};
    let (mut held, mut sessions) = (BTreeMap::<MountId, BTreeSet<ObjectId>>::new(), BTreeMap::new());
    let (mut leases, mut replies, mut open, mut count) = (BTreeMap::new(), 0, BTreeSet::new(), 0);
    for (row_key, value) in crate::rows(view, Keyspace::Locks) {
        match row_key[2] {
            10 => drop(sessions.insert(key::mount_client(&row_key).unwrap(), decode::<MountRow>(&value))),
            11 => drop(leases.insert(number(&row_key, 3), MountId(value.as_ref().try_into().unwrap()))),
            12 => {
                let client = key::mount_client(&row_key).unwrap();
                held.entry(client).or_default().insert(key::mount_orphan_object(&row_key).unwrap());
            }
            13 => replies += 1,
            14 => {
                let name = key::mount_open_file_key(&row_key).unwrap().to_owned();
                open.insert((key::mount_client(&row_key).unwrap(), name));
            }
            15 => count = u64::from_be_bytes(value.as_ref().try_into().unwrap()),
            _ => {}
        }
    }
    ensure!(count == sessions.len() as u64, "{count} sessions are counted, {} are there", sessions.len());
    let answered = sessions.values().filter(|row| row.applied_at.is_some()).count();
    ensure!(replies == answered, "{replies} replies of {answered} sessions");
    open_files_are_known(rows, &open, &sessions)?;
    let mut expected = BTreeMap::<MountId, BTreeSet<ObjectId>>::new();
    for (object, row) in &rows.objects {
        if let Some(orphan) = &row.orphan {
            ensure!(orphan.version.object == *object, "object {object} holds {:?}", orphan.version.object);
            expected.entry(orphan.client).or_default().insert(*object);
        }
    }
    ensure!(held == expected, "held are {held:?}, orphans {expected:?}");
    for (client, row) in &sessions {
        let count = held.get(client).map_or(0, BTreeSet::len);
        ensure!(row.orphans as usize == count, "{client:?} counts {} orphans of {count}", row.orphans);
        let lives = leases.get(&row.lease) == Some(client);
        ensure!(lives == row.due_ms.is_none(), "the lease of {client:?}: {lives}, {:?}", row.due_ms);
        if let Some(due_ms) = row.due_ms {
            let queued = view.get(Keyspace::Queues, &key::queued_session(due_ms, *client)).unwrap();
            ensure!(queued.is_some(), "{client:?} is not queued");
        }
    }
    let queued = crate::rows(view, Keyspace::Queues).filter(|(row_key, _)| row_key[2] == 7).count();
    let idle = sessions.values().filter(|row| row.due_ms.is_some()).count();
    ensure!(queued == idle, "{queued} sessions are queued, {idle} have no lease");
    ensure!(leases.len() + idle == sessions.len(), "leases {leases:?} of {} sessions", sessions.len());
    ensure!(held.keys().all(|client| sessions.contains_key(client)), "orphans of no session");
    Ok(())
}

/// Each name whose version is open is known to the session that writes it, and only such a one.
fn open_files_are_known(
    rows: &Rows,
    known: &BTreeSet<(holdfast_core::mount::MountId, String)>,
    sessions: &BTreeMap<holdfast_core::mount::MountId, holdfast_core::mount::MountRow>,
) -> Result<(), String> {
    let mut open = BTreeSet::new();
    for ((bucket, key, place), row) in rows.history.iter().filter(|(_, row)| row.ended.is_none()) {
        let Some(client) = row.version.as_ref().and_then(|version| version.open) else { continue };
        let latest = rows.names.get(&(*bucket, key.clone())).is_some_and(|name| name.place == *place);
        ensure!(latest, "{key:?} at {place:?} is open, and not the latest");
        ensure!(sessions.get(&client).is_some_and(|row| row.bucket.id == *bucket), "{key:?} is open by {client:?}");
        open.insert((client, key.clone()));
    }
    ensure!(open == *known, "open are {open:?}, known {known:?}");
    Ok(())
}

/// Whether a mount that is forgotten by now wrote something.
fn was_mounted(view: &MemView) -> bool {
    use holdfast_core::event::{EventKind, EventRow};
    crate::rows(view, Keyspace::Events).any(|(_, value)| decode::<EventRow>(&value).kind == EventKind::Patched)
}

fn parts_have_uploads(rows: &Rows) -> Result<(), String> {
    for (upload, number) in rows.parts.keys() {
        ensure!(rows.uploads.contains_key(upload), "part {number} of no upload");
    }
    for (upload, counted) in &rows.extra_extents {
        let parts = rows.parts.range((*upload, 0)..=(*upload, u16::MAX)).map(|(_, part)| part);
        let extra: u64 = parts.map(|part| part.extents.len().saturating_sub(1) as u64).sum();
        ensure!(*counted == extra, "an upload counts {counted} extra extents, not {extra}");
    }
    let orphan = rows.uploads.values().find(|bucket| !rows.buckets.contains_key(bucket));
    ensure!(orphan.is_none(), "an upload in bucket {orphan:?}, which is gone");
    let lost =
        rows.history.iter().find(|((bucket, ..), row)| row.ended.is_none() && !rows.buckets.contains_key(bucket));
    ensure!(lost.is_none(), "a version in a bucket that is gone: {lost:?}");
    Ok(())
}

/// Each queue holds exactly what is to be done. Digests may lack one: a job gives up on what it cannot read; so may joins:
/// what a mount writes waits until it is cut.
fn queues_and_rows_agree(view: &MemView, rows: &Rows) -> Result<(), String> {
    let mut queued: [BTreeSet<String>; 8] = Default::default();
    for (row_key, _) in crate::rows(view, Keyspace::Queues) {
        let what = match row_key[2] {
            0 => key::ended_parts(&row_key).map(|(_, bucket, key, place)| format!("{:?}", (bucket, key, place))),
            1 => key::queued_blob_parts(&row_key).map(|(revision, blob)| format!("{blob} {revision}")),
            2 => key::queued_content_id(&row_key).map(|content| format!("{content:?}")),
            3 => key::queued_upload_parts(&row_key).map(|(_, place)| format!("{place:?}")),
            4 => key::queued_blob_parts(&row_key).map(|(_, blob)| blob.to_string()),
            5 => key::queued_digest_parts(&row_key).map(|at| format!("{at:?}")),
            6 => key::queued_page_parts(&row_key).map(|(content, _)| format!("{content:?} {row_key:?}")),
            7 => key::queued_session_parts(&row_key).map(|(due_ms, client)| format!("{due_ms} {client:?}")),
            queue => return Err(format!("a row of queue {queue}")),
        };
        ensure!(queued[usize::from(row_key[2])].insert(what.unwrap()), "queued twice: {row_key:?}");
    }
    let [ended, condemned, join, finished, tombstones, digests, ..] = queued;
    let expected =
        rows.history.iter().filter(|(_, row)| row.ended.is_some()).map(|(at, _)| format!("{at:?}")).collect();
    ensure!(ended == expected, "ended rows: {ended:?}, not {expected:?}");
    let dead = rows.blobs.iter().filter_map(|(id, blob)| Some((id, blob, blob.condemned?)));
    let (with_bytes, without): (Vec<_>, Vec<_>) = dead.partition(|(_, blob, _)| !blob.locations.is_empty());
    let expected = with_bytes.iter().map(|(id, _, revision)| format!("{id} {revision}")).collect();
    ensure!(condemned == expected, "condemned blobs: {condemned:?}, not {expected:?}");
    let expected = without.iter().map(|(id, ..)| id.to_string()).collect();
    ensure!(tombstones == expected, "tombstones: {tombstones:?}, not {expected:?}");
    let many = rows.contents.iter().filter(|(_, content)| content.extents > 1);
    let joinable = many.clone().filter(|(_, content)| content.hole_bytes.is_none());
    let expected: BTreeSet<String> = joinable.map(|(id, _)| format!("{id:?}")).collect();
    ensure!(join.is_subset(&expected), "contents to join: {join:?}, not {expected:?}");
    let patched =
        rows.versions().filter(|version| version.patched.is_some()).filter_map(|version| match version.body {
            Body::Pages(content) => Some(content.object),
            _ => None,
        });
    if patched.count() == 0 && rows.objects.is_empty() && rows.mounts == 0 && !was_mounted(view) {
        ensure!(join == expected, "contents to join: {join:?}, not {expected:?}");
    }
    for (row_key, _) in crate::rows(view, Keyspace::Queues).filter(|(row_key, _)| row_key[2] == 6) {
        let (content, _) = key::queued_page_parts(&row_key).unwrap();
        ensure!(rows.contents.contains_key(&content), "a page of {content:?} is to be compacted, which is gone");
    }
    let expected = rows.finished.iter().map(|place| format!("{place:?}")).collect();
    ensure!(finished == expected, "finished uploads: {finished:?}, not {expected:?}");
    let pending = rows.history.iter().filter(|(_, row)| row.version.as_ref().is_some_and(|v| v.sha256.is_none()));
    let expected: BTreeSet<String> = pending.map(|(at, _)| format!("{at:?}")).collect();
    ensure!(digests.is_subset(&expected), "pending digests: {digests:?}, not {expected:?}");
    Ok(())
}

fn bookkeeping_agrees(view: &MemView, rows: &Rows) -> Result<(), String> {
    let state: StateRow = row(view, Keyspace::Sys, &key::sys("state")).ok_or("no state row")?;
    let replies = crate::rows(view, Keyspace::Dedupe).count() as u64;
    ensure!(state.replies == replies, "{} replies counted, {replies} there", state.replies);
    let objects = rows.versions().map(|version| version.object.0);
    let objects = objects.chain(rows.contents.keys().map(|content| content.object.0));
    ensure!(objects.max().is_none_or(|largest| largest < state.next_object), "an object id may be used twice");
    for (key, _) in crate::rows(view, Keyspace::Settings) {
        ensure!(rows.buckets.contains_key(&bucket_of(&key)), "settings of a bucket that is gone");
    }
    let feed: FeedRow = row(view, Keyspace::Sys, &key::sys("feed")).unwrap_or_default();
    let events: Vec<_> = crate::rows(view, Keyspace::Events).collect();
    let bytes: u64 = events.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    ensure!((feed.rows, feed.bytes) == (events.len() as u64, bytes), "{feed:?} of {} events", events.len());
    let sys = crate::rows(view, Keyspace::Sys).count();
    ensure!(sys <= 2 && view.get(Keyspace::Sys, &key::sys("state")).is_ok(), "{sys} rows in sys");
    Ok(())
}
