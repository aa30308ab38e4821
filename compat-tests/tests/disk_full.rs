//! A full disk: reads go on, deletes work, writes are refused with a status that says so, and writing comes back within
//! ten seconds of space returning, without a restart.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_compat_tests::client::raw::{Raw, same_bytes};
use holdfast_compat_tests::disk::Disk;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};

const RECOVERS_WITHIN: Duration = Duration::from_secs(10);
const OBJECT_BYTES: usize = 4 << 20;

fn main() -> ExitCode {
    let mut suite = Suite::new(1);
    suite.case("a_full_disk_refuses_writes_and_nothing_else", || full(Filler::Objects));
    suite.case("a_disk_filled_by_others_recovers_when_they_leave", || full(Filler::Others));
    suite.run()
}

/// Who fills the disk.
#[derive(Clone, Copy, PartialEq)]
enum Filler {
    /// Our own objects.
    Objects,
    /// A file beside our data.
    Others,
}

fn full(filler: Filler) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = Disk::mount(dir.path().join("disk"))?;
    let mut options = HoldfastOptions::embedded(disk.path());
    options.log = dir.path().join("holdfast.log");
    let mut server = Holdfast::start(options)?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    let result = story(&endpoint, &disk, filler);
    ensure!(server.process().is_running()?, "the server ended: {}", server.log_tail(30));
    result.with_context(|| server.log_tail(20))?;
    // What was acknowledged while the disk filled is there after a restart too.
    server.restart()?;
    Ok(())
}

fn story(endpoint: &Endpoint, disk: &Disk, filler: Filler) -> Result<()> {
    let bucket = endpoint.new_bucket("full")?;
    let mut raw = endpoint.raw();
    for number in 0..5 {
        raw.put(&bucket, &format!("small{number}"), &[], &fixture::bytes(number, 2000))?.expect(200)?;
    }
    let ballast = disk.path().join("ballast");
    let written = match filler {
        Filler::Objects => fill_by_objects(&mut raw, &bucket)?,
        Filler::Others => fill_by_others(&mut raw, &bucket, disk, &ballast)?,
    };
    // Reads go on, of small and large.
    for number in 0..5 {
        let got = raw.get(&bucket, &format!("small{number}"), &[])?.expect(200)?;
        same_bytes("small object", &got.body, &fixture::bytes(number, 2000))?;
    }
    if let Some(last) = written.last() {
        let got = raw.get(&bucket, &format!("large{last}"), &[])?.expect(200)?;
        same_bytes("large object", &got.body, &fixture::bytes(*last, OBJECT_BYTES))?;
    }
    ensure!(raw.list(&bucket, "")?.len() == 5 + written.len(), "the listing changed");
    // Deletes work.
    raw.delete(&bucket, "small0", &[])?.expect(204).context("a delete on a full disk")?;
    raw.get(&bucket, "small0", &[])?.expect_error(404, "NoSuchKey")?;
    for number in &written {
        raw.delete(&bucket, &format!("large{number}"), &[])?.expect(204).context("a delete on a full disk")?;
    }
    if filler == Filler::Others {
        std::fs::remove_file(&ballast)?;
    }
    recovers(&mut raw, &bucket, filler)
}

/// A refused write says that there is no space, or to come back, and leaves nothing behind.
fn refusal(status: u16) -> bool {
    matches!(status, 503 | 507)
}

fn fill_by_objects(raw: &mut Raw, bucket: &str) -> Result<Vec<u64>> {
    let mut written = Vec::new();
    for number in 0..400 {
        let key = format!("large{number}");
        let reply = raw.put(bucket, &key, &[], &fixture::bytes(number, OBJECT_BYTES))?;
        if reply.status == 200 {
            written.push(number);
            continue;
        }
        ensure!(refusal(reply.status), "refused with {}: {}", reply.status, reply.text());
        raw.get(bucket, &key, &[])?.expect_error(404, "NoSuchKey")?;
        return Ok(written);
    }
    bail!("400 objects of 4 MiB fit on a disk of 700 MiB")
}

fn fill_by_others(raw: &mut Raw, bucket: &str, disk: &Disk, ballast: &Path) -> Result<Vec<u64>> {
    raw.put(bucket, "large0", &[], &fixture::bytes(0, OBJECT_BYTES))?.expect(200)?;
    disk.fill(ballast)?;
    for (key, length) in [("refused-small", 100), ("refused-large", OBJECT_BYTES)] {
        // What little space our own files hold in advance may take a few more small writes.
        let mut refused = false;
        for _ in 0..20_000 {
            let reply = raw.put(bucket, key, &[], &fixture::bytes(1, length))?;
            if reply.status != 200 {
                ensure!(refusal(reply.status), "refused with {}: {}", reply.status, reply.text());
                refused = true;
                break;
            }
        }
        ensure!(refused, "{length} bytes were written again and again on a full disk");
    }
    let listed = raw.list(bucket, "refused")?;
    for key in listed {
        raw.delete(bucket, &key, &[])?.expect(204)?;
    }
    Ok(vec![0])
}

fn recovers(raw: &mut Raw, bucket: &str, filler: Filler) -> Result<()> {
    let began = Instant::now();
    // Deleted objects give their space back when a job collects them, which takes its time; a file of others at once.
    let within = if filler == Filler::Others { RECOVERS_WITHIN } else { 6 * RECOVERS_WITHIN };
    wait_until("writing again", within, || {
        Ok(raw.put(bucket, "after", &[], &fixture::bytes(7, 100_000))?.status == 200)
    })?;
    let got = raw.get(bucket, "after", &[])?.expect(200)?;
    same_bytes("the first object after", &got.body, &fixture::bytes(7, 100_000))
        .with_context(|| format!("{:?} after space returned", began.elapsed()))
}
