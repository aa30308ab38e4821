//! What no honest client sends: crowds of idle and slow connections, enormous chunks, bodies that lie about themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_compat_tests::client::raw::{self, Lost, Reply, same_bytes};
use holdfast_compat_tests::client::sign::{
    self, Canonical, STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER, Scope, UNSIGNED_PAYLOAD,
};
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target};

const CROWD: usize = 1000;
const CHUNK: u64 = 512 << 20;
const GROWTH_MAX: u64 = 64 << 20;

type Case = (&'static str, fn(&Fleet, &Endpoint) -> Result<()>);

const CASES: &[Case] = &[
    ("idle_connections_disturb_nobody", idle_connections_disturb_nobody),
    ("slow_headers_disturb_nobody_and_end", slow_headers_disturb_nobody_and_end),
    ("one_enormous_unsigned_chunk_streams", one_enormous_unsigned_chunk_streams),
    ("a_signed_chunk_above_eight_mebibytes_is_refused", a_signed_chunk_above_eight_mebibytes_is_refused),
    ("signed_chunks_and_trailers_are_accepted_when_true", signed_chunks_and_trailers_are_accepted_when_true),
    ("a_body_that_lies_stores_nothing", a_body_that_lies_stores_nothing),
    ("without_a_signature_there_is_nothing", without_a_signature_there_is_nothing),
    ("unsigned_headers_are_not_obeyed", unsigned_headers_are_not_obeyed),
    ("requests_that_smuggle_are_refused", requests_that_smuggle_are_refused),
];

fn main() -> ExitCode {
    let Ok(fleet) = Fleet::new() else { return ExitCode::FAILURE };
    let mut suite = Suite::new(1);
    for target in Target::selected(&[Target::Embedded]) {
        for (name, run) in CASES {
            let fleet = fleet.clone();
            suite.case(format!("{name} [{target}]"), move || {
                let endpoint = fleet.endpoint(target)?;
                run(&fleet, &endpoint)
            });
        }
    }
    drop(fleet);
    suite.run()
}

/// A client that works: put, get, list, each within a moment.
fn works_normally(endpoint: &Endpoint, bucket: &str) -> Result<()> {
    const MOMENT: Duration = Duration::from_secs(3);
    let mut raw = endpoint.raw();
    for number in 0..20 {
        let began = Instant::now();
        raw.put(bucket, "normal", &[], &fixture::bytes(number, 10_000))?.expect(200)?;
        let got = raw.get(bucket, "normal", &[])?.expect(200)?;
        same_bytes("object of a normal client", &got.body, &fixture::bytes(number, 10_000))?;
        raw.get(bucket, "", &[("list-type", "2")])?.expect(200)?;
        ensure!(began.elapsed() < MOMENT, "a normal client waited {:?}", began.elapsed());
    }
    Ok(())
}

fn crowd(endpoint: &Endpoint, first_words: &[u8]) -> Result<Vec<TcpStream>> {
    // Every connection costs this process a descriptor too; the default limit is 1024.
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    (0..CROWD)
        .map(|_| {
            let mut stream = TcpStream::connect(&endpoint.address)?;
            stream.write_all(first_words)?;
            Ok(stream)
        })
        .collect()
}

fn idle_connections_disturb_nobody(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let idle = crowd(endpoint, b"")?;
    works_normally(endpoint, &bucket)?;
    drop(idle);
    works_normally(endpoint, &bucket)
}

fn slow_headers_disturb_nobody_and_end(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    const HEADERS_END_WITHIN: Duration = Duration::from_secs(40);
    let bucket = endpoint.new_bucket("abuse")?;
    let mut slow = crowd(endpoint, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")?;
    let began = Instant::now();
    works_normally(endpoint, &bucket)?;
    // One more byte now and then must not keep a connection alive for ever: the server ends each of them.
    while !slow.is_empty() {
        ensure!(began.elapsed() < HEADERS_END_WITHIN, "{} slow connections are still open", slow.len());
        slow.retain_mut(still_open);
        works_normally(endpoint, &bucket)?;
    }
    Ok(())
}

/// Sends one more byte of an endless header; false when the server has ended the connection.
fn still_open(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 512];
    let readable = stream.set_nonblocking(true).and_then(|()| stream.read(&mut answer));
    let open = matches!(&readable, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    open && stream.write(b"z").is_ok()
}

/// Headers of a PUT with aws-chunked framing, signed; also what a chunk signature needs.
struct Chunked {
    scope: Scope,
    seed: String,
    head: String,
}

fn chunked(
    endpoint: &Endpoint,
    bucket: &str,
    payload: &str,
    decoded: u64,
    encoded: u64,
    trailer: Option<&str>,
) -> Chunked {
    let scope = Scope::now(endpoint);
    let path = format!("/{bucket}/k");
    let mut headers = vec![
        ("content-encoding".to_owned(), "aws-chunked".to_owned()),
        ("host".to_owned(), endpoint.address.clone()),
        ("x-amz-content-sha256".to_owned(), payload.to_owned()),
        ("x-amz-date".to_owned(), scope.timestamp.clone()),
        ("x-amz-decoded-content-length".to_owned(), decoded.to_string()),
    ];
    if let Some(name) = trailer {
        headers.push(("x-amz-trailer".to_owned(), name.to_owned()));
    }
    let request = Canonical { method: "PUT", path: &path, query: &[], headers: &headers, payload };
    let (seed, authorization) = (scope.sign(&request), scope.authorization(&request));
    headers.push(("authorization".to_owned(), authorization));
    headers.push(("content-length".to_owned(), encoded.to_string()));
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    Chunked { scope, seed, head: format!("PUT {path} HTTP/1.1\r\n{lines}\r\n") }
}

fn one_enormous_unsigned_chunk_streams(fleet: &Fleet, endpoint: &Endpoint) -> Result<()> {
    const STEP: usize = 1 << 20;
    let bucket = endpoint.new_bucket("abuse")?;
    works_normally(endpoint, &bucket)?;
    let block = fixture::bytes(1, STEP);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    (0..CHUNK / STEP as u64).for_each(|_| digest.update(&block));
    let checksum = STANDARD.encode((digest.finalize() as u32).to_be_bytes());
    let (opening, closing) = (format!("{CHUNK:x}\r\n"), format!("\r\n0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n"));
    let encoded = CHUNK + (opening.len() + closing.len()) as u64;
    let request = chunked(endpoint, &bucket, STREAMING_UNSIGNED_TRAILER, CHUNK, encoded, Some("x-amz-checksum-crc32"));
    let before = fleet.with_holdfast(endpoint.target, |server| {
        server.process().reset_peak()?;
        server.process().resident_bytes()
    })?;
    let mut connection = raw::connect(&endpoint.address)?;
    connection.get_mut().write_all(request.head.as_bytes())?;
    connection.get_mut().write_all(opening.as_bytes())?;
    for _ in 0..CHUNK / STEP as u64 {
        connection.get_mut().write_all(&block)?;
    }
    connection.get_mut().write_all(closing.as_bytes())?;
    raw::read_reply(&mut connection, "PUT")?.0.expect(200)?;
    let peak = fleet.with_holdfast(endpoint.target, |server| server.process().peak_bytes())?;
    let growth = peak.saturating_sub(before);
    ensure!(growth < GROWTH_MAX, "one chunk of 512 MiB grew the process by {} MiB", growth >> 20);
    let head = endpoint.raw().head(&bucket, "k")?.expect(200)?;
    ensure!(head.header("content-length") == Some(&CHUNK.to_string()), "another length: {head:?}");
    endpoint.raw().delete(&bucket, "k", &[])?.expect(204)?;
    Ok(())
}

/// Frames `chunks` with signatures; `spoil` turns a signature into a wrong one.
fn signed_body(request: &Chunked, chunks: &[&[u8]], spoil: impl Fn(usize, String) -> String) -> (Vec<u8>, String) {
    let mut body = Vec::new();
    let mut previous = request.seed.clone();
    for (number, chunk) in chunks.iter().chain([&&b""[..]]).enumerate() {
        let signature = request.scope.sign_chunk(&previous, chunk);
        let sent = spoil(number, signature.clone());
        body.extend(format!("{:x};chunk-signature={sent}\r\n", chunk.len()).bytes());
        body.extend_from_slice(chunk);
        if !chunk.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
        previous = signature;
    }
    (body, previous)
}

/// Sends `head` and `body` on a fresh connection. `None` when the server ends the connection without an answer.
fn send(endpoint: &Endpoint, head: &str, body: &[u8]) -> Result<Option<Reply>> {
    let mut connection = raw::connect(&endpoint.address)?;
    // A server may refuse before it has read everything; then the rest cannot be written, and the answer is there.
    let _ = connection.get_mut().write_all(head.as_bytes());
    let _ = connection.get_mut().write_all(body);
    Ok(raw::read_reply(&mut connection, "PUT").ok().map(|(reply, _)| reply))
}

fn a_signed_chunk_above_eight_mebibytes_is_refused(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    for (length, accepted) in [(8 << 20, true), ((8 << 20) + 1, false)] {
        let chunk = fixture::bytes(1, length);
        let framing = signed_length(&[length]);
        let request = chunked(endpoint, &bucket, STREAMING_SIGNED, length as u64, framing, None);
        let (mut body, _) = signed_body(&request, &[&chunk], |_, signature| signature);
        body.extend_from_slice(b"\r\n");
        let reply = send(endpoint, &request.head, &body)?;
        if accepted {
            reply.context("no answer to a chunk of 8 MiB")?.expect(200)?;
            endpoint.raw().delete(&bucket, "k", &[])?.expect(204)?;
        } else {
            ensure!(reply.is_none_or(|reply| (400..500).contains(&reply.status)), "a larger chunk was not refused");
            endpoint.raw().get(&bucket, "k", &[])?.expect_error(404, "NoSuchKey")?;
        }
    }
    Ok(())
}

/// The encoded length of signed chunks of these lengths and the closing one, without trailers' end.
fn signed_length(lengths: &[usize]) -> u64 {
    let one = |length: usize| format!("{length:x};chunk-signature=").len() + 64 + 2 + length + 2;
    (lengths.iter().map(|length| one(*length)).sum::<usize>() + one(0)) as u64
}

fn signed_chunks_and_trailers_are_accepted_when_true(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let (first, second) = (fixture::bytes(1, 100_000), fixture::bytes(2, 65_536));
    let whole = [first.clone(), second.clone()].concat();
    let encoded = signed_length(&[first.len(), second.len()]);
    let request = chunked(endpoint, &bucket, STREAMING_SIGNED, whole.len() as u64, encoded, None);
    let (mut body, _) = signed_body(&request, &[&first, &second], |_, signature| signature);
    body.extend_from_slice(b"\r\n");
    send(endpoint, &request.head, &body)?.context("no answer")?.expect(200)?;
    let got = endpoint.raw().get(&bucket, "k", &[])?.expect(200)?;
    same_bytes("a body of signed chunks", &got.body, &whole)?;
    // `aws-chunked` is how it travelled, not how it is encoded.
    ensure!(got.header("content-encoding").is_none_or(|value| !value.contains("aws-chunked")), "{got:?}");

    let crc = crc32(&whole);
    let (head, body) = with_signed_trailer(endpoint, &bucket, &[&first, &second], &crc, |signature| signature);
    send(endpoint, &head, &body)?.context("no answer")?.expect(200)?;
    let got = endpoint.raw().get(&bucket, "k", &[])?.expect(200)?;
    same_bytes("a body with a signed trailer", &got.body, &whole)
}

fn crc32(bytes: &[u8]) -> String {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    STANDARD.encode((sum as u32).to_be_bytes())
}

/// A request of signed chunks whose trailer declares `crc`, with its signature passed through `spoil`.
fn with_signed_trailer(
    endpoint: &Endpoint,
    bucket: &str,
    chunks: &[&[u8]],
    crc: &str,
    spoil: impl Fn(String) -> String,
) -> (String, Vec<u8>) {
    let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
    let trailer = format!("x-amz-checksum-crc32:{crc}");
    let closing = format!("{trailer}\r\nx-amz-trailer-signature:{}\r\n\r\n", "0".repeat(64));
    // The closing chunk's own line end stands before the trailers; `signed_length` counts one line end more.
    let encoded = signed_length(&lengths) - 2 + closing.len() as u64;
    let decoded = lengths.iter().sum::<usize>() as u64;
    let request = chunked(endpoint, bucket, STREAMING_SIGNED_TRAILER, decoded, encoded, Some("x-amz-checksum-crc32"));
    let (mut body, last) = signed_body(&request, chunks, |_, signature| signature);
    let signature = spoil(request.scope.sign_trailer(&last, &format!("{trailer}\n")));
    body.extend(format!("{trailer}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").bytes());
    (request.head, body)
}

/// Another signature of the same form.
fn wrong(signature: String) -> String {
    let last = if signature.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &signature[..signature.len() - 1])
}

fn a_body_that_lies_stores_nothing(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let data = fixture::bytes(1, 100_000);
    for (name, head, body) in lies(endpoint, &bucket, &data) {
        let reply = send(endpoint, &head, &body).with_context(|| name.to_owned())?;
        let status = reply.as_ref().map(|reply| reply.status);
        ensure!(status.is_none_or(|status| (400..500).contains(&status)), "{name}: answered {status:?}");
        let got = endpoint.raw().get(&bucket, "k", &[])?;
        ensure!(got.status == 404, "{name}: stored all the same, {} bytes", got.body.len());
    }
    ensure!(endpoint.raw().list(&bucket, "")?.is_empty(), "something is listed");
    Ok(())
}

/// Requests whose body is not what they declare.
fn lies(endpoint: &Endpoint, bucket: &str, data: &[u8]) -> Vec<(&'static str, String, Vec<u8>)> {
    let length = data.len() as u64;
    let plain =
        |payload: &str, extra: &[(&str, String)], length: u64| plain_put(endpoint, bucket, payload, extra, length);
    let mut found = vec![
        ("wrong sha256", plain(&sign::sha256_hex(b"other"), &[], length), data.to_vec()),
        ("wrong CRC32", plain(UNSIGNED_PAYLOAD, &[("x-amz-checksum-crc32", crc32(b"other"))], length), data.to_vec()),
        (
            "wrong MD5",
            plain(UNSIGNED_PAYLOAD, &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==".to_owned())], length),
            data.to_vec(),
        ),
    ];
    let signed = |decoded: u64, spoil: &dyn Fn(usize, String) -> String| {
        let request = chunked(endpoint, bucket, STREAMING_SIGNED, decoded, signed_length(&[data.len()]), None);
        let (mut body, _) = signed_body(&request, &[data], spoil);
        body.extend_from_slice(b"\r\n");
        (request.head, body)
    };
    let keep = |_: usize, signature: String| signature;
    for (name, decoded, spoil) in [
        (
            "wrong signature of a chunk",
            length,
            &(|n: usize, s| if n == 0 { wrong(s) } else { s }) as &dyn Fn(usize, String) -> String,
        ),
        ("wrong signature of the last chunk", length, &|n, s| if n == 1 { wrong(s) } else { s }),
        ("declared length too long", length + 1, &keep),
        ("declared length too short", length - 1, &keep),
    ] {
        let (head, body) = signed(decoded, spoil);
        found.push((name, head, body));
    }
    let (head, body) = with_signed_trailer(endpoint, bucket, &[data], &crc32(b"other"), |signature| signature);
    found.push(("wrong checksum in a signed trailer", head, body));
    let (head, body) = with_signed_trailer(endpoint, bucket, &[data], &crc32(data), wrong);
    found.push(("wrong signature of a trailer", head, body));
    found.extend(unsigned_lies(endpoint, bucket, data));
    found
}

fn unsigned_lies(endpoint: &Endpoint, bucket: &str, data: &[u8]) -> Vec<(&'static str, String, Vec<u8>)> {
    let length = data.len() as u64;
    let framed = |decoded: u64, trailer: &str, closing: &str, declared: Option<&str>| {
        let body = [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n", closing.as_bytes(), trailer.as_bytes()]
            .concat();
        let request = chunked(endpoint, bucket, STREAMING_UNSIGNED_TRAILER, decoded, body.len() as u64, declared);
        (request.head, body)
    };
    let good = format!("x-amz-checksum-crc32:{}\r\n\r\n", crc32(data));
    let bad = format!("x-amz-checksum-crc32:{}\r\n\r\n", crc32(b"other"));
    let name = Some("x-amz-checksum-crc32");
    [
        ("wrong checksum in an unsigned trailer", framed(length, &bad, "0\r\n", name)),
        ("a trailer that was announced and is missing", framed(length, "\r\n", "0\r\n", name)),
        ("no closing chunk", framed(length, "", "", name)),
        ("decoded length too long", framed(length + 5, &good, "0\r\n", name)),
        ("decoded length too short", framed(length - 5, &good, "0\r\n", name)),
        ("a trailer with no base64", framed(length, "x-amz-checksum-crc32:!!!\r\n\r\n", "0\r\n", name)),
    ]
    .map(|(name, (head, body))| (name, head, body))
    .to_vec()
}

fn plain_put(endpoint: &Endpoint, bucket: &str, payload: &str, extra: &[(&str, String)], length: u64) -> String {
    let scope = Scope::now(endpoint);
    let path = format!("/{bucket}/k");
    let mut headers = vec![
        ("host".to_owned(), endpoint.address.clone()),
        ("x-amz-content-sha256".to_owned(), payload.to_owned()),
        ("x-amz-date".to_owned(), scope.timestamp.clone()),
    ];
    headers.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let authorization =
        scope.authorization(&Canonical { method: "PUT", path: &path, query: &[], headers: &headers, payload });
    headers.push(("authorization".to_owned(), authorization));
    headers.push(("content-length".to_owned(), length.to_string()));
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("PUT {path} HTTP/1.1\r\n{lines}\r\n")
}

fn without_a_signature_there_is_nothing(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let mut raw = endpoint.raw();
    raw.put(&bucket, "secret", &[], b"secret")?.expect(200)?;
    let host = ("host".to_owned(), endpoint.address.clone());
    for (method, path) in [
        ("GET", "/".to_owned()),
        ("GET", format!("/{bucket}")),
        ("GET", format!("/{bucket}/secret")),
        ("HEAD", format!("/{bucket}/secret")),
        ("GET", "/a-bucket-that-is-not-there".to_owned()),
        ("PUT", format!("/{bucket}/new")),
        ("PUT", "/a-new-bucket-by-nobody".to_owned()),
        ("DELETE", format!("/{bucket}/secret")),
        ("POST", format!("/{bucket}?delete")),
        ("POST", format!("/{bucket}/secret?uploads")),
        ("PUT", format!("/{bucket}?versioning")),
    ] {
        let reply = endpoint.raw().exchange(method, &path, std::slice::from_ref(&host), b"")?;
        ensure!(reply.status == 403, "{method} {path}: status {} without a signature", reply.status);
        ensure!(!reply.text().contains("secret</") || path.contains("secret"), "{method} {path}: {}", reply.text());
    }
    ensure!(raw.list(&bucket, "")? == ["secret"], "something changed");
    Ok(())
}

fn unsigned_headers_are_not_obeyed(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let mut raw = endpoint.raw();
    raw.put(&bucket, "secret", &[], b"secret")?.expect(200)?;
    raw.put(&bucket, "k", &[], b"mine")?.expect(200)?;
    // A signed PUT to which somebody on the way adds a header.
    for header in
        [format!("x-amz-copy-source: /{bucket}/secret"), "x-amz-acl: private".to_owned(), "x-amz-meta-a: b".to_owned()]
    {
        let head = plain_put(endpoint, &bucket, UNSIGNED_PAYLOAD, &[], 0)
            .replace("authorization:", &format!("{header}\r\nauthorization:"));
        let reply = send(endpoint, &head, b"")?.context("no answer")?;
        ensure!(reply.status == 403 || reply.status == 400, "{header}: status {}", reply.status);
        ensure!(raw.get(&bucket, "k", &[])?.expect(200)?.body == b"mine", "{header}: the object changed");
    }
    Ok(())
}

fn requests_that_smuggle_are_refused(_: &Fleet, endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("abuse")?;
    let head = plain_put(endpoint, &bucket, UNSIGNED_PAYLOAD, &[], 5);
    let both = head.replace("content-length: 5\r\n", "content-length: 5\r\ntransfer-encoding: chunked\r\n");
    let plain_chunked = head.replace("content-length: 5\r\n", "transfer-encoding: chunked\r\n");
    let two_lengths = head.replace("content-length: 5\r\n", "content-length: 5\r\ncontent-length: 6\r\n");
    for (name, head, body) in [
        ("both framings", both, &b"5\r\nhello\r\n0\r\n\r\n"[..]),
        ("chunked without aws-chunked", plain_chunked, b"5\r\nhello\r\n0\r\n\r\n"),
        ("two lengths", two_lengths, b"hello!"),
    ] {
        let reply = send(endpoint, &head, body)?;
        let status = reply.map(|reply| reply.status);
        ensure!(status.is_none_or(|status| (400..500).contains(&status)), "{name}: answered {status:?}");
        endpoint.raw().get(&bucket, "k", &[])?.expect_error(404, "NoSuchKey").with_context(|| name.to_owned())?;
    }
    // A header larger than any honest one, and a number of headers beyond any honest one.
    for flood in [format!("x-flood: {}\r\n", "a".repeat(1 << 20)), "x-flood: 1\r\n".repeat(5000)] {
        let head = plain_put(endpoint, &bucket, UNSIGNED_PAYLOAD, &[], 0)
            .replace("authorization:", &format!("{flood}authorization:"));
        let status = send(endpoint, &head, b"")?.map(|reply| reply.status);
        ensure!(status.is_none_or(|status| (400..500).contains(&status)), "flood: answered {status:?}");
    }
    let still: Result<Reply, Lost> = endpoint.raw().get("", "", &[]);
    still?.expect(200)?;
    Ok(())
}
