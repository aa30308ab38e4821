//! Peers behind one DNS name: SRV records of `_holdfast._tcp.NAME` where there are any, for they bring ports, else the
//! addresses of NAME, as a headless service of Kubernetes has them.
//!
//! Addresses come from the system's resolver, which knows `/etc/hosts` and whatever else it is set to; SRV records from
//! the name servers that the system names, read anew each time. An answer without records empties the set; no answer
//! leaves it as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::{BoardOf, SOURCE_CANDIDATES_MAX};

const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const SERVICE: &str = "_holdfast._tcp";

/// Asks again and again; never returns.
pub(super) async fn run(name: String, port: u16, board: BoardOf) {
    let mut silent = false;
    loop {
        let found = match system_resolver() {
            Some(resolver) => services(&resolver, &name).await,
            None => None,
        };
        // Without an answer about services the addresses may still be known.
        let found = match found {
            Some(services) if !services.is_empty() => Some(services),
            _ => addresses(&name, port).await,
        };
        match found {
            Some(found) => {
                silent = false;
                board.put(found);
            }
            None if !silent => {
                silent = true;
                tracing::warn!(%name, "no peers are known to DNS by this name; asking on");
            }
            None => {}
        }
        sleep(ASK_EVERY).await;
    }
}

/// `None` on a system without name servers.
fn system_resolver() -> Option<TokioResolver> {
    let mut builder = TokioResolver::builder_tokio().ok()?;
    builder.options_mut().timeout = Duration::from_secs(1);
    // A set of candidates is asked for again and again because it changes.
    builder.options_mut().cache_size = 0;
    builder.build().ok()
}

/// The services of a name; `None` without an answer.
pub(super) async fn services(resolver: &TokioResolver, name: &str) -> Option<BTreeSet<String>> {
    let asked = timeout(ANSWER_WITHIN, resolver.lookup(format!("{SERVICE}.{name}"), RecordType::SRV)).await;
    match asked.ok()? {
        Ok(answer) => {
            let services = answer.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(service) => Some((service.target.to_utf8(), service.port)),
                _ => None,
            });
            let found = services.filter(|(host, port)| *port > 0 && host != ".").map(|(host, port)| {
                let host = host.trim_end_matches('.');
                format!("{host}:{port}")
            });
            Some(found.take(SOURCE_CANDIDATES_MAX).collect())
        }
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Some(BTreeSet::new()),
        Err(error) => {
            tracing::debug!(%error, name, "no answer about services");
            None
        }
    }
}

async fn addresses(name: &str, port: u16) -> Option<BTreeSet<String>> {
    match timeout(ANSWER_WITHIN, lookup_host((name, port))).await.ok()? {
        Ok(found) => Some(found.take(SOURCE_CANDIDATES_MAX).map(|address| address.to_string()).collect()),
        // The system's resolver does not tell "no such name" from "no answer".
        Err(error) => {
            tracing::debug!(%error, name, "no addresses");
            None
        }
    }
}
