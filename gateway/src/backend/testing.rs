//! A real MinIO for tests, and a TCP proxy in front of it that breaks connections on demand.

use std::env;
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::s3::{S3, Settings};
use super::{Backend, Credentials, S3Url};

const USER: &str = "holdfast-test";
const PASSWORD: &str = "holdfast-test-secret";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Tests that did not run because MinIO is missing.
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// A running MinIO with one bucket; stopped when dropped.
pub struct Minio {
    child: Child,
    pub port: u16,
    repositories: AtomicU64,
    _data: TempDir,
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> Option<PathBuf> {
    let named = env::var_os("HOLDFAST_TEST_MINIO").map(PathBuf::from);
    let usual = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/holdfast/bin/minio"));
    named.or_else(usual).filter(|path| path.is_file())
}

impl Minio {
    /// Starts a server. `None`, loudly, where the program is missing; in CI that is a failure.
    pub async fn start() -> Option<Self> {
        let Some(binary) = binary() else {
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "MinIO is missing: set HOLDFAST_TEST_MINIO");
            let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
            eprintln!("SKIPPED ({count} so far): MinIO is missing, set HOLDFAST_TEST_MINIO");
            return None;
        };
        // MinIO cannot pick a port itself. Another process may take this one in between, hence a few tries.
        for _ in 0..5 {
            let data = tempfile::tempdir().expect("temporary directory");
            let port =
                StdListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
            let child = Command::new(&binary)
                .args([
                    "server",
                    "--quiet",
                    "--address",
                    &format!("127.0.0.1:{port}"),
                    "--console-address",
                    "127.0.0.1:0",
                ])
                .arg(data.path())
                .env("MINIO_ROOT_USER", USER)
                .env("MINIO_ROOT_PASSWORD", PASSWORD)
                .env("MINIO_BROWSER", "off")
                .env("HOME", data.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("MinIO starts");
            let mut minio = Minio { child, port, repositories: AtomicU64::new(0), _data: data };
            if minio.is_up().await {
                minio.create_bucket().await;
                return Some(minio);
            }
        }
        panic!("MinIO does not start");
    }

    async fn is_up(&mut self) -> bool {
        let until = Instant::now() + START_TIMEOUT;
        while Instant::now() < until {
            if self.child.try_wait().expect("child").is_some() {
                return false;
            }
            if is_ready(self.port).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn create_bucket(&self) {
        let store = self.client(self.port).await;
        store.create_bucket().bucket("blobs").send().await.expect("bucket");
    }

    /// A plain client, for what the seam does not offer.
    pub async fn client(&self, port: u16) -> aws_sdk_s3::Client {
        let credentials = aws_sdk_s3::config::Credentials::new(USER, PASSWORD, None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(credentials)
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .force_path_style(true)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    pub fn url(&self, prefix: &str, port: u16) -> S3Url {
        S3Url {
            bucket: "blobs".into(),
            prefix: prefix.into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: "us-east-1".into(),
            path_style: true,
        }
    }

    pub fn credentials() -> Credentials {
        Credentials::from_pair(Some(USER.into()), Some(PASSWORD.into())).expect("both halves")
    }

    /// An empty repository of its own.
    pub async fn store(&self) -> Arc<dyn Backend> {
        let number = self.repositories.fetch_add(1, Ordering::Relaxed);
        self.store_at(&format!("repo/{number}"), self.port, Settings::default()).await
    }

    /// A repository behind a certain port.
    pub async fn store_at(&self, prefix: &str, port: u16, settings: Settings) -> Arc<dyn Backend> {
        Arc::new(S3::open(&self.url(prefix, port), Self::credentials(), settings).await.expect("opens"))
    }
}

/// Whether MinIO's readiness page answers with 200.
async fn is_ready(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let request = "GET /minio/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut reply = [0; 12];
    socket.write_all(request.as_bytes()).await.is_ok()
        && socket.read_exact(&mut reply).await.is_ok()
        && reply.ends_with(b"200")
}

/// What a proxied connection suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// It breaks after this many bytes of replies.
    CutReply(u64),
    /// Replies stop after this many bytes, the connection stays.
    StallReply(u64),
    /// The request arrives; the first reply on it is dropped and the connection closed.
    LoseReply,
    /// Nothing is read from the client after this many bytes.
    StallRequest(u64),
}

/// A TCP proxy. Damage is decided when a request begins on a connection.
pub struct Proxy {
    pub port: u16,
    state: Arc<ProxyState>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct ProxyState {
    /// Damage for the next requests that contain a text in their first line, and for how many of them.
    plan: Mutex<Vec<(&'static str, Damage, u64)>>,
    /// First lines of all requests.
    seen: Mutex<Vec<String>>,
}

impl ProxyState {
    fn damage(&self, line: &str) -> Damage {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        for (prefix, damage, times) in plan.iter_mut() {
            if line.contains(*prefix) && *times > 0 {
                *times -= 1;
                return *damage;
            }
        }
        Damage::None
    }
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("address").port();
        let state = Arc::new(ProxyState::default());
        let (mut tasks, shared) = (JoinSet::new(), Arc::clone(&state));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, target, Arc::clone(&shared)));
            }
        });
        Proxy { port, state, _tasks: tasks }
    }

    /// The next `times` requests with this text in their first line suffer this.
    pub fn plan(&self, request: &'static str, damage: Damage, times: u64) {
        self.state.plan.lock().unwrap_or_else(PoisonError::into_inner).push((request, damage, times));
    }

    /// How many requests had all these texts in their first line.
    pub fn seen(&self, texts: &[&str]) -> usize {
        let seen = self.state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }
}

/// What both directions of a connection know.
#[derive(Default)]
struct Connection {
    damage: Mutex<Option<Damage>>,
    /// Bytes of the current reply that came from the server.
    replied: AtomicU64,
}

impl Connection {
    fn damage(&self) -> Damage {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Damage::None)
    }
}

/// Serves one connection until one side ends; whichever ends first ends both, which is what a cut is.
async fn serve(client: TcpStream, target: u16, state: Arc<ProxyState>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let connection = Connection::default();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = requests(from_client, to_server, &state, &connection) => {}
        () = replies(from_server, to_client, &connection) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &ProxyState, connection: &Connection) {
    let (mut buffer, mut sent) = (vec![0; 64 * 1024], 0);
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        // The client sends a request only after the reply to the one before, so each begins a read of its own.
        let line = String::from_utf8_lossy(&buffer[..got.min(300)]).lines().next().unwrap_or_default().to_owned();
        if line.ends_with(" HTTP/1.1") {
            sent = 0;
            connection.replied.store(0, Ordering::Relaxed);
            *connection.damage.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.damage(&line));
            state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        if matches!(connection.damage(), Damage::StallRequest(after) if sent >= after) {
            std::future::pending::<()>().await;
        }
        sent += got as u64;
        if to.write_all(&buffer[..got]).await.is_err() {
            return;
        }
    }
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: &Connection) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        let before = connection.replied.fetch_add(got as u64, Ordering::Relaxed);
        let allowed = match connection.damage() {
            Damage::None | Damage::StallRequest(_) => u64::MAX,
            Damage::CutReply(after) | Damage::StallReply(after) => after,
            Damage::LoseReply => 0,
        };
        let pass = usize::try_from(allowed.saturating_sub(before)).unwrap_or(usize::MAX).min(got);
        if to.write_all(&buffer[..pass]).await.is_err() {
            return;
        }
        match connection.damage() {
            _ if pass == got => {}
            Damage::StallReply(_) => std::future::pending::<()>().await,
            _ => return,
        }
    }
}
