//! A big file written in order until it is in the store, read by a new mount, and read again.
//!
//! Cold means: a new mount with an empty cache, and, for sides on Holdfast, a gateway that was started again, so that its
//! memory does not serve. MinIO is not started again, since it keeps no objects in its memory. The machine's page cache is
//! as it is.

use std::time::Instant;

use anyhow::Result;

use super::Options;
use super::peers::{Mount, OTHERS, Side};
use super::report::{Figure, Goal, Unit};
use super::sheet::{Wanted, play};
use super::stack::Stack;
use super::work::{Content, write_stored};
use crate::stats::rate;

const WRITE: usize = 0;
const COLD: usize = 1;
const WARM: usize = 2;
/// Seeds of contents; every round and side has its own.
const SEED: u64 = 1_000;

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mib = options.big_bytes >> 20;
    let goal = || Goal::Times { side: Side::Mount.name(), others: OTHERS, times: 0.9 };
    let figure = |what: &str| Wanted::new(format!("{what} of {mib} MiB"), Unit::MbPerS).goal(goal());
    let wanted = vec![figure("sequential write"), figure("sequential read, cold,"), figure("sequential read, warm,")];
    let sides = Side::ALL.map(Side::name).to_vec();
    play(stack, (wanted, sides, options.rounds), |stack, turn| {
        let side = Side::ALL[turn.at];
        let key = format!("sequential-{}", turn.round);
        let content = Content::new(SEED + (turn.round * Side::ALL.len() + turn.at) as u64);
        let mount = stack.mount(side)?;
        stack.sync()?;
        let took = write_stored(&mount, &stack.store(side), &key, &content, options.big_bytes)?;
        turn.put(WRITE, rate(options.big_bytes, took) / 1e6);
        mount.end()?;
        if side.on_holdfast() {
            stack.restart_gateway()?;
        }
        let mount = stack.mount(side)?;
        for figure in [COLD, WARM] {
            stack.sync()?;
            turn.measure(figure, || read(&mount, &key, &content, options.big_bytes));
        }
        mount.end()?;
        stack.store(side).delete(&key)
    })
}

/// MB a second.
fn read(mount: &Mount, key: &str, content: &Content, length: u64) -> Result<f64> {
    let path = mount.path().join(key);
    mount.within("reading in order", || {
        let began = Instant::now();
        content.read(&path, length)?;
        Ok(rate(length, began.elapsed()) / 1e6)
    })
}
