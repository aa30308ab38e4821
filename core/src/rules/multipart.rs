//! Multipart uploads. Each part is a blob or shares extents of a version; completing only makes a list of them.
//!
//! Source: S3 user guide, "Uploading and copying objects using multipart upload"; S3 API, CompleteMultipartUpload.

use std::collections::BTreeSet;

use md5::{Digest, Md5};

use crate::apply::Txn;
use crate::command::{
    CompleteUpload, CompletedPart, CopyPart, CreateUpload, PartWritten, PutPart, Reply, UploadRef, Written,
};
use crate::error::Error;
use crate::id::{Place, UploadId};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{
    Boundary, BucketRow, Checksum, ChecksumAlgorithm, ContentId, Extent, FinishedRow, PartRow, Record, UploadRow,
};
use crate::rules::object::{self, Draft};
use crate::rules::{
    EXTENTS_MAX, FINISHED_MS, OBJECT_BYTES_MAX, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX, bucket, content, digest,
};
use crate::state::Stop;
use crate::view::{self, shown_version};

pub(crate) fn create(txn: &mut Txn<'_>, op: &CreateUpload) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.bucket)?;
    let algorithm = op.checksum.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    if op.checksum_type.is_some_and(|kind| !digest::has_type(algorithm, kind)) {
        return Err(Error::invalid("the checksum algorithm does not have this checksum type").into());
    }
    let place = txn.next_place()?;
    let row = UploadRow {
        nonce: op.nonce,
        initiated_ms: txn.now_ms(),
        attributes: op.attributes.clone(),
        checksum: op.checksum,
        checksum_type: op.checksum_type,
        extra_extents: None,
    };
    txn.put(Keyspace::Parts, key::upload(bucket.id, op.key.as_str(), place), &row);
    bucket.usage.uploads += 1;
    bucket::save(txn, &op.bucket, &bucket);
    Ok(Reply::UploadCreated(UploadId { place, nonce: op.nonce }))
}

pub(crate) fn load(txn: &Txn<'_>, upload: &UploadRef) -> Result<(BucketRow, UploadRow), Stop> {
    let bucket = bucket::load(txn, &upload.bucket)?;
    let row_key = key::upload(bucket.id, upload.key.as_str(), upload.upload.place);
    let row: Option<UploadRow> = txn.reader().row(Keyspace::Parts, &row_key)?;
    let row = row.filter(|row| row.nonce == upload.upload.nonce).ok_or(Error::NoSuchUpload)?;
    Ok((bucket, row))
}

pub(crate) fn put_part(txn: &mut Txn<'_>, op: &PutPart) -> Result<Reply, Stop> {
    let (_, upload) = load(txn, &op.upload)?;
    let digests = &op.content.digests;
    check_algorithm(&upload, digests.checksum.as_ref())?;
    let extent = content::bring_in(txn, &op.content)?;
    let part = PartRow {
        extents: extent.into_iter().collect(),
        size: op.content.size,
        md5: digests.md5,
        crc64nvme: digests.crc64nvme,
        checksum: digests.checksum.clone(),
        modified_ms: txn.now_ms(),
        crc_pending: None,
    };
    store_part(txn, &op.upload, upload, op.number, part)
}

/// A part carries the checksum that the upload declared, so that completing can assemble them.
fn check_algorithm(upload: &UploadRow, given: Option<&Checksum>) -> Result<(), Error> {
    let declared = upload.checksum.filter(|declared| *declared != ChecksumAlgorithm::Crc64Nvme);
    if declared.is_none() || given.map(|given| given.algorithm) == declared {
        return Ok(());
    }
    Err(Error::invalid("the part's checksum algorithm is not the one that the upload declared"))
}

pub(crate) fn copy_part(txn: &mut Txn<'_>, op: &CopyPart) -> Result<Reply, Stop> {
    let (_, upload) = load(txn, &op.upload)?;
    check_algorithm(&upload, op.digests.checksum.as_ref())?;
    if op.crc_pending == Some(true) && upload.checksum.is_some() {
        return Err(Error::invalid("the upload declared a checksum: its parts must be read").into());
    }
    content::check_checksum(op.digests.checksum.as_ref())?;
    if op.source.pinned.is_none() {
        return Err(Error::invalid("the source of a part copy must be pinned").into());
    }
    if op.length > PART_BYTES_MAX {
        return Err(Error::TooLarge.into());
    }
    let (source_bucket, place, row) = object::source(txn, &op.source)?;
    let Some(version) = &row.version else { return Err(Error::IsDeleteMarker.into()) };
    let end = op.offset.checked_add(op.length).ok_or(Error::InvalidRange)?;
    let mut extents = view::extents(txn.reader(), version, op.offset..end)?;
    // Before so many references are counted; the upload's own bound is on all its parts.
    if extents.len() > EXTENTS_MAX {
        return Err(Error::TooManyExtents.into());
    }
    for extent in &mut extents {
        content::retain_blob(txn, extent.blob)?;
        extent.offset -= op.offset;
    }
    let part = PartRow {
        extents,
        size: op.length,
        md5: op.digests.md5,
        crc64nvme: op.digests.crc64nvme,
        checksum: op.digests.checksum.clone(),
        modified_ms: txn.now_ms(),
        crc_pending: op.crc_pending,
    };
    let mut reply = store_part(txn, &op.upload, upload, op.number, part)?;
    if let Reply::PartWritten(written) = &mut reply {
        written.source_version = shown_version(&source_bucket, &row, place);
    }
    Ok(reply)
}

fn store_part(
    txn: &mut Txn<'_>,
    upload: &UploadRef,
    upload_row: UploadRow,
    number: u16,
    part: PartRow,
) -> Result<Reply, Stop> {
    if !(1..=PARTS_MAX).contains(&number) {
        return Err(Error::invalid("part number must be an integer between 1 and 10000, inclusive").into());
    }
    let row_key = key::part(upload.upload.place, number);
    let old: Option<PartRow> = txn.reader().row(Keyspace::Parts, &row_key)?;
    count_extents(txn, upload, upload_row, old.as_ref(), &part)?;
    if let Some(old) = old {
        release(txn, &old)?;
    }
    txn.put(Keyspace::Parts, row_key, &part);
    Ok(Reply::PartWritten(PartWritten {
        etag: digest::hex(&part.md5),
        modified_ms: part.modified_ms,
        checksum: part.checksum,
        source_version: None,
    }))
}

/// Keeps count of the extents that an upload holds beyond one a part, so that dropping it is bounded: no object could
/// take up more anyway.
fn count_extents(
    txn: &mut Txn<'_>,
    upload: &UploadRef,
    mut row: UploadRow,
    old: Option<&PartRow>,
    new: &PartRow,
) -> Result<(), Stop> {
    let extra = |part: &PartRow| part.extents.len().saturating_sub(1) as u64;
    let (before, after) = (old.map_or(0, extra), extra(new));
    if before == after {
        return Ok(());
    }
    let extents = row.extra_extents.unwrap_or_default().saturating_sub(before) + after;
    if extents > EXTENTS_MAX as u64 {
        return Err(Error::TooManyExtents.into());
    }
    row.extra_extents = Some(extents).filter(|extents| *extents > 0);
    txn.put(Keyspace::Parts, key::upload(upload.bucket.id, upload.key.as_str(), upload.upload.place), &row);
    Ok(())
}

fn release(txn: &mut Txn<'_>, part: &PartRow) -> Result<(), Stop> {
    part.extents.iter().try_for_each(|extent| content::release_blob(txn, extent.blob))
}

/// Drops the parts of an upload that a mount has used; the upload goes on.
pub(crate) fn drop_used(txn: &mut Txn<'_>, upload: &UploadRef, numbers: &BTreeSet<u16>) -> Result<(), Stop> {
    let (_, mut row) = load(txn, upload)?;
    let mut extents = row.extra_extents.unwrap_or_default();
    for number in numbers {
        let row_key = key::part(upload.upload.place, *number);
        let Some(part) = txn.reader().row::<PartRow>(Keyspace::Parts, &row_key)? else { continue };
        extents = extents.saturating_sub(part.extents.len().saturating_sub(1) as u64);
        release(txn, &part)?;
        txn.delete(Keyspace::Parts, row_key);
    }
    row.extra_extents = Some(extents).filter(|extents| *extents > 0);
    txn.put(Keyspace::Parts, key::upload(upload.bucket.id, upload.key.as_str(), upload.upload.place), &row);
    Ok(())
}

pub(crate) fn abort(txn: &mut Txn<'_>, op: &UploadRef) -> Result<Reply, Stop> {
    let (mut bucket, _) = load(txn, op)?;
    drop_parts(txn, op.upload.place, UPLOAD_EXTENTS_MAX)?.ok_or(Error::TooManyExtents)?;
    remove(txn, &mut bucket, op)?;
    Ok(Reply::Done)
}

fn remove(txn: &mut Txn<'_>, bucket: &mut BucketRow, upload: &UploadRef) -> Result<(), Stop> {
    txn.delete(Keyspace::Parts, key::upload(bucket.id, upload.key.as_str(), upload.upload.place));
    bucket.usage.uploads -= 1;
    bucket::save(txn, &upload.bucket, bucket);
    Ok(())
}

/// Most parts and extents that one upload holds.
pub(crate) const UPLOAD_EXTENTS_MAX: usize = PARTS_MAX as usize + EXTENTS_MAX;

/// Drops all parts of an upload, if they hold at most `most` extents; gives what is left of that number. A part without
/// bytes counts as one.
pub(crate) fn drop_parts(txn: &mut Txn<'_>, upload: Place, most: usize) -> Result<Option<usize>, Stop> {
    let parts = parts_of(txn, upload)?;
    let held = parts.iter().map(|(_, part)| part.extents.len().max(1)).sum();
    let Some(left) = most.checked_sub(held) else { return Ok(None) };
    for (number, part) in parts {
        release(txn, &part)?;
        txn.delete(Keyspace::Parts, key::part(upload, number));
    }
    Ok(Some(left))
}

fn parts_of(txn: &Txn<'_>, upload: Place) -> Result<Vec<(u16, PartRow)>, Stop> {
    let mut parts = Vec::new();
    for row in txn.reader().rows(Keyspace::Parts, KeyRange::prefix(&key::parts_of(upload))) {
        let (row_key, value) = row?;
        parts.push((key::part_number(&row_key).unwrap_or_default(), PartRow::decode(&value)?));
    }
    Ok(parts)
}

pub(crate) fn complete(txn: &mut Txn<'_>, op: &CompleteUpload) -> Result<Reply, Stop> {
    let upload_ref = UploadRef { bucket: op.target.bucket.clone(), key: op.target.key.clone(), upload: op.upload };
    let parts_md5 = fingerprint(op);
    let (mut bucket, upload) = match load(txn, &upload_ref) {
        Err(Stop::Refused(Error::NoSuchUpload)) => return again(txn, op, parts_md5),
        loaded => loaded?,
    };
    let chosen = choose(parts_of(txn, op.upload.place)?, &op.parts, &upload)?;
    let name = object::check(txn, &bucket, &op.target)?;
    let assembled = assemble(&chosen.named, &upload, op)?;
    for part in &chosen.unnamed {
        release(txn, part)?;
    }
    for number in &chosen.numbers {
        txn.delete(Keyspace::Parts, key::part(op.upload.place, *number));
    }
    let mut version = object::blank(txn, upload.attributes.clone());
    let id = ContentId { object: version.object, revision: txn.revision() };
    let (body, parts) = content::store(txn, id, &assembled.extents, &assembled.boundaries)?;
    (version.body, version.parts) = (body, parts);
    version.size = assembled.size;
    version.etag = digest::multipart_etag(chosen.named.iter().map(|(_, part)| part.md5));
    (version.crc64nvme, version.crc_pending) = (assembled.crc64nvme, assembled.crc_pending);
    version.checksum = assembled.checksum;
    let written = object::write(txn, &mut bucket, &op.target.key, name, Draft::new(txn, op.nonce, version))?;
    remove(txn, &mut bucket, &upload_ref)?;
    object::tell(txn, crate::event::EventKind::Complete, &op.target, &written);
    finish(txn, op, written, parts_md5)
}

/// Remembers the reply, so that completing again gives it again.
fn finish(txn: &mut Txn<'_>, op: &CompleteUpload, written: Written, parts_md5: [u8; 16]) -> Result<Reply, Stop> {
    let reply = Reply::Written(written);
    let row = FinishedRow { reply: reply.encode(), parts_md5 };
    txn.put(Keyspace::Parts, key::finished(op.upload.place), &row);
    let due_ms = txn.now_ms() + FINISHED_MS;
    txn.put_bytes(Keyspace::Queues, key::queued_upload(due_ms, op.upload.place), Vec::new());
    Ok(reply)
}

/// Completing a finished upload with the same parts gives the first reply and changes nothing, whatever has become of
/// the key since.
fn again(txn: &Txn<'_>, op: &CompleteUpload, parts_md5: [u8; 16]) -> Result<Reply, Stop> {
    let row: Option<FinishedRow> = txn.reader().row(Keyspace::Parts, &key::finished(op.upload.place))?;
    let row = row.filter(|row| row.parts_md5 == parts_md5).ok_or(Error::NoSuchUpload)?;
    Ok(Reply::decode(&row.reply)?)
}

/// MD5 over what names the upload and its parts.
fn fingerprint(op: &CompleteUpload) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(op.target.bucket.id.0.to_be_bytes());
    md5.update(op.target.key.as_bytes());
    md5.update(op.upload.nonce.0);
    for part in &op.parts {
        md5.update(part.number.to_be_bytes());
        md5.update(part.etag.as_bytes());
    }
    md5.finalize().into()
}

/// The parts of an upload, by whether the complete names them.
struct Chosen {
    named: Vec<(u16, PartRow)>,
    unnamed: Vec<PartRow>,
    numbers: Vec<u16>,
}

fn choose(stored: Vec<(u16, PartRow)>, named: &[CompletedPart], upload: &UploadRow) -> Result<Chosen, Error> {
    if named.is_empty() {
        return Err(Error::invalid("a multipart upload is completed with at least one part"));
    }
    if !named.is_sorted_by(|one, next| one.number < next.number) {
        return Err(Error::InvalidPartOrder);
    }
    let numbers = stored.iter().map(|(number, _)| *number).collect();
    let mut chosen = Chosen { named: Vec::with_capacity(named.len()), unnamed: Vec::new(), numbers };
    let mut wanted = named.iter().peekable();
    for (number, part) in stored {
        match wanted.next_if(|wanted| wanted.number == number) {
            Some(wanted) if is_it(wanted, &part, upload) => chosen.named.push((number, part)),
            Some(_) => return Err(Error::InvalidPart { number }),
            None => chosen.unnamed.push(part),
        }
    }
    if let Some(missing) = wanted.next() {
        return Err(Error::InvalidPart { number: missing.number });
    }
    let last = chosen.named.len() - 1;
    match chosen.named[..last].iter().find(|(_, part)| part.size < PART_BYTES_MIN) {
        Some((number, _)) => Err(Error::PartTooSmall { number: *number }),
        None => Ok(chosen),
    }
}

fn is_it(wanted: &CompletedPart, part: &PartRow, upload: &UploadRow) -> bool {
    let checksum_fits = wanted.checksum.as_ref().is_none_or(|wanted| {
        wanted.value == part_checksum(part, wanted.algorithm)
            && upload.checksum.is_none_or(|declared| declared == wanted.algorithm)
    });
    wanted.etag == digest::hex(&part.md5) && checksum_fits
}

/// The value that a part has in an algorithm; empty when it has none.
fn part_checksum(part: &PartRow, algorithm: ChecksumAlgorithm) -> Vec<u8> {
    match &part.checksum {
        Some(checksum) if checksum.algorithm == algorithm => checksum.value.clone(),
        _ if algorithm == ChecksumAlgorithm::Crc64Nvme && part.crc_pending != Some(true) => {
            part.crc64nvme.to_be_bytes().to_vec()
        }
        _ => Vec::new(),
    }
}

/// What the parts make together.
struct Assembled {
    size: u64,
    extents: Vec<Extent>,
    boundaries: Vec<Boundary>,
    crc64nvme: u64,
    crc_pending: Option<bool>,
    checksum: Option<Checksum>,
}

fn assemble(parts: &[(u16, PartRow)], upload: &UploadRow, op: &CompleteUpload) -> Result<Assembled, Error> {
    let algorithm = upload.checksum.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    let kind = upload.checksum_type.unwrap_or_else(|| digest::default_type(algorithm));
    if op.checksum_type.is_some_and(|given| given != kind) {
        return Err(Error::invalid("the checksum type is not the one that the upload declared"));
    }
    let (mut size, mut crc64nvme) = (0u64, None);
    let (mut extents, mut boundaries) = (Vec::new(), Vec::with_capacity(parts.len()));
    for (number, part) in parts {
        extents.extend(part.extents.iter().map(|extent| Extent { offset: extent.offset + size, ..*extent }));
        let checksum = Some(part_checksum(part, algorithm)).filter(|value| !value.is_empty());
        boundaries.push(Boundary { number: *number, size: part.size, checksum });
        size += part.size;
        crc64nvme = Some(match crc64nvme {
            None => part.crc64nvme,
            Some(so_far) => digest::combine_crc64(so_far, part.crc64nvme, part.size),
        });
    }
    if size > OBJECT_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    if op.size.is_some_and(|declared| declared != size) {
        return Err(Error::ContentMismatch { what: "size".into() });
    }
    let crc_pending = parts.iter().any(|(_, part)| part.crc_pending == Some(true)).then_some(true);
    if crc_pending.is_some() {
        // No checksum was declared when it was started.
        if op.checksum.is_some() {
            return Err(Error::invalid("a part was copied without a checksum: declare one when the upload is created"));
        }
        return Ok(Assembled { size, extents, boundaries, crc64nvme: 0, crc_pending, checksum: None });
    }
    let crc64nvme = crc64nvme.unwrap_or_default();
    let values = boundaries.iter().map(|part| (part.checksum.as_deref().unwrap_or_default(), part.size));
    let assembled = digest::assemble(algorithm, kind, values).ok_or(Error::NotBuilt)?;
    check_declared(&assembled, crc64nvme, op.checksum.as_ref())?;
    let checksum = Some(assembled).filter(|sum| sum.algorithm != ChecksumAlgorithm::Crc64Nvme);
    Ok(Assembled { size, extents, boundaries, crc64nvme, crc_pending, checksum })
}

fn check_declared(assembled: &Checksum, crc64nvme: u64, declared: Option<&Checksum>) -> Result<(), Error> {
    let Some(declared) = declared else { return Ok(()) };
    let expected = match declared.algorithm {
        algorithm if algorithm == assembled.algorithm => assembled.value.clone(),
        ChecksumAlgorithm::Crc64Nvme => crc64nvme.to_be_bytes().to_vec(),
        _ => return Err(Error::invalid("the checksum algorithm is not the one that the upload declared")),
    };
    if declared.value == expected { Ok(()) } else { Err(Error::ContentMismatch { what: "checksum".into() }) }
}
