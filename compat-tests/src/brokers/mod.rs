//! Servers that events are sent to: real ones, each with its data in a directory of its own, so that it can be killed and
//! started again, and read as its users read it.

mod amqp;
mod certificates;
mod kafka;
mod mqtt;
mod nats;
mod postgresql;
mod redis;
pub mod webhook;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use self::amqp::Amqp;
pub use self::certificates::Certificates;
pub use self::kafka::Kafka;
pub use self::mqtt::Mqtt;
pub use self::nats::Nats;
pub use self::postgresql::PostgreSql;
pub use self::redis::Redis;
use crate::process::{Launch, Process, tail, wait_until};

/// How long a server may take until it listens. RabbitMQ needs some seconds on a busy machine.
const LISTENS_WITHIN: Duration = Duration::from_secs(90);

/// A server that events are sent to.
pub trait Broker: Send {
    /// The settings of a target that sends there.
    fn settings(&self) -> Value;

    /// The messages that it has, in its order; those it gave before, too.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn messages(&mut self) -> Result<Vec<Value>>;

    /// Ends it. What it has acknowledged it must still have when it is back.
    ///
    /// # Errors
    /// When it does not end.
    fn stop(&mut self) -> Result<()>;

    /// Starts it again, at the same address.
    ///
    /// # Errors
    /// When it does not listen in time.
    fn start(&mut self) -> Result<()>;
}

/// Servers that speak TLS only, and are not read: those that can be have an `over_tls` of their own.
///
/// # Errors
/// A skip when one is not installed.
pub fn secure_brokers(dir: &Path, certificates: &Certificates) -> Result<Vec<Box<dyn Broker>>> {
    let (key, certificate) = (certificates.key.display().to_string(), certificates.certificate.display().to_string());
    let brokers: [Box<dyn Broker>; 4] = [
        Box::new(nats::over_tls(dir, &key, &certificate)?),
        Box::new(redis::over_tls(dir, &key, &certificate)?),
        Box::new(mqtt::over_tls(dir, &key, &certificate)?),
        Box::new(webhook::over_tls(dir, &key, &certificate)?),
    ];
    Ok(brokers.into())
}

/// A server that only says that it takes messages.
struct Only {
    server: Server,
    settings: Value,
}

impl Broker for Only {
    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        anyhow::bail!("it is not read")
    }

    fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()
    }
}

/// A server process at a port.
struct Server {
    launch: Launch,
    port: u16,
    process: Option<Process>,
}

impl Server {
    fn new(program: PathBuf, dir: &Path, name: &str, port: u16) -> Self {
        let log = dir.join(format!("{name}.log"));
        Self { launch: Launch { program, args: Vec::new(), env: Vec::new(), log }, port, process: None }
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.launch.args.extend(args.iter().map(Into::into));
        self
    }

    fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.launch.env.push((name.to_owned(), value.into()));
        self
    }

    fn start(&mut self) -> Result<()> {
        let mut process = Process::start(&self.launch)?;
        let listens = wait_until("a broker to listen", LISTENS_WITHIN, || {
            ensure!(process.is_running()?, "it ended");
            Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok())
        });
        listens.with_context(|| tail(&process.output(), 20))?;
        self.process = Some(process);
        Ok(())
    }

    /// Asks it to end, and kills it when it does not.
    fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.terminate();
        if process.wait(Duration::from_secs(20)).is_err() {
            process.kill();
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.process = None;
    }
}

/// A port that nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Runs something asynchronous to its end.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await });
    runtime.shutdown_background();
    done.context("a broker did not answer in 30 s")?
}

fn value(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).with_context(|| String::from_utf8_lossy(body).into_owned())
}
