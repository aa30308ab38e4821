//! The session and its locks over a repository that does what a test says, in time that is told.

use std::ops::Range;
use std::process::{Command, Stdio};

use async_trait::async_trait;
use holdfast_core::command::mount::{MountUpload, Step, StepOutcome};
use holdfast_core::id::{ObjectId, ObjectKey};
use holdfast_core::mount::{Entry, Node, Opened};

use super::super::{AtomicFailures, Options, Parts, Profile, Sync, Wanted, Window};
use super::*;
use crate::attributes::Defaults;
use crate::cache::{BlockCache, Options as CacheOptions};
use crate::error::Errno;
use crate::remote::{Holder, News, RangeLock, Told};
use crate::tree::Segment;

/// What the repository is to do, and was asked.
#[derive(Default)]
struct Script {
    /// Renewals of the session that get no answer.
    silent: usize,
    /// Leases that have ended.
    ended: Vec<Revision>,
    /// Commits get no answer.
    stuck: bool,
    /// Another holds what is asked for.
    range_held: bool,
    lease: Revision,
    revision: Revision,
    renewed: Vec<(Revision, Instant)>,
    released: Vec<Revision>,
    opened: usize,
    ranges: Vec<RangeLock>,
    cancelled: usize,
    tell: Option<mpsc::Sender<News>>,
}

#[derive(Default)]
struct Fake(Mutex<Script>);

impl Fake {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    async fn tell(&self, news: News) {
        let tell = loop {
            if let Some(tell) = self.script().tell.clone() {
                break tell;
            }
            sleep(Duration::from_millis(1)).await;
        };
        tell.send(news).await.unwrap();
    }
}

fn unavailable() -> Error {
    Error::of_answer("fake", 503, "SlowDown", "busy", "1")
}

fn node(path: &str) -> Node {
    Node {
        key: path.parse().ok(),
        object: ObjectId(path.len() as u64 + 10),
        links: 1,
        generation: 1,
        ..Node::default()
    }
}

fn outcome(step: &Step) -> StepOutcome {
    match step {
        Step::Patch(patch) => {
            let size = patch.writes.iter().map(|write| write.offset + write.length).max().unwrap_or(0);
            StepOutcome::Node(Node { object: patch.file.object, size, links: 1, generation: 2, ..Node::default() })
        }
        _ => StepOutcome::Done,
    }
}

#[async_trait]
impl Remote for Fake {
    async fn call(&self, call: &Call, _: Bytes, _: &[Fence], deadline: Instant) -> Result<Told, Error> {
        let told = |answer, revision| Ok(Told { answer, raw: Bytes::new(), revision });
        match call {
            Call::Open(open) => {
                assert!(open.owner.len() <= OWNER_BYTES_MAX && !open.owner.contains('\n'));
                let mut script = self.script();
                script.opened += 1;
                script.lease += 100;
                let (lease, sent_bytes_max) = (script.lease, 16 << 20);
                let opened =
                    Opened { lease, applied: 0, protocol: PROTOCOL, sent_bytes_max, versioned: false, revision: None };
                told(Answer::Opened(opened), 1)
            }
            Call::Stat(stat) => {
                let directory = |path: &String| !path.ends_with('f');
                let entry = |path: &String| match directory(path) {
                    true => Entry { file: None, directory: Some(Node::default()) },
                    false => Entry { file: Some(node(path)), directory: None },
                };
                told(Answer::Entries(stat.paths.iter().map(entry).collect()), 1)
            }
            Call::Commit(commit) => {
                if self.script().stuck {
                    tokio::time::sleep_until(deadline).await;
                    return Err(unavailable());
                }
                let mut script = self.script();
                if script.ended.contains(&commit.lease) {
                    return Err(Error::of_answer("fake", 404, "NoSuchLease", "ended", "1"));
                }
                script.revision += 1;
                told(Answer::Outcomes(commit.steps.iter().map(outcome).collect()), script.revision)
            }
            _ => Err(Error::unexpected()),
        }
    }

    async fn read(&self, _: &ObjectKey, _: &str, _: Range<u64>, _: Instant) -> Result<Bytes, Error> {
        Err(Error::Changed)
    }

    async fn create_upload(&self, _: &ObjectKey, _: Instant) -> Result<MountUpload, Error> {
        Err(Error::unexpected())
    }

    async fn upload_part(&self, _: &MountUpload, _: u16, _: Bytes, _: Instant) -> Result<(), Error> {
        Err(Error::unexpected())
    }

    async fn abort_upload(&self, _: &MountUpload, _: Instant) -> Result<(), Error> {
        Ok(())
    }

    async fn renew(&self, lease: Revision, deadline: Instant) -> Result<(), Error> {
        {
            let mut script = self.script();
            script.renewed.push((lease, deadline));
            if script.ended.contains(&lease) {
                return Err(Error::of_answer("fake", 404, "NoSuchLease", "ended", "1"));
            }
            if script.silent == 0 {
                return Ok(());
            }
            script.silent -= 1;
        }
        sleep_until(deadline).await;
        Err(unavailable())
    }

    async fn release(&self, lease: Revision, _: Instant) -> Result<(), Error> {
        self.script().released.push(lease);
        Ok(())
    }

    async fn lock(&self, name: &str, _: &str, _: Instant) -> Result<Grant, Error> {
        Ok(Grant { lease: 7, fence: Fence { name: name.to_owned(), token: 1 } })
    }

    async fn set_range(&self, range: &RangeLock, wait: Duration, _: Instant) -> Result<Option<Holder>, Error> {
        self.script().ranges.push(range.clone());
        sleep(wait).await;
        let holder = Holder { pid: 1, start: 0, end: 0, exclusive: true };
        Ok((range.exclusive.is_some() && self.script().range_held).then_some(holder))
    }

    async fn test_range(&self, _: &RangeLock, _: Instant) -> Result<Option<Holder>, Error> {
        Ok(None)
    }

    async fn cancel_range(&self, _: &RangeLock, _: Instant) -> Result<bool, Error> {
        self.script().cancelled += 1;
        Ok(false)
    }

    async fn watch(&self, _: &str, _: Option<Revision>, mark: Duration, tell: mpsc::Sender<News>) -> Result<(), Error> {
        self.script().tell = Some(tell.clone());
        while tell.send(News::Mark(1)).await.is_ok() {
            sleep(mark).await;
        }
        Ok(())
    }
}

async fn mounted(profile: Profile) -> (Arc<Fake>, Arc<Vfs>) {
    let fake = Arc::new(Fake::default());
    let options = Options {
        bucket: "b".into(),
        prefix: String::new(),
        profile,
        sync: Sync::Async,
        loss_time: Duration::from_secs(3_600),
        loss_bytes: 1 << 30,
        defaults: Defaults::of(0, 0),
        read_only: false,
    };
    let cache = BlockCache::open(CacheOptions { memory_bytes: 1 << 20, ..CacheOptions::default() }).unwrap();
    let owner = format!("host\n{}", "ä".repeat(400));
    let remote: Arc<dyn Remote> = Arc::clone(&fake) as _;
    let parts = Parts { remote, cache, journal: None, journals: false, client: MountId([1; 16]), owner };
    let vfs = Vfs::start(options, parts, []).await.unwrap();
    (fake, vfs)
}

async fn opened(vfs: &Vfs) -> Ino {
    let ino = vfs.lookup(ROOT, "f".as_ref()).await.unwrap().ino;
    vfs.open(ino, false).await.unwrap();
    ino
}

fn all(owner: u64) -> Wanted {
    Wanted { exclusive: Some(true), pid: 0, ..Wanted::nothing(owner) }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_owner_is_cut_between_characters() {
    assert_eq!(presentable("a\tb"), "a?b");
    let cut = presentable(&format!("x{}", "ä".repeat(200)));
    assert_eq!((cut.len(), cut.chars().last()), (255, Some('ä')));
}

#[tokio::test(start_paused = true)]
async fn every_renewal_has_its_own_time() {
    let (fake, _vfs) = mounted(Profile::Shared).await;
    fake.script().silent = 4;
    let began = Instant::now();
    sleep(31 * SECOND).await;
    let script = fake.script();
    let starts: Vec<u64> = script.renewed.iter().map(|(_, until)| (*until - began).as_secs()).collect();
    // Each ends when the next begins, though nothing was answered for longer than the lease lives.
    assert_eq!(starts, [10, 15, 20, 25, 30, 35]);
    assert_eq!(script.opened, 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_that_ended_is_opened_again_and_renewed_at_once() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    let ino = opened(&vfs).await;
    vfs.set_lock(ino, all(1), None).await.unwrap();
    vfs.set_lock(ino, Wanted::nothing(1), None).await.unwrap();
    fake.script().ended.push(100);
    sleep(5 * SECOND + SECOND / 2).await;
    let renewed: Vec<Revision> = fake.script().renewed.iter().map(|(lease, _)| *lease).collect();
    assert_eq!((vfs.session.lease(), renewed), (200, vec![100, 200]));
    // Nothing was held, so nothing is lost.
    vfs.set_lock(ino, all(1), None).await.unwrap();
    fake.script().ended.push(200);
    sleep(6 * SECOND).await;
    assert_eq!(vfs.session.lease(), 300);
    assert_eq!(vfs.set_lock(ino, all(1), None).await, Err(Errno::EIO));
    assert_eq!(vfs.counters.sessions_lost.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn renewal_goes_on_while_commits_are_stuck() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    let ino = opened(&vfs).await;
    vfs.write(ino, 0, b"x").await.unwrap();
    fake.script().stuck = true;
    fake.script().ended.push(100);
    sleep(60 * SECOND).await;
    assert!(fake.script().renewed.len() >= 11, "{:?}", fake.script().renewed);
    assert_eq!(vfs.session.lease(), 100, "the commit that carries the bytes is to open it");
    fake.script().stuck = false;
    sleep(400 * SECOND).await;
    assert!(vfs.session.lease() >= 200 && vfs.unsynced().0 == 0);
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_an_image_is_kept_until_its_bytes_are_through() {
    let (fake, vfs) = mounted(Profile::Vm).await;
    let ino = opened(&vfs).await;
    vfs.write(ino, 0, b"x").await.unwrap();
    fake.script().stuck = true;
    vfs.release(ino).await;
    assert!(vfs.session.is_held(ino) && vfs.unsynced().0 > 0);
    sleep(60 * SECOND).await;
    assert!(fake.script().released.is_empty() && vfs.session.is_held(ino));
    assert!(fake.script().renewed.iter().filter(|(lease, _)| *lease == 7).count() > 10);
    fake.script().stuck = false;
    sleep(80 * SECOND).await;
    assert_eq!((vfs.session.is_held(ino), &*fake.script().released), (false, &[7][..]));
    assert!(!vfs.fenced.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn who_holds_nothing_asks_nothing_and_who_leaves_unlocks_later() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    let ino = opened(&vfs).await;
    vfs.set_lock(ino, Wanted::nothing(1), None).await.unwrap();
    assert!(fake.script().ranges.is_empty());
    vfs.set_lock(ino, all(1), None).await.unwrap();
    vfs.write(ino, 0, b"x").await.unwrap();
    fake.script().stuck = true;
    assert_eq!(vfs.set_lock(ino, Wanted::nothing(1), None).await, Err(Errno::EIO));
    assert_eq!(fake.script().ranges.len(), 1, "others would not see what was written");
    fake.script().stuck = false;
    sleep(80 * SECOND).await;
    assert_eq!(fake.script().ranges.last().map(|range| range.exclusive), Some(None));
    vfs.close(ino, &AtomicFailures::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_the_process_does() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    let ino = opened(&vfs).await;
    fake.script().range_held = true;
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let process = child.id();
    let waits = Arc::clone(&vfs);
    let mut wait = JoinSet::new();
    wait.spawn(async move { waits.set_lock(ino, Wanted { pid: process, ..all(1) }, Some(process)).await });
    sleep(25 * SECOND).await;
    assert!(wait.try_join_next().is_none() && fake.script().cancelled == 0);
    drop(child.stdin.take());
    child.wait().unwrap();
    sleep(2 * SECOND).await;
    assert_eq!((wait.join_next().await.unwrap().unwrap(), fake.script().cancelled), (Err(Errno::EINTR), 1));
    let script = fake.script();
    assert!(script.ranges.windows(2).all(|two| two[0].ticket == two[1].ticket), "one place in the queue");
}

#[tokio::test(start_paused = true)]
async fn news_of_others_wait_for_the_commit_under_way_and_the_mount_is_not_live_meanwhile() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    let ino = opened(&vfs).await;
    sleep(SECOND).await;
    assert!(vfs.is_live());
    vfs.write(ino, 0, b"x").await.unwrap();
    fake.script().stuck = true;
    let flushes = Arc::clone(&vfs);
    let mut flush = JoinSet::new();
    flush.spawn(async move { flushes.flush_all().await });
    sleep(SECOND / 2).await;
    let (kind, key, source) = ("s3:ObjectCreated:Rename".to_owned(), "x/y/f".to_owned(), Some("f".to_owned()));
    fake.tell(News::Change { revision: 9, kind, key, source }).await;
    sleep(SECOND / 2).await;
    assert!(vfs.is_live() && vfs.tree().key(ino).as_deref() == Some("f"), "it may be the answer to our commit");
    sleep(SECOND).await;
    assert!(!vfs.is_live(), "what came is not known for more than a second");
    sleep(4 * SECOND).await;
    assert_eq!(vfs.tree().key(ino).as_deref(), Some("x/y/f"));
    assert!(vfs.is_live(), "all that came is known");
    let there = Segment { text: "f".into(), directory: false };
    assert!(vfs.tree().child(ROOT, &there).is_none());
    fake.script().stuck = false;
    flush.join_next().await.unwrap().unwrap().unwrap();
    let _ = vfs.read(ino, 0, 1, &Mutex::new(Window::default())).await;
}

#[tokio::test(start_paused = true)]
async fn news_of_a_connection_that_is_lost_make_nothing_live() {
    let (fake, vfs) = mounted(Profile::Shared).await;
    sleep(SECOND).await;
    let flying = vfs.stream.flight.begin();
    let kind = "s3:ObjectCreated:Put".to_owned();
    fake.tell(News::Change { revision: 9, kind, key: "f".into(), source: None }).await;
    sleep(SECOND / 10).await;
    // Ends the connection that there is.
    vfs.disconnected();
    assert!(!vfs.is_live());
    drop(flying);
    sleep(SECOND).await;
    assert!(!vfs.is_live(), "news of a lost connection make nothing live");
}
