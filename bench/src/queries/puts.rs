//! PUT of small documents into a bucket with two indexes on their content, and into one without, in turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::target::Endpoint;

use super::Options;
use super::report::Puts;
use super::stack::Stack;
use crate::stats::{Spread, rate};

/// Clients at once.
const CLIENTS: usize = 16;
/// Where the bytes of small objects are when they are acknowledged.
const DURABILITIES: [&str; 2] = ["backend", "quorum"];

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Puts>> {
    let endpoint = stack.ours();
    let mut results = Vec::new();
    for durability in DURABILITIES {
        let buckets = [format!("indexed-{durability}"), format!("plain-{durability}")];
        for bucket in &buckets {
            let mut raw = endpoint.raw();
            raw.put(bucket, "", &[], b"")?.expect(200)?;
            let settings = format!("{{\"durability\":\"{durability}\"}}");
            raw.put("_holdfast", &format!("v1/buckets/{bucket}"), &[], settings.as_bytes())?.expect(200)?;
        }
        let mut raw = endpoint.raw();
        sql::run(&mut raw, &format!("CREATE INDEX by_id ON \"{}/d/\" USING BTREE ($.id)", buckets[0]))?;
        sql::run(&mut raw, &format!("CREATE INDEX by_city ON \"{}/d/\" USING HASH ($.city)", buckets[0]))?;
        let mut rates: [Vec<f64>; 2] = Default::default();
        // Round 0 warms up.
        for round in 0..=options.rounds {
            for (at, bucket) in buckets.iter().enumerate() {
                let time = if round == 0 { options.put_time / 3 } else { options.put_time };
                let done = crowd(&endpoint, bucket, round, time)?;
                if round > 0 {
                    rates[at].push(done);
                }
            }
        }
        let ratios = rates[0].iter().zip(&rates[1]).map(|(with, without)| with / without);
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).context("a run has at least one round");
        let puts = Puts {
            durability,
            clients: CLIENTS,
            with_per_s: spread(&rates[0])?,
            without_per_s: spread(&rates[1])?,
            ratio: Spread::of(ratios).context("a run has at least one round")?,
        };
        eprintln!("PUT, {durability}: {:.2} of the rate with two indexes", puts.ratio.median);
        results.push(puts);
    }
    Ok(results)
}

/// Objects a second by all clients.
fn crowd(endpoint: &Endpoint, bucket: &str, round: usize, time: Duration) -> Result<f64> {
    let began = Instant::now();
    let client = &|client: usize| -> Result<u64> {
        let (mut raw, mut count) = (endpoint.raw(), 0);
        while began.elapsed() < time {
            let id = (round * CLIENTS + client) as u64 * 1_000_000 + count;
            let body = format!(
                "{{\"id\":{id},\"city\":\"city {}\",\"name\":\"somebody {}\",\"note\":\"{}\"}}",
                id % 997,
                id * 31,
                "x".repeat(200)
            );
            raw.put(bucket, &format!("d/{round}/{client}/{count}.json"), &[], body.as_bytes())?.expect(200)?;
            count += 1;
        }
        Ok(count)
    };
    let count = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).sum::<Result<u64>>()
    })?;
    Ok(rate(count, began.elapsed()))
}
