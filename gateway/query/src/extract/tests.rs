//! What is found in content, and where.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use holdfast_core::index::parse_path;

use super::*;

fn index(paths: &[&str]) -> ContentIndex {
    ContentIndex {
        id: 1,
        name: "index".into(),
        fields: paths.iter().map(|path| parse_path(path).unwrap()).collect(),
        unique: false,
    }
}

fn tuple(values: &[Value<'_>]) -> Vec<u8> {
    let mut tuple = Vec::new();
    values.iter().for_each(|value| value.encode(&mut tuple));
    tuple
}

fn rows(format: Format, content: &[u8], paths: &[&str]) -> Vec<(Vec<u8>, String)> {
    let outcome = extract(Some((format, Compression::None)), content, &[index(paths)]).remove(0);
    let Outcome::Rows(entries) = outcome else { panic!("{outcome:?}") };
    let text = |entry: &Entry| {
        let range = entry.offset as usize..entry.offset as usize + entry.length as usize;
        String::from_utf8(content[range].to_vec()).unwrap()
    };
    // Ends of lines around a row belong to it or not, as the reader of the format sees it: they are no rows.
    entries.iter().map(|entry| (entry.tuple.clone(), text(entry).trim().to_owned())).collect()
}

fn found(values: &[Value<'_>], text: &str) -> (Vec<u8>, String) {
    (tuple(values), text.to_owned())
}

#[test]
fn a_format_is_known_by_the_extension_else_by_the_content_type() {
    let check = |key, content_type, expected| assert_eq!(format_of(key, content_type), expected, "{key}");
    check("a/b.csv", None, Some((Format::Csv(b','), Compression::None)));
    check("a/B.CSV.GZ", None, Some((Format::Csv(b','), Compression::Gzip)));
    check("b.tsv.bz2", None, Some((Format::Csv(b'\t'), Compression::Bzip2)));
    check("b.jsonl.zst", None, Some((Format::Ndjson, Compression::Zstd)));
    check("b.json", Some("text/csv"), Some((Format::Json, Compression::None)));
    check("b", Some("application/json; charset=utf-8"), Some((Format::Json, Compression::None)));
    check("x.parquet", None, Some((Format::Parquet, Compression::None)));
    check("x.parquet.gz", None, None);
    check("a.csv/b", None, None);
    check("b.png", Some("image/png"), None);
}

#[test]
fn fields_of_csv_are_found_with_their_rows() {
    let content = b"id,City,\"n\"\r\n1,Oslo,5\r\n\r\n2,\"a \"\"b\"\"\nc\",\r\n3,,7";
    let one = Value::Integer(1);
    assert_eq!(
        rows(Format::Csv(b','), content, &["id"]),
        [
            found(&[one], "1,Oslo,5"),
            found(&[Value::Integer(2)], "2,\"a \"\"b\"\"\nc\","),
            found(&[Value::Integer(3)], "3,,7")
        ]
    );
    let cities = rows(Format::Csv(b','), content, &["city"]);
    assert_eq!(cities.len(), 2, "an empty field is null; {cities:?}");
    assert_eq!(cities[1].0, tuple(&[Value::Text("a \"b\"\nc")]));
    assert_eq!(rows(Format::Csv(b','), content, &["n", "City"])[0].0, tuple(&[Value::Integer(5), Value::Text("Oslo")]));
    assert_eq!(rows(Format::Csv(b','), content, &["absent"]), []);
    assert_eq!(rows(Format::Csv(b','), b"", &["a"]), []);
}

#[test]
fn members_of_json_are_found_with_their_rows() {
    let lines = b"{\"a\":{\"b\":[1,\"2024-01-01\"]}}\n\n  {\"a\":{\"b\":[true]}}\n{\"a\":7}";
    let check = |format, content: &[u8], path, expected: &[(Vec<u8>, String)]| {
        assert_eq!(rows(format, content, &[path]), expected, "{path} of {}", String::from_utf8_lossy(content));
    };
    check(
        Format::Ndjson,
        lines,
        "$.a.b[0]",
        &[
            found(&[Value::Integer(1)], "{\"a\":{\"b\":[1,\"2024-01-01\"]}}"),
            found(&[Value::Bool(true)], "{\"a\":{\"b\":[true]}}"),
        ],
    );
    check(
        Format::Ndjson,
        lines,
        "$.a.b[1]",
        &[found(&[Value::Time(1_704_067_200_000_000)], "{\"a\":{\"b\":[1,\"2024-01-01\"]}}")],
    );
    check(
        Format::Ndjson,
        lines,
        "A",
        &[
            found(&[Value::Text("{\"b\":[1,\"2024-01-01\"]}")], "{\"a\":{\"b\":[1,\"2024-01-01\"]}}"),
            found(&[Value::Text("{\"b\":[true]}")], "{\"a\":{\"b\":[true]}}"),
            found(&[Value::Integer(7)], "{\"a\":7}"),
        ],
    );
    let array = br#" [ {"a":1}, {"a":"]\"}"} ,{"a":2.5},3] "#;
    check(
        Format::Json,
        array,
        "a",
        &[
            found(&[Value::Integer(1)], r#"{"a":1}"#),
            found(&[Value::Text("]\"}")], r#"{"a":"]\"}"}"#),
            found(&[Value::Number(2.5)], r#"{"a":2.5}"#),
        ],
    );
    check(
        Format::Json,
        br#"{"a":1}{"a":2} {"a":null}"#,
        "a",
        &[found(&[Value::Integer(1)], r#"{"a":1}"#), found(&[Value::Integer(2)], r#"{"a":2}"#)],
    );
    check(Format::Json, b"", "a", &[]);
    check(Format::Json, b"[]", "a", &[]);
}

#[test]
fn what_does_not_parse_is_said() {
    let check = |format, content: &[u8]| {
        let outcome = extract(Some((format, Compression::None)), content, &[index(&["a"])]).remove(0);
        assert!(matches!(&outcome, Outcome::Unparsed(why) if !why.is_empty()), "{outcome:?}");
    };
    check(Format::Csv(b','), b"a,b\n1\n");
    check(Format::Csv(b','), b"a\n\xff\n");
    check(Format::Ndjson, b"{\"a\":1}\n{\"a\":");
    for text in ["[1", "[1,]", "[,1]", "[1 2", "{\"a\":1", "{\"a\":1}}", "[]1", "nul", "\"abc", "[1]]"] {
        check(Format::Json, text.as_bytes());
    }
    check(Format::Parquet, b"PAR1 is more than this");
    assert!(matches!(extract(None, b"x", &[index(&["a"])])[0], Outcome::Unparsed(_)));
}

#[test]
fn more_rows_than_a_command_may_bring_in_wait() {
    let lines = "{\"a\":1}\n".repeat(ENTRIES_MAX);
    let two = [index(&["a"]), index(&["a", "b"])];
    let one = extract(Some((Format::Ndjson, Compression::None)), lines.as_bytes(), &two[..1]);
    assert!(matches!(&one[0], Outcome::Rows(entries) if entries.len() == ENTRIES_MAX));
    let both = extract(Some((Format::Ndjson, Compression::None)), lines.as_bytes(), &two);
    assert!(both.contains(&Outcome::Pending));
}

#[test]
fn compressed_rows_stand_for_the_object() {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"a\n5\n5\n6\n").unwrap();
    let content = gzip.finish().unwrap();
    let format = Some((Format::Csv(b','), Compression::Gzip));
    let Outcome::Rows(entries) = extract(format, &content, &[index(&["a"])]).remove(0) else { panic!() };
    assert_eq!(entries.len(), 2, "equal ones are said once");
    assert!(entries.iter().all(|entry| entry.length == 0));
    assert!(matches!(extract(format, &content[..20], &[index(&["a"])])[0], Outcome::Unparsed(_)));
}

fn parquet_of(rows: i64, rows_per_group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef),
        ("x", Arc::new(Float64Array::from_iter_values((0..rows).map(|n| n as f64 / 2.0)))),
        ("s", Arc::new(StringArray::from_iter((0..rows).map(|n| (n % 2 == 0).then(|| format!("s{n}")))))),
    ])
    .unwrap();
    let properties = parquet::file::properties::WriterProperties::builder();
    let properties = properties.set_max_row_group_row_count(Some(rows_per_group)).build();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn columns_of_parquet_are_read() {
    let content = parquet_of(10, 100);
    let format = Some((Format::Parquet, Compression::None));
    let of = |path: &str| match extract(format, &content, &[index(&[path])]).remove(0) {
        Outcome::Rows(entries) => entries.into_iter().map(|entry| entry.tuple).collect::<Vec<_>>(),
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(of("n")[9], tuple(&[Value::Integer(9)]));
    assert_eq!(of("X")[3], tuple(&[Value::Number(1.5)]));
    assert_eq!(of("s").len(), 5);
    assert_eq!(of("absent"), [[0u8; 0]; 0]);
}

#[tokio::test]
async fn row_groups_of_parquet_are_blocks() {
    let content = Bytes::from(parquet_of(1000, 300));
    let footers = Arc::new(AtomicUsize::new(0));
    let file = InMemory { content, footers: footers.clone() };
    let Outcome::Blocks(blocks) = parquet_blocks(file, &index(&["n"])).await.unwrap() else { panic!() };
    assert_eq!(footers.load(Ordering::Relaxed), 1, "a footer tells of all row groups");
    assert_eq!(blocks.len(), 4);
    assert_eq!(blocks[1].low, tuple(&[Value::Integer(300)]));
    assert_eq!(blocks[1].high, tuple(&[Value::Integer(599)]));
    assert!(bloom::may_hold(&blocks[1].bloom, bloom::hash(&tuple(&[Value::Integer(333)]))));
    assert!(blocks.windows(2).all(|pair| pair[0].offset + pair[0].length <= pair[1].offset));
}

#[derive(Clone)]
struct InMemory {
    content: Bytes,
    footers: Arc<AtomicUsize>,
}

impl parquet::arrow::async_reader::AsyncFileReader for InMemory {
    fn get_bytes(&mut self, range: Range<u64>) -> futures::future::BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let bytes = self.content.slice(range.start as usize..range.end as usize);
        Box::pin(async move { Ok(bytes) })
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a parquet::arrow::arrow_reader::ArrowReaderOptions>,
    ) -> futures::future::BoxFuture<'a, parquet::errors::Result<Arc<parquet::file::metadata::ParquetMetaData>>> {
        self.footers.fetch_add(1, Ordering::Relaxed);
        let bytes = self.content.clone();
        Box::pin(async move {
            let mut reader = parquet::file::metadata::ParquetMetaDataReader::new();
            reader.try_parse(&bytes)?;
            Ok(Arc::new(reader.finish()?))
        })
    }
}

#[test]
fn blocks_cover_all_rows_and_bound_their_values() {
    let mut content = String::from("n,s\n");
    for n in 0..400_000 {
        content.push_str(&format!("{n},text {}\n", n % 1000));
    }
    let format = Some((Format::Csv(b','), Compression::None));
    let read = Box::new(content.as_bytes());
    let Outcome::Blocks(blocks) = extract_blocks(format, read, content.len() as u64, &index(&["n"])).unwrap() else {
        panic!()
    };
    assert!(blocks.len() > 3);
    assert!((3..=4).contains(&blocks[0].offset), "the header is no part of a block");
    assert!(
        blocks.windows(2).all(|pair| pair[0].offset + pair[0].length == pair[1].offset && pair[0].high < pair[1].low)
    );
    let last = blocks.last().unwrap();
    assert_eq!(last.offset + last.length, content.len() as u64);
    assert!(content[last.offset as usize..].starts_with(char::is_numeric), "a block begins with a row");
}
