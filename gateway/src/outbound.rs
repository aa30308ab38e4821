//! Connections that this node opens to others than its backend and peers: TLS with the machine's roots, and which addresses
//! are not for them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The name has no address, or nothing there answers.
    #[error("cannot reach {host}:{port}")]
    Unreachable {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The address is this machine's own, or of its link.
    #[error("{0} is a loopback, link-local, multicast or unspecified address, which --targets-allow-local would allow")]
    Forbidden(IpAddr),
    /// The certificate authority does not parse, or TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Makes aws-lc-rs the provider of cryptography of libraries that ask for the process's default: where two are compiled in,
/// rustls picks none.
pub fn use_one_provider() {
    // A second call finds the first one's.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The settings of a TLS client: the machine's roots, or `authority` (PEM) alone.
///
/// # Errors
/// [`OutboundError::Tls`].
pub fn tls(authority: Option<&str>) -> Result<rustls::ClientConfig, OutboundError> {
    let mut roots = rustls::RootCertStore::empty();
    match authority {
        // A certificate that does not parse is not trusted; the others still are.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| OutboundError::Tls(error.to_string()))?;
                roots.add(certificate).map_err(|error| OutboundError::Tls(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(OutboundError::Tls("ca holds no certificate in PEM".into()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| OutboundError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Also those of this machine and its link.
    pub local: bool,
}

impl Reach {
    /// The addresses of a name, when all of them may be connected to.
    ///
    /// # Errors
    /// [`OutboundError::Unreachable`], [`OutboundError::Forbidden`].
    pub async fn resolve(self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
        let unreachable = |source| OutboundError::Unreachable { host: host.to_owned(), port, source };
        let found = tokio::net::lookup_host((bare(host), port)).await.map_err(unreachable)?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(unreachable(std::io::Error::other("the name has no address")));
        }
        match found.iter().find(|address| !self.local && is_local(address.ip())) {
            Some(address) => Err(OutboundError::Forbidden(address.ip())),
            None => Ok(found),
        }
    }

    /// A connection to an address that was looked at: a name that changes meanwhile changes nothing.
    ///
    /// # Errors
    /// As [`Reach::resolve`].
    pub async fn connect(self, host: &str, port: u16) -> Result<TcpStream, OutboundError> {
        let addresses = self.resolve(host, port).await?;
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        stream.map_err(|source| OutboundError::Unreachable { host: host.to_owned(), port, source })
    }
}

/// A host without the brackets that an address of IPv6 has in a URL.
#[must_use]
pub fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

/// Whether an address is this machine's own or its link's: what answers there trusts whoever can reach it.
fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
                // Where clouds answer with keys.
                || [[100, 100, 100, 200], [192, 0, 0, 192]].contains(&v4.octets())
        }
        IpAddr::V6(v6) => {
            // A translator to IPv4 would reach it all the same: 64:ff9b::/96, 64:ff9b:1::/48, 2002::/16 and
            // ::/96 carry an IPv4 address.
            let inner = match v6.segments() {
                [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => Some((high, low)),
                [0, 0, 0, 0, 0, 0, high, low] if high > 0 => Some((high, low)),
                [0x2002, high, low, ..] => Some((high, low)),
                _ => None,
            };
            let inner = inner.map(|(high, low)| std::net::Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.segments()[0] & 0xffc0 == 0xfe80
                || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
                || inner.is_some_and(|v4| is_local(IpAddr::V4(v4)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_others() {
        let local = [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.251",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::fb",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "64:ff9b:1::a9fe:a9fe",
            "::7f00:1",
            "fd00:ec2::254",
            "100.100.100.200",
        ];
        for text in local {
            assert!(is_local(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(!is_local(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn nobody_connects_to_this_machine_unless_it_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let refused = Reach { local: false }.connect(host, port).await;
            assert!(matches!(refused, Err(OutboundError::Forbidden(_))), "{host}: {refused:?}");
        }
        Reach { local: true }.connect("127.0.0.1", port).await.unwrap();
    }

    #[test]
    fn an_authority_is_a_certificate_or_an_error() {
        assert!(tls(Some("nothing")).is_err());
        assert!(tls(Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err());
        assert!(tls(None).is_ok());
    }
}
