//! Finds a version and opens its bytes.
//!
//! Source: S3 API, GetObject and HeadObject: conditions come before ranges, a delete marker before both.

use std::ops::Range;

use holdfast_core::command::SourceConditions;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, VersionId};
use holdfast_core::record::{Boundary, Version};
use holdfast_core::rules::authorize::{Action, Permit};
use holdfast_core::view::{Condition, Found, View, decide, object_resource};

use super::{ATTEMPTS_MAX, Call, Done, view_of};
use crate::blobs::BodyStream;
use crate::error::Error;
use crate::gateway::Gateway;

/// Which bytes of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All.
    #[default]
    Whole,
    /// From a byte to another, inclusive, or to the end.
    From(u64, Option<u64>),
    /// The last bytes, this many.
    Last(u64),
    /// A part of a multipart upload, by its number.
    Number(u16),
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Get {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Which version; `None` is the latest.
    pub version: Option<VersionId>,
    /// What must hold of it.
    pub conditions: SourceConditions,
    /// Which bytes.
    pub part: Part,
}

/// What was found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The version.
    pub found: Found,
    /// The bytes that were asked for.
    pub range: Range<u64>,
    /// Whether less than the whole was asked for.
    pub partial: bool,
    /// The part that was asked for by number, when it is one of many.
    pub boundary: Option<Boundary>,
}

impl Got {
    /// The version.
    #[must_use]
    pub fn version(&self) -> &Version {
        self.found.row.version.as_ref().expect("a delete marker is an error of the read")
    }
}

impl Gateway {
    /// Finds a version.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::DeleteMarker`], [`Error::NotModified`], [`Error::RangeNotSatisfiable`],
    /// [`Error::NoSuchPart`].
    pub async fn head(&self, call: &Call, get: &Get) -> Result<Done<Got>, Error> {
        let permit = read_permit(call, &get.bucket, &get.key, get.version)?;
        let state = self.read_view(call).await?;
        Ok(Done { revision: state.revision(), value: look(&view_of(&state), &permit, get)? })
    }

    /// Finds a version and opens its bytes. The first of them are at hand and verified when it returns.
    ///
    /// # Errors
    /// As [`Gateway::head`]; [`Error::Blobs`] when the bytes cannot be read.
    ///
    /// # Cancel safety
    /// A dropped call or body ends the read.
    pub async fn get(&self, call: &Call, get: &Get) -> Result<Done<(Got, BodyStream)>, Error> {
        let permit = read_permit(call, &get.bucket, &get.key, get.version)?;
        let mut attempt = 1;
        loop {
            match self.get_once(call, &permit, get).await {
                // The bytes moved or went between the view and the read: what is there now can be read.
                Err(error) if error.is_changed() && attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done,
            }
        }
    }

    async fn get_once(&self, call: &Call, permit: &Permit, get: &Get) -> Result<Done<(Got, BodyStream)>, Error> {
        let (revision, got, plan) = {
            let state = self.read_view(call).await?;
            let view = view_of(&state);
            let got = look(&view, permit, get)?;
            let plan = self.blobs().plan(&view, &got.found, got.range.clone())?;
            (state.revision(), got, plan)
        };
        let body = self.blobs().open(plan).await?;
        Ok(Done { revision, value: (got, body) })
    }
}

/// The permit for reading a version.
pub(super) fn read_permit(
    call: &Call,
    bucket: &BucketName,
    key: &ObjectKey,
    version: Option<VersionId>,
) -> Result<Permit, Error> {
    let action = if version.is_some() { Action::GetObjectVersion } else { Action::GetObject };
    call.permit(action, object_resource(bucket, key))
}

fn look(view: &View<'_>, permit: &Permit, get: &Get) -> Result<Got, Error> {
    let found = live(view.find(permit, get.version, None)?, get.version.is_some())?;
    let version = found.row.version.as_ref().expect("just checked");
    match decide(&get.conditions, &version.etag, found.row.modified_ms) {
        Condition::Holds => {}
        Condition::NotModified => {
            let (etag, modified_ms) = (version.etag.clone(), found.row.modified_ms);
            return Err(Error::NotModified { etag, modified_ms, revision: view.revision() });
        }
        Condition::Failed(condition) => return Err(Refusal::failed(condition).into()),
    }
    let size = version.size;
    let (range, boundary) = match get.part {
        Part::Number(number) => numbered(view.boundaries(&found)?, number, size)?,
        part => (range_of(part, size)?, None),
    };
    let partial = get.part != Part::Whole && !(size == 0 && get.part == Part::Number(1));
    Ok(Got { found, range, partial, boundary })
}

/// What was found, unless it is a delete marker.
pub(super) fn live(found: Found, named: bool) -> Result<Found, Error> {
    if found.row.version.is_some() {
        return Ok(found);
    }
    let (version, modified_ms) = (found.row.version_id(found.place), found.row.modified_ms);
    Err(Error::DeleteMarker { version, modified_ms, named })
}

/// The bytes that a range means. Source: RFC 9110, section 14.1.2.
fn range_of(part: Part, size: u64) -> Result<Range<u64>, Error> {
    match part {
        Part::Whole | Part::Number(_) => Ok(0..size),
        Part::From(first, _) if first >= size => Err(Error::RangeNotSatisfiable { size }),
        Part::From(first, last) => Ok(first..last.map_or(size, |last| size.min(last.saturating_add(1)))),
        Part::Last(length) if length == 0 || size == 0 => Err(Error::RangeNotSatisfiable { size }),
        Part::Last(length) => Ok(size - length.min(size)..size),
    }
}

/// The bytes of a part. An object that was no multipart upload is its own part 1.
fn numbered(boundaries: Vec<Boundary>, number: u16, size: u64) -> Result<(Range<u64>, Option<Boundary>), Error> {
    if boundaries.is_empty() {
        return if number == 1 { Ok((0..size, None)) } else { Err(Error::NoSuchPart { number }) };
    }
    let mut start = 0;
    for boundary in boundaries {
        let end = start + boundary.size;
        if boundary.number == number {
            return Ok((start..end, Some(boundary)));
        }
        start = end;
    }
    Err(Error::NoSuchPart { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_and_refused_as_rfc_9110_says() {
        let check = |part, size, expected: Option<Range<u64>>| {
            assert_eq!(range_of(part, size).ok(), expected, "{part:?} of {size}")
        };
        check(Part::Whole, 0, Some(0..0));
        check(Part::From(0, Some(0)), 3, Some(0..1));
        check(Part::From(1, Some(99)), 3, Some(1..3));
        check(Part::From(2, None), 3, Some(2..3));
        check(Part::From(3, None), 3, None);
        check(Part::From(0, Some(u64::MAX)), 3, Some(0..3));
        check(Part::From(0, None), 0, None);
        check(Part::Last(2), 3, Some(1..3));
        check(Part::Last(99), 3, Some(0..3));
        check(Part::Last(0), 3, None);
        check(Part::Last(1), 0, None);
    }

    #[test]
    fn parts_are_found_by_their_number() {
        let boundary = |number, size| Boundary { number, size, checksum: None };
        let parts = vec![boundary(3, 10), boundary(9, 5)];
        assert_eq!(numbered(parts.clone(), 9, 15).unwrap().0, 10..15);
        assert_eq!(numbered(parts.clone(), 3, 15).unwrap().0, 0..10);
        assert!(matches!(numbered(parts, 1, 15), Err(Error::NoSuchPart { number: 1 })));
        assert_eq!(numbered(vec![], 1, 15).unwrap(), (0..15, None));
        assert!(numbered(vec![], 2, 15).is_err());
    }
}
