//! Ways to the rows: by an index or by a scan, the answer is the same.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use holdfast_core::index::{Expression, IndexKind, Step};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::bench;
use super::memory::{Indexed, Memory};

const CITIES: [&str; 9] = ["Bern", "Basel", "Zug", "10", "010", "true", "2024-05-06", " Bern", "Ümläut"];

fn field(path: &[&str]) -> Expression {
    Expression::Field(path.iter().map(|name| Step::Name((*name).to_owned())).collect())
}

fn indexed(random: &mut StdRng) -> Indexed {
    match random.random_range(0..4) {
        0 => Indexed::Pending,
        1 => Indexed::Blocks(random.random_range(1..6)),
        _ => Indexed::Rows,
    }
}

fn csv(random: &mut StdRng) -> String {
    let mut text = "id,city,price,flag,day\n".to_owned();
    for _ in 0..random.random_range(0..30) {
        let empty = random.random_range(0..8);
        let city = if empty == 0 { "" } else { CITIES.choose(random).unwrap() };
        let price = if empty == 1 { String::new() } else { format!("{:.1}", random.random_range(0.0..20.0)) };
        let flag = if empty == 2 { "" } else { ["true", "false"].choose(random).unwrap() };
        let day = random.random_range(1..28);
        writeln!(text, "{},{city},{price},{flag},2024-05-{day:02}", random.random_range(-5..40)).unwrap();
    }
    text
}

fn json(random: &mut StdRng) -> String {
    let mut text = String::new();
    for _ in 0..random.random_range(1..20) {
        let city = CITIES.choose(random).unwrap();
        let id = random.random_range(-5..40);
        let id = if random.random_bool(0.2) { format!("{id}.0") } else { id.to_string() };
        let tail = if random.random_bool(0.2) { "null".to_owned() } else { format!("{{\"id\":{id}}}") };
        let flag = random.random_bool(0.5);
        writeln!(text, "{{\"city\":\"{city}\",\"id\":{id},\"flag\":{flag},\"customer\":{tail}}}").unwrap();
    }
    text
}

fn predicate(random: &mut StdRng, json: bool) -> String {
    let city = CITIES.choose(random).unwrap();
    let (low, high) = (random.random_range(-6..40), random.random_range(-6..42));
    match random.random_range(0..16) {
        0 => format!("city = '{city}'"),
        1 => format!("city IN ('{city}', 'Zug')"),
        2 => format!("city LIKE '{}%'", city.chars().next().unwrap()),
        3 => format!("city > '{city}'"),
        4 => format!("city BETWEEN '1' AND '{city}'"),
        5 => format!("id = {low}"),
        6 => format!("id BETWEEN {low} AND {high}"),
        7 => format!("id > {low} AND city <> '{city}'"),
        8 => format!("id = {low} OR id = {high} OR id = {}", low + high),
        9 => format!("id < {low}.5"),
        10 => "flag".to_owned(),
        11 => format!("NOT flag AND id >= {low}"),
        12 => format!("starts_with(city, '{}')", city.chars().next().unwrap()),
        13 if json => format!("customer['id'] = {low}"),
        14 if json => format!("customer['id'] >= {low} AND customer['id'] < {high}"),
        13 => format!("day = DATE '2024-05-{:02}'", low.clamp(1, 27)),
        14 => format!("day >= '2024-05-{:02}' AND price < {high}", low.clamp(1, 27)),
        _ => format!("city = '{city}' AND id <= {high}"),
    }
}

async fn compare(seed: u64, json_rows: bool) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut memory = Memory::default();
    let end = if json_rows { "json" } else { "csv" };
    for object in 0..random.random_range(1..25) {
        let bytes = if json_rows { json(&mut random) } else { csv(&mut random) };
        let how = indexed(&mut random);
        memory.put_as(&format!("b/t/{object:02}.{end}"), bytes, how, |_| {});
    }
    let kinds = [IndexKind::BTree, IndexKind::Hash];
    memory.index("by_city", "b/t/", *kinds.choose(&mut random).unwrap(), vec![field(&["city"])]);
    memory.index("by_id", "b/", IndexKind::BTree, vec![field(&["id"])]);
    memory.index("by_both", "b/t/", IndexKind::BTree, vec![field(&["city"]), field(&["id"])]);
    memory.index("by_flag", "b/t/", IndexKind::BTree, vec![field(&["flag"])]);
    memory.index("by_day", "b/t/", IndexKind::BTree, vec![field(&["day"])]);
    memory.index("by_customer", "b/t/", IndexKind::BTree, vec![field(&["customer", "id"])]);
    let bench = bench();
    let (with, without) = (memory.shared(), memory.without_indexes().shared());
    for _ in 0..25 {
        let sql = format!("SELECT *, _key FROM \"b/t/\" WHERE {}", predicate(&mut random, json_rows));
        let expected = bench.rows(&without, &sql).await.unwrap();
        let found = bench.rows(&with, &sql).await.unwrap();
        assert_eq!(found, expected, "seed {seed}: {sql}");
    }
    memory.searches.load(Ordering::Relaxed)
}

#[tokio::test]
async fn rows_of_csv_are_the_same_with_indexes_and_without() {
    let mut searches = 0;
    for seed in 0..12 {
        searches += compare(seed, false).await;
    }
    assert!(searches > 100, "indexes were searched {searches} times");
}

#[tokio::test]
async fn rows_of_json_are_the_same_with_indexes_and_without() {
    let mut searches = 0;
    for seed in 100..112 {
        searches += compare(seed, true).await;
    }
    assert!(searches > 100, "indexes were searched {searches} times");
}

#[tokio::test]
async fn an_index_on_attributes_names_objects() {
    let mut memory = Memory::default();
    for at in 0..50 {
        let text = format!("a\n{at}\n");
        memory.put_as(&format!("b/{}/{at}.csv", at % 5), text, Indexed::Rows, |version| {
            version.metadata.insert("owner".to_owned(), format!("user{}", at % 10));
            version.tags.insert("Env".to_owned(), if at == 7 { "prod" } else { "test" }.to_owned());
        });
    }
    memory.index("by_owner", "b/", IndexKind::BTree, vec![Expression::Metadata("owner".to_owned())]);
    memory.index("by_env", "b/", IndexKind::Hash, vec![Expression::Tag("Env".to_owned())]);
    memory.index("by_part", "b/", IndexKind::BTree, vec![Expression::KeyPart(1)]);
    memory.index("by_size", "b/", IndexKind::BTree, vec![Expression::Size]);
    let (bench, repository) = (bench(), memory.shared());
    let cases = [
        ("_metadata['owner'] = 'user3'", "by_owner", "objects=5/50", &["13", "23", "3", "33", "43"][..]),
        ("_tags['Env'] = 'prod'", "by_env", "objects=1/50", &["7"]),
        ("split_part(_key, '/', 1) = '2' AND a > 40", "by_part", "objects=10/50", &["42", "47"]),
        ("_size = 4", "by_size", "objects=10/50", &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
    ];
    for (predicate, index, objects, expected) in cases {
        let mut rows = bench.rows(&repository, &format!("SELECT a FROM \"b/\" WHERE {predicate}")).await.unwrap();
        rows.sort();
        assert_eq!(rows, expected, "{predicate}");
        let plan = bench.rows(&repository, &format!("EXPLAIN SELECT a FROM \"b/\" WHERE {predicate}")).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && plan.contains(objects), "{predicate}: {plan}");
    }
}

#[tokio::test]
async fn attributes_leave_out_objects_before_they_are_read() {
    let mut memory = Memory::default();
    for at in 0..100 {
        memory.put(&format!("b/{at:03}.json"), format!("{{\"a\":{at}}}"));
    }
    let (bench, repository) = (bench(), memory.shared());
    let sql = "SELECT a FROM \"b/\" WHERE _key = '042.json' OR _revision = 8";
    assert_eq!(bench.rows(&repository, sql).await.unwrap(), ["7", "42"]);
    let sampled = memory.reads.load(Ordering::Relaxed);
    assert_eq!(bench.rows(&repository, sql).await.unwrap(), ["7", "42"]);
    assert_eq!(memory.reads.load(Ordering::Relaxed), sampled + 2, "columns are known, and two objects are read");
}

#[tokio::test]
async fn a_point_query_reads_its_row_and_no_more() {
    let mut memory = Memory::default();
    let mut text = "id,pad\n".to_owned();
    for id in 0..20_000 {
        writeln!(text, "{id},{}", "x".repeat(80)).unwrap();
    }
    let size = text.len() as u64;
    memory.put("b/t/big.csv", text);
    memory.index("by_id", "b/t/", IndexKind::BTree, vec![field(&["id"])]);
    let (bench, repository) = (bench(), memory.shared());
    let sql = "SELECT id FROM \"b/t/\" WHERE id = 17777";
    assert_eq!(bench.rows(&repository, sql).await.unwrap(), ["17777"]);
    let query = bench.query(&repository, sql).await.unwrap();
    let progress = query.progress();
    let rows: Vec<_> = futures::TryStreamExt::try_collect(query.run()).await.unwrap();
    assert_eq!(super::shown(&rows), ["17777"]);
    assert!(progress.bytes_scanned() < size / 50, "{} of {size} bytes", progress.bytes_scanned());
    assert_eq!((progress.rows(), progress.requests()), (1, 2));
    let plan = bench.rows(&repository, &format!("EXPLAIN ANALYZE {sql}")).await.unwrap().join("\n");
    assert!(plan.contains("requests=2") && plan.contains("bytes_read="), "{plan}");
}

#[tokio::test]
async fn rows_come_in_the_order_of_their_keys_at_every_run() {
    let mut memory = Memory::default();
    memory.piece_bytes = 100_000;
    for object in 0..8 {
        let mut text = "a,b\n".to_owned();
        for row in 0..30_000 {
            writeln!(text, "{},{}", object * 100_000 + row, "y".repeat(40)).unwrap();
        }
        memory.put(&format!("b/{object}.csv"), text);
    }
    let (bench, repository) = (bench(), memory.shared());
    for _ in 0..3 {
        let rows = bench.rows(&repository, "SELECT a FROM \"b/\" WHERE a % 3 = 0").await.unwrap();
        let numbers: Vec<u64> = rows.iter().map(|row| row.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 80_000);
        assert!(numbers.is_sorted());
        let few = bench.rows(&repository, "SELECT a FROM \"b/\" WHERE a >= 200000 LIMIT 3").await.unwrap();
        assert_eq!(few, ["200000", "200001", "200002"]);
    }
}

#[tokio::test]
async fn what_was_deleted_is_in_the_past_alone() {
    let mut memory = Memory::default();
    memory.put("b/1.json", "{\"a\":1}");
    memory.put("b/2.json", "{\"a\":2}");
    memory.delete("b/1.json");
    memory.index("by_a", "b/", IndexKind::BTree, vec![field(&["a"])]);
    let (bench, repository) = (bench(), memory.shared());
    for (at, expected) in [("", &["2"][..]), (" AS OF REVISION 2", &["1", "2"]), (" AS OF REVISION 1", &["1"])] {
        let rows = bench.rows(&repository, &format!("SELECT a FROM \"b/\"{at} WHERE a IN (1, 2)")).await.unwrap();
        assert_eq!(rows, expected, "{at}");
    }
}
