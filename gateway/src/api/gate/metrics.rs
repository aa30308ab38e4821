//! What the S3 listener did, counted.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets, in seconds.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Labels of a finished request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    api: &'static str,
    code: u16,
}

/// Label of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabel {
    api: &'static str,
}

/// Label of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// The metrics of the gate and the listener. Clones share their values.
#[derive(Clone, Debug)]
pub struct HttpMetrics(Arc<Values>);

#[derive(Debug)]
struct Values {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<ApiLabel, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    received: Counter,
    sent: Counter,
    connections: Gauge,
    rejected: Family<ReasonLabel, Counter>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self(Arc::new(Values {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            rejected: Family::default(),
        }))
    }
}

impl HttpMetrics {
    /// Adds them to a registry, under `holdfast_http_`.
    pub fn register(&self, registry: &mut Registry) {
        let values = &self.0;
        let registry = registry.sub_registry_with_prefix("holdfast_http");
        registry.register("requests", "Requests answered, by operation and status", values.requests.clone());
        registry.register(
            "request_seconds",
            "Time from the request's head to the reply's last byte",
            values.seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests being answered", values.in_flight.clone());
        registry.register("received_bytes", "Bytes of request bodies", values.received.clone());
        registry.register("sent_bytes", "Bytes of reply bodies", values.sent.clone());
        registry.register("connections", "Open connections", values.connections.clone());
        registry.register(
            "rejected",
            "Requests and connections refused before routing, by reason",
            values.rejected.clone(),
        );
    }

    pub(super) fn begun(&self) {
        self.0.in_flight.inc();
    }

    pub(super) fn ended(&self, api: &'static str, code: u16, seconds: f64, received: u64, sent: u64) {
        let values = &self.0;
        values.in_flight.dec();
        values.requests.get_or_create(&RequestLabels { api, code }).inc();
        values.seconds.get_or_create(&ApiLabel { api }).observe(seconds);
        values.received.inc_by(received);
        values.sent.inc_by(sent);
    }

    /// A request or connection was refused.
    pub fn rejected(&self, reason: &'static str) {
        self.0.rejected.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A connection opened; it closes when the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> ConnectionGuard {
        self.0.connections.inc();
        ConnectionGuard(self.clone())
    }

    /// Open connections.
    #[must_use]
    pub fn open_connections(&self) -> i64 {
        self.0.connections.get()
    }
}

/// Counts a connection as long as it lives.
#[derive(Debug)]
pub struct ConnectionGuard(HttpMetrics);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.0.connections.dec();
    }
}
