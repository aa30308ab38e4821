//! Whose signature counts. Today only root; every front door asks here.

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::config::secret::Secret;

/// The keys of one caller.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Access key id, which is no secret.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: Secret,
}

/// All keys that may sign.
#[derive(Clone, Debug)]
pub struct Keys {
    root: Credentials,
}

impl Keys {
    /// Keys with root alone.
    #[must_use]
    pub fn root_only(root: Credentials) -> Self {
        Self { root }
    }

    /// Whether `access_key` is root's.
    #[must_use]
    pub fn is_root(&self, access_key: &str) -> bool {
        access_key == self.root.access_key
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if self.is_root(access_key) {
            Ok(SecretKey::from(self.root.secret_key.expose()))
        } else {
            Err(S3Error::new(S3ErrorCode::InvalidAccessKeyId))
        }
    }
}
