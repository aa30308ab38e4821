//! A webhook: an HTTP server that remembers what it is sent, and can be told how to answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Broker, Only, Server, free_port, value};
use crate::skip;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Head, line by line.
    pub head: Vec<String>,
    /// Body.
    pub body: Value,
    /// What it was answered; 0 is a closed connection.
    pub status: u16,
}

impl Received {
    /// A header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = |line: &String| line.split_once(": ").is_some_and(|(have, _)| have.eq_ignore_ascii_case(name));
        Some(self.head.iter().find(|line| header(line))?.split_once(": ")?.1)
    }
}

/// Decides on the status of the n-th request with this body; 0 closes the connection without an answer.
pub type Answer = Arc<dyn Fn(usize, &Value) -> u16 + Send + Sync>;

/// The server.
pub struct Webhook {
    host: String,
    port: u16,
    answer: Answer,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Answers every POST with 200, over TLS.
const SECURE: &str = "import http.server, ssl, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

/// One over TLS.
pub(super) fn over_tls(dir: &Path, key: &str, certificate: &str) -> Result<Only> {
    let program = skip::program(&["python3"], "apt-get install python3")?;
    let port = free_port()?;
    let server = Server::new(program, dir, "webhook-tls", port);
    let mut server = server.args(&["-c", SECURE, &port.to_string(), certificate, key]);
    server.start()?;
    Ok(Only { server, settings: json!({ "kind": "webhook", "url": format!("https://localhost:{port}/in") }) })
}

impl Webhook {
    /// One that takes everything.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn new() -> Result<Self> {
        Self::answering(Arc::new(|_, _| 200))
    }

    /// One that answers as it is told.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn answering(answer: Answer) -> Result<Self> {
        Self::on("127.0.0.1", answer)
    }

    /// As [`Webhook::answering`], at an address of this machine.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn on(host: &str, answer: Answer) -> Result<Self> {
        let port = TcpListener::bind((host, 0))?.local_addr()?.port();
        let host = host.to_owned();
        let mut own = Self { host, port, answer, received: Arc::default(), stop: Arc::default(), thread: None };
        own.start()?;
        Ok(own)
    }

    /// One at a port that does not listen yet.
    ///
    /// # Errors
    /// When there is no port.
    pub fn away() -> Result<Self> {
        let mut own = Self::new()?;
        own.stop()?;
        Ok(own)
    }

    /// All requests, those that were refused, too.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, answer: &Answer, received: &Mutex<Vec<Received>>, stop: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => head.push(line.trim().to_owned()),
                // A quiet connection, until the server ends.
                Err(_) if head.is_empty() && line.is_empty() && !stop.load(Ordering::Relaxed) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let length =
            head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.context("no length")?];
        reader.read_exact(&mut body)?;
        let body = value(&body)?;
        let status = {
            let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
            let status = answer(received.len(), &body);
            received.push(Received { head, body, status });
            status
        };
        if status == 0 {
            return Ok(());
        }
        write!(writer, "HTTP/1.1 {status} Because\r\ncontent-length: 2\r\n\r\nok")?;
    }
}

impl Broker for Webhook {
    fn settings(&self) -> Value {
        json!({ "kind": "webhook", "url": format!("http://{}:{}/in?a=b", self.host, self.port) })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        Ok(self.requests().into_iter().filter(|request| request.status == 200).map(|request| request.body).collect())
    }

    fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect((self.host.as_str(), self.port)));
        self.thread.take().context("it does not run")?.join().map_err(|_| anyhow::anyhow!("a webhook panicked"))
    }

    fn start(&mut self) -> Result<()> {
        ensure!(self.thread.is_none(), "it runs");
        let listener = TcpListener::bind((self.host.as_str(), self.port))?;
        self.stop = Arc::default();
        let (answer, received, stop) = (self.answer.clone(), self.received.clone(), self.stop.clone());
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (answer, received, stop) = (answer.clone(), received.clone(), stop.clone());
                std::thread::spawn(move || serve(stream, &answer, &received, &stop));
            }
        }));
        Ok(())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.stop();
        }
    }
}
