//! What a statement cannot do: reach a file, the network, the environment or a setting, or bring the process down.

use super::memory::Memory;
use super::{bench, bench_with};

fn memory() -> Memory {
    let mut memory = Memory::default();
    memory.put("b/a.csv", "a\n1\n");
    memory
}

#[tokio::test]
async fn nothing_but_objects_is_reached() {
    let (bench, repository) = (bench(), memory().shared());
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM \"file:///etc/passwd\"",
        "SELECT * FROM \"http://localhost/a.csv\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_csv('file:///etc/passwd')",
        "SELECT * FROM read_parquet('http://localhost/a.parquet')",
        "SELECT * FROM read_csv('s3://b/../../etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.df_settings",
        "SELECT * FROM pg_catalog.pg_tables",
        "SELECT version()",
        "SELECT random()",
        "SELECT uuid()",
        "SELECT getenv('HOME')",
        "SELECT current_setting('datafusion.execution.batch_size')",
        "SELECT @@version",
        "SELECT $1",
        "COPY \"b/a.csv\" TO '/tmp/x.csv'",
        "COPY (SELECT 1) TO '/tmp/x.csv' STORED AS CSV",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW t AS SELECT 1",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE SCHEMA s",
        "CREATE DATABASE d",
        "INSERT INTO \"b/a.csv\" VALUES (1)",
        "SELECT 1 INTO t",
        "DELETE FROM \"b/a.csv\"",
        "UPDATE \"b/a.csv\" SET a = 2",
        "TRUNCATE TABLE \"b/a.csv\"",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW ALL",
        "SHOW TABLES",
        "SHOW datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "LOAD 'x'",
        "ATTACH 'x'",
        "CALL f()",
        "BEGIN",
        "COMMIT",
        "USE x",
        "GRANT ALL ON t TO u",
        "EXPLAIN INSERT INTO \"b/a.csv\" VALUES (1)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x.csv'",
        "SELECT 1; DROP TABLE t",
    ] {
        let error = match bench.rows(&repository, sql).await {
            Ok(rows) => panic!("{sql} gave {rows:?}"),
            Err(error) => error,
        };
        let code = error.code;
        let known = ["InvalidSql", "NotImplemented", "NoSuchBucket", "NoSuchKey", "InvalidQuery"];
        assert!(known.contains(&code), "{sql}: {code}: {}", error.message);
        assert!(!error.message.contains("root:"), "{sql}: {}", error.message);
    }
    assert!(!std::path::Path::new("/tmp/x.csv").exists());
}

#[tokio::test]
async fn no_statement_brings_the_process_down() {
    let (bench, repository) = (bench(), memory().shared());
    let nested = |count: usize| format!("SELECT {}1{}", "(".repeat(count), ")".repeat(count));
    let cases = [
        nested(50_000),
        format!("SELECT 1{}", " + 1".repeat(50_000)),
        format!("SELECT a{} FROM \"b/a.csv\"", " AND true".repeat(50_000)),
        format!("SELECT {}1", "-".repeat(50_000)),
        format!("SELECT {}true", "NOT ".repeat(50_000)),
        format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(20_000), " END".repeat(20_000)),
        format!("SELECT '{}'", "x".repeat(10 << 20)),
        format!("SELECT {}'a'{}", "upper(".repeat(20_000), ")".repeat(20_000)),
        format!("SELECT * FROM {}(SELECT 1){}", "(SELECT * FROM ".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(20_000)),
        format!("SELECT ARRAY{}1{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("SELECT * FROM \"b/a.csv\"{}", ", \"b/a.csv\"".repeat(10_000)),
        format!("SELECT a{} FROM \"b/a.csv\"", "['x']".repeat(20_000)),
        format!("SELECT 1{}", "::int".repeat(50_000)),
        format!("SELECT '{}'::json", "[".repeat(50_000)),
        format!("WITH {} SELECT 1", "a AS (SELECT 1), ".repeat(20_000)),
    ];
    for sql in cases {
        let error = bench.rows(&repository, &sql).await.expect_err(&sql[..60]);
        assert!(["InvalidSql", "NotImplemented"].contains(&error.code), "{}: {error:?}", &sql[..60]);
    }
}

#[tokio::test]
async fn what_the_bounds_allow_is_planned() {
    let (bench, repository) = (bench_with(|_| {}), memory().shared());
    let ok = [
        (format!("SELECT 1{}", " + 1".repeat(1_900)), "1901"),
        (format!("SELECT count(*) FROM \"b/a.csv\" WHERE {}a = 1", "a = 7 OR ".repeat(900)), "1"),
        (format!("SELECT count(*) FROM (SELECT 1{}) t", " UNION ALL SELECT 1".repeat(150)), "151"),
        (
            format!(
                "SELECT a FROM \"b/a.csv\" WHERE a IN ({})",
                (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
            ),
            "1",
        ),
    ];
    for (sql, expected) in ok {
        assert_eq!(bench.rows(&repository, &sql).await.unwrap(), [expected], "{}", &sql[..60]);
    }
}
