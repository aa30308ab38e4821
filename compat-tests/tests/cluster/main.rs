//! A cluster of real processes on a LAN of network namespaces: it forms, agrees, and survives.
//!
//! During each fault clients write, create, replace, delete, read and list on all nodes; the history must be linearizable.
//! `HOLDFAST_CLUSTER_ROUNDS` sets how often each fault is played (1; more make faults longer too), `HOLDFAST_FIRST_STARTS`
//! how often a cluster begins (3), `HOLDFAST_SEED` repeats a run.

mod bad_parts;
mod coordination;
mod histories;
mod indexes;
mod life;
mod mounts;
mod topics;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_compat_tests::crash::from_environment;
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::suite::Suite;

const NODES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(240);
/// How long a node may need until it knows what another acknowledged.
const SOON: Duration = Duration::from_secs(20);

/// How much is played.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// How often each fault is played.
    pub rounds: u32,
    /// Repeats what is random.
    pub seed: u64,
}

impl Scale {
    /// Whether time is no object.
    fn is_long(self) -> bool {
        self.rounds > 1
    }
}

fn main() -> ExitCode {
    let seed = u64::from(from_environment("HOLDFAST_SEED", rand::random::<u16>().into()));
    let scale = Scale { rounds: from_environment("HOLDFAST_CLUSTER_ROUNDS", 1), seed };
    let starts = from_environment("HOLDFAST_FIRST_STARTS", 3);
    let rounds = scale.rounds;
    let mut suite = Suite::new(1);
    suite.case_within(DEADLINE, "three_nodes_find_each_other_by_mdns_and_agree", life::three_nodes);
    suite.case_within(DEADLINE, "a_rolling_restart_loses_nothing", life::rolling_restart);
    suite.case_within(DEADLINE, "a_rolling_restart_fails_no_request_to_the_others", life::restart_under_boto3);
    suite.case_within(DEADLINE, "a_wiped_node_comes_back_as_a_new_one", life::wiped_node);
    suite.case_within(DEADLINE, "a_lone_node_says_that_it_is_starting", life::lone_node);
    suite.case_within(DEADLINE, "a_cluster_that_lost_every_node_is_recovered_from_its_bucket", life::all_lost);
    suite.case_within(DEADLINE, "the_first_answer_after_a_failover_is_right", life::failover);
    suite.case_within(
        DEADLINE * starts.max(10) / 10,
        format!("simultaneous_first_starts_make_one_cluster [{starts} times, seed {seed}]"),
        move || life::first_starts(starts, seed),
    );
    let history = [
        ("histories_under_faults_are_linearizable", histories::faults as fn(Scale) -> Result<()>),
        ("histories_over_a_bad_backend_are_linearizable", histories::bad_backend),
        ("a_node_comes_back_over_a_slow_link_while_others_write", bad_parts::slow_link),
        ("locks_and_the_feed_survive_the_leader", coordination::locks_and_feed),
        ("topics_survive_the_leader", topics::topics),
        ("a_counter_on_three_mounts_survives_the_leader_and_a_stopped_mount", mounts::counter),
        ("every_node_finds_by_an_index_what_another_wrote", indexes::indexes),
        ("of_a_directory_and_its_copy_one_goes_on", bad_parts::copied_directory),
        ("a_full_disk_on_one_node_stops_only_that_node", bad_parts::full_disk),
        ("a_wrong_clock_is_named_and_breaks_nothing", bad_parts::wrong_clock),
    ];
    for (name, run) in history {
        let name = format!("{name} [{rounds} rounds, seed {seed}]");
        suite.case_within(DEADLINE * rounds.max(1) * 2, name, move || run(scale));
    }
    suite.run()
}

/// Repeats what a client would repeat while there is no leader.
fn until_answered<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut answer = None;
    wait_until("an answer", SOON, || {
        answer = Some(ask());
        Ok(answer.as_ref().is_some_and(Result::is_ok))
    })
    .or_else(|late| answer.take().map_or(Err(late), |last| last.map(drop)))?;
    answer.context("no answer")?
}

#[allow(clippy::print_stdout, reason = "a line of the test report")]
fn say(line: &str) {
    println!("  {line}");
}
