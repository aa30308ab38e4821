//! Byte-range and whole-file locks as a mount meets them: over HTTP, by several sessions, at several nodes.

use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_compat_tests::client::raw::{Call, Raw, Reply};
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::Endpoint;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const NODES: usize = 3;

type Case = (&'static str, fn(&Endpoint) -> Result<()>);

const CASES: &[Case] = &[
    ("a_wait_for_a_range_ends_with_its_grant", granted),
    ("a_circle_of_range_waits_is_refused_over_http", deadlock),
    ("a_session_that_dies_gives_up_its_ranges", session_dies),
    ("whoever_waits_for_a_range_and_goes_away_leaves_the_queue", queue_is_left),
    ("whoever_cancels_a_wait_hears_whether_it_was_granted", cancelled),
    ("a_whole_file_is_locked_beside_its_ranges", whole_file),
    ("a_range_request_that_cannot_be_right_is_refused", wrong_requests),
];

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    for (name, run) in CASES.iter().copied() {
        suite.case_with_server(name, &[], move |_, endpoint, _| run(endpoint));
    }
    suite.case("ranges_hold_across_nodes_and_survive_the_leader", across_nodes);
    suite.run()
}

fn send(raw: &mut Raw, method: &str, path: &str, query: &[(&str, String)]) -> Result<Reply> {
    let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(raw.send(&Call { method, bucket: "_holdfast", key: path, query: &query, headers: &[], body: b"" })?)
}

fn value(reply: &Reply) -> Result<Value> {
    serde_json::from_slice(&reply.body).with_context(|| reply.text())
}

fn code(reply: &Reply, status: u16, code: &str) -> Result<Value> {
    let answer = value(&reply.clone().expect(status)?)?;
    ensure!(answer["code"] == code, "{answer}");
    Ok(answer)
}

/// A mount's session at a node.
#[derive(Clone)]
struct Session {
    endpoint: Endpoint,
    lease: u64,
}

/// A range in a request: owner, mode, first and last byte.
type Asked<'a> = (u64, &'a str, u64, u64);

impl Session {
    fn new(endpoint: &Endpoint, ttl: &str) -> Result<Self> {
        let reply = send(&mut endpoint.raw(), "POST", "v1/leases", &[("ttl", ttl.into()), ("owner", "mount".into())])?;
        let lease = value(&reply.expect(200)?)?["lease"].as_u64().context("no lease")?;
        Ok(Self { endpoint: endpoint.clone(), lease })
    }

    fn query(&self, (owner, mode, start, end): Asked<'_>) -> Vec<(&'static str, String)> {
        let mut query = vec![("lease", self.lease.to_string()), ("owner", owner.to_string())];
        if !mode.is_empty() {
            query.push(("mode", mode.into()));
        }
        query.extend([("start", start.to_string()), ("end", end.to_string())]);
        query
    }

    fn ask(&self, method: &str, file: &str, asked: Asked<'_>, more: &[(&'static str, &str)]) -> Result<Reply> {
        let mut query = self.query(asked);
        query.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        send(&mut self.endpoint.raw(), method, &format!("v1/ranges/{file}"), &query)
    }

    fn lock(&self, file: &str, asked: Asked<'_>) -> Result<Reply> {
        self.ask("PUT", file, asked, &[("pid", "4711")])
    }

    fn unlock(&self, file: &str, (owner, start, end): (u64, u64, u64)) -> Result<Reply> {
        self.ask("DELETE", file, (owner, "", start, end), &[])
    }

    /// A request that waits, in a thread of its own.
    fn wait(&self, file: &'static str, asked: Asked<'static>, ticket: &'static str) -> JoinHandle<Result<Reply>> {
        let own = self.clone();
        std::thread::spawn(move || own.ask("PUT", file, asked, &[("wait", "30s"), ("ticket", ticket)]))
    }
}

fn shown(endpoint: &Endpoint, file: &str) -> Result<Value> {
    value(&send(&mut endpoint.raw(), "GET", &format!("v1/ranges/{file}"), &[])?.expect(200)?)
}

fn await_waiters(endpoint: &Endpoint, file: &str, count: usize) -> Result<()> {
    wait_until("the waiters", SOON, || Ok(shown(endpoint, file)?["waiters"].as_array().map(Vec::len) == Some(count)))
}

fn join(waiter: JoinHandle<Result<Reply>>) -> Result<Reply> {
    waiter.join().map_err(|_| anyhow!("a waiter panicked"))?
}

fn granted(endpoint: &Endpoint) -> Result<()> {
    let (one, two) = (Session::new(endpoint, "60s")?, Session::new(endpoint, "60s")?);
    one.lock("b/7", (1, "exclusive", 0, 99))?.expect(200)?;
    let held = code(&two.lock("b/7", (1, "shared", 50, 149))?, 409, "RangeHeld")?;
    let holder = json!({ "lease": one.lease, "owner": 1, "pid": 4711, "mode": "exclusive", "start": 0, "end": 99 });
    ensure!(held["holder"] == holder, "{held}");
    let test = two.ask("GET", "b/7", (1, "shared", 50, 149), &[])?.expect(200)?;
    ensure!(value(&test)?["holder"] == holder, "{}", test.text());
    let free = value(&two.ask("GET", "b/7", (1, "shared", 100, 149), &[])?.expect(200)?)?;
    ensure!(free["holder"] == Value::Null, "{free}");
    let waiter = two.wait("b/7", (1, "shared", 50, 149), "1");
    await_waiters(endpoint, "b/7", 1)?;
    let began = Instant::now();
    // What is left of it is in nobody's way.
    one.unlock("b/7", (1, 40, 99))?.expect(200)?;
    let got = value(&join(waiter)?.expect(200)?)?;
    ensure!(got["token"].as_u64().is_some() && began.elapsed() < SOON, "{got} after {:?}", began.elapsed());
    let state = shown(endpoint, "b/7")?;
    let bytes: Vec<_> = state["holders"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|holder| (holder["lease"].as_u64(), holder["start"].as_u64(), holder["end"].as_u64()))
        .collect();
    let of = |session: &Session, start, end| (Some(session.lease), Some(start), Some(end));
    ensure!(bytes == [of(&one, 0, 39), of(&two, 50, 149)] && state["waiters"] == json!([]), "{state}");
    let listed = send(&mut endpoint.raw(), "GET", "v1/ranges", &[("lease", one.lease.to_string())])?.expect(200)?;
    ensure!(value(&listed)?["resources"] == json!([{ "resource": "b/7", "ranges": 1 }]), "{}", listed.text());
    Ok(())
}

fn deadlock(endpoint: &Endpoint) -> Result<()> {
    let (one, two) = (Session::new(endpoint, "60s")?, Session::new(endpoint, "60s")?);
    one.lock("f", (1, "exclusive", 0, 0))?.expect(200)?;
    two.lock("g", (1, "exclusive", 0, 0))?.expect(200)?;
    let waiter = one.wait("g", (1, "exclusive", 0, 9), "1");
    await_waiters(endpoint, "g", 1)?;
    let began = Instant::now();
    code(&join(two.wait("f", (1, "shared", 0, 9), "1"))?, 409, "Deadlock")?;
    ensure!(began.elapsed() < SOON, "it was refused after {:?}", began.elapsed());
    two.unlock("g", (1, 0, 9))?.expect(200)?;
    join(waiter)?.expect(200)?;
    Ok(())
}

fn session_dies(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("mounted")?;
    let (dies, lives) = (Session::new(endpoint, "2s")?, Session::new(endpoint, "60s")?);
    let fence = format!("={}", dies.lease);
    let mut raw = endpoint.raw();
    raw.put(&bucket, "k", &[("x-holdfast-fence", &fence)], b"x")?.expect(200)?;
    for file in ["f", "g"] {
        dies.lock(file, (1, "exclusive", 0, 99))?.expect(200)?;
    }
    let waiter = lives.wait("f", (1, "exclusive", 10, 19), "1");
    await_waiters(endpoint, "f", 1)?;
    let began = Instant::now();
    join(waiter)?.expect(200)?;
    ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    let left = shown(endpoint, "g")?;
    ensure!(left["holders"] == json!([]), "{left}");
    let late = raw.put(&bucket, "k", &[("x-holdfast-fence", &fence)], b"late")?;
    late.expect_error(412, "FencingTokenStale")?;
    ensure!(raw.get(&bucket, "k", &[])?.expect(200)?.body == b"x", "a write of a dead session is there");
    code(&dies.lock("g", (1, "shared", 0, 0))?, 404, "NoSuchLease")?;
    Ok(())
}

fn queue_is_left(endpoint: &Endpoint) -> Result<()> {
    let session = Session::new(endpoint, "60s")?;
    session.lock("f", (1, "exclusive", 0, 9))?.expect(200)?;
    let mut query = session.query((2, "exclusive", 0, 9));
    query.push(("wait", "60s".into()));
    // It goes away without a word.
    let lost = send(&mut endpoint.raw().within(Duration::from_millis(1500)), "PUT", "v1/ranges/f", &query);
    ensure!(lost.is_err(), "it was answered: {lost:?}");
    await_waiters(endpoint, "f", 0)?;
    // Whoever stays is answered in time.
    let began = Instant::now();
    let late = session.ask("PUT", "f", (2, "exclusive", 0, 9), &[("wait", "1s")])?;
    code(&late, 409, "RangeHeld")?;
    let took = began.elapsed();
    ensure!(took >= Duration::from_secs(1) && took < SOON, "it waited {took:?}");
    ensure!(shown(endpoint, "f")?["waiters"] == json!([]), "it still waits");
    Ok(())
}

fn cancelled(endpoint: &Endpoint) -> Result<()> {
    let session = Session::new(endpoint, "60s")?;
    let wants = (2, "exclusive", 0, 9);
    session.lock("f", (1, "exclusive", 0, 9))?.expect(200)?;
    let waiter = session.wait("f", wants, "77");
    await_waiters(endpoint, "f", 1)?;
    let cancel = || value(&session.ask("DELETE", "f", wants, &[("ticket", "77")])?.expect(200)?);
    let told = cancel()?;
    ensure!(told["granted"] == false, "{told}");
    code(&join(waiter)?, 409, "RangeHeld")?;
    let waiter = session.wait("f", wants, "77");
    await_waiters(endpoint, "f", 1)?;
    session.unlock("f", (1, 0, 9))?.expect(200)?;
    join(waiter)?.expect(200)?;
    let told = cancel()?;
    ensure!(told["granted"] == true && told["token"].is_u64(), "{told}");
    Ok(())
}

fn whole_file(endpoint: &Endpoint) -> Result<()> {
    let session = Session::new(endpoint, "60s")?;
    let flock = |owner: u64, mode: &'static str| {
        let query = [
            ("lease", session.lease.to_string()),
            ("owner", owner.to_string()),
            ("family", "flock".into()),
            ("mode", mode.into()),
        ];
        send(&mut endpoint.raw(), "PUT", "v1/ranges/f", &query)
    };
    session.lock("f", (1, "exclusive", 0, 99))?.expect(200)?;
    let got = value(&flock(2, "shared")?.expect(200)?)?;
    ensure!(got["start"] == 0 && got["end"] == Value::Null, "{got}");
    flock(3, "shared")?.expect(200)?;
    let lost = code(&flock(2, "exclusive")?, 409, "RangeHeld")?;
    ensure!(lost["holder"]["owner"] == 3, "{lost}");
    flock(3, "exclusive")?.expect(200)?;
    Ok(())
}

fn wrong_requests(endpoint: &Endpoint) -> Result<()> {
    let session = Session::new(endpoint, "60s")?;
    let bad = |method: &str, query: &[(&str, &str)]| {
        let query: Vec<_> = query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        send(&mut endpoint.raw(), method, "v1/ranges/f", &query)
    };
    let lease = session.lease.to_string();
    let wrong: &[(&str, &[(&str, &str)])] = &[
        ("PUT", &[("lease", &lease), ("owner", "1")]),
        ("PUT", &[("lease", &lease), ("mode", "shared")]),
        ("PUT", &[("lease", &lease), ("owner", "1"), ("mode", "both")]),
        ("PUT", &[("lease", &lease), ("owner", "-1"), ("mode", "shared")]),
        ("PUT", &[("lease", &lease), ("owner", "1"), ("mode", "shared"), ("start", "5"), ("end", "4")]),
        ("PUT", &[("lease", &lease), ("owner", "1"), ("mode", "shared"), ("family", "flock"), ("end", "4")]),
        ("PUT", &[("lease", &lease), ("owner", "1"), ("mode", "shared"), ("wait", "25h")]),
        ("DELETE", &[("lease", &lease), ("owner", "1"), ("mode", "shared")]),
        ("GET", &[("lease", &lease), ("owner", "1")]),
    ];
    for (method, query) in wrong {
        code(&bad(method, query)?, 400, "InvalidArgument").with_context(|| format!("{method} {query:?}"))?;
    }
    ensure!(bad("POST", &[])?.status == 405, "what is not built is answered");
    Ok(())
}

fn across_nodes() -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    let leader = lan.leader()?;
    let (first, second) = ((leader + 1) % NODES, (leader + 2) % NODES);
    let one = Session::new(&lan.endpoint(first), "60s")?;
    let two = Session::new(&lan.endpoint(second), "60s")?;
    one.lock("f", (1, "exclusive", 0, 99))?.expect(200)?;
    code(&two.lock("f", (1, "shared", 99, 99))?, 409, "RangeHeld")?;
    let waiter = two.wait("f", (1, "shared", 0, 9), "1");
    await_waiters(&lan.endpoint(first), "f", 1)?;
    lan.kill(leader);
    wait_until("another leader", SOON, || Ok(one.unlock("f", (1, 0, 99)).is_ok_and(|reply| reply.status == 200)))?;
    join(waiter)?.expect(200)?;
    code(&one.lock("f", (1, "exclusive", 0, 99))?, 409, "RangeHeld")?;
    Ok(())
}
