//! Cross-origin requests: which a bucket's rules allow, and the headers that tell a browser so.
//!
//! s3s answers no OPTIONS and adds no such headers, so the gate does. A preflight carries no signature; its answer for a bucket
//! without rules is the same as for one that does not exist.
//!
//! Source: S3 user guide, "Using cross-origin resource sharing" and "CORS configuration".

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use s3s::dto::{CORSConfiguration, CORSRule};
use s3s::{Body, xml};

use super::refusal::Refusal;

/// Rules of one bucket at most.
pub const RULES_MAX: usize = 100;
/// Bytes of a stored configuration at most.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];
const VARY: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

/// Where the gate finds a bucket's rules.
#[async_trait::async_trait]
pub trait CorsSource: Send + Sync + 'static {
    /// The rules of `bucket`; `None` when it has none or does not exist.
    async fn cors(&self, bucket: &str) -> Option<Arc<CorsRules>>;
}

/// No bucket has rules.
#[derive(Debug)]
pub struct NoCors;

#[async_trait::async_trait]
impl CorsSource for NoCors {
    async fn cors(&self, _bucket: &str) -> Option<Arc<CorsRules>> {
        None
    }
}

/// Why a configuration is refused, in S3's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// Code `MalformedXML`.
    #[error("the XML you provided was not well-formed or did not validate against our published schema")]
    Malformed,
    /// Code `InvalidRequest`.
    #[error("{0}")]
    Invalid(String),
}

/// The validated rules of a bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct CorsRules(CORSConfiguration);

impl CorsRules {
    /// Reads a stored or received document.
    ///
    /// # Errors
    /// [`CorsError`] when it is no valid configuration.
    pub fn parse(document: &[u8]) -> Result<Self, CorsError> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(CorsError::Malformed);
        }
        let mut reader = xml::Deserializer::new(document);
        let parsed =
            <CORSConfiguration as xml::Deserialize>::deserialize(&mut reader).map_err(|_| CorsError::Malformed)?;
        reader.expect_eof().map_err(|_| CorsError::Malformed)?;
        Self::new(parsed)
    }

    /// Validates what s3s has parsed.
    ///
    /// # Errors
    /// [`CorsError`] as AWS would refuse it.
    pub fn new(configuration: CORSConfiguration) -> Result<Self, CorsError> {
        if configuration.cors_rules.is_empty() || configuration.cors_rules.len() > RULES_MAX {
            return Err(CorsError::Malformed);
        }
        configuration.cors_rules.iter().try_for_each(validate)?;
        let rules = Self(configuration);
        if rules.to_xml().len() > DOCUMENT_BYTES_MAX { Err(CorsError::Malformed) } else { Ok(rules) }
    }

    /// The document to store.
    #[must_use]
    pub fn to_xml(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = xml::Serializer::new(&mut out);
        xml::Serialize::serialize(&self.0, &mut writer).expect("writing to memory does not fail");
        out
    }

    /// The configuration, for GetBucketCors.
    #[must_use]
    pub fn into_configuration(self) -> CORSConfiguration {
        self.0
    }

    /// The first rule that allows it. `None` for headers: a request itself, whose headers are not asked about.
    fn rule(&self, origin: &str, method: &str, headers: Option<&[&str]>) -> Option<&CORSRule> {
        self.0.cors_rules.iter().find(|rule| {
            rule.allowed_methods.iter().any(|allowed| allowed == method)
                && rule.allowed_origins.iter().any(|allowed| matches(allowed, origin))
                && headers.is_none_or(|headers| headers.iter().all(|name| allows_header(rule, name)))
        })
    }
}

fn validate(rule: &CORSRule) -> Result<(), CorsError> {
    if rule.allowed_methods.is_empty()
        || rule.allowed_origins.is_empty()
        || rule.id.as_ref().is_some_and(|id| id.len() > 255)
    {
        return Err(CorsError::Malformed);
    }
    for method in &rule.allowed_methods {
        if !METHODS.contains(&method.as_str()) {
            let text = format!("Found unsupported HTTP method in CORS config. Unsupported method is {method}");
            return Err(CorsError::Invalid(text));
        }
    }
    let headers = rule.allowed_headers.iter().flatten();
    let patterns =
        rule.allowed_origins.iter().map(|o| ("AllowedOrigin", o)).chain(headers.map(|h| ("AllowedHeader", h)));
    for (what, pattern) in patterns {
        if pattern.matches('*').count() > 1 {
            return Err(CorsError::Invalid(format!("{what} \"{pattern}\" can not have more than one wildcard.")));
        }
        if HeaderValue::from_str(pattern).is_err() || pattern.is_empty() {
            return Err(CorsError::Malformed);
        }
    }
    for name in rule.expose_headers.iter().flatten() {
        if name.contains('*') {
            let text = format!(
                "ExposeHeader \"{name}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
            );
            return Err(CorsError::Invalid(text));
        }
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(CorsError::Malformed);
        }
    }
    if rule.max_age_seconds.is_some_and(|seconds| seconds < 0) { Err(CorsError::Malformed) } else { Ok(()) }
}

/// Whether `text` is what a pattern with at most one `*` describes.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

fn allows_header(rule: &CORSRule, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    rule.allowed_headers.iter().flatten().any(|allowed| matches(&allowed.to_ascii_lowercase(), &name))
}

/// Answers OPTIONS.
pub(super) fn preflight(rules: Option<&CorsRules>, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let insufficient = |what: &str| Refusal::invalid("BadRequest", "cors", format!("Insufficient information. {what}"));
    let origin = text(header::ORIGIN).ok_or_else(|| insufficient("Origin request header needed."))?;
    let method = text(header::ACCESS_CONTROL_REQUEST_METHOD)
        .ok_or_else(|| insufficient("Access-Control-Request-Method request header needed."))?;
    let forbidden = |message: &str| Refusal::new(StatusCode::FORBIDDEN, "AccessForbidden", "cors", message);
    let rules = rules.ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?;
    let asked: Vec<_> = text(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let rule = rules.rule(origin, method, Some(&asked)).ok_or_else(|| {
        forbidden("CORSResponse: This CORS request is not allowed by the bucket's rules for origin, method or headers.")
    })?;
    let mut reply = Response::new(Body::empty());
    grant(reply.headers_mut(), rule, origin);
    if !asked.is_empty() {
        insert(reply.headers_mut(), header::ACCESS_CONTROL_ALLOW_HEADERS, &asked.join(", ").to_ascii_lowercase());
    }
    Ok(reply)
}

/// Adds what a browser needs to hand the reply to its page.
pub(super) fn decorate(rules: &CorsRules, method: &Method, origin: &str, reply: &mut HeaderMap) {
    if let Some(rule) = rules.rule(origin, method.as_str(), None) {
        grant(reply, rule, origin);
    }
}

fn grant(reply: &mut HeaderMap, rule: &CORSRule, origin: &str) {
    let anyone = rule.allowed_origins.iter().any(|allowed| allowed == "*");
    insert(reply, header::ACCESS_CONTROL_ALLOW_ORIGIN, if anyone { "*" } else { origin });
    if !anyone {
        insert(reply, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    insert(reply, header::ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
    if let Some(exposed) = rule.expose_headers.as_ref().filter(|exposed| !exposed.is_empty()) {
        insert(reply, header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed.join(", "));
    }
    if let Some(seconds) = rule.max_age_seconds {
        insert(reply, header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
    }
    insert(reply, header::VARY, VARY);
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Everything here was validated or came in a header; a value that is none after all is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example.com</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>\
        <AllowedHeader>x-amz-*</AllowedHeader><AllowedHeader>Content-Type</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>300</MaxAgeSeconds></CORSRule>\
        <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";

    fn ask(origin: &str, method: &str, headers: &str) -> Result<HeaderMap, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in
            [("origin", origin), ("access-control-request-method", method), ("access-control-request-headers", headers)]
        {
            if !value.is_empty() {
                map.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let rules = CorsRules::parse(DOCUMENT.as_bytes()).unwrap();
        preflight(Some(&rules), &map).map(|reply| reply.headers().clone()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_preflight_is_answered_by_the_first_rule_that_allows_it() {
        let granted = ask("https://a.example.com", "PUT", "X-Amz-Date, content-type").unwrap();
        let value = |name: &str| granted.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(value("access-control-allow-origin"), Some("https://a.example.com"));
        assert_eq!(value("access-control-allow-credentials"), Some("true"));
        assert_eq!(value("access-control-allow-methods"), Some("PUT"));
        assert_eq!(value("access-control-allow-headers"), Some("x-amz-date, content-type"));
        assert_eq!(value("access-control-expose-headers"), Some("ETag"));
        assert_eq!(value("access-control-max-age"), Some("300"));
        assert_eq!(value("vary"), Some(VARY));
        let anyone = ask("https://other", "GET", "").unwrap();
        assert_eq!(anyone["access-control-allow-origin"], "*");
        assert!(anyone.get("access-control-allow-credentials").is_none());
    }

    #[test]
    fn other_preflights_are_refused() {
        assert_eq!(ask("https://a.example.org", "PUT", "").unwrap_err(), "AccessForbidden");
        assert_eq!(ask("https://a.example.com", "DELETE", "").unwrap_err(), "AccessForbidden");
        assert_eq!(ask("https://a.example.com", "PUT", "x-other").unwrap_err(), "AccessForbidden");
        assert_eq!(ask("", "PUT", "").unwrap_err(), "BadRequest");
        assert_eq!(ask("https://a.example.com", "", "").unwrap_err(), "BadRequest");
        assert_eq!(preflight(None, &HeaderMap::new()).unwrap_err().code, "BadRequest");
    }

    #[test]
    fn configurations_are_validated_as_aws_does() {
        let rule = |inner: &str| format!("<CORSConfiguration><CORSRule>{inner}</CORSRule></CORSConfiguration>");
        let check = |document: String, expected: &str| {
            let error = CorsRules::parse(document.as_bytes()).expect_err(&document);
            assert!(error.to_string().contains(expected), "{document}: {error}");
        };
        let (origin, method) = ("<AllowedOrigin>*</AllowedOrigin>", "<AllowedMethod>GET</AllowedMethod>");
        check(rule(origin), "well-formed");
        check(rule(method), "well-formed");
        check(rule(&format!("{origin}<AllowedMethod>PATCH</AllowedMethod>")), "Unsupported method is PATCH");
        check(rule(&format!("<AllowedOrigin>*.*</AllowedOrigin>{method}")), "more than one wildcard");
        check(rule(&format!("{origin}{method}<AllowedHeader>*a*</AllowedHeader>")), "more than one wildcard");
        check(rule(&format!("{origin}{method}<ExposeHeader>x-*</ExposeHeader>")), "ExposeHeader");
        check(rule(&format!("{origin}{method}<ExposeHeader>a&#13;&#10;b: c</ExposeHeader>")), "well-formed");
        check("<CORSConfiguration></CORSConfiguration>".into(), "well-formed");
        check(
            format!(
                "<CORSConfiguration>{}</CORSConfiguration>",
                format!("<CORSRule>{origin}{method}</CORSRule>").repeat(101)
            ),
            "well-formed",
        );
        check("<Other/>".into(), "well-formed");
    }

    #[test]
    fn a_stored_document_reads_back() {
        let rules = CorsRules::parse(DOCUMENT.as_bytes()).unwrap();
        assert_eq!(CorsRules::parse(&rules.to_xml()).unwrap(), rules);
    }
}
