//! Topics against a naive model: long random histories, and each promise by itself.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::command::*;
use holdfast_core::effect::Effect;
use holdfast_core::error::Error;
use holdfast_core::keyspace::{Keyspace, key::topic as key};
use holdfast_core::kv::{Batch, Kv, KvRead};
use holdfast_core::record::Record;
use holdfast_core::rules::authorize::{Action, Permit, Resource};
use holdfast_core::rules::topic::*;
use holdfast_core::state::Stop;
use holdfast_core::topic::*;
use holdfast_core::view::View;
use support::{Dice, Machine};

const TOPIC: &str = "orders";
const DEAD: &str = "orders-dead";
/// Each with what it does with what fails: never gives up, moves it, drops it.
const GROUPS: [(&str, u32, &str); 3] = [("patient", 0, ""), ("mover", 3, DEAD), ("dropper", 2, "")];
const ALL: Much = Much { messages: usize::MAX, bytes: usize::MAX };

fn permit() -> Permit {
    support::permit(Action::UseTopics, Resource::Service)
}

fn message(text: &str) -> Message {
    Message { value: text.to_owned().into(), ..Message::default() }
}

fn publish(topic: &str, texts: &[&str]) -> Op {
    Op::Publish(Publish { topic: topic.into(), messages: texts.iter().copied().map(message).collect() })
}

fn claim(group: &str, max: u32) -> Op {
    Op::Claim(Claim { topic: TOPIC.into(), group: group.into(), owner: "me".into(), max, ttl_ms: None })
}

fn acknowledge(group: &str, lease: u64, offsets: Option<Vec<u64>>) -> Op {
    Op::Acknowledge(Acknowledge { topic: TOPIC.into(), group: group.into(), lease, offsets })
}

fn release(lease: u64) -> Op {
    Op::ReleaseLease(ReleaseLease { lease, name: None, unless_granted: false })
}

fn set_group(group: &str, from: Vec<Start>, max_deliveries: u32, dead_letter: &str) -> Op {
    Op::SetGroup(SetGroup {
        topic: TOPIC.into(),
        group: group.into(),
        from,
        ttl_ms: None,
        max_deliveries: Some(max_deliveries),
        dead_letter: Some(dead_letter.into()),
    })
}

fn set_topic(keep_ms: u64, keep_bytes: u64) -> Op {
    Op::SetTopic(SetTopic { topic: TOPIC.into(), keep_ms: Some(keep_ms), keep_bytes: Some(keep_bytes) })
}

fn trim(topic: Option<&str>) -> Op {
    Op::TrimTopic(TrimTopic { topic: topic.map(str::to_owned), rows: 1000 })
}

fn delete(group: Option<&str>) -> Op {
    Op::DeleteTopic(DeleteTopic { topic: TOPIC.into(), group: group.map(str::to_owned) })
}

fn claimed(reply: Reply) -> Claimed {
    match reply {
        Reply::Claimed(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

fn offsets(claimed: &Claimed) -> Vec<u64> {
    claimed.messages.iter().map(|delivery| delivery.offset).collect()
}

fn refused(reply: Reply) -> Error {
    match reply {
        Reply::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

fn read(machine: &Machine, topic: &str, from: Start) -> Result<MessagePage, Stop> {
    let rows = machine.kv.view();
    View::new(&rows, machine.revision).messages(&permit(), topic, from, ALL)
}

fn texts(page: &MessagePage) -> Vec<String> {
    page.messages.iter().map(|(_, row)| String::from_utf8(row.message.value.to_vec()).unwrap()).collect()
}

fn group_row(machine: &Machine, group: &str) -> GroupRow {
    let rows = machine.kv.view();
    let view = View::new(&rows, machine.revision);
    let topic = view.topic(&permit(), TOPIC).unwrap();
    view.group(&permit(), &topic, group).unwrap()
}

fn rows_of_topics(machine: &Machine) -> usize {
    machine.rows().iter().filter(|row| row.0 == Keyspace::Topics).count()
}

/// What a group should be: where each message is.
#[derive(Clone, Debug, Default)]
struct NaiveGroup {
    next: u64,
    again: BTreeMap<u64, u32>,
    leases: BTreeMap<u64, BTreeMap<u64, u32>>,
    acknowledged: BTreeSet<u64>,
    missed: u64,
    given_up: u64,
}

/// What the topic should be.
#[derive(Debug, Default)]
struct Naive {
    /// Text and time.
    kept: BTreeMap<u64, (String, u64, u64)>,
    next: u64,
    bytes: u64,
    groups: BTreeMap<&'static str, NaiveGroup>,
    dead: Vec<String>,
    renewals: BTreeMap<u64, u64>,
}

impl Naive {
    fn oldest(&self) -> u64 {
        self.kept.keys().next().copied().unwrap_or(self.next)
    }

    fn publish(&mut self, text: String, at_ms: u64, revision: u64) {
        let row = MessageRow { at_ms, revision, message: message(&text), dead: None };
        let bytes = (row.encode().len() + key::message(0, 0).len()) as u64;
        self.bytes += bytes;
        self.kept.insert(self.next, (text, at_ms, bytes));
        self.next += 1;
    }

    fn trim(&mut self, now_ms: u64, keep_ms: u64, keep_bytes: u64) {
        while let Some((_, (_, at_ms, bytes))) = self.kept.first_key_value() {
            if at_ms + keep_ms >= now_ms && self.bytes <= keep_bytes {
                return;
            }
            self.bytes -= bytes;
            self.kept.pop_first();
        }
    }

    fn claim(&mut self, group: &str, max: usize) -> Vec<(u64, u32)> {
        let (oldest, next) = (self.oldest(), self.next);
        let group = self.groups.get_mut(group).unwrap();
        let mut got = Vec::new();
        while got.len() < max {
            let Some((offset, deliveries)) = group.again.pop_first() else { break };
            if offset < oldest { group.missed += 1 } else { got.push((offset, deliveries + 1)) }
        }
        if got.len() < max {
            group.missed += oldest.saturating_sub(group.next);
            group.next = group.next.max(oldest);
        }
        while got.len() < max && group.next < next {
            got.push((group.next, 1));
            group.next += 1;
        }
        got
    }

    fn end(&mut self, name: &str, lease: u64) {
        let oldest = self.oldest();
        let (_, most, dead_letter) = GROUPS.iter().find(|(group, ..)| *group == name).unwrap();
        let group = self.groups.get_mut(name).unwrap();
        for (offset, deliveries) in group.leases.remove(&lease).unwrap() {
            if offset < oldest {
                group.missed += 1;
            } else if *most > 0 && deliveries >= *most {
                group.given_up += 1;
                if !dead_letter.is_empty() {
                    self.dead.push(self.kept[&offset].0.clone());
                }
            } else {
                group.again.insert(offset, deliveries);
            }
        }
    }
}

fn check(machine: &Machine, naive: &Naive) {
    let rows = machine.kv.view();
    let view = View::new(&rows, machine.revision);
    let page = view.messages(&permit(), TOPIC, Start::Oldest, ALL).unwrap();
    let kept: Vec<_> = naive.kept.iter().map(|(offset, (text, ..))| (*offset, text.clone())).collect();
    let read: Vec<_> = page.messages.iter().map(|(offset, _)| *offset).zip(texts(&page)).collect();
    assert_eq!(read, kept);
    let topic = page.topic;
    assert_eq!((topic.oldest, topic.next, topic.bytes), (naive.oldest(), naive.next, naive.bytes));
    assert!(naive.kept.is_empty() || topic.oldest_ms == naive.kept[&topic.oldest].1);
    assert_eq!(topic.groups as usize, naive.groups.len());
    for (name, group) in &naive.groups {
        let row = view.group(&permit(), &topic, name).unwrap();
        let held: Vec<u64> = group.leases.values().flat_map(BTreeMap::keys).copied().collect();
        let once: BTreeSet<u64> = held.iter().copied().collect();
        assert_eq!(held.len(), once.len(), "{name}: two live claims hold one message");
        let counts = (row.next, row.pending as usize, row.redeliver as usize);
        assert_eq!(counts, (group.next, held.len(), group.again.len()), "{name}");
        assert_eq!((row.missed, row.given_up), (group.missed, group.given_up), "{name}");
        assert_eq!(row.acknowledged, group.acknowledged.len() as u64, "{name}");
        // Nothing is lost: each message that was published is in exactly one place.
        let places = row.acknowledged + row.missed + row.given_up + held.len() as u64 + group.again.len() as u64;
        assert_eq!(places, row.next, "{name}");
    }
    let leases = view.leases(&support::permit(Action::UseLocks, Resource::Service), 0, 10_000).unwrap();
    assert_eq!(leases.len(), naive.groups.values().map(|group| group.leases.len()).sum::<usize>());
    let dead = view.messages(&permit(), DEAD, Start::Oldest, ALL).map(|page| texts(&page)).unwrap_or_default();
    assert_eq!(dead, naive.dead);
}

/// A history on its way: machine and model, and all commands so far.
struct History {
    machine: Machine,
    naive: Naive,
    log: Vec<Command>,
    /// Which commands come twice.
    copies: Dice,
}

impl History {
    fn run(&mut self, op: Op) -> Reply {
        let command = self.machine.command(op);
        let reply = self.machine.apply(&command).reply;
        self.log.push(command.clone());
        if self.copies.once_in(5) {
            let before = self.machine.rows();
            assert_eq!(self.machine.apply(&command).reply, reply, "a copy of a command has the first reply");
            assert_eq!(self.machine.rows(), before);
            self.log.push(command);
        }
        reply
    }

    fn publish(&mut self, texts: Vec<String>) {
        let revision = self.machine.revision + 1;
        let reply = self.run(publish(TOPIC, &texts.iter().map(String::as_str).collect::<Vec<_>>()));
        let (first, count) = (self.naive.next, texts.len() as u32);
        assert_eq!(reply, Reply::Published(Published { first, count }));
        texts.into_iter().for_each(|text| self.naive.publish(text, self.machine.now_ms, revision));
    }

    fn claim(&mut self, name: &'static str, max: u32) {
        let got = claimed(self.run(claim(name, max)));
        let wanted = self.naive.claim(name, max as usize);
        assert_eq!(got.messages.iter().map(|d| (d.offset, d.deliveries)).collect::<Vec<_>>(), wanted, "{name}");
        assert_eq!(got.lease.is_some(), !wanted.is_empty());
        if let Some(lease) = got.lease {
            self.naive.groups.get_mut(name).unwrap().leases.insert(lease, wanted.into_iter().collect());
        }
    }

    fn acknowledge(&mut self, name: &'static str, lease: u64, dice: &mut Dice) {
        let held: Vec<u64> = self.naive.groups[name].leases[&lease].keys().copied().collect();
        let (done, offsets) = if dice.once_in(4) {
            (held.clone(), None)
        } else {
            let done: Vec<u64> = held.iter().copied().filter(|_| !dice.once_in(3)).collect();
            // What it does not hold is passed over.
            (done.clone(), Some([done, vec![u64::MAX]].concat()))
        };
        let left = (held.len() - done.len()) as u32;
        let reply = self.run(acknowledge(name, lease, offsets));
        assert_eq!(reply, Reply::Acknowledged(Acknowledged { count: done.len() as u32, left }));
        let group = self.naive.groups.get_mut(name).unwrap();
        for offset in done {
            group.leases.get_mut(&lease).unwrap().remove(&offset);
            assert!(group.acknowledged.insert(offset), "{name}: {offset} is acknowledged twice");
        }
        if left == 0 {
            group.leases.remove(&lease);
        }
    }

    /// A random command, and what it does to the model.
    fn step(&mut self, dice: &mut Dice) {
        self.machine.now_ms += dice.below(100);
        let (name, ..) = *dice.pick(&GROUPS);
        let leases: Vec<u64> = self.naive.groups[name].leases.keys().copied().collect();
        let lease = (!leases.is_empty()).then(|| *dice.pick(&leases));
        match (dice.below(14), lease) {
            (0..=3, _) => self.publish((0..=dice.below(4)).map(|n| format!("{}-{n}", self.machine.revision)).collect()),
            (4..=6, _) => self.claim(name, 1 + dice.below(6) as u32),
            (7..=9, Some(lease)) => self.acknowledge(name, lease, dice),
            (10, Some(lease)) => {
                assert_eq!(self.run(release(lease)), Reply::Done);
                self.naive.end(name, lease);
                assert_eq!(refused(self.run(acknowledge(name, lease, None))), Error::NoSuchLease);
            }
            (11, Some(lease)) => {
                self.run(Op::RenewLease(RenewLease { lease, name: None, ttl_ms: None }));
                *self.naive.renewals.entry(lease).or_default() += 1;
            }
            (12, Some(lease)) => {
                // Of two expiries the one that saw too little changes nothing.
                let seen = self.naive.renewals.get(&lease).copied().unwrap_or(0);
                self.run(Op::ExpireLease(ExpireLease { lease, renewals: seen + 1 }));
                self.run(Op::ExpireLease(ExpireLease { lease, renewals: seen }));
                self.naive.end(name, lease);
            }
            (13, _) => {
                let (keep_ms, keep_bytes) = (4000 + dice.below(8000), 2000 + dice.below(8000));
                self.run(set_topic(keep_ms, keep_bytes));
                self.run(trim(Some(TOPIC)));
                self.naive.trim(self.machine.now_ms, keep_ms, keep_bytes);
            }
            (_, None) => assert_eq!(refused(self.run(release(u64::MAX))), Error::NoSuchLease),
            (_, Some(_)) => unreachable!("the dice has 14 faces"),
        }
    }
}

#[test]
fn random_histories_of_topics_are_those_of_a_naive_model() {
    let mut happened = (0, 0, 0, 0);
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let (machine, naive) = (Machine::new(), Naive::default());
        let mut history = History { machine, naive, log: Vec::new(), copies: Dice::new(seed ^ 77) };
        history.publish(vec!["first".into()]);
        for (group, most, dead) in GROUPS {
            history.run(set_group(group, vec![Start::Oldest], most, dead));
            history.naive.groups.insert(group, NaiveGroup::default());
        }
        for _ in 0..300 {
            history.step(&mut dice);
            check(&history.machine, &history.naive);
        }
        let mut again = Machine::new();
        for command in &history.log {
            again.apply(command);
        }
        assert_eq!(again.rows(), history.machine.rows(), "replaying the log gives equal bytes");
        for group in history.naive.groups.values() {
            happened.0 += group.acknowledged.len();
            happened.1 += group.given_up;
            happened.2 += group.missed;
        }
        happened.3 += history.naive.dead.len();
        nothing_is_left(&mut history.machine, &history.naive);
    }
    let (acknowledged, given_up, missed, dead) = happened;
    assert!(acknowledged > 3000 && given_up > 100 && missed > 1000 && dead > 30, "little happened: {happened:?}");
}

/// When everything is deleted and every lease has ended, no row of a topic is left.
fn nothing_is_left(machine: &mut Machine, naive: &Naive) {
    machine.run(delete(None));
    machine.run(Op::DeleteTopic(DeleteTopic { topic: DEAD.into(), group: None }));
    let leases: Vec<u64> = naive.groups.values().flat_map(|group| group.leases.keys()).copied().collect();
    for lease in leases {
        assert_eq!(machine.run(release(lease)), Reply::Done);
    }
    let trimmed = machine.run(trim(None));
    assert!(matches!(trimmed, Reply::Trimmed { more: false, .. }), "{trimmed:?}");
    assert_eq!(rows_of_topics(machine), 0);
}

#[test]
fn a_message_that_is_not_acknowledged_comes_again_and_in_order() {
    let mut machine = Machine::new();
    machine.run(publish(TOPIC, &["a", "b", "c", "d"]));
    let first = claimed(machine.run(claim("g", 2)));
    let second = claimed(machine.run(claim("g", 1)));
    assert_eq!((offsets(&first), offsets(&second)), (vec![0, 1], vec![2]));
    machine.run(acknowledge("g", first.lease.unwrap(), Some(vec![0])));
    assert_eq!(machine.run(release(second.lease.unwrap())), Reply::Done);
    assert_eq!(machine.run(Op::ExpireLease(ExpireLease { lease: first.lease.unwrap(), renewals: 0 })), Reply::Done);
    let again = claimed(machine.run(claim("g", 10)));
    let deliveries: Vec<_> = again.messages.iter().map(|d| (d.offset, d.deliveries)).collect();
    assert_eq!(deliveries, [(1, 2), (2, 2), (3, 1)], "what comes again comes first");
    let reply = machine.run(acknowledge("g", again.lease.unwrap(), None));
    assert_eq!(reply, Reply::Acknowledged(Acknowledged { count: 3, left: 0 }));
    assert_eq!(refused(machine.run(release(again.lease.unwrap()))), Error::NoSuchLease, "its lease has ended");
    assert_eq!(claimed(machine.run(claim("g", 10))).lease, None);
    let row = group_row(&machine, "g");
    assert_eq!((row.next, row.pending, row.redeliver, row.acknowledged), (4, 0, 0, 4));
}

#[test]
fn what_fails_too_often_goes_to_the_dead_letter_topic_in_the_same_commit() {
    let mut machine = Machine::new();
    machine.run(publish(TOPIC, &["poison", "good"]));
    machine.run(set_group("g", vec![], 2, DEAD));
    for deliveries in 1..=2 {
        let got = claimed(machine.run(claim("g", 1)));
        assert_eq!(got.messages, [Delivery { offset: 0, deliveries }]);
        assert!(read(&machine, DEAD, Start::Oldest).is_err());
        machine.run(release(got.lease.unwrap()));
    }
    let dead = read(&machine, DEAD, Start::Oldest).unwrap();
    let (offset, row) = &dead.messages[0];
    assert_eq!((*offset, &row.message, row.revision), (0, &message("poison"), machine.revision));
    let from = DeadLetter { topic: TOPIC.into(), offset: 0, group: "g".into(), deliveries: 2 };
    assert_eq!(row.dead, Some(from));
    assert_eq!(offsets(&claimed(machine.run(claim("g", 10)))), [1], "the next message is not held up");
    assert_eq!(group_row(&machine, "g").given_up, 1);
}

#[test]
fn readers_of_what_is_gone_are_told_and_groups_go_on_at_the_oldest() {
    let mut machine = Machine::new();
    for number in 0..20 {
        machine.now_ms += 1000;
        machine.run(publish(TOPIC, &[&format!("m{number}")]));
    }
    machine.run(set_group("late", vec![Start::Oldest], 0, ""));
    let held = claimed(machine.run(claim("late", 2)));
    let failed = claimed(machine.run(claim("late", 2)));
    machine.run(release(failed.lease.unwrap()));
    machine.run(set_topic(5_000, 1 << 20));
    let trimmed = machine.run(Op::TrimTopic(TrimTopic { topic: Some(TOPIC.into()), rows: 5 }));
    assert_eq!(trimmed, Reply::Trimmed { rows: 5, more: true });
    assert_eq!(machine.run(trim(Some(TOPIC))), Reply::Trimmed { rows: 9, more: false });
    assert_eq!(machine.run(trim(Some(TOPIC))), Reply::Trimmed { rows: 0, more: false });
    let gone = read(&machine, TOPIC, Start::Offset(13)).unwrap_err();
    assert!(matches!(gone, Stop::Refused(Error::OffsetGone { oldest: 14 })), "{gone}");
    assert_eq!(texts(&read(&machine, TOPIC, Start::Offset(14)).unwrap()).len(), 6);
    let ahead = read(&machine, TOPIC, Start::Offset(21)).unwrap_err();
    assert!(matches!(ahead, Stop::Refused(Error::InvalidArgument { .. })), "{ahead}");
    assert_eq!(read(&machine, TOPIC, Start::Latest).unwrap().next, 20);
    // Two are held, two were to come again, ten were never delivered: all are gone.
    let next = claimed(machine.run(claim("late", 1)));
    assert_eq!(offsets(&next), [14]);
    assert_eq!(group_row(&machine, "late").missed, 12);
    let reply = machine.run(acknowledge("late", held.lease.unwrap(), Some(vec![0])));
    assert_eq!(
        reply,
        Reply::Acknowledged(Acknowledged { count: 1, left: 1 }),
        "what was consumed is done all the same"
    );
    machine.run(release(held.lease.unwrap()));
    assert_eq!(group_row(&machine, "late").missed, 13);
    machine.run(set_topic(5_000, 1));
    machine.run(trim(Some(TOPIC)));
    let page = read(&machine, TOPIC, Start::Oldest).unwrap();
    assert_eq!((page.messages.len(), page.topic.oldest, page.topic.next, page.topic.bytes), (0, 20, 20, 0));
}

#[test]
fn a_group_that_begins_anew_has_nothing_to_do_with_old_claims() {
    let mut machine = Machine::new();
    machine.run(publish(TOPIC, &["a", "b", "c"]));
    let old = claimed(machine.run(claim("g", 2))).lease.unwrap();
    let failed = claimed(machine.run(claim("g", 1))).lease.unwrap();
    machine.run(release(failed));
    machine.run(set_group("g", vec![Start::Offset(1)], 0, ""));
    assert_eq!(refused(machine.run(acknowledge("g", old, None))), Error::NoSuchGroup);
    let new = claimed(machine.run(claim("g", 10)));
    assert_eq!(new.messages.iter().map(|d| (d.offset, d.deliveries)).collect::<Vec<_>>(), [(1, 1), (2, 1)]);
    assert_eq!(machine.run(release(old)), Reply::Done);
    assert_eq!(group_row(&machine, "g").redeliver, 0);
    // A change of settings alone lets it go on.
    machine.run(set_group("g", vec![], 7, ""));
    let row = group_row(&machine, "g");
    assert_eq!((row.pending, row.max_deliveries), (2, Some(7)));
    assert_eq!(machine.run(delete(Some("g"))), Reply::Done);
    assert_eq!(refused(machine.run(acknowledge("g", new.lease.unwrap(), None))), Error::NoSuchGroup);
    assert_eq!(refused(machine.run(delete(Some("g")))), Error::NoSuchGroup);
}

#[test]
fn a_deleted_topic_is_gone_at_once_and_its_rows_in_steps() {
    let mut machine = Machine::new();
    for _ in 0..3 {
        machine.run(publish(TOPIC, &["x"; 1000]));
    }
    let held = claimed(machine.run(claim("g", 5))).lease.unwrap();
    let failed = claimed(machine.run(claim("g", 5))).lease.unwrap();
    machine.run(release(failed));
    assert_eq!(machine.run(delete(None)), Reply::Done);
    assert!(matches!(read(&machine, TOPIC, Start::Oldest), Err(Stop::Refused(Error::NoSuchTopic))));
    assert_eq!(refused(machine.run(claim("g", 1))), Error::NoSuchTopic);
    assert_eq!(refused(machine.run(delete(None))), Error::NoSuchTopic);
    // One of the same name is another.
    machine.run(publish(TOPIC, &["new"]));
    assert_eq!(offsets(&claimed(machine.run(claim("g", 5)))), [0]);
    assert_eq!(refused(machine.run(acknowledge("g", held, None))), Error::NoSuchGroup);
    assert_eq!(machine.run(release(held)), Reply::Done);
    let mut steps = 0;
    while let Reply::Trimmed { more: true, rows } = machine.run(trim(None)) {
        assert!(rows <= 1000, "a step is bounded");
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert_eq!(texts(&read(&machine, TOPIC, Start::Oldest).unwrap()), ["new"]);
    // The topic with its message, the group, the claim with its message.
    assert_eq!(rows_of_topics(&machine), 5);
}

#[test]
fn a_group_holds_a_bounded_number_of_messages() {
    let mut machine = Machine::new();
    for _ in 0..11 {
        machine.run(publish(TOPIC, &["x"; 1000]));
    }
    let leases: Vec<u64> = (0..10).map(|_| claimed(machine.run(claim("g", 1000))).lease.unwrap()).collect();
    assert_eq!(group_row(&machine, "g").pending, GROUP_PENDING_MAX);
    assert_eq!(claimed(machine.run(claim("g", 1))).lease, None);
    machine.run(release(leases[0]));
    assert_eq!(offsets(&claimed(machine.run(claim("g", 1)))), [0], "what comes again has room");
    machine.run(acknowledge("g", leases[1], None));
    let more = claimed(machine.run(claim("g", 1000)));
    assert_eq!(offsets(&more).first(), Some(&1));
    assert_eq!(offsets(&more).last(), Some(&10_000), "and then as many new ones as there is room for");
}

#[test]
fn a_claim_holds_a_bounded_number_of_bytes() {
    let mut machine = Machine::new();
    let large = "x".repeat(MESSAGE_BYTES_MAX);
    for _ in 0..6 {
        machine.run(publish(TOPIC, &[&large]));
    }
    assert_eq!(offsets(&claimed(machine.run(claim("g", 10)))), [0, 1, 2, 3]);
    assert_eq!(offsets(&claimed(machine.run(claim("g", 10)))), [4, 5]);
}

#[test]
fn whoever_waits_for_a_topic_is_told_of_it() {
    let mut machine = Machine::new();
    let told = |machine: &mut Machine, op: Op| {
        let command = machine.command(op);
        machine.apply(&command).effects
    };
    let published = told(&mut machine, publish(TOPIC, &["a"]));
    let id = machine.revision;
    assert_eq!(published, [Effect::Topic(id)]);
    let got = told(&mut machine, claim("g", 1));
    let lease = machine.revision;
    assert_eq!(got, [Effect::Lease(lease)]);
    assert_eq!(told(&mut machine, release(lease)), [Effect::Lease(lease), Effect::Topic(id)]);
    assert_eq!(told(&mut machine, delete(None)), [Effect::Topic(id)]);
}

#[test]
fn what_no_topic_could_accept_is_refused() {
    let mut machine = Machine::new();
    machine.run(publish(TOPIC, &["a"]));
    let with = |change: fn(&mut Message)| {
        let mut message = message("a");
        change(&mut message);
        Op::Publish(Publish { topic: TOPIC.into(), messages: vec![message] })
    };
    let claims =
        |ttl_ms, max| Op::Claim(Claim { topic: TOPIC.into(), group: "g".into(), owner: String::new(), max, ttl_ms });
    let long = "x".repeat(256);
    for op in [
        publish("", &["a"]),
        publish("a/b", &["a"]),
        publish("..", &["a"]),
        publish("a\nb", &["a"]),
        publish(&long, &["a"]),
        publish(TOPIC, &[]),
        publish(TOPIC, &["x"; PUBLISH_MESSAGES_MAX + 1]),
        with(|message| message.key = Some("k".repeat(1025))),
        with(|message| message.content_type = Some("t".repeat(8193))),
        with(|message| message.attributes = (0..65).map(|n| (n.to_string(), String::new())).collect()),
        set_topic(999, 1),
        set_topic(u64::MAX, 1),
        set_topic(1000, 0),
        set_topic(1000, u64::MAX),
        set_group("a/b", vec![], 0, ""),
        set_group("g", vec![Start::Offset(2)], 0, ""),
        set_group("g", vec![Start::Oldest; 2], 0, ""),
        set_group("g", vec![], 1001, ""),
        set_group("g", vec![], 0, DEAD),
        set_group("g", vec![], 3, TOPIC),
        set_group("g", vec![], 3, "a/b"),
        claims(Some(10), 1),
        claims(None, 0),
        claims(None, CLAIM_MESSAGES_MAX + 1),
        trim_many(),
    ] {
        let name = format!("{op:.80?}");
        assert!(matches!(refused(machine.run(op)), Error::InvalidArgument { .. }), "{name}");
    }
    let large = "x".repeat(MESSAGE_BYTES_MAX + 1);
    assert_eq!(refused(machine.run(publish(TOPIC, &[&large]))), Error::TooLarge);
    let large = &large[1..];
    assert_eq!(refused(machine.run(publish(TOPIC, &[large, large, "x"]))), Error::TooLarge);
    assert!(matches!(machine.run(publish(TOPIC, &[large, large])), Reply::Published(_)));
    assert_eq!(refused(machine.run(set_group_of("nothing"))), Error::NoSuchTopic);
    for number in 0..GROUPS_MAX {
        machine.run(set_group(&format!("g{number}"), vec![], 0, ""));
    }
    assert!(matches!(refused(machine.run(claim("one-more", 1))), Error::InvalidArgument { .. }));
}

fn trim_many() -> Op {
    Op::TrimTopic(TrimTopic { topic: None, rows: 1001 })
}

fn set_group_of(topic: &str) -> Op {
    let (group, from) = ("g".into(), vec![]);
    Op::SetGroup(SetGroup { topic: topic.into(), group, from, ttl_ms: None, max_deliveries: None, dead_letter: None })
}

#[test]
fn a_trim_of_large_messages_is_bounded_by_bytes() {
    let mut machine = Machine::new();
    let large = "x".repeat(MESSAGE_BYTES_MAX);
    for _ in 0..20 {
        machine.run(publish(TOPIC, &[&large]));
    }
    machine.run(set_topic(TOPIC_KEEP_MS_DEFAULT, 3 << 20));
    assert_eq!(machine.run(trim(Some(TOPIC))), Reply::Trimmed { rows: 16, more: true });
    assert_eq!(machine.run(trim(Some(TOPIC))), Reply::Trimmed { rows: 2, more: false });
    for _ in 0..20 {
        machine.run(publish(TOPIC, &[&large]));
    }
    machine.run(delete(None));
    assert_eq!(machine.run(trim(None)), Reply::Trimmed { rows: 16, more: true });
    assert_eq!(machine.run(trim(None)), Reply::Trimmed { rows: 7, more: false });
    assert_eq!(rows_of_topics(&machine), 0);
}

#[test]
fn there_are_at_most_so_many_topics() {
    let mut machine = Machine::new();
    machine.run(publish(TOPIC, &["one"]));
    let mut batch = Batch::default();
    let row = machine.kv.view().get(Keyspace::Topics, &key::topic(TOPIC)).unwrap().unwrap();
    for number in 1..TOPICS_MAX {
        batch.put(Keyspace::Topics, key::topic(&format!("t-{number}")), row.clone());
    }
    machine.kv.commit(batch).unwrap();
    let made = Op::SetTopic(SetTopic { topic: "more".into(), keep_ms: None, keep_bytes: None });
    for refused in [publish("more", &["x"]), made] {
        assert!(matches!(machine.run(refused), Reply::Refused(Error::InvalidArgument { .. })));
    }
    assert!(matches!(machine.run(publish("t-7", &["x"])), Reply::Published(_)), "one that is there");
    machine.run(Op::DeleteTopic(DeleteTopic { topic: "t-8".into(), group: None }));
    assert!(matches!(machine.run(publish("more", &["x"])), Reply::Published(_)));
}
