//! Content that an index reads in one way and a statement in another.

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::{Order, same};
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::target::{Endpoint, Target};

/// An object, how it is read (`{bucket}` stands for the bucket), a predicate on the indexed column `a`, and the rows that
/// meet it.
struct Case {
    key: &'static str,
    content_type: &'static str,
    body: &'static str,
    from: &'static str,
    wanted: &'static str,
    rows: usize,
}

const CSV: &str = "text/csv";

const CASES: &[Case] = &[
    // What read_csv is told.
    Case {
        key: "1/a.csv",
        content_type: CSV,
        body: "a;b\n1;2\n3;4\n",
        from: "read_csv('s3://{bucket}/1/*.csv', delimiter => ';')",
        wanted: "a = 1",
        rows: 1,
    },
    Case {
        key: "2/a.csv",
        content_type: CSV,
        body: "1,2\n3,4\n",
        from: "read_csv('s3://{bucket}/2/*.csv', header => false)",
        wanted: "column_1 = 1",
        rows: 1,
    },
    Case {
        key: "3/a.csv",
        content_type: CSV,
        body: "a,b\n'x,y',2\n",
        from: "read_csv('s3://{bucket}/3/*.csv', quote => '''')",
        wanted: "a = 'x,y'",
        rows: 1,
    },
    Case {
        key: "4/a.csv",
        content_type: CSV,
        body: "#one\na,b\nx,2\n",
        from: "read_csv('s3://{bucket}/4/*.csv', comment => '#')",
        wanted: "a = 'x'",
        rows: 1,
    },
    Case {
        key: "5/a.csv",
        content_type: CSV,
        body: "a,b\n\"x\\\"y\",2\n",
        from: "read_csv('s3://{bucket}/5/*.csv', escape => '\\')",
        wanted: "a = 'x\"y'",
        rows: 1,
    },
    Case {
        key: "6/a.csv",
        content_type: CSV,
        body: "a,b\n-,1\n5,2\n",
        from: "read_csv('s3://{bucket}/6/*.csv', null => '-')",
        wanted: "a = 5",
        rows: 1,
    },
    Case {
        key: "7/a.csv",
        content_type: CSV,
        body: "a,b\n010,1\n10,2\n",
        from: "read_csv('s3://{bucket}/7/*.csv', all_text => true)",
        wanted: "a = '010'",
        rows: 1,
    },
    Case {
        key: "8/a.csv",
        content_type: CSV,
        body: "a,b\n010,1\nx,2\n",
        from: "read_csv('s3://{bucket}/8/*.csv', types => 'a=text')",
        wanted: "a >= '0' AND a < '02'",
        rows: 1,
    },
    // The function says more than the name of the object.
    Case {
        key: "9/a.dat",
        content_type: "application/json",
        body: "a,b\nx,2\n",
        from: "read_csv('s3://{bucket}/9/*.dat')",
        wanted: "a = 'x'",
        rows: 1,
    },
    Case {
        key: "10/a.tsv",
        content_type: CSV,
        body: "a,b\nx,2\n",
        from: "read_csv('s3://{bucket}/10/*.tsv')",
        wanted: "a = 'x'",
        rows: 1,
    },
    Case {
        key: "11/a.csv",
        content_type: CSV,
        body: "{\"a\":\"x\"}\n{\"a\":\"y\"}\n",
        from: "read_json('s3://{bucket}/11/*.csv')",
        wanted: "a = 'y'",
        rows: 1,
    },
    // The same as without a function: here an index helps.
    Case {
        key: "12/a.csv",
        content_type: CSV,
        body: "a,b\nx,2\ny,3\n",
        from: "read_csv('s3://{bucket}/12/*.csv')",
        wanted: "a = 'y'",
        rows: 1,
    },
    Case {
        key: "13/a.ndjson",
        content_type: CSV,
        body: "{\"a\":\"x\"}\n{\"a\":\"y\"}\n",
        from: "read_json('s3://{bucket}/13/*.ndjson')",
        wanted: "a = 'y'",
        rows: 1,
    },
    // Names in a header.
    Case {
        key: "14/a.csv",
        content_type: CSV,
        body: "b, a \n2,x\n",
        from: "\"{bucket}/14/\"",
        wanted: "a = 'x'",
        rows: 1,
    },
    Case {
        key: "15/a.csv",
        content_type: CSV,
        body: "\u{feff}a,b\nx,2\n",
        from: "\"{bucket}/15/\"",
        wanted: "a = 'x'",
        rows: 1,
    },
    Case {
        key: "16/a.csv",
        content_type: CSV,
        body: "a,a\nx,y\n",
        from: "\"{bucket}/16/\"",
        wanted: "a_1 = 'y'",
        rows: 1,
    },
    Case {
        key: "17/a.csv",
        content_type: CSV,
        body: ",b\nx,y\n",
        from: "\"{bucket}/17/\"",
        wanted: "column_1 = 'x'",
        rows: 1,
    },
    Case {
        key: "18/a.csv",
        content_type: CSV,
        body: "\"a\",b\r\n\"x\r\ny\",2\r\n",
        from: "\"{bucket}/18/\"",
        wanted: "a = 'x\r\ny'",
        rows: 1,
    },
];

pub(super) fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Holdfast::start(HoldfastOptions::embedded(dir.path()))?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    for bucket in ["indexed", "plain"] {
        raw.put(bucket, "", &[], b"")?.expect(200)?;
    }
    for column in ["a", "a_1", "column_1"] {
        sql::run(&mut raw, &format!("CREATE INDEX {column}_tree ON \"indexed\" USING BTREE ({column})"))?;
        sql::run(&mut raw, &format!("CREATE INDEX {column}_hash ON \"indexed\" USING HASH ({column})"))?;
    }
    let mut wrong = Vec::new();
    for case in CASES {
        for bucket in ["indexed", "plain"] {
            let headers = [("content-type", case.content_type)];
            raw.put(bucket, case.key, &headers, case.body.as_bytes())?.expect(200)?;
            // Something to leave out, so that an index is worth being asked.
            let (folder, name) = case.key.split_once('/').context("a key has a folder")?;
            let other = format!("{folder}/0{name}");
            let body = case.body.replace(['x', 'y', '1', '3', '5'], "7");
            raw.put(bucket, &other, &headers, body.as_bytes())?.expect(200)?;
        }
        if let Err(error) = check(&mut raw, case) {
            wrong.push(format!("{}: {error:#}", case.from));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let plan = sql::rows(&mut raw, "EXPLAIN SELECT * FROM read_csv('s3://indexed/12/*.csv') WHERE a = 'x'")?;
    ensure!(format!("{plan:?}").contains("index a_"), "default options are those of an index: {plan:?}");
    Ok(())
}

fn check(raw: &mut Raw, case: &Case) -> Result<()> {
    let mut of = |bucket: &str| {
        let from = case.from.replace("{bucket}", bucket);
        sql::rows(raw, &format!("SELECT * FROM {from} WHERE {}", case.wanted))
    };
    let (indexed, plain) = (of("indexed")?, of("plain")?);
    same(&indexed, &plain, Order::DoesNot).context("with indexes and without")?;
    ensure!(plain.len() == case.rows, "{} rows instead of {}: {plain:?}", plain.len(), case.rows);
    Ok(())
}
