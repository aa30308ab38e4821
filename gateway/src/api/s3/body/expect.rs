//! What a request promises about its body, and whether the promise was kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_core::rules::digest::value_bytes;
use http::{HeaderMap, Uri};
use s3s::TrailingHeaders;

use super::BodyError;
use crate::api::s3::digest::{
    ALGORITHMS, ChecksumAlgorithm, Digests, algorithm_header, algorithm_name, algorithm_named, algorithm_of_header,
};

/// The checksum that the client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredChecksum {
    /// Its value came in a header.
    Value(ChecksumAlgorithm, Vec<u8>),
    /// Its value comes in the trailer.
    Trailer(ChecksumAlgorithm),
    /// Only the algorithm is named (by the multipart upload the part belongs to): compute it.
    Compute(ChecksumAlgorithm),
}

impl DeclaredChecksum {
    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        match self {
            Self::Value(algorithm, _) | Self::Trailer(algorithm) | Self::Compute(algorithm) => *algorithm,
        }
    }
}

/// What a request promises about its body.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Decoded length; `None` when unknown.
    pub length: Option<u64>,
    /// Content-MD5.
    pub md5: Option<[u8; 16]>,
    /// `x-amz-content-sha256` where it is a hash.
    pub sha256: Option<[u8; 32]>,
    /// The chosen checksum.
    pub checksum: Option<DeclaredChecksum>,
    /// s3s's handle to the trailer, filled when the stream ends.
    pub trailers: Option<TrailingHeaders>,
}

impl Expectation {
    /// Reads the promises from a request as s3s hands it over (`S3Request`'s `headers`, `uri` and `trailing_headers`).
    ///
    /// Checksums that a presigned URL carries in its query count like headers.
    ///
    /// # Errors
    /// [`BodyError::InvalidDigest`], [`BodyError::InvalidChecksum`] or [`BodyError::InvalidRequest`] when a header is malformed
    /// or two of them contradict.
    pub fn from_request(headers: &HeaderMap, uri: &Uri, trailers: Option<TrailingHeaders>) -> Result<Self, BodyError> {
        let content_sha256 = header_text(headers, "x-amz-content-sha256");
        let streaming = content_sha256.is_some_and(|value| value.starts_with("STREAMING-"));
        let length_header = if streaming { "x-amz-decoded-content-length" } else { "content-length" };
        let length = match header_text(headers, length_header) {
            Some(text) => Some(text.parse().map_err(|_| BodyError::InvalidRequest("a length header is not a number"))?),
            None => None,
        };
        Ok(Self {
            length,
            md5: content_md5(headers)?,
            sha256: content_sha256.and_then(|value| hex::decode(value).ok()).and_then(|bytes| bytes.try_into().ok()),
            checksum: declared_checksum(headers, uri)?,
            trailers,
        })
    }

    /// Asks for `algorithm` where the request itself names no checksum.
    #[must_use]
    pub fn or_compute(mut self, algorithm: Option<ChecksumAlgorithm>) -> Self {
        self.checksum = self.checksum.or(algorithm.map(DeclaredChecksum::Compute));
        self
    }

    /// Compares what came with what was promised.
    pub(crate) fn verify(&self, digests: &Digests) -> Result<(), BodyError> {
        if let Some(expected) = self.length
            && expected != digests.length
        {
            return Err(BodyError::Incomplete { expected, got: digests.length });
        }
        if self.sha256.is_some_and(|sha256| sha256 != digests.sha256) {
            return Err(BodyError::Sha256Mismatch);
        }
        if self.md5.is_some_and(|md5| md5 != digests.md5) {
            return Err(BodyError::BadDigest("Content-MD5"));
        }
        self.verify_checksum(digests)
    }

    fn verify_checksum(&self, digests: &Digests) -> Result<(), BodyError> {
        let declared_trailer = match &self.checksum {
            Some(DeclaredChecksum::Trailer(algorithm)) => Some(*algorithm),
            _ => None,
        };
        let trailer = self.trailer_checksum(declared_trailer)?;
        let expected = match &self.checksum {
            Some(DeclaredChecksum::Value(algorithm, value)) => Some((*algorithm, value.clone())),
            Some(DeclaredChecksum::Trailer(algorithm)) => {
                Some((*algorithm, trailer.ok_or(BodyError::MalformedTrailer)?))
            }
            Some(DeclaredChecksum::Compute(_)) | None => None,
        };
        match expected {
            Some(expected) if digests.checksum.as_ref() != Some(&expected) => {
                Err(BodyError::BadDigest(algorithm_name(expected.0)))
            }
            _ => Ok(()),
        }
    }

    fn trailer_checksum(&self, declared: Option<ChecksumAlgorithm>) -> Result<Option<Vec<u8>>, BodyError> {
        let Some(trailers) = self.trailers.as_ref().and_then(|handle| handle.read(HeaderMap::clone)) else {
            return Ok(None);
        };
        let mut value = None;
        for (name, text) in &trailers {
            let Some(algorithm) = algorithm_of_header(name.as_str()) else { continue };
            if Some(algorithm) != declared || value.is_some() {
                return Err(BodyError::MalformedTrailer);
            }
            value = Some(checksum_value(algorithm, text.as_bytes())?);
        }
        Ok(value)
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, BodyError> {
    let Some(text) = headers.get("content-md5") else { return Ok(None) };
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| BodyError::InvalidDigest)?;
    bytes.try_into().map(Some).map_err(|_| BodyError::InvalidDigest)
}

fn checksum_value(algorithm: ChecksumAlgorithm, text: &[u8]) -> Result<Vec<u8>, BodyError> {
    let value = BASE64.decode(text).map_err(|_| BodyError::InvalidChecksum(algorithm_header(algorithm)))?;
    if value.len() == value_bytes(algorithm) {
        Ok(value)
    } else {
        Err(BodyError::InvalidChecksum(algorithm_header(algorithm)))
    }
}

fn declared_checksum(headers: &HeaderMap, uri: &Uri) -> Result<Option<DeclaredChecksum>, BodyError> {
    let mut found = Vec::new();
    for algorithm in ALGORITHMS {
        for value in headers.get_all(algorithm_header(algorithm)) {
            found.push(DeclaredChecksum::Value(algorithm, checksum_value(algorithm, value.as_bytes())?));
        }
    }
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if let Some(algorithm) = algorithm_of_header(&name) {
            found.push(DeclaredChecksum::Value(algorithm, checksum_value(algorithm, value.as_bytes())?));
        }
    }
    found.extend(declared_trailer(headers)?);
    if found.len() > 1 {
        return Err(BodyError::InvalidRequest(
            "expecting a single x-amz-checksum- header; multiple checksum types are not allowed",
        ));
    }
    let found = found.pop();
    check_sdk_algorithm(headers, found.as_ref())?;
    Ok(found)
}

fn declared_trailer(headers: &HeaderMap) -> Result<Option<DeclaredChecksum>, BodyError> {
    let Some(names) = header_text(headers, "x-amz-trailer") else { return Ok(None) };
    let mut names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let unsupported = BodyError::InvalidRequest("the value specified in the x-amz-trailer header is not supported");
    let Some(algorithm) = names.next().and_then(algorithm_of_header) else { return Err(unsupported) };
    if names.next().is_some() { Err(unsupported) } else { Ok(Some(DeclaredChecksum::Trailer(algorithm))) }
}

fn check_sdk_algorithm(headers: &HeaderMap, found: Option<&DeclaredChecksum>) -> Result<(), BodyError> {
    let Some(name) = header_text(headers, "x-amz-sdk-checksum-algorithm") else { return Ok(()) };
    let Some(algorithm) = algorithm_named(name) else {
        return Err(BodyError::InvalidChecksum("x-amz-sdk-checksum-algorithm"));
    };
    match found {
        Some(declared) if declared.algorithm() == algorithm => Ok(()),
        Some(_) => Err(BodyError::InvalidChecksum("x-amz-sdk-checksum-algorithm")),
        None => Err(BodyError::InvalidRequest(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found",
        )),
    }
}
