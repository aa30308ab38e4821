use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn announcement() -> Announcement {
    Announcement { cluster: "c".into(), port: 9910, address: None }
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

#[test]
fn sources_are_read_as_the_contract_says() {
    let mdns = |names: &[&str]| Source::Mdns { interfaces: names.iter().map(|name| (*name).to_owned()).collect() };
    let dns = |name: &str, port| Source::Dns { name: name.into(), port };
    let fixed = |addresses: &[&str]| Source::Fixed(set(addresses));
    for (text, sources) in [
        ("mdns", vec![mdns(&[])]),
        ("mdns:eth0, eth1", vec![mdns(&["eth0", "eth1"])]),
        ("dns:peers.example", vec![dns("peers.example", PEER_PORT)]),
        ("dns:peers.example:7000", vec![dns("peers.example", 7000)]),
        ("static:a:1", vec![fixed(&["a:1"])]),
        ("static:a:1,b:2,a:1", vec![fixed(&["a:1", "b:2"])]),
        ("static:[::1]:1,10.0.0.1:65535", vec![fixed(&["[::1]:1", "10.0.0.1:65535"])]),
        (" mdns ; dns:x; static:a:1,; ", vec![mdns(&[]), dns("x", PEER_PORT), fixed(&["a:1"])]),
    ] {
        assert_eq!(parse(text), Ok(sources), "{text}");
    }
    let nine = ["mdns"; 9].join(";");
    let many: Vec<String> = (1..=65).map(|port| format!("a:{port}")).collect();
    let many = format!("static:{}", many.join(","));
    for text in [
        "",
        ";",
        "mdns:",
        "mdn",
        "dns",
        "dns:",
        "dns::1",
        "dns:a b",
        "dns:a:0",
        "dns:a:x",
        "dns:.a",
        "static",
        "static:",
        "static:a",
        "static:a:0",
        "static:a:65536",
        "static:a:-1",
        "static::1",
        "static:a:1,b",
        "static:::1:1",
        "static:[a]:1",
        "static:a/b:1",
        "etcd:x",
        &nine,
        &many,
    ] {
        assert!(parse(text).is_err(), "{text:?}: {:?}", parse(text));
    }
}

#[tokio::test]
async fn static_addresses_of_all_sources_come_once() {
    let sources = parse("static:a:1,b:2;static:b:2,c:3").unwrap();
    let discovery = Discovery::start(&sources, &announcement());
    assert_eq!(*discovery.candidates().borrow(), set(&["a:1", "b:2", "c:3"]));
    discovery.stop().await;
}

#[test]
fn no_source_crowds_out_another() {
    let (tell, candidates) = watch::channel(BTreeSet::new());
    let board = Arc::new(Board { found: Mutex::default(), tell });
    let of = |source| BoardOf { board: Arc::clone(&board), source };
    for source in 0..4 {
        of(source).put((0..1000).map(|port| format!("liar{source}:{port}")).collect());
    }
    of(4).put(set(&["honest:1"]));
    let found = candidates.borrow().clone();
    assert_eq!(found.len(), CANDIDATES_MAX);
    assert!(found.contains("honest:1"));
    of(0).put(BTreeSet::new());
    assert!(!candidates.borrow().iter().any(|address| address.starts_with("liar0")));
}

#[tokio::test]
async fn a_set_that_did_not_change_wakes_nobody() {
    let (tell, mut candidates) = watch::channel(BTreeSet::new());
    let board = BoardOf { board: Arc::new(Board { found: Mutex::default(), tell }), source: 0 };
    board.put(set(&["a:1"]));
    assert!(candidates.has_changed().unwrap());
    candidates.mark_unchanged();
    board.put(set(&["a:1"]));
    assert!(!candidates.has_changed().unwrap());
}

#[tokio::test]
async fn a_name_of_the_system_is_resolved_with_its_port() {
    let sources = parse("dns:localhost:4711").unwrap();
    let discovery = Discovery::start(&sources, &announcement());
    let mut candidates = discovery.candidates();
    let found =
        timeout(Duration::from_secs(30), candidates.wait_for(|found| !found.is_empty())).await.unwrap().unwrap();
    assert!(found.iter().any(|address| address == "127.0.0.1:4711" || address == "[::1]:4711"), "{found:?}");
    drop(found);
    discovery.stop().await;
}

/// A name server that has services for one name and nothing else.
async fn name_server(socket: UdpSocket, services: Vec<(u16, &'static str)>) {
    let mut buffer = [0; 512];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await.unwrap();
        let request = Message::from_vec(&buffer[..count]).unwrap();
        let query = request.queries[0].clone();
        let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
        answer.add_query(query.clone());
        if query.name().to_ascii() == "_holdfast._tcp.peers.example." {
            for (port, target) in &services {
                let service = RData::SRV(SRV::new(0, 0, *port, Name::from_ascii(target).unwrap()));
                answer.add_answer(Record::from_rdata(query.name().clone(), 5, service));
            }
        } else {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}

fn resolver(port: u16) -> TokioResolver {
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().timeout = Duration::from_millis(300);
    builder.build().unwrap()
}

#[tokio::test]
async fn services_bring_their_ports() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = name_server(socket, vec![(9910, "a.example."), (9911, "b.example."), (0, "c.example.")]);
    let asking = async {
        let resolver = resolver(port);
        let found = dns::services(&resolver, "peers.example.").await;
        assert_eq!(found, Some(set(&["a.example:9910", "b.example:9911"])));
        assert_eq!(
            dns::services(&resolver, "other.example.").await,
            Some(BTreeSet::new()),
            "an answer without records"
        );
    };
    tokio::select! {
        () = asking => {}
        () = server => unreachable!("it never ends"),
        () = tokio::time::sleep(SOON) => panic!("no answer in time"),
    }
}

#[tokio::test]
async fn a_silent_name_server_is_no_answer() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let found = timeout(SOON, dns::services(&resolver(socket.local_addr().unwrap().port()), "peers.example.")).await;
    assert_eq!(found.unwrap(), None);
}
