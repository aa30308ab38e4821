//! Leases, locks and ranges of files, as docs/coordination.md has them.

use std::time::Duration;

use holdfast_core::command::Fence;
use holdfast_core::id::Revision;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::error::Error;
use super::request::{Lane, Outgoing, in_path};
use super::transport::Reply;
use super::{ANSWER_BYTES_MAX, Client};
use crate::remote::{Grant, Holder, OWNER_BYTES_MAX, RangeLock};

/// What makes an owner this one: a space and sixteen digits.
const SUFFIX_BYTES: usize = 17;

/// A lock that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LockWanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Shown to others.
    pub owner: &'a str,
    /// How long its lease lasts without renewal.
    pub ttl: Duration,
    /// How long to wait for whoever has it.
    pub wait: Duration,
}

impl Client {
    /// Makes a lease live on for its time, or for another; that time.
    ///
    /// # Errors
    /// [`Error::is_session_lost`] when it has ended.
    pub async fn renew(&self, lease: Revision, ttl: Option<Duration>, deadline: Instant) -> Result<Duration, Error> {
        let mut ask = Outgoing::new(Method::POST, format!("/_holdfast/v1/leases/{lease}"));
        ask.lane = Lane::Renewal;
        if let Some(ttl) = ttl {
            ask = ask.query("ttl", &duration(ttl));
        }
        let answer = self.json(&ask, deadline).await?;
        answer["ttl_ms"].as_u64().map(Duration::from_millis).ok_or_else(|| self.form("a lease without its time"))
    }

    /// Ends a lease, and gives back what it holds. One that has ended is ended.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn release(&self, lease: Revision, deadline: Instant) -> Result<(), Error> {
        let mut ask = Outgoing::new(Method::DELETE, format!("/_holdfast/v1/leases/{lease}"));
        ask.lane = Lane::Urgent;
        match self.json(&ask, deadline).await {
            Err(error) if error.is_session_lost() => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Takes a lock alone.
    ///
    /// # Errors
    /// [`Error::is_held`] when another has it; the message says who.
    pub async fn lock(&self, wanted: LockWanted<'_>, deadline: Instant) -> Result<Grant, Error> {
        let LockWanted { name, owner, ttl, wait } = wanted;
        // Whose answer was lost finds the lock held by itself: it is known by what nobody else has.
        let most = OWNER_BYTES_MAX - SUFFIX_BYTES;
        let owner = format!("{} {:016x}", &owner[..owner.floor_char_boundary(most)], rand::random::<u64>());
        let mut ask = Outgoing::new(Method::PUT, format!("/_holdfast/v1/locks/{}", in_path(name)));
        ask = ask.query("mode", "exclusive").query("owner", &owner).query("ttl", &duration(ttl));
        if !wait.is_zero() {
            ask = ask.query("wait", &duration(wait));
        }
        (ask.wait, ask.takes_conflicts, ask.lane) = (wait, true, Lane::Urgent);
        let reply = self.send(&ask, deadline).await?;
        let answer = self.document(&reply)?;
        let claim = if reply.status == StatusCode::CONFLICT {
            let holders = answer["holders"].as_array().map(Vec::as_slice).unwrap_or_default();
            let own = holders.iter().find(|holder| holder["owner"].as_str() == Some(&owner));
            own.ok_or_else(|| held(&answer, holders.first()))?
        } else {
            &answer
        };
        match (claim["lease"].as_u64(), claim["token"].as_u64()) {
            (Some(lease), Some(token)) => Ok(Grant { lease, fence: Fence { name: name.to_owned(), token } }),
            _ => Err(self.form("a lock without lease or token")),
        }
    }

    /// Locks, converts or unlocks a range, and waits for it at most so long. Who is in the way, when it is not granted.
    /// A wait whose outcome is unknown is asked for again with the same ticket, or cancelled.
    ///
    /// # Errors
    /// [`Error::Refused`] as `Deadlock`, `NoLocks`, `NoSuchLease`.
    pub async fn set_range(
        &self,
        range: &RangeLock,
        wait: Duration,
        deadline: Instant,
    ) -> Result<Option<Holder>, Error> {
        if range.exclusive.is_none() {
            return self.json(&of_range(Method::DELETE, range), deadline).await.map(|_| None);
        }
        let mut ask = of_range(Method::PUT, range).query("pid", &range.pid.to_string());
        if !wait.is_zero() {
            ask = ask.query("ticket", &range.ticket.to_string()).query("wait", &duration(wait));
        }
        (ask.wait, ask.takes_conflicts) = (wait, true);
        let reply = self.send(&ask, deadline).await?;
        let answer = self.document(&reply)?;
        match answer["code"].as_str() {
            _ if reply.status != StatusCode::CONFLICT => Ok(None),
            // Nobody holds it: others wait for it, and their turn is first.
            Some("RangeHeld") => Ok(Some(holder(&answer["holder"]).unwrap_or(Holder {
                pid: 0,
                start: range.start,
                end: range.end,
                exclusive: true,
            }))),
            code => Err(Error::of_answer(
                self.endpoint(),
                409,
                code.unwrap_or_default(),
                answer["message"].as_str().unwrap_or_default(),
                answer["request_id"].as_str().unwrap_or_default(),
            )),
        }
    }

    /// Who is in the way of a range.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn test_range(&self, range: &RangeLock, deadline: Instant) -> Result<Option<Holder>, Error> {
        Ok(holder(&self.json(&of_range(Method::GET, range), deadline).await?["holder"]))
    }

    /// Gives a wait up; whether it was granted before.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn cancel_range(&self, range: &RangeLock, deadline: Instant) -> Result<bool, Error> {
        let ask = of_range(Method::DELETE, range).query("ticket", &range.ticket.to_string());
        Ok(self.json(&ask, deadline).await?["granted"].as_bool() == Some(true))
    }

    async fn json(&self, ask: &Outgoing, deadline: Instant) -> Result<Value, Error> {
        let reply = self.send(ask, deadline).await?;
        self.document(&reply)
    }

    fn document(&self, reply: &Reply) -> Result<Value, Error> {
        debug_assert!(reply.body.len() <= ANSWER_BYTES_MAX);
        serde_json::from_slice(&reply.body).map_err(|_| self.form("an answer that is not JSON"))
    }
}

fn of_range(method: Method, range: &RangeLock) -> Outgoing {
    let mut ask = Outgoing::new(method, format!("/_holdfast/v1/ranges/{}", in_path(&range.file)));
    ask.lane = Lane::Urgent;
    ask = ask.query("lease", &range.lease.to_string()).query("owner", &range.owner.to_string());
    if let Some(exclusive) = range.exclusive {
        ask = ask.query("mode", if exclusive { "exclusive" } else { "shared" });
    }
    ask = ask.query("start", &range.start.to_string());
    // Without an end it goes to the end of every file.
    if range.end == u64::MAX { ask } else { ask.query("end", &range.end.to_string()) }
}

fn holder(answer: &Value) -> Option<Holder> {
    let pid = answer["pid"].as_u64()?;
    Some(Holder {
        pid: u32::try_from(pid).ok()?,
        start: answer["start"].as_u64()?,
        end: answer["end"].as_u64().unwrap_or(u64::MAX),
        exclusive: answer["mode"].as_str() == Some("exclusive"),
    })
}

fn held(answer: &Value, by: Option<&Value>) -> Error {
    let by = by.and_then(|holder| holder["owner"].as_str()).unwrap_or("somebody");
    let name = answer["name"].as_str().unwrap_or_default();
    Error::Refused {
        status: 409,
        code: "LockHeld".to_owned(),
        message: format!("the lock {name} is held by {by}"),
        request_id: answer["request_id"].as_str().unwrap_or("unknown").to_owned(),
    }
}

fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
