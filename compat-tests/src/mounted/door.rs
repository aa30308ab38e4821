//! One address for a server that is started again on another port, and a place to cut the line: connections are passed on byte
//! by byte, to wherever the door leads at that moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

/// An open door. Dropping it ends its listener and its connections.
#[derive(Debug)]
pub struct Door {
    shared: Arc<Mutex<Shared>>,
    address: String,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    closed: bool,
    ended: bool,
    /// Both sides of every connection, to cut them.
    streams: Vec<TcpStream>,
}

impl Door {
    /// A door to `upstream` (`HOST:PORT`).
    ///
    /// # Errors
    /// When no address is free.
    pub fn open(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Shared { upstream: upstream.to_owned(), closed: false, ended: false, streams: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let own = shared.clone();
        std::thread::spawn(move || accept(&listener, &own));
        Ok(Self { shared, address })
    }

    /// `127.0.0.1:PORT`; never changes.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Leads to another server from now on; connections to the old one end.
    pub fn lead_to(&self, upstream: &str) {
        let mut shared = lock(&self.shared);
        upstream.clone_into(&mut shared.upstream);
        cut(&mut shared);
    }

    /// Closes the door: connections end, and new ones end at once, until [`Door::reopen`].
    pub fn close(&self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        cut(&mut shared);
    }

    /// Lets connections through again.
    pub fn reopen(&self) {
        lock(&self.shared).closed = false;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.ended = true;
        cut(&mut shared);
        drop(shared);
        // The listener looks at the flag when somebody comes.
        let _ = TcpStream::connect(&self.address);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(shared: &mut Shared) {
    for stream in shared.streams.drain(..) {
        // It may have ended by itself.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, shared: &Mutex<Shared>) {
    for inside in listener.incoming() {
        let mut state = lock(shared);
        if state.ended {
            return;
        }
        let Ok(inside) = inside else { continue };
        // What is dropped here is closed: the caller sees a connection that ends.
        if state.closed {
            continue;
        }
        let Ok(outside) = TcpStream::connect(&state.upstream) else { continue };
        // Those that ended are forgotten, or a long run would hold all of them.
        state.streams.retain(|stream| stream.peer_addr().is_ok());
        let _ = pass(&inside, &outside, &mut state.streams);
    }
}

fn pass(inside: &TcpStream, outside: &TcpStream, streams: &mut Vec<TcpStream>) -> std::io::Result<()> {
    for stream in [inside, outside] {
        stream.set_nodelay(true)?;
        streams.push(stream.try_clone()?);
    }
    for (from, to) in [(inside, outside), (outside, inside)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = from.read(&mut buffer) {
                if length == 0 || to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().try_for_each(|stream| stream?.write_all(answer)));
        address
    }

    fn said(door: &Door) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A closed door may end the connection before or after it is made.
        let _ = TcpStream::connect(door.address()).and_then(|mut stream| stream.read_to_end(&mut bytes));
        bytes
    }

    #[test]
    fn a_door_leads_elsewhere_and_closes() {
        let door = Door::open(&server(b"one")).unwrap();
        assert_eq!(said(&door), b"one");
        door.lead_to(&server(b"two"));
        assert_eq!(said(&door), b"two");
        door.close();
        assert_eq!(said(&door), b"");
        door.reopen();
        assert_eq!(said(&door), b"two");
    }
}
