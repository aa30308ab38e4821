//! Numbers of the mount for Prometheus: `GET /metrics` on an address that the operator names. Read-only, no secrets.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::vfs::Vfs;

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 16;

pub(super) async fn serve(vfs: &Arc<Vfs>, listen: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (serving, stopping) = (Arc::clone(vfs), vfs.stopping());
    let runtime = tokio::runtime::Handle::current();
    let accept = async move {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { continue };
            let answering = Arc::clone(&serving);
            let connection = async move {
                let answer = service_fn(move |request| answer(Arc::clone(&answering), request));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).keep_alive(false);
                // Whoever asks badly is not answered.
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                drop(permit);
            };
            serving.serve(&tokio::runtime::Handle::current(), connection);
        }
    };
    vfs.serve(&runtime, async move {
        tokio::select! {
            () = accept => {}
            () = stopping.cancelled() => {}
        }
    });
    Ok(())
}

async fn answer(vfs: Arc<Vfs>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut reply = Response::new(Full::new(Bytes::from(page(&vfs))));
    if request.uri().path() != "/metrics" {
        *reply.status_mut() = StatusCode::NOT_FOUND;
        *reply.body_mut() = Full::default();
    }
    Ok(reply)
}

fn page(vfs: &Vfs) -> String {
    let (unsynced, age) = vfs.unsynced();
    let counters = &vfs.counters;
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let cache = vfs.cache_counters();
    let rows: [(&str, &str, u64); 14] = [
        ("unsynced_bytes", "gauge", unsynced),
        ("unsynced_age_milliseconds", "gauge", age.as_millis() as u64),
        ("feed_live", "gauge", u64::from(vfs.is_live())),
        ("commits_total", "counter", of(&counters.commits)),
        ("steps_total", "counter", of(&counters.steps)),
        ("committed_bytes_total", "counter", of(&counters.committed_bytes)),
        ("fetched_bytes_total", "counter", of(&counters.fetched_bytes)),
        ("conflict_copies_total", "counter", of(&counters.conflicts)),
        ("sessions_lost_total", "counter", of(&counters.sessions_lost)),
        ("cache_memory_hits_total", "counter", cache.hits_memory),
        ("cache_disk_hits_total", "counter", cache.hits_disk),
        ("cache_misses_total", "counter", cache.misses),
        ("cache_disk_bytes", "gauge", cache.disk_bytes),
        ("cache_disk_errors_total", "counter", cache.errors),
    ];
    let mut page = String::new();
    for (name, kind, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# TYPE holdfast_mount_{name} {kind}\nholdfast_mount_{name} {value}");
    }
    page
}
