//! Between the API's words and the rules': names, times, conditions, checksums, tags. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_core::command::{Conditions, Match, SourceConditions};
use holdfast_core::id::{BucketName, KEY_BYTES_MAX, Millis, ObjectKey, UploadId, VersionId};
use holdfast_core::record::{Attributes, Checksum, ChecksumAlgorithm, ChecksumType, Headers};
use holdfast_core::rules::PARTS_MAX;
use holdfast_core::rules::digest::value_bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{ETag, ETagCondition, Owner, Range, Tag, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result};
use time::OffsetDateTime;

use super::digest::{algorithm_name, algorithm_named};
use super::error::{invalid, invalid_request, not_built};
use crate::gateway::{OWNER_ID, OWNER_NAME};
use crate::ops::get::Part;

/// Bytes of user metadata, names and values together. Source: S3 user guide, "Working with object metadata".
pub(crate) const METADATA_BYTES_MAX: usize = 2048;
/// Tags of an object. Source: S3 user guide, "Categorizing your objects using tags".
pub(crate) const OBJECT_TAGS_MAX: usize = 10;
/// Tags of a bucket. Source: S3 user guide, "Using tags with S3 general purpose buckets".
pub(crate) const BUCKET_TAGS_MAX: usize = 50;
/// Characters of a tag's key and value. Source: as above.
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;
/// Content type of an object that was stored without one.
pub(crate) const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

/// What `encoding-type=url` leaves as it is.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A bucket's name.
pub(crate) fn bucket_name(text: &str) -> S3Result<BucketName> {
    text.parse().map_err(|_| S3Error::new(S3ErrorCode::InvalidBucketName))
}

/// An object's key.
pub(crate) fn object_key(text: &str) -> S3Result<ObjectKey> {
    text.parse().map_err(|_| match text.len() {
        KEY_BYTES_MAX.. => S3Error::new(S3ErrorCode::KeyTooLongError),
        _ => invalid("The key is empty."),
    })
}

/// A version id of a request.
pub(crate) fn version_id(text: Option<&str>) -> S3Result<Option<VersionId>> {
    text.map(|text| text.parse().map_err(|_| invalid("Invalid version id specified"))).transpose()
}

/// An upload id of a request. One that this service never gave names no upload.
pub(crate) fn upload_id(text: &str) -> S3Result<UploadId> {
    text.parse().map_err(|_| S3Error::new(S3ErrorCode::NoSuchUpload))
}

/// A part number of a request.
pub(crate) fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=PARTS_MAX).contains(number))
        .ok_or_else(|| invalid("Part number must be an integer between 1 and 10000, inclusive"))
}

/// How many entries of a listing: as asked for, at most `most`, all of that when nothing is asked for.
pub(crate) fn page_limit(asked: Option<i32>, most: usize, what: &str) -> S3Result<usize> {
    match asked {
        None => Ok(most),
        Some(asked) => usize::try_from(asked)
            .map(|asked| asked.min(most))
            .map_err(|_| invalid(format!("Argument {what} must be an integer between 0 and 2147483647"))),
    }
}

/// A number that the API has as a signed one.
pub(crate) fn size(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A moment of state time.
pub(crate) fn timestamp(ms: Millis) -> Timestamp {
    Timestamp::from(crate::clock::moment(ms))
}

/// A moment as HTTP headers have it, in whole seconds.
pub(crate) fn http_date(ms: Millis) -> String {
    let mut out = Vec::new();
    timestamp(ms).format(TimestampFormat::HttpDate, &mut out).expect("a moment after 1970 has a date");
    String::from_utf8(out).expect("a date is ASCII")
}

/// A moment of a request.
pub(crate) fn millis(timestamp: Timestamp) -> Millis {
    let moment = OffsetDateTime::from(timestamp);
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// An ETag as replies have it.
pub(crate) fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

fn matches(condition: &ETagCondition) -> Vec<Match> {
    match condition {
        ETagCondition::Any => vec![Match::Any],
        // A list keeps its inner quotes.
        ETagCondition::ETag(etag) => {
            let values = etag.value().split("\",").map(|value| value.trim().trim_start_matches("W/").trim_matches('"'));
            values.map(|value| Match::Etag(value.to_owned())).collect()
        }
    }
}

/// Conditions on the key that is written.
pub(crate) fn conditions(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Conditions> {
    if if_none_match.is_some_and(|condition| !condition.is_any()) {
        return Err(not_built("If-None-Match with an ETag on a write"));
    }
    Ok(Conditions { if_match: if_match.map(matches).unwrap_or_default(), if_none_match: if_none_match.is_some() })
}

/// Conditions on the version that is read.
pub(crate) fn source_conditions(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
) -> SourceConditions {
    SourceConditions {
        if_match: if_match.map(matches).unwrap_or_default(),
        if_none_match: if_none_match.map(matches).unwrap_or_default(),
        if_modified_since_ms: if_modified_since.map(millis),
        if_unmodified_since_ms: if_unmodified_since.map(millis),
    }
}

/// A condition that came as text.
pub(crate) fn etag_condition(text: Option<&str>) -> S3Result<Option<ETagCondition>> {
    text.map(|text| text.parse().map_err(|_| invalid("A condition is not an ETag."))).transpose()
}

/// The bytes that a request asks for.
pub(crate) fn part(range: Option<Range>, number: Option<i32>) -> S3Result<Part> {
    match (range, number) {
        (Some(_), Some(_)) => Err(invalid_request("Cannot specify both Range header and partNumber query parameter")),
        (None, None) => Ok(Part::Whole),
        (None, Some(number)) => part_number(number).map(Part::Number),
        (Some(Range::Int { first, last }), None) => Ok(Part::From(first, last)),
        (Some(Range::Suffix { length }), None) => Ok(Part::Last(length)),
    }
}

/// The bytes of `x-amz-copy-source-range`, which has both ends.
pub(crate) fn copy_range(text: Option<&str>) -> S3Result<Part> {
    let Some(text) = text else { return Ok(Part::Whole) };
    match Range::parse(text) {
        Ok(Range::Int { first, last: Some(last) }) => Ok(Part::From(first, Some(last))),
        _ => Err(invalid(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy",
        )),
    }
}

/// Text of a listing, as `encoding-type=url` wants it.
pub(crate) fn url_encoded(text: &str) -> String {
    utf8_percent_encode(text, UNESCAPED).to_string()
}

/// `Content-Encoding` without the framing of the transfer.
pub(crate) fn content_encoding(text: Option<String>) -> Option<String> {
    let text = text?;
    let kept: Vec<_> = text
        .split(',')
        .map(str::trim)
        .filter(|token| !token.eq_ignore_ascii_case("aws-chunked") && !token.is_empty())
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// What a writer says of an object besides its bytes, as the fields of its request have it.
pub(crate) struct Given {
    pub headers: Headers,
    pub metadata: Option<s3s::dto::Metadata>,
    pub tagging: Option<String>,
}

impl Given {
    /// The attributes.
    pub(crate) fn attributes(self) -> S3Result<Attributes> {
        let Self { mut headers, metadata, tagging } = self;
        headers.content_encoding = content_encoding(headers.content_encoding.take());
        let metadata: BTreeMap<String, String> =
            metadata.unwrap_or_default().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > METADATA_BYTES_MAX {
            return Err(S3Error::new(S3ErrorCode::MetadataTooLarge));
        }
        Ok(Attributes { headers, metadata, tags: header_tags(tagging.as_deref())? })
    }
}

/// Gathers [`Given`] from a request that has the usual fields.
macro_rules! given {
    ($input:expr) => {
        $crate::api::s3::convert::Given {
            headers: holdfast_core::record::Headers {
                content_type: $input.content_type.take(),
                cache_control: $input.cache_control.take(),
                content_disposition: $input.content_disposition.take(),
                content_encoding: $input.content_encoding.take(),
                content_language: $input.content_language.take(),
                expires: $input.expires.take(),
            },
            metadata: $input.metadata.take(),
            tagging: $input.tagging.take(),
        }
    };
}
pub(crate) use given;

/// Tags of `x-amz-tagging`: a URL's query.
pub(crate) fn header_tags(text: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
    tags(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())), OBJECT_TAGS_MAX)
}

/// Tags of a document.
pub(crate) fn document_tags(set: Vec<Tag>, most: usize) -> S3Result<BTreeMap<String, String>> {
    tags(set.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())), most)
}

fn tags(pairs: impl Iterator<Item = (String, String)>, most: usize) -> S3Result<BTreeMap<String, String>> {
    let refuse = |message: &str| Err(S3Error::with_message(S3ErrorCode::InvalidTag, message.to_owned()));
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        let key_chars = key.chars().count();
        if key_chars == 0 || key_chars > TAG_KEY_CHARS_MAX || !key.chars().all(is_tag_char) {
            return refuse("The TagKey you have provided is invalid");
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX || !value.chars().all(is_tag_char) {
            return refuse("The TagValue you have provided is invalid");
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return refuse("System tags cannot be added/updated by requester");
        }
        if tags.insert(key, value).is_some() {
            return refuse("Cannot provide multiple Tags with the same key");
        }
    }
    if tags.len() > most {
        let what = if most == OBJECT_TAGS_MAX { "Object" } else { "Bucket" };
        let message = format!("{what} tags cannot be greater than {most}");
        let mut error = S3Error::with_message(S3ErrorCode::Custom("BadRequest".into()), message);
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        return Err(error);
    }
    Ok(tags)
}

/// Letters, digits and white space of any script, and `+ - = . _ : / @`.
fn is_tag_char(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c)
}

/// Tags as documents have them.
pub(crate) fn tag_set(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// Whose everything is.
pub(crate) fn owner() -> Owner {
    Owner { display_name: Some(OWNER_NAME.to_owned()), id: Some(OWNER_ID.to_owned()) }
}

/// A checksum algorithm of a request.
pub(crate) fn algorithm(name: Option<&s3s::dto::ChecksumAlgorithm>) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(name) = name else { return Ok(None) };
    let named = algorithm_named(name.as_str());
    named.map(Some).ok_or_else(|| {
        invalid_request("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

/// A checksum algorithm of a reply.
pub(crate) fn algorithm_out(algorithm: ChecksumAlgorithm) -> s3s::dto::ChecksumAlgorithm {
    s3s::dto::ChecksumAlgorithm::from_static(algorithm_name(algorithm))
}

/// A checksum type of a request.
pub(crate) fn checksum_type(name: Option<&s3s::dto::ChecksumType>) -> S3Result<Option<ChecksumType>> {
    match name.map(s3s::dto::ChecksumType::as_str) {
        None => Ok(None),
        Some(s3s::dto::ChecksumType::COMPOSITE) => Ok(Some(ChecksumType::Composite)),
        Some(s3s::dto::ChecksumType::FULL_OBJECT) => Ok(Some(ChecksumType::FullObject)),
        Some(_) => Err(invalid_request("Value for x-amz-checksum-type header is invalid.")),
    }
}

/// A checksum type of a reply.
pub(crate) fn checksum_type_out(kind: ChecksumType) -> s3s::dto::ChecksumType {
    s3s::dto::ChecksumType::from_static(match kind {
        ChecksumType::Composite => s3s::dto::ChecksumType::COMPOSITE,
        ChecksumType::FullObject => s3s::dto::ChecksumType::FULL_OBJECT,
    })
}

/// A checksum as replies show it. That of a composite one ends in the number of parts, which its ETag knows.
pub(crate) fn checksum_text(checksum: &Checksum, etag: &str) -> String {
    let value = BASE64.encode(&checksum.value);
    match (checksum.kind, etag.rsplit_once('-')) {
        (ChecksumType::Composite, Some((_, parts))) => format!("{value}-{parts}"),
        _ => value,
    }
}

/// A checksum's value of a request, with or without the number of parts.
pub(crate) fn checksum(algorithm: ChecksumAlgorithm, text: &str) -> S3Result<Checksum> {
    let (text, kind) = match text.split_once('-') {
        Some((text, parts)) if parts.parse::<u16>().is_ok() => (text, ChecksumType::Composite),
        _ => (text, ChecksumType::FullObject),
    };
    let value = BASE64.decode(text).ok().filter(|value| value.len() == value_bytes(algorithm));
    let name = algorithm_name(algorithm).to_lowercase();
    let value = value.ok_or_else(|| invalid_request(format!("Value for x-amz-checksum-{name} header is invalid.")))?;
    Ok(Checksum { algorithm, kind, value })
}

/// The one checksum among the fields of a request or a part, if any.
macro_rules! checksum_of {
    ($input:expr) => {
        $crate::api::s3::convert::one_checksum([
            (holdfast_core::record::ChecksumAlgorithm::Crc32, $input.checksum_crc32.as_deref()),
            (holdfast_core::record::ChecksumAlgorithm::Crc32c, $input.checksum_crc32c.as_deref()),
            (holdfast_core::record::ChecksumAlgorithm::Crc64Nvme, $input.checksum_crc64nvme.as_deref()),
            (holdfast_core::record::ChecksumAlgorithm::Sha1, $input.checksum_sha1.as_deref()),
            (holdfast_core::record::ChecksumAlgorithm::Sha256, $input.checksum_sha256.as_deref()),
        ])
    };
}
pub(crate) use checksum_of;

/// See [`checksum_of`].
pub(crate) fn one_checksum(fields: [(ChecksumAlgorithm, Option<&str>); 5]) -> S3Result<Option<Checksum>> {
    let mut given = fields.into_iter().filter_map(|(algorithm, text)| text.map(|text| (algorithm, text)));
    let Some((algorithm, text)) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(invalid_request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        ));
    }
    checksum(algorithm, text).map(Some)
}

/// Sets the field of a reply that has the checksum's algorithm.
macro_rules! set_checksum {
    ($output:expr, $algorithm:expr, $text:expr) => {
        match $algorithm {
            holdfast_core::record::ChecksumAlgorithm::Crc32 => $output.checksum_crc32 = Some($text),
            holdfast_core::record::ChecksumAlgorithm::Crc32c => $output.checksum_crc32c = Some($text),
            holdfast_core::record::ChecksumAlgorithm::Crc64Nvme => $output.checksum_crc64nvme = Some($text),
            holdfast_core::record::ChecksumAlgorithm::Sha1 => $output.checksum_sha1 = Some($text),
            holdfast_core::record::ChecksumAlgorithm::Sha256 => $output.checksum_sha256 = Some($text),
        }
    };
}
pub(crate) use set_checksum;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunked_is_framing_and_not_encoding() {
        let check = |given: &str, kept: Option<&str>| {
            assert_eq!(content_encoding(Some(given.to_owned())).as_deref(), kept, "{given}");
        };
        check("aws-chunked", None);
        check("gzip", Some("gzip"));
        check("aws-chunked,gzip", Some("gzip"));
        check("gzip, AWS-chunked , br", Some("gzip,br"));
        check("", None);
        assert_eq!(content_encoding(None), None);
    }

    #[test]
    fn listings_are_encoded_so_that_every_decoder_reads_them_back() {
        assert_eq!(url_encoded("a/b c+d%e"), "a/b%20c%2Bd%25e");
        assert_eq!(url_encoded("test_file(3).png"), "test_file%283%29.png");
        assert_eq!(url_encoded("ü\u{1}"), "%C3%BC%01");
    }

    #[test]
    fn times_count_in_whole_seconds_where_http_has_no_more() {
        let ms = 1_445_412_480_678;
        assert_eq!(http_date(ms), "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(millis(timestamp(ms)), ms);
    }

    #[test]
    fn tags_have_limits() {
        let check = |text: &str, code: Option<&str>| {
            let error = header_tags(Some(text)).err().map(|error| error.code().as_str().to_owned());
            assert_eq!(error.as_deref(), code, "{text}");
        };
        check("", None);
        check("a=1&b=two%20words&%C3%BC=", None);
        check("a=1&a=2", Some("InvalidTag"));
        check("=1", Some("InvalidTag"));
        check("aws:x=1", Some("InvalidTag"));
        check("a=%7B", Some("InvalidTag"));
        check(&format!("{}=1", "k".repeat(128)), None);
        check(&format!("{}=1", "k".repeat(129)), Some("InvalidTag"));
        check(&format!("k={}", "v".repeat(256)), None);
        check(&format!("k={}", "v".repeat(257)), Some("InvalidTag"));
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join("&");
        check(&many(10), None);
        check(&many(11), Some("BadRequest"));
    }

    #[test]
    fn checksums_come_and_go_with_their_number_of_parts() {
        let composite = checksum(ChecksumAlgorithm::Crc32, "AAAAAQ==-3").unwrap();
        assert_eq!((composite.kind, composite.value.as_slice()), (ChecksumType::Composite, [0, 0, 0, 1].as_slice()));
        assert_eq!(checksum_text(&composite, "0123-3"), "AAAAAQ==-3");
        let whole = checksum(ChecksumAlgorithm::Crc32, "AAAAAQ==").unwrap();
        assert_eq!(checksum_text(&whole, "0123-3"), "AAAAAQ==");
        assert!(checksum(ChecksumAlgorithm::Sha256, "AAAAAQ==").is_err());
        assert!(checksum(ChecksumAlgorithm::Crc32, "AAAA").is_err());
        let two = [
            (ChecksumAlgorithm::Crc32, Some("AAAAAQ==")),
            (ChecksumAlgorithm::Crc32c, Some("AAAAAQ==")),
            (ChecksumAlgorithm::Crc64Nvme, None),
            (ChecksumAlgorithm::Sha1, None),
            (ChecksumAlgorithm::Sha256, None),
        ];
        assert!(one_checksum(two).is_err());
    }

    #[test]
    fn conditions_take_one_etag_or_a_list() {
        let parse = |text: &str| matches(&text.parse().unwrap());
        let etag = |value: &str| Match::Etag(value.to_owned());
        assert_eq!(parse("*"), [Match::Any]);
        assert_eq!(parse("\"a\""), [etag("a")]);
        assert_eq!(parse("abc"), [etag("abc")]);
        assert_eq!(parse("\"a\", \"b\""), [etag("a"), etag("b")]);
        assert_eq!(parse("\"a\", W/\"b\""), [etag("a"), etag("b")]);
        assert!(conditions(None, Some(&"\"a\"".parse().unwrap())).is_err());
    }

    #[test]
    fn limits_are_clamped_and_never_negative() {
        let check =
            |asked, expected: Option<usize>| assert_eq!(page_limit(asked, 1000, "maxKeys").ok(), expected, "{asked:?}");
        check(None, Some(1000));
        check(Some(0), Some(0));
        check(Some(7), Some(7));
        check(Some(5000), Some(1000));
        check(Some(-1), None);
    }

    #[test]
    fn a_copied_range_has_both_ends() {
        assert_eq!(copy_range(Some("bytes=0-9")).unwrap(), Part::From(0, Some(9)));
        assert_eq!(copy_range(None).unwrap(), Part::Whole);
        for bad in ["bytes=0-", "bytes=-5", "0-9", "bytes=9-0", "bytes=a-b", "bytes=0-1,3-4"] {
            assert!(copy_range(Some(bad)).is_err(), "{bad}");
        }
    }
}
