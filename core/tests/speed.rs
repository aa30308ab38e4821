//! How fast `apply` is in memory: a floor that only a gross waste falls below.

#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)] // It measures time.

mod support;

use std::time::Instant;

use support::*;

/// Prints the rate; run with `--nocapture` to see it.
#[test]
fn a_put_takes_well_below_a_millisecond() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let puts = 20_000u32;
    let begun = Instant::now();
    for number in 0..puts {
        machine.put(&bucket, &format!("dir/{:06}", number * 7919 % puts), 4096);
    }
    let took = begun.elapsed();
    println!("{puts} puts in {took:?}: {:.1} us each", took.as_secs_f64() * 1e6 / f64::from(puts));
    assert!(took.as_millis() < u128::from(puts), "{took:?}");
}
