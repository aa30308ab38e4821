//! Webhooks: one POST for each message, or for each batch of S3 records. 2xx is arrived; of other answers those that ask for
//! another attempt (408, 425, 429, 5xx, redirects, which are not followed) are failures and the rest refusals.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach, bare};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(super) struct Webhook {
    host: String,
    port: u16,
    /// As the Host header names it.
    authority: String,
    path: String,
    authorization: Option<HeaderValue>,
    tls: Option<Arc<rustls::ClientConfig>>,
    reach: Reach,
    open: Option<Open>,
}

/// An open connection, and what drives it.
struct Open {
    requests: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Webhook {
    pub(super) fn new(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = settings.hosts[0].clone();
        let default_port = if settings.secure { 443 } else { 80 };
        let authority = if port == default_port { host.clone() } else { format!("{host}:{port}") };
        let authorization = settings.token.as_ref().map(|token| {
            let token = token.expose();
            // A scheme is given with a space, as in "Bearer x" or "Basic y".
            let text = if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") };
            let value = HeaderValue::from_str(&text).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            value.map_err(|_| SendError::Failed("the token cannot stand in a header".into()))
        });
        let tls = settings.secure.then(|| outbound::tls(settings.ca.as_deref()).map(Arc::new)).transpose()?;
        let (path, authorization) = (settings.path.clone(), authorization.transpose()?);
        Ok(Self { host, port, authority, path, authorization, tls, reach, open: None })
    }

    async fn connection(&mut self) -> Result<Open, SendError> {
        if let Some(mut open) = self.open.take()
            && open.requests.ready().await.is_ok()
        {
            return Ok(open);
        }
        let stream = self.reach.connect(&self.host, self.port).await?;
        let Some(tls) = &self.tls else { return begin(stream).await };
        let name = ServerName::try_from(bare(&self.host).to_owned()).map_err(SendError::failed)?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        begin(connector.connect(name, stream).await.map_err(SendError::failed)?).await
    }

    async fn post(&mut self, content_type: &'static str, body: Bytes, id: &str) -> Result<(), SendError> {
        let mut connection = self.connection().await?;
        let mut request = Request::post(self.path.as_str())
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, content_type)
            .header("x-holdfast-event-id", id);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).map_err(SendError::failed)?;
        let answer = connection.requests.send_request(request).await.map_err(SendError::failed)?;
        let status = answer.status();
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        if !status.is_success() {
            let said = read.map(|body| String::from_utf8_lossy(&body.to_bytes()).chars().take(200).collect::<String>());
            return Err(refusal(status, said.unwrap_or_default().trim()));
        }
        // Too long an answer costs the connection, nothing else.
        self.open = read.is_ok().then_some(connection);
        Ok(())
    }
}

fn refusal(status: StatusCode, said: &str) -> SendError {
    let what = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    // Who may not enter, or finds nothing there, may be let in when somebody mends it.
    let mended = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
    if status.is_client_error() && !again.contains(&status) && !mended.contains(&status) {
        SendError::Refused(what)
    } else {
        SendError::Failed(what)
    }
}

async fn begin<S>(stream: S) -> Result<Open, SendError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(SendError::failed)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection of a webhook ended");
        }
    });
    Ok(Open { requests, _driver: driver })
}

#[async_trait]
impl Sender for Webhook {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        match messages {
            [] => Ok(()),
            [message] => self.post(message.content_type, message.body.clone(), &message.id).await,
            [.., last] => {
                let body = Message::joined(messages);
                self.post(last.content_type, body, &last.id).await
            }
        }
    }
}
