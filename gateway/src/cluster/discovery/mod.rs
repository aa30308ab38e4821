//! Where other nodes might be.
//!
//! ```text
//! mdns[:INTERFACE,...]       nodes that announce the same cluster name on this LAN
//! dns:NAME[:PORT]            SRV records of _holdfast._tcp.NAME, else the addresses of NAME
//! static:HOST:PORT,...       as written
//! several, separated by `;`
//! ```
//! **Discovery is a hint and nothing else.** It never initialises a cluster, evicts a node or authorises anybody: that a
//! name appears here says only that it may be worth a handshake, which decides; that it disappears says nothing at all.
//! Anyone on the LAN can make addresses appear, so their number is bounded ([`CANDIDATES_MAX`]), and each source has a
//! bound of its own, so that a liar in one does not crowd out another.
//!
//! [`Discovery`] yields the addresses of all sources, without duplicates, as a set that changes. Which of them are reached,
//! and whether one is this node itself, is for whoever connects.

mod dns;
mod fixed;
mod mdns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Most addresses of all sources together.
pub const CANDIDATES_MAX: usize = 128;
/// Most addresses of one source.
pub const SOURCE_CANDIDATES_MAX: usize = 64;
/// Most sources.
pub const SOURCES_MAX: usize = 8;
/// Port of peers where a source names none.
pub const PEER_PORT: u16 = 9910;
const NAME_BYTES_MAX: usize = 253;

/// One way to find peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Multicast DNS.
    Mdns {
        /// Names of the interfaces to use; empty: those that look like a LAN.
        interfaces: Vec<String>,
    },
    /// The resolver of the system.
    Dns {
        /// The name.
        name: String,
        /// The port of its addresses; SRV records bring their own.
        port: u16,
    },
    /// A list.
    Fixed(BTreeSet<String>),
}

/// Why a description of sources is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A word has the wrong form.
    #[error("{word:?} is not mdns, mdns:INTERFACE,..., dns:NAME, or static:HOST:PORT,...")]
    Source {
        /// The word.
        word: String,
    },
    /// An address has the wrong form.
    #[error("{address:?} is not HOST:PORT with a port from 1 to 65535")]
    Address {
        /// The address.
        address: String,
    },
    /// There is too much of something.
    #[error("discovery has more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: usize,
    },
}

/// Reads `--discovery`.
///
/// # Errors
/// [`DiscoveryError`].
pub fn parse(text: &str) -> Result<Vec<Source>, DiscoveryError> {
    let words: Vec<&str> = text.split(';').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err(DiscoveryError::Source { word: text.to_owned() });
    }
    if words.len() > SOURCES_MAX {
        return Err(DiscoveryError::TooMany { what: "sources", most: SOURCES_MAX });
    }
    words.into_iter().map(parse_source).collect()
}

fn parse_source(word: &str) -> Result<Source, DiscoveryError> {
    let wrong = || DiscoveryError::Source { word: word.to_owned() };
    let (kind, rest) = word.split_once(':').map_or((word, None), |(kind, rest)| (kind, Some(rest.trim())));
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    match (kind, rest) {
        ("mdns", None) => Ok(Source::Mdns { interfaces: Vec::new() }),
        ("mdns", Some(rest)) => match list(rest) {
            interfaces if interfaces.is_empty() => Err(wrong()),
            interfaces => Ok(Source::Mdns { interfaces }),
        },
        ("dns", Some(rest)) => match rest.rsplit_once(':') {
            Some((name, _)) if is_host(name) => {
                let (_, port) = host_and_port(rest)?;
                Ok(Source::Dns { name: name.to_owned(), port })
            }
            None if is_host(rest) => Ok(Source::Dns { name: rest.to_owned(), port: PEER_PORT }),
            _ => Err(wrong()),
        },
        ("static", Some(rest)) => {
            let addresses = list(rest);
            if addresses.is_empty() {
                return Err(wrong());
            }
            addresses.iter().try_for_each(|address| host_and_port(address).map(drop))?;
            let addresses: BTreeSet<String> = addresses.into_iter().collect();
            if addresses.len() > SOURCE_CANDIDATES_MAX {
                return Err(DiscoveryError::TooMany { what: "static addresses", most: SOURCE_CANDIDATES_MAX });
            }
            Ok(Source::Fixed(addresses))
        }
        _ => Err(wrong()),
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn host_and_port(address: &str) -> Result<(&str, u16), DiscoveryError> {
    let wrong = || DiscoveryError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0 && !address.ends_with("+")).ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match bracketed {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    if good { Ok((host, port)) } else { Err(wrong()) }
}

/// Whether the text can be a host's name or an IPv4 address.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
}

/// What this node tells others, where a source lets it.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Name of the cluster; only its hash is told.
    pub cluster: String,
    /// Port of the peer listener.
    pub port: u16,
    /// The address to tell; `None`: those of the interfaces.
    pub address: Option<IpAddr>,
}

/// Sources at work.
pub struct Discovery {
    candidates: watch::Receiver<BTreeSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Discovery {
    /// Starts all sources. None of them can fail for good: what does not work is logged and tried again.
    #[must_use]
    pub fn start(sources: &[Source], announcement: &Announcement) -> Self {
        let (tell, candidates) = watch::channel(BTreeSet::new());
        let board = Arc::new(Board { found: Mutex::default(), tell });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        for (number, source) in sources.iter().enumerate() {
            let board = BoardOf { board: Arc::clone(&board), source: number };
            let stop = stop.clone();
            match source.clone() {
                Source::Mdns { interfaces } => {
                    tasks.spawn(mdns::run(interfaces, announcement.clone(), board, stop));
                }
                Source::Dns { name, port } => {
                    tasks.spawn(async move { stop.run_until_cancelled(dns::run(name, port, board)).await });
                }
                Source::Fixed(addresses) => fixed::run(addresses, &board),
            }
        }
        tasks.close();
        Self { candidates, tasks, _stop_when_dropped: stop.clone().drop_guard(), stop }
    }

    /// Addresses that may be peers, as they change. Never more than [`CANDIDATES_MAX`]; this node may be among them.
    #[must_use]
    pub fn candidates(&self) -> watch::Receiver<BTreeSet<String>> {
        self.candidates.clone()
    }

    /// Takes announcements back and ends. The last candidates stay readable.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// What all sources have found.
struct Board {
    found: Mutex<BTreeMap<usize, BTreeSet<String>>>,
    tell: watch::Sender<BTreeSet<String>>,
}

/// One source's place on it.
struct BoardOf {
    board: Arc<Board>,
    source: usize,
}

impl BoardOf {
    /// Replaces what this source has found.
    fn put(&self, addresses: BTreeSet<String>) {
        let mut found = self.board.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(self.source, addresses.into_iter().take(SOURCE_CANDIDATES_MAX).collect());
        // In turn, so that what does not fit is not all of one source.
        let mut lists: Vec<_> = found.values().map(BTreeSet::iter).collect();
        let mut all = BTreeSet::new();
        let mut more = true;
        while more {
            more = false;
            for list in &mut lists {
                if let Some(address) = list.next().filter(|_| all.len() < CANDIDATES_MAX) {
                    more = true;
                    all.insert(address.clone());
                }
            }
        }
        self.board.tell.send_if_modified(|current| {
            let changed = *current != all;
            *current = all;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
