//! Mosquitto, and a subscriber that keeps its session while the broker is away.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Broker, Only, Server, free_port, value};
use crate::process::{Launch, Process, wait_until};
use crate::skip;

/// A Mosquitto server; `mosquitto_sub` prints what arrives.
pub struct Mqtt {
    server: Server,
    received: PathBuf,
    _subscriber: Process,
}

fn program() -> Result<PathBuf> {
    skip::program(&["/usr/sbin/mosquitto", "mosquitto"], "apt-get install mosquitto")
}

/// One over TLS.
pub(super) fn over_tls(dir: &Path, key: &str, certificate: &str) -> Result<Only> {
    let program = program()?;
    let port = free_port()?;
    let config = dir.join("mosquitto-tls.conf");
    let text =
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\ncertfile {certificate}\nkeyfile {key}\n");
    std::fs::write(&config, text)?;
    let mut server = Server::new(program, dir, "mosquitto-tls", port).args(&["-c", &config.display().to_string()]);
    server.start()?;
    let url = format!("mqtts://localhost:{port}");
    Ok(Only { server, settings: json!({ "kind": "mqtt", "url": url, "topic": "events" }) })
}

impl Mqtt {
    /// Starts it.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        let program = program()?;
        let subscriber = skip::program(&["mosquitto_sub"], "apt-get install mosquitto-clients")?;
        // Into a file it would write only when it has much to say.
        let unbuffered = skip::program(&["stdbuf"], "apt-get install coreutils")?;
        let subscriber = subscriber.display().to_string();
        let port = free_port()?;
        let config = dir.join("mosquitto.conf");
        let data = dir.join("mosquitto");
        std::fs::create_dir_all(&data)?;
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nuser root\nmax_queued_messages 0\n",
            data.display()
        );
        std::fs::write(&config, text)?;
        let mut server = Server::new(program, dir, "mosquitto", port).args(&["-c", &config.display().to_string()]);
        server.start()?;
        let received = dir.join("received.json");
        let args =
            ["-oL", &subscriber, "-p", &port.to_string(), "-t", "events/photos", "-q", "1", "-i", "reader", "-c", "-d"];
        let launch = Launch {
            program: unbuffered,
            args: args.iter().map(Into::into).collect(),
            env: Vec::new(),
            log: received.clone(),
        };
        let subscriber = Process::start(&launch)?;
        let own = Self { server, received, _subscriber: subscriber };
        wait_until("a subscription", std::time::Duration::from_secs(10), || {
            Ok(std::fs::read_to_string(&own.received)?.contains("SUBACK"))
        })?;
        Ok(own)
    }
}

impl Broker for Mqtt {
    fn settings(&self) -> Value {
        let url = format!("mqtt://127.0.0.1:{}", self.server.port);
        json!({ "kind": "mqtt", "url": url, "topic": "events/photos", "qos": 1, "batch": 5 })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.received)?;
        // Between what it says of its connection.
        text.lines().filter(|line| line.starts_with('{')).map(|line| value(line.as_bytes())).collect()
    }

    fn stop(&mut self) -> Result<()> {
        // It writes its sessions when it ends in order.
        self.server.stop()?;
        ensure!(self.server.process.is_none());
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()
    }
}
