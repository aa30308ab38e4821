//! Logs and metrics of the process.
//!
//! Logs go to standard error: text on a terminal, one JSON object a line otherwise. Lines of a request carry `request_id`, the
//! id that the client got. Metrics are named `holdfast_<area>_<what>_<unit>`; each area registers its own here.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is not said unless the filter asks for it: s3s logs each refusal as an error, and the access log says it better;
/// consensus and engine tell of each step of their work.
const QUIET: [&str; 10] = [
    "s3s=off",
    "hyper=warn",
    "openraft=warn",
    "fjall=warn",
    "lsm_tree=warn",
    "async_nats=error",
    "lapin=off",
    "rumqttc=off",
    "rskafka=off",
    "redis=off",
];

/// Starts logging with a level or filter such as `info,holdfast::access=debug`.
///
/// # Errors
/// When the filter does not parse.
pub fn init(filter: &str) -> Result<(), ParseError> {
    let filter = parse(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first one's subscriber.
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init().is_ok()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init().is_ok()
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "a task panicked");
    }));
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    let quiet = QUIET.iter().filter(|directive| {
        let target = directive.split('=').next().unwrap_or_default();
        !filter.contains(&format!("{target}=")) && !filter.contains(&format!("{target}::"))
    });
    let text = quiet.copied().chain([filter]).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(text)
}

/// The process's metrics.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Registry>);

impl Metrics {
    /// Lets an area register its own.
    pub fn register(&self, area: impl FnOnce(&mut Registry)) {
        area(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The page of `/_holdfast/metrics`, in the OpenMetrics text format.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.0.lock().unwrap_or_else(PoisonError::into_inner))
            .expect("writing to memory does not fail");
        page
    }
}

/// The content type of [`Metrics::page`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::gate::metrics::HttpMetrics;

    #[test]
    fn filters_are_read_and_libraries_kept_quiet() {
        assert!(parse("info").unwrap().to_string().contains("s3s=off"));
        assert!(!parse("info,s3s=debug").unwrap().to_string().contains("s3s=off"));
        assert!(parse("holdfast=loud").is_err());
    }

    #[test]
    fn the_page_is_complete() {
        let metrics = Metrics::default();
        let http = HttpMetrics::default();
        metrics.register(|registry| http.register(registry));
        http.rejected("auth");
        let page = metrics.page();
        assert!(page.contains("holdfast_http_rejected_total{reason=\"auth\"} 1\n"), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}
