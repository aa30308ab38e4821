#![expect(clippy::disallowed_methods, reason = "each test joins the tasks that it spawns")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::client::{ClientLimits, PeerClient};
use super::server::{PeerServer, ServerLimits};
use super::trust::{Clock, ClusterSecret, Trust};
use super::*;

const SECRET: &str = "a secret of the tests, long enough for all";
const OTHER_SECRET: &str = "another secret of the tests, as long as it";

fn trust(secret: &str, cluster: &str, node: Option<u64>) -> Arc<Trust> {
    Trust::new(&ClusterSecret::new(secret).unwrap(), cluster, node).unwrap()
}

fn own(node: u64) -> Arc<Trust> {
    trust(SECRET, "c", Some(node))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Answers what the tests ask; counts what it was asked.
#[derive(Default)]
struct Answers {
    asked: AtomicUsize,
    most_waiting: AtomicUsize,
}

#[async_trait]
impl PeerHandler for Answers {
    async fn call(&self, from: Sender, method: &str, body: Bytes) -> Result<Bytes, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match method {
            "echo" => Ok(body),
            "who" => Ok(format!("{:?}", from.node).into()),
            "no" => Err("not today".into()),
            "slow" => {
                sleep(Duration::from_millis(500)).await;
                Ok("slow".into())
            }
            "forever" => std::future::pending().await,
            "big" => Ok(vec![0; MESSAGE_BYTES_MAX + 1].into()),
            _ => Err(format!("no method {method}")),
        }
    }

    async fn upload(&self, from: Sender, method: &str, head: Bytes, mut body: Upload) -> Result<Bytes, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if method == "refuse" {
            return Err("no uploads today".into());
        }
        let (mut count, mut sum) = (0u64, 0u64);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| format!("broken after {count}: {error}"))?;
            self.most_waiting.fetch_max(piece.len(), Ordering::Relaxed);
            count += piece.len() as u64;
            sum = piece.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        }
        Ok(format!("{:?} {} {count} {sum}", from.node, String::from_utf8_lossy(&head)).into())
    }
}

struct Running {
    address: SocketAddr,
    answers: Arc<Answers>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(trust: Arc<Trust>) -> Self {
        Self::start_with(trust, ServerLimits::default(), None).await
    }

    async fn start_with(
        trust: Arc<Trust>,
        limits: ServerLimits,
        denied: Option<watch::Receiver<BTreeSet<u64>>>,
    ) -> Self {
        Self::start_at("127.0.0.1:0", trust, limits, denied).await
    }

    async fn start_at(
        listen: &str,
        trust: Arc<Trust>,
        limits: ServerLimits,
        denied: Option<watch::Receiver<BTreeSet<u64>>>,
    ) -> Self {
        let mut server = PeerServer::bind(listen, trust, limits).await.unwrap();
        if let Some(denied) = denied {
            server = server.denying(denied);
        }
        let (address, answers, stop) = (server.address(), Arc::new(Answers::default()), CancellationToken::new());
        let serving = tokio::spawn(server.serve(Arc::clone(&answers) as _, stop.clone()));
        Self { address, answers, stop, serving }
    }

    fn as_node(&self, node: Option<u64>) -> PeerAddress {
        PeerAddress { address: self.address.to_string(), node }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

fn client(trust: Arc<Trust>) -> PeerClient {
    PeerClient::new(trust, ClientLimits::default()).unwrap()
}

async fn ask(client: &PeerClient, peer: &PeerAddress, method: &'static str) -> Result<String, PeerError> {
    let reply = client.call(peer, method, Bytes::from_static(b"hello"), soon()).await?;
    Ok(String::from_utf8(reply.to_vec()).unwrap())
}

fn why_unreachable(result: Result<String, PeerError>) -> String {
    match result {
        Err(PeerError::Unreachable { why, .. }) => why,
        other => panic!("not unreachable: {other:?}"),
    }
}

#[tokio::test]
async fn peers_of_one_cluster_talk_and_know_each_other() {
    let server = Running::start(own(2)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    assert_eq!(ask(&client, &peer, "echo").await.unwrap(), "hello");
    assert_eq!(ask(&client, &peer, "who").await.unwrap(), "Some(1)");
    assert_eq!(ask(&client, &server.as_node(None), "who").await.unwrap(), "Some(1)");
    match ask(&client, &peer, "no").await {
        Err(PeerError::Refused { why, .. }) => assert_eq!(why, "not today"),
        other => panic!("{other:?}"),
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_stranger_is_not_heard() {
    let server = Running::start(own(2)).await;
    let peer = server.as_node(None);
    for stranger in [trust(OTHER_SECRET, "c", Some(1)), trust(SECRET, "d", Some(1)), trust(OTHER_SECRET, "d", None)] {
        let why = why_unreachable(ask(&client(stranger), &peer, "echo").await);
        assert!(why.contains("cluster name and secret"), "{why}");
    }
    assert_eq!(server.answers.asked.load(Ordering::Relaxed), 0);
    server.stop().await;
}

/// A client that does not check anything and shows what it is told to.
fn careless(certificate: Option<Arc<Trust>>, server_name: &'static str) -> (TlsConnector, ServerName<'static>) {
    #[derive(Debug)]
    struct Careless;
    impl rustls::client::danger::ServerCertVerifier for Careless {
        fn verify_server_cert(
            &self,
            _: &rustls_pki_types::CertificateDer<'_>,
            _: &[rustls_pki_types::CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls_pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
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
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.verify_tls12_signature(message, certificate, signature)
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ED25519, rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(trust) => {
            builder.with_client_cert_resolver(trust.client_config().unwrap().client_auth_cert_resolver.clone())
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    (TlsConnector::from(Arc::new(config)), ServerName::try_from(server_name).unwrap())
}

/// What a client gets to read before the connection ends: nothing at all, or an error.
async fn heard(address: SocketAddr, tls: (TlsConnector, ServerName<'static>)) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = tls.0.connect(tls.1, stream).await else { return 0 };
    let mut heard = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await.expect("the connection ends");
    heard.len()
}

#[tokio::test]
async fn without_a_good_certificate_there_is_only_a_closed_connection() {
    let server_trust = own(2);
    let server = Running::start(Arc::clone(&server_trust)).await;
    let right_name: &'static str = server_trust.server_name().to_str().into_owned().leak();
    // Whoever does not know the cluster's tag does not even see a certificate.
    let (connector, name) = careless(None, "example.internal");
    let stream = TcpStream::connect(server.address).await.unwrap();
    let error = connector.connect(name, stream).await.expect_err("no handshake").to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    assert_eq!(heard(server.address, careless(None, right_name)).await, 0, "no certificate");
    let stranger = trust(OTHER_SECRET, "c", Some(1));
    assert_eq!(
        heard(server.address, careless(Some(stranger), right_name)).await,
        0,
        "certificate of another authority"
    );
    // The measure itself can hear: with a good certificate the server begins to speak, and does not end.
    let (connector, name) = careless(Some(own(1)), right_name);
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    assert!(stream.read_u8().await.is_ok());
    drop(stream);
    assert_eq!(server.answers.asked.load(Ordering::Relaxed), 0);
    server.stop().await;
}

#[tokio::test]
async fn garbage_and_silence_end_the_connection() {
    let limits = ServerLimits { handshake_deadline: Duration::from_millis(300), ..ServerLimits::default() };
    let server = Running::start_with(own(2), limits, None).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 4096], b""] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        let read = stream.read_to_end(&mut heard);
        let _ = timeout(Duration::from_secs(5), read).await.expect("the connection ends");
        // A TLS alert at most, nothing of HTTP.
        assert!(heard.len() <= 7, "{heard:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let limits = ServerLimits { handshake_deadline: Duration::from_secs(60), ..ServerLimits::default() };
    let server = Running::start_with(own(2), limits, None).await;
    let mut silent = Vec::new();
    for _ in 0..super::server::HANDSHAKES_PER_ADDRESS_MAX {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut more = TcpStream::connect(server.address).await.unwrap();
    let ended = timeout(Duration::from_secs(5), more.read(&mut [0; 1])).await.expect("closed at once");
    assert!(matches!(ended, Ok(0) | Err(_)));
    drop(silent);
    let client = client(own(1));
    let peer = server.as_node(None);
    let reached = async { while ask(&client, &peer, "echo").await.is_err() {} };
    timeout(Duration::from_secs(10), reached).await.expect("room again once the silent ones are gone");
    server.stop().await;
}

/// A clock that the test sets, in hours from now.
fn clock(start_hours: i64) -> (Arc<AtomicU64>, Clock) {
    const ZERO: u64 = 1000;
    let hours = Arc::new(AtomicU64::new(ZERO.checked_add_signed(start_hours).unwrap()));
    let read = Arc::clone(&hours);
    let now = move || {
        SystemTime::now() + Duration::from_secs(3600 * read.load(Ordering::Relaxed)) - Duration::from_secs(3600 * ZERO)
    };
    (hours, Arc::new(now))
}

fn with_clock(node: u64, clock: Clock) -> Arc<Trust> {
    Trust::with_clock(&ClusterSecret::new(SECRET).unwrap(), "c", Some(node), clock).unwrap()
}

#[tokio::test]
async fn clocks_may_differ_by_hours_but_not_by_days() {
    let server = Running::start(own(2)).await;
    let peer = server.as_node(Some(2));
    for (hours, reached) in [(0, true), (1, true), (-1, true), (11, true), (-11, true), (36, false), (-36, false)] {
        let answer = ask(&client(with_clock(1, clock(hours).1)), &peer, "who").await;
        assert_eq!(answer.is_ok(), reached, "{hours} hours: {answer:?}");
        if !reached {
            assert!(why_unreachable(answer).contains("their clocks right"));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_a_server_that_the_client_trusts() {
    // The client's clock is right when it checks the server, yet it shows a certificate made three days ago.
    let server_trust = own(2);
    let server = Running::start(Arc::clone(&server_trust)).await;
    let right_name: &'static str = server_trust.server_name().to_str().into_owned().leak();
    let expired = with_clock(1, clock(-72).1);
    assert_eq!(heard(server.address, careless(Some(expired), right_name)).await, 0);
    assert_eq!(server.answers.asked.load(Ordering::Relaxed), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_names_another_node_gets_no_message() {
    let server = Running::start(own(3)).await;
    let client = client(own(1));
    let why = why_unreachable(ask(&client, &server.as_node(Some(2)), "echo").await);
    assert_eq!(why, "its certificate names node 3, not node 2");
    assert_eq!(server.answers.asked.load(Ordering::Relaxed), 0);
    assert_eq!(ask(&client, &server.as_node(Some(3)), "echo").await.unwrap(), "hello");
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_gets_its_id_is_known_by_it_at_once() {
    let joining = trust(SECRET, "c", None);
    let server = Running::start(own(2)).await;
    let joining_server = Running::start(Arc::clone(&joining)).await;
    let (from_joining, to_joining) = (client(Arc::clone(&joining)), client(own(2)));
    assert_eq!(ask(&from_joining, &server.as_node(Some(2)), "who").await.unwrap(), "None");
    assert_eq!(ask(&to_joining, &joining_server.as_node(None), "who").await.unwrap(), "Some(2)");
    let why = why_unreachable(ask(&to_joining, &joining_server.as_node(Some(7)), "echo").await);
    assert_eq!(why, "its certificate names a node without an id, not node 7");
    joining.set_node(7).unwrap();
    assert_eq!(ask(&from_joining, &server.as_node(Some(2)), "who").await.unwrap(), "Some(7)");
    let named = async { while ask(&to_joining, &joining_server.as_node(Some(7)), "echo").await.is_err() {} };
    timeout(Duration::from_secs(10), named).await.expect("the old connection was replaced");
    server.stop().await;
    joining_server.stop().await;
}

#[tokio::test]
async fn certificates_rotate_while_calls_run() {
    let (server_hours, server_clock) = clock(0);
    let (client_hours, client_clock) = clock(0);
    let server = Running::start(with_clock(2, server_clock)).await;
    let client = Arc::new(client(with_clock(1, client_clock.clone())));
    let peer = server.as_node(Some(2));
    let slow = tokio::spawn({
        let (client, peer) = (Arc::clone(&client), peer.clone());
        async move { ask(&client, &peer, "slow").await }
    });
    while server.answers.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // Both certificates of the standing connection expire meanwhile.
    server_hours.fetch_add(100, Ordering::Relaxed);
    client_hours.fetch_add(100, Ordering::Relaxed);
    assert_eq!(ask(&client, &peer, "who").await.unwrap(), "Some(1)");
    assert_eq!(slow.await.unwrap().unwrap(), "slow");
    // And whoever connects now meets fresh ones.
    let fresh = self::client(with_clock(4, client_clock));
    assert_eq!(ask(&fresh, &peer, "who").await.unwrap(), "Some(4)");
    server.stop().await;
}

#[tokio::test]
async fn a_denied_node_is_refused_from_that_moment() {
    let (deny, denied) = watch::channel(BTreeSet::new());
    let server = Running::start_with(own(2), ServerLimits::default(), Some(denied)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    assert_eq!(ask(&client, &peer, "echo").await.unwrap(), "hello");
    deny.send_replace(BTreeSet::from([1]));
    match ask(&client, &peer, "echo").await {
        Err(PeerError::Refused { why, .. }) => assert_eq!(why, "node 1 was removed from the cluster"),
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_and_replies_are_bounded() {
    let server = Running::start(own(2)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    let most = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
    assert_eq!(client.call(&peer, "echo", most.clone(), soon()).await.unwrap(), most);
    let more = Bytes::from(vec![7; MESSAGE_BYTES_MAX + 1]);
    let refused = client.call(&peer, "echo", more, soon()).await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })), "{refused:?}");
    let refused = ask(&client, &peer, "big").await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })), "{refused:?}");
    assert_eq!(server.answers.asked.load(Ordering::Relaxed), 2);
    server.stop().await;
}

fn pieces(count: usize) -> Upload {
    const PIECE: Bytes = Bytes::from_static(&[1; 64 << 10]);
    Box::pin(stream::repeat_with(|| Ok(PIECE)).take(count))
}

#[tokio::test]
async fn an_upload_of_any_length_streams_through() {
    let server = Running::start(own(2)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    // The sender counts what it has handed out, the receiver what it has got: neither may run far ahead.
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let body: Upload = Box::pin(pieces(1600).inspect_ok(move |piece| {
        counted.fetch_add(piece.len(), Ordering::Relaxed);
    }));
    let began = Instant::now();
    let reply = client.upload(&peer, "sum", Bytes::from_static(b"head"), body, soon()).await.unwrap();
    let reply = String::from_utf8(reply.to_vec()).unwrap();
    assert!(reply.starts_with(&format!("Some(1) head {} ", 100 << 20)), "{reply}");
    assert_eq!(sent.load(Ordering::Relaxed), 100 << 20);
    eprintln!("100 MiB in {:?}", began.elapsed());
    let empty = client.upload(&peer, "sum", Bytes::new(), pieces(0), soon()).await.unwrap();
    assert_eq!(&empty[..], b"Some(1)  0 0");
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_the_sender_back() {
    struct Unread;
    #[async_trait]
    impl PeerHandler for Unread {
        async fn call(&self, _: Sender, _: &str, _: Bytes) -> Result<Bytes, String> {
            Ok(Bytes::new())
        }
        async fn upload(&self, _: Sender, _: &str, _: Bytes, _body: Upload) -> Result<Bytes, String> {
            std::future::pending().await
        }
    }
    let server = PeerServer::bind("127.0.0.1:0", own(2), ServerLimits::default()).await.unwrap();
    let (peer, stop) = (PeerAddress { address: server.address().to_string(), node: None }, CancellationToken::new());
    let serving = tokio::spawn(server.serve(Arc::new(Unread), stop.clone()));
    let client = client(own(1));
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let body: Upload = Box::pin(pieces(1600).inspect_ok(move |piece| {
        counted.fetch_add(piece.len(), Ordering::Relaxed);
    }));
    let deadline = Instant::now() + Duration::from_secs(1);
    let ended = client.upload(&peer, "sum", Bytes::new(), body, deadline).await;
    assert!(matches!(ended, Err(PeerError::NoAnswer { .. })), "{ended:?}");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 0 && sent < 16 << 20, "{sent} bytes are in buffers");
    // A stuck upload does not keep calls from passing.
    assert!(client.call(&peer, "any", Bytes::new(), soon()).await.is_ok());
    client.close().await;
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_broken_upload_never_looks_complete() {
    let server = Running::start(own(2)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    let broken: Upload = Box::pin(pieces(3).chain(stream::iter([Err(std::io::Error::other("the disk broke"))])));
    let ended = client.upload(&peer, "sum", Bytes::new(), broken, soon()).await;
    assert!(!matches!(ended, Ok(_) | Err(PeerError::Unreachable { .. })), "{ended:?}");
    let refused = client.upload(&peer, "refuse", Bytes::new(), pieces(1600), soon()).await;
    match refused {
        Err(PeerError::Refused { why, .. }) => assert_eq!(why, "no uploads today"),
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_its_work() {
    let server = Running::start(own(2)).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    let began = Instant::now();
    let ended = client.call(&peer, "forever", Bytes::new(), began + Duration::from_millis(200)).await;
    assert!(matches!(ended, Err(PeerError::NoAnswer { .. })), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    // The server gave the work up too: it drains without waiting for it.
    client.close().await;
    timeout(Duration::from_secs(5), server.stop()).await.expect("nothing is in work");
}

#[tokio::test]
async fn a_server_that_goes_mid_call_leaves_the_outcome_open() {
    let limits = ServerLimits { drain_deadline: Duration::from_millis(100), ..ServerLimits::default() };
    let server = Running::start_with(own(2), limits, None).await;
    let (client, peer) = (Arc::new(client(own(1))), server.as_node(Some(2)));
    let address = server.address.to_string();
    let calling = tokio::spawn({
        let (client, peer) = (Arc::clone(&client), peer.clone());
        async move { ask(&client, &peer, "forever").await }
    });
    while server.answers.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    let ended = calling.await.unwrap();
    assert!(matches!(ended, Err(PeerError::NoAnswer { .. })), "{ended:?}");
    // Nobody is there: for certain nothing was sent.
    why_unreachable(ask(&client, &peer, "echo").await);
    // Somebody is there again: found without help.
    let again = Running::start_at(&address, own(2), ServerLimits::default(), None).await;
    let reached = async { while ask(&client, &peer, "echo").await.is_err() {} };
    timeout(Duration::from_secs(10), reached).await.expect("it connects again");
    again.stop().await;
}

#[tokio::test]
async fn a_drain_lets_calls_finish() {
    let server = Running::start(own(2)).await;
    let (client, peer) = (Arc::new(client(own(1))), server.as_node(Some(2)));
    let calling = tokio::spawn(async move { ask(&client, &peer, "slow").await });
    while server.answers.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    assert_eq!(calling.await.unwrap().unwrap(), "slow");
}

#[tokio::test]
async fn an_idle_connection_ends_and_the_next_call_does_not_notice() {
    let limits = ServerLimits { idle_deadline: Duration::from_millis(200), ..ServerLimits::default() };
    let server = Running::start_with(own(2), limits, None).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    for pause in [0, 150, 200, 250, 500, 700] {
        sleep(Duration::from_millis(pause)).await;
        assert_eq!(ask(&client, &peer, "echo").await.unwrap(), "hello", "after {pause} ms");
    }
    server.stop().await;
}

#[tokio::test]
async fn callers_share_one_connection_and_a_hasty_one_does_not_break_it() {
    let limits = ServerLimits { connections_max: 1, ..ServerLimits::default() };
    let server = Running::start_with(own(2), limits, None).await;
    let client = client(own(1));
    let peer = server.as_node(Some(2));
    // Gives up long before any handshake ends; the connection is made all the same.
    let hasty = client.call(&peer, "echo", Bytes::new(), Instant::now()).await;
    assert!(matches!(hasty, Err(PeerError::Unreachable { .. })), "{hasty:?}");
    let calls = (0..200).map(|_| ask(&client, &peer, "echo"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "hello");
    }
    server.stop().await;
}
