//! Formats of objects, whatever the layout of their bytes.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use holdfast_core::index::IndexKind;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::memory::{Indexed, Memory};
use super::{bench, shown};

fn parquet(batches: &[RecordBatch], rows_per_group: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows_per_group))
        .set_bloom_filter_enabled(true)
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    out
}

fn numbers(from: i64, count: i64) -> RecordBatch {
    let ids: Vec<i64> = (from..from + count).collect();
    let names: Vec<String> = ids.iter().map(|id| format!("name{id}")).collect();
    let columns =
        [("id", Arc::new(Int64Array::from(ids)) as ArrayRef), ("name", Arc::new(StringArray::from(names)) as ArrayRef)];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn parquet_has_all_of_its_types() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let price = Decimal128Array::from(vec![Some(1050), None]).with_precision_and_scale(10, 2).unwrap();
    let at = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456, 0]).with_timezone("+00:00");
    let columns = [
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None])) as ArrayRef),
        ("d", Arc::new(Date32Array::from(vec![19_000, 1]))),
        ("p", Arc::new(price)),
        ("f", Arc::new(Float64Array::from(vec![1.5, f64::NAN]))),
        ("at", Arc::new(at)),
        ("l", Arc::new(list)),
        ("Name", Arc::new(StringArray::from(vec!["x", "y"]))),
    ];
    let mut memory = Memory::default();
    memory.put("b/t/a.parquet", parquet(&[RecordBatch::try_from_iter(columns).unwrap()], 10));
    let (bench, repository) = (bench(), memory.shared());
    let rows = bench.rows(&repository, "SELECT *, _key FROM \"b/t/\"").await.unwrap();
    assert_eq!(
        rows,
        [
            "true | 2022-01-08 | 10.50 | 1.5 | 2023-11-14T22:13:20.123456Z | [1, NULL] | x | t/a.parquet",
            "NULL | 1970-01-02 | NULL | NaN | 1970-01-01T00:00:00Z | NULL | y | t/a.parquet",
        ]
    );
    let rows = bench.rows(&repository, "SELECT name, l[1] FROM \"b/t/\" WHERE p = 10.5 AND d > '2020-01-01'").await;
    assert_eq!(rows.unwrap(), ["x | 1"]);
    let schema = bench.query(&repository, "SELECT name FROM \"b/t/\"").await.unwrap().schema();
    assert_eq!(schema.field(0).data_type(), &arrow::datatypes::DataType::Utf8, "clients get plain text");
}

/// Footers leave NaN out of the bounds of row groups and pages, and bits tell two zeros and many NaN apart.
#[tokio::test]
async fn one_nan_is_above_all_numbers_and_zero_is_one() {
    let numbers = [1.0, f64::NAN, 2.0, -f64::NAN, -0.0, 3.0, f64::INFINITY, -1.0, 9.0, 4.0];
    let columns = [
        ("id", Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef),
        ("f", Arc::new(Float64Array::from(numbers.to_vec()))),
    ];
    let mut memory = Memory::default();
    memory.put("b/t/a.parquet", parquet(&[RecordBatch::try_from_iter(columns).unwrap()], 2));
    let (bench, repository) = (bench(), memory.shared());
    for (rest, ids) in [
        ("WHERE f > 5", "1 3 6 8"),
        ("WHERE f < 1", "4 7"),
        ("WHERE f <> 2", "0 1 3 4 5 6 7 8 9"),
        ("WHERE NOT f <= 4", "1 3 6 8"),
        ("WHERE f = CAST('NaN' AS DOUBLE)", "1 3"),
        ("WHERE f = 0", "4"),
        ("WHERE f IN (0, 9)", "4 8"),
        ("WHERE f > 5 AND id < 5", "1 3"),
        ("WHERE f + 1 > 6", "1 3 6 8"),
        ("ORDER BY f DESC, id LIMIT 3", "1 3 6"),
        ("ORDER BY f, id LIMIT 3", "7 4 0"),
    ] {
        let rows = bench.rows(&repository, &format!("SELECT id FROM \"b/t/\" {rest}")).await.unwrap();
        assert_eq!(rows.join(" "), ids, "{rest}");
    }
    let one = async |sql: &str| bench.rows(&repository, sql).await.unwrap();
    assert_eq!(one("SELECT max(f), min(f), count(DISTINCT f) FROM \"b/t/\"").await, ["NaN | -1.0 | 9"]);
    assert_eq!(
        one("SELECT f = 0, f > 5 FROM \"b/t/\" WHERE id IN (3, 4) ORDER BY id").await,
        ["false | true", "true | false"]
    );
    let grouped = "SELECT id % 2, max(f), min(f) FROM \"b/t/\" GROUP BY id % 2 ORDER BY 1";
    assert_eq!(one(grouped).await, ["0 | inf | 0.0", "1 | NaN | -1.0"]);
    assert_eq!(
        one("SELECT id % 1, min(f), max(f) FROM \"b/t/\" WHERE id IN (1, 6) GROUP BY id % 1").await,
        ["0 | inf | NaN"]
    );
    let joined = "SELECT count(*) FROM \"b/t/\" a JOIN \"b/t/\" b ON a.f = b.f";
    assert_eq!(one(joined).await, ["12"], "two NaN are equal to both");
}

#[tokio::test]
async fn objects_of_parquet_are_one_table() {
    let mut memory = Memory::default();
    let old = RecordBatch::try_from_iter([("id", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
    memory.put("b/t/y=1/a.parquet", parquet(&[old], 10));
    memory.put("b/t/y=2/b.parquet", parquet(&[numbers(10, 2)], 10));
    let text = RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    memory.put("b/u/a.parquet", parquet(&[numbers(0, 1)], 10));
    memory.put("b/u/b.parquet", parquet(&[text], 10));
    memory.put("b/v/a.parquet", "this is not it");
    let (bench, repository) = (bench(), memory.shared());
    let rows = bench.rows(&repository, "SELECT * FROM \"b/t/\"").await.unwrap();
    assert_eq!(rows, ["1 | NULL | 1", "2 | NULL | 1", "10 | name10 | 2", "11 | name11 | 2"]);
    let rows = bench.rows(&repository, "SELECT sum(id), count(name), max(y) FROM \"b/t/\" WHERE y = 2").await.unwrap();
    assert_eq!(rows, ["21 | 2 | 2"]);
    let rows = bench.rows(&repository, "SELECT count(*), sum(id) FROM \"b/t/\" WHERE y = 99").await.unwrap();
    assert_eq!(rows, ["0 | NULL"]);
    for (table, why) in [("b/u/", "b/u/b.parquet: column \"id\""), ("b/v/", "b/v/a.parquet is no Parquet")] {
        let error = bench.rows(&repository, &format!("SELECT * FROM \"{table}\"")).await.unwrap_err();
        assert!(error.code == "InvalidData" && error.message.contains(why), "{error:?}");
    }
}

/// Of many objects a few say which columns there are; one that is read and does not fit is asked as well.
#[tokio::test]
async fn columns_come_from_few_objects_and_from_all_that_are_read() {
    let mut memory = Memory::default();
    let one = |column: &str, values: ArrayRef| RecordBatch::try_from_iter([(column, values)]).unwrap();
    let of_id = |id: i32| one("id", Arc::new(Int32Array::from(vec![id])));
    for table in ["plain", "more", "wide", "text"] {
        for number in 0..40_i32 {
            let odd = match table {
                "more" => one("more", Arc::new(Int64Array::from(vec![7]))),
                "wide" => one("id", Arc::new(Int64Array::from(vec![1 << 40]))),
                "text" => one("id", Arc::new(StringArray::from(vec!["x"]))),
                _ => of_id(number),
            };
            let rows = if number == 18 { odd } else { of_id(number) };
            memory.put(&format!("b/{table}/k={number}/a.parquet"), parquet(&[rows], 10));
        }
    }
    let (bench, repository) = (bench(), memory.shared());
    let one = async |sql: &str| bench.rows(&repository, sql).await.unwrap().join(", ");
    assert_eq!(one("SELECT id FROM \"b/plain/\" WHERE k = 17").await, "17");
    let reads = memory.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reads <= 10, "{reads} reads for one row of one object");
    assert_eq!(one("SELECT count(*), sum(more), count(id) FROM \"b/more/\"").await, "40 | 7 | 39");
    assert!(one("SELECT * FROM \"b/more/\" WHERE k >= 17 AND k < 20").await.contains("NULL | 7 | 18"));
    assert_eq!(one("SELECT max(id) FROM \"b/wide/\"").await, (1_i64 << 40).to_string());
    assert_eq!(one("SELECT id FROM \"b/wide/\" WHERE id > 100").await, (1_i64 << 40).to_string());
    let error = bench.rows(&repository, "SELECT id FROM \"b/text/\"").await.unwrap_err();
    assert!(error.code == "InvalidData" && error.message.contains("b/text/k=18/a.parquet: column \"id\""), "{error:?}");
    let error = bench.rows(&repository, "SELECT absent FROM \"b/plain/\"").await.unwrap_err();
    assert_eq!(error.code, "InvalidSql");
    // What is left out is not asked for its columns.
    assert_eq!(one("SELECT id FROM \"b/text/\" WHERE k = 17").await, "17");
    assert_eq!(one("SELECT count(*) FROM read_parquet('s3://b/plain/*/*.parquet', sample_objects => 1)").await, "40");
}

/// Of more objects than are asked when they are read, the first are asked for their columns.
#[tokio::test]
async fn columns_of_very_many_objects_come_from_the_first() {
    let mut memory = Memory::default();
    let of_id = |id: i64, wide: bool| -> ArrayRef {
        if wide { Arc::new(Int64Array::from(vec![id])) } else { Arc::new(Int32Array::from(vec![id as i32])) }
    };
    for number in 0..1_010_i64 {
        let wide = number == 501;
        let id = of_id(if wide { 1 << 40 } else { number }, wide);
        let rows = RecordBatch::try_from_iter([("id", id)]).unwrap();
        memory.put(&format!("b/t/{number:05}.parquet"), parquet(&[rows], 10));
    }
    let (bench, repository) = (bench(), memory.shared());
    let rows = bench.rows(&repository, "SELECT count(*), max(id) FROM \"b/t/\"").await.unwrap();
    assert_eq!(rows, [format!("1010 | {}", 1_i64 << 40)]);
}

#[tokio::test]
async fn row_groups_that_cannot_match_are_not_read() {
    let mut memory = Memory::default();
    let batches: Vec<RecordBatch> = (0..20).map(|at| numbers(at * 1000, 1000)).collect();
    memory.put("b/t/a.parquet", parquet(&batches, 1000));
    let size = memory.versions(1)[0].0.size;
    let (bench, repository) = (bench(), memory.shared());
    let read = async |sql: &str| {
        let query = bench.query(&repository, sql).await.unwrap();
        let progress = query.progress();
        let planned = progress.bytes_scanned();
        let rows: Vec<RecordBatch> = futures::TryStreamExt::try_collect(query.run()).await.unwrap();
        (shown(&rows), progress.bytes_scanned() - planned)
    };
    let (rows, bytes) = read("SELECT name FROM \"b/t/\" WHERE id = 12345").await;
    assert_eq!(rows, ["name12345"]);
    assert!(bytes < size / 5, "{bytes} of {size} bytes");
    // By the bloom filter: the statistics of every row group hold this name.
    let (rows, _) = read("SELECT id FROM \"b/t/\" WHERE name = 'name99'").await;
    assert_eq!(rows, ["99"]);
    let (rows, bytes) = read("SELECT count(*), min(id), max(id) FROM \"b/t/\"").await;
    assert_eq!((rows[0].as_str(), bytes), ("20000 | 0 | 19999", 0), "footers say it");
    let (rows, _) = read("SELECT id FROM \"b/t/\" WHERE id % 2 = 1 LIMIT 3").await;
    assert_eq!(rows, ["1", "3", "5"]);
}

#[tokio::test]
async fn many_row_groups_are_read_in_order() {
    let mut memory = Memory::default();
    let wide = |from: i64| {
        let pads: Vec<String> =
            (from..from + 20_000).map(|id| format!("{:x}", id.wrapping_mul(0x1e37_79b9_7f4a_7c15)).repeat(8)).collect();
        let ids: Vec<i64> = (from..from + 20_000).collect();
        let columns = [
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
            ("pad", Arc::new(StringArray::from(pads)) as ArrayRef),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    for object in 0..3 {
        let batches: Vec<RecordBatch> = (0..5).map(|at| wide(object * 100_000 + at * 20_000)).collect();
        memory.put(&format!("b/t/{object}.parquet"), parquet(&batches, 20_000));
    }
    let (bench, repository) = (bench(), memory.shared());
    let plan = bench.rows(&repository, "EXPLAIN SELECT id FROM \"b/t/\"").await.unwrap().join("\n");
    assert!(plan.contains("partitions=2"), "{plan}");
    for _ in 0..3 {
        let rows = bench.rows(&repository, "SELECT id, pad FROM \"b/t/\" WHERE id % 7 = 0").await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(ids.len(), 300_000 / 7 + 1);
        assert!(ids.is_sorted());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_text_is_read() {
    let mut text = "a,b\n".to_owned();
    (0..50_000).for_each(|row| text.push_str(&format!("{row},\"x\ny\"\n")));
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text.as_bytes()).unwrap();
    let mut memory = Memory::default();
    memory.piece_bytes = 10_000;
    memory.put("b/t/a.csv.gz", gzip(text.as_bytes()));
    memory.put("b/t/b.csv.bz2", bzip2.finish().unwrap());
    memory.put("b/t/c.csv.zst", zstd::encode_all(text.as_bytes(), 1).unwrap());
    memory.put("b/t/d.csv", text.clone());
    memory.put_as("b/t/e.csv", gzip(text.as_bytes()), Indexed::Pending, |version| {
        version.content_encoding = Some("gzip".to_owned());
    });
    memory.put("b/bad/a.csv.gz", gzip(text.as_bytes())[..5000].to_vec());
    memory.put("b/bad/b.csv.gz", "plain,text\n1,2\n");
    let (bench, repository) = (bench(), memory.shared());
    let rows = bench.rows(&repository, "SELECT count(*), sum(a), max(b) FROM \"b/t/\"").await.unwrap();
    assert_eq!(rows, ["250000 | 6249875000 | x\ny"]);
    for key in ["a", "b"] {
        let error = bench.rows(&repository, &format!("SELECT count(*) FROM \"b/bad/{key}.csv.gz\"")).await.unwrap_err();
        assert!(error.code == "InvalidData" && error.message.contains("does not unpack"), "{error:?}");
    }
}

#[tokio::test]
async fn text_is_read_however_its_bytes_are_cut() {
    let csv = "\u{feff}# a remark, \"odd\n\nid,Näme\r\n1,\"a \"\"b\"\"\n,c\"\r\n2,5\" pipe\n\n3,";
    let json = "\u{feff}[ {\"id\":1,\"näme\":\"}]\\\"{\"} ,\n{\"id\":2}\n,{\"id\":3,\"näme\":null}\n]\n";
    for piece_bytes in [1, 2, 3, 7, 1000] {
        let mut memory = Memory::default();
        memory.piece_bytes = piece_bytes;
        memory.put("b/a.csv", csv);
        memory.put("b/a.json", json);
        let (bench, repository) = (bench(), memory.shared());
        let rows = bench.rows(&repository, "SELECT * FROM read_csv('s3://b/a.csv', comment => '#')").await.unwrap();
        assert_eq!(rows, ["1 | a \"b\"\n,c", "2 | 5\" pipe", "3 | NULL"], "pieces of {piece_bytes}");
        let rows = bench.rows(&repository, "SELECT * FROM \"b/a.json\"").await.unwrap();
        assert_eq!(rows, ["1 | }]\"{", "2 | NULL", "3 | NULL"], "pieces of {piece_bytes}");
    }
}

#[tokio::test]
async fn arguments_say_how_csv_is_written() {
    let mut memory = Memory::default();
    memory.put("b/a.txt", "1;'x;y';NA\n2;'it\\'s';3\n");
    memory.put("b/b.tsv", "a\tb\n1\t\"x\ty\"\n");
    memory.put("b/c.csv", "a,b\n\"1,2\n");
    let (bench, repository) = (bench(), memory.shared());
    let cases = [
        (
            "SELECT * FROM read_csv('s3://b/a.txt', header => false, delimiter => ';', quote => '''', escape => '\\', null => 'NA')",
            &["1 | x;y | NULL", "2 | it's | 3"][..],
        ),
        ("SELECT * FROM \"b/b.tsv\"", &["1 | x\ty"]),
        ("SELECT * FROM read_csv('s3://b/c.csv', quote => '')", &["\"1 | 2"]),
        ("SELECT * FROM read_csv('s3://b/b.tsv', delimiter => '\\t', all_text => true) WHERE a = '1'", &["1 | x\ty"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(bench.rows(&repository, sql).await.unwrap(), expected, "{sql}");
    }
}

#[tokio::test]
async fn what_the_sample_did_not_see_is_never_bent() {
    let mut memory = Memory::default();
    memory.put("b/c/1.csv", "a\n1\n");
    memory.put("b/c/2.csv", "a\nx\n");
    memory.put("b/d/1.csv", "a\n1\n");
    memory.put("b/d/2.csv", "a,b\n2,3\n");
    memory.put("b/j/1.json", "{\"a\":1,\"o\":{\"p\":1}}");
    memory.put("b/j/2.json", "{\"a\":2.5}");
    memory.put("b/k/1.json", "{\"a\":1,\"o\":{\"p\":1}}");
    memory.put("b/k/2.json", "{\"a\":2,\"o\":{\"q\":1}}");
    memory.put("b/l/1.json", "{\"a\":1}");
    memory.put("b/l/2.json", "{\"a\":2,\"b\":1}");
    memory.put("b/p/1.parquet", parquet(&[numbers(0, 1)], 10));
    let more = RecordBatch::try_from_iter([("more", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    memory.put("b/p/2.parquet", parquet(&[more], 10));
    let (bench, repository) = (bench(), memory.shared());
    let cases = [
        ("read_csv('s3://b/c/*', sample_objects => 1)", "*", "b/c/2.csv: column \"a\" holds \"x\", which is no Int64"),
        ("read_csv('s3://b/d/*', sample_objects => 1)", "*", "b/d/2.csv: \"b\" was not in the sample"),
        ("read_json('s3://b/j/*', sample_objects => 1)", "*", "b/j/2.json: column \"a\" holds 2.5"),
        ("read_json('s3://b/k/*', sample_objects => 1)", "*", "b/k/2.json: \"o.q\" was not in the sample"),
        ("read_json('s3://b/l/*', sample_objects => 1)", "*", "b/l/2.json: \"b\" was not in the sample"),
        ("read_parquet('s3://b/p/*', sample_objects => 1)", "*", "b/p/2.parquet: \"more\" was not in the sample"),
    ];
    for (table, columns, why) in cases {
        let error = bench.rows(&repository, &format!("SELECT {columns} FROM {table}")).await.unwrap_err();
        assert!(error.code == "InvalidData" && error.message.contains(why), "{table}: {error:?}");
    }
    // Who asks for a column by its name does not miss another.
    for (table, expected) in
        [("read_csv('s3://b/d/*', sample_objects => 1)", "2"), ("read_parquet('s3://b/p/*', sample_objects => 1)", "2")]
    {
        let rows = bench.rows(&repository, &format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(rows, [expected], "{table}");
    }
    let all = "SELECT a FROM read_json('s3://b/j/*')";
    assert_eq!(bench.rows(&repository, all).await.unwrap(), ["1.0", "2.5"], "all of it was sampled");
}

#[tokio::test]
async fn many_documents_are_gathered_and_read_once_for_their_columns() {
    let mut memory = Memory::default();
    for at in 0..3000 {
        memory.put(&format!("b/d/{at:05}.json"), format!("{{\"id\":{at},\"city\":\"c{}\"}}", at % 10));
    }
    memory.index(
        "by_id",
        "b/d/",
        IndexKind::BTree,
        vec![holdfast_core::index::Expression::Field(holdfast_core::index::parse_path("id").unwrap())],
    );
    let (bench, repository) = (bench(), memory.shared());
    let batches = bench.batches(&repository, "SELECT *, _key FROM \"b/d/\" WHERE city <> 'x'").await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3000);
    assert!(batches.len() < 10, "{} batches", batches.len());
    let before = memory.reads.load(Ordering::Relaxed);
    assert_eq!(bench.rows(&repository, "SELECT id FROM \"b/d/\" WHERE id = 2500").await.unwrap(), ["2500"]);
    assert_eq!(memory.reads.load(Ordering::Relaxed), before + 1, "the index names the object, and columns are known");
}
