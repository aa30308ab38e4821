//! Histories of clients while nodes, links, or the backend are bad.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_compat_tests::history::{Load, Recorder};
use holdfast_compat_tests::lan::{Cut, Find, Lan};
use holdfast_compat_tests::linear::{Operation, Verdict, judge};
use holdfast_compat_tests::proxy::Trouble;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{NODES, Scale, say, until_answered};

const CLIENTS: u64 = 6;
/// Operations of a client in one history.
const EACH: usize = 40;
/// A history's load runs this long before its fault begins.
const BEFORE: Duration = Duration::from_millis(300);
/// How long a fault lasts, unless it says otherwise.
const FAULT: Duration = Duration::from_millis(2500);
/// How long a freeze lasts, in milliseconds: at most, and at most when time is short.
const FREEZE_MS: (u64, u64, u64) = (500, 15_000, 4_000);
/// How long the backend is away: in torture, and when time is short.
const AWAY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(4));

/// Faults that [`disturb`] plays where time is short.
const SHORT: [&str; 3] = ["the_leader_is_killed", "the_leader_is_frozen", "the_leader_is_cut_off"];
/// Before each of its faults, and how far into one it tells of it.
const BETWEEN: Duration = Duration::from_millis(1500);
const MIDST: Duration = Duration::from_millis(300);

type Fault = fn(&mut Lan, &Play) -> Result<()>;

/// One fault to play.
struct Play {
    leader: usize,
    /// How long it lasts.
    span: Duration,
}

impl Play {
    fn follower(&self) -> usize {
        (self.leader + 1) % NODES
    }
}

const FAULTS: &[(&str, Fault)] = &[
    ("no_fault", |_, _| Ok(())),
    ("the_leader_is_killed", |lan, play| bounce(lan, &[play.leader])),
    ("a_follower_is_killed", |lan, play| bounce(lan, &[play.follower()])),
    ("all_are_killed", |lan, _| bounce(lan, &[0, 1, 2])),
    ("the_leader_is_frozen", |lan, play| freeze(lan, play.leader, play.span)),
    ("a_follower_is_frozen", |lan, play| freeze(lan, play.follower(), play.span)),
    ("the_leader_is_cut_off", |lan, play| cut(lan, play.leader, Cut::Both)),
    ("the_leader_is_not_heard", |lan, play| cut(lan, play.leader, Cut::Outgoing)),
    ("the_leader_hears_nothing", |lan, play| cut(lan, play.leader, Cut::Incoming)),
    ("a_link_flaps", flap),
];

const BACKEND_FAULTS: &[(&str, Fault)] = &[
    ("the_backend_is_frozen", |lan, play| {
        lan.minio().freeze();
        std::thread::sleep(play.span);
        lan.minio().thaw();
        Ok(())
    }),
    ("the_backend_is_killed", |lan, play| {
        lan.minio().kill();
        std::thread::sleep(play.span);
        lan.minio().start_again()
    }),
    ("the_backend_is_slow", |lan, play| trouble(lan, Trouble::Slow, play.span)),
    ("the_backend_is_busy", |lan, play| trouble(lan, Trouble::Busy, play.span)),
    ("replies_of_conditional_writes_are_lost", |lan, play| trouble(lan, Trouble::LostReplies, play.span)),
];

/// Nodes and links are bad.
pub fn faults(scale: Scale) -> Result<()> {
    all(scale, FAULTS, |name, luck| span(scale, name, luck))
}

/// How long a fault of nodes and links lasts.
fn span(scale: Scale, name: &str, luck: &mut StdRng) -> Duration {
    if !name.ends_with("frozen") {
        return FAULT;
    }
    let most = if scale.is_long() { FREEZE_MS.1 } else { FREEZE_MS.2 };
    Duration::from_millis(luck.random_range(FREEZE_MS.0..=most))
}

/// Plays faults of nodes and links, one after the other, while others work: some when time is short, else all. In the midst
/// of each `during` is told the node that led when it began. How many were played.
///
/// # Errors
/// When one cannot be played, or a node does not come back; what `during` says.
pub fn disturb(lan: &mut Lan, scale: Scale, mut during: impl FnMut(usize) -> Result<()>) -> Result<u32> {
    let mut luck = StdRng::seed_from_u64(scale.seed);
    let mut played = 0;
    for _ in 0..scale.rounds.max(1) {
        for (name, fault) in FAULTS.iter().filter(|(name, _)| scale.is_long() || SHORT.contains(name)) {
            std::thread::sleep(BETWEEN);
            let play = Play { leader: lan.leader()?, span: span(scale, name, &mut luck) };
            std::thread::scope(|scope| -> Result<()> {
                let playing = scope.spawn(|| fault(lan, &play));
                std::thread::sleep(MIDST);
                let told = during(play.leader);
                playing.join().map_err(|_| anyhow!("it panicked"))??;
                told
            })
            .with_context(|| format!("{name}, fault {played}"))?;
            (0..NODES).try_for_each(|node| lan.await_ready(node)).with_context(|| format!("after {name}"))?;
            played += 1;
        }
    }
    std::thread::sleep(BETWEEN);
    Ok(played)
}

/// The backend is bad.
pub fn bad_backend(scale: Scale) -> Result<()> {
    all(scale, BACKEND_FAULTS, |_, _| if scale.is_long() { AWAY.0 } else { AWAY.1 })
}

fn all(scale: Scale, faults: &[(&str, Fault)], span: impl Fn(&str, &mut StdRng) -> Duration) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| lan.raw(0).put("histories", "", &[], b"")?.expect(200))?;
    let (mut judged, mut undecided) = (0, 0);
    for round in 0..scale.rounds {
        for (number, (name, fault)) in faults.iter().enumerate() {
            let seed = scale.seed + u64::from(round) * 1000 + number as u64;
            let prefix = format!("{round}-{name}/");
            let play = Play { leader: lan.leader()?, span: span(name, &mut StdRng::seed_from_u64(seed)) };
            let (operations, verdict) = one(&mut lan, &prefix, seed, play.span, |lan| fault(lan, &play))
                .with_context(|| format!("{name}, seed {seed}\n{}", logs(&lan)))?;
            judged += operations;
            undecided += u32::from(verdict == Verdict::Undecided);
        }
    }
    say(&format!("{judged} operations in {} histories, {undecided} undecided", scale.rounds as usize * faults.len()));
    ensure!(undecided <= scale.rounds, "{undecided} histories could not be judged: too many answers were lost");
    Ok(())
}

/// The end of every node's output.
pub fn logs(lan: &Lan) -> String {
    let logs = (0..lan.nodes()).map(|node| format!("node {node}:\n{}", lan.log_tail(node, 8)));
    logs.collect::<Vec<_>>().join("\n")
}

/// Plays `fault` while clients work in the bucket `histories`, and judges what they saw.
///
/// # Errors
/// When the history is not linearizable, the fault cannot be played, or too little was answered.
pub fn one(
    lan: &mut Lan,
    prefix: &str,
    seed: u64,
    span: Duration,
    fault: impl FnOnce(&mut Lan) -> Result<()>,
) -> Result<(usize, Verdict)> {
    let nodes: Vec<usize> = (0..NODES).collect();
    one_on(lan, &nodes, prefix, seed, span, fault)
}

/// The same, where clients ask these nodes.
///
/// # Errors
/// As [`one`].
pub fn one_on(
    lan: &mut Lan,
    nodes: &[usize],
    prefix: &str,
    seed: u64,
    span: Duration,
    fault: impl FnOnce(&mut Lan) -> Result<()>,
) -> Result<(usize, Verdict)> {
    let began = Instant::now();
    let load = Load {
        nodes: nodes.iter().map(|node| lan.endpoint(*node)).collect(),
        bucket: "histories".to_owned(),
        prefix: prefix.to_owned(),
        clients: CLIENTS,
        each: EACH,
        seed,
        span,
    };
    let recorder = Recorder::start(load);
    std::thread::sleep(BEFORE);
    let played = fault(lan);
    let history = recorder.finish();
    played?;
    let history = history?;
    for node in nodes {
        lan.await_ready(*node)?;
    }
    let answered = history.iter().filter(|operation| operation.answered.is_some()).count();
    ensure!(answered * 2 > history.len(), "only {answered} of {} operations were answered", history.len());
    let verdict = judge(&history);
    ensure!(verdict != Verdict::Not, "the history is not linearizable:\n{}", written(&history));
    say(&format!(
        "{prefix} {} operations, {answered} answered, {verdict:?}, fault of {:.1} s, {:.1} s",
        history.len(),
        span.as_secs_f32(),
        began.elapsed().as_secs_f32()
    ));
    Ok((history.len(), verdict))
}

fn written(history: &[Operation]) -> String {
    history.iter().map(|operation| format!("{operation:?}")).collect::<Vec<_>>().join("\n")
}

fn bounce(lan: &mut Lan, nodes: &[usize]) -> Result<()> {
    nodes.iter().for_each(|node| lan.kill(*node));
    std::thread::sleep(Duration::from_millis(500));
    for node in nodes {
        lan.launch(*node)?;
    }
    nodes.iter().try_for_each(|node| lan.await_ready(*node))
}

fn freeze(lan: &mut Lan, node: usize, span: Duration) -> Result<()> {
    lan.freeze(node)?;
    std::thread::sleep(span);
    lan.thaw(node)
}

fn cut(lan: &mut Lan, node: usize, cut: Cut) -> Result<()> {
    lan.cut(node, cut)?;
    std::thread::sleep(FAULT);
    lan.heal(node)
}

fn flap(lan: &mut Lan, play: &Play) -> Result<()> {
    for _ in 0..6 {
        lan.cut(play.leader, Cut::Both)?;
        std::thread::sleep(Duration::from_millis(250));
        lan.heal(play.leader)?;
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}

fn trouble(lan: &Lan, trouble: Trouble, span: Duration) -> Result<()> {
    let before = lan.proxy().troubled();
    lan.proxy().make(trouble);
    std::thread::sleep(span);
    lan.proxy().make(Trouble::None);
    ensure!(lan.proxy().troubled() > before, "no request met {trouble:?}");
    Ok(())
}
