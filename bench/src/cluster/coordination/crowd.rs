//! Watchers on prefixes that do not change: each its own, and an event there fails the run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use super::feed;
use crate::cluster::nodes::Cluster;

/// Watchers that wait for nothing. They are gone when it is dropped.
pub struct Crowd {
    running: JoinSet<Result<()>>,
    /// How long they took to gather.
    pub took: Duration,
}

impl Crowd {
    /// Opens `count` watchers, spread over the nodes.
    ///
    /// # Errors
    /// When a node refuses one.
    pub async fn gather(cluster: &Cluster, count: usize, streams: usize) -> Result<Self> {
        let began = Instant::now();
        let prefixes = (0..count).map(|number| format!("quiet/{number:05}/")).collect();
        let opened = feed::open(cluster, prefixes, 0, streams).await?;
        let took = began.elapsed();
        let mut running = JoinSet::new();
        for mut one in opened {
            running.spawn(async move {
                let what = format!("quiet watcher {} at node {}", one.number, one.node + 1);
                loop {
                    let seen = one.feed.next(&mut |_, key: &str| bail!("an event of {key}")).await;
                    seen.with_context(|| what.clone())?;
                }
            });
        }
        Ok(Self { running, took })
    }

    /// Whether all of them are still there.
    ///
    /// # Errors
    /// When one has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.running.try_join_next() {
            Some(ended) => ended.context("a quiet watcher was lost")?,
            None => Ok(()),
        }
    }
}
