//! Peers on this LAN by multicast DNS: announces this node as `_holdfast._tcp` and looks for others.
//!
//! The record carries a hash of the cluster's name (`c`) and a version (`v`), so that clusters on one LAN do not meet;
//! neither is a secret and neither is trusted. Chosen interfaces only: without a choice those that are up, are no
//! loopback, and do not look like a bridge of containers or a tunnel, whose addresses mean nothing to other hosts.
//!
//! What the library does by itself: probing, announcing, answering, expiry, changes of interfaces. What it leaves to us:
//! it closes the channel of a listener that is too slow, and its thread may end; so the search is begun anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Announcement, BoardOf, SOURCE_CANDIDATES_MAX};

const SERVICE: &str = "_holdfast._tcp.local.";
const VERSION: &str = "1";
/// Instances that are remembered. More are ignored until one is gone.
const INSTANCES_MAX: usize = SOURCE_CANDIDATES_MAX;
/// Addresses of one instance.
const ADDRESSES_MAX: usize = 8;
/// Pause before the search is begun anew.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Beginnings of names of interfaces that are not taken without being chosen.
const NOT_A_LAN: &[&str] = &[
    "br-",
    "cali",
    "cni",
    "docker",
    "flannel",
    "lxc",
    "lxd",
    "podman",
    "tailscale",
    "tap",
    "tun",
    "utun",
    "vboxnet",
    "veth",
    "virbr",
    "vmnet",
    "wg",
    "zt",
];

/// Announces and looks until `stop`, then takes the announcement back.
pub(super) async fn run(interfaces: Vec<String>, announcement: Announcement, board: BoardOf, stop: CancellationToken) {
    let instance = format!("holdfast-{:016x}", rand::random::<u64>());
    let mut warned = false;
    while !stop.is_cancelled() {
        match start(&interfaces, &announcement, &instance) {
            Ok(daemon) => {
                warned = false;
                let search =
                    Search { tag: tag(&announcement.cluster), own: format!("{instance}.{SERVICE}"), board: &board };
                if stop.run_until_cancelled(search.run(&daemon)).await.is_none() {
                    say_farewell(&daemon, &search.own).await;
                }
                // The thread ends by itself once it has read this; nothing waits for it.
                let _ = daemon.shutdown();
            }
            Err(error) if !warned => {
                warned = true;
                tracing::warn!(%error, "multicast DNS does not work here; trying on");
            }
            Err(_) => {}
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}

/// The hash of a cluster's name: 64 bits are enough to tell clusters apart, and nothing rests on it.
fn tag(cluster: &str) -> String {
    hex::encode(&Sha256::digest(format!("holdfast cluster name: {cluster}"))[..8])
}

fn start(interfaces: &[String], announcement: &Announcement, instance: &str) -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    let chosen = interfaces.to_vec();
    let wanted = IfKind::Predicate(IfPredicate::new(move |interface| {
        is_wanted(&chosen, &interface.name, interface.is_loopback())
    }));
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(wanted.clone())?;
    let properties = [("c", tag(&announcement.cluster)), ("v", VERSION.to_owned())];
    let host = format!("{instance}.local.");
    let mut service = match announcement.address {
        Some(address) => ServiceInfo::new(SERVICE, instance, &host, address, announcement.port, &properties[..])?,
        None => ServiceInfo::new(SERVICE, instance, &host, "", announcement.port, &properties[..])?.enable_addr_auto(),
    };
    service.set_interfaces(vec![wanted]);
    daemon.register(service)?;
    Ok(daemon)
}

fn is_wanted(chosen: &[String], name: &str, loopback: bool) -> bool {
    if chosen.is_empty() {
        return !loopback && !NOT_A_LAN.iter().any(|beginning| name.starts_with(beginning));
    }
    chosen.iter().any(|chosen| chosen == name)
}

async fn say_farewell(daemon: &ServiceDaemon, own: &str) {
    if let Ok(done) = daemon.unregister(own) {
        // Others notice a silent end too, only later.
        let _ = timeout(FAREWELL, done.recv_async()).await;
    }
}

struct Search<'a> {
    tag: String,
    own: String,
    board: &'a BoardOf,
}

impl Search<'_> {
    /// Looks for others until the daemon ends.
    async fn run(&self, daemon: &ServiceDaemon) {
        loop {
            match daemon.browse(SERVICE) {
                Ok(events) => self.listen(&events).await,
                // Its queue of commands is full.
                Err(mdns_sd::Error::Again) => {}
                Err(error) => {
                    tracing::debug!(%error, "the search by multicast DNS has ended");
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Until the channel closes. What was known is forgotten with it: removals may have been missed.
    async fn listen(&self, events: &Receiver<ServiceEvent>) {
        let mut found = Found::default();
        while let Ok(event) = events.recv_async().await {
            let changed = match event {
                ServiceEvent::ServiceResolved(service) => {
                    service.fullname != self.own && found.add(&service, &self.tag)
                }
                ServiceEvent::ServiceRemoved(_, name) => found.instances.remove(&name).is_some(),
                _ => false,
            };
            if changed {
                self.board.put(found.addresses());
            }
        }
    }
}

/// Instances and their addresses.
#[derive(Default)]
struct Found {
    instances: BTreeMap<String, BTreeSet<String>>,
    full: bool,
}

impl Found {
    /// Takes an instance of the cluster; whether that changed anything.
    fn add(&mut self, service: &ResolvedService, tag: &str) -> bool {
        if service.get_property_val_str("c") != Some(tag) || service.port == 0 {
            return self.instances.remove(&service.fullname).is_some();
        }
        if self.instances.len() >= INSTANCES_MAX && !self.instances.contains_key(&service.fullname) {
            if !self.full {
                self.full = true;
                tracing::warn!(most = INSTANCES_MAX, "too many nodes announce this cluster's name; more are ignored");
            }
            return false;
        }
        let addresses: BTreeSet<String> =
            service.addresses.iter().filter_map(|address| text(address, service.port)).collect();
        let addresses: BTreeSet<String> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        self.instances.insert(service.fullname.clone(), addresses.clone()) != Some(addresses)
    }

    /// The first address of each instance before the second of any: a bound that cuts cuts spares.
    fn addresses(&self) -> BTreeSet<String> {
        let rounds =
            (0..ADDRESSES_MAX).flat_map(|round| self.instances.values().filter_map(move |all| all.iter().nth(round)));
        let mut addresses = BTreeSet::new();
        for address in rounds {
            if addresses.len() >= SOURCE_CANDIDATES_MAX {
                break;
            }
            addresses.insert(address.clone());
        }
        addresses
    }
}

/// `HOST:PORT`; a link-local IPv6 address with the number of its interface, without which it cannot be reached.
fn text(address: &ScopedIp, port: u16) -> Option<String> {
    match address.to_ip_addr() {
        ip if ip.is_unspecified() || ip.is_multicast() => None,
        IpAddr::V4(ip) => Some(format!("{ip}:{port}")),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => match address {
            ScopedIp::V6(scoped) => Some(format!("[{ip}%{}]:{port}", scoped.scope_id().index)),
            _ => None,
        },
        IpAddr::V6(ip) => Some(format!("[{ip}]:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_are_no_lan_must_be_chosen() {
        let chosen = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (choice, name, loopback, wanted) in [
            (&[][..], "eth0", false, true),
            (&[], "br0", false, true),
            (&[], "lo", true, false),
            (&[], "docker0", false, false),
            (&[], "br-12ab", false, false),
            (&[], "tun0", false, false),
            (&["lo"], "lo", true, true),
            (&["eth1"], "eth0", false, false),
            (&["docker0", "eth1"], "docker0", false, true),
        ] {
            assert_eq!(is_wanted(&chosen(choice), name, loopback), wanted, "{name} of {choice:?}");
        }
    }

    #[test]
    fn clusters_are_told_apart_by_a_hash() {
        assert_eq!(tag("a"), tag("a"));
        assert_ne!(tag("a"), tag("b"));
        assert_eq!(tag("a").len(), 16);
    }
}
