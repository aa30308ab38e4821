//! A MinIO server process: the reference peer, and a backend to stand in front of.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Launch, Process, ROOT_PASSWORD, ROOT_USER, tail, wait_until};
use crate::skip;
use crate::target::{Endpoint, Target};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// MinIO cannot listen on port 0, so a port is picked first; another process may take it in between.
const TRIES: usize = 3;

/// A running MinIO.
#[derive(Debug)]
pub struct Minio {
    process: Process,
    address: String,
    launch: Launch,
}

impl Minio {
    /// Starts MinIO with its data under `dir`.
    ///
    /// # Errors
    /// A skip when the program is missing; otherwise when it does not become ready.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_on(dir, "127.0.0.1")
    }

    /// Starts MinIO with its data under `dir`, listening on `host`.
    ///
    /// # Errors
    /// As [`Minio::start`].
    pub fn start_on(dir: &Path, host: &str) -> Result<Self> {
        let program = skip::program(&["minio"], "make tools")?;
        let data = dir.join("minio");
        std::fs::create_dir_all(&data)?;
        let mut last = None;
        for _ in 0..TRIES {
            let address = free_address(host)?;
            let env = [
                ("MINIO_ROOT_USER", ROOT_USER),
                ("MINIO_ROOT_PASSWORD", ROOT_PASSWORD),
                ("MINIO_BROWSER", "off"),
                ("MINIO_UPDATE", "off"),
                ("MINIO_DOMAIN", "localhost"),
                // What the bench asks of it: how many requests it had, and S3 Select of Parquet.
                ("MINIO_PROMETHEUS_AUTH_TYPE", "public"),
                ("MINIO_API_SELECT_PARQUET", "on"),
            ];
            let launch = Launch {
                program: program.clone(),
                args: vec![
                    "server".into(),
                    "--quiet".into(),
                    "--address".into(),
                    address.clone().into(),
                    data.clone().into(),
                ],
                env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                log: dir.join("minio.log"),
            };
            let mut process = Process::start(&launch)?;
            match wait_ready(&mut process, &address) {
                Ok(()) => return Ok(Self { process, address, launch }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("MinIO was not tried")?)
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops it as SIGSTOP does, until [`Minio::thaw`].
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its data and address, after [`Minio::kill`].
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = Process::start(&self.launch)?;
        wait_ready(&mut self.process, &self.address)
    }

    /// The process, to measure it.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn wait_ready(process: &mut Process, address: &str) -> Result<()> {
    wait_until("MinIO's readiness", READY_WITHIN, || {
        ensure!(process.is_running()?, "MinIO ended:\n{}", tail(&process.output(), 20));
        // Its health pages answer 200 before it serves, so ask for something real.
        let reply = Endpoint::of(Target::Minio, address).raw().get("", "", &[]);
        Ok(reply.is_ok_and(|reply| reply.status == 200))
    })
}

/// An address that nobody listens on at this moment.
fn free_address(host: &str) -> Result<String> {
    Ok(TcpListener::bind((host, 0))?.local_addr()?.to_string())
}
