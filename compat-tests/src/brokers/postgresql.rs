//! PostgreSQL, run by a user of its own, since it does not run as root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::{Broker, Certificates, Server, block_on, free_port};
use crate::skip;

const PASSWORD: &str = "postgres-secret";

/// A PostgreSQL server; events go to the table `audit.events`.
pub struct PostgreSql {
    server: Server,
    /// Whether who comes over the network has to speak TLS, and know the password.
    secure: bool,
    /// Where its socket is, by which tests read it.
    data: String,
}

fn program(name: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.is_file());
    found.ok_or_else(|| skip::skip("postgres not found: apt-get install postgresql"))
}

/// A command line as another user when this one is root.
fn as_user(program: &Path) -> (PathBuf, Vec<String>) {
    let text = program.display().to_string();
    if rustix::process::geteuid().is_root() {
        let words = ["--reuid=postgres", "--regid=postgres", "--clear-groups", &text];
        return ("/usr/bin/setpriv".into(), words.iter().map(|&word| word.to_owned()).collect());
    }
    (program.to_owned(), Vec::new())
}

/// Gives a file to that user.
fn give(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let given = Command::new("chown").arg("postgres:").arg(path).status()?;
        ensure!(given.success(), "no user postgres");
    }
    Ok(())
}

/// Lets only those in over the network who speak TLS and know the password; what the server is told of its certificate.
fn secure(data: &Path, certificates: &Certificates) -> Result<Vec<String>> {
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n")?;
    // It takes no key that others may read.
    let key = data.join("tls.key");
    std::fs::copy(&certificates.key, &key)?;
    give(&key)?;
    let (key, certificate) = (key.display(), certificates.certificate.display());
    let settings = ["ssl=on".to_owned(), format!("ssl_key_file={key}"), format!("ssl_cert_file={certificate}")];
    Ok(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect())
}

impl PostgreSql {
    /// Starts it.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        Self::with(dir, None)
    }

    /// Starts one that speaks TLS only.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn over_tls(dir: &Path, certificates: &Certificates) -> Result<Self> {
        Self::with(dir, Some(certificates))
    }

    fn with(dir: &Path, certificates: Option<&Certificates>) -> Result<Self> {
        let (initdb, postgres) = (program("initdb")?, program("postgres")?);
        let (port, data) = (free_port()?, dir.join("postgresql"));
        std::fs::create_dir_all(&data)?;
        if rustix::process::geteuid().is_root() {
            // Temporary directories are their owner's alone.
            for made in dir.ancestors().take_while(|path| path.starts_with("/tmp") && *path != Path::new("/tmp")) {
                std::fs::set_permissions(made, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
            }
        }
        give(&data)?;
        let (runner, words) = as_user(&initdb);
        let data = data.display().to_string();
        let made = Command::new(runner)
            .args(words)
            .args(["-D", &data, "-U", "holdfast", "--auth=trust", "--no-sync", "-E", "UTF8"])
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = certificates.map_or(Ok(Vec::new()), |certificates| secure(Path::new(&data), certificates))?;
        let (runner, words) = as_user(&postgres);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let number = port.to_string();
        let sockets = format!("unix_socket_directories={data}");
        let server = Server::new(runner, dir, "postgresql", port).args(&words).args(&["-D", &data, "-p", &number]);
        let server = server.args(&["-c", "listen_addresses=127.0.0.1", "-c", &sockets]);
        let mut server = server.args(&tls.iter().map(String::as_str).collect::<Vec<_>>());
        server.start()?;
        let own = Self { server, secure: certificates.is_some(), data };
        let ready = crate::process::wait_until("a database", std::time::Duration::from_secs(30), || {
            Ok(own.execute("CREATE SCHEMA IF NOT EXISTS audit").is_ok())
        });
        ready.context("PostgreSQL")?;
        own.execute(&format!("ALTER USER holdfast PASSWORD '{PASSWORD}'"))?;
        Ok(own)
    }

    async fn client(&self) -> Result<(tokio_postgres::Client, JoinSet<()>)> {
        let config = format!("host={} port={} user=holdfast dbname=postgres", self.data, self.server.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        let mut driver = JoinSet::new();
        // Its end shows at the client.
        driver.spawn(async move { drop(connection.await) });
        Ok((client, driver))
    }

    fn execute(&self, sql: &str) -> Result<()> {
        block_on(async {
            let (client, _driver) = self.client().await?;
            Ok(client.batch_execute(sql).await?)
        })
    }
}

impl Broker for PostgreSql {
    fn settings(&self) -> Value {
        let scheme = if self.secure { "postgress" } else { "postgres" };
        let url = format!("{scheme}://localhost:{}/postgres", self.server.port);
        json!({
            "kind": "postgresql", "url": url, "table": "audit.events",
            "user": "holdfast", "password": PASSWORD, "batch": 20,
        })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        block_on(async {
            let (client, _driver) = self.client().await?;
            let made = client.query_one("SELECT to_regclass('audit.events') IS NOT NULL", &[]).await?;
            if !made.get::<_, bool>(0) {
                return Ok(Vec::new());
            }
            let rows = client.query("SELECT event::text FROM audit.events ORDER BY id", &[]).await?;
            rows.iter().map(|row| Ok(serde_json::from_str(row.get::<_, &str>(0))?)).collect()
        })
    }

    fn stop(&mut self) -> Result<()> {
        // SIGTERM waits for those who are connected; a crash does not.
        self.server.kill();
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()
    }
}
