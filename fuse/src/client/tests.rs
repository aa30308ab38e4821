//! The client against a server that checks signatures, and fails as gateways do.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use aws_credential_types::Credentials;
use aws_lc_rs::{digest, hmac};
use holdfast_core::command::mount::StepOutcome;
use holdfast_core::id::Stamp;
use holdfast_core::mount::{Commit, MountId};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::remote::{Holder, News, RangeLock};

const SECRET: &str = "secret+/key";

/// What the server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

enum Does {
    Answers(Response<Full<Bytes>>),
    /// Reads the request and closes the connection.
    Drops,
    /// Never answers.
    Hangs,
}

type Script = dyn Fn(usize, &Asked) -> Does + Send + Sync;

/// A gateway that follows a script; it ends with the test.
struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(script: impl Fn(usize, &Asked) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, script): (_, Arc<Script>) = (Arc::clone(&asked), Arc::new(script));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &seen, &*script));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { endpoint, asked, _tasks: tasks }
    }

    fn client(&self) -> Client {
        client(&self.endpoint)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: &Mutex<Vec<Asked>>,
    script: &Script,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let asked = Asked { method: head.method, target: head.uri.to_string(), headers: head.headers, body };
    check_signature(&asked);
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.clone());
        seen.len()
    };
    match script(number, &asked) {
        Does::Answers(reply) => Ok(reply),
        Does::Drops => Err("dropped".into()),
        Does::Hangs => std::future::pending().await,
    }
}

fn client(endpoints: &str) -> Client {
    let keys = Credentials::new("AKID", SECRET, Some("session".to_owned()), None, "test");
    let credentials = SharedCredentialsProvider::new(keys);
    let region = "eu-test-1".to_owned();
    Client::new(Options { endpoints: endpoints.to_owned(), region, credentials, signs_all: false }).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn bucket() -> BucketName {
    "files".parse().unwrap()
}

fn reply(status: u16, body: impl Into<Bytes>) -> Does {
    let reply = Response::builder().status(status).header("x-holdfast-revision", "42").header("x-amz-request-id", "r1");
    Does::Answers(reply.body(Full::new(body.into())).unwrap())
}

fn told(answer: &Answer, raw: &[u8]) -> Does {
    reply(200, frame(answer, raw))
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Signature version 4, written down once more. Source: AWS IAM user guide, "Create a signed AWS API request".
fn check_signature(asked: &Asked) {
    let header = |name: &str| {
        let all: Vec<_> = asked.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        all.join(",")
    };
    let authorization = header("authorization");
    let authorization = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=AKID/").unwrap();
    let (scope, rest) = authorization.split_once(", SignedHeaders=").unwrap();
    let (names, signature) = rest.split_once(", Signature=").unwrap();
    for must in ["host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"] {
        assert!(names.split(';').any(|name| name == must), "{must} is not signed: {names}");
    }
    for name in asked.headers.keys().map(http::HeaderName::as_str) {
        let free = ["authorization", "user-agent", "content-length", "accept"].contains(&name);
        assert!(free || names.split(';').any(|signed| signed == name), "{name} is not signed");
    }
    let payload = header("x-amz-content-sha256");
    assert!(payload == "UNSIGNED-PAYLOAD" || payload == hash(&asked.body), "{payload}");
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let mut query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let lines: String = names.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
    let canonical = format!("{}\n{path}\n{}\n{lines}\n{names}\n{payload}", asked.method, query.join("&"));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", header("x-amz-date"), hash(canonical.as_bytes()));
    let sign =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| sign(&key, part));
    assert!(scope.ends_with("/eu-test-1/s3/aws4_request"), "{scope}");
    assert_eq!(hex::encode(sign(&key, &text)), signature, "{canonical}");
}

fn commit() -> Call {
    Call::Commit(Commit {
        id: 7,
        client: MountId([7; 16]),
        lease: 3,
        number: 1,
        steps: Vec::new(),
        upload: None,
        directory: Default::default(),
        now: "1.000000000".to_owned(),
    })
}

#[tokio::test]
async fn a_commit_and_its_bytes_are_one_signed_frame() {
    let server = Server::start(|_, _| told(&Answer::Outcomes(vec![StepOutcome::Done]), b"rest")).await;
    let client = server.client();
    let fences = [("mount/a b", 5), ("", 3)].map(|(name, token)| Fence { name: name.to_owned(), token });
    for length in [0, 5, SIGNED_BYTES_MAX + 1] {
        let raw = Bytes::from(vec![1; length]);
        let found = client.call(&bucket(), &commit(), raw.clone(), &fences, soon()).await.unwrap();
        assert_eq!(
            (found.answer, &*found.raw, found.revision),
            (Answer::Outcomes(vec![StepOutcome::Done]), &b"rest"[..], 42)
        );
        let asked = server.asked().pop().unwrap();
        assert_eq!((asked.method, asked.target.as_str()), (Method::POST, "/_holdfast/v1/mount/files"));
        let (call, at) = unframe::<Call>(&asked.body).unwrap();
        assert_eq!((call, &asked.body[at..]), (commit(), &raw[..]));
        let fences: Vec<_> = asked.headers.get_all("x-holdfast-fence").iter().collect();
        assert_eq!(fences, ["mount/a%20b=5", "=3"]);
        let unsigned = asked.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD";
        assert_eq!(unsigned, length > SIGNED_BYTES_MAX);
    }
}

#[test]
fn large_bodies_are_hashed_where_somebody_could_change_them() {
    for (endpoint, private) in [
        ("http://127.0.0.1:9900", true),
        ("http://[::1]:9900", true),
        ("http://localhost:9900", true),
        ("https://gateway", true),
        ("http://gateway:9900", false),
        ("http://127.0.0.1.evil:9900", false),
    ] {
        assert_eq!(Endpoint::parse(endpoint).unwrap().is_private(), private, "{endpoint}");
    }
    for bad in
        ["", "gateway:9900", "ftp://gateway", "http://gateway/path", "http://a@gateway", "http://g?x=1", "http://"]
    {
        assert!(matches!(Endpoint::parse(bad), Err(Error::Setting { .. })), "{bad}");
    }
}

#[tokio::test]
async fn keys_go_out_as_they_are() {
    let server = Server::start(|_, asked| {
        let range = asked.headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
        let (start, end) = range.split_once('-').unwrap();
        let length = end.parse::<usize>().unwrap() + 1 - start.parse::<usize>().unwrap();
        let Does::Answers(mut reply) = reply(206, vec![b'x'; length]) else { unreachable!() };
        reply.headers_mut().insert("content-range", format!("bytes {range}/100").parse().unwrap());
        Does::Answers(reply)
    })
    .await;
    let client = server.client();
    let table = [
        ("a.txt", "/files/a.txt"),
        ("a//b/", "/files/a//b/"),
        ("/a", "/files//a"),
        ("../a/./..", "/files/../a/./.."),
        ("a b+c%2F?d#e&f=g", "/files/a%20b%2Bc%252F%3Fd%23e%26f%3Dg"),
        ("ä/\u{0}~-_.", "/files/%C3%A4/%00~-_."),
        ("a\\b:@!$'()*,;", "/files/a%5Cb%3A%40%21%24%27%28%29%2A%2C%3B"),
    ];
    for (key, target) in table {
        let bytes = client.get_range(&bucket(), &key.parse().unwrap(), "e1", 10..14, soon()).await.unwrap();
        assert_eq!(&*bytes, b"xxxx");
        let asked = server.asked().pop().unwrap();
        assert_eq!((asked.target.as_str(), &asked.headers["if-match"]), (target, &"\"e1\"".parse().unwrap()), "{key}");
    }
}

#[tokio::test]
async fn another_generation_is_told_apart() {
    let key: ObjectKey = "k".parse().unwrap();
    let xml =
        |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a &amp; b</Message></Error>");
    let server = Server::start(move |number, _| match number {
        1 => reply(412, xml("PreconditionFailed")),
        2 => reply(404, xml("NoSuchKey")),
        3 => reply(403, xml("AccessDenied")),
        // Not the range that was asked for.
        4 => reply(206, "xxxx"),
        _ => reply(200, "abcde"),
    })
    .await;
    let client = server.client();
    let get = |range| client.get_range(bucket_static(), &key, "e", range, soon());
    assert!(matches!(get(0..4).await, Err(Error::Changed)));
    let Err(Error::NotFound { code, message }) = get(0..4).await else { panic!() };
    assert_eq!((code.as_str(), message.as_str()), ("NoSuchKey", "a & b"));
    assert!(matches!(get(0..4).await, Err(Error::Denied { .. })));
    assert!(matches!(get(0..4).await, Err(Error::Form { .. })));
    assert!(matches!(get(0..4).await, Err(Error::Form { .. })));
    assert_eq!(&*get(0..5).await.unwrap(), b"abcde");
    assert!(matches!(get(4..4).await, Err(Error::Request { .. })));
}

fn bucket_static() -> &'static BucketName {
    static BUCKET: std::sync::OnceLock<BucketName> = std::sync::OnceLock::new();
    BUCKET.get_or_init(bucket)
}

#[tokio::test]
async fn what_was_not_answered_is_asked_again() {
    let server = Server::start(|number, _| match number {
        1 => Does::Drops,
        2 => reply(503, r#"{"code":"SlowDown","message":"busy"}"#),
        3 => reply(500, ""),
        _ => told(&Answer::Usage { bytes: 1, objects: 2 }, b""),
    })
    .await;
    let found = server.client().call(&bucket(), &Call::Usage, Bytes::new(), &[], soon()).await.unwrap();
    assert_eq!(found.answer, Answer::Usage { bytes: 1, objects: 2 });
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn the_next_gateway_is_asked_when_one_fails() {
    let busy = Server::start(|_, _| reply(503, "")).await;
    let old = Server::start(|_, _| reply(404, r#"{"code":"NoSuchEndpoint","message":"There is nothing."}"#)).await;
    let good = Server::start(|_, _| told(&Answer::Usage { bytes: 1, objects: 2 }, b"")).await;
    let nobody = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let client = client(&format!("http://{nobody}, {}/,{},{}", busy.endpoint, old.endpoint, good.endpoint));
    for _ in 0..3 {
        client.call(&bucket(), &Call::Usage, Bytes::new(), &[], soon()).await.unwrap();
    }
    assert_eq!((busy.asked().len(), old.asked().len(), good.asked().len()), (1, 1, 3));
    assert_eq!(client.endpoint(), good.endpoint);
}

#[tokio::test]
async fn an_outcome_is_unknown_only_when_something_was_sent() {
    let nobody = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let short = || Instant::now() + Duration::from_millis(200);
    let found = client(&format!("http://{nobody}")).call(&bucket(), &commit(), Bytes::new(), &[], short()).await;
    assert!(matches!(&found, Err(Error::Unreachable { .. })), "{found:?}");
    let server = Server::start(|_, _| Does::Hangs).await;
    let found = server.client().call(&bucket(), &commit(), Bytes::new(), &[], short()).await;
    let Err(error) = found else { panic!() };
    assert!(matches!(error, Error::Unavailable { status: None, .. }) && error.is_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_read_that_fails_is_given_up() {
    let server = Server::start(|_, _| reply(500, "<Error><Code>InternalError</Code></Error>")).await;
    let found = server.client().get_range(&bucket(), &"k".parse().unwrap(), "e", 0..1, soon()).await;
    let Err(error) = found else { panic!() };
    assert!(!error.is_unknown() && error.errno() == crate::error::Errno::EIO, "{error:?}");
    assert_eq!(server.asked().len(), FAILED_READS_MAX);
}

#[tokio::test]
async fn a_gateway_without_the_protocol_is_named() {
    for (status, body) in [
        (404, r#"{"code":"NoSuchEndpoint","message":"There is nothing at this path."}"#),
        (501, r#"{"code":"NotImplemented","message":"Version 9."}"#),
        (404, "<Error><Code>NoSuchBucket</Code></Error>"),
        (405, ""),
    ] {
        let server = Server::start(move |_, _| reply(status, body)).await;
        let found = server.client().call(&bucket(), &Call::Usage, Bytes::new(), &[], soon()).await;
        let Err(error @ Error::TooOld { .. }) = found else { panic!("{found:?}") };
        assert!(error.to_string().starts_with(&format!("the gateway at {} is too old", server.endpoint)), "{error}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = Server::start(|number, _| match number {
        1 => reply(404, r#"{"code":"NoSuchLease","message":"The lease has ended."}"#),
        2 => reply(412, r#"{"code":"FencingTokenStale","message":"Stale."}"#),
        3 => reply(404, r#"{"code":"NoSuchUpload","message":"Gone."}"#),
        4 => reply(507, r#"{"code":"InsufficientStorage","message":"Full."}"#),
        _ => reply(200, "no frame"),
    })
    .await;
    let client = server.client();
    let ask = async || client.call(&bucket(), &commit(), Bytes::new(), &[], soon()).await.unwrap_err();
    let lost = ask().await;
    assert!(lost.is_session_lost() && !lost.is_unknown());
    assert_eq!(lost.to_string(), "404 NoSuchLease: The lease has ended. (request r1)");
    assert!(ask().await.is_fenced());
    assert!(ask().await.is_staging_lost());
    assert_eq!(ask().await.errno(), crate::error::Errno::ENOSPC);
    assert!(matches!(ask().await, Error::Form { .. }));
}

#[tokio::test]
async fn refused_keys_are_asked_for_anew_once() {
    let server = Server::start(|number, _| match number {
        1 => reply(403, r#"{"code":"ExpiredToken","message":"Old."}"#),
        2 => told(&Answer::Usage { bytes: 0, objects: 0 }, b""),
        _ => reply(403, r#"{"code":"SignatureDoesNotMatch","message":"No."}"#),
    })
    .await;
    let client = server.client();
    client.call(&bucket(), &Call::Usage, Bytes::new(), &[], soon()).await.unwrap();
    let found = client.call(&bucket(), &Call::Usage, Bytes::new(), &[], soon()).await;
    assert!(matches!(found, Err(Error::Denied { .. })) && server.asked().len() == 4);
}

#[tokio::test]
async fn bytes_are_staged_as_parts() {
    let id = Stamp::default();
    let server = Server::start(move |_, asked| match asked.method {
        Method::POST => reply(200, format!("<R><Key>a&lt;UploadId></Key><UploadId>{id}</UploadId></R>")),
        Method::PUT => reply(200, ""),
        _ => reply(404, "<Error><Code>NoSuchUpload</Code></Error>"),
    })
    .await;
    let (client, key) = (server.client(), "a/b".parse().unwrap());
    let upload = client.create_upload(&bucket(), &key, soon()).await.unwrap();
    assert_eq!(upload, id);
    client.upload_part(&bucket(), &key, upload, 3, Bytes::from_static(b"bytes"), soon()).await.unwrap();
    client.abort_upload(&bucket(), &key, upload, soon()).await.unwrap();
    let targets: Vec<_> = server.asked().into_iter().map(|asked| asked.target).collect();
    let expected = ["?uploads=".to_owned(), format!("?partNumber=3&uploadId={id}"), format!("?uploadId={id}")];
    assert_eq!(targets, expected.map(|query| format!("/files/a/b{query}")));
}

#[tokio::test]
async fn a_lock_whose_answer_was_lost_is_known_again() {
    let owner = Arc::new(Mutex::new(String::new()));
    let server = Server::start(move |number, asked| {
        let query = url::form_urlencoded::parse(asked.target.split_once('?').unwrap().1.as_bytes());
        let asked = query.into_iter().find(|(name, _)| name == "owner").unwrap().1.into_owned();
        match number {
            1 => {
                *owner.lock().unwrap() = asked;
                Does::Drops
            }
            _ => {
                let holders = serde_json::json!([{ "lease": 9, "token": 11, "owner": *owner.lock().unwrap() }]);
                let held = serde_json::json!({ "code": "LockHeld", "name": "mount/b", "holders": holders });
                reply(409, held.to_string())
            }
        }
    })
    .await;
    let client = server.client();
    let wanted = LockWanted { name: "mount/b", owner: "host ä", ttl: Duration::from_secs(15), wait: Duration::ZERO };
    let grant = client.lock(wanted, soon()).await.unwrap();
    assert_eq!((grant.lease, grant.fence), (9, Fence { name: "mount/b".into(), token: 11 }));
    let error = client.lock(wanted, soon()).await.unwrap_err();
    assert!(error.is_held() && error.to_string().contains("is held by host ä"), "{error}");
}

#[tokio::test]
async fn ranges_and_leases_are_asked_for_as_documented() {
    let server = Server::start(|number, _| match number {
        1 => reply(200, r#"{"token":7}"#),
        2 => reply(409, r#"{"code":"RangeHeld","holder":{"lease":1,"owner":2,"pid":77,"mode":"shared","start":5}}"#),
        3 => reply(409, r#"{"code":"Deadlock","message":"A circle."}"#),
        4 => reply(200, r#"{"resource":"mount/b/1"}"#),
        5 => reply(200, r#"{"holder":null}"#),
        6 => reply(200, r#"{"granted":true,"token":7}"#),
        7 => reply(200, r#"{"lease":4,"ttl_ms":15000}"#),
        _ => reply(404, r#"{"code":"NoSuchLease","message":"Ended."}"#),
    })
    .await;
    let client = server.client();
    let range = RangeLock {
        file: "mount/b/1".into(),
        lease: 4,
        owner: 8,
        pid: 99,
        start: 1,
        end: 9,
        exclusive: Some(true),
        ticket: 55,
    };
    let open_end = RangeLock { end: u64::MAX, exclusive: Some(false), ..range.clone() };
    assert_eq!(client.set_range(&range, Duration::from_secs(2), soon()).await.unwrap(), None);
    let holder = Holder { pid: 77, start: 5, end: u64::MAX, exclusive: false };
    assert_eq!(client.set_range(&open_end, Duration::ZERO, soon()).await.unwrap(), Some(holder));
    let error = client.set_range(&range, Duration::ZERO, soon()).await.unwrap_err();
    assert_eq!(error.errno(), crate::error::Errno::EDEADLK);
    let unlock = RangeLock { exclusive: None, ..range.clone() };
    assert_eq!(client.set_range(&unlock, Duration::ZERO, soon()).await.unwrap(), None);
    assert_eq!(client.test_range(&range, soon()).await.unwrap(), None);
    assert!(client.cancel_range(&range, soon()).await.unwrap());
    assert_eq!(client.renew(4, None, soon()).await.unwrap(), Duration::from_secs(15));
    assert!(client.renew(4, Some(Duration::from_secs(9)), soon()).await.unwrap_err().is_session_lost());
    client.release(4, soon()).await.unwrap();
    let targets: Vec<_> =
        server.asked().into_iter().map(|asked| format!("{} {}", asked.method, asked.target)).collect();
    let file = "/_holdfast/v1/ranges/mount/b/1?lease=4&owner=8";
    assert_eq!(
        targets,
        [
            format!("PUT {file}&mode=exclusive&start=1&end=9&pid=99&ticket=55&wait=2000ms"),
            format!("PUT {file}&mode=shared&start=1&pid=99"),
            format!("PUT {file}&mode=exclusive&start=1&end=9&pid=99"),
            format!("DELETE {file}&start=1&end=9"),
            format!("GET {file}&mode=exclusive&start=1&end=9"),
            format!("DELETE {file}&mode=exclusive&start=1&end=9&ticket=55"),
            "POST /_holdfast/v1/leases/4".to_owned(),
            "POST /_holdfast/v1/leases/4?ttl=9000ms".to_owned(),
            "DELETE /_holdfast/v1/leases/4".to_owned(),
        ]
    );
}

#[tokio::test]
async fn the_feed_tells_changes_and_marks() {
    let stream = concat!(
        "retry: 1000\n\n",
        "id: 5.end\nevent: mark\ndata: {\"revision\":5}\n\n",
        "id: 6.0\nevent: change\ndata: {\"revision\":6,\"n\":0,\"last\":true,\"event\":\"ObjectCreated:Rename\",",
        "\"bucket\":\"files\",\"key\":\"p/b\",\"source\":\"p/a\",\"request_id\":\"x\"}\n\n",
        "id: 7.0\nevent: change\ndata: {\"revision\":7,\"event\":\"Index:Ready\",\"key\":\"i\"}\n\n",
        "event: error\ndata: {\"code\":\"Compacted\",\"message\":\"the feed is compacted\"}\n\n",
    );
    let server = Server::start(move |number, _| match number {
        1 => reply(200, stream),
        2 => reply(410, r#"{"code":"Compacted","message":"Gone."}"#),
        _ => reply(200, "retry: 1000\n\n"),
    })
    .await;
    let (tell, mut news) = mpsc::channel(10);
    let client = server.client();
    let mark = Duration::from_millis(250);
    let ended = client.watch(&bucket(), "p/ä", Some(4), mark, &tell).await.unwrap_err();
    assert!(ended.is_compacted(), "{ended:?}");
    let change = News::Change {
        revision: 6,
        kind: "ObjectCreated:Rename".into(),
        key: "p/b".into(),
        source: Some("p/a".into()),
    };
    assert_eq!([news.recv().await, news.recv().await], [Some(News::Mark(5)), Some(change)]);
    assert!(client.watch(&bucket(), "", None, mark, &tell).await.unwrap_err().is_compacted());
    assert!(client.watch(&bucket(), "", None, mark, &tell).await.unwrap_err().is_unknown());
    assert_eq!(server.asked()[0].target, "/_holdfast/v1/watch?bucket=files&from=4&mark=250ms&prefix=p%2F%C3%A4");
    drop(news);
    let quiet = Server::start(move |_, _| reply(200, stream)).await;
    quiet.client().watch(&bucket(), "", None, mark, &tell).await.unwrap();
}

#[tokio::test]
async fn waits_for_locks_do_not_keep_requests_from_being_sent() {
    static RELEASED: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|_, asked| {
        if asked.method == Method::PUT {
            return Does::Hangs;
        }
        RELEASED.store(true, Ordering::SeqCst);
        reply(200, "{}")
    })
    .await;
    let client = server.client();
    let mut waits = JoinSet::new();
    for ticket in 0..(REQUESTS_MAX as u64 + 8) {
        let client = client.clone();
        waits.spawn(async move {
            let range = RangeLock {
                file: "f".into(),
                lease: 1,
                owner: ticket,
                pid: 1,
                start: 0,
                end: 0,
                exclusive: Some(true),
                ticket,
            };
            client.set_range(&range, Duration::from_secs(60), soon()).await.map(drop)
        });
    }
    while server.asked().len() < REQUESTS_MAX + 8 {
        tokio::task::yield_now().await;
    }
    client.release(1, soon()).await.unwrap();
    assert!(RELEASED.load(Ordering::SeqCst));
}

#[tokio::test]
async fn reads_of_much_do_not_keep_leases_and_commits_waiting() {
    let server = Server::start(|_, asked| match asked.method {
        Method::GET => Does::Hangs,
        _ if asked.target.contains("/leases/") => reply(200, r#"{"lease":4,"ttl_ms":15000}"#),
        _ if asked.target.contains("/ranges/") => reply(200, "{}"),
        _ => told(&Answer::Outcomes(vec![StepOutcome::Done]), b""),
    })
    .await;
    let client = server.client();
    let mut reads = JoinSet::new();
    for _ in 0..(REQUESTS_MAX + 8) {
        let client = client.clone();
        let read = async move { client.get_range(&bucket(), &"k".parse().unwrap(), "e", 0..1, soon()).await };
        reads.spawn(read);
    }
    while server.asked().len() < REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    let range =
        RangeLock { file: "f".into(), lease: 1, owner: 1, pid: 1, start: 0, end: 0, exclusive: None, ticket: 1 };
    client.renew(4, None, soon()).await.unwrap();
    client.set_range(&range, Duration::ZERO, soon()).await.unwrap();
    client.call(&bucket(), &commit(), Bytes::new(), &[], soon()).await.unwrap();
    assert_eq!(server.asked().len(), REQUESTS_MAX + 3, "and reads keep their bound");
}
