//! Conditions decide races: of many writers that demand the same, exactly one wins, whatever the interleaving.

use std::process::ExitCode;
use std::sync::Barrier;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw::{Call, Raw, Reply};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target};

/// Writers that race.
const WRITERS: usize = 32;
/// Races per case.
const ROUNDS: usize = 10;

type Case = (&'static str, fn(&Endpoint) -> Result<()>);

const CASES: &[Case] = &[
    ("exactly_one_of_many_creators_wins", exactly_one_of_many_creators_wins),
    ("exactly_one_of_many_completions_wins", exactly_one_of_many_completions_wins),
    ("exactly_one_of_many_replacements_wins", exactly_one_of_many_replacements_wins),
    ("a_counter_by_if_match_loses_no_step", a_counter_by_if_match_loses_no_step),
    ("exactly_one_of_many_deletions_wins", exactly_one_of_many_deletions_wins),
    ("exactly_one_of_many_copies_wins", exactly_one_of_many_copies_wins),
    ("exactly_one_of_many_renames_wins", exactly_one_of_many_renames_wins),
    ("exactly_one_of_many_appends_wins", exactly_one_of_many_appends_wins),
];

fn main() -> ExitCode {
    let Ok(fleet) = Fleet::new() else { return ExitCode::FAILURE };
    let mut suite = Suite::new(1);
    for target in Target::selected(&Target::HOLDFAST) {
        for (name, run) in CASES {
            let fleet = fleet.clone();
            suite.case(format!("{name} [{target}]"), move || run(&fleet.endpoint(target)?));
        }
    }
    drop(fleet);
    suite.run()
}

/// Lets all writers send at the same moment; their replies.
fn race(endpoint: &Endpoint, act: impl Fn(usize, &mut Raw) -> Result<Reply> + Sync) -> Result<Vec<Reply>> {
    let start = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (start, act) = (&start, &act);
                scope.spawn(move || {
                    let mut raw = endpoint.raw();
                    // Connected before the start, so that they really meet.
                    let connected = raw.get("", "", &[]);
                    start.wait();
                    connected?;
                    act(number, &mut raw)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().ok().context("a writer panicked")?).collect()
    })
}

/// The number of the one writer that won; everyone else must have been told so by a status of `losing`.
fn one_winner(replies: &[Reply], losing: &[u16]) -> Result<usize> {
    let won: Vec<usize> =
        replies.iter().enumerate().filter(|(_, reply)| reply.status < 300).map(|(number, _)| number).collect();
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    ensure!(won.len() == 1, "{} winners: {statuses:?}", won.len());
    let odd: Vec<_> = statuses.iter().filter(|status| **status >= 300 && !losing.contains(status)).collect();
    ensure!(odd.is_empty(), "losers were answered {odd:?}");
    Ok(won[0])
}

fn content(number: usize) -> Vec<u8> {
    format!("written by {number}").into_bytes()
}

fn holds(endpoint: &Endpoint, bucket: &str, key: &str, winner: usize) -> Result<()> {
    let reply = endpoint.raw().get(bucket, key, &[])?.expect(200)?;
    ensure!(reply.body == content(winner), "holds {:?}, the winner is {winner}", reply.text());
    Ok(())
}

fn exactly_one_of_many_creators_wins(endpoint: &Endpoint) -> Result<()> {
    for bucket in [endpoint.new_bucket("race")?, endpoint.new_versioned_bucket("race")?] {
        for round in 0..ROUNDS {
            let key = format!("k{round}");
            let replies = race(endpoint, |number, raw| {
                Ok(raw.put(&bucket, &key, &[("if-none-match", "*")], &content(number))?)
            })?;
            holds(endpoint, &bucket, &key, one_winner(&replies, &[409, 412])?)?;
        }
    }
    Ok(())
}

fn exactly_one_of_many_completions_wins(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("race")?;
    let mut raw = endpoint.raw();
    let uploads: Vec<(String, String)> = (0..WRITERS)
        .map(|number| {
            let upload = raw.create_upload(&bucket, "k", &[])?;
            let etag = raw.upload_part(&bucket, "k", &upload, 1, &content(number))?;
            Ok((upload, etag))
        })
        .collect::<Result<_>>()?;
    let replies = race(endpoint, |number, raw| {
        let (upload, etag) = &uploads[number];
        Ok(raw.complete_upload(&bucket, "k", upload, std::slice::from_ref(etag), &[("if-none-match", "*")])?)
    })?;
    holds(endpoint, &bucket, "k", one_winner(&replies, &[409, 412])?)
}

fn exactly_one_of_many_replacements_wins(endpoint: &Endpoint) -> Result<()> {
    for bucket in [endpoint.new_bucket("race")?, endpoint.new_versioned_bucket("race")?] {
        let mut etag = etag_of(endpoint.raw().put(&bucket, "k", &[], b"start")?.expect(200)?)?;
        for _ in 0..ROUNDS {
            let replies = race(endpoint, |number, raw| {
                Ok(raw.put(&bucket, "k", &[("if-match", etag.as_str())], &content(number))?)
            })?;
            let winner = one_winner(&replies, &[409, 412])?;
            holds(endpoint, &bucket, "k", winner)?;
            // Equal content has an equal ETag, so a fresh one stands between two rounds.
            etag = etag_of(
                endpoint.raw().put(&bucket, "k", &[], format!("after {winner} {etag}").as_bytes())?.expect(200)?,
            )?;
        }
    }
    Ok(())
}

fn etag_of(reply: Reply) -> Result<String> {
    Ok(reply.header("etag").context("no ETag")?.to_owned())
}

fn a_counter_by_if_match_loses_no_step(endpoint: &Endpoint) -> Result<()> {
    const STEPS: usize = 10;
    const COUNTERS: usize = 8;
    let bucket = endpoint.new_bucket("race")?;
    endpoint.raw().put(&bucket, "counter", &[], b"0")?.expect(200)?;
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..COUNTERS).map(|_| scope.spawn(|| count(endpoint, &bucket, STEPS))).collect();
        writers.into_iter().try_for_each(|writer| writer.join().ok().context("a writer panicked")?)
    })?;
    let total = endpoint.raw().get(&bucket, "counter", &[])?.expect(200)?.text();
    ensure!(total == (STEPS * COUNTERS).to_string(), "counted {total}");
    Ok(())
}

/// Adds one `steps` times by reading, and writing back only if nobody wrote in between.
fn count(endpoint: &Endpoint, bucket: &str, steps: usize) -> Result<()> {
    let mut raw = endpoint.raw();
    let mut done = 0;
    while done < steps {
        let read = raw.get(bucket, "counter", &[])?.expect(200)?;
        let next = read.text().parse::<u64>()? + 1;
        let etag = etag_of(read)?;
        let reply = raw.put(bucket, "counter", &[("if-match", etag.as_str())], next.to_string().as_bytes())?;
        match reply.status {
            200 => done += 1,
            409 | 412 => {}
            _ => drop(reply.expect(200)?),
        }
    }
    Ok(())
}

fn exactly_one_of_many_deletions_wins(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("race")?;
    for round in 0..ROUNDS {
        let etag = etag_of(endpoint.raw().put(&bucket, "k", &[], &content(round))?.expect(200)?)?;
        // A writer that is not a deleter would replace the object; here one of 32 deletes it and the rest find it gone.
        let replies = race(endpoint, |_, raw| Ok(raw.delete(&bucket, "k", &[("if-match", etag.as_str())])?))?;
        one_winner(&replies, &[404, 409, 412])?;
        endpoint.raw().get(&bucket, "k", &[])?.expect_error(404, "NoSuchKey")?;
    }
    Ok(())
}

fn exactly_one_of_many_copies_wins(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("race")?;
    for number in 0..WRITERS {
        endpoint.raw().put(&bucket, &format!("from{number}"), &[], &content(number))?.expect(200)?;
    }
    for round in 0..ROUNDS {
        let key = format!("to{round}");
        let replies = race(endpoint, |number, raw| {
            let source = format!("/{bucket}/from{number}");
            Ok(raw.put(&bucket, &key, &[("x-amz-copy-source", source.as_str()), ("if-none-match", "*")], b"")?)
        })?;
        holds(endpoint, &bucket, &key, one_winner(&replies, &[409, 412])?)?;
    }
    Ok(())
}

fn exactly_one_of_many_renames_wins(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("race")?;
    let query = [("renameObject", "")];
    for round in 0..ROUNDS {
        let from = format!("from{round}");
        endpoint.raw().put(&bucket, &from, &[], &content(round))?.expect(200)?;
        let replies = race(endpoint, |number, raw| {
            let to = format!("to{round}-{number}");
            let headers = [("x-amz-rename-source", from.as_str())];
            Ok(raw.send(&Call {
                method: "PUT",
                bucket: &bucket,
                key: &to,
                query: &query,
                headers: &headers,
                body: b"",
            })?)
        })?;
        let winner = one_winner(&replies, &[404, 409])?;
        let there = endpoint.raw().list(&bucket, &format!("to{round}-"))?;
        ensure!(there == [format!("to{round}-{winner}")], "the object is at {there:?}");
        endpoint.raw().get(&bucket, &from, &[])?.expect_error(404, "NoSuchKey")?;
    }
    Ok(())
}

fn exactly_one_of_many_appends_wins(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("race")?;
    let mut want = b"start,".to_vec();
    endpoint.raw().put(&bucket, "log", &[], &want)?.expect(200)?;
    for _ in 0..ROUNDS {
        let offset = want.len().to_string();
        let replies = race(endpoint, |number, raw| {
            Ok(raw.put(&bucket, "log", &[("x-amz-write-offset-bytes", offset.as_str())], &content(number))?)
        })?;
        want.extend(content(one_winner(&replies, &[400, 409, 412])?));
        let have = endpoint.raw().get(&bucket, "log", &[])?.expect(200)?;
        ensure!(have.body == want, "the log holds {:?}", have.text());
    }
    Ok(())
}
