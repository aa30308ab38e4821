//! Indexes on several nodes: each finds by them what any node wrote, also in runs that another one put into the store, and
//! whoever leads.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::{Cell, Rows};
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::process::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::histories::logs;
use crate::{NODES, SOON, Scale, say, until_answered};

const OBJECTS: u64 = 40;
const ROWS: u64 = 50;
/// Values are below this one.
const VALUES: u64 = 300;
/// Values that are looked for at each node.
const LOOKUPS: u64 = 8;

/// What the objects hold, by their keys: values by row, whose number is the index.
type World = BTreeMap<String, Vec<u64>>;

pub fn indexes(scale: Scale) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    let done = play(&mut lan, scale);
    done.with_context(|| logs(&lan))
}

fn play(lan: &mut Lan, scale: Scale) -> Result<()> {
    let (mut dice, mut world) = (StdRng::seed_from_u64(scale.seed), World::new());
    until_answered(|| lan.raw(0).put("rows", "", &[], b"")?.expect(200))?;
    sql::run(&mut lan.raw(1), "CREATE INDEX by_n ON \"rows/t/\" USING BTREE (n)")?;
    let mut runs = 0;
    for _ in 0..scale.rounds.max(1) {
        let all: Vec<usize> = (0..NODES).collect();
        write(lan, &all, &mut dice, &mut world)?;
        runs = await_runs(lan, 0)?;
        check(lan, &all, &mut dice, &world)?;
        let leader = lan.leader()?;
        lan.kill(leader);
        let others: Vec<usize> = all.iter().copied().filter(|node| *node != leader).collect();
        write(lan, &others, &mut dice, &mut world)?;
        check(lan, &others, &mut dice, &world)?;
        lan.launch(leader)?;
        lan.await_ready(leader)?;
        check(lan, &all, &mut dice, &world)?;
    }
    say(&format!("{} rows in {} objects, {runs} runs", world.len() as u64 * ROWS, world.len()));
    Ok(())
}

/// Writes and overwrites objects, and deletes a few, each at another node.
fn write(lan: &Lan, nodes: &[usize], dice: &mut StdRng, world: &mut World) -> Result<()> {
    for _ in 0..OBJECTS {
        let key = format!("t/{:03}.csv", dice.random_range(0..2 * OBJECTS));
        let node = nodes[dice.random_range(0..nodes.len())];
        if world.len() as u64 > OBJECTS && dice.random_range(0..8) == 0 {
            until_answered(|| lan.raw(node).delete("rows", &key, &[])?.expect(204))?;
            world.remove(&key);
            continue;
        }
        let values: Vec<u64> = (0..ROWS).map(|_| dice.random_range(0..VALUES)).collect();
        let lines = values.iter().enumerate().map(|(row, n)| format!("{row},{n}\n"));
        let body = format!("id,n\n{}", lines.collect::<String>());
        until_answered(|| lan.raw(node).put("rows", &key, &[], body.as_bytes())?.expect(200))?;
        world.insert(key, values);
    }
    Ok(())
}

/// Until some entries are in the store; how many runs there are.
fn await_runs(lan: &Lan, node: usize) -> Result<i128> {
    let mut runs = 0;
    wait_until("a run", SOON, || {
        let found = sql::rows(&mut lan.raw(node), "SELECT runs FROM holdfast.indexes WHERE pending = 0");
        if let Ok([row]) = found.as_deref()
            && let [Cell::Integer(count)] = row[..]
        {
            runs = count;
        }
        Ok(runs > 0)
    })?;
    Ok(runs)
}

/// Each node finds all rows of a value, by the index.
fn check(lan: &Lan, nodes: &[usize], dice: &mut StdRng, world: &World) -> Result<()> {
    for &node in nodes {
        let mut raw: Raw = lan.raw(node);
        for _ in 0..LOOKUPS {
            let wanted = dice.random_range(0..VALUES);
            let statement = format!("SELECT _key, id FROM \"rows/t/\" WHERE n = {wanted} ORDER BY _key, id");
            let rows_of = |(key, values): (&String, &Vec<u64>)| -> Rows {
                let rows = (0..).zip(values).filter(|(_, n)| **n == wanted);
                rows.map(|(row, _)| vec![Cell::Text(key.clone()), Cell::Integer(row)]).collect()
            };
            let expected: Rows = world.iter().flat_map(rows_of).collect();
            let found = until_answered(|| sql::rows(&mut raw, &statement))?;
            ensure!(found == expected, "node {node}, {statement}: {found:?} and not {expected:?}");
        }
        let plan = until_answered(|| sql::rows(&mut raw, "EXPLAIN SELECT id FROM \"rows/t/\" WHERE n = 7"))?;
        let plan = format!("{plan:?}");
        ensure!(plan.contains("index by_n") && plan.contains("runs="), "node {node}: {plan}");
    }
    Ok(())
}
