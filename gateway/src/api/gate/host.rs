//! Which bucket a Host header names: `bucket.DOMAIN` for each `--domain`. Every other host is path style; a CNAME is no bucket.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The domains under which buckets are hosts.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    domains: Vec<String>,
}

impl Hosts {
    /// Hosts under `domains`, each written without a port.
    pub fn new(domains: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { domains: domains.into_iter().map(|domain| domain.into().to_ascii_lowercase()).collect() }
    }

    /// The bucket that `host` names, if it names one.
    #[must_use]
    pub fn bucket<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = without_port(host);
        let split = self.domains.iter().filter_map(|domain| {
            let at = name.len().checked_sub(domain.len() + 1)?;
            let (bucket, rest) = name.split_at_checked(at)?;
            (rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain) && !bucket.is_empty()).then_some(bucket)
        });
        // The longest domain wins, so `a.b` and `b` may both be domains.
        split.min_by_key(|bucket| bucket.len()).filter(|_| !self.is_domain(name))
    }

    fn is_domain(&self, name: &str) -> bool {
        self.domains.iter().any(|domain| domain.eq_ignore_ascii_case(name))
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => parsed.with_bucket(bucket.to_ascii_lowercase()),
            None => parsed,
        })
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_a_bucket_only_under_a_domain() {
        let hosts = Hosts::new(["s3.example.com", "eu.s3.example.com", "localhost"]);
        let check = |host: &str, bucket: Option<&str>| assert_eq!(hosts.bucket(host), bucket, "{host}");
        check("s3.example.com", None);
        check("s3.example.com:9900", None);
        check("photos.s3.example.com:9900", Some("photos"));
        check("Photos.S3.Example.com", Some("Photos"));
        check("a.b.s3.example.com", Some("a.b"));
        check("eu.s3.example.com", None);
        check("photos.eu.s3.example.com", Some("photos"));
        check("photos.localhost:1", Some("photos"));
        check("xs3.example.com", None);
        check(".s3.example.com", None);
        check("127.0.0.1:9900", None);
        check("[::1]:9900", None);
        check("example.com", None);
        assert_eq!(hosts.parse_host_header("Photos.localhost").unwrap().bucket(), Some("photos"));
        assert_eq!(Hosts::default().bucket("photos.localhost"), None);
    }
}
