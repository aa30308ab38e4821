//! Metrics of the parts below the front door, read when the page is asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::gateway::Gateway;
use crate::jobs::Jobs;
use crate::notify::NotifyStats;
use crate::telemetry::Metrics;

/// Registers the areas `log`, `state`, `raft`, `feed`, `notify`, `archive`, `cache`, `reads`, `index` and `jobs`.
pub(super) fn register(metrics: &Metrics, gateway: &Gateway, jobs: &Arc<Jobs>, notify: &Arc<NotifyStats>) {
    let parts = Parts { gateway: gateway.clone(), jobs: Arc::clone(jobs), notify: Arc::clone(notify) };
    metrics.register(|registry| registry.register_collector(Box::new(parts)));
}

struct Parts {
    gateway: Gateway,
    jobs: Arc<Jobs>,
    notify: Arc<NotifyStats>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }
}

impl Collector for Parts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut page = Page(encoder);
        self.cluster(&mut page)?;
        self.peers(&mut page)?;
        self.feed(&mut page)?;
        self.notifications(&mut page)?;
        self.archive(&mut page)?;
        self.blobs(&mut page)?;
        self.runs(&mut page)?;
        self.work(&mut page)
    }
}

impl Parts {
    fn cluster(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let status = self.gateway.status();
        page.gauge("holdfast_state_revision", "Revision of the last applied command", status.revision)?;
        page.gauge("holdfast_raft_term", "Election term", status.term)?;
        page.gauge("holdfast_node_ready", "Whether requests should come here", u64::from(self.gateway.is_ready()))?;
        page.gauge("holdfast_disk_full", "Whether only what frees space is accepted", u64::from(status.disk_full))?;
        page.gauge("holdfast_disk_free_bytes", "Bytes free on the data file system", status.free_bytes)?;
        page.counter("holdfast_log_syncs", "Syncs of the log", status.log.syncs)?;
        page.counter("holdfast_log_entries", "Entries appended to the log", status.log.entries_synced)?;
        page.gauge("holdfast_log_bytes", "Bytes of the log on disk", status.log.bytes)
    }

    /// As the leader sees them; a node that follows has none.
    fn peers(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let status = self.gateway.status();
        let of_others: Vec<_> = status.peers.iter().filter(|member| !member.leader).collect();
        let slowest = of_others.iter().filter_map(|member| member.lag).max().unwrap_or(0);
        let silent_ms = of_others.iter().filter_map(|member| member.last_contact_ms).max().unwrap_or(0);
        let leads = u64::from(self.gateway.cluster().leads());
        page.gauge("holdfast_raft_leads", "Whether this node leads", leads)?;
        page.gauge("holdfast_raft_members", "Members of the cluster", status.members.len() as u64)?;
        page.gauge("holdfast_raft_peer_lag_entries", "Entries that the slowest member lacks; on the leader", slowest)?;
        page.gauge(
            "holdfast_raft_peer_silent_milliseconds",
            "Since the most silent member answered; on the leader",
            silent_ms,
        )
    }

    fn feed(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let (watchers, lagged) = self.gateway.feed().counts();
        page.gauge("holdfast_feed_watchers", "Who follows events on this node", watchers as u64)?;
        page.counter("holdfast_feed_watchers_lagged", "Times a watcher was too slow for its queue", lagged)?;
        let published = self.gateway.published().load(Ordering::Relaxed);
        page.counter("holdfast_topics_messages_published", "Messages published through this node", published)
    }

    fn archive(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let Some(archive) = self.gateway.archive() else { return Ok(()) };
        let status = archive.status();
        let lag_ms = u64::try_from(status.lag.as_millis()).unwrap_or(u64::MAX);
        let writes = u64::from(archive.allows(false).is_ok());
        page.gauge("holdfast_archive_shipped_revision", "Everything up to here is in the bucket", status.shipped)?;
        page.gauge("holdfast_archive_lag_revisions", "Revisions that the bucket lacks", status.lag_revisions)?;
        page.gauge("holdfast_archive_lag_bytes", "Bytes of log that the bucket lacks", status.lag_bytes)?;
        page.gauge("holdfast_archive_lag_milliseconds", "How long the oldest of them has waited", lag_ms)?;
        page.gauge("holdfast_archive_checkpoint_revision", "Revision of the newest checkpoint", status.checkpoint)?;
        page.gauge("holdfast_archive_writes_allowed", "Whether writes are acknowledged", writes)?;
        page.counter("holdfast_archive_segments", "Segments of the log archived", status.segments)
    }

    fn notifications(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let stats = &self.notify;
        let counters = [
            ("holdfast_notify_delivered", "Events that targets have", &stats.delivered),
            ("holdfast_notify_failed", "Attempts to deliver that failed", &stats.failed),
            ("holdfast_notify_dead_lettered", "Events put under a dead-letter prefix", &stats.dead_lettered),
            ("holdfast_notify_gaps", "Gaps in which a target lost events", &stats.lost),
        ];
        counters.iter().try_for_each(|(name, help, value)| page.counter(name, help, value.load(Ordering::Relaxed)))?;
        page.gauge("holdfast_notify_stuck", "Targets that stand still", stats.stuck.load(Ordering::Relaxed))
    }

    fn blobs(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let cache = self.gateway.blobs().cache_stats();
        page.counter("holdfast_cache_hits", "Reads of blobs that memory answered", cache.hits)?;
        page.counter("holdfast_cache_misses", "Reads of blobs that the backend answered", cache.misses)?;
        page.gauge("holdfast_cache_bytes", "Bytes of hot blobs in memory", cache.bytes)?;
        page.gauge("holdfast_reads_open", "Reads in progress", self.gateway.blobs().readers().count() as u64)?;
        page.gauge("holdfast_uploads_open", "Uploads in progress", self.gateway.blobs().in_flight().count() as u64)
    }

    fn runs(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let runs = self.gateway.blobs().runs().stats();
        page.counter("holdfast_index_run_reads", "Ranged reads of runs for searches", runs.reads)?;
        page.counter("holdfast_index_run_read_bytes", "Bytes of them", runs.read_bytes)?;
        page.counter("holdfast_index_run_opens", "Of them, those that opened a run", runs.opened)?;
        page.counter("holdfast_index_runs_lost", "Runs found damaged or missing", runs.lost)?;
        page.gauge("holdfast_index_run_memory_bytes", "Bytes of fence blocks and filters in memory", runs.memory_bytes)
    }

    fn work(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let stats = self.jobs.stats();
        let rows = [
            ("holdfast_jobs_blobs_deleted", "Condemned blobs deleted", &stats.blobs_deleted),
            ("holdfast_jobs_orphans_deleted", "Orphans deleted", &stats.orphans_deleted),
            ("holdfast_jobs_contents_joined", "Contents joined into one blob", &stats.contents_joined),
            ("holdfast_jobs_extents_compacted", "Extents that compaction put into fewer", &stats.extents_compacted),
            ("holdfast_jobs_digests_set", "Digests filled in", &stats.digests_set),
            ("holdfast_index_objects_read", "Objects read for indexes by jobs", &stats.objects_indexed),
            ("holdfast_index_runs_written", "Runs of indexes written, merged ones too", &stats.runs_written),
            ("holdfast_index_runs_merged", "Runs of indexes merged away", &stats.runs_merged),
            ("holdfast_index_runs_deleted", "Files of runs deleted", &stats.runs_deleted),
            ("holdfast_index_postings_demoted", "Objects whose entries left the state", &stats.postings_demoted),
            ("holdfast_jobs_rows_trimmed", "Rows trimmed", &stats.rows_trimmed),
            ("holdfast_jobs_rounds_failed", "Rounds of jobs that failed", &stats.rounds_failed),
        ];
        rows.iter().try_for_each(|(name, help, value)| page.counter(name, help, value.load(Ordering::Relaxed)))
    }
}
