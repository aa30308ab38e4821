//! The `--backend` setting: which store, where, with which credentials.
//!
//! `file:DIR` or `s3://bucket/prefix?endpoint=URL&region=R&path_style=true`. Credentials never stand in the URL, so it can be
//! logged and shown. Anything misspelt is refused with the piece that is wrong; nothing is ignored.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ::url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::error::Result;
use super::path::check_name;
use super::{Backend, local, s3};

/// Longest repository prefix in bytes, so that prefix, slash and blob name fit into an S3 key.
const PREFIX_BYTES_MAX: usize = 120;
/// Region that is signed for when none is given; the one all S3 stores accept by default.
const REGION_DEFAULT: &str = "us-east-1";
const ENV_ACCESS_KEY_ID: &str = "HOLDFAST_BACKEND_ACCESS_KEY_ID";
const ENV_SECRET_ACCESS_KEY: &str = "HOLDFAST_BACKEND_SECRET_ACCESS_KEY";

/// Where blobs live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendUrl {
    /// A directory on this machine.
    File {
        /// The directory, absolute or relative to the working directory.
        directory: PathBuf,
    },
    /// A bucket, or a part of one, in an S3 store.
    S3(S3Url),
}

/// A bucket, or a part of one, in an S3 store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket.
    pub bucket: String,
    /// The repository's prefix in it, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The store's address; AWS when absent.
    pub endpoint: Option<String>,
    /// The region to sign for.
    pub region: String,
    /// Whether the bucket stands in the path rather than in the host name.
    pub path_style: bool,
}

/// Why a `--backend` value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `file:` nor `s3://`.
    #[error("backend {value:?} must be file:DIR or s3://BUCKET/PREFIX?endpoint=URL&region=REGION&path_style=true")]
    Scheme {
        /// What was given.
        value: String,
    },
    /// `file:` without a directory, or with one on another machine.
    #[error("backend {value:?} {problem}")]
    Directory {
        /// What was given.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A bucket name that S3 does not allow.
    #[error("bucket {bucket:?} in the backend {problem}")]
    Bucket {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A prefix that cannot be part of blob names.
    #[error("prefix {prefix:?} in the backend {problem}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Credentials in the URL would end up in logs.
    #[error("the backend contains credentials; give them as {ENV_ACCESS_KEY_ID} and {ENV_SECRET_ACCESS_KEY} instead")]
    CredentialsInUrl,
    /// A parameter that does not exist.
    #[error("the backend has an unknown parameter {name:?}; known are endpoint, region and path_style")]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A parameter given twice.
    #[error("the backend has the parameter {name:?} twice")]
    RepeatedParameter {
        /// Its name.
        name: String,
    },
    /// A parameter with a value that makes no sense.
    #[error("parameter {name} of the backend has the value {value:?}, {expected}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl FromStr for BackendUrl {
    type Err = UrlError;

    fn from_str(value: &str) -> std::result::Result<Self, UrlError> {
        if let Some(directory) = value.strip_prefix("file:") {
            return parse_file(value, directory);
        }
        match value.strip_prefix("s3://") {
            Some(rest) => parse_s3(rest).map(BackendUrl::S3),
            None => Err(UrlError::Scheme { value: value.into() }),
        }
    }
}

fn parse_file(value: &str, directory: &str) -> std::result::Result<BackendUrl, UrlError> {
    let refuse = |problem| Err(UrlError::Directory { value: value.into(), problem });
    let directory = match directory.strip_prefix("//") {
        None => directory,
        // file:///absolute/path has an empty host.
        Some(path) if path.starts_with('/') => path,
        Some(_) => return refuse("names a host; write file:DIR or file:///DIR"),
    };
    if directory.is_empty() {
        return refuse("names no directory");
    }
    Ok(BackendUrl::File { directory: PathBuf::from(directory) })
}

fn parse_s3(rest: &str) -> std::result::Result<S3Url, UrlError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains('@') {
        return Err(UrlError::CredentialsInUrl);
    }
    check_bucket(bucket).map_err(|problem| UrlError::Bucket { bucket: bucket.into(), problem })?;
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    check_prefix(prefix).map_err(|problem| UrlError::Prefix { prefix: prefix.into(), problem })?;
    let mut url = S3Url {
        bucket: bucket.into(),
        prefix: prefix.into(),
        endpoint: None,
        region: REGION_DEFAULT.into(),
        path_style: false,
    };
    let mut seen: Vec<String> = Vec::new();
    let mut path_style = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if seen.iter().any(|other| *other == name) {
            return Err(UrlError::RepeatedParameter { name: name.into() });
        }
        match &*name {
            "endpoint" => url.endpoint = Some(parse_endpoint(&value)?),
            "region" => url.region = parse_region(&value)?,
            "path_style" => path_style = Some(parse_bool(&value)?),
            _ => return Err(UrlError::UnknownParameter { name: name.into() }),
        }
        seen.push(name.into());
    }
    // Stores with an address of their own rarely have a wildcard DNS name; AWS wants the bucket in the host.
    url.path_style = path_style.unwrap_or(url.endpoint.is_some());
    Ok(url)
}

fn check_bucket(bucket: &str) -> std::result::Result<(), &'static str> {
    if bucket.is_empty() {
        return Err("is missing");
    }
    if !(3..=63).contains(&bucket.len()) {
        return Err("is not 3 to 63 characters long");
    }
    if !bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
        return Err("has other characters than a-z, 0-9, '-' and '.'");
    }
    let is_edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    if !is_edge(bucket.bytes().next()) || !is_edge(bucket.bytes().last()) || bucket.contains("..") {
        return Err("must begin and end with a letter or digit and have no two dots in a row");
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> std::result::Result<(), &'static str> {
    if prefix.is_empty() {
        return Ok(());
    }
    if prefix.len() > PREFIX_BYTES_MAX {
        return Err("is longer than 120 bytes");
    }
    check_name(prefix)
}

fn parse_endpoint(value: &str) -> std::result::Result<String, UrlError> {
    let refuse = |expected| UrlError::Parameter { name: "endpoint", value: value.into(), expected };
    let url = Url::parse(value).map_err(|_| refuse("expected http://HOST[:PORT] or https://HOST[:PORT]"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::CredentialsInUrl);
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("expected http://HOST[:PORT] or https://HOST[:PORT]"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("expected no query in it (percent-encode '&' and '?' inside of a value)"));
    }
    Ok(value.trim_end_matches('/').into())
}

fn parse_region(value: &str) -> std::result::Result<String, UrlError> {
    let is_fine = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_fine {
        return Ok(value.into());
    }
    Err(UrlError::Parameter { name: "region", value: value.into(), expected: "expected a name like us-east-1" })
}

fn parse_bool(value: &str) -> std::result::Result<bool, UrlError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(UrlError::Parameter { name: "path_style", value: value.into(), expected: "expected true or false" }),
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendUrl::File { directory } => write!(f, "file:{}", directory.display()),
            BackendUrl::S3(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(endpoint) = &self.endpoint {
            query.append_pair("endpoint", endpoint);
        }
        query.append_pair("region", &self.region);
        query.append_pair("path_style", if self.path_style { "true" } else { "false" });
        write!(f, "?{}", query.finish())
    }
}

/// How to sign requests to the backend.
#[derive(Clone, Default)]
pub enum Credentials {
    /// The AWS chain: environment, profile files, container and instance roles.
    #[default]
    Chain,
    /// One fixed pair.
    Fixed {
        /// The public half.
        access_key_id: String,
        /// The secret half.
        secret_access_key: Zeroizing<String>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Chain => f.write_str("Chain"),
            Credentials::Fixed { access_key_id, .. } => {
                f.debug_struct("Fixed").field("access_key_id", access_key_id).finish_non_exhaustive()
            }
        }
    }
}

/// Half of a pair of credentials is set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{present} is set and {absent} is not; set both or none")]
pub struct CredentialsError {
    present: &'static str,
    absent: &'static str,
}

impl Credentials {
    /// Reads `HOLDFAST_BACKEND_ACCESS_KEY_ID` and `HOLDFAST_BACKEND_SECRET_ACCESS_KEY`; the AWS chain when both are unset.
    pub fn from_env() -> std::result::Result<Self, CredentialsError> {
        let read = |name| env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_pair(read(ENV_ACCESS_KEY_ID), read(ENV_SECRET_ACCESS_KEY))
    }

    /// Takes both halves, or neither for the AWS chain.
    pub fn from_pair(id: Option<String>, secret: Option<String>) -> std::result::Result<Self, CredentialsError> {
        match (id, secret) {
            (None, None) => Ok(Credentials::Chain),
            (Some(access_key_id), Some(secret)) => {
                Ok(Credentials::Fixed { access_key_id, secret_access_key: Zeroizing::new(secret) })
            }
            (Some(_), None) => Err(CredentialsError { present: ENV_ACCESS_KEY_ID, absent: ENV_SECRET_ACCESS_KEY }),
            (None, Some(_)) => Err(CredentialsError { present: ENV_SECRET_ACCESS_KEY, absent: ENV_ACCESS_KEY_ID }),
        }
    }
}

/// Opens the store that a URL names. A missing directory is created; a missing bucket is not, and is not noticed here: see
/// [`crate::doctor::check_backend`].
pub async fn open(url: &BackendUrl, credentials: Credentials) -> Result<Arc<dyn Backend>> {
    Ok(match url {
        BackendUrl::File { directory } => Arc::new(local::Local::open(directory).await?),
        BackendUrl::S3(url) => Arc::new(s3::S3::open(url, credentials, s3::Settings::default()).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> std::result::Result<BackendUrl, String> {
        value.parse::<BackendUrl>().map_err(|error| error.to_string())
    }

    #[test]
    fn urls_survive_a_round_trip() {
        for value in [
            "file:store",
            "file:/var/lib/holdfast/store",
            "s3://photos?region=us-east-1&path_style=false",
            "s3://photos/a/b?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu-west-1&path_style=true",
        ] {
            assert_eq!(parse(value).expect("valid").to_string(), value);
        }
        assert_eq!(parse("file:///srv/x").expect("valid").to_string(), "file:/srv/x");
    }

    #[test]
    fn an_endpoint_means_path_style_unless_told_otherwise() {
        let BackendUrl::S3(url) = parse("s3://photos/p/?endpoint=http://h:9000/").expect("valid") else {
            panic!("not s3")
        };
        assert_eq!((url.endpoint.as_deref(), url.path_style, &*url.prefix), (Some("http://h:9000"), true, "p"));
        let BackendUrl::S3(url) = parse("s3://photos?endpoint=http://h&path_style=false").expect("valid") else {
            panic!()
        };
        assert!(!url.path_style);
    }

    #[test]
    fn mistakes_are_named() {
        for (value, expected) in [
            ("/var/lib", "backend \"/var/lib\" must be file:DIR or s3://"),
            ("gs://x", "must be file:DIR"),
            ("file:", "names no directory"),
            ("file://host/x", "names a host"),
            ("s3://", "bucket \"\" in the backend is missing"),
            ("s3://ab", "is not 3 to 63 characters long"),
            ("s3://Photos", "other characters than a-z"),
            ("s3://-photos", "must begin and end with a letter or digit"),
            ("s3://key:secret@photos", "contains credentials"),
            ("s3://photos/a//b", "has an empty segment"),
            ("s3://photos/../b", "has a dot segment"),
            ("s3://photos?endpoit=x", "unknown parameter \"endpoit\""),
            ("s3://photos?region=a&region=b", "parameter \"region\" twice"),
            ("s3://photos?endpoint=127.0.0.1:9000", "expected http://HOST[:PORT]"),
            ("s3://photos?endpoint=ftp://x", "expected http://HOST[:PORT]"),
            ("s3://photos?endpoint=http://u:p@h", "contains credentials"),
            ("s3://photos?path_style=yes", "expected true or false"),
            ("s3://photos?region=", "expected a name like us-east-1"),
        ] {
            let error = parse(value).expect_err(value);
            assert!(error.contains(expected), "{value}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::from_pair(Some("id".into()), Some("hush".into())).expect("both");
        assert!(!format!("{credentials:?}").contains("hush"));
        let error = Credentials::from_pair(Some("id".into()), None).expect_err("half");
        assert!(error.to_string().contains("HOLDFAST_BACKEND_SECRET_ACCESS_KEY is not"));
    }
}
