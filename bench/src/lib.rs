//! The bench: the same load on Holdfast and on any other S3, in turns within one run.
//!
//! ```text
//! main ── experiment (rounds that alternate) ── load (clients) ── client ── sign
//!   │          ├── target (servers that are started, or URLs) ── system (/proc, disk)
//!   ├──────────┴── report (JSON, table) ── chart (SVG), stats, run (what every other report begins with)
//!   ├── cluster (three nodes beside three of etcd: rates, losses; coordination: locks, events) ── their own reports
//!   ├── queries (SQL beside DuckDB, S3 Select beside MinIO) ── its own report
//!   └── mount (the mount beside s3fs and rclone) ── its own report
//! ```
//!
//! Promises: both sides get the same requests from the same one-threaded generator; servers run with their defaults; a
//! failed or wrong reply fails the run. Deliberately absent: tuning of either side, an SDK (it would cost more processor
//! time than the servers), assertions on times.

pub mod chart;
pub mod client;
pub mod cluster;
pub mod experiment;
pub mod load;
pub mod mount;
pub mod queries;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sign;
pub mod stats;
pub mod system;
pub mod target;
