//! Bounds of a query, and of all of them together.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_query::repository::Repository;
use holdfast_query::sql::{Kind, Statement, encode};

use super::memory::Memory;
use super::{Bench, bench, bench_with};

fn rows(count: usize) -> String {
    let mut text = "id,group_id,pad\n".to_owned();
    for id in 0..count {
        writeln!(text, "{id},{},{:064x}", id * 7919 % count, id).unwrap();
    }
    text
}

fn one(count: usize) -> Memory {
    let mut memory = Memory::default();
    memory.piece_bytes = 64 << 10;
    memory.put("b/a.csv", rows(count));
    memory
}

async fn failure(bench: &Bench, repository: &Arc<dyn Repository>, sql: &str) -> (Kind, &'static str) {
    let error = bench.rows(repository, sql).await.map(|rows| rows.len()).expect_err(sql);
    assert!(error.kind != Kind::Internal, "{sql}: {error:?}");
    (error.kind, error.code)
}

/// Polls a statement until it is in the queue.
async fn until_it_waits(bench: &Bench, mut statement: std::pin::Pin<&mut impl Future>) {
    while bench.engine.waiting() == 0 {
        assert!(futures::poll!(&mut statement).is_pending(), "it is not its turn");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_query_reads_so_many_bytes_and_no_more() {
    let (bench, repository) = (bench_with(|limits| limits.scan_bytes_max = 1 << 20), one(100_000).shared());
    let found = failure(&bench, &repository, "SELECT max(pad) FROM \"b/a.csv\"").await;
    assert_eq!(found, (Kind::Invalid, "ScanTooLarge"));
}

#[tokio::test]
async fn a_result_has_so_many_bytes_and_no_more() {
    let (bench, repository) = (bench_with(|limits| limits.result_bytes_max = 1 << 20), one(100_000).shared());
    assert_eq!(failure(&bench, &repository, "SELECT * FROM \"b/a.csv\"").await.1, "ResultTooLarge");
    assert_eq!(bench.rows(&repository, "SELECT count(*) FROM \"b/a.csv\"").await.unwrap(), ["100000"]);
}

#[tokio::test]
async fn a_query_takes_so_long_and_no_longer() {
    let mut memory = one(50_000);
    memory.delay = Duration::from_millis(50);
    let (bench, repository) = (bench_with(|limits| limits.time_max = Duration::from_millis(400)), memory.shared());
    let began = Instant::now();
    assert_eq!(failure(&bench, &repository, "SELECT max(pad) FROM \"b/a.csv\"").await.1, "QueryTimeout");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Computing is cut short as well as waiting.
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 1000000000) b";
    assert_eq!(failure(&bench, &repository, endless).await.1, "QueryTimeout");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn queries_wait_for_their_turn_and_too_many_are_refused() {
    let limited = |limits: &mut holdfast_query::engine::Limits| {
        limits.concurrent_max = 1;
        limits.queue_max = 1;
    };
    let (bench, repository) = (Arc::new(bench_with(limited)), one(10).shared());
    let first = bench.query(&repository, "SELECT 1").await.unwrap();
    let second = {
        let (bench, repository) = (Arc::clone(&bench), Arc::clone(&repository));
        async move { bench.rows(&repository, "SELECT 2").await }
    };
    let mut second = std::pin::pin!(second);
    until_it_waits(&bench, second.as_mut()).await;
    assert_eq!(failure(&bench, &repository, "SELECT 3").await, (Kind::Unavailable, "TooManyQueries"));
    // Statements about indexes are carried out elsewhere, and do not wait here.
    let create = bench.engine.prepare(Arc::clone(&repository), "CREATE INDEX i ON \"b/\" (id)").await.unwrap();
    assert!(matches!(create, Statement::CreateIndex(_)));
    drop(first);
    assert_eq!(second.await.unwrap(), ["2"]);
    assert_eq!(bench.rows(&repository, "SELECT 4").await.unwrap(), ["4"], "places are given back");
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_queue() {
    let limited = |limits: &mut holdfast_query::engine::Limits| {
        limits.concurrent_max = 1;
        limits.queue_max = 1;
    };
    let (bench, repository) = (bench_with(limited), one(10).shared());
    let first = bench.query(&repository, "SELECT 1").await.unwrap();
    for _ in 0..3 {
        let mut waiting = std::pin::pin!(bench.query(&repository, "SELECT 2"));
        until_it_waits(&bench, waiting.as_mut()).await;
    }
    drop(first);
    assert_eq!(bench.rows(&repository, "SELECT 3").await.unwrap(), ["3"]);
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_spilled() {
    let (bench, repository) = (bench_with(|limits| limits.memory_bytes = 24 << 20), one(300_000).shared());
    let sql = "SELECT id FROM (SELECT * FROM \"b/a.csv\" ORDER BY group_id, pad) t WHERE id % 100000 = 0";
    let sorted = bench.rows(&repository, sql).await.unwrap();
    assert_eq!(sorted, ["0", "100000", "200000"]);
    let plan = bench
        .rows(&repository, "EXPLAIN ANALYZE SELECT pad FROM \"b/a.csv\" ORDER BY group_id, pad")
        .await
        .unwrap()
        .join("\n");
    let spilled = plan.lines().any(|line| line.contains("SortExec") && !line.contains("spill_count=0"));
    assert!(spilled, "{plan}");
    let grouped =
        bench.rows(&repository, "SELECT count(*) FROM (SELECT pad, count(*) FROM \"b/a.csv\" GROUP BY pad) t");
    assert_eq!(grouped.await.unwrap(), ["300000"]);
}

#[tokio::test]
async fn what_fits_nowhere_is_an_error() {
    let tight = |limits: &mut holdfast_query::engine::Limits| {
        limits.memory_bytes = 4 << 20;
        limits.spill_bytes_max = 1 << 20;
    };
    let (bench, repository) = (bench_with(tight), one(200_000).shared());
    let sql = "SELECT count(DISTINCT pad) FROM \"b/a.csv\"";
    assert_eq!(failure(&bench, &repository, sql).await, (Kind::Unavailable, "ResourcesExhausted"));
    let sql = "SELECT * FROM \"b/a.csv\" ORDER BY pad DESC";
    assert_eq!(failure(&bench, &repository, sql).await, (Kind::Unavailable, "ResourcesExhausted"));
    assert_eq!(bench.rows(&repository, "SELECT count(*) FROM \"b/a.csv\"").await.unwrap(), ["200000"]);
}

#[tokio::test]
async fn dropping_the_stream_ends_the_work() {
    let mut memory = one(100_000);
    memory.delay = Duration::from_millis(5);
    let (bench, repository) = (bench(), memory.shared());
    let mut stream = bench.query(&repository, "SELECT * FROM \"b/a.csv\"").await.unwrap().run();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    assert!(bench.engine.shutdown(Duration::from_secs(10)).await, "nothing runs any more");
    let reads = memory.reads.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(memory.reads.load(Ordering::Relaxed), reads);
}

#[tokio::test]
async fn dropping_a_statement_before_it_is_planned_ends_the_work() {
    let mut memory = Memory::default();
    memory.delay = Duration::from_secs(3600);
    memory.put("b/a.csv", "a\n1\n");
    let (bench, repository) = (bench(), memory.shared());
    {
        let mut waiting = std::pin::pin!(bench.query(&repository, "SELECT * FROM \"b/a.csv\""));
        let late = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(late.is_err(), "the sample never comes");
    }
    assert!(bench.engine.shutdown(Duration::from_secs(10)).await, "nothing runs any more");
}

#[tokio::test]
async fn an_engine_that_stops_tells_its_queries() {
    let mut memory = one(100_000);
    memory.delay = Duration::from_millis(20);
    let (bench, repository) = (bench(), memory.shared());
    let mut stream = bench.query(&repository, "SELECT * FROM \"b/a.csv\"").await.unwrap().run();
    assert!(stream.next().await.unwrap().is_ok());
    assert!(bench.engine.shutdown(Duration::from_secs(10)).await);
    let mut last = None;
    while let Some(item) = stream.next().await {
        last = item.err();
    }
    assert_eq!(last.map(|error| error.code), Some("ServiceUnavailable"), "a cut is no end");
    assert_eq!(failure(&bench, &repository, "SELECT 1").await, (Kind::Unavailable, "ServiceUnavailable"));
}

#[tokio::test]
async fn a_failure_after_the_first_rows_is_the_last_line() {
    let mut memory = Memory::default();
    memory.put("b/1.csv", rows(50_000));
    memory.put("b/2.csv", "id,group_id,pad\n1,x,y\n");
    let (bench, repository) = (bench(), memory.shared());
    let sql = "SELECT * FROM read_csv('s3://b/*.csv', sample_objects => 1)";
    let query = bench.query(&repository, sql).await.unwrap();
    let schema = query.schema();
    let pieces: Vec<_> = encode(schema, query.run(), holdfast_query::sql::Format::Ndjson).collect().await;
    let text: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 50_001);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("{\"error\":{\"code\":\"InvalidData\",\"message\":\"b/2.csv: column"), "{last}");
}

#[tokio::test]
async fn a_function_makes_no_more_than_memory_holds() {
    let (bench, repository) = (bench_with(|limits| limits.memory_bytes = 64 << 20), one(10).shared());
    for sql in [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT sum(length(repeat(pad, 100000000))) FROM \"b/a.csv\"",
        "SELECT length(lpad('x', 2000000000, 'y'))",
        "SELECT length(rpad(pad, 2000000000, 'y')) FROM \"b/a.csv\"",
        "SELECT cardinality(range(1, 100000000000))",
        "SELECT cardinality(generate_series(1, 100000000000))",
        "SELECT cardinality(array_repeat(1, 100000000000))",
        "SELECT cardinality(array_resize([1], 100000000000, 1))",
        "SELECT cardinality(range(id, 100000000000)) FROM \"b/a.csv\"",
    ] {
        let error = bench.rows(&repository, sql).await.map(|rows| rows.len()).expect_err(sql);
        assert!(error.kind != Kind::Internal, "{sql}: {error:?}");
    }
    let rows = bench.rows(&repository, "SELECT lpad('7', 3, '0'), repeat('ab', 2), cardinality(range(1, 5))").await;
    assert_eq!(rows.unwrap(), ["007 | abab | 4"]);
}
