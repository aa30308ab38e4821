//! Databases: SQLite with a write-ahead log (a shared map, byte-range locks, syncs), used by two processes and killed in the
//! middle of transactions; PostgreSQL, which renames, truncates and syncs all over its directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Ground, Report, tool};
use crate::client::command::succeed;
use crate::process::{Launch, Process, tail, wait_until};
use crate::skip::{program, skip};

const GET_SQLITE: &str = "apt-get install sqlite3";
/// Rows of one transaction.
const ROWS: u32 = 20;
const TRANSACTIONS: u32 = 60;
const KILLS: u32 = 3;
/// Transactions that must be acknowledged before a kill.
const BEFORE_KILL: u32 = 15;
const SOON: Duration = Duration::from_secs(120);
/// Each of two processes waits so long for the other.
const BUSY: &str = ".timeout 60000\nPRAGMA synchronous=FULL;\n";
const SCHEMA: &str = "PRAGMA journal_mode=WAL; CREATE TABLE rows(writer INTEGER, batch INTEGER, number INTEGER, \
                      text TEXT, PRIMARY KEY(writer, batch, number)); CREATE INDEX texts ON rows(text);";

/// Two processes write to one database at a time; nothing is lost, and the database is sound.
///
/// # Errors
/// A skip without sqlite3; otherwise what is wrong.
pub fn sqlite(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "sqlite")?;
    let database = ground.join("data.db");
    let mode = query(&database, SCHEMA)?;
    ensure!(mode.trim() == "wal", "no write-ahead log here: {mode}");
    let batches = TRANSACTIONS * effort;
    let mut writers = [1, 2].map(|writer| Writer::start(&database, writer, batches));
    ground.timed("two writers", || {
        for writer in &mut writers {
            let writer = writer.as_mut().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            writer.await_end()?;
            ensure!(writer.acknowledged()? == batches, "{}", writer.said());
        }
        Ok(())
    })?;
    for writer in [1, 2] {
        audit(&database, writer, batches, batches)?;
    }
    query(&database, "PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM rows WHERE number % 2; VACUUM;")?;
    sound(&database)?;
    let left = query(&database, "SELECT count(*) FROM rows;")?;
    ensure!(left.trim().parse() == Ok(2 * batches * ROWS / 2), "{left} rows are left");
    ground.figure("transactions", f64::from(2 * batches));
    Ok(ground.finish())
}

/// A writer is killed in the middle, again and again; what it acknowledged is there, each transaction whole.
///
/// # Errors
/// As [`sqlite`].
pub fn sqlite_kills(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "sqlite-kills")?;
    let database = ground.join("data.db");
    query(&database, SCHEMA)?;
    for writer in 1..=KILLS * effort {
        let mut running = Writer::start(&database, writer, u32::MAX)?;
        running.await_acknowledged(BEFORE_KILL)?;
        running.kill();
        let acknowledged = running.acknowledged()?;
        audit(&database, writer, acknowledged, acknowledged + 1)?;
    }
    ground.figure("kills", f64::from(KILLS * effort));
    Ok(ground.finish())
}

fn shell(database: &Path) -> Result<Command> {
    let dir = database.parent().context("a database has a directory")?;
    let mut command = tool("sqlite3", GET_SQLITE, dir)?;
    command.args(["-bail", "-batch"]).arg(database);
    Ok(command)
}

/// What `sql` prints.
///
/// # Errors
/// When it fails.
pub fn query(database: &Path, sql: &str) -> Result<String> {
    let mut command = shell(database)?;
    command.args(["-cmd", ".timeout 60000"]).arg(sql);
    succeed(command)
}

fn sound(database: &Path) -> Result<()> {
    let answer = query(database, "PRAGMA integrity_check;")?;
    ensure!(answer.trim() == "ok", "integrity_check: {answer}");
    Ok(())
}

/// Whole transactions only, at least `least` and at most `most` of them, the first ones.
fn audit(database: &Path, writer: u32, least: u32, most: u32) -> Result<()> {
    sound(database)?;
    let sql =
        format!("SELECT count(*), count(DISTINCT batch), coalesce(max(batch), 0) FROM rows WHERE writer={writer};");
    let answer = query(database, &sql)?;
    let numbers: Vec<u32> = answer.trim().split('|').map(str::parse).collect::<Result<_, _>>()?;
    let [rows, batches, last] = numbers[..] else { anyhow::bail!("{answer}") };
    ensure!(rows == batches * ROWS && batches == last, "writer {writer}: a transaction is torn or lost: {answer}");
    ensure!((least..=most).contains(&batches), "writer {writer}: {batches} of {least} acknowledged to {most}");
    Ok(())
}

/// A process that writes transactions; after each it prints the transaction's number.
struct Writer {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Writer {
    fn start(database: &Path, writer: u32, batches: u32) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = shell(database)?;
        command.stdin(Stdio::piped()).stdout(log.reopen()?).stderr(log.reopen()?);
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("no stdin")?;
        // It ends with the pipe: when the process has ended, nobody reads.
        std::thread::spawn(move || {
            let begun = input.write_all(BUSY.as_bytes());
            (1..=batches)
                .map(|batch| transaction(writer, batch))
                .try_for_each(|sql| input.write_all(sql.as_bytes()))
                .and(begun)
        });
        Ok(Self { child, log })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// How many transactions the process has printed, all in order.
    fn acknowledged(&self) -> Result<u32> {
        let said = self.said();
        let complete = &said[..said.rfind('\n').map_or(0, |at| at + 1)];
        let mut count = 0;
        for line in complete.lines() {
            count += 1;
            ensure!(line.parse() == Ok(count), "the writer says:\n{}", tail(&said, 10));
        }
        Ok(count)
    }

    fn await_acknowledged(&mut self, count: u32) -> Result<()> {
        wait_until("transactions", SOON, || {
            ensure!(self.child.try_wait()?.is_none(), "the writer ended:\n{}", tail(&self.said(), 10));
            Ok(self.acknowledged()? >= count)
        })
    }

    fn await_end(&mut self) -> Result<()> {
        wait_until("the end of a writer", SOON, || Ok(self.child.try_wait()?.is_some()))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the writer ended with {status}:\n{}", tail(&self.said(), 10));
        Ok(())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn transaction(writer: u32, batch: u32) -> String {
    let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})");
    format!(
        "BEGIN IMMEDIATE; INSERT INTO rows {rows} SELECT {writer},{batch},i,hex(randomblob(60)) FROM n; COMMIT;\n\
         SELECT {batch};\n"
    )
}

/// `initdb`, `pgbench`, an immediate stop (a crash), recovery, and the sums that the benchmark keeps equal.
///
/// # Errors
/// A skip without PostgreSQL, or as root without its user; otherwise what is wrong.
pub fn postgres(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "postgres")?;
    let server = Postgres::new(ground.path())?;
    ground.timed("initdb", || server.init())?;
    let mut running = server.start()?;
    let (clients, transactions) = ("2", (100 * effort).to_string());
    ground.timed("pgbench -i", || server.run("pgbench", &["-q", "-i", "-s", "1", "postgres"]))?;
    ground.timed("pgbench", || server.run("pgbench", &["-n", "-c", clients, "-t", &transactions, "postgres"]))?;
    running.kill();
    // The children of a killed postmaster end by themselves, and the next one waits for them to be gone.
    wait_until("the end of PostgreSQL's processes", SOON, || {
        if !running.is_running()? {
            running = server.launch()?;
        }
        Ok(server.run("psql", &["-Atqc", "SELECT 1", "postgres"]).is_ok())
    })?;
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
                (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta),0) FROM pgbench_history), \
                (SELECT count(*) FROM pgbench_history)";
    let answer = server.run("psql", &["-Atqc", sums, "postgres"])?;
    let numbers: Vec<i64> = answer.trim().split('|').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers[..4].iter().all(|sum| *sum == numbers[0]), "the sums differ after a crash: {answer}");
    ensure!(numbers[4] == i64::from(200 * effort), "transactions are lost: {answer}");
    server.run("pg_amcheck", &["--install-missing", "postgres"])?;
    running.terminate();
    running.wait(SOON)?;
    Ok(ground.finish())
}

/// A server as root cannot run it: as the user that its package made.
struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    outside: tempfile::TempDir,
    as_root: bool,
}

impl Postgres {
    fn new(dir: &Path) -> Result<Self> {
        const HOW_TO_GET: &str = "apt-get install postgresql";
        let versions = std::fs::read_dir("/usr/lib/postgresql").map_err(|_| skip(HOW_TO_GET))?;
        let bin = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).max();
        let bin = bin.filter(|bin| bin.join("initdb").is_file()).ok_or_else(|| skip(HOW_TO_GET))?;
        let as_root = rustix::process::geteuid().is_root();
        let (data, outside) = (dir.join("data"), tempfile::tempdir()?);
        std::fs::create_dir(&data)?;
        let server = Self { bin, data, outside, as_root };
        if as_root {
            program(&["setpriv"], "apt-get install util-linux")?;
            let mut owning = Command::new("chown");
            owning.arg("postgres").arg(&server.data).arg(server.outside.path());
            succeed(owning).map_err(|error| skip(format!("no user postgres: {error:#}")))?;
            // Its user must be able to come here.
            let shared = std::env::temp_dir();
            for folder in dir.ancestors().take_while(|folder| *folder != shared && folder.starts_with(&shared)) {
                let mut opening = Command::new("chmod");
                opening.arg("a+x").arg(folder);
                succeed(opening)?;
            }
        }
        Ok(server)
    }

    fn words(&self, name: &str, args: &[&str]) -> Vec<String> {
        let user: &[&str] = &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let own = self.bin.join(name).to_string_lossy().into_owned();
        let prefix = if self.as_root { user } else { &[] };
        prefix.iter().map(ToString::to_string).chain([own]).chain(args.iter().map(ToString::to_string)).collect()
    }

    fn run(&self, name: &str, args: &[&str]) -> Result<String> {
        let words = self.words(name, args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.outside.path());
        command.env("PGHOST", self.outside.path()).env("PGUSER", "postgres").env("LC_ALL", "C");
        succeed(command)
    }

    fn init(&self) -> Result<String> {
        self.run("initdb", &["-A", "trust", "-U", "postgres", "-D", &self.data.to_string_lossy()])
    }

    fn launch(&self) -> Result<Process> {
        let (data, sockets) = (self.data.to_string_lossy(), self.outside.path().to_string_lossy());
        let args = ["-D", &data, "-k", &sockets, "-c", "listen_addresses=", "-c", "shared_buffers=16MB"];
        let words = self.words("postgres", &args);
        let mut launch = Launch {
            program: PathBuf::from(&words[0]),
            args: words[1..].iter().map(Into::into).collect(),
            env: vec![("LC_ALL".to_owned(), "C".to_owned())],
            log: self.outside.path().join("server.log"),
        };
        if self.as_root {
            launch.program = program(&["setpriv"], "apt-get install util-linux")?;
        }
        Process::start(&launch)
    }

    fn start(&self) -> Result<Process> {
        let mut process = self.launch()?;
        wait_until("PostgreSQL", SOON, || {
            ensure!(process.is_running()?, "it ended");
            Ok(self.run("psql", &["-Atqc", "SELECT 1", "postgres"]).is_ok())
        })
        .with_context(|| tail(&process.output(), 15))?;
        Ok(process)
    }
}
