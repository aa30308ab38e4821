//! What a case runs against, and the servers behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::client::raw::Raw;
use crate::minio::Minio;
use crate::process::{Holdfast, HoldfastOptions, ROOT_PASSWORD, ROOT_USER, tail};
use crate::skip::Skip;

/// The region of every server here.
pub const REGION: &str = "us-east-1";
/// The domain of virtual-host-style bucket names; every name under `localhost` resolves to this machine.
pub const DOMAIN: &str = "localhost";
/// The backend bucket and prefix that Holdfast uses in front of MinIO.
const REPOSITORY_BUCKET: &str = "repository-of-holdfast";

/// One server or stack of servers that speaks S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Holdfast on its embedded store.
    Embedded,
    /// Holdfast in front of MinIO.
    OverMinio,
    /// MinIO itself, as the reference.
    Minio,
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Embedded => "embedded",
            Self::OverMinio => "over-minio",
            Self::Minio => "minio",
        })
    }
}

impl Target {
    /// Holdfast on both backends: what most cases run on.
    pub const HOLDFAST: [Self; 2] = [Self::Embedded, Self::OverMinio];

    /// `defaults`, unless `HOLDFAST_TARGETS` names others (`embedded,over-minio,minio`).
    #[must_use]
    pub fn selected(defaults: &[Self]) -> Vec<Self> {
        let Ok(wanted) = std::env::var("HOLDFAST_TARGETS") else { return defaults.to_vec() };
        let all = [Self::Embedded, Self::OverMinio, Self::Minio];
        all.into_iter().filter(|target| wanted.split(',').any(|name| name == target.to_string())).collect()
    }
}

/// Where a server listens and the keys it accepts.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What answers there.
    pub target: Target,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The root access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// How far the server's clock is from this machine's, in seconds: requests are signed by the server's.
    pub clock_off: i64,
}

static NAMES: AtomicU32 = AtomicU32::new(0);

impl Endpoint {
    /// The endpoint of a server that tests started, with the keys that tests give to all of them.
    #[must_use]
    pub fn of(target: Target, address: &str) -> Self {
        Self {
            target,
            address: address.to_owned(),
            access_key: ROOT_USER.to_owned(),
            secret_key: ROOT_PASSWORD.to_owned(),
            clock_off: 0,
        }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port alone.
    #[must_use]
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }

    /// A bucket name that no other case uses. The bucket does not exist yet.
    #[must_use]
    pub fn bucket_name(&self, stem: &str) -> String {
        format!("{stem}-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed))
    }

    /// A raw client of this endpoint.
    #[must_use]
    pub fn raw(&self) -> Raw {
        Raw::new(self.clone())
    }

    /// A new bucket.
    ///
    /// # Errors
    /// When the server does not create it.
    pub fn new_bucket(&self, stem: &str) -> Result<String> {
        let bucket = self.bucket_name(stem);
        self.raw().put(&bucket, "", &[], b"")?.expect(200).context("cannot create a bucket")?;
        Ok(bucket)
    }

    /// A new bucket with versioning enabled.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn new_versioned_bucket(&self, stem: &str) -> Result<String> {
        let bucket = self.new_bucket(stem)?;
        self.raw().set_versioning(&bucket, "Enabled")?;
        Ok(bucket)
    }
}

enum Started {
    Holdfast(Holdfast),
    Minio(Minio),
}

impl Started {
    fn address(&self) -> &str {
        match self {
            Self::Holdfast(server) => server.address(),
            Self::Minio(server) => server.address(),
        }
    }
}

/// Why a server did not start, kept so that each case that needs it says so (an [`anyhow::Error`] cannot be cloned).
#[derive(Clone)]
enum Refusal {
    Skip(String),
    Failed(String),
}

/// Fields are dropped in this order: no server outlives its directory.
struct Inside {
    servers: BTreeMap<Target, Result<Started, Refusal>>,
    dir: TempDir,
}

/// The servers that the cases of one test binary share. Each starts when the first case asks for it and is killed when the
/// fleet is dropped.
#[derive(Clone)]
pub struct Fleet(Arc<Mutex<Inside>>);

impl Fleet {
    /// No server yet.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("holdfast-tests-").tempdir()?;
        Ok(Self(Arc::new(Mutex::new(Inside { servers: BTreeMap::new(), dir }))))
    }

    /// Where `target` listens; starts it when needed.
    ///
    /// # Errors
    /// When it cannot start, the same for every case that asks.
    pub fn endpoint(&self, target: Target) -> Result<Endpoint> {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = inside.address(target)?;
        Ok(Endpoint::of(target, &address))
    }

    /// Runs `look` on the Holdfast process of `target`, for example to measure its memory.
    ///
    /// # Errors
    /// When `target` is not a Holdfast that runs, or `look` fails.
    pub fn with_holdfast<T>(&self, target: Target, look: impl FnOnce(&mut Holdfast) -> Result<T>) -> Result<T> {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.address(target)?;
        match inside.servers.get_mut(&target) {
            Some(Ok(Started::Holdfast(server))) => look(server),
            _ => Err(anyhow!("{target} is not a Holdfast process")),
        }
    }
}

impl Inside {
    fn address(&mut self, target: Target) -> Result<String> {
        if !self.servers.contains_key(&target) {
            let started = self.start(target).map_err(|error| match error.downcast_ref::<Skip>() {
                Some(skip) => Refusal::Skip(skip.to_string()),
                None => Refusal::Failed(format!("{error:#}")),
            });
            self.servers.insert(target, started);
        }
        match &self.servers[&target] {
            Ok(server) => Ok(server.address().to_owned()),
            Err(Refusal::Skip(reason)) => Err(crate::skip::skip(reason.clone())),
            Err(Refusal::Failed(reason)) => Err(anyhow!("{target} did not start: {}", tail(reason, 20))),
        }
    }

    fn start(&mut self, target: Target) -> Result<Started> {
        let dir = self.dir.path().join(target.to_string());
        std::fs::create_dir_all(&dir)?;
        if target == Target::Minio {
            return Ok(Started::Minio(Minio::start(&dir)?));
        }
        let mut options = HoldfastOptions::embedded(&dir);
        options.args = vec!["--domain".to_owned(), DOMAIN.to_owned()];
        if target == Target::OverMinio {
            let minio = Endpoint::of(Target::Minio, &self.address(Target::Minio)?);
            in_front_of(&minio, &mut options)?;
        }
        Ok(Started::Holdfast(Holdfast::start(options)?))
    }
}

/// Makes `options` use a repository of its own on `minio`.
///
/// # Errors
/// When the bucket cannot be created there.
pub fn in_front_of(minio: &Endpoint, options: &mut HoldfastOptions) -> Result<()> {
    let bucket = minio.bucket_name(REPOSITORY_BUCKET);
    minio.raw().put(&bucket, "", &[], b"")?.expect(200).context("cannot create the backend bucket")?;
    options.backend = Some(format!("s3://{bucket}/repo?endpoint={}&region={REGION}&path_style=true", minio.url()));
    options.env.push(("HOLDFAST_BACKEND_ACCESS_KEY_ID".to_owned(), minio.access_key.clone()));
    options.env.push(("HOLDFAST_BACKEND_SECRET_ACCESS_KEY".to_owned(), minio.secret_key.clone()));
    Ok(())
}
