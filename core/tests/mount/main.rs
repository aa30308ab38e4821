//! The rules of the mount: each by itself, and random commits against a naive model.
//!
//! `HOLDFAST_MODEL_SEEDS=N` runs N seeds instead of a few, `HOLDFAST_MODEL_SEED=S` only that one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Settings of a run.

#[path = "../model/invariants.rs"]
mod invariants;
mod naive;
mod random;
mod runs;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod world;

use bytes::Bytes;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvRead, MemView};

use random::Random;
use support::Dice;
use world::World;

const SEEDS: u64 = 60;
const COMMANDS: usize = 150;

/// The rows of a keyspace.
fn rows(view: &MemView, keyspace: Keyspace) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
    view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward).map(Result::unwrap)
}

fn seeds() -> Vec<u64> {
    let setting = |name| std::env::var(name).ok().map(|value: String| value.parse().expect("a number of seeds"));
    match setting("HOLDFAST_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (0..setting("HOLDFAST_MODEL_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

fn run(seed: u64, world: &mut World) -> Result<(), String> {
    let mut random = Random { dice: Dice::new(seed) };
    match seed % 3 {
        0 => {}
        1 => world.versioning(true),
        _ => world.versioning(false),
    }
    for number in 0..COMMANDS {
        if random.dice.once_in(3) {
            random.other(world)?;
        } else {
            random.commit(world)?;
        }
        if seed.is_multiple_of(3) && number > COMMANDS * 2 / 3 && random.dice.once_in(40) {
            world.versioning(true);
        }
        world.check()?;
    }
    Ok(())
}

#[test]
fn random_commits_agree_with_the_model() {
    for seed in seeds() {
        let mut world = World::new();
        let outcome = run(seed, &mut world);
        if let Err(why) = outcome {
            let last: Vec<String> = world
                .log
                .iter()
                .rev()
                .take(3)
                .map(|(revision, command)| format!("{revision}: {:?}", command.op))
                .collect();
            panic!("seed {seed}, after {} commands: {why}\nthe last are\n{}", world.log.len(), last.join("\n"));
        }
        world.replay();
        world.nothing_is_left().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
