//! ListObjects, ListObjectsV2, ListObjectVersions.

use holdfast_core::id::Revision;
use holdfast_core::list::{Entry, ListedVersion, Page, Query};
use holdfast_core::record::{ChecksumAlgorithm, ChecksumType, NameRow};
use holdfast_query::filter::Filter;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::convert::*;
use super::error::invalid;
use super::service::{S3Api, call_of, refuse, reply};
use super::token::Token;
use crate::ops::Done;
use crate::ops::list::PAGE_ENTRIES_MAX;

/// How the text of a listing is written: keys may hold what XML cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    pub(super) fn parse(given: Option<&EncodingType>) -> S3Result<Self> {
        match given.map(EncodingType::as_str) {
            None | Some("") => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(invalid("Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn text(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => url_encoded(text),
        }
    }
}

/// Keys and common prefixes of a page, encoded.
struct Rendered {
    contents: Option<Vec<Object>>,
    prefixes: Option<Vec<CommonPrefix>>,
    count: i32,
    /// The last entry, as it is.
    last: Option<String>,
    truncated: bool,
    revision: Revision,
}

fn render(page: Page<NameRow>, encoding: Encoding, with_owner: bool) -> Rendered {
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    let count = i32::try_from(page.entries.len()).unwrap_or(i32::MAX);
    let last = page.entries.last().map(|entry| entry.marker().to_owned());
    for entry in page.entries {
        match entry {
            Entry::Item(key, row) => contents.push(object(encoding.text(&key), row, with_owner)),
            Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.text(&prefix)) }),
        }
    }
    Rendered {
        contents: (!contents.is_empty()).then_some(contents),
        prefixes: (!prefixes.is_empty()).then_some(prefixes),
        count,
        last,
        truncated: page.truncated,
        revision: page.revision,
    }
}

fn object(key: String, row: NameRow, with_owner: bool) -> Object {
    Object {
        checksum_algorithm: Some(vec![algorithm_out(row.checksum)]),
        checksum_type: Some(checksum_type_out(row.checksum_type)),
        e_tag: Some(ETag::Strong(row.etag)),
        key: Some(key),
        last_modified: Some(timestamp(row.modified_ms)),
        owner: with_owner.then(owner),
        restore_status: None,
        size: Some(size(row.size)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
    }
}

/// `holdfast-where`: which objects are listed, by what is known of them.
fn filter_of(query: &str) -> S3Result<Option<Filter>> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, text)) = pairs.find(|(name, _)| name == "holdfast-where") else { return Ok(None) };
    Filter::parse(&text).map(Some).map_err(|error| invalid(format!("holdfast-where: {error}")))
}

pub(super) async fn list_objects_v2(
    api: &S3Api,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let call = call_of(&req)?;
    let filter = filter_of(req.uri.query().unwrap_or_default())?;
    let input = req.input;
    let bucket = bucket_name(&input.bucket)?;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let limit = page_limit(input.max_keys, PAGE_ENTRIES_MAX, "maxKeys")?;
    let incorrect = || invalid("The continuation token provided is incorrect");
    let token = match &input.continuation_token {
        None => None,
        Some(text) => Some(Token::decode(text).ok_or_else(incorrect)?),
    };
    let at = token.as_ref().map(|token| token.revision);
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: token.map(|token| token.after).or_else(|| input.start_after.clone()).unwrap_or_default(),
        limit,
    };
    let (revision, listed, more_after) = match filter {
        None => {
            let Done { revision, value } = api.gateway.list(&call, &bucket, query, at).await.map_err(refuse(&call))?;
            (revision, value, None)
        }
        Some(_) if query.delimiter.is_some() => return Err(invalid("A filtered listing has no delimiter")),
        Some(filter) => {
            let listed = api.gateway.list_where(&call, &bucket, query, at, filter).await;
            let Done { revision, value } = listed.map_err(refuse(&call))?;
            (revision, value.page, value.more_after)
        }
    };
    let mut page = render(listed, encoding, input.fetch_owner.unwrap_or(false));
    // A filtered page may end behind its last entry.
    page.last = more_after.or(page.last);
    let next = page.last.filter(|_| page.truncated).map(|after| Token { revision: page.revision, after }.encode());
    let output = ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.text(&input.prefix.unwrap_or_default())),
        max_keys: i32::try_from(limit).ok(),
        key_count: Some(page.count),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.truncated),
        next_continuation_token: next,
        contents: page.contents,
        common_prefixes: page.prefixes,
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|text| encoding.text(&text)),
        ..ListObjectsV2Output::default()
    };
    Ok(reply(revision, output))
}

pub(super) async fn list_objects(
    api: &S3Api,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let bucket = bucket_name(&input.bucket)?;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let limit = page_limit(input.max_keys, PAGE_ENTRIES_MAX, "maxKeys")?;
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: input.marker.clone().unwrap_or_default(),
        limit,
    };
    let with_delimiter = query.delimiter.is_some();
    let Done { revision, value } = api.gateway.list(&call, &bucket, query, None).await.map_err(refuse(&call))?;
    let page = render(value, encoding, true);
    // Without a delimiter the last key is the marker, and AWS names none.
    let next = page.last.filter(|_| page.truncated && with_delimiter).map(|last| encoding.text(&last));
    let output = ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.text(&input.prefix.unwrap_or_default())),
        marker: Some(encoding.text(&input.marker.unwrap_or_default())),
        max_keys: i32::try_from(limit).ok(),
        is_truncated: Some(page.truncated),
        contents: page.contents,
        common_prefixes: page.prefixes,
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        next_marker: next,
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    };
    Ok(reply(revision, output))
}

pub(super) async fn list_object_versions(
    api: &S3Api,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let bucket = bucket_name(&input.bucket)?;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let limit = page_limit(input.max_keys, PAGE_ENTRIES_MAX, "maxKeys")?;
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: input.key_marker.clone().unwrap_or_default(),
        limit,
    };
    let marker = version_id(input.version_id_marker.as_deref().filter(|marker| !marker.is_empty()))?;
    let listed = api.gateway.list_versions(&call, &bucket, query, marker).await;
    let Done { revision, value: page } = listed.map_err(refuse(&call))?;
    let last = page.entries.last().map(|entry| encoding.text(entry.marker()));
    let last_version = match page.entries.last() {
        Some(Entry::Item(_, version)) => Some(version.version_id().to_string()),
        Some(Entry::Prefix(_)) | None => None,
    };
    let truncated = page.truncated;
    let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            Entry::Item(key, listed) if listed.row.version.is_some() => {
                versions.push(version(encoding.text(&key), listed))
            }
            Entry::Item(key, listed) => markers.push(delete_marker(encoding.text(&key), &listed)),
            Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.text(&prefix)) }),
        }
    }
    let output = ListObjectVersionsOutput {
        common_prefixes: (!prefixes.is_empty()).then_some(prefixes),
        delete_markers: (!markers.is_empty()).then_some(markers),
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: Some(encoding.text(&input.key_marker.unwrap_or_default())),
        max_keys: i32::try_from(limit).ok(),
        name: Some(input.bucket),
        next_key_marker: last.filter(|_| truncated),
        next_version_id_marker: last_version.filter(|_| truncated),
        prefix: Some(encoding.text(&input.prefix.unwrap_or_default())),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: (!versions.is_empty()).then_some(versions),
        ..ListObjectVersionsOutput::default()
    };
    Ok(reply(revision, output))
}

fn version(key: String, listed: ListedVersion) -> ObjectVersion {
    let id = listed.version_id().to_string();
    let version = listed.row.version.as_ref();
    let checksum = version.and_then(|version| version.checksum.as_ref());
    let (algorithm, kind) =
        checksum.map_or((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject), |sum| (sum.algorithm, sum.kind));
    ObjectVersion {
        checksum_algorithm: Some(vec![algorithm_out(algorithm)]),
        checksum_type: Some(checksum_type_out(kind)),
        e_tag: version.map(|version| etag(&version.etag)),
        is_latest: Some(listed.is_latest),
        key: Some(key),
        last_modified: Some(timestamp(listed.row.modified_ms)),
        owner: Some(owner()),
        restore_status: None,
        size: Some(size(listed.row.size())),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        version_id: Some(id),
    }
}

fn delete_marker(key: String, listed: &ListedVersion) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(listed.is_latest),
        key: Some(key),
        last_modified: Some(timestamp(listed.row.modified_ms)),
        owner: Some(owner()),
        version_id: Some(listed.version_id().to_string()),
    }
}
