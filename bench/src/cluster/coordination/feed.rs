//! One watcher: a stream of server-sent events of Holdfast, or a watch of etcd.
//!
//! Only what the checks need is read of an event: its place in the order of commits and its key. Opening returns when the
//! node has said that it watches, so whatever is written afterwards must come.
//!
//! Source: HTML Living Standard, "Server-sent events"; `docs/coordination.md`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::task::JoinSet;

use crate::client::{Client, Stream};
use crate::cluster::etcd::watch::{Connection, Watch};
use crate::cluster::nodes::{BUCKET, Cluster, Door, NODES};

/// Connections that are opened at the same time.
const OPENERS: usize = 64;
/// Longest time for all of them.
const OPEN_WITHIN: Duration = Duration::from_secs(300);

/// Where in the order of commits: revision, and event of it. etcd has no second part.
pub type Place = (u64, u64);

/// Who sees events: their place, and their key without what is before the bucket's keys.
pub trait See: FnMut(Place, &str) -> Result<()> {}
impl<F: FnMut(Place, &str) -> Result<()>> See for F {}

/// A watcher.
pub enum Feed {
    Holdfast(Box<Events>),
    Etcd(Watch),
}

impl Feed {
    /// Waits for bytes and shows the events that are complete. Dropped before it returns, nothing is lost.
    ///
    /// # Errors
    /// When the node ends the stream, or `see` fails.
    pub async fn next(&mut self, see: &mut impl See) -> Result<()> {
        match self {
            Self::Holdfast(events) => events.next(see).await.map(drop),
            Self::Etcd(watch) => {
                let mut see = |revision, key: &[u8]| {
                    let key = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix('/')?.strip_prefix(BUCKET));
                    see((revision, 0), key.and_then(|key| key.strip_prefix('/')).context("a key of no bucket")?)
                };
                watch.next(&mut see).await.map(drop)
            }
        }
    }
}

/// A watcher that was opened, and where it is.
pub struct Opened {
    pub number: usize,
    pub node: usize,
    pub feed: Feed,
}

/// Opens a watcher for each prefix, spread over the nodes, the first at node `first`. `streams` watchers of etcd that are at
/// the same node share a connection; those of Holdfast have one each.
///
/// # Errors
/// When a node refuses one, or all of them take too long.
pub async fn open(cluster: &Cluster, prefixes: Vec<String>, first: usize, streams: usize) -> Result<Vec<Opened>> {
    let mut of_node: Vec<Vec<(usize, String)>> = (0..NODES).map(|_| Vec::new()).collect();
    for (number, prefix) in prefixes.into_iter().enumerate() {
        of_node[(first + number) % NODES].push((number, prefix));
    }
    let mut batches = Vec::new();
    for (node, watchers) in of_node.into_iter().enumerate() {
        let door = cluster.door(node);
        let size = if matches!(door, Door::Etcd(_)) { streams } else { 1 };
        batches.extend(watchers.chunks(size).map(|some| (door.clone(), node, some.to_vec())));
    }
    let (mut opening, mut opened) = (JoinSet::new(), Vec::new());
    let all = async {
        for (door, node, watchers) in batches {
            if opening.len() >= OPENERS {
                opened.append(&mut opening.join_next().await.context("nothing is opened")???);
            }
            opening.spawn(async move {
                let (from, node_name) = (watchers[0].0, node + 1);
                let opened = open_some(&door, node, watchers).await;
                opened.with_context(|| format!("watcher {from} and its neighbours at node {node_name}"))
            });
        }
        while let Some(done) = opening.join_next().await {
            opened.append(&mut done??);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(OPEN_WITHIN, all).await.context("the watchers cannot be opened in time")??;
    Ok(opened)
}

async fn open_some(door: &Door, node: usize, watchers: Vec<(usize, String)>) -> Result<Vec<Opened>> {
    let mut opened = Vec::with_capacity(watchers.len());
    match door {
        Door::Holdfast(endpoint) => {
            for (number, prefix) in watchers {
                let events = Events::open(Client::connect(endpoint).await?, &prefix).await?;
                let feed = Feed::Holdfast(Box::new(events));
                opened.push(Opened { number, node, feed });
            }
        }
        Door::Etcd(address) => {
            let mut connection = Connection::connect(address).await?;
            for (number, prefix) in watchers {
                let feed = Feed::Etcd(connection.open(Cluster::key(&prefix).as_bytes()).await?);
                opened.push(Opened { number, node, feed });
            }
        }
    }
    Ok(opened)
}

/// A stream of server-sent events.
pub struct Events {
    stream: Stream,
    buffer: BytesMut,
}

impl Events {
    /// Watches all keys of the bucket that begin with `prefix`, from now on; returns at the first mark.
    async fn open(client: Client, prefix: &str) -> Result<Self> {
        let query = format!("bucket={BUCKET}&prefix={}", prefix.replace('/', "%2F"));
        let stream = client.stream("/_holdfast/v1/watch", &query).await?;
        let mut events = Self { stream, buffer: BytesMut::new() };
        while !events.next(&mut |_, key: &str| bail!("an event of {key} before the first mark")).await? {}
        Ok(events)
    }

    /// See [`Feed::next`]; gives whether there was a mark.
    async fn next(&mut self, see: &mut impl See) -> Result<bool> {
        self.buffer.extend_from_slice(&self.stream.next().await?);
        show(&mut self.buffer, see)
    }
}

/// Takes the events that are complete off the buffer and shows them; gives whether there was a mark.
fn show(buffer: &mut BytesMut, see: &mut impl See) -> Result<bool> {
    let (mut marked, mut taken) = (false, 0);
    let text = std::str::from_utf8(buffer).context("the feed is not text")?;
    while let Some(length) = text[taken..].find("\n\n") {
        let event = &text[taken..taken + length];
        taken += length + 2;
        let value = |name| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        match value("event") {
            Some("change") => {
                let (id, data) = (value("id"), value("data").context("an event without data")?);
                see(
                    id.and_then(place).context("an event without an id")?,
                    key_in(data).context("an event of no key")?,
                )?;
            }
            Some("mark") => marked = true,
            // What is left of a stream that begins is the pause before a new connection.
            None => ensure!(event.starts_with("retry: "), "no event: {event}"),
            Some(_) => bail!("the feed says: {event}"),
        }
    }
    buffer.advance(taken);
    Ok(marked)
}

fn place(id: &str) -> Option<Place> {
    let (revision, number) = id.split_once('.')?;
    Some((revision.parse().ok()?, number.parse().ok()?))
}

/// The key of an event. Names of this bench have nothing that JSON escapes.
fn key_in(data: &str) -> Option<&str> {
    let (_, rest) = data.split_once("\"key\":\"")?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &str = "id: 8125.1\nevent: change\ndata: {\"bucket\":\"bench\",\"key\":\"w/00/7\",\"n\":1}\n\n";
    const MARK: &str = "id: 8190.end\nevent: mark\ndata: {\"revision\":8190}\n\n";

    fn shown(buffer: &mut BytesMut) -> (Vec<(Place, String)>, bool) {
        let mut seen = Vec::new();
        let marked = show(buffer, &mut |place, key: &str| {
            seen.push((place, key.to_owned()));
            Ok(())
        });
        (seen, marked.unwrap())
    }

    #[test]
    fn events_and_marks_are_read_whole() {
        let mut buffer = BytesMut::from("retry: 1000\n\n");
        assert_eq!(shown(&mut buffer), (Vec::new(), false));
        buffer.extend_from_slice(CHANGE.as_bytes());
        let (first, rest) = MARK.split_at(20);
        buffer.extend_from_slice(first.as_bytes());
        assert_eq!(shown(&mut buffer), (vec![((8125, 1), "w/00/7".to_owned())], false));
        assert_eq!(&buffer[..], first.as_bytes(), "what is not whole waits");
        buffer.extend_from_slice(rest.as_bytes());
        assert_eq!(shown(&mut buffer), (Vec::new(), true));
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_error_in_the_feed_is_one() {
        let check = |text: &str| assert!(show(&mut BytesMut::from(text), &mut |_, _| Ok(())).is_err(), "{text}");
        check("event: error\ndata: {\"code\":\"Compacted\"}\n\n");
        check("something\n\n");
        check("id: 7.end\nevent: change\ndata: {\"key\":\"a\"}\n\n");
        check("id: 7.0\nevent: change\ndata: {\"revision\":7}\n\n");
    }
}
