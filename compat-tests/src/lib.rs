//! System tests of Holdfast: real processes, real clients, real peers.
//!
//! Nothing here is a double. A case runs a released client (or raw bytes on a socket) against a server process that was
//! started the way a user starts it, on one of the [`target::Target`]s: Holdfast on its embedded store, Holdfast in front
//! of MinIO, or MinIO itself as the reference.
//!
//! ```text
//! tests/*.rs ── suite (runs, counts, reports) ── fleet of targets ── process (spawn, kill, restart) ── minio
//!      └─────── client/* (aws-cli, boto3, rclone, mc, s3fs, sdk, raw) ──┘
//! tests/sql ── answer (rows of two engines, compared) ── tpch, client/{sql, duckdb}
//! tests/mount ── workloads, vm ── mounted (the mount under test, its gateway)
//! tests/{kill,power} ── crash (load, crash, restart, audit) ── audit (what was acknowledged) ── powerfs
//! ```
//!
//! Each test binary has its own `main` (`harness = false`) so that its cases share servers, run on several targets under
//! one name, and can report a skip while they run. The closing line is the one of cargo's own harness.
//!
//! Deliberately absent: sleeping for luck (every wait is for a condition with a deadline), fixed ports, shared
//! directories, retries of a failed case.

pub mod answer;
pub mod audit;
pub mod brokers;
pub mod client;
pub mod crash;
pub mod differential;
pub mod disk;
pub mod fixture;
pub mod history;
pub mod lan;
pub mod linear;
pub mod minio;
pub mod mounted;
pub mod powerfs;
pub mod process;
pub mod proxy;
pub mod skip;
pub mod suite;
pub mod target;
pub mod tpch;
pub mod vm;
pub mod workloads;
