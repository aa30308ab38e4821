//! One call: its attempts, its limits, and what its failure means.
//!
//! All retries of the S3 backend happen here. An attempt is made again only when the failure may be temporary, after a random
//! pause (full jitter) or the one the store asked for, and never past the limits. A [`Failure`] also says how sure it is that
//! nothing took place, which a put needs for its verdict.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::{Error, chain};
use super::Bucket;

/// A call that failed for good.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    /// HTTP status of the last reply.
    pub status: Option<u16>,
    /// S3's word for the failure.
    pub code: Option<String>,
    /// The least certain of all attempts.
    pub certainty: Certainty,
    is_temporary: bool,
}

/// How sure it is that a failed attempt changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Certainty {
    /// The store refused, or was never reached.
    NotDone,
    /// The store answered that it failed; what it did before is unknown, but it is over.
    Over,
    /// No answer came: the request may still be on its way.
    Open,
}

impl Failure {
    fn timeout(action: &'static str, path: &str) -> Self {
        Failure {
            error: Error::deadline(action, path),
            status: None,
            code: None,
            certainty: Certainty::Open,
            is_temporary: true,
        }
    }

    /// Whether a condition of the request did not hold.
    pub fn is_condition(&self) -> bool {
        self.status == Some(412)
    }
}

/// Counts bytes of a body as they leave, so that a slow transfer can be told from a stalled one.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What limits an attempt.
#[derive(Clone, Copy)]
enum Patience<'a> {
    /// A fixed time for an attempt and for all together.
    Short,
    /// A time for all of it that somebody else knows; each attempt takes its share.
    Long(Duration),
    /// As long as bytes keep moving.
    WhileMoving(&'a Progress),
}

/// What is called, for messages.
struct Call<'a> {
    action: &'static str,
    path: String,
    deadline: Option<Instant>,
    patience: Patience<'a>,
}

impl Bucket {
    /// A call without a large body.
    pub(super) async fn small_call<T, E, F>(
        &self,
        action: &'static str,
        path: impl fmt::Display,
        deadline: Option<Instant>,
        send: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let call = Call { action, path: path.to_string(), deadline, patience: Patience::Short };
        self.attempts(&call, send).await
    }

    /// A call that the store needs long for, without any byte moving here.
    pub(super) async fn long_call<T, E, F>(
        &self,
        action: &'static str,
        path: impl fmt::Display,
        deadline: Option<Instant>,
        attempt: Duration,
        send: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let call = Call { action, path: path.to_string(), deadline, patience: Patience::Long(attempt) };
        self.attempts(&call, send).await
    }

    /// A call that sends a body.
    pub(super) async fn body_call<T, E, F>(
        &self,
        action: &'static str,
        path: impl fmt::Display,
        deadline: Option<Instant>,
        progress: &Progress,
        send: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let call = Call { action, path: path.to_string(), deadline, patience: Patience::WhileMoving(progress) };
        self.attempts(&call, send).await
    }

    async fn attempts<T, E, F>(&self, call: &Call<'_>, mut send: impl FnMut() -> F) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let total = match call.patience {
            Patience::Short => Some(Instant::now() + self.settings.total_timeout),
            Patience::Long(_) | Patience::WhileMoving(_) => None,
        };
        let limit = [call.deadline, total].into_iter().flatten().min();
        let mut certainty = Certainty::NotDone;
        let mut attempt = 1;
        loop {
            let mut failure = match self.attempt(call, limit, send()).await {
                Ok(output) => return Ok(output),
                Err(failure) => failure,
            };
            certainty = certainty.max(failure.certainty);
            failure.certainty = certainty;
            let resume = Instant::now() + self.pause(attempt, &failure);
            let is_over =
                !failure.is_temporary || attempt >= self.settings.tries || limit.is_some_and(|limit| resume >= limit);
            if is_over {
                return Err(failure);
            }
            tracing::debug!(
                action = call.action,
                path = call.path,
                attempt,
                error = chain(&failure.error),
                "trying again"
            );
            sleep_until(resume).await;
            attempt += 1;
        }
    }

    async fn attempt<T, E, F>(&self, call: &Call<'_>, limit: Option<Instant>, sent: F) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut sent = std::pin::pin!(sent);
        loop {
            let (patience, before) = match call.patience {
                Patience::Short => (self.settings.attempt_timeout, 0),
                Patience::Long(attempt) => (attempt, 0),
                Patience::WhileMoving(progress) => (self.settings.stall_timeout, progress.count()),
            };
            let until = Instant::now() + patience;
            let until = limit.map_or(until, |limit| limit.min(until));
            match timeout_at(until, &mut sent).await {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(error)) => return Err(classify(call.action, &call.path, error)),
                Err(_) if limit.is_some_and(|limit| limit <= Instant::now()) => {}
                Err(_) => {
                    if let Patience::WhileMoving(progress) = call.patience
                        && progress.count() > before
                    {
                        continue;
                    }
                }
            }
            return Err(Failure::timeout(call.action, &call.path));
        }
    }

    /// How long to wait after a failed attempt: what the store asked for, otherwise a random share of a doubling limit.
    fn pause(&self, attempt: u32, failure: &Failure) -> Duration {
        let settings = &self.settings;
        let asked = match &failure.error {
            Error::Busy { retry_after, .. } => *retry_after,
            _ => None,
        };
        if let Some(asked) = asked {
            return asked.min(settings.pause_max);
        }
        let limit = settings.pause_min.saturating_mul(1 << (attempt - 1).min(16)).min(settings.pause_max);
        limit.mul_f64(rand::rng().random::<f64>())
    }
}

/// Says what a failed attempt means.
fn classify<E>(action: &'static str, path: &str, error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().map(str::to_owned);
    let retry_after = error.raw_response().and_then(|response| response.headers().get("retry-after")?.parse().ok());
    let (certainty, is_temporary) = match (&error, status) {
        (SdkError::ConstructionFailure(_), _) => (Certainty::NotDone, false),
        (SdkError::DispatchFailure(_), _) if was_never_sent(&error) => (Certainty::NotDone, true),
        (_, Some(status)) if is_refusal(status, code.as_deref()) => (Certainty::NotDone, false),
        (_, Some(409 | 429)) => (Certainty::NotDone, true),
        (_, Some(507)) => (Certainty::NotDone, false),
        (_, Some(_)) => (Certainty::Over, true),
        (_, None) => (Certainty::Open, true),
    };
    let error = match status {
        None => unanswered(action, path, error),
        Some(status) => answered(action, path, status, code.as_deref(), retry_after.map(Duration::from_secs), error),
    };
    let is_temporary =
        is_temporary && !matches!(error, Error::Denied { .. } | Error::NoSpace { .. } | Error::Unsupported { .. });
    Failure { error, status, code, certainty, is_temporary }
}

/// Whether a status says that nothing happened and nothing will.
fn is_refusal(status: u16, code: Option<&str>) -> bool {
    // Slow senders get `RequestTimeout` with status 400, which is worth another try.
    (300..500).contains(&status) && !matches!(status, 408 | 409 | 429) && code != Some("RequestTimeout")
}

/// Whether the connection could not even be made.
fn was_never_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn unanswered<E>(action: &'static str, path: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let path = path.to_owned();
    // The client reports missing credentials as a failure to dispatch; only its words tell them apart.
    if chain(&error).contains("credentials") {
        return Error::Denied { action, path, source: error.into() };
    }
    Error::Unavailable { action, path, source: error.into() }
}

fn answered<E>(
    action: &'static str,
    path: &str,
    status: u16,
    code: Option<&str>,
    retry_after: Option<Duration>,
    error: SdkError<E, HttpResponse>,
) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let path = path.to_owned();
    let code = code.unwrap_or_default();
    let message = error.message().unwrap_or_default().to_owned();
    let source = error.into();
    match (status, code) {
        (_, "RequestTimeTooSkewed") => Error::ClockSkew { action, path, source },
        (507, _)
        | (_, "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "QuotaExceeded" | "InsufficientCapacity") => {
            Error::NoSpace { action, path, source }
        }
        (_, "NoSuchBucket") => Error::invalid("the bucket of the backend does not exist"),
        (404, _) => Error::NotFound { path },
        (401 | 403, _) => Error::Denied { action, path, source },
        (412, _) => Error::Changed { path },
        (405 | 501, _) => Error::Unsupported { what: format!("{action}: {code} {message}") },
        (409 | 429 | 503, _) => Error::Busy { action, path, retry_after, source },
        // Some calls answer 200 before they know, and tell the failure in the body.
        (200..=299 | 408 | 500..=599, _) | (_, "RequestTimeout") => Error::Unavailable { action, path, source },
        _ => Error::invalid(format_args!("the backend refused to {action} {path}: {status} {code} {message}")),
    }
}
