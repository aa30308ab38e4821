//! Root's keys: configured, or generated at the first start and kept in the data directory, readable by its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::secret::Secret;
use crate::api::gate::keys::Credentials;

/// The file's name under the data directory.
pub const FILE: &str = "root-credentials.json";

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const MIXED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const ACCESS_KEY_CHARS: usize = 20;
const SECRET_KEY_CHARS: usize = 40;

/// Why there are no root keys.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error("cannot {what} {path}")]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what we wrote.
    #[error("{path} holds no credentials; restore it, or remove it to have new ones generated")]
    Form {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// Others could read the file.
    #[error("{path} can be read by others (mode {mode:o}); make it 0600, and consider the keys known")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Root's keys and whether they are new, so that they are printed this once.
#[derive(Debug)]
pub struct Root {
    /// The keys.
    pub credentials: Credentials,
    /// Generated just now.
    pub generated: bool,
    /// Where they are kept, unless they were configured.
    pub file: Option<PathBuf>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    access_key: String,
    secret_key: String,
}

/// The configured keys, else the kept ones, else new ones.
///
/// # Errors
/// [`CredentialsError`] when the file is unreadable, malformed, open to others, or cannot be written.
pub fn root(configured: Option<Credentials>, data: &Path) -> Result<Root, CredentialsError> {
    if let Some(credentials) = configured {
        return Ok(Root { credentials, generated: false, file: None });
    }
    let path = data.join(FILE);
    if let Some(credentials) = read(&path)? {
        return Ok(Root { credentials, generated: false, file: Some(path) });
    }
    let credentials = generate();
    write(data, &path, &credentials).map_err(|source| CredentialsError::Io {
        what: "write",
        path: path.clone(),
        source,
    })?;
    Ok(Root { credentials, generated: true, file: Some(path) })
}

fn read(path: &Path) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |source| CredentialsError::Io { what: "read", path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Open { path: path.to_owned(), mode });
    }
    let stored: Stored =
        serde_json::from_str(&text).map_err(|source| CredentialsError::Form { path: path.to_owned(), source })?;
    Ok(Some(Credentials { access_key: stored.access_key, secret_key: Secret::new(stored.secret_key) }))
}

fn generate() -> Credentials {
    let mut random = rand::rng();
    let mut draw = |alphabet: &[u8], count: usize| -> String {
        (0..count).map(|_| char::from(alphabet[random.random_range(0..alphabet.len())])).collect()
    };
    let access_key = format!("HF{}", draw(UPPER, ACCESS_KEY_CHARS - 2));
    Credentials { access_key, secret_key: Secret::new(draw(MIXED, SECRET_KEY_CHARS)) }
}

/// Written under another name first: a crash leaves no half-written keys behind.
fn write(data: &Path, path: &Path, credentials: &Credentials) -> std::io::Result<()> {
    crate::durable_dir::create(data)?;
    let stored =
        Stored { access_key: credentials.access_key.clone(), secret_key: credentials.secret_key.expose().to_owned() };
    let text = zeroize::Zeroizing::new(serde_json::to_string_pretty(&stored)?);
    let temporary = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_generated_once_and_kept_to_their_owner() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().join("node");
        let first = root(None, &data).unwrap();
        assert!(first.generated);
        assert_eq!(first.credentials.access_key.len(), 20);
        assert_eq!(first.credentials.secret_key.expose().len(), 40);
        let path = first.file.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = root(None, &data).unwrap();
        assert!(!second.generated);
        assert_eq!(second.credentials.secret_key, first.credentials.secret_key);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(root(None, &data), Err(CredentialsError::Open { .. })));
        let other = root(None, &data.join("other")).unwrap();
        assert_ne!(other.credentials.secret_key, first.credentials.secret_key);
    }

    #[test]
    fn configured_keys_are_not_stored() {
        let data = tempfile::tempdir().unwrap();
        let configured = Credentials { access_key: "me".into(), secret_key: Secret::new("hush-hush") };
        let root = root(Some(configured), data.path()).unwrap();
        assert!(!root.generated && root.file.is_none());
        assert!(!data.path().join(FILE).exists());
        assert!(!format!("{root:?}").contains("hush"));
    }
}
