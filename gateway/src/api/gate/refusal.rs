//! What the gate answers itself: S3 XML, or JSON under `/_holdfast`, always with the request id.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use s3s::Body;

use crate::api::request_id::RequestId;

/// A request that goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// S3 error code.
    pub code: &'static str,
    /// For the person who reads it.
    pub message: String,
    /// For the metric: why, in one word.
    pub reason: &'static str,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), reason }
    }

    pub(super) fn not_built(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", reason, message)
    }

    pub(super) fn invalid(code: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, reason, message)
    }

    pub(super) fn internal() -> Self {
        let message = "We encountered an internal error. Please try again.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "panic", message)
    }
}

/// Where an error is answered to, and how.
#[derive(Clone, Debug)]
pub(super) struct ErrorContext<'a> {
    pub request_id: RequestId,
    pub host_id: &'a str,
    /// Path as it came, for `<Resource>`.
    pub path: &'a str,
    pub method: &'a Method,
    /// Under `/_holdfast`: JSON.
    pub json: bool,
}

impl ErrorContext<'_> {
    /// The reply to a refused request.
    pub fn reply(&self, refusal: &Refusal) -> Response<Body> {
        let body = self.body(refusal.code, &refusal.message);
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = refusal.status;
        self.set_body(&mut reply, body);
        reply
    }

    /// Gives an error that s3s wrote the request id, the host id and the resource; as JSON where that is spoken.
    pub fn complete(&self, reply: &mut Response<Body>) {
        let Some(bytes) = reply.body().bytes().filter(|bytes| !bytes.is_empty()) else { return };
        let Ok(text) = std::str::from_utf8(&bytes) else { return };
        let Some(code) = element(text, "Code") else { return };
        let body = if self.json {
            self.body(&unescape(code), &unescape(element(text, "Message").unwrap_or_default()))
        } else {
            let Some(end) = text.rfind("</Error>") else { return };
            let mut whole = text[..end].to_owned();
            for (name, value) in
                [("Resource", self.path), ("RequestId", &self.request_id.to_string()), ("HostId", self.host_id)]
            {
                if element(text, name).is_none() {
                    whole.push_str(&format!("<{name}>{}</{name}>", escape(value)));
                }
            }
            whole + "</Error>"
        };
        self.set_body(reply, body);
    }

    fn set_body(&self, reply: &mut Response<Body>, body: String) {
        let kind = if self.json { "application/json" } else { "application/xml" };
        let length = HeaderValue::from(body.len());
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, length);
        // The answer to HEAD names the length of the body that GET would have had, and has none.
        *reply.body_mut() = if self.method == Method::HEAD { Body::empty() } else { Body::from(Bytes::from(body)) };
    }

    fn body(&self, code: &str, message: &str) -> String {
        if self.json {
            let id = self.request_id.to_string();
            return serde_json::json!({ "code": code, "message": message, "request_id": id }).to_string();
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message><Resource>{}</Resource><RequestId>{}</RequestId><HostId>{}</HostId></Error>",
            escape(code),
            escape(message),
            escape(self.path),
            self.request_id,
            escape(self.host_id)
        )
    }
}

/// The code of an error reply, for the log and the metrics.
pub(super) fn code_of(reply: &Response<Body>) -> Option<String> {
    let bytes = reply.body().bytes()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    if let Some(code) = element(text, "Code") {
        return Some(code.to_owned());
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    json.get("code")?.as_str().map(str::to_owned)
}

/// Puts the two ids on a reply.
pub(super) fn set_ids(headers: &mut HeaderMap, request_id: RequestId, host_id: &str) {
    let id = HeaderValue::from_str(&request_id.to_string()).expect("hexadecimal digits are a header value");
    headers.insert("x-amz-request-id", id);
    if let Ok(host) = HeaderValue::from_str(host_id) {
        headers.insert("x-amz-id-2", host);
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}>");
    let start = text.find(&open)? + open.len();
    let end = text[start..].find(&format!("</{name}>"))? + start;
    Some(&text[start..end])
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // Not allowed in XML 1.0 in any form.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(method: &Method, json: bool) -> ErrorContext<'_> {
        ErrorContext { request_id: RequestId([7; 16]), host_id: "host", path: "/b/<k>", method, json }
    }

    fn text(reply: &Response<Body>) -> String {
        String::from_utf8(reply.body().bytes().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn an_error_of_s3s_gains_ids_and_resource() {
        let mut reply = Response::new(Body::from(
            "<?xml?><Error><Code>NoSuchKey</Code><Message>a &amp; b</Message></Error>".to_owned(),
        ));
        context(&Method::GET, false).complete(&mut reply);
        let id = "07".repeat(16);
        assert_eq!(
            text(&reply),
            format!(
                "<?xml?><Error><Code>NoSuchKey</Code><Message>a &amp; b</Message><Resource>/b/&lt;k&gt;</Resource><RequestId>{id}</RequestId><HostId>host</HostId></Error>"
            )
        );
        assert_eq!(code_of(&reply).as_deref(), Some("NoSuchKey"));
        context(&Method::GET, true).complete(&mut reply);
        let json: serde_json::Value = serde_json::from_str(&text(&reply)).unwrap();
        assert_eq!(json, serde_json::json!({ "code": "NoSuchKey", "message": "a & b", "request_id": id }));
        assert_eq!(code_of(&reply).as_deref(), Some("NoSuchKey"));
    }

    #[test]
    fn the_answer_to_head_has_a_length_and_no_body() {
        let reply = context(&Method::HEAD, false).reply(&Refusal::not_built("query", "x"));
        assert_eq!(reply.body().bytes().unwrap().len(), 0);
        assert_ne!(reply.headers()[header::CONTENT_LENGTH], "0");
    }
}
