//! Who is a peer: certificates that only holders of the cluster's secret can make.
//!
//! Secret and cluster name derive one key of a certificate authority, the same on every node (HKDF-SHA256, then
//! Ed25519), so nothing has to be handed out or stored. Each node signs a certificate for a key of its own that never
//! leaves its memory:
//!
//! ```text
//! SAN  <tag>.holdfast.internal                 asked for by whoever connects (SNI)
//!      node-<id>.<tag>.holdfast.internal       who it is; `joining.` for a node that has no id yet
//! ```
//! `<tag>` is derived from the secret too, so that whoever does not have it learns neither names nor certificates by
//! connecting: a server answers only a client that asks for the tag.
//!
//! Promises:
//! - both sides must show a certificate that chains to the derived authority; TLS 1.3 only, HTTP/2 only, no resumption
//!   (a resumed session would not be checked again);
//! - a certificate is renewed by itself when it is used after half of its life; connections that stand are not touched;
//! - clocks of peers may differ by half a day: a certificate is valid from [`BACKDATED`] before it was made, and still for
//!   [`LIFE`] minus [`RENEW_AFTER`] at the last handshake that uses it;
//! - the secret and the authority's key are wiped from memory with their owner.
//!
//! Deliberately absent: revocation, and distrust among members. Whoever has the secret can be any node; a node that must
//! go for good means a new secret. See `docs/decisions/0007-derived-trust.md`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Sender;
use super::x509::Certificate;

/// Fewest characters of a cluster secret.
pub const SECRET_CHARS_MIN: usize = 32;
/// How long a certificate is valid after it was made.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long before it was made a certificate is valid, for peers whose clocks are behind.
pub const BACKDATED: Duration = Duration::from_secs(12 * 3600);
/// Age at which a certificate is replaced.
pub const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);

const SALT: &[u8] = b"holdfast peer trust 1";
const DOMAIN: &str = "holdfast.internal";
const TAG_BYTES: usize = 16;
/// Random bytes of a secret that Holdfast makes: 256 bits, 43 characters.
const SECRET_BYTES: usize = 32;
const ALPN: &[u8] = b"h2";

/// Why there is no trust to be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The secret could be guessed.
    #[error(
        "the cluster secret has {chars} characters, it needs at least {SECRET_CHARS_MIN}: `holdfast cluster secret` prints a good one"
    )]
    SecretTooShort {
        /// What it has.
        chars: usize,
    },
    /// The cluster has no name.
    #[error("the cluster name is empty")]
    NoClusterName,
    /// The library of cryptography refuses.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TrustError {
    fn make<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Make { what, source: source.into() }
    }
}

/// The cluster's secret.
#[derive(Clone)]
pub struct ClusterSecret(Zeroizing<String>);

impl ClusterSecret {
    /// Takes `text`; surrounding white space, which files tend to end with, is no part of it.
    ///
    /// # Errors
    /// [`TrustError::SecretTooShort`].
    pub fn new(text: &str) -> Result<Self, TrustError> {
        let text = text.trim();
        match text.chars().count() {
            chars if chars < SECRET_CHARS_MIN => Err(TrustError::SecretTooShort { chars }),
            _ => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }

    /// A new one of 256 random bits, as text without characters that a shell or a file could mangle.
    #[must_use]
    pub fn generate() -> Self {
        use base64::Engine as _;
        use rand::TryRngCore as _;
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        rand::rngs::OsRng
            .try_fill_bytes(bytes.as_mut())
            .expect("the system gives random bytes, or nothing can be safe");
        Self(Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes)))
    }

    /// The text, for whoever prints a new one.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Tells the time; a test may have its own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// This node's trust: its authority, its certificate of the moment, how both sides check each other.
pub struct Trust {
    tag: String,
    authority: Authority,
    clock: Clock,
    node: RwLock<Option<u64>>,
    names: AtomicU64,
    renamed: tokio::sync::watch::Sender<u64>,
    leaf: RwLock<Leaf>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Derives the trust of `cluster` for a node, `None` while it has no id.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn new(secret: &ClusterSecret, cluster: &str, node: Option<u64>) -> Result<Arc<Self>, TrustError> {
        Self::with_clock(secret, cluster, node, Arc::new(SystemTime::now))
    }

    /// As [`Trust::new`], by another clock.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn with_clock(
        secret: &ClusterSecret,
        cluster: &str,
        node: Option<u64>,
        clock: Clock,
    ) -> Result<Arc<Self>, TrustError> {
        if cluster.is_empty() {
            return Err(TrustError::NoClusterName);
        }
        let tag = hex::encode(derive::<TAG_BYTES>(secret, cluster, "tag")?);
        let authority = Authority::derive(secret, cluster, &tag)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let leaf = RwLock::new(Leaf::make(&authority, &tag, node, clock(), &provider)?);
        let renamed = tokio::sync::watch::Sender::new(0);
        Ok(Arc::new(Self {
            tag,
            authority,
            clock,
            node: RwLock::new(node),
            names: AtomicU64::new(0),
            renamed,
            leaf,
            provider,
        }))
    }

    /// Gives the node its id, for every handshake from now on. Connections made under the old name end when what is in
    /// work on them has ended.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn set_node(&self, node: u64) -> Result<(), TrustError> {
        let mut named = self.node.write().unwrap_or_else(PoisonError::into_inner);
        if *named == Some(node) {
            return Ok(());
        }
        let leaf = Leaf::make(&self.authority, &self.tag, Some(node), (self.clock)(), &self.provider)?;
        *self.leaf.write().unwrap_or_else(PoisonError::into_inner) = leaf;
        *named = Some(node);
        let version = self.names.fetch_add(1, Ordering::AcqRel) + 1;
        self.renamed.send_replace(version);
        Ok(())
    }

    /// The id under which this node connects.
    #[must_use]
    pub fn node(&self) -> Option<u64> {
        *self.node.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes of the name.
    pub(super) fn name_version(&self) -> u64 {
        self.names.load(Ordering::Acquire)
    }

    /// Tells of changes of the name.
    pub(super) fn renamed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.renamed.subscribe()
    }

    /// The name that every server of this cluster answers to.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.domain()).expect("hexadecimal digits and a fixed domain are a DNS name")
    }

    fn domain(&self) -> String {
        format!("{}.{DOMAIN}", self.tag)
    }

    /// The node's certificate, renewed when it is due.
    fn certificate(&self) -> Arc<CertifiedKey> {
        let now = (self.clock)();
        let current = {
            let leaf = self.leaf.read().unwrap_or_else(PoisonError::into_inner);
            if leaf.is_fresh(now) {
                return Arc::clone(&leaf.pair);
            }
            Arc::clone(&leaf.pair)
        };
        // Held while it is made, so that a rename in between is not undone.
        let named = self.node.read().unwrap_or_else(PoisonError::into_inner);
        match Leaf::make(&self.authority, &self.tag, *named, now, &self.provider) {
            Ok(leaf) => {
                let pair = Arc::clone(&leaf.pair);
                *self.leaf.write().unwrap_or_else(PoisonError::into_inner) = leaf;
                tracing::debug!("the peer certificate was renewed");
                pair
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the peer certificate cannot be renewed");
                current
            }
        }
    }

    /// Who a chain names. `None` when it does not belong to this cluster's nodes.
    pub(super) fn sender(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Sender> {
        let certificate = webpki::EndEntityCert::try_from(chain?.first()?).ok()?;
        let suffix = format!(".{}", self.domain());
        let mut names = certificate.valid_dns_names().filter_map(|name| name.strip_suffix(suffix.as_str()));
        let who = names.next()?;
        if names.next().is_some() {
            return None;
        }
        match who.strip_prefix("node-") {
            Some(id) => Some(Sender { node: Some(id.parse().ok()?) }),
            None => (who == "joining").then_some(Sender { node: None }),
        }
    }

    /// How this node accepts.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub(super) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TrustError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.authority.roots()?, Arc::clone(&self.provider))
            .build()
            .map_err(TrustError::make("the check of clients"))?;
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), self.time());
        let mut config = builder
            .with_protocol_versions(&[&TLS13])
            .map_err(TrustError::make("the server's settings"))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Current(Arc::clone(self))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// How this node connects.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub(super) fn client_config(self: &Arc<Self>) -> Result<Arc<ClientConfig>, TrustError> {
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.provider), self.time());
        let mut config = builder
            .with_protocol_versions(&[&TLS13])
            .map_err(TrustError::make("the client's settings"))?
            .with_root_certificates(self.authority.roots()?)
            .with_client_cert_resolver(Arc::new(Current(Arc::clone(self))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(Time(Arc::clone(&self.clock)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("node", &self.node()).finish_non_exhaustive()
    }
}

/// `length` bytes that only a holder of the secret can know. The parts are told apart by their lengths.
fn derive<const LENGTH: usize>(
    secret: &ClusterSecret,
    cluster: &str,
    label: &str,
) -> Result<Zeroizing<[u8; LENGTH]>, TrustError> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut bytes = Zeroizing::new([0; LENGTH]);
    let pseudorandom = Salt::new(HKDF_SHA256, SALT).extract(secret.expose().as_bytes());
    let label_length = [u8::try_from(label.len()).expect("labels are short")];
    let info: [&[u8]; 3] = [&label_length, label.as_bytes(), cluster.as_bytes()];
    let filled = pseudorandom.expand(&info, Length(LENGTH)).and_then(|okm| okm.fill(bytes.as_mut()));
    filled.map_err(TrustError::make("a key from the cluster secret"))?;
    Ok(bytes)
}

/// The derived certificate authority. Its key exists only inside the library of cryptography and is wiped there.
struct Authority {
    key: Ed25519KeyPair,
    name: String,
}

impl Authority {
    fn derive(secret: &ClusterSecret, cluster: &str, tag: &str) -> Result<Self, TrustError> {
        let seed = derive::<32>(secret, cluster, "authority")?;
        let key =
            Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(TrustError::make("the authority's key"))?;
        Ok(Self { key, name: format!("authority of {tag}") })
    }

    /// `certificate`, issued by this authority.
    fn issue(&self, certificate: Certificate<'_>) -> CertificateDer<'static> {
        let issued = Certificate { issuer: &self.name, ..certificate };
        CertificateDer::from(issued.signed(|message| self.key.sign(message).as_ref().to_vec()))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TrustError> {
        // Of an authority only name and key are looked at.
        let own = self.issue(Certificate {
            serial: [0; 16],
            issuer: "",
            subject: &self.name,
            public_key: self.key.public_key().as_ref(),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH,
            names: &[],
        });
        let mut roots = RootCertStore::empty();
        roots.add(own).map_err(TrustError::make("the authority's certificate"))?;
        Ok(Arc::new(roots))
    }
}

/// A certificate with its key.
struct Leaf {
    pair: Arc<CertifiedKey>,
    made: SystemTime,
}

impl Leaf {
    fn make(
        authority: &Authority,
        tag: &str,
        node: Option<u64>,
        now: SystemTime,
        provider: &CryptoProvider,
    ) -> Result<Self, TrustError> {
        let label = node.map_or_else(|| "joining".to_owned(), |id| format!("node-{id}"));
        let names = [format!("{tag}.{DOMAIN}"), format!("{label}.{tag}.{DOMAIN}")];
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.map_err(TrustError::make("a certificate's key"))?;
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(TrustError::make("a certificate's key"))?;
        let signed = authority.issue(Certificate {
            serial: rand::random(),
            issuer: "",
            subject: &label,
            public_key: key.public_key().as_ref(),
            not_before: OffsetDateTime::from(now - BACKDATED),
            not_after: OffsetDateTime::from(now + LIFE),
            names: &names,
        });
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(document.as_ref().to_vec()));
        let pair = CertifiedKey::from_der(vec![signed], private, provider);
        Ok(Self { pair: Arc::new(pair.map_err(TrustError::make("a certificate"))?), made: now })
    }

    /// Whether it may be used at `now`. Also false when the clock was set back, so that a wrong clock does no lasting harm.
    fn is_fresh(&self, now: SystemTime) -> bool {
        match now.duration_since(self.made) {
            Ok(age) => age < RENEW_AFTER,
            Err(ahead) => ahead.duration() < Duration::from_secs(3600),
        }
    }
}

/// Shows the certificate of the moment.
#[derive(Debug)]
struct Current(Arc<Trust>);

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Whoever does not know the tag is shown nothing: rustls ends the handshake with an alert.
        (hello.server_name() == Some(self.0.domain().as_str())).then(|| self.0.certificate())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certificate())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        (self.0)().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn trust(secret: &str, cluster: &str, node: Option<u64>) -> Arc<Trust> {
        Trust::new(&ClusterSecret::new(secret).unwrap(), cluster, node).unwrap()
    }

    #[test]
    fn a_short_secret_is_refused() {
        for (text, chars) in [("", 0), ("short", 5), (&SECRET[1..], 31), ("   0123456789abcdef   \n", 16)] {
            let error = ClusterSecret::new(text).expect_err(text).to_string();
            assert!(error.contains(&format!("has {chars} characters")), "{error}");
        }
        assert_eq!(ClusterSecret::new(&format!("{SECRET}\n")).unwrap().expose(), SECRET);
        assert_eq!(format!("{:?}", ClusterSecret::new(SECRET).unwrap()), "[redacted]");
    }

    #[test]
    fn new_secrets_are_long_and_differ() {
        let (one, two) = (ClusterSecret::generate(), ClusterSecret::generate());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 43);
        assert!(ClusterSecret::new(one.expose()).is_ok());
    }

    #[test]
    fn the_derivation_never_changes() {
        // Nodes of different releases must meet: these bytes are part of the wire format. Computed by another program.
        let trust = trust(SECRET, "c", Some(1));
        assert_eq!(trust.tag, "4c005191ed36997cae3860f1c642e291");
        let key = "d492de8515ca4f0964716d9098776a182bd76d9be3e15fa31200f7416b43aeda";
        assert_eq!(hex::encode(trust.authority.key.public_key().as_ref()), key);
    }

    #[test]
    fn secret_and_cluster_both_decide() {
        let one = trust(SECRET, "c", None);
        for other in [trust(SECRET, "d", None), trust(&SECRET.replace('0', "x"), "c", None)] {
            assert_ne!(one.tag, other.tag);
            assert_ne!(one.authority.key.public_key().as_ref(), other.authority.key.public_key().as_ref());
        }
        assert_eq!(one.tag, trust(SECRET, "c", Some(9)).tag);
    }

    #[test]
    fn a_certificate_names_its_node() {
        let joining = trust(SECRET, "c", None);
        let other = trust(SECRET, "d", Some(1));
        let who = |of: &Trust, by: &Trust| by.sender(Some(&of.certificate().cert)).map(|sender| sender.node);
        assert_eq!(who(&joining, &joining), Some(None));
        assert_eq!(who(&other, &joining), None);
        joining.set_node(u64::MAX).unwrap();
        assert_eq!(who(&joining, &joining), Some(Some(u64::MAX)));
        assert_eq!(joining.sender(None), None);
    }

    #[test]
    fn a_certificate_is_renewed_after_half_of_its_life() {
        let start = SystemTime::now();
        let hours = Arc::new(AtomicU64::new(0));
        let clock: Clock = {
            let hours = Arc::clone(&hours);
            Arc::new(move || start + Duration::from_secs(hours.load(Ordering::Relaxed) * 3600))
        };
        let trust = Trust::with_clock(&ClusterSecret::new(SECRET).unwrap(), "c", Some(1), clock).unwrap();
        let first = trust.certificate();
        hours.store(11, Ordering::Relaxed);
        assert!(Arc::ptr_eq(&first, &trust.certificate()));
        hours.store(13, Ordering::Relaxed);
        let second = trust.certificate();
        assert!(!Arc::ptr_eq(&first, &second));
        // Set back by more than an hour.
        hours.store(0, Ordering::Relaxed);
        assert!(!Arc::ptr_eq(&second, &trust.certificate()));
    }
}
