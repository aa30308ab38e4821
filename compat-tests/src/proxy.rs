//! A proxy for HTTP/1.1 between nodes and their backend, which makes trouble on the way: it is slow, it refuses, it loses
//! the replies of conditional writes that were done.
//!
//! Requests and replies are passed on whole, one at a time on each connection, as they came: `Host` and signature stay
//! valid. Deliberately absent: TLS, pipelining, bodies that do not fit into memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use crate::client::raw::{self, Reply, read_chunked, read_line, read_reply};

/// Most connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 512;
/// Largest body of a request.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// What a slow backend adds to a request.
const SLOW: Duration = Duration::from_millis(700);

/// What the proxy does to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Each request takes longer.
    Slow,
    /// Two of three requests are answered with 503 `SlowDown` and not passed on.
    Busy,
    /// Every second conditional PUT is done, and its reply lost: the connection ends.
    LostReplies,
}

/// A running proxy. Dropping it ends its listener; its connections end with their peers.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: String,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    trouble: Mutex<Trouble>,
    requests: AtomicU32,
    conditional: AtomicU32,
    troubled: AtomicU32,
    connections: AtomicUsize,
    ended: AtomicBool,
}

struct Request {
    method: String,
    head: String,
    conditional: bool,
    close: bool,
    body: Vec<u8>,
}

impl Proxy {
    /// Listens on `host` and passes everything on to `upstream` (`HOST:PORT`).
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(host: &str, upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            trouble: Mutex::new(Trouble::None),
            requests: AtomicU32::new(0),
            conditional: AtomicU32::new(0),
            troubled: AtomicU32::new(0),
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let own = shared.clone();
        std::thread::spawn(move || own.accept(&listener));
        Ok(Self { shared, address })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Begins or ends trouble.
    pub fn make(&self, trouble: Trouble) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// How many requests had trouble so far.
    #[must_use]
    pub fn troubled(&self) -> u32 {
        self.shared.troubled.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // The listener looks at the flag when somebody comes.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            if self.connections.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX {
                let own = self.clone();
                std::thread::spawn(move || {
                    // A connection that breaks on either side breaks on the other: that is all there is to say.
                    let _ = own.serve(stream);
                    own.connections.fetch_sub(1, Ordering::Relaxed);
                });
            } else {
                self.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut client = BufReader::with_capacity(1 << 16, stream);
        let mut upstream: Option<BufReader<TcpStream>> = None;
        while let Some(request) = read_request(&mut client)? {
            let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let hit = match trouble {
                Trouble::None => false,
                Trouble::Slow => true,
                Trouble::Busy => !number.is_multiple_of(3),
                Trouble::LostReplies => {
                    request.conditional && self.conditional.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
                }
            };
            if hit {
                self.troubled.fetch_add(1, Ordering::Relaxed);
            }
            if hit && trouble == Trouble::Busy {
                refuse(client.get_mut(), &request.method)?;
                continue;
            }
            if hit && trouble == Trouble::Slow {
                std::thread::sleep(SLOW);
            }
            let (reply, keep) = self.pass_on(&mut upstream, &request)?;
            if hit && trouble == Trouble::LostReplies {
                return Ok(());
            }
            answer(client.get_mut(), &request.method, &reply)?;
            if !keep || request.close {
                return Ok(());
            }
        }
        Ok(())
    }

    fn pass_on(
        &self,
        upstream: &mut Option<BufReader<TcpStream>>,
        request: &Request,
    ) -> std::io::Result<(Reply, bool)> {
        let mut connection = match upstream.take() {
            Some(connection) => connection,
            None => raw::connect(&self.upstream)?,
        };
        connection.get_mut().write_all(request.head.as_bytes())?;
        connection.get_mut().write_all(&request.body)?;
        let (reply, keep) = read_reply(&mut connection, &request.method)?;
        if keep {
            *upstream = Some(connection);
        }
        Ok((reply, keep))
    }
}

/// The next request of a connection; `None` when it has ended.
fn read_request(client: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    if client.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let first = read_line(client)?;
    let method = first.split(' ').next().unwrap_or_default().to_owned();
    let mut request =
        Request { method, head: format!("{first}\r\n"), conditional: false, close: false, body: Vec::new() };
    let (mut length, mut chunked, mut waits) = (0, false, false);
    loop {
        let line = read_line(client)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => length = value.parse().map_err(|_| std::io::ErrorKind::InvalidData)?,
            "transfer-encoding" => {
                // The body is known as a whole when it is passed on.
                chunked = true;
                continue;
            }
            "expect" => waits = true,
            "if-none-match" | "if-match" => request.conditional = request.method == "PUT",
            "connection" => request.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
        request.head.push_str(&format!("{line}\r\n"));
    }
    if waits {
        client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if chunked {
        request.body = read_chunked(client)?;
        request.head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    } else if length > BODY_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    } else {
        client.take(length).read_to_end(&mut request.body)?;
    }
    request.head.push_str("\r\n");
    Ok(Some(request))
}

fn answer(client: &mut TcpStream, method: &str, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Passed On\r\n", reply.status);
    for (name, value) in &reply.headers {
        // The body is whole here, and has its length below.
        let framing = name == "transfer-encoding" || (name == "content-length" && method != "HEAD");
        if !framing {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if method != "HEAD" && !matches!(reply.status, 204 | 304) {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    client.write_all(&[head.as_bytes(), &reply.body].concat())
}

fn refuse(client: &mut TcpStream, method: &str) -> std::io::Result<()> {
    let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let length = body.len();
    let head = format!("HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes())?;
    if method == "HEAD" { Ok(()) } else { client.write_all(body.as_bytes()) }
}
