//! Holdfast's gateway: the protocols, the verbs behind them, the cluster that commits them and the blobs they name.
//!
//! Arrows point down: `api` → `ops` → `cluster`, `blobs` → `backend`; nothing below knows a caller.

pub mod api;
pub mod archive;
pub mod backend;
pub mod blobs;
pub mod claim;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod doctor;
pub mod durable_dir;
pub mod error;
pub mod feed;
pub mod gateway;
pub mod jobs;
pub mod node;
pub mod notify;
pub mod ops;
pub mod outbound;
pub mod server;
pub mod telemetry;
