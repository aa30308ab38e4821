//! What browsers and scripts send: preflights, curl's own signature, and the headers around an object.

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::curl;
use holdfast_compat_tests::client::raw::Call;
use holdfast_compat_tests::target::{DOMAIN, Endpoint};

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("a_preflight_is_answered_from_the_bucket_rules", a_preflight_is_answered_from_the_bucket_rules),
    ("curl_signs_by_itself", curl_signs_by_itself),
    ("a_bucket_is_named_by_the_host", a_bucket_is_named_by_the_host),
    ("every_reply_carries_a_request_id", every_reply_carries_a_request_id),
    ("replies_carry_revision_and_digest", replies_carry_revision_and_digest),
    ("health_is_open_and_everything_else_is_not", health_is_open_and_everything_else_is_not),
];

const CORS: &[u8] = b"<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example.org</AllowedOrigin>\
    <AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader>\
    <ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>300</MaxAgeSeconds></CORSRule></CORSConfiguration>";

fn a_preflight_is_answered_from_the_bucket_rules(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("http")?;
    let mut raw = endpoint.raw();
    let url = format!("{}/{bucket}/k", endpoint.url());
    let preflight = |origin: &str, method: &str, header: &str| {
        let (origin, method) = (format!("Origin: {origin}"), format!("Access-Control-Request-Method: {method}"));
        let header = format!("Access-Control-Request-Headers: {header}");
        curl::run(&["-X", "OPTIONS", "-H", &origin, "-H", &method, "-H", &header, &url])
    };
    preflight("https://a.example.org", "PUT", "x-amz-meta-a")?.expect(403).context("before any rule")?;
    let query = [("cors", "")];
    let put = Call { method: "PUT", bucket: &bucket, key: "", query: &query, headers: &[], body: CORS };
    raw.send(&put)?.expect(200)?;
    ensure!(raw.get(&bucket, "", &query)?.expect(200)?.text().contains("https://*.example.org"), "rules not returned");
    let allowed = preflight("https://a.example.org", "PUT", "x-amz-meta-a")?.expect(200)?;
    ensure!(allowed.header("access-control-allow-origin") == Some("https://a.example.org"), "{allowed:?}");
    ensure!(allowed.header("access-control-max-age") == Some("300"), "{allowed:?}");
    ensure!(allowed.header("vary").is_some_and(|vary| vary.to_lowercase().contains("origin")), "{allowed:?}");
    for (origin, method, header) in [
        ("https://example.com", "PUT", "x-amz-a"),
        ("https://a.example.org", "DELETE", "x-amz-a"),
        ("https://a.example.org", "PUT", "authorization-of-mine"),
    ] {
        preflight(origin, method, header)?.expect(403).with_context(|| format!("{origin} {method} {header}"))?;
    }
    raw.put(&bucket, "k", &[], b"x")?.expect(200)?;
    let headers = [("origin", "https://b.example.org")];
    let got = raw.send(&Call { method: "GET", bucket: &bucket, key: "k", query: &[], headers: &headers, body: b"" })?;
    ensure!(got.header("access-control-allow-origin") == Some("https://b.example.org"), "no CORS header on GET");
    ensure!(got.header("access-control-expose-headers") == Some("ETag"), "no exposed headers on GET");
    raw.send(&Call { method: "DELETE", bucket: &bucket, key: "", query: &query, headers: &[], body: b"" })?
        .expect(204)?;
    raw.get(&bucket, "", &query)?.expect_error(404, "NoSuchCORSConfiguration")?;
    Ok(())
}

fn curl_signs_by_itself(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("http")?;
    let user = format!("{}:{}", endpoint.access_key, endpoint.secret_key);
    let signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user];
    let url = format!("{}/{bucket}/by-curl", endpoint.url());
    let put =
        [&signed[..], &["-X", "PUT", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--data-binary", "hello", &url]];
    curl::run(&put.concat())?.expect(200)?;
    let get = [&signed[..], &["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", &url]].concat();
    ensure!(curl::run(&get)?.expect(200)?.body == b"hello", "another content came back");
    Ok(())
}

fn a_bucket_is_named_by_the_host(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("http")?;
    endpoint.raw().put(&bucket, "dir/k", &[], b"by host")?.expect(200)?;
    let host = format!("{bucket}.{DOMAIN}:{}", endpoint.port());
    let user = format!("{}:{}", endpoint.access_key, endpoint.secret_key);
    let resolve = format!("{host}:127.0.0.1");
    let url = format!("http://{host}/dir/k");
    let signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "--resolve", &resolve];
    let get = [&signed[..], &["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", &url]].concat();
    ensure!(curl::run(&get)?.expect(200)?.body == b"by host", "another content came back");
    Ok(())
}

fn every_reply_carries_a_request_id(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("http")?;
    let mut raw = endpoint.raw();
    let replies = [
        raw.put(&bucket, "k", &[], b"x")?.expect(200)?,
        raw.get(&bucket, "k", &[])?.expect(200)?,
        raw.get(&bucket, "nothing", &[])?.expect_error(404, "NoSuchKey")?,
        raw.get("no-such-bucket-at-all", "", &[])?.expect_error(404, "NoSuchBucket")?,
        raw.exchange("GET", &format!("/{bucket}/k"), &[("host".to_owned(), endpoint.address.clone())], b"")?
            .expect(403)?,
    ];
    let mut ids: Vec<&str> = replies.iter().filter_map(|reply| reply.header("x-amz-request-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == replies.len(), "request ids: {ids:?}");
    let in_error = replies[2].element("RequestId");
    ensure!(in_error.as_deref() == replies[2].header("x-amz-request-id"), "the error names another request id");
    Ok(())
}

fn replies_carry_revision_and_digest(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("http")?;
    let mut raw = endpoint.raw();
    let revision = |reply: &holdfast_compat_tests::client::raw::Reply| -> Result<u64> {
        Ok(reply.header("x-holdfast-revision").context("no revision")?.parse()?)
    };
    let first = revision(&raw.put(&bucket, "k", &[], b"abc")?.expect(200)?)?;
    let second = revision(&raw.put(&bucket, "k", &[], b"abc")?.expect(200)?)?;
    let got = raw.get(&bucket, "k", &[])?.expect(200)?;
    ensure!(first < second && second <= revision(&got)?, "revisions {first}, {second}, {}", revision(&got)?);
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    ensure!(got.header("x-holdfast-sha256") == Some(sha256), "{got:?}");
    ensure!(got.header("x-holdfast-created").is_some(), "{got:?}");
    Ok(())
}

fn health_is_open_and_everything_else_is_not(endpoint: &Endpoint) -> Result<()> {
    let mut raw = endpoint.raw();
    let host = [("host".to_owned(), endpoint.address.clone())];
    for path in [
        "/_holdfast/health/live",
        "/_holdfast/health/ready",
        "/_holdfast/health/cluster",
        "/minio/health/live",
        "/minio/health/ready",
    ] {
        raw.exchange("GET", path, &host, b"")?.expect(200).with_context(|| path.to_owned())?;
    }
    for path in
        ["/", "/_holdfast/metrics", "/_holdfast/v1/status", "/_holdfast/nothing", "/some-bucket", "/some-bucket/k"]
    {
        let reply = raw.exchange("GET", path, &host, b"")?;
        ensure!(matches!(reply.status, 401 | 403), "{path}: status {} without a signature", reply.status);
    }
    raw.get("", "", &[])?.expect(200)?;
    let status = raw.get("_holdfast", "v1/status", &[])?.expect(200)?;
    serde_json::from_slice::<serde_json::Value>(&status.body).context("status is not JSON")?;
    Ok(())
}
