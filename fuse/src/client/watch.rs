//! The feed: what changes in a bucket, as server-sent events. Source: HTML Living Standard, "Server-sent events".

use std::time::Duration;

use holdfast_core::id::{BucketName, Revision};
use http::{Method, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Client;
use super::error::Error;
use super::request::{Endpoint, Outgoing};
use super::transport::refusal;
use crate::remote::News;

/// A feed that is silent for so long is broken.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// An answer begins within this.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// Longest event; a key and its old name are far shorter.
const EVENT_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Follows what happens to the objects under a prefix after a revision, or from now on, until the feed breaks or nobody
    /// listens. A mark comes at least every `mark`. It is not connected to again here.
    ///
    /// # Errors
    /// Why it broke; [`Error::is_compacted`] when what follows the revision is not kept any more.
    pub async fn watch(
        &self,
        bucket: &BucketName,
        prefix: &str,
        from: Option<Revision>,
        mark: Duration,
        tell: &mpsc::Sender<News>,
    ) -> Result<(), Error> {
        let mut ask = Outgoing::new(Method::GET, "/_holdfast/v1/watch".to_owned());
        ask = ask.query("bucket", bucket.as_str());
        if let Some(from) = from {
            ask = ask.query("from", &from.to_string());
        }
        ask = ask.query("mark", &format!("{}ms", mark.as_millis())).query("prefix", prefix);
        ask.set(header::ACCEPT, "text/event-stream")?;
        let (preferred, endpoint) = self.current();
        let followed = self.follow(&ask, endpoint, tell).await;
        if matches!(&followed, Err(error) if error.is_unknown()) {
            self.move_on(preferred);
        }
        followed
    }

    async fn follow(&self, ask: &Outgoing, endpoint: &Endpoint, tell: &mpsc::Sender<News>) -> Result<(), Error> {
        let open = async {
            let request = self.signed(ask, endpoint).await?;
            let (head, body) = self.0.transport.open(request, endpoint).await?.into_parts();
            if !head.status.is_success() {
                return Err(refusal(head.status, &head.headers, body, true, endpoint).await);
            }
            Ok(body)
        };
        let opened = timeout(OPEN_MAX, open).await;
        let mut body = opened.map_err(|late| endpoint.unavailable(None, late))??;
        let mut parser = Parser::default();
        loop {
            let frame = timeout(SILENCE_MAX, body.frame()).await.map_err(|late| endpoint.unavailable(None, late))?;
            let frame = frame.ok_or_else(|| endpoint.unavailable(None, "the gateway ended the feed"))?;
            let Ok(data) = frame.map_err(|error| endpoint.unavailable(None, error))?.into_data() else { continue };
            for event in parser.feed(&data).ok_or_else(|| endpoint.form("an event without an end"))? {
                let Some(news) = read(&event, endpoint)? else { continue };
                if tell.send(news).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// What an event says; none for what is not about objects.
fn read(event: &Sent, endpoint: &Endpoint) -> Result<Option<News>, Error> {
    let known = matches!(event.kind.as_str(), "change" | "mark" | "error");
    if !known {
        return Ok(None);
    }
    let wrong = || endpoint.form(format!("an event {:?} that cannot be read", event.kind));
    let data: Value = serde_json::from_str(&event.data).map_err(|_| wrong())?;
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    match event.kind.as_str() {
        "mark" => Ok(Some(News::Mark(data["revision"].as_u64().ok_or_else(wrong)?))),
        "change" => {
            let (revision, kind) = (data["revision"].as_u64().ok_or_else(wrong)?, text("event").ok_or_else(wrong)?);
            let key = text("key").filter(|_| kind.starts_with("Object"));
            Ok(key.map(|key| News::Change { revision, kind, key, source: text("source") }))
        }
        _ => {
            let (code, message) = (text("code").unwrap_or_default(), text("message").unwrap_or_default());
            let status = if code == "Compacted" { 410 } else { 503 };
            Err(Error::of_answer(endpoint.text(), status, &code, &message, "unknown"))
        }
    }
}

/// An event as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sent {
    kind: String,
    data: String,
}

/// Takes the stream apart, wherever its pieces are cut.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    event: Sent,
}

impl Parser {
    /// The events that end in these bytes; none when one is longer than any is.
    fn feed(&mut self, bytes: &[u8]) -> Option<Vec<Sent>> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.take(String::from_utf8_lossy(&line).trim_end_matches('\r')));
            if self.event.data.len() > EVENT_BYTES_MAX {
                return None;
            }
        }
        self.line.extend_from_slice(rest);
        (self.line.len() <= EVENT_BYTES_MAX).then_some(events)
    }

    fn take(&mut self, line: &str) -> Option<Sent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
            "data" => {
                self.event.data.push('\n');
                self.event.data.push_str(value);
            }
            // Ids are in the data as revisions; the caller connects again when it wants to.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_wherever_the_stream_is_cut() {
        let stream = "retry: 1000\n\nid: 3.end\nevent: mark\ndata: {\"revision\":3}\n\n: comment\r\nevent:change\r\ndata: a\r\ndata: b\r\n\r\nid: 9\n\n";
        let expected = [("mark", "{\"revision\":3}"), ("change", "a\nb")];
        let expected = expected.map(|(kind, data)| Sent { kind: kind.into(), data: data.into() });
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let pieces = stream.as_bytes().chunks(size);
            let found: Vec<Sent> = pieces.flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(found, expected, "{size}");
        }
        assert_eq!(Parser::default().feed(&vec![b'x'; EVENT_BYTES_MAX + 1]), None);
    }
}
