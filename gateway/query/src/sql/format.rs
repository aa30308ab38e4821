//! Formats of objects, and what a statement says of them.

use super::error::Error;
use super::name::Place;
use super::shape::Shape;
use super::text::Compression;
use super::text::csv::Dialect;
use crate::repository::ObjectVersion;

/// Objects of a sample.
pub(super) const SAMPLE_OBJECTS: usize = 1000;
/// Objects of a sample that a statement may ask for.
const SAMPLE_OBJECTS_MAX: usize = 100_000;
/// Bytes of a sample.
const SAMPLE_BYTES: u64 = 32 << 20;
/// Bytes of a sample that a statement may ask for.
const SAMPLE_BYTES_MAX: u64 = 1 << 30;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// With its delimiter.
    Csv(u8),
    Json,
    Parquet,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Csv(b'\t') => "tsv",
            Self::Csv(_) => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
        })
    }
}

/// What the key of an object says of its format.
pub(super) fn kind_of(key: &str) -> Option<Kind> {
    let (stem, _) = stem(key);
    match stem.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "csv" => Some(Kind::Csv(b',')),
        "tsv" => Some(Kind::Csv(b'\t')),
        "json" | "ndjson" | "jsonl" => Some(Kind::Json),
        "parquet" => Some(Kind::Parquet),
        _ => None,
    }
}

/// How the text of an object is compressed.
pub(crate) fn compression_of(object: &ObjectVersion) -> Compression {
    match (stem(&object.key).1, object.content_encoding.as_deref().map(str::trim)) {
        (Compression::None, Some(encoding)) => match encoding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" | "aws-chunked,gzip" | "gzip,aws-chunked" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            "bzip2" | "x-bzip2" => Compression::Bzip2,
            _ => Compression::None,
        },
        (compression, _) => compression,
    }
}

fn stem(key: &str) -> (&str, Compression) {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    for (end, compression) in [(".gz", Compression::Gzip), (".bz2", Compression::Bzip2), (".zst", Compression::Zstd)] {
        if let Some(stem) = name.strip_suffix(end) {
            return (stem, compression);
        }
    }
    (name, Compression::None)
}

/// How a statement reads a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    /// `None` goes by the keys.
    pub(super) kind: Option<Kind>,
    pub(super) dialect: Dialect,
    pub(super) all_text: bool,
    pub(super) types: Vec<(String, Shape)>,
    /// How many objects the columns come from; `None` is the default of the format.
    pub(super) sample_objects: Option<usize>,
    pub(super) sample_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: None,
            dialect: Dialect::default(),
            all_text: false,
            types: Vec::new(),
            sample_objects: None,
            sample_bytes: SAMPLE_BYTES,
        }
    }
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// The table that a function such as `read_csv` names.
///
/// # Errors
/// `InvalidSql` when the function has no such argument, or not of this value.
pub(super) fn table_function(
    name: &str,
    path: &str,
    arguments: &[(String, Argument)],
) -> Result<Option<(Place, Options)>, Error> {
    let kind = match name {
        "read_csv" => Kind::Csv(b','),
        "read_json" => Kind::Json,
        "read_parquet" => Kind::Parquet,
        _ => return Ok(None),
    };
    if path.contains("://") && !path.starts_with("s3://") {
        return Err(Error::sql(format!("{name} reads 's3://bucket/key' only, not {path:?}")));
    }
    let mut options = Options { kind: Some(kind), ..Options::default() };
    for (argument, value) in arguments {
        set(&mut options, name, argument, value)?;
    }
    Ok(Some((Place::parse(path)?, options)))
}

fn set(options: &mut Options, function: &str, argument: &str, value: &Argument) -> Result<(), Error> {
    let wrong = |wanted: &str| Err(Error::sql(format!("{function} takes {argument} => {wanted}")));
    let csv = matches!(options.kind, Some(Kind::Csv(_)));
    let byte = |value: &Argument| match value {
        Argument::Text(text) if text == "\\t" => Some(Some(b'\t')),
        Argument::Text(text) => match text.as_bytes() {
            [] => Some(None),
            [byte] if byte.is_ascii() => Some(Some(*byte)),
            _ => None,
        },
        _ => None,
    };
    match (argument, value) {
        ("header", Argument::Flag(flag)) if csv => options.dialect.header = *flag,
        ("delimiter" | "delim" | "sep", value) if csv => match byte(value) {
            Some(Some(byte)) => options.kind = Some(Kind::Csv(byte)),
            _ => return wrong("one ASCII character"),
        },
        ("quote", value) if csv => match byte(value) {
            Some(byte) => options.dialect.quote = byte,
            None => return wrong("one ASCII character or none"),
        },
        ("escape", value) if csv => match byte(value) {
            Some(byte) => options.dialect.escape = byte.filter(|byte| Some(*byte) != options.dialect.quote),
            None => return wrong("one ASCII character or none"),
        },
        ("comment", value) if csv => match byte(value) {
            Some(byte) => options.dialect.comment = byte,
            None => return wrong("one ASCII character or none"),
        },
        ("null" | "nullstr", Argument::Text(text)) if csv => options.dialect.null = Some(text.clone()),
        ("all_text", Argument::Flag(flag)) if csv => options.all_text = *flag,
        ("types", Argument::Text(text)) if options.kind != Some(Kind::Parquet) => options.types = types(text)?,
        ("sample_objects", Argument::Number(count)) => match usize::try_from(*count) {
            Ok(count) if (1..=SAMPLE_OBJECTS_MAX).contains(&count) => options.sample_objects = Some(count),
            _ => return wrong("a number from 1 to 100000"),
        },
        ("sample_bytes", Argument::Number(bytes)) if (1..=SAMPLE_BYTES_MAX).contains(bytes) => {
            options.sample_bytes = *bytes;
        }
        _ => return Err(Error::sql(format!("{function} has no argument {argument} of that kind"))),
    }
    Ok(())
}

/// `a=text, b=bigint`.
fn types(text: &str) -> Result<Vec<(String, Shape)>, Error> {
    text.split(',')
        .map(|part| {
            let (name, kind) =
                part.rsplit_once('=').ok_or_else(|| Error::sql("types are written 'column=type, column=type'"))?;
            let shape = Shape::named(kind.trim()).ok_or_else(|| {
                let known = "boolean, bigint, decimal, double, date, timestamp, timestamptz, text and json";
                Error::sql(format!("there is no type {:?}; there are {known}", kind.trim()))
            })?;
            Ok((name.trim().to_owned(), shape))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_format() {
        let check = |key: &str, expected: Option<Kind>| assert_eq!(kind_of(key), expected, "{key}");
        check("a/b.csv", Some(Kind::Csv(b',')));
        check("a.TSV.gz", Some(Kind::Csv(b'\t')));
        check("a.ndjson.zst", Some(Kind::Json));
        check("a.parquet", Some(Kind::Parquet));
        check("a.d/b", None);
        check("b.gz", None);
    }

    #[test]
    fn a_function_says_how_to_read() {
        let text = |text: &str| Argument::Text(text.to_owned());
        let read = |name: &str, arguments: &[(&str, Argument)]| {
            let arguments: Vec<(String, Argument)> =
                arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            table_function(name, "s3://b/*.csv", &arguments)
        };
        let (_, options) = read(
            "read_csv",
            &[
                ("header", Argument::Flag(false)),
                ("delimiter", text(";")),
                ("quote", text("")),
                ("types", text("a=text,b=INT")),
            ],
        )
        .unwrap()
        .unwrap();
        assert_eq!((options.kind, options.dialect.header, options.dialect.quote), (Some(Kind::Csv(b';')), false, None));
        assert_eq!(options.types, [("a".to_owned(), Shape::Text), ("b".to_owned(), Shape::Int)]);
        assert!(read("unnest", &[]).unwrap().is_none());
        for (name, argument, value) in [
            ("read_json", "header", Argument::Flag(true)),
            ("read_csv", "header", text("yes")),
            ("read_csv", "delimiter", text("")),
            ("read_csv", "delimiter", text("ab")),
            ("read_csv", "types", text("a=blob")),
            ("read_csv", "path", text("/etc")),
            ("read_parquet", "types", text("a=text")),
            ("read_json", "sample_objects", Argument::Number(0)),
        ] {
            assert!(read(name, &[(argument, value)]).is_err(), "{name} {argument}");
        }
        assert!(table_function("read_csv", "file:///etc/passwd", &[]).is_err());
    }
}
