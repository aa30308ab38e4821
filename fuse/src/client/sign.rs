//! Keys, and signatures with them. Source: AWS IAM user guide, "Create a signed AWS API request"; S3 API, "Authenticating
//! Requests": paths are encoded once, and not normalised.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http::{Request, header};
use tokio::sync::Mutex;

use super::error::Error;
use super::transport::Payload;

/// Keys that end within this are asked for anew.
const ENDS_SOON: Duration = Duration::from_secs(300);

/// The keys of the chain, as long as they live.
pub(super) struct Keys {
    provider: SharedCredentialsProvider,
    region: String,
    known: Mutex<Option<Credentials>>,
}

impl Keys {
    pub(super) fn new(provider: SharedCredentialsProvider, region: String) -> Self {
        Self { provider, region, known: Mutex::new(None) }
    }

    /// The keys were refused: the chain is asked again.
    pub(super) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    /// Signs a request; without a hash its payload is not signed.
    ///
    /// # Errors
    /// [`Error::Credentials`], [`Error::Request`].
    pub(super) async fn sign(
        &self,
        mut request: Request<Payload>,
        hash: Option<String>,
    ) -> Result<Request<Payload>, Error> {
        let identity = self.credentials().await?.into();
        let wrong = |error: &dyn std::error::Error| Error::Request { what: error.to_string() };
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings);
        let params = params.build().map_err(|error| wrong(&error))?.into();
        let body = hash.map_or(SignableBody::UnsignedPayload, SignableBody::Precomputed);
        let uri = request.uri().to_string();
        let headers = request.headers().iter().filter(|(name, _)| **name != header::USER_AGENT);
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable = SignableRequest::new(request.method().as_str(), uri, headers, body);
        let signed = sign(signable.map_err(|error| wrong(&error))?, &params).map_err(|error| wrong(&error))?;
        let (instructions, _) = signed.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }

    async fn credentials(&self) -> Result<Credentials, Error> {
        let mut known = self.known.lock().await;
        let now = SystemTime::now();
        let lives = |keys: &Credentials, until| keys.expiry().is_none_or(|expiry| expiry > until);
        if let Some(keys) = known.as_ref()
            && lives(keys, now + ENDS_SOON)
        {
            return Ok(keys.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(keys) => Ok(known.insert(keys).clone()),
            Err(error) => {
                let still = known.as_ref().filter(|keys| lives(keys, now)).cloned();
                still.ok_or_else(|| Error::Credentials { source: error.into() })
            }
        }
    }
}
