//! S3 Select on a socket: the request as XML, the answer as frames that are checked one by one.
//! Source: S3 API, "Appendix: SelectObjectContent Response"; the frames are those of `application/vnd.amazon.eventstream`.

use anyhow::{Context, Result, bail, ensure};
use crc_fast::{CrcAlgorithm, checksum};

use super::raw::{Call, Raw};

/// A statement and how records are read and written.
#[derive(Clone, Debug)]
pub struct Select<'a> {
    /// The statement.
    pub expression: &'a str,
    /// Inside of `InputSerialization`.
    pub input: &'a str,
    /// Inside of `OutputSerialization`.
    pub output: &'a str,
    /// Bytes of `ScanRange`, inclusive.
    pub scan: Option<(u64, u64)>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// All records.
    pub records: Vec<u8>,
    /// `BytesScanned` of the statistics.
    pub scanned: u64,
}

/// Selects from an object, or from all under a prefix.
///
/// # Errors
/// When it is refused, when a frame is damaged, or when the answer has no end.
pub fn select(raw: &mut Raw, bucket: &str, key: &str, asked: &Select<'_>) -> Result<Selected> {
    let scan = asked.scan.map(|(start, end)| format!("<ScanRange><Start>{start}</Start><End>{end}</End></ScanRange>"));
    let expression = asked.expression.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!(
        "<SelectObjectContentRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Expression>{expression}</Expression><ExpressionType>SQL</ExpressionType>\
         <InputSerialization>{}</InputSerialization><OutputSerialization>{}</OutputSerialization>{}\
         </SelectObjectContentRequest>",
        asked.input,
        asked.output,
        scan.unwrap_or_default()
    );
    let query = [("select", ""), ("select-type", "2")];
    let call = Call { method: "POST", bucket, key, query: &query, body: body.as_bytes(), ..Call::default() };
    let reply = raw.send(&call)?.expect(200).with_context(|| asked.expression.to_owned())?;
    decoded(&reply.body)
}

fn decoded(mut frames: &[u8]) -> Result<Selected> {
    let mut found = Selected::default();
    let (mut stats, mut ended) = (false, false);
    while !frames.is_empty() {
        ensure!(!ended, "something comes after the end");
        let frame = Frame::next(&mut frames)?;
        match (frame.header(":message-type")?.as_str(), frame.header(":event-type")) {
            ("event", Ok(kind)) if kind == "Records" => found.records.extend_from_slice(frame.payload),
            ("event", Ok(kind)) if kind == "Stats" => {
                let text = String::from_utf8_lossy(frame.payload);
                let scanned = super::raw::elements(&text, "BytesScanned").pop().context("no BytesScanned")?;
                found.scanned = scanned.parse()?;
                stats = true;
            }
            ("event", Ok(kind)) if kind == "End" => ended = true,
            ("event", Ok(kind)) if kind == "Cont" || kind == "Progress" => {}
            _ => bail!("{}: {}", frame.header(":error-code")?, frame.header(":error-message")?),
        }
    }
    ensure!(ended && stats, "the answer has no end");
    Ok(found)
}

/// One frame: its length, that of its headers, a checksum of both; headers; the payload; a checksum of all.
struct Frame<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
}

fn number(bytes: &[u8]) -> Result<usize> {
    Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
}

fn crc(bytes: &[u8]) -> usize {
    usize::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, bytes)).unwrap_or(usize::MAX)
}

impl<'a> Frame<'a> {
    fn next(frames: &mut &'a [u8]) -> Result<Self> {
        ensure!(frames.len() >= 16, "a frame is cut off");
        let (length, headers) = (number(&frames[..4])?, number(&frames[4..8])?);
        ensure!(number(&frames[8..12])? == crc(&frames[..8]), "the head of a frame is damaged");
        ensure!(length >= headers + 16 && frames.len() >= length, "a frame is cut off");
        let (frame, rest) = frames.split_at(length);
        ensure!(number(&frame[length - 4..])? == crc(&frame[..length - 4]), "a frame is damaged");
        *frames = rest;
        Ok(Self { headers: &frame[12..12 + headers], payload: &frame[12 + headers..length - 4] })
    }

    /// A header of type 7, text.
    fn header(&self, name: &str) -> Result<String> {
        let mut rest = self.headers;
        while let [length, more @ ..] = rest {
            let (found, more) = more.split_at_checked(usize::from(*length)).context("a header is cut off")?;
            let [7, high, low, more @ ..] = more else { bail!("a header is no text") };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (value, more) = more.split_at_checked(length).context("a header is cut off")?;
            if found == name.as_bytes() {
                return Ok(String::from_utf8(value.to_vec())?);
            }
            rest = more;
        }
        bail!("no header {name}")
    }
}
