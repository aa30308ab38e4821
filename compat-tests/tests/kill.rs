//! `kill -9` in a loop under mixed load: nothing acknowledged is lost, nothing is torn, listings equal what was promised.
//!
//! `HOLDFAST_KILL_CYCLES` sets the number of kills (100), `HOLDFAST_SEED` repeats a run's load and moments.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::audit::{Auditor, Change, Content};
use holdfast_compat_tests::client::raw::{Call, Raw, elements};
use holdfast_compat_tests::crash::{self, Plan};
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target, in_front_of};

const CYCLES: u32 = 100;
/// Of the kills, this share runs in front of MinIO, where each start and write is slower.
const OVER_MINIO_SHARE: u32 = 5;
/// A cycle that takes longer than this is a hang, not load.
const CYCLE_MAX: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let cycles = crash::from_environment("HOLDFAST_KILL_CYCLES", CYCLES);
    let seed = u64::from(crash::from_environment("HOLDFAST_SEED", rand::random::<u16>().into()));
    let over_minio = (cycles / OVER_MINIO_SHARE).max(1);
    let mut suite = Suite::new(1);
    for target in Target::selected(&[Target::Embedded]) {
        suite.case(format!("the_audit_notices_what_it_must [{target}]"), move || {
            let fleet = Fleet::new()?;
            the_audit_notices_what_it_must(&fleet.endpoint(target)?)
        });
    }
    let name = |what: &str, cycles: u32| {
        format!("nothing_acknowledged_is_lost_to_kills [{what}, {cycles} kills, seed {seed}]")
    };
    let targets = Target::selected(&Target::HOLDFAST);
    if targets.contains(&Target::Embedded) {
        let embedded = cycles - over_minio;
        suite.case_within(CYCLE_MAX * (embedded + 6), name("embedded", embedded), move || {
            kill(HoldfastOptions::embedded, plan(embedded, seed))
        });
    }
    if targets.contains(&Target::OverMinio) {
        suite.case_within(CYCLE_MAX * (over_minio + 6), name("over-minio", over_minio), move || {
            let fleet = Fleet::new()?;
            let minio: Endpoint = fleet.endpoint(Target::Minio)?;
            let plan = plan(over_minio, seed);
            let options = |dir: &std::path::Path| {
                let mut options = HoldfastOptions::embedded(dir);
                // The bucket is new, so creating it cannot fail for a reason of its own; a failure shows at the start.
                let _ = in_front_of(&minio, &mut options);
                options
            };
            kill(options, plan)
        });
    }
    suite.run()
}

/// A checker that never failed proves nothing: each kind of broken promise is made on purpose, and must be found.
fn the_audit_notices_what_it_must(endpoint: &Endpoint) -> Result<()> {
    for (name, breaks) in BROKEN_PROMISES {
        let mut raw = endpoint.raw();
        let versioned = name.contains("version");
        let bucket = if versioned { endpoint.new_versioned_bucket("audit")? } else { endpoint.new_bucket("audit")? };
        let mut auditor = Auditor::new(&bucket, "w/", versioned);
        for number in 0..4 {
            let (key, content) = (format!("w/{}", number % 3), Content::piece(number, 1000));
            auditor.begin(Change::one(&key, Some(content.clone())));
            let reply = raw.put(&bucket, &key, &[], &content.bytes())?.expect(200)?;
            auditor.acknowledge(reply.header("x-amz-version-id"));
        }
        auditor.check_all(&mut raw).with_context(|| format!("{name}: before anything was broken"))?;
        breaks(&mut raw, &bucket, &mut auditor)?;
        let found = auditor.resolve(&mut raw).and_then(|()| auditor.check_all(&mut raw));
        ensure!(found.is_err(), "{name}: not noticed");
    }
    Ok(())
}

type Break = fn(&mut Raw, &str, &mut Auditor) -> Result<()>;

const BROKEN_PROMISES: &[(&str, Break)] = &[
    ("a lost object", |raw, bucket, _| raw.delete(bucket, "w/1", &[])?.expect(204).map(drop)),
    ("an object that nobody wrote", |raw, bucket, _| raw.put(bucket, "w/extra", &[], b"x")?.expect(200).map(drop)),
    ("a torn object", |raw, bucket, _| {
        let mut bytes = Content::piece(1, 1000).bytes();
        bytes[999] ^= 1;
        raw.put(bucket, "w/1", &[], &bytes)?.expect(200).map(drop)
    }),
    ("a short object", |raw, bucket, _| {
        raw.put(bucket, "w/1", &[], &Content::piece(1, 999).bytes())?.expect(200).map(drop)
    }),
    ("an older content that came back", |raw, bucket, _| {
        raw.put(bucket, "w/0", &[], &Content::piece(0, 1000).bytes())?.expect(200).map(drop)
    }),
    ("half of an unanswered rename", |raw, bucket, auditor| {
        let content = auditor.current("w/1").cloned();
        auditor.begin(Change { writes: vec![("w/1".to_owned(), None), ("w/9".to_owned(), content)] });
        raw.delete(bucket, "w/1", &[])?.expect(204).map(drop)
    }),
    ("an unanswered write that left something else", |raw, bucket, auditor| {
        auditor.begin(Change::one("w/1", Some(Content::piece(77, 10))));
        raw.put(bucket, "w/1", &[], &Content::piece(78, 10).bytes())?.expect(200).map(drop)
    }),
    ("a version more", |raw, bucket, _| {
        raw.put(bucket, "w/0", &[], &Content::piece(3, 1000).bytes())?.expect(200).map(drop)
    }),
    ("a version less", |raw, bucket, _| {
        let old = raw.get(bucket, "", &[("versions", ""), ("prefix", "w/0")])?.expect(200)?;
        let id = elements(&old.text(), "VersionId").pop().context("no old version")?;
        let call = Call { method: "DELETE", bucket, key: "w/0", query: &[("versionId", &id)], headers: &[], body: b"" };
        raw.send(&call)?.expect(204).map(drop)
    }),
];

fn plan(cycles: u32, seed: u64) -> Plan {
    Plan { cycles, seed, load_ms_max: 1200, large: true }
}

fn kill(options: impl FnOnce(&std::path::Path) -> HoldfastOptions, plan: Plan) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Holdfast::start(options(dir.path()))?;
    let tally = crash::run(&mut server, plan, |server, _| {
        server.kill();
        server.restart().context("restart after a kill")
    })?;
    crash::tell(&tally);
    Ok(())
}
