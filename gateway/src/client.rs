//! The command line's side of a gateway: signed requests to `HOLDFAST_ENDPOINT` with the AWS credential chain's keys.

pub mod sign;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::ProvideCredentials as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::sign::{Signer, sha256_hex};
use crate::api::gate::keys::Credentials;
use crate::config::secret::Secret;
use crate::outbound;

/// Where the gateway is unless `HOLDFAST_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:9900";
/// A command waits this long for its answer.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// An answer is a JSON document; a larger one is a mistake.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A stream of events that is silent for so long is broken.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

type Cause = Box<dyn std::error::Error + Send + Sync>;
type Answer = (StatusCode, http::HeaderMap, Bytes);

async fn read_whole(reply: http::Response<hyper::body::Incoming>) -> Result<Answer, Cause> {
    let (parts, body) = reply.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    Ok((parts.status, parts.headers, body.to_bytes()))
}

/// A server-sent event whose lines are still coming.
#[derive(Default)]
struct SentEvent {
    id: String,
    kind: String,
    data: String,
}

impl SentEvent {
    /// Whether more is wanted.
    fn line(&mut self, line: &str, tell: &mut impl FnMut(&str, &str, &str) -> bool) -> bool {
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "" if !self.data.is_empty() => {
                let event = std::mem::take(self);
                return tell(&event.id, &event.kind, &event.data);
            }
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push_str(value),
            _ => {}
        }
        true
    }
}

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is no URL that we can use.
    #[error("HOLDFAST_ENDPOINT {0:?} is not http://HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    /// The credential chain has none.
    #[error("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")]
    Credentials,
    /// No connection, or it broke.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The gateway refused.
    #[error("{status}: {code}: {message} (request {request_id})")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Error code.
        code: String,
        /// Its text.
        message: String,
        /// To find it in the gateway's log.
        request_id: String,
        /// All that it said.
        answer: Box<serde_json::Value>,
    },
    /// The answer is no JSON.
    #[error("the answer is not JSON; is {0} a Holdfast endpoint?")]
    Form(String),
}

/// A client of one gateway.
#[derive(Debug)]
pub struct Client {
    endpoint: Uri,
    text: String,
    signer: Signer,
}

impl Client {
    /// A client with the environment's endpoint, region and credentials.
    ///
    /// # Errors
    /// [`Error::Endpoint`] or [`Error::Credentials`].
    pub async fn from_environment() -> Result<Self, Error> {
        let text = std::env::var("HOLDFAST_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.to_owned());
        let chain = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let region = std::env::var("HOLDFAST_REGION").ok().or_else(|| chain.region().map(ToString::to_string));
        let provider = chain.credentials_provider().ok_or(Error::Credentials)?;
        let found = provider.provide_credentials().await.map_err(|_| Error::Credentials)?;
        let credentials = Credentials {
            access_key: found.access_key_id().to_owned(),
            secret_key: Secret::new(found.secret_access_key()),
        };
        Self::new(text, Signer { credentials, region: region.unwrap_or_else(|| "us-east-1".to_owned()) })
    }

    /// A client of `endpoint`.
    ///
    /// # Errors
    /// [`Error::Endpoint`].
    pub fn new(endpoint: String, signer: Signer) -> Result<Self, Error> {
        let uri: Uri = endpoint.parse().map_err(|_| Error::Endpoint(endpoint.clone()))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(Error::Endpoint(endpoint));
        }
        Ok(Self { endpoint: uri, text: endpoint, signer })
    }

    /// Sends a signed request and reads a JSON answer; an empty one is `null`.
    ///
    /// # Errors
    /// [`Error`] when there is no answer, or it is a refusal.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, Error> {
        self.json_within(DEADLINE, method, path, body).await
    }

    /// As [`Client::json`], for an answer that may take longer.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn json_within(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, Error> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = timeout(deadline, self.send(method, path, body, &[], read_whole)).await;
        let (status, headers, bytes) = answer.map_err(|late| self.unreachable(late))??;
        self.answered(status, &headers, &bytes)
    }

    /// As [`Client::json`], for a body of any bytes, and headers that say what it is.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn json_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> Result<serde_json::Value, Error> {
        let answer = timeout(DEADLINE, self.send(method, path, body.into(), headers, read_whole)).await;
        let (status, headers, bytes) = answer.map_err(|late| self.unreachable(late))??;
        self.answered(status, &headers, &bytes)
    }

    fn answered(
        &self,
        status: StatusCode,
        headers: &http::HeaderMap,
        bytes: &Bytes,
    ) -> Result<serde_json::Value, Error> {
        let json = if bytes.is_empty() { Ok(serde_json::Value::Null) } else { serde_json::from_slice(bytes) };
        if status.is_success() {
            return json.map_err(|_| Error::Form(self.text.clone()));
        }
        let json = json.unwrap_or_default();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let request_id = headers.get("x-amz-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        Err(Error::Refused { status, code, message, request_id, answer: Box::new(json) })
    }

    /// Sends a request and gives the bytes of the answer as they come, until `each` wants no more.
    ///
    /// # Errors
    /// [`Error`] when there is no answer, it is a refusal, or it breaks off.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
        mut each: impl FnMut(Bytes) -> bool,
    ) -> Result<(), Error> {
        let read = async |reply: http::Response<hyper::body::Incoming>| {
            if !reply.status().is_success() {
                return read_whole(reply).await.map(Some);
            }
            let mut body = reply.into_body();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data()
                    && !each(data)
                {
                    break;
                }
            }
            Ok(None)
        };
        match self.send(method, path, body.into(), headers, read).await? {
            Some((status, headers, bytes)) => self.answered(status, &headers, &bytes).map(drop),
            None => Ok(()),
        }
    }

    /// Follows server-sent events until the other side ends them, or `tell` has heard enough and says false. It gets each:
    /// its id, its kind, its data; and `open` when the stream begins.
    ///
    /// # Errors
    /// [`Error`] when there is no answer, it is a refusal, or it breaks off.
    pub async fn follow(
        &self,
        path: &str,
        last_event_id: Option<&str>,
        mut tell: impl FnMut(&str, &str, &str) -> bool,
    ) -> Result<(), Error> {
        let read = async |reply: http::Response<hyper::body::Incoming>| {
            if !reply.status().is_success() {
                return read_whole(reply).await.map(Some);
            }
            let mut body = reply.into_body();
            tell("", "open", "");
            let mut text = Vec::new();
            let mut message = SentEvent::default();
            while let Some(frame) = timeout(SILENCE_MAX, body.frame()).await? {
                let Ok(data) = frame?.into_data() else { continue };
                text.extend_from_slice(&data);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if !message.line(String::from_utf8_lossy(&line).trim_end(), &mut tell) {
                        return Ok(None);
                    }
                }
            }
            Ok(None)
        };
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        match self.send(Method::GET, path, Bytes::new(), &headers, read).await? {
            Some((status, headers, bytes)) => self.answered(status, &headers, &bytes).map(drop),
            None => Ok(()),
        }
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Unreachable { endpoint: self.text.clone(), source: source.into() }
    }

    async fn send<T>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        further: &[(&'static str, &str)],
        read: impl AsyncFnOnce(http::Response<hyper::body::Incoming>) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        let authority = self.endpoint.authority().expect("checked when the client was made");
        let uri: Uri = path.parse().map_err(|_| Error::Endpoint(path.to_owned()))?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, authority.as_str().parse().map_err(|_| Error::Endpoint(self.text.clone()))?);
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        for (name, value) in further {
            if let Ok(value) = value.parse() {
                headers.insert(*name, value);
            }
        }
        self.signer.sign(&method, &uri, headers, &sha256_hex(&body), OffsetDateTime::now_utc());
        let secure = self.endpoint.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = outbound::bare(authority.host());
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.unreachable(error))?;
        if !secure {
            return self.exchange(stream, request, read).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Endpoint(self.text.clone()))?;
        let tls = outbound::tls(None).map_err(|error| self.unreachable(error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, stream).await.map_err(|error| self.unreachable(error))?;
        self.exchange(stream, request, read).await
    }

    async fn exchange<I, T>(
        &self,
        stream: I,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(http::Response<hyper::body::Incoming>) -> Result<T, Cause>,
    ) -> Result<T, Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(error))?;
        let exchange = async {
            let reply = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
            read(reply).await.map_err(|error| self.unreachable(error))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // The connection may end before the last bytes have been looked at.
            _ = &mut connection => exchange.await,
        }
    }
}
