//! A cluster of real processes on a LAN of its own: each node in a network namespace, all on one bridge with multicast, a
//! MinIO behind them. Nodes can be killed, frozen, and cut off from their peers while clients still reach them; their clocks,
//! disks and links can be made bad, and so can the way to MinIO (see [`crate::proxy`]).
//!
//! Needs root, `ip` and `iptables`; without them a case is skipped, in CI it fails.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::raw::{self, Raw};
use crate::disk::Disk;
use crate::minio::Minio;
use crate::process::{Launch, Process, ROOT_PASSWORD, ROOT_USER, holdfast_program, tail, wait_until};
use crate::proxy::Proxy;
use crate::skip::{self, skip};
use crate::target::{Endpoint, REGION, Target};

const PEER_PORT: u16 = 9910;
const API_PORT: u16 = 9900;
/// Until a node that was started answers as ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The bucket that the cluster stands on.
pub const REPOSITORY: &str = "repository-of-the-cluster";
/// Where Debian keeps the library that shows a process another time.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];
/// How long a process may go on with the old time after its clock was set.
const CLOCK_IS_READ_WITHIN: Duration = Duration::from_secs(10);
const SECRET: &str = "a-secret-of-tests-with-more-than-32-characters";

/// Which way a cut works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing from or to peers.
    Both,
    /// The node hears its peers, they do not hear it.
    Outgoing,
    /// They hear it, it does not hear them.
    Incoming,
}

/// How nodes find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// Real multicast on the bridge.
    Mdns,
    /// A list of addresses.
    Static,
}

/// What a node said, without a line for each request.
fn without_access(output: &str) -> String {
    output.lines().filter(|line| !line.contains("holdfast::access")).fold(String::new(), |all, line| all + line + "\n")
}

/// One node.
#[derive(Debug)]
struct Member {
    namespace: String,
    address: String,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    frozen: bool,
    /// The library that shows it another time and the file that says which, when its clock can be set.
    clock: Option<(PathBuf, PathBuf)>,
    clock_off: i64,
    disk: Option<Disk>,
}

/// The cluster. Fields are dropped in this order: processes before namespaces before directories.
#[derive(Debug)]
pub struct Lan {
    members: Vec<Member>,
    minio: Minio,
    proxy: Proxy,
    prefix: String,
    find: Find,
    network: Network,
    dir: TempDir,
}

/// The bridge and namespaces; dropping it removes them.
#[derive(Debug)]
struct Network {
    bridge: String,
    subnet: String,
    namespaces: Vec<String>,
}

fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Network {
    fn new() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(skip("network namespaces need root"));
        }
        skip::program(&["ip"], "apt-get install iproute2")?;
        skip::program(&["iptables"], "apt-get install iptables")?;
        let number = std::process::id() % 16_000;
        let bridge = format!("hfb{number}");
        let subnet = format!("10.{}.{}", 64 + number / 256, number % 256);
        let network = Self { bridge: bridge.clone(), subnet: subnet.clone(), namespaces: Vec::new() };
        ip(&format!("link add {bridge} type bridge mcast_snooping 0"))?;
        ip(&format!("addr add {subnet}.254/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        Ok(network)
    }

    fn host(&self) -> String {
        format!("{}.254", self.subnet)
    }

    /// A namespace with one interface on the bridge; its name and address.
    fn join(&mut self, number: usize) -> Result<(String, String)> {
        let (bridge, name) = (&self.bridge, format!("{}-{number}", self.bridge));
        let (outside, address) = (format!("{bridge}v{number}"), format!("{}.{}", self.subnet, number + 1));
        ip(&format!("netns add {name}"))?;
        self.namespaces.push(name.clone());
        ip(&format!("link add {outside} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set {outside} master {bridge} up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} route add default via {}", self.host()))?;
        Ok((name, address))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Best effort: what is left only has a name that nothing else uses.
        for namespace in &self.namespaces {
            let _ = ip(&format!("netns del {namespace}"));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

impl Lan {
    /// A LAN with a MinIO and `nodes` nodes, which are started together and ready when this returns.
    ///
    /// # Errors
    /// When something does not start; the error carries the output of the node that did not.
    pub fn start(nodes: usize, find: Find) -> Result<Self> {
        let mut lan = Self::prepare(nodes, find)?;
        for node in 0..nodes {
            lan.launch(node)?;
        }
        for node in 0..nodes {
            lan.await_ready(node)?;
        }
        Ok(lan)
    }

    /// The same, with no node started yet.
    ///
    /// # Errors
    /// When the network or MinIO does not start.
    pub fn prepare(nodes: usize, find: Find) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("holdfast-lan-").tempdir()?;
        let mut network = Network::new()?;
        let minio = Minio::start_on(dir.path(), &network.host())?;
        let proxy = Proxy::start(&network.host(), minio.address())?;
        let endpoint = Endpoint::of(Target::Minio, minio.address());
        endpoint.raw().put(REPOSITORY, "", &[], b"")?.expect(200).context("cannot create the backend bucket")?;
        let mut members = Vec::new();
        for number in 0..nodes {
            members.push(Member::new(&mut network, dir.path(), number)?);
        }
        Ok(Self { members, minio, proxy, prefix: "repo".to_owned(), find, network, dir })
    }

    /// Adds a node that is not started yet; its number.
    ///
    /// # Errors
    /// When its namespace cannot be made.
    pub fn add(&mut self) -> Result<usize> {
        let number = self.members.len();
        self.members.push(Member::new(&mut self.network, self.dir.path(), number)?);
        Ok(number)
    }

    /// How many nodes there are, running or not.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.members.len()
    }

    /// Starts a node's process without waiting for it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch(&mut self, node: usize) -> Result<()> {
        let peers: Vec<String> = self.members.iter().map(|member| format!("{}:{PEER_PORT}", member.address)).collect();
        let discovery = match self.find {
            Find::Mdns => "mdns".to_owned(),
            Find::Static => format!("static:{}", peers.join(",")),
        };
        let member = &self.members[node];
        let (api, peer) = (format!("{}:{API_PORT}", member.address), format!("{}:{PEER_PORT}", member.address));
        let more = ["--listen", &api, "--cluster", "tests", "--peer-listen", &peer, "--peer-advertise", &peer];
        let launch = self.command(node, "serve", &[&more[..], &["--discovery", &discovery]].concat())?;
        let member = &mut self.members[node];
        member.process = Some(Process::start(&launch)?);
        member.frozen = false;
        Ok(())
    }

    /// How to run a command of the program in a node's namespace, on its directory and the backend.
    fn command(&self, node: usize, command: &str, more: &[&str]) -> Result<Launch> {
        let backend = format!(
            "s3://{REPOSITORY}/{}?endpoint=http://{}&region={REGION}&path_style=true",
            self.prefix,
            self.proxy.address()
        );
        let (member, program) = (&self.members[node], holdfast_program()?);
        let (program, data) = (program.to_string_lossy(), member.data.to_string_lossy());
        let mut args = vec!["netns", "exec", &member.namespace, &*program, command];
        args.extend(["--data", &*data, "--backend", &backend]);
        args.extend(more);
        let mut env = vec![
            ("HOLDFAST_ROOT_USER", ROOT_USER),
            ("HOLDFAST_ROOT_PASSWORD", ROOT_PASSWORD),
            ("HOLDFAST_BACKEND_ACCESS_KEY_ID", ROOT_USER),
            ("HOLDFAST_BACKEND_SECRET_ACCESS_KEY", ROOT_PASSWORD),
            ("HOLDFAST_CLUSTER_SECRET", SECRET),
            // Few rows are enough for entries to move to the store.
            ("HOLDFAST_INDEX_HEAD_BYTES", "16KiB"),
        ];
        let clock = member.clock.as_ref().map(|(library, file)| (library.to_string_lossy(), file.to_string_lossy()));
        if let Some((library, file)) = &clock {
            // Timers go on as they are: a clock that is set wrong does not change how long a second is.
            env.extend([
                ("LD_PRELOAD", &**library),
                ("FAKETIME_TIMESTAMP_FILE", &**file),
                ("DONT_FAKE_MONOTONIC", "1"),
            ]);
            env.extend([("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("FAKETIME_CACHE_DURATION", "1")]);
        }
        Ok(Launch {
            program: skip::program(&["ip"], "apt-get install iproute2")?,
            args: args.into_iter().map(Into::into).collect(),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            log: member.log.clone(),
        })
    }

    /// Recovers the cluster from the backend into a node's directory, without waiting for the old one; the report.
    ///
    /// # Errors
    /// When the command fails; with its output.
    pub fn recover(&mut self, node: usize) -> Result<serde_json::Value> {
        let mut process = Process::start(&self.command(node, "recover", &["--force", "--json", "--verify", "all"])?)?;
        let status = process.wait(READY_WITHIN).with_context(|| tail(&process.output(), 25))?;
        let output = process.output();
        ensure!(status.success(), "recover failed: {}", tail(&output, 25));
        // The log of the node's last life comes first.
        let report = output.rfind("\n{").context("no report")?;
        Ok(serde_json::from_str(&output[report..])?)
    }

    /// Waits until a node answers as ready.
    ///
    /// # Errors
    /// When it ends or does not become ready; with its output.
    pub fn await_ready(&mut self, node: usize) -> Result<()> {
        let address = self.address(node);
        let process = self.members[node].process.as_mut().context("the node is not started")?;
        let mut ended = false;
        let ready = wait_until("readiness of a node", READY_WITHIN, || {
            ended = !process.is_running()?;
            Ok(ended || raw::health(&address, "/_holdfast/health/ready") == Some(200))
        });
        if ended || ready.is_err() {
            bail!("node {node} is not ready, its output:\n{}", tail(&without_access(&process.output()), 25));
        }
        Ok(())
    }

    /// `10.x.y.z:PORT` of a node's S3 listener.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        format!("{}:{API_PORT}", self.members[node].address)
    }

    /// A node's endpoint.
    #[must_use]
    pub fn endpoint(&self, node: usize) -> Endpoint {
        let clock_off = self.members[node].clock_off;
        Endpoint { clock_off, ..Endpoint::of(Target::OverMinio, &self.address(node)) }
    }

    /// A client of a node.
    #[must_use]
    pub fn raw(&self, node: usize) -> Raw {
        self.endpoint(node).raw()
    }

    /// The number of the node that leads, as a node that answers sees it.
    ///
    /// # Errors
    /// When no node knows a leader in time.
    pub fn leader(&self) -> Result<usize> {
        let mut leader = None;
        wait_until("a leader", READY_WITHIN, || {
            leader = (0..self.nodes()).find(|node| self.status(*node).is_some_and(|status| status["role"] == "leader"));
            Ok(leader.is_some())
        })?;
        leader.context("no leader")
    }

    /// What a node says of itself, when it answers.
    #[must_use]
    pub fn status(&self, node: usize) -> Option<serde_json::Value> {
        let member = &self.members[node];
        if member.process.is_none() || member.frozen {
            return None;
        }
        let mut raw = self.raw(node).within(Duration::from_secs(2));
        let reply = raw.get("_holdfast", "v1/status", &[]).ok().filter(|reply| reply.status == 200)?;
        serde_json::from_slice(&reply.body).ok()
    }

    /// Kills a node's process at once.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut process) = self.members[node].process.take() {
            process.kill();
        }
    }

    /// Asks a node to drain and end, and waits for it.
    ///
    /// # Errors
    /// When it does not end in time, or fails.
    pub fn stop(&mut self, node: usize) -> Result<()> {
        let Some(mut process) = self.members[node].process.take() else { return Ok(()) };
        process.terminate();
        let status = process.wait(Duration::from_secs(40))?;
        ensure!(status.success(), "node {node} ended with {status}:\n{}", tail(&process.output(), 20));
        Ok(())
    }

    /// Removes a node's directory; it must not run.
    ///
    /// # Errors
    /// When it cannot.
    pub fn wipe(&mut self, node: usize) -> Result<()> {
        Ok(std::fs::remove_dir_all(&self.members[node].data)?)
    }

    /// Stops a node's process as SIGSTOP does, until [`Lan::thaw`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self, node: usize) -> Result<()> {
        self.signal(node, Signal::STOP)?;
        self.members[node].frozen = true;
        Ok(())
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self, node: usize) -> Result<()> {
        self.signal(node, Signal::CONT)?;
        self.members[node].frozen = false;
        Ok(())
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let process = self.members[node].process.as_ref().context("the node does not run")?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Cuts a node off from its peers. Clients and the backend still reach it.
    ///
    /// # Errors
    /// When a rule cannot be added.
    pub fn cut(&self, node: usize, cut: Cut) -> Result<()> {
        let chains = match cut {
            Cut::Both => &["INPUT", "OUTPUT"][..],
            Cut::Outgoing => &["OUTPUT"],
            Cut::Incoming => &["INPUT"],
        };
        for other in (0..self.nodes()).filter(|other| *other != node) {
            for chain in chains {
                let side = if *chain == "INPUT" { "-s" } else { "-d" };
                let member = &self.members[node];
                let rule = ["-w", "-A", chain, side, &self.members[other].address, "-j", "DROP"];
                run(Command::new("ip").args(["netns", "exec", &member.namespace, "iptables"]).args(rule))?;
            }
        }
        Ok(())
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// When the rules cannot be removed.
    pub fn heal(&self, node: usize) -> Result<()> {
        let member = &self.members[node];
        run(Command::new("ip").args(["netns", "exec", &member.namespace, "iptables", "-w", "-F"]))
    }

    /// Copies the directory of a node that does not run to a node of its own, which is not started; its number.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn clone_node(&mut self, node: usize) -> Result<usize> {
        let clone = self.add()?;
        run(Command::new("cp").arg("-a").arg(&self.members[node].data).arg(&self.members[clone].data))?;
        Ok(clone)
    }

    /// Waits until one of `nodes` has ended by itself; which, and what it printed.
    ///
    /// # Errors
    /// When none ends.
    pub fn await_end(&mut self, nodes: &[usize]) -> Result<(usize, String)> {
        let mut ended = None;
        wait_until("the end of a node", READY_WITHIN, || {
            for node in nodes {
                let process = self.members[*node].process.as_mut().context("the node is not started")?;
                if !process.is_running()? {
                    ended = Some((*node, process.output()));
                }
            }
            Ok(ended.is_some())
        })?;
        let (node, output) = ended.context("no node ended")?;
        self.members[node].process = None;
        Ok((node, output))
    }

    /// Whether a node's process runs.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    pub fn is_running(&mut self, node: usize) -> Result<bool> {
        self.members[node].process.as_mut().map_or(Ok(false), Process::is_running)
    }

    /// Puts the directory of a node that was never started on a small disk.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn on_small_disk(&mut self, node: usize) -> Result<()> {
        let member = &mut self.members[node];
        member.disk = Some(Disk::mount(member.data.clone())?);
        Ok(())
    }

    /// The small disk of a node.
    #[must_use]
    pub fn disk(&self, node: usize) -> Option<&Disk> {
        self.members[node].disk.as_ref()
    }

    /// From its next start on the clock of a node can be set.
    ///
    /// # Errors
    /// A skip without the program faketime.
    pub fn with_clock(&mut self, node: usize) -> Result<()> {
        let library = skip::program(FAKETIME, "apt-get install faketime")?;
        let file = self.dir.path().join(format!("clock-{node}"));
        std::fs::write(&file, "+0\n")?;
        self.members[node].clock = Some((library, file));
        Ok(())
    }

    /// Sets the clock of a node so far off, in seconds.
    ///
    /// # Errors
    /// When its clock cannot be set.
    pub fn set_clock(&mut self, node: usize, off: i64) -> Result<()> {
        let member = &mut self.members[node];
        let (_, file) = member.clock.as_ref().context("the clock of this node cannot be set")?;
        std::fs::write(file, format!("{off:+}\n"))?;
        member.clock_off = off;
        // The library looks once in a while; then what is signed by the new time is accepted.
        wait_until("the clock of a node", CLOCK_IS_READ_WITHIN, || Ok(self.status(node).is_some()))
    }

    /// Makes the way to a node slow, in megabits per second.
    ///
    /// # Errors
    /// When `tc` cannot.
    pub fn slow_down(&self, node: usize, megabits: u32) -> Result<()> {
        let tc = skip::program(&["tc"], "apt-get install iproute2")?;
        let device = format!("{}v{node}", self.network.bridge);
        let rule = format!("qdisc add dev {device} root tbf rate {megabits}mbit burst 64k latency 300ms");
        run(Command::new(tc).args(rule.split(' ')))
    }

    /// Ends that.
    ///
    /// # Errors
    /// When `tc` cannot.
    pub fn speed_up(&self, node: usize) -> Result<()> {
        let device = format!("{}v{node}", self.network.bridge);
        run(Command::new("tc").args(["qdisc", "del", "dev", &device, "root"]))
    }

    /// What the names of the repository begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The address at which nodes reach this machine.
    #[must_use]
    pub fn host(&self) -> String {
        self.network.host()
    }

    /// The way between nodes and MinIO.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The MinIO.
    pub fn minio(&mut self) -> &mut Minio {
        &mut self.minio
    }

    /// Ends and wipes all nodes, which then begin on an empty part of the repository.
    ///
    /// # Errors
    /// When a directory cannot be removed.
    pub fn begin_again(&mut self, prefix: &str) -> Result<()> {
        for node in 0..self.nodes() {
            self.kill(node);
            self.wipe(node)?;
        }
        prefix.clone_into(&mut self.prefix);
        Ok(())
    }

    /// The end of a node's output.
    #[must_use]
    pub fn log_tail(&self, node: usize, lines: usize) -> String {
        tail(&std::fs::read_to_string(&self.members[node].log).unwrap_or_default(), lines)
    }
}

impl Member {
    fn new(network: &mut Network, dir: &Path, number: usize) -> Result<Self> {
        let (namespace, address) = network.join(number)?;
        let (data, log) = (dir.join(format!("node-{number}")), dir.join(format!("node-{number}.log")));
        Ok(Self { namespace, address, data, log, process: None, frozen: false, clock: None, clock_off: 0, disk: None })
    }
}
