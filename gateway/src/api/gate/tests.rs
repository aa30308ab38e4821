//! The gate over real connections, before a tiny S3 that keeps objects in memory.

#![expect(clippy::disallowed_methods, reason = "each test joins the tasks that it spawns")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use http::{HeaderMap, HeaderName, Method, Uri};
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::cors::CorsRules;
use super::keys::{Credentials, Keys};
use super::*;
use crate::api::s3::body::HashedBody;
use crate::client::sign::{Signer, sha256_hex};
use crate::config::secret::Secret;
use crate::server::{Limits, Server};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Keeps what it is given, if all of it verifies.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<HashMap<String, Bytes>>>);

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        assert!(req.extensions.get::<RequestId>().is_some(), "the handler sees the request's id");
        let expect = Expectation::from_request(&req.headers, &req.uri, req.trailing_headers.take())?;
        let discard = req.input.key.starts_with("discard");
        let blob = req.input.body.take().unwrap_or_else(|| StreamingBlob::from_bytes(Bytes::new()));
        let mut body = HashedBody::new(blob, expect, BodyBudget::default());
        let mut whole = Vec::new();
        while let Some(piece) = body.next().await? {
            if !discard {
                whole.extend_from_slice(&piece);
            }
        }
        let md5 = hex::encode(body.into_digests()?.md5);
        self.0.lock().unwrap().insert(req.input.key, whole.into());
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(md5)), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        assert_ne!(req.input.key, "panic", "the handler panics");
        let Some(bytes) = self.0.lock().unwrap().get(&req.input.key).cloned() else {
            return Err(S3Error::new(s3s::S3ErrorCode::NoSuchKey));
        };
        let length = Some(bytes.len() as i64);
        Ok(S3Response::new(GetObjectOutput { body: Some(bytes.into()), content_length: length, ..Default::default() }))
    }

    async fn head_object(&self, _req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        Err(S3Error::new(s3s::S3ErrorCode::NoSuchKey))
    }

    async fn list_buckets(&self, _req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        Ok(S3Response::new(ListBucketsOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.0.lock().unwrap().clear();
        drop(req);
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }
}

struct OneBucket;

#[async_trait::async_trait]
impl CorsSource for OneBucket {
    async fn cors(&self, bucket: &str) -> Option<Arc<CorsRules>> {
        let document = "<CORSConfiguration><CORSRule><AllowedOrigin>https://app</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";
        (bucket == "bucket").then(|| Arc::new(CorsRules::parse(document.as_bytes()).unwrap()))
    }
}

struct Running {
    address: SocketAddr,
    store: Store,
    signer: Signer,
    metrics: HttpMetrics,
    shutdown: CancellationToken,
    _serving: tokio::task::JoinHandle<crate::server::Drained>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn start(floor: Floor) -> Running {
    let credentials = Credentials { access_key: "root".into(), secret_key: Secret::new("the root secret") };
    let hosts = Hosts::new(["s3.test"]);
    let store = Store::default();
    let mut builder = S3ServiceBuilder::new(store.clone());
    builder.set_auth(Keys::root_only(credentials.clone()));
    builder.set_host(hosts.clone());
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(s3s_config("us-east-1").unwrap()))));
    let metrics = HttpMetrics::default();
    let options = GateOptions {
        hosts,
        owner_id: "owner".into(),
        host_id: "test-host".into(),
        cors: Arc::new(OneBucket),
        budget: BodyBudget::default(),
        metrics: metrics.clone(),
    };
    let gate = Gate::with_floor(builder.build(), options, floor);
    let server = Server::bind("127.0.0.1:0", None, Limits::default(), metrics.clone()).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(gate, shutdown.clone()));
    Running {
        address,
        store,
        signer: Signer { credentials, region: "us-east-1".into() },
        metrics,
        shutdown,
        _serving: serving,
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn code(&self) -> &str {
        self.body.split("<Code>").nth(1).and_then(|rest| rest.split("</Code>").next()).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Running {
    fn request(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> (Method, Uri, HeaderMap) {
        let mut map = HeaderMap::new();
        map.insert("host", self.address.to_string().parse().unwrap());
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        (method.parse().unwrap(), uri.parse().unwrap(), map)
    }

    async fn raw(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Answer {
        let mut head = format!("{method} {uri} HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        head.push_str("\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // A refusal may come, and the connection go, before all is written.
        let _ = stream.write_all(body).await;
        read_answer(&mut stream).await
    }

    /// Signs, declares the length, sends.
    async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let payload = sha256_hex(body);
        self.send_as(method, uri, headers, body, &payload).await
    }

    async fn send_as(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8], payload: &str) -> Answer {
        let (method, uri, mut map) = self.request(method, uri, headers);
        if !body.is_empty() || method == Method::PUT {
            map.insert("content-length", body.len().into());
        }
        self.signer.sign(&method, &uri, &mut map, payload, OffsetDateTime::now_utc());
        self.raw(&method, &uri, &map, body).await
    }

    async fn send_trailer(&self, key: &str, decoded: usize, trailer: &str, body: &str) -> Answer {
        let decoded = decoded.to_string();
        let headers = [
            ("x-amz-decoded-content-length", decoded.as_str()),
            ("x-amz-trailer", trailer),
            ("content-encoding", "aws-chunked"),
        ];
        self.send_as("PUT", &format!("/bucket/{key}"), &headers, body.as_bytes(), "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .await
    }

    fn stored(&self, key: &str) -> Option<Bytes> {
        self.store.0.lock().unwrap().get(key).cloned()
    }
}

async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pairs = lines.map(|line| line.split_once(": ").unwrap());
    let headers = pairs
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

#[tokio::test]
async fn every_reply_carries_the_request_id() {
    let run = start(Floor::default()).await;
    let put = run.send("PUT", "/bucket/k", &[], b"hello").await;
    assert_eq!((put.status, put.header("etag")), (200, Some("\"5d41402abc4b2a76b9719d911017c592\"")), "{put:?}");
    let unsigned = run.request("GET", "/bucket/k", &[]);
    let answers = [
        put,
        run.send("GET", "/bucket/k", &[], b"").await,
        run.send("GET", "/bucket/missing", &[], b"").await,
        run.send("GET", "/bucket/panic", &[], b"").await,
        run.send("GET", "/bucket?policy", &[], b"").await,
        run.send("OPTIONS", "/bucket/k", &[], b"").await,
        run.raw(&unsigned.0, &unsigned.1, &unsigned.2, b"").await,
    ];
    let mut ids = std::collections::HashSet::new();
    for answer in &answers {
        let id = answer.header("x-amz-request-id").unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(answer.header("x-amz-id-2"), Some("test-host"));
        assert!(ids.insert(id.to_owned()), "ids are not used twice");
        if answer.status >= 400 {
            assert!(answer.body.contains(&format!("<RequestId>{id}</RequestId>")), "{answer:?}");
            assert!(answer.body.contains("<HostId>test-host</HostId>"), "{answer:?}");
            assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
        }
    }
    let statuses: Vec<_> = answers.iter().map(|answer| (answer.status, answer.code())).collect();
    assert_eq!(
        statuses,
        [
            (200, ""),
            (200, ""),
            (404, "NoSuchKey"),
            (500, "InternalError"),
            (501, "NotImplemented"),
            (400, "BadRequest"),
            (403, "AccessDenied")
        ]
    );
    assert_eq!(answers[1].body, "hello");
    let head = run.send("HEAD", "/bucket/missing", &[], b"").await;
    assert_eq!((head.status, head.body.as_str()), (404, ""));
    assert!(head.header("x-amz-request-id").is_some());
}

#[tokio::test]
async fn errors_under_holdfast_are_json() {
    let run = start(Floor::default()).await;
    let answer = run.send("GET", "/_holdfast/v1/status", &[], b"").await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!(json["request_id"].as_str(), answer.header("x-amz-request-id"));
    assert!(json["code"].is_string() && json["message"].is_string());
}

#[tokio::test]
async fn the_command_lines_client_speaks_to_the_gate() {
    let run = start(Floor::default()).await;
    let client = crate::client::Client::new(format!("http://{}", run.address), run.signer.clone()).unwrap();
    // There is no such route behind this gate; the refusal proves that the signature held and the JSON was read.
    let refused = client.json(Method::GET, "/_holdfast/v1/status", None).await.unwrap_err();
    let crate::client::Error::Refused { status, code, request_id, .. } = &refused else { panic!("{refused}") };
    assert_eq!((status.as_u16(), code.as_str(), request_id.len()), (400, "InvalidBucketName", 32), "{refused}");
    let nobody = crate::client::Client::new("http://127.0.0.1:1".into(), run.signer.clone()).unwrap();
    assert!(matches!(nobody.json(Method::GET, "/", None).await, Err(crate::client::Error::Unreachable { .. })));
    assert!(crate::client::Client::new("ftp://x".into(), run.signer.clone()).is_err());
}

#[tokio::test]
async fn a_wrong_body_stores_nothing() {
    let run = start(Floor::default()).await;
    let md5 = run.send("PUT", "/bucket/a", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], b"hello").await;
    assert_eq!(md5.status, 200, "{md5:?}");
    let check = |answer: Answer, status: u16, code: &str| {
        assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
    };
    check(
        run.send("PUT", "/bucket/b", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], b"hellO").await,
        400,
        "BadDigest",
    );
    check(run.send("PUT", "/bucket/b", &[("content-md5", "nonsense")], b"hello").await, 400, "InvalidDigest");
    check(run.send("PUT", "/bucket/b", &[("x-amz-checksum-crc32", "AAAAAA==")], b"hello").await, 400, "BadDigest");
    check(run.send("PUT", "/bucket/b", &[("x-amz-checksum-crc32", "AA")], b"hello").await, 400, "InvalidRequest");
    check(
        run.send_as("PUT", "/bucket/b", &[], b"hello", &sha256_hex(b"other")).await,
        400,
        "XAmzContentSHA256Mismatch",
    );
    assert_eq!(run.stored("b"), None);
    let document = b"<Delete><Object><Key>a</Key></Object></Delete>";
    check(
        run.send("POST", "/bucket?delete", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], document).await,
        400,
        "BadDigest",
    );
    check(
        run.send("POST", "/bucket?delete", &[("x-amz-checksum-sha1", "AAAA")], document).await,
        400,
        "InvalidRequest",
    );
    assert!(run.stored("a").is_some());
    check(run.send("POST", "/bucket?delete", &[], document).await, 200, "");
    assert_eq!(run.stored("a"), None);
}

#[tokio::test]
async fn trailers_are_verified() {
    let run = start(Floor::default()).await;
    let crc = "x-amz-checksum-crc32";
    let good = run.send_trailer("a", 9, crc, "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n").await;
    assert_eq!(good.status, 200, "{good:?}");
    assert_eq!(run.stored("a").as_deref(), Some(&b"123456789"[..]));
    for (name, decoded, trailer, body, code) in [
        ("wrong value", 9, crc, "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", "BadDigest"),
        ("missing", 9, crc, "9\r\n123456789\r\n0\r\n\r\n", "MalformedTrailerError"),
        ("another", 9, crc, "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32c:4waSgw==\r\n\r\n", "MalformedTrailerError"),
        (
            "shorter than declared",
            10,
            crc,
            "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n",
            "IncompleteBody",
        ),
        (
            "longer than declared",
            8,
            crc,
            "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n",
            "IncompleteBody",
        ),
        ("no last chunk", 9, crc, "9\r\n123456789\r\n", "MalformedTrailerError"),
        ("broken framing", 9, crc, "9\r\n1234567890\r\n\r\n0\r\n", "IncompleteBody"),
        ("unknown trailer", 9, "x-amz-meta-a", "9\r\n123456789\r\n0\r\nx-amz-meta-a:b\r\n\r\n", "InvalidRequest"),
    ] {
        let answer = run.send_trailer("b", decoded, trailer, body).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{name}: {answer:?}");
        assert_eq!(run.stored("b"), None, "{name}");
    }
}

/// Signs chunks as clients of STREAMING-AWS4-HMAC-SHA256-PAYLOAD do.
fn signed_chunks(run: &Running, seed: &str, at: OffsetDateTime, chunks: &[&[u8]]) -> Vec<u8> {
    let scope = run.signer.scope(at);
    let (mut previous, mut body) = (seed.to_owned(), Vec::new());
    for chunk in chunks.iter().chain([&&b""[..]]) {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{EMPTY}\n{}",
            scope.stamp,
            scope.scope,
            sha256_hex(chunk)
        );
        previous = scope.sign(&text);
        body.extend_from_slice(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body
}

#[tokio::test]
async fn signed_chunks_are_verified_and_bounded() {
    let run = start(Floor::default()).await;
    let at = OffsetDateTime::now_utc();
    let send = async |key: &str, decoded: usize, change: &dyn Fn(Vec<u8>) -> Vec<u8>, chunks: &[&[u8]]| {
        let decoded = decoded.to_string();
        let (method, uri, mut headers) =
            run.request("PUT", &format!("/bucket/{key}"), &[("x-amz-decoded-content-length", &decoded)]);
        let length = signed_chunks(&run, EMPTY, at, chunks).len();
        headers.insert("content-length", change(vec![0; length]).len().into());
        let seed = run.signer.sign(&method, &uri, &mut headers, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", at);
        run.raw(&method, &uri, &headers, &change(signed_chunks(&run, &seed, at, chunks))).await
    };
    let same = |body| body;
    let good = send("a", 10, &same, &[b"hello", b"world"]).await;
    assert_eq!(good.status, 200, "{good:?}");
    assert_eq!(run.stored("a").as_deref(), Some(&b"helloworld"[..]));
    let flipped = |mut body: Vec<u8>| {
        let at = body.len() / 3;
        body[at] ^= 1;
        body
    };
    let bad = send("b", 10, &flipped, &[b"hello", b"world"]).await;
    assert!((400..=403).contains(&bad.status), "{bad:?}");
    let short = send("b", 11, &same, &[b"hello", b"world"]).await;
    assert_eq!((short.status, short.code()), (400, "IncompleteBody"), "{short:?}");
    let big = vec![7; SIGNED_CHUNK_BYTES_MAX + 1];
    let large = send("b", big.len(), &same, &[&big]).await;
    assert_eq!((large.status, large.code()), (400, "EntityTooLarge"), "{large:?}");
    let allowed = send("c", SIGNED_CHUNK_BYTES_MAX, &same, &[&big[1..]]).await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(run.stored("b"), None);
}

/// The child runs alone in its process, so that its peak memory is this stream's.
#[tokio::test]
async fn one_unsigned_chunk_of_512_mib_grows_the_process_by_less_than_64_mib() {
    const CHILD: &str = "HOLDFAST_TEST_CHUNK_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return chunk_child().await;
    }
    let name = "api::gate::tests::one_unsigned_chunk_of_512_mib_grows_the_process_by_less_than_64_mib";
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .await
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("grew by"), "the child did not measure");
}

async fn chunk_child() {
    let run = start(Floor::default()).await;
    let warm = run.send("PUT", "/bucket/discard-warm", &[], &[1; 1 << 20]).await;
    assert_eq!(warm.status, 200);
    let before = peak_kib();
    let size = 512usize << 20;
    let (start, end) = (format!("{size:x}\r\n"), "\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    let decoded = size.to_string();
    let headers = [("x-amz-decoded-content-length", decoded.as_str()), ("x-amz-trailer", "x-amz-checksum-crc32")];
    let (method, uri, mut map) = run.request("PUT", "/bucket/discard", &headers);
    map.insert("content-length", (start.len() + size + end.len()).into());
    run.signer.sign(&method, &uri, &mut map, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", OffsetDateTime::now_utc());
    let mut head = format!("{method} {uri} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in &map {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut stream = TcpStream::connect(run.address).await.unwrap();
    stream.write_all(format!("{head}\r\n{start}").as_bytes()).await.unwrap();
    let piece = vec![0; 256 << 10];
    for _ in 0..size / piece.len() {
        stream.write_all(&piece).await.unwrap();
    }
    stream.write_all(end.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.code()), (400, "BadDigest"), "all bytes came and were hashed: {answer:?}");
    let grown = peak_kib() - before;
    println!("grew by {grown} KiB");
    assert!(grown < 64 << 10, "grew by {grown} KiB");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn signatures_that_do_not_count_are_refused() {
    let run = start(Floor::default()).await;
    let signed = |change: &dyn Fn(&mut Signer), at: OffsetDateTime| {
        let mut signer = run.signer.clone();
        change(&mut signer);
        let (method, uri, mut headers) = run.request("GET", "/", &[]);
        signer.sign(&method, &uri, &mut headers, EMPTY, at);
        (method, uri, headers)
    };
    let now = OffsetDateTime::now_utc();
    let check = async |request: (Method, Uri, HeaderMap), expected: (u16, &str)| {
        let answer = run.raw(&request.0, &request.1, &request.2, b"").await;
        assert_eq!((answer.status, answer.code()), expected, "{answer:?}");
    };
    check(signed(&|_| {}, now), (200, "")).await;
    check(signed(&|signer| signer.region = "eu-west-1".into(), now), (400, "AuthorizationHeaderMalformed")).await;
    check(signed(&|signer| signer.credentials.access_key = "other".into(), now), (403, "InvalidAccessKeyId")).await;
    check(signed(&|signer| signer.credentials.secret_key = Secret::new("other"), now), (403, "SignatureDoesNotMatch"))
        .await;
    check(signed(&|_| {}, now - time::Duration::minutes(16)), (403, "RequestTimeTooSkewed")).await;
    check(signed(&|_| {}, now + time::Duration::minutes(16)), (403, "RequestTimeTooSkewed")).await;
    let mut other_service = signed(&|_| {}, now);
    let text = other_service.2["authorization"].to_str().unwrap().replace("/s3/", "/sts/");
    other_service.2.insert("authorization", text.parse().unwrap());
    check(other_service, (501, "NotImplemented")).await;
    // A header that the signature does not cover must not act.
    let (method, uri, mut headers) = run.request("PUT", "/bucket/copy", &[("content-length", "0")]);
    run.signer.sign(&method, &uri, &mut headers, EMPTY, now);
    headers.insert("x-amz-copy-source", "/bucket/a".parse().unwrap());
    check((method, uri, headers), (403, "AccessDenied")).await;
}

#[tokio::test]
async fn presigned_urls_are_bounded() {
    let run = start(Floor::default()).await;
    run.send("PUT", "/bucket/k", &[], b"hello").await;
    let now = OffsetDateTime::now_utc();
    let host = run.address.to_string();
    let get = async |uri: &str, seconds: u64, at: OffsetDateTime, headers: &[(&str, &str)]| {
        let url = run.signer.presign(&Method::GET, &uri.parse().unwrap(), &host, seconds, at);
        let (method, uri, headers) = run.request("GET", &url, headers);
        run.raw(&method, &uri, &headers, b"").await
    };
    let good = get("/bucket/k", 60, now, &[]).await;
    assert_eq!((good.status, good.body.as_str()), (200, "hello"), "{good:?}");
    let check =
        |answer: Answer, expected: (u16, &str)| assert_eq!((answer.status, answer.code()), expected, "{answer:?}");
    check(get("/bucket/k", 604_801, now, &[]).await, (400, "AuthorizationQueryParametersError"));
    check(get("/bucket/k", 60, now - time::Duration::minutes(2), &[]).await, (403, "AccessDenied"));
    check(
        get("/bucket/k", 60, now, &[("authorization", "AWS4-HMAC-SHA256 Credential=x")]).await,
        (400, "InvalidArgument"),
    );
    let url = run.signer.presign(&Method::PUT, &"/bucket/new".parse().unwrap(), &host, 60, now);
    let (method, uri, headers) =
        run.request("PUT", &url, &[("x-amz-copy-source", "/bucket/k"), ("content-length", "0")]);
    check(run.raw(&method, &uri, &headers, b"").await, (403, "AccessDenied"));
    let (method, uri, headers) = run.request("PUT", &url, &[("content-length", "3")]);
    check(run.raw(&method, &uri, &headers, b"new").await, (200, ""));
    assert_eq!(run.stored("new").as_deref(), Some(&b"new"[..]));
}

#[tokio::test]
async fn framing_that_could_mean_two_things_is_refused() {
    let run = start(Floor::default()).await;
    let check = async |headers: &[(&str, &str)], expected: (u16, &str)| {
        let (method, uri, mut map) = run.request("PUT", "/bucket/k", headers);
        run.signer.sign(&method, &uri, &mut map, "UNSIGNED-PAYLOAD", OffsetDateTime::now_utc());
        let answer = run.raw(&method, &uri, &map, b"5\r\nhello\r\n0\r\n\r\n").await;
        assert_eq!((answer.status, answer.code()), expected, "{answer:?}");
    };
    check(&[("transfer-encoding", "chunked")], (411, "MissingContentLength")).await;
    check(&[("content-length", "15"), ("transfer-encoding", "chunked")], (400, "InvalidRequest")).await;
    assert_eq!(run.stored("k"), None);
}

#[tokio::test]
async fn browsers_get_their_headers() {
    let run = start(Floor::default()).await;
    run.send("PUT", "/bucket/k", &[], b"hello").await;
    let ask = [("origin", "https://app"), ("access-control-request-method", "GET")];
    let (method, uri, headers) = run.request("OPTIONS", "/bucket/k", &ask);
    let preflight = run.raw(&method, &uri, &headers, b"").await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (200, Some("https://app")),
        "{preflight:?}"
    );
    let (method, uri, headers) = run.request("OPTIONS", "/elsewhere/k", &ask);
    let refused = run.raw(&method, &uri, &headers, b"").await;
    assert_eq!((refused.status, refused.code()), (403, "AccessForbidden"));
    for (key, origin, allowed) in
        [("k", "https://app", true), ("missing", "https://app", true), ("k", "https://other", false)]
    {
        let answer = run.send("GET", &format!("/bucket/{key}"), &[("origin", origin)], b"").await;
        assert_eq!(answer.header("access-control-allow-origin").is_some(), allowed, "{key} {origin}: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_drips_is_answered_with_408() {
    let run = start(Floor { bytes_per_second: 1024, window: Duration::from_millis(300) }).await;
    let (method, uri, mut headers) = run.request("PUT", "/bucket/k", &[("content-length", "100000")]);
    run.signer.sign(&method, &uri, &mut headers, "UNSIGNED-PAYLOAD", OffsetDateTime::now_utc());
    let answer = run.raw(&method, &uri, &headers, b"a little").await;
    assert_eq!((answer.status, answer.code()), (408, "RequestTimeout"), "{answer:?}");
    assert_eq!(run.stored("k"), None);
}

#[tokio::test]
async fn a_refused_upload_still_reads_its_reply() {
    let run = start(Floor::default()).await;
    let body = vec![1; 2 << 20];
    for uri in ["/bucket/k?acl", "/bucket/k?frobnicate"] {
        let answer = run.send("PUT", uri, &[], &body).await;
        assert_eq!((answer.status, answer.code()), (501, "NotImplemented"));
    }
    let mut registry = prometheus_client::registry::Registry::default();
    run.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("holdfast_http_rejected_total{reason=\"unbuilt\"} 1"), "{text}");
    assert!(text.contains("holdfast_http_requests_total{api=\"none\",code=\"501\"} 2"), "{text}");
}
