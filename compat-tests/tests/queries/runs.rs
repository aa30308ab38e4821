//! The durable form of indexes: entries move to the store, answers stay exact through overwrites, restarts, the loss of the
//! node and the loss of runs, and files that nobody needs go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::cli::command;
use holdfast_compat_tests::client::command::succeed;
use holdfast_compat_tests::client::raw::{Call, Raw, elements};
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, Launch, Process, holdfast_program, tail, wait_until};
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{SOON, one, ready, rows, run};

/// A recovery waits up to 62 s for the old cluster.
pub const WITHIN: Duration = Duration::from_secs(420);
/// Bytes of entries in the state: about twenty objects of this test.
const HEAD_BYTES: &str = "16KiB";
/// Runs of an index past which they are merged.
const RUNS_MAX: u64 = 9;
const INDEXES: [&str; 3] = ["by-n", "by-s", "by-state"];

/// Rows of an object, and how it is written.
type Object = (Vec<(u32, String)>, &'static str);

/// What the objects hold, as the test knows it: rows `n,s`, and a tag.
struct World {
    dir: tempfile::TempDir,
    dice: StdRng,
    objects: BTreeMap<String, Object>,
}

fn options(dir: &Path, data: &str) -> HoldfastOptions {
    let mut options = HoldfastOptions::embedded(dir);
    options.data = dir.join(data);
    options.log = dir.join(format!("{data}.log"));
    options.backend = Some(format!("file:{}", dir.join("store").display()));
    options.args = ["--index-head-bytes", HEAD_BYTES].map(str::to_owned).to_vec();
    options
}

fn serve(dir: &Path, data: &str) -> Result<(Holdfast, Raw, Endpoint)> {
    let server = Holdfast::start(options(dir, data))?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    Ok((server, endpoint.raw(), endpoint))
}

pub fn live_in_the_store() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World { dir, dice: StdRng::seed_from_u64(11), objects: BTreeMap::new() };
    let (mut server, mut raw, endpoint) = serve(world.dir.path(), "data")?;
    let done = world.while_it_serves(&mut server, &mut raw, &endpoint);
    done.with_context(|| server.log_tail(30))?;
    server.kill();
    std::fs::remove_dir_all(world.dir.path().join("data/cluster"))?;
    let report = recover(world.dir.path())?;
    ensure!(report["runs"]["missing"] == 0 && report["runs"]["known"].as_u64() > Some(0), "{report}");
    let (mut server, mut raw, _) = serve(world.dir.path(), "new")?;
    let done = world.recovered(&mut raw).and_then(|()| world.without_runs(&mut server, &mut raw));
    done.with_context(|| server.log_tail(30))
}

impl World {
    fn while_it_serves(&mut self, server: &mut Holdfast, raw: &mut Raw, endpoint: &Endpoint) -> Result<()> {
        raw.send(&Call { method: "PUT", bucket: "abc", ..Call::default() })?.expect(200)?;
        run(raw, "CREATE INDEX \"by-n\" ON \"abc/t/\" USING BTREE (n)")?;
        run(raw, "CREATE INDEX \"by-s\" ON \"abc/t/\" USING HASH (s)")?;
        run(raw, "CREATE INDEX \"by-state\" ON \"abc/t/\" USING BTREE (tags['state'])")?;
        for number in 0..60 {
            self.write(raw, &format!("t/{number:03}.csv"))?;
        }
        self.demoted(raw)?;
        self.check(raw, "demoted")?;
        for step in 0..40 {
            self.change(raw)?;
            if step % 8 == 0 {
                self.check(raw, "changed")?;
            }
        }
        self.explained(raw)?;
        // Many more versions: runs pile up, and are merged.
        for round in 0.. {
            ensure!(round < 100, "runs are not merged");
            for number in 0..30 {
                self.write(raw, &format!("t/{number:03}.csv"))?;
            }
            // An index that comes and goes lets jobs look at once.
            run(raw, "CREATE INDEX hint ON \"abc/t/\" USING HASH (tags['hint'])")?;
            run(raw, "DROP INDEX hint ON \"abc\"")?;
            if counter(raw, "holdfast_index_runs_merged_total")? >= RUNS_MAX {
                break;
            }
        }
        self.check(raw, "merged")?;
        wait_until("old files to go", SOON, || Ok(self.files()? == self.named(raw)?))?;
        // They are counted once they are forgotten, a moment after they are gone.
        wait_until("old files to be counted", SOON, || {
            Ok(counter(raw, "holdfast_index_runs_deleted_total")? >= RUNS_MAX)
        })?;
        self.shown(raw, endpoint)?;
        server.restart()?;
        *raw = Endpoint::of(Target::Embedded, server.address()).raw();
        self.check(raw, "started again")?;
        ensure!(counter(raw, "holdfast_index_objects_read_total")? == 0, "no object is read again");
        wait_until("the archive to catch up", SOON, || Ok(status(raw)?["archive"]["lag_revisions"] == 0))
    }

    /// A recovered cluster knows its runs and reads no data for them.
    fn recovered(&mut self, raw: &mut Raw) -> Result<()> {
        ensure!(status(raw)?["generation"] == 2);
        let data_reads = |raw: &mut Raw| -> Result<u64> {
            Ok(counter(raw, "holdfast_cache_hits_total")? + counter(raw, "holdfast_cache_misses_total")?)
        };
        for index in INDEXES {
            let statement = format!("SELECT state, pending FROM holdfast.indexes WHERE name = '{index}'");
            ensure!(one(raw, &statement)? == "ready,0", "{index}: {}", one(raw, &statement)?);
        }
        let before = data_reads(raw)?;
        for state in ["open", "done"] {
            ensure!(listed(raw, state)? == self.of_state(state), "recovered: objects of {state}");
        }
        ensure!(data_reads(raw)? == before, "an index on tags needs no data");
        ensure!(counter(raw, "holdfast_index_run_opens_total")? > 0, "runs were read");
        self.check(raw, "recovered")?;
        self.lookups_are_one_read(raw)?;
        ensure!(counter(raw, "holdfast_index_objects_read_total")? == 0, "no object is read again");
        for _ in 0..20 {
            self.change(raw)?;
        }
        self.check(raw, "recovered and changed")
    }

    /// Runs that are damaged or missing cost no answer, and their indexes are built anew.
    fn without_runs(&mut self, server: &mut Holdfast, raw: &mut Raw) -> Result<()> {
        self.demoted(raw)?;
        let files = self.files()?;
        let damaged = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "hash"));
        for file in damaged {
            let length = std::fs::metadata(file)?.len() as usize;
            std::fs::write(file, vec![7; length])?;
        }
        // What is in memory of them is right; a new process has nothing.
        server.restart()?;
        *raw = Endpoint::of(Target::Embedded, server.address()).raw();
        self.check(raw, "damaged")?;
        ready(raw, "by-s")?;
        self.check(raw, "damaged and built anew")?;
        server.kill();
        let missing = self.files()?.into_iter().filter(|file| file.extension().is_some_and(|found| found == "btree"));
        for file in missing {
            std::fs::remove_file(file)?;
        }
        server.restart()?;
        *raw = Endpoint::of(Target::Embedded, server.address()).raw();
        self.check(raw, "missing")?;
        wait_until("missing runs to be noticed", SOON, || Ok(counter(raw, "holdfast_index_runs_lost_total")? > 0))?;
        for index in INDEXES {
            ready(raw, index)?;
        }
        self.check(raw, "missing and built anew")?;
        self.demoted(raw)?;
        for index in INDEXES {
            run(raw, &format!("DROP INDEX \"{index}\" ON \"abc\""))?;
        }
        wait_until("files of dropped indexes to go", SOON, || Ok(self.files()?.is_empty()))
    }

    fn write(&mut self, raw: &mut Raw, key: &str) -> Result<()> {
        let row = |dice: &mut StdRng| (dice.random_range(0..300), format!("s{}", dice.random_range(0..300)));
        let found: Vec<(u32, String)> = (0..12).map(|_| row(&mut self.dice)).collect();
        let lines: String = found.iter().map(|(n, s)| format!("{n},{s}\n")).collect();
        let state = if self.dice.random_range(0..4) == 0 { "open" } else { "done" };
        let tags = format!("state={state}");
        let body = format!("n,s\n{lines}");
        raw.put("abc", key, &[("x-amz-tagging", tags.as_str())], body.as_bytes())?.expect(200)?;
        self.objects.insert(key.to_owned(), (found, state));
        Ok(())
    }

    /// An overwrite, delete, copy, rename, or other tags.
    fn change(&mut self, raw: &mut Raw) -> Result<()> {
        let key = format!("t/{:03}.csv", self.dice.random_range(0..60));
        let other = format!("t/{:03}.csv", self.dice.random_range(0..60));
        let (here, there) = (self.objects.contains_key(&key), self.objects.contains_key(&other));
        match self.dice.random_range(0..6) {
            0 if here => {
                raw.delete("abc", &key, &[])?.expect(204)?;
                self.objects.remove(&key);
            }
            1 if here && key != other => {
                let source = format!("abc/{key}");
                raw.put("abc", &other, &[("x-amz-copy-source", source.as_str())], b"")?.expect(200)?;
                self.objects.insert(other, self.objects[&key].clone());
            }
            2 if here && !there => {
                let source = format!("/abc/{key}");
                let query = [("renameObject", "")];
                let headers = [("x-amz-rename-source", source.as_str())];
                let call = Call {
                    method: "PUT",
                    bucket: "abc",
                    key: &other,
                    query: &query,
                    headers: &headers,
                    ..Call::default()
                };
                raw.send(&call)?.expect(200)?;
                let moved = self.objects.remove(&key).context("it is here")?;
                self.objects.insert(other, moved);
            }
            3 if here => {
                let query = [("tagging", "")];
                let body = "<Tagging><TagSet><Tag><Key>state</Key><Value>open</Value></Tag></TagSet></Tagging>";
                let call = Call {
                    method: "PUT",
                    bucket: "abc",
                    key: &key,
                    query: &query,
                    body: body.as_bytes(),
                    ..Call::default()
                };
                raw.send(&call)?.expect(200)?;
                self.objects.entry(key).and_modify(|object| object.1 = "open");
            }
            _ => self.write(raw, &key)?,
        }
        Ok(())
    }

    fn of_state(&self, state: &str) -> Vec<String> {
        self.objects.iter().filter(|(_, object)| object.1 == state).map(|(key, _)| key.clone()).collect()
    }

    /// Answers by every index, compared with what the test knows.
    fn check(&mut self, raw: &mut Raw, when: &str) -> Result<()> {
        for _ in 0..6 {
            let n = self.dice.random_range(0..310);
            let wanted: Vec<String> = self.keys_with(|row| row.0 == n);
            let found = rows(raw, &format!("SELECT _key FROM \"abc/t/\" WHERE n = {n} ORDER BY _key"))?;
            ensure!(found == wanted, "{when}: n = {n}: {found:?}, not {wanted:?}");
            let wanted = self.keys_with(|row| (n..=n + 2).contains(&row.0));
            let range = format!("SELECT _key FROM \"abc/t/\" WHERE n BETWEEN {n} AND {} ORDER BY _key", n + 2);
            let found = rows(raw, &range)?;
            ensure!(found == wanted, "{when}: n from {n}: {found:?}, not {wanted:?}");
            let wanted = self.keys_with(|row| row.1 == format!("s{n}"));
            let found = rows(raw, &format!("SELECT _key FROM \"abc/t/\" WHERE s = 's{n}' ORDER BY _key"))?;
            ensure!(found == wanted, "{when}: s = s{n}: {found:?}, not {wanted:?}");
        }
        for state in ["open", "done", "other"] {
            let (found, wanted) = (listed(raw, state)?, self.of_state(state));
            ensure!(found == wanted, "{when}: state = {state}: {found:?}, not {wanted:?}");
        }
        Ok(())
    }

    /// The key of every row that is wanted, in order.
    fn keys_with(&self, wanted: impl Fn(&(u32, String)) -> bool) -> Vec<String> {
        let of = |(key, object): (&String, &Object)| {
            let count = object.0.iter().filter(|row| wanted(row)).count();
            vec![key.clone(); count]
        };
        self.objects.iter().flat_map(of).collect()
    }

    /// Waits until the two indexes on content have given entries to the store, and hold no more than they may.
    fn demoted(&self, raw: &mut Raw) -> Result<()> {
        let statement = "SELECT count(*) FROM holdfast.indexes \
                         WHERE name IN ('by-n', 'by-s') AND runs > 0 AND run_bytes > 0 AND bytes <= 16384";
        wait_until("entries to move to the store", SOON, || Ok(one(raw, statement)? == "2"))?;
        let name = |file: &PathBuf| file.file_name().map(|name| name.to_string_lossy().into_owned());
        let names: Vec<String> = self.files()?.iter().filter_map(name).collect();
        ensure!(names.iter().any(|name| name.starts_with("by-n.") && name.ends_with(".btree")), "{names:?}");
        ensure!(names.iter().any(|name| name.starts_with("by-s.") && name.ends_with(".hash")), "{names:?}");
        Ok(())
    }

    /// A lookup is one ranged read of each run that may have the value, and none of the others.
    fn lookups_are_one_read(&self, raw: &mut Raw) -> Result<()> {
        let counts = |raw: &mut Raw| -> Result<(u64, u64)> {
            Ok((counter(raw, "holdfast_index_run_reads_total")?, counter(raw, "holdfast_index_run_opens_total")?))
        };
        let mut found = 0;
        for n in 0..40 {
            let statement = format!("SELECT _key FROM \"abc/t/\" WHERE n = {n}");
            // The first time a filter may come to memory.
            rows(raw, &statement)?;
            let runs: u64 = one(raw, "SELECT runs FROM holdfast.indexes WHERE name = 'by-n'")?.parse()?;
            let before = counts(raw)?;
            rows(raw, &statement)?;
            let after = counts(raw)?;
            // A run that was opened meanwhile is one more read, and of another.
            let reads = (after.0 - before.0).saturating_sub(after.1 - before.1);
            ensure!(reads <= runs, "n = {n} took {reads} reads of {runs} runs");
            found += reads;
        }
        ensure!(found > 0, "no lookup read a run");
        Ok(())
    }

    fn explained(&self, raw: &mut Raw) -> Result<()> {
        for predicate in ["n = 5", "s = 's5'"] {
            let plan = rows(raw, &format!("EXPLAIN SELECT * FROM \"abc/t/\" WHERE {predicate}"))?.join("\n");
            ensure!(plan.contains("runs="), "{predicate}: {plan}");
        }
        Ok(())
    }

    /// Every place that tells of indexes tells of their runs.
    fn shown(&self, raw: &mut Raw, endpoint: &Endpoint) -> Result<()> {
        let status = status(raw)?;
        let of = |index: &str| {
            let all = status["indexes"].as_array().map_or(&[][..], Vec::as_slice);
            all.iter().find(|row| row["name"] == index).cloned().unwrap_or_default()
        };
        let query = [("bucket", "abc")];
        let listed: Value = serde_json::from_str(&raw.get("_holdfast", "v1/indexes", &query)?.expect(200)?.text())?;
        for index in listed["indexes"].as_array().context("no list")? {
            let name = index["name"].as_str().context("no name")?;
            for field in ["bytes", "runs", "run_bytes"] {
                ensure!(index[field].is_u64() && of(name)[field].is_u64(), "{name} {field}: {index}, {}", of(name));
            }
        }
        for words in [&["index", "list", "abc"][..], &["status"]] {
            let mut command = command(endpoint)?;
            command.args(words);
            let text = succeed(command)?;
            ensure!(text.contains("run_bytes"), "{words:?}: {text}");
        }
        Ok(())
    }

    /// Files of runs in the store.
    fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let (mut found, mut folders) = (BTreeSet::new(), vec![self.dir.path().join("store/indexes")]);
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.insert(entry.path());
                }
            }
        }
        Ok(found)
    }

    /// As many files as the indexes say that they have runs: or none of the files, while they change.
    fn named(&self, raw: &mut Raw) -> Result<BTreeSet<PathBuf>> {
        let runs: usize = one(raw, "SELECT sum(runs) FROM holdfast.indexes")?.parse()?;
        let files = self.files()?;
        Ok(if files.len() == runs { files } else { BTreeSet::new() })
    }
}

/// Keys of objects whose tag says so, page by page.
fn listed(raw: &mut Raw, state: &str) -> Result<Vec<String>> {
    let filter = format!("tags['state'] = '{state}'");
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let mut query = vec![("list-type", "2"), ("prefix", "t/"), ("holdfast-where", filter.as_str())];
        query.extend(token.as_ref().map(|token: &String| ("continuation-token", token.as_str())));
        let page = raw.get("abc", "", &query)?.expect(200)?;
        found.extend(elements(&page.text(), "Key"));
        token = page.element("NextContinuationToken");
        if token.is_none() {
            return Ok(found);
        }
    }
}

fn status(raw: &mut Raw) -> Result<Value> {
    Ok(serde_json::from_str(&raw.get("_holdfast", "v1/status", &[])?.expect(200)?.text())?)
}

fn counter(raw: &mut Raw, name: &str) -> Result<u64> {
    let page = raw.get("_holdfast", "metrics", &[])?.expect(200)?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// Builds `new` from the store alone.
fn recover(dir: &Path) -> Result<Value> {
    let mut args: Vec<OsString> = vec!["recover".into(), "--json".into(), "--data".into(), dir.join("new").into()];
    args.extend(["--backend".into(), format!("file:{}", dir.join("store").display()).into()]);
    let log = dir.join("recover.log");
    let mut process = Process::start(&Launch { program: holdfast_program()?, args, env: Vec::new(), log })?;
    let status = process.wait(Duration::from_secs(150)).with_context(|| tail(&process.output(), 20))?;
    let output = process.output();
    ensure!(status.code() == Some(0), "{output}");
    let from = output.find('{').with_context(|| format!("no report in {output}"))?;
    Ok(serde_json::from_str(&output[from..])?)
}
