//! Multicast DNS between hosts: network namespaces joined by a bridge, a process of its own in each, real multicast.
//!
//! A node here is the product's own discovery without the rest of a server: this very program, started again in a
//! namespace with `DISCOVERY_NODE` set to `<cluster name> <port> <sources>`.

#![allow(clippy::print_stdout, reason = "a node reports to its test by printing")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast::cluster::discovery::{self, Announcement, Discovery};
use holdfast_compat_tests::process::{Launch, Process, wait_until};
use holdfast_compat_tests::skip;
use holdfast_compat_tests::suite::Suite;

const NODE: &str = "DISCOVERY_NODE";
/// Probing alone takes 0.75 s; a busy machine may need many times as long.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Of a record whose owner said farewell.
const GONE_WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Ok(node) = std::env::var(NODE) {
        return match run_node(&node) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("failed: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut suite = Suite::new(1);
    suite.case("nodes_of_one_cluster_find_each_other_on_a_lan", nodes_of_one_cluster_find_each_other_on_a_lan);
    suite.case("only_chosen_interfaces_are_used", only_chosen_interfaces_are_used);
    suite.run()
}

/// Prints the candidates whenever they change; leaves properly at SIGTERM.
#[tokio::main(flavor = "current_thread")]
async fn run_node(node: &str) -> Result<()> {
    let words: Vec<&str> = node.split(' ').collect();
    let [cluster, port, sources] = words[..] else { anyhow::bail!("{node:?} is not CLUSTER PORT SOURCES") };
    let announcement = Announcement { cluster: cluster.to_owned(), port: port.parse()?, address: None };
    let discovery = Discovery::start(&discovery::parse(sources)?, &announcement);
    let mut candidates = discovery.candidates();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let now: Vec<String> = candidates.borrow_and_update().iter().cloned().collect();
        println!("candidates {}", now.join(" "));
        tokio::select! {
            changed = candidates.changed() => changed?,
            _ = terminate.recv() => break,
        }
    }
    discovery.stop().await;
    Ok(())
}

/// Namespaces on one bridge: host `i` has the address 10.77.0.i on its interface `lan0`.
struct Lan {
    ip: PathBuf,
    prefix: String,
    hosts: u8,
    dir: tempfile::TempDir,
}

impl Lan {
    fn new(name: &str, hosts: u8) -> Result<Self> {
        let ip = skip::program(&["/usr/sbin/ip", "/sbin/ip", "ip"], "install iproute2")?;
        if !rustix::process::geteuid().is_root() {
            return Err(skip::skip("network namespaces need root"));
        }
        let lan = Self { ip, prefix: format!("hf{name}{}", std::process::id()), hosts, dir: tempfile::tempdir()? };
        if let Err(error) = lan.ip(&format!("netns add {}", lan.namespace(0))) {
            return Err(skip::skip(format!("this machine gives no network namespaces: {error:#}")));
        }
        lan.in_host(0, "link add bridge type bridge")?;
        lan.in_host(0, "link set bridge up")?;
        for host in 1..=hosts {
            let namespace = lan.namespace(host);
            lan.ip(&format!("netns add {namespace}"))?;
            lan.in_host(0, &format!("link add port{host} type veth peer name lan0 netns {namespace}"))?;
            lan.in_host(0, &format!("link set port{host} master bridge up"))?;
            lan.in_host(host, "link set lo up")?;
            lan.in_host(host, &format!("address add 10.77.0.{host}/24 dev lan0"))?;
            lan.in_host(host, "link set lan0 up")?;
        }
        Ok(lan)
    }

    fn namespace(&self, host: u8) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn in_host(&self, host: u8, words: &str) -> Result<()> {
        self.ip(&format!("-n {} {words}", self.namespace(host)))
    }

    fn ip(&self, words: &str) -> Result<()> {
        let output = Command::new(&self.ip).args(words.split(' ')).output().context("ip does not start")?;
        ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn node(&self, host: u8, cluster: &str, sources: &str) -> Result<Node> {
        let program = std::env::current_exe()?;
        let args = ["netns".into(), "exec".into(), self.namespace(host).into(), program.into()].to_vec();
        let env = vec![(NODE.to_owned(), format!("{cluster} {} {sources}", port(host)))];
        let log = self.dir.path().join(format!("{host}.log"));
        Ok(Node(Process::start(&Launch { program: self.ip.clone(), args, env, log })?))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in 0..=self.hosts {
            // What cannot be removed was not made; a leftover would not disturb other runs.
            let _ = self.ip(&format!("netns delete {}", self.namespace(host)));
        }
    }
}

fn port(host: u8) -> u16 {
    9910 + u16::from(host)
}

fn address(host: u8) -> String {
    format!("10.77.0.{host}:{}", port(host))
}

struct Node(Process);

impl Node {
    fn candidates(&mut self) -> Result<Vec<String>> {
        let output = self.0.output();
        ensure!(self.0.is_running()?, "the node has ended: {output}");
        let last = output.lines().rev().find_map(|line| line.strip_prefix("candidates "));
        Ok(last.unwrap_or_default().split(' ').map(str::to_owned).collect())
    }

    fn finds(&mut self, host: u8) -> Result<bool> {
        Ok(self.candidates()?.contains(&address(host)))
    }

    /// Leaves with a farewell.
    fn leave(&mut self) -> Result<()> {
        self.0.terminate();
        let status = self.0.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "it left with {status}: {}", self.0.output());
        Ok(())
    }
}

fn nodes_of_one_cluster_find_each_other_on_a_lan() -> Result<()> {
    let lan = Lan::new("a", 4)?;
    let mut one = lan.node(1, "red", "mdns")?;
    let mut two = lan.node(2, "red", "mdns;static:elsewhere:1")?;
    let mut other = lan.node(3, "blue", "mdns")?;
    wait_until("1 finds 2", FOUND_WITHIN, || one.finds(2))?;
    wait_until("2 finds 1", FOUND_WITHIN, || two.finds(1))?;
    ensure!(two.candidates()?.contains(&"elsewhere:1".to_owned()), "sources are merged: {:?}", two.candidates()?);
    // One that comes later, when nobody asks as often any more.
    let mut late = lan.node(4, "red", "mdns:lan0")?;
    for (node, name) in [(&mut one, "1 finds 4"), (&mut two, "2 finds 4")] {
        wait_until(name, FOUND_WITHIN, || node.finds(4))?;
    }
    wait_until("4 finds 1 and 2", FOUND_WITHIN, || Ok(late.finds(1)? && late.finds(2)?))?;
    // By now everybody had the same chance to be seen.
    ensure!(other.candidates()? == [""], "another cluster's nodes were found: {:?}", other.candidates()?);
    for (node, own) in [(&mut one, 1), (&mut two, 2), (&mut late, 4)] {
        ensure!(!node.finds(3)?, "a node of another cluster was found");
        ensure!(!node.finds(own)?, "node {own} found itself");
    }
    two.leave()?;
    wait_until("1 forgets 2", GONE_WITHIN, || Ok(!one.finds(2)?))?;
    ensure!(one.finds(4)?, "the others stay");
    // A host that was cut off is found again when it is back.
    lan.in_host(4, "link set lan0 down")?;
    late.leave()?;
    let mut again = lan.node(4, "red", "mdns")?;
    lan.in_host(4, "link set lan0 up")?;
    wait_until("4 finds 1 again", FOUND_WITHIN, || again.finds(1))?;
    Ok(())
}

fn only_chosen_interfaces_are_used() -> Result<()> {
    let lan = Lan::new("b", 3)?;
    let mut hidden = lan.node(1, "red", "mdns:lo")?;
    let mut one = lan.node(2, "red", "mdns")?;
    let mut two = lan.node(3, "red", "mdns:lan0")?;
    wait_until("2 and 3 find each other", FOUND_WITHIN, || Ok(one.finds(3)? && two.finds(2)?))?;
    ensure!(!one.finds(1)? && !two.finds(1)?, "a node was found on an interface that it did not choose");
    ensure!(
        hidden.candidates()? == [""],
        "it heard on an interface that it did not choose: {:?}",
        hidden.candidates()?
    );
    Ok(())
}
