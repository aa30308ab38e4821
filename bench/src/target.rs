//! What is measured: servers that the bench starts and can look into, or any URL.
//!
//! Each target has a directory of its own under the run's, new for every run, and keys of its own. Servers run with
//! their defaults: nothing is tuned, for either side.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Endpoint, Payload};
use crate::sign::{Credentials, payload_hash};
use crate::system::{self, Memory};

/// How long a server may take to start and to stop.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a server's output that a failure shows.
const SHOWN_LINES: usize = 20;
/// Bucket of the backend that Holdfast uses in front of MinIO.
const REPOSITORY: &str = "holdfast-repository";
const REGION: &str = "us-east-1";

/// Programs to start.
#[derive(Clone, Debug)]
pub struct Programs {
    pub holdfast: PathBuf,
    pub minio: PathBuf,
}

/// What a run can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Holdfast on its embedded store.
    Holdfast,
    /// MinIO, the reference.
    Minio,
    /// Holdfast in front of a MinIO.
    #[value(name = "holdfast+minio")]
    HoldfastOnMinio,
    /// A second MinIO: how far two equal targets differ is the noise of the machine.
    Minio2,
}

impl Kind {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Minio => "minio",
            Self::HoldfastOnMinio => "holdfast+minio",
            Self::Minio2 => "minio2",
        }
    }

    fn programs(self, programs: &Programs) -> Vec<&Path> {
        match self {
            Self::Holdfast => vec![&programs.holdfast],
            Self::Minio | Self::Minio2 => vec![&programs.minio],
            Self::HoldfastOnMinio => vec![&programs.holdfast, &programs.minio],
        }
    }

    /// A program that it needs and that is not there.
    #[must_use]
    pub fn missing(self, programs: &Programs) -> Option<&Path> {
        self.programs(programs).into_iter().find(|program| !program.is_file())
    }
}

/// Something that speaks S3, with the processes behind it when the bench started them.
pub struct Target {
    pub name: String,
    pub version: String,
    pub endpoint: Endpoint,
    /// The front first.
    servers: Vec<Server>,
}

impl Target {
    /// A URL whose processes are not known.
    #[must_use]
    pub fn outside(name: &str, endpoint: Endpoint) -> Self {
        Self { name: name.to_owned(), version: "unknown".to_owned(), endpoint, servers: Vec::new() }
    }

    /// Starts a target under `directory` and waits until it is ready.
    ///
    /// # Errors
    /// When a server does not start; shows what it printed.
    pub async fn start(kind: Kind, programs: &Programs, directory: &Path) -> Result<Self> {
        let directory = directory.join(kind.name().replace('+', "-on-"));
        fs::create_dir(&directory)?;
        let mut servers = Vec::new();
        if kind != Kind::Holdfast {
            servers.push(Server::minio(&programs.minio, &directory)?);
            servers[0].wait_ready().await?;
        }
        let mut version = version_of_minio(&programs.minio);
        if matches!(kind, Kind::Holdfast | Kind::HoldfastOnMinio) {
            let backend = match servers.first() {
                None => None,
                Some(minio) => Some(repository(&minio.endpoint()).await?),
            };
            servers.insert(0, Server::holdfast(&programs.holdfast, &directory, backend)?);
            servers[0].wait_ready().await?;
            let own = version_of(&programs.holdfast, &["--version"]);
            version = if kind == Kind::Holdfast { own } else { format!("{own} on {version}") };
        }
        let endpoint = servers[0].endpoint();
        Ok(Self { name: kind.name().to_owned(), version, endpoint, servers })
    }

    /// Whether the bench can see its processes.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Processor time of all its servers, and of the front alone; `None` when they are not ours.
    ///
    /// # Errors
    /// When a server has ended: shows what it printed.
    pub fn cpu(&self) -> Result<Option<Cpu>> {
        let mut cpu = Cpu::default();
        for (at, server) in self.servers.iter().enumerate() {
            let own = system::cpu_of(server.child.id()).with_context(|| server.ended())?;
            cpu.all += own;
            if at == 0 {
                cpu.front = own;
            }
        }
        Ok(self.is_ours().then_some(cpu))
    }

    /// Memory of each server.
    ///
    /// # Errors
    /// When a server has ended: shows what it printed.
    pub fn memory(&self) -> Result<BTreeMap<&'static str, Memory>> {
        let of =
            |server: &Server| Ok((server.name, system::memory_of(server.child.id()).with_context(|| server.ended())?));
        self.servers.iter().map(of).collect()
    }

    /// Bytes on the disk; `None` when the servers are not ours.
    #[must_use]
    pub fn disk_bytes(&self) -> Option<u64> {
        self.is_ours().then(|| self.servers.iter().map(|server| system::disk_bytes(&server.data)).sum())
    }
}

/// Processor time so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub all: Duration,
    pub front: Duration,
}

/// Makes the bucket of a Holdfast in front of `minio`; gives the backend's URL and keys.
pub(crate) async fn repository(minio: &Endpoint) -> Result<Backend> {
    Client::connect(minio).await?.put(&format!("/{REPOSITORY}"), &Payload::empty()).await?;
    let endpoint = &minio.address;
    Ok(Backend {
        url: format!("s3://{REPOSITORY}/bench?endpoint=http://{endpoint}&region={REGION}&path_style=true"),
        credentials: minio.credentials.clone(),
    })
}

pub(crate) struct Backend {
    pub url: String,
    pub credentials: Credentials,
}

/// A server process. Dropping it ends it: first with SIGTERM, then for good.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    data: PathBuf,
    log: PathBuf,
    /// Known at once, or once the server has printed it.
    address: Option<String>,
    credentials: Credentials,
}

impl Server {
    pub(crate) fn minio(program: &Path, directory: &Path) -> Result<Self> {
        let address = free_address()?;
        let data = directory.join("minio-data");
        fs::create_dir(&data)?;
        let mut command = Command::new(program);
        command.args(["server", "--quiet", "--address", &address]).arg("--certs-dir").arg(directory).arg(&data);
        command.envs([("MINIO_BROWSER", "off"), ("MINIO_UPDATE", "off")]);
        Self::spawn("minio", "MINIO", command, directory, data, Some(address))
    }

    fn holdfast(program: &Path, directory: &Path, backend: Option<Backend>) -> Result<Self> {
        let data = directory.join("holdfast-data");
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        if let Some(backend) = backend {
            command.args(["--backend", &backend.url]);
            command.env("HOLDFAST_BACKEND_ACCESS_KEY_ID", backend.credentials.access_key);
            command.env("HOLDFAST_BACKEND_SECRET_ACCESS_KEY", backend.credentials.secret_key);
        }
        Self::spawn("holdfast", "HOLDFAST", command, directory, data, None)
    }

    fn spawn(
        name: &'static str,
        prefix: &str,
        mut command: Command,
        directory: &Path,
        data: PathBuf,
        address: Option<String>,
    ) -> Result<Self> {
        let credentials = new_credentials(name);
        command.env(format!("{prefix}_ROOT_USER"), &credentials.access_key);
        command.env(format!("{prefix}_ROOT_PASSWORD"), &credentials.secret_key);
        let path = directory.join(format!("{name}.log"));
        let log = File::create(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, data, log: path, address, credentials })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.clone().unwrap_or_default(), credentials: self.credentials.clone() }
    }

    /// Waits until it has said where it listens and answers a signed request there.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let ends = Instant::now() + READY_WITHIN;
        loop {
            ensure!(self.child.try_wait()?.is_none(), self.ended());
            if self.address.is_none() {
                self.address = printed_address(&fs::read_to_string(&self.log).unwrap_or_default());
            }
            if self.address.is_some() && self.answers().await {
                return Ok(());
            }
            if Instant::now() > ends {
                bail!("{} is not ready within {READY_WITHIN:?}; it printed:\n{}", self.name, self.printed());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn answers(&self) -> bool {
        let list = async { Client::connect(&self.endpoint()).await?.get("/", "").await };
        tokio::time::timeout(READY_WITHIN, list).await.is_ok_and(|reply| reply.is_ok())
    }

    fn ended(&self) -> String {
        format!("{} has ended; it printed:\n{}", self.name, self.printed())
    }

    fn printed(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A process that has ended already cannot be told to end.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let ends = Instant::now() + STOP_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < ends {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The address in a line such as `endpoint http://127.0.0.1:41233`. An `endpoint=` in a backend's URL is not ours.
fn printed_address(text: &str) -> Option<String> {
    // A line that is not whole yet may hold half a port.
    let whole = &text[..=text.rfind('\n')?];
    let at = whole.find("endpoint http://127.0.0.1:")? + "endpoint http://".len();
    let end = whole[at..].find(|byte: char| !byte.is_ascii_digit() && byte != '.' && byte != ':')?;
    Some(whole[at..at + end].to_owned())
}

/// Keys that nobody else has: derived from the process and the time.
pub(crate) fn new_credentials(name: &str) -> Credentials {
    let seed = format!("{name} {} {:?}", std::process::id(), std::time::SystemTime::now());
    Credentials {
        access_key: format!("bench-{name}"),
        secret_key: payload_hash(seed.as_bytes())[..40].to_owned(),
        region: REGION.to_owned(),
    }
}

/// An address that nobody listens on at this moment. MinIO does not tell which port it got for 0.
pub(crate) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

pub(crate) fn version_of(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// A MinIO that was built from its module does not know its version; the go tool reads it from the program.
pub(crate) fn version_of_minio(program: &Path) -> String {
    let output = Command::new("go").args(["version", "-m"]).arg(program).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let module = text.lines().find_map(|line| line.trim().strip_prefix("mod\t")).unwrap_or_default();
    match module.split('\t').nth(1) {
        Some(version) if version != "(devel)" => format!("minio {version}"),
        _ => version_of(program, &["--version"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_address_is_taken_from_a_whole_line() {
        let check = |text, expected: Option<&str>| assert_eq!(printed_address(text).as_deref(), expected, "{text}");
        check("", None);
        check("endpoint http://127.0.0.1:412", None);
        check("holdfast 0.1.0\nendpoint http://127.0.0.1:41233\n", Some("127.0.0.1:41233"));
        check("{\"msg\":\"endpoint http://127.0.0.1:9\",\"x\":1}\nmore", Some("127.0.0.1:9"));
        check("serves s3://r/x?endpoint=http://127.0.0.1:1&region=r\n", None);
        check("serves s3://r/x?endpoint=http://127.0.0.1:1&a=b\nendpoint http://127.0.0.1:2\n", Some("127.0.0.1:2"));
    }
}
