//! Certificates that servers show: each by an authority of its own, which nobody trusts who is not told to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::skip;

/// An authority, and a certificate by it for `localhost`. Everything is PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority.
    pub authority: String,
    /// The file that it is in.
    pub authority_file: PathBuf,
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in a directory, by an authority of this name.
    ///
    /// # Errors
    /// A skip when there is no program to make them with.
    pub fn new(dir: &Path, authority: &str) -> Result<Self> {
        let openssl = skip::program(&["openssl"], "apt-get install openssl")?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")?;
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for words in [
            format!("req -x509 {new_key} -days 2 -subj /CN={authority} -keyout ca.key -out ca.crt"),
            format!("req {new_key} -subj /CN=localhost -keyout tls.key -out tls.csr"),
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt"
                .to_owned(),
        ] {
            let made = Command::new(&openssl).args(words.split(' ')).current_dir(dir).output()?;
            ensure!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
        }
        let authority_file = dir.join("ca.crt");
        let authority = std::fs::read_to_string(&authority_file)?;
        Ok(Self { authority, authority_file, certificate: dir.join("tls.crt"), key: dir.join("tls.key") })
    }
}
