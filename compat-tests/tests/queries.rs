//! Indexes and queries as a user meets them: over HTTP, by `holdfast sql` and `holdfast index`, and in listings.

#[path = "queries/runs.rs"]
mod runs;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::cli::command;
use holdfast_compat_tests::client::command::{fail_with, succeed};
use holdfast_compat_tests::client::curl;
use holdfast_compat_tests::client::raw::{Call, Raw, elements};
use holdfast_compat_tests::client::sql::{ask, run};
use holdfast_compat_tests::process::{Holdfast, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SOON: Duration = Duration::from_secs(30);

type Case = (&'static str, fn(&mut Holdfast, &Endpoint, &Path) -> Result<()>);

const CASES: &[Case] = &[
    ("objects_are_rows_in_every_format", formats),
    ("answers_are_the_same_with_and_without_an_index", with_and_without),
    ("an_index_is_built_over_what_is_there", built),
    ("an_index_on_tags_names_whole_objects", by_tags),
    ("a_unique_index_refuses_a_duplicate", unique),
    ("what_does_not_parse_is_stored_and_counted", unparsed),
    ("system_tables_tell_of_the_repository", system_tables),
    ("the_past_can_be_asked", past),
    ("a_listing_is_filtered", filtered),
    ("the_command_line_asks_and_makes_indexes", command_line),
    ("what_makes_no_sense_is_refused", refusals),
];

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    for (name, run) in CASES.iter().copied() {
        suite.case_with_server(name, &[], move |server, endpoint, dir| {
            endpoint.raw().send(&Call { method: "PUT", bucket: "abc", ..Call::default() })?.expect(200)?;
            run(server, endpoint, dir)
        });
    }
    suite.case_within(runs::WITHIN, "runs_of_indexes_live_in_the_store", runs::live_in_the_store);
    suite.run()
}

/// The rows as lines of CSV, without the header.
fn rows(raw: &mut Raw, statement: &str) -> Result<Vec<String>> {
    let reply = ask(raw, statement, "text/csv")?.expect(200).with_context(|| statement.to_owned())?;
    Ok(reply.text().lines().skip(1).map(str::to_owned).collect())
}

fn one(raw: &mut Raw, statement: &str) -> Result<String> {
    let mut found = rows(raw, statement)?;
    ensure!(found.len() == 1, "{statement}: {found:?}");
    Ok(found.remove(0))
}

fn put(raw: &mut Raw, key: &str, body: &str) -> Result<()> {
    raw.put("abc", key, &[], body.as_bytes())?.expect(200).with_context(|| key.to_owned())?;
    Ok(())
}

fn ready(raw: &mut Raw, index: &str) -> Result<()> {
    let statement = format!("SELECT state, pending FROM holdfast.indexes WHERE name = '{index}'");
    wait_until("the index is built", SOON, || Ok(one(raw, &statement)? == "ready,0"))
}

fn formats(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    put(&mut raw, "csv/a.csv", "id,city\n1,Oslo\n2,Bergen\n")?;
    put(&mut raw, "csv/b.csv", "id,city\n3,Oslo\n")?;
    put(&mut raw, "json/a.json", "{\"id\":1,\"where\":{\"city\":\"Oslo\"}}")?;
    put(&mut raw, "json/b.json", "[{\"id\":2,\"where\":{\"city\":\"Bergen\"}}]")?;
    put(&mut raw, "lines/a.ndjson", "{\"id\":1}\n{\"id\":2}\n")?;
    let found = rows(&mut raw, "SELECT city, count(*) AS n FROM \"abc/csv/\" GROUP BY city ORDER BY city")?;
    ensure!(found == ["Bergen,1", "Oslo,2"], "{found:?}");
    let found = rows(&mut raw, "SELECT id, \"where\"['city'] FROM \"abc/json/\" ORDER BY id")?;
    ensure!(found == ["1,Oslo", "2,Bergen"], "{found:?}");
    ensure!(one(&mut raw, "SELECT sum(id) FROM \"abc/lines/\"")? == "3");
    ensure!(one(&mut raw, "SELECT _key FROM \"abc/csv/\" WHERE id = 3")? == "csv/b.csv");
    let lines = ask(&mut raw, "SELECT id, city FROM \"abc/csv/\" WHERE id = 2", "application/x-ndjson")?;
    ensure!(lines.text() == "{\"id\":2,\"city\":\"Bergen\"}\n", "{}", lines.text());
    let arrow = ask(&mut raw, "SELECT 1", "application/vnd.apache.arrow.stream")?.expect(200)?;
    ensure!(arrow.body.starts_with(&[0xff, 0xff, 0xff, 0xff]), "it is an Arrow stream");
    ensure!(arrow.header("x-holdfast-revision").is_some(), "an answer says what it read");
    Ok(())
}

/// Random writes, copies, renames and deletes; after each the answers of two buckets are compared, of which one is indexed.
fn with_and_without(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    raw.send(&Call { method: "PUT", bucket: "plain", ..Call::default() })?.expect(200)?;
    run(&mut raw, "CREATE INDEX n ON \"abc/t/\" USING BTREE (n)")?;
    run(&mut raw, "CREATE INDEX s ON \"abc/t/\" USING HASH (s)")?;
    let mut dice = StdRng::seed_from_u64(7);
    for step in 0..60 {
        let key = format!("t/{}.csv", dice.random_range(0..12));
        match dice.random_range(0..8) {
            0 => {
                for bucket in ["abc", "plain"] {
                    raw.send(&Call { method: "DELETE", bucket, key: &key, ..Call::default() })?.expect(204)?;
                }
            }
            1 => {
                let other = format!("t/{}.csv", dice.random_range(0..12));
                for bucket in ["abc", "plain"] {
                    let source = format!("{bucket}/{other}");
                    let headers = [("x-amz-copy-source", source.as_str())];
                    // The source may not exist, in both.
                    raw.put(bucket, &key, &headers, b"")?;
                }
            }
            _ => {
                let count = dice.random_range(0..30);
                let row = |dice: &mut StdRng| format!("{},s{},x\n", dice.random_range(0..100), dice.random_range(0..5));
                let body: String =
                    std::iter::once("n,s,rest\n".to_owned()).chain((0..count).map(|_| row(&mut dice))).collect();
                for bucket in ["abc", "plain"] {
                    raw.put(bucket, &key, &[], body.as_bytes())?.expect(200)?;
                }
            }
        }
        let low = dice.random_range(0..100);
        for wanted in [
            format!("n BETWEEN {low} AND {}", low + 3),
            format!("s = 's{}'", low % 5),
            format!("n = {low} AND s = 's1'"),
        ] {
            let ask =
                |bucket: &str| format!("SELECT _key, n, s FROM \"{bucket}/t/\" WHERE {wanted} ORDER BY _key, n, s");
            let indexed = ask_or_nothing(&mut raw, &ask("abc"))?;
            let plain = ask_or_nothing(&mut raw, &ask("plain"))?;
            ensure!(indexed == plain, "step {step}, {wanted}: {indexed:?} with the index, {plain:?} without");
        }
    }
    let plan = ask(&mut raw, "EXPLAIN SELECT * FROM \"abc/t/\" WHERE n = 5", "text/csv")?.expect(200)?.text();
    ensure!(plan.contains("index n"), "the plan names the index: {plan}");
    Ok(())
}

/// Rows, or none when there is no object to be a table.
fn ask_or_nothing(raw: &mut Raw, statement: &str) -> Result<Vec<String>> {
    let reply = ask(raw, statement, "text/csv")?;
    if reply.status == 404 || reply.status == 400 {
        return Ok(vec![reply.code()]);
    }
    Ok(reply.expect(200)?.text().lines().skip(1).map(str::to_owned).collect())
}

fn built(server: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    for n in 0..150 {
        put(&mut raw, &format!("d/{n:03}.json"), &format!("{{\"n\":{n},\"even\":{}}}", n % 2 == 0))?;
    }
    // More rows than an entry each may have, and more bytes than a write keeps.
    let big: String = std::iter::once("n\n".to_owned()).chain((0..400_000).map(|n| format!("{n}\n"))).collect();
    put(&mut raw, "big/a.csv", &big)?;
    run(&mut raw, "CREATE INDEX by_n ON \"abc/d/\" USING BTREE ($.n)")?;
    run(&mut raw, "CREATE INDEX big ON \"abc/big/\" USING BTREE (n)")?;
    // Exact before it is built, too.
    ensure!(one(&mut raw, "SELECT count(*) FROM \"abc/d/\" WHERE n >= 140")? == "10");
    ready(&mut raw, "by_n")?;
    ready(&mut raw, "big")?;
    ensure!(one(&mut raw, "SELECT count(*) FROM \"abc/d/\" WHERE n >= 140")? == "10");
    ensure!(one(&mut raw, "SELECT n FROM \"abc/big/\" WHERE n = 123456")? == "123456");
    let plan = ask(&mut raw, "EXPLAIN SELECT n FROM \"abc/big/\" WHERE n = 123456", "text/csv")?.text();
    ensure!(plan.contains("index big"), "{plan}");
    server.kill();
    server.restart()?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    ensure!(one(&mut raw, "SELECT count(*) FROM \"abc/d/\" WHERE n >= 140")? == "10", "after a kill");
    run(&mut raw, "DROP INDEX by_n ON \"abc\"")?;
    ensure!(one(&mut raw, "SELECT count(*) FROM \"abc/d/\" WHERE n >= 140")? == "10", "without it");
    Ok(())
}

fn unique(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    run(&mut raw, "CREATE UNIQUE INDEX id ON \"abc/u/\" USING HASH ($.id)")?;
    put(&mut raw, "u/a.json", "{\"id\":9007199254740993}")?;
    put(&mut raw, "u/b.json", "{\"id\":9007199254740992}")?;
    raw.put("abc", "u/c.json", &[], b"{\"id\":9007199254740993}")?.expect_error(409, "DuplicateValue")?;
    raw.get("abc", "u/c.json", &[])?.expect(404)?;
    raw.put("abc", "u/c.json", &[("x-amz-copy-source", "abc/u/a.json")], b"")?.expect_error(409, "DuplicateValue")?;
    put(&mut raw, "elsewhere/c.json", "{\"id\":9007199254740993}")?;
    raw.put("abc", "u/c.json", &[("x-amz-copy-source", "abc/elsewhere/c.json")], b"")?
        .expect_error(409, "DuplicateValue")?;
    let uploads = [("uploads", "")];
    let call = Call { method: "POST", bucket: "abc", key: "u/m.json", query: &uploads, ..Call::default() };
    raw.send(&call)?.expect_error(400, "NotIndexable")?;
    raw.send(&Call { method: "DELETE", bucket: "abc", key: "u/a.json", ..Call::default() })?.expect(204)?;
    put(&mut raw, "u/c.json", "{\"id\":9007199254740993}")
}

fn by_tags(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    run(&mut raw, "CREATE INDEX team ON \"abc/g/\" USING HASH (tags['team'])")?;
    for n in 0..20 {
        let tags = format!("team=t{}", n % 10);
        let body = format!("n\n{n}\n100\n");
        raw.put("abc", &format!("g/{n:02}.csv"), &[("x-amz-tagging", tags.as_str())], body.as_bytes())?.expect(200)?;
    }
    let statement = "SELECT sum(n) FROM \"abc/g/\" WHERE _tags['team'] = 't3'";
    let plan = rows(&mut raw, &format!("EXPLAIN {statement}"))?.concat();
    ensure!(plan.contains("index team (hash)"), "{plan}");
    ensure!(one(&mut raw, statement)? == "216");
    Ok(())
}

fn unparsed(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    run(&mut raw, "CREATE INDEX a ON \"abc/p/\" USING BTREE (a)")?;
    put(&mut raw, "p/bad.json", "{\"a\":")?;
    put(&mut raw, "p/good.json", "{\"a\":1}")?;
    ensure!(one(&mut raw, "SELECT unparsed FROM holdfast.indexes WHERE name = 'a'")? == "1");
    let query = [("bucket", "abc")];
    let listed = raw.get("_holdfast", "v1/indexes", &query)?.expect(200)?.text();
    ensure!(listed.contains("\"key\":\"p/bad.json\""), "{listed}");
    let settings = br#"{"on_parse_error":"strict"}"#;
    raw.put("_holdfast", "v1/buckets/abc", &[], settings)?.expect(200)?;
    raw.put("abc", "p/worse.json", &[], b"{")?.expect_error(400, "ContentDoesNotParse")?;
    put(&mut raw, "p/bad.json", "{\"a\":2}")?;
    ensure!(one(&mut raw, "SELECT unparsed FROM holdfast.indexes WHERE name = 'a'")? == "0");
    ensure!(one(&mut raw, "SELECT sum(a) FROM \"abc/p/\" WHERE a >= 1")? == "3");
    Ok(())
}

fn system_tables(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    let headers = [("x-amz-meta-colour", "red"), ("x-amz-tagging", "team=blue"), ("content-type", "text/plain")];
    raw.put("abc", "k", &headers, b"12345")?.expect(200)?;
    let versions = "SELECT size, content_type, metadata['colour'], tags['team'] FROM holdfast.versions \
                    WHERE bucket = 'abc' AND key = 'k' AND is_latest";
    ensure!(one(&mut raw, versions)? == "5,text/plain,red,blue", "{}", one(&mut raw, versions)?);
    ensure!(one(&mut raw, "SELECT objects, bytes FROM holdfast.buckets WHERE bucket = 'abc'")? == "1,5");
    let lock = [("ttl", "30s"), ("owner", "me")];
    let call = Call { method: "PUT", bucket: "_holdfast", key: "v1/locks/jobs", query: &lock, ..Call::default() };
    raw.send(&call)?.expect(200)?;
    ensure!(one(&mut raw, "SELECT name, mode, owner FROM holdfast.locks")? == "jobs,exclusive,me");
    let puts = "SELECT count(*) FROM holdfast.events WHERE kind = 'ObjectCreated:Put' AND key = 'k'";
    ensure!(one(&mut raw, puts)? == "1");
    ensure!(one(&mut raw, "SELECT count(*) FROM holdfast.peers WHERE is_leader")? == "1");
    Ok(())
}

fn past(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    let first = raw.put("abc", "h/a.json", &[], b"{\"n\":1}")?.expect(200)?;
    let revision = first.header("x-holdfast-revision").context("no revision")?.to_owned();
    put(&mut raw, "h/a.json", "{\"n\":2}")?;
    put(&mut raw, "h/b.json", "{\"n\":40}")?;
    ensure!(one(&mut raw, "SELECT sum(n) FROM \"abc/h/\"")? == "42");
    ensure!(one(&mut raw, &format!("SELECT sum(n) FROM \"abc/h/\" AS OF REVISION {revision}"))? == "1");
    ask(&mut raw, "SELECT * FROM \"abc/h/\" AS OF REVISION 999999999", "*/*")?.expect(400)?;
    Ok(())
}

fn filtered(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    for n in 0..40 {
        let tags = format!("state={}&n={n}", if n % 4 == 0 { "open" } else { "done" });
        raw.put("abc", &format!("f/{n:02}"), &[("x-amz-tagging", tags.as_str())], b"x")?.expect(200)?;
    }
    let open: Vec<String> = (0..40).step_by(4).map(|n| format!("f/{n:02}")).collect();
    for indexed in [false, true] {
        if indexed {
            run(&mut raw, "CREATE INDEX state ON \"abc\" USING BTREE (tags['state'])")?;
            ready(&mut raw, "state")?;
        }
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let mut query = vec![
                ("list-type", "2"),
                ("max-keys", "3"),
                ("prefix", "f/"),
                ("holdfast-where", "tags['state'] = 'open' AND tags['n'] < 36"),
            ];
            query.extend(token.as_ref().map(|token: &String| ("continuation-token", token.as_str())));
            let page = raw.get("abc", "", &query)?.expect(200)?;
            found.extend(elements(&page.text(), "Key"));
            token = page.element("NextContinuationToken");
            if token.is_none() {
                break;
            }
        }
        ensure!(found == open[..9], "{found:?}");
    }
    documented(endpoint)?;
    let query = [("list-type", "2"), ("holdfast-where", "size ~ 1")];
    raw.get("abc", "", &query)?.expect_error(400, "InvalidArgument")?;
    Ok(())
}

/// The request of docs/queries.md, as curl sends it.
fn documented(endpoint: &Endpoint) -> Result<()> {
    let text = include_str!("../../docs/queries.md");
    let (_, query) = text.split_once("$AWS_ENDPOINT_URL/people?").context("the example is not there")?;
    let (query, _) = query.split_once('"').context("the example does not end")?;
    let (url, user) =
        (format!("{}/abc?{query}", endpoint.url()), format!("{}:{}", endpoint.access_key, endpoint.secret_key));
    let header = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
    let listed = curl::run(&["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-H", header, &url])?;
    let keys = elements(&listed.expect(200)?.text(), "Key");
    ensure!(keys.len() == 10 && keys[1] == "f/04", "{keys:?}");
    Ok(())
}

fn command_line(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    put(&mut raw, "c/a.csv", "id,city\n1,Oslo\n2,Bergen\n")?;
    let holdfast = |words: &[&str]| {
        let mut command = command(endpoint)?;
        command.args(words);
        Ok::<_, anyhow::Error>(command)
    };
    let made = succeed(holdfast(&["index", "create", "by-city", "s3://abc/c/", "city", "--using", "hash"])?)?;
    ensure!(made.contains("CREATE INDEX"), "{made}");
    let listed = succeed(holdfast(&["index", "list", "abc"])?)?;
    ensure!(listed.contains("by-city") && listed.contains("hash"), "{listed}");
    let statement = "SELECT id, city FROM \"abc/c/\" WHERE city = 'Oslo'";
    ensure!(succeed(holdfast(&["sql", statement])?)? == "id,city\n1,Oslo\n", "CSV where it is no terminal");
    let table = succeed(holdfast(&["sql", "--format", "table", statement])?)?;
    ensure!(table.contains("| 1  | Oslo |") && table.contains("1 rows in"), "{table}");
    ensure!(succeed(holdfast(&["sql", "--json", statement])?)? == "{\"id\":1,\"city\":\"Oslo\"}\n");
    fail_with(holdfast(&["sql", "SELEC 1"])?, "InvalidSql")?;
    for (format, name) in [("csv", "one"), ("json", "two"), ("table", "three")] {
        let statement = format!("CREATE INDEX {name} ON \"abc/c/\" USING BTREE (id)");
        let made = succeed(holdfast(&["sql", "--format", format, &statement])?)?;
        ensure!(made.ends_with("}\n") && made.lines().count() == 1, "{format}: {made:?}");
    }
    let dropped = succeed(holdfast(&["index", "drop", "by-city", "s3://abc"])?)?;
    ensure!(dropped.contains("DROP INDEX"), "{dropped}");
    Ok(())
}

fn refusals(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    let mut check = |statement: &str, status: u16| -> Result<()> {
        ask(&mut raw, statement, "*/*")?.expect(status).with_context(|| statement.to_owned())?;
        Ok(())
    };
    check("SELECT * FROM \"nothing-there/\"", 404)?;
    check("SELEC 1", 400)?;
    check("SELECT 1; SELECT 2", 400)?;
    check("CREATE INDEX a ON \"nothing-there\" USING BTREE (key)", 404)?;
    check("DROP INDEX a ON \"abc\"", 404)?;
    check("CREATE INDEX a ON \"abc\" USING BTREE (key)", 200)?;
    check("CREATE INDEX a ON \"abc\" USING BTREE (key)", 409)?;
    check("CREATE INDEX IF NOT EXISTS a ON \"abc\" USING BTREE (key)", 200)?;
    check("DROP INDEX a ON \"abc\"", 200)?;
    check("DROP INDEX IF EXISTS a ON \"abc\"", 200)?;
    let writes = ask(&mut raw, "COPY (SELECT 1) TO '/tmp/x.csv'", "*/*")?;
    ensure!(writes.status >= 400, "a statement must not write: {}", writes.text());
    let headers = [("accept", "image/png")];
    let call = Call {
        method: "POST",
        bucket: "_holdfast",
        key: "v1/sql",
        headers: &headers,
        body: b"SELECT 1",
        ..Call::default()
    };
    let answer = raw.send(&call)?.expect(406)?.text();
    ensure!(answer.contains("NotAcceptable"), "{answer}");
    Ok(())
}
