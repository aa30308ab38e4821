#![expect(clippy::disallowed_methods, reason = "each test joins the tasks that it spawns")]
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

use super::*;

/// Tests' certificates: self-signed for `localhost`, valid for a century, worth nothing.
const FIRST: (&str, &str) = (include_str!("tests/first.crt"), include_str!("tests/first.key"));
const SECOND: (&str, &str) = (include_str!("tests/second.crt"), include_str!("tests/second.key"));

struct Running {
    address: SocketAddr,
    metrics: HttpMetrics,
    shutdown: CancellationToken,
    serving: JoinHandle<Drained>,
}

/// Answers `/slow` after a moment, everything else at once.
async fn start(limits: Limits, tls: Option<Arc<Tls>>) -> Running {
    let metrics = HttpMetrics::default();
    let server = Server::bind("127.0.0.1:0", tls, limits, metrics.clone()).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let service = service_fn(|request: Request<Incoming>| async move {
        assert!(request.extensions().get::<Peer>().is_some());
        let pause = match request.uri().path() {
            "/slow" => Duration::from_millis(300),
            "/forever" => Duration::from_secs(3600),
            _ => Duration::ZERO,
        };
        sleep(pause).await;
        Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    Running { address, metrics, shutdown: shutdown.clone(), serving: tokio::spawn(server.serve(service, shutdown)) }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn get(&self, stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"hello") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the connection ended: {}", String::from_utf8_lossy(&reply));
            reply.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8(reply).unwrap()
    }

    async fn until_connections(&self, count: i64) {
        let reached = async {
            while self.metrics.open_connections() != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), reached)
            .await
            .unwrap_or_else(|_| panic!("{} connections", self.metrics.open_connections()));
    }
}

async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let mut rest = Vec::new();
    matches!(timeout(within, stream.read_to_end(&mut rest)).await, Ok(Ok(_) | Err(_)))
}

fn short() -> Limits {
    Limits {
        header_deadline: Duration::from_millis(300),
        idle_deadline: Duration::from_millis(900),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_head_has_a_deadline_and_an_idle_connection_a_longer_one() {
    let run = start(short(), None).await;
    let wait = Duration::from_millis(600);
    let mut silent = run.connect().await;
    assert!(is_closed(&mut silent, wait).await, "a fresh connection that says nothing");
    let mut slow = run.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: ").await.unwrap();
    assert!(is_closed(&mut slow, wait).await, "a head that does not end");
    let mut kept = run.connect().await;
    run.get(&mut kept, "/").await;
    sleep(wait).await;
    run.get(&mut kept, "/").await;
    kept.write_all(b"GET ").await.unwrap();
    assert!(is_closed(&mut kept, wait).await, "a second head that does not end");
    let mut idle = run.connect().await;
    run.get(&mut idle, "/slow").await;
    assert!(is_closed(&mut idle, Duration::from_secs(3)).await, "an idle connection");
    run.until_connections(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_and_a_thousand_slow_connections_disturb_nobody() {
    let run = start(Limits { header_deadline: Duration::from_secs(60), ..Limits::default() }, None).await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut idle = run.connect().await;
        run.get(&mut idle, "/").await;
        let mut slow = run.connect().await;
        slow.write_all(b"GET /").await.unwrap();
        held.push((idle, slow));
    }
    run.until_connections(2000).await;
    let mut fresh = run.connect().await;
    let start = std::time::Instant::now();
    for _ in 0..200 {
        run.get(&mut fresh, "/").await;
    }
    let each = start.elapsed() / 200;
    assert!(each < Duration::from_millis(20), "a request took {each:?}");
    for (idle, slow) in &mut held {
        run.get(idle, "/").await;
        slow.write_all(b" HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    }
    drop((held, fresh));
    run.until_connections(0).await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let run = start(Limits { connections_max: 2, ..Limits::default() }, None).await;
    let (mut one, mut two) = (run.connect().await, run.connect().await);
    run.get(&mut one, "/").await;
    run.get(&mut two, "/").await;
    let mut three = run.connect().await;
    let mut reply = String::new();
    three.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    three.read_to_string(&mut reply).await.unwrap();
    assert!(
        reply.starts_with("HTTP/1.1 503 ")
            && reply.contains("x-amz-request-id: ")
            && reply.contains("<Code>SlowDown</Code>"),
        "{reply}"
    );
    drop(one);
    run.until_connections(1).await;
    let mut four = run.connect().await;
    run.get(&mut four, "/").await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_work() {
    let run = start(Limits::default(), None).await;
    let mut idle = run.connect().await;
    run.get(&mut idle, "/").await;
    let mut busy = run.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    run.shutdown.cancel();
    assert!(is_closed(&mut idle, Duration::from_secs(2)).await);
    let mut reply = String::new();
    busy.read_to_string(&mut reply).await.unwrap();
    assert!(reply.ends_with("hello"), "{reply}");
    assert_eq!(run.serving.await.unwrap(), Drained { unfinished: 0 });
    assert!(TcpStream::connect(run.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let run = start(Limits { drain_deadline: Duration::from_millis(200), ..Limits::default() }, None).await;
    let mut busy = run.connect().await;
    busy.write_all(b"GET /forever HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    run.until_connections(1).await;
    run.shutdown.cancel();
    let drained = timeout(Duration::from_secs(5), run.serving).await.expect("the deadline holds").unwrap();
    assert_eq!(drained, Drained { unfinished: 1 });
}

#[tokio::test]
async fn heads_are_bounded() {
    let run = start(Limits::default(), None).await;
    for head in [format!("x: {}\r\n", "y".repeat(HEAD_BYTES_MAX)), "x: y\r\n".repeat(HEADERS_MAX + 1)] {
        let mut stream = run.connect().await;
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{head}\r\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply).await;
        assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    }
}

#[tokio::test]
async fn http2_is_spoken_without_tls_too() {
    let run = start(short(), None).await;
    let stream = TokioIo::new(run.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driving = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("http://x/slow").body(Full::<Bytes>::default()).unwrap();
        let reply = sender.send_request(request).await.unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
    timeout(Duration::from_secs(30), driving).await.expect("an idle HTTP/2 connection ends").unwrap().unwrap();
    drop(sender);
    run.until_connections(0).await;
}

/// Takes any certificate and remembers it.
#[derive(Debug, Default)]
struct Seen(std::sync::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        certificate: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = certificate.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that the server shows, after one request over TLS.
async fn shown(address: SocketAddr) -> Vec<u8> {
    let seen = Arc::new(Seen::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.dangerous().with_custom_certificate_verifier(seen.clone()).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply).await;
    assert!(reply.ends_with("hello"), "{reply}");
    std::mem::take(&mut *seen.0.lock().unwrap())
}

fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn the_certificate_reloads_when_its_files_change() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let put = |pair: (&str, &str)| {
        std::fs::write(&certificate, pair.0).unwrap();
        std::fs::write(&key, pair.1).unwrap();
    };
    put(FIRST);
    let tls = Tls::load_with(certificate.clone(), key.clone(), Duration::from_millis(20)).unwrap();
    let run = start(Limits::default(), Some(Arc::new(tls))).await;
    assert_eq!(shown(run.address).await, der(FIRST.0));
    std::fs::write(&certificate, "half a certif").unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(shown(run.address).await, der(FIRST.0), "a broken file leaves the old certificate in place");
    put(SECOND);
    let reloaded = async {
        while shown(run.address).await != der(SECOND.0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), reloaded).await.expect("the new certificate is shown");
    put((FIRST.0, SECOND.1));
    assert!(Tls::load(certificate, key).is_err(), "a key of another certificate");
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    std::fs::write(&certificate, FIRST.0).unwrap();
    std::fs::write(&key, FIRST.1).unwrap();
    let run = start(short(), Some(Arc::new(Tls::load(certificate, key).unwrap()))).await;
    let mut plain = run.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut plain, Duration::from_secs(2)).await);
    let mut silent = run.connect().await;
    assert!(is_closed(&mut silent, Duration::from_secs(2)).await, "a handshake has a deadline");
    assert!(!run.shutdown.is_cancelled());
}

#[tokio::test]
async fn addresses_that_cannot_be_bound_say_so() {
    let bind = |address: &'static str| Server::bind(address, None, Limits::default(), HttpMetrics::default());
    assert!(matches!(bind("nonsense").await, Err(Error::Address { .. })));
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address: &'static str = taken.address().to_string().leak();
    let first = TcpStream::connect(taken.address()).await.unwrap();
    assert!(matches!(bind(address).await, Err(Error::Bind { .. })));
    drop(first);
}
