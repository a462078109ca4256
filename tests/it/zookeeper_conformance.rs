//! The double of the ZooKeeper ensemble against a real server: the same random operations through the seam of `store::zookeeper`, on both,
//! and after each the same answer, at each pause the same znodes and the same events. Zxids are compared as distances, since on both each
//! transaction takes one, the refused ones as well; sessions by which they are; times not at all.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same operations again.

use crate::support::{Proxy, ZooKeeper, eventually};
use fastrand::Rng;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use keepstep::store::Password;
use keepstep::store::zookeeper::RealEnsemble;
use keepstep::store::zookeeper::session::{
    Access, Acl, AuthId, CreateMode, Ensemble, Error, EventType, MultiReadResult, MultiWriteError, MultiWriteResult,
    Permission, ReadOp, Session, SessionState, Stat, WatchedEvent, WriteOp,
};
use keepstep_doubles::zookeeper::{DoubleEnsemble, Kinder, Settings};
use std::sync::Arc;
use std::time::Duration;

/// Operations, and after how many the znodes and the events are compared.
const OPERATIONS: usize = 4_000;
const PAUSE_EVERY: usize = 10;

/// Far above what a reconnect takes.
const PATIENCE: Duration = Duration::from_secs(20);

const PATHS: [&str; 6] = ["/t/a", "/t/b", "/t/a/x", "/t/a/y", "/t/b/x", "/t/a/x/z"];
const VALUES: [&[u8]; 3] = [b"", b"1", b"22"];
const MARKER: &str = "/t/marker";

/// One operation, by the number of its connection.
#[derive(Debug, Clone)]
struct Step {
    connection: usize,
    op: Op,
}

#[derive(Debug, Clone)]
enum Op {
    Create {
        path: &'static str,
        value: &'static [u8],
        mode: CreateMode,
        acl: usize,
    },
    Set {
        path: &'static str,
        value: &'static [u8],
        version: Option<i32>,
    },
    Delete {
        path: &'static str,
        version: Option<i32>,
    },
    Data(&'static str),
    Stat(&'static str),
    Children(&'static str),
    Acl(&'static str),
    ReadAll(Vec<(bool, &'static str)>),
    WriteAll(Vec<Member>),
    /// A one-shot watch, on the connection that has no recursive one.
    Watch(&'static str),
    /// Three requests at once, awaited the last first.
    Queue(&'static str),
    /// More than a server takes.
    Oversized(&'static str),
    /// The session is closed, and another one opened.
    Reopen,
}

#[derive(Debug, Clone)]
enum Member {
    Check(&'static str, i32),
    Create(&'static str, &'static [u8], bool, usize),
    Set(&'static str, &'static [u8], Option<i32>),
    Delete(&'static str, Option<i32>),
}

fn acls() -> [Vec<Acl>; 5] {
    let world = |permission| Acl::new(permission, AuthId::anyone());
    let us = Acl::new(Permission::ALL, AuthId::authed());
    let nobody = Acl::new(Permission::ALL, AuthId::new("digest", "nobody:hash"));
    [
        vec![world(Permission::ALL)],
        vec![world(Permission::READ)],
        vec![us.clone()],
        vec![world(Permission::READ), us],
        vec![nobody],
    ]
}

fn any<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

fn version(rng: &mut Rng) -> Option<i32> {
    any(rng, &[None, None, Some(0), Some(1), Some(2)])
}

/// Open for everybody mostly, or nothing would be left to do.
fn acl(rng: &mut Rng) -> usize {
    if rng.usize(..5) > 0 { 0 } else { rng.usize(..5) }
}

fn member(rng: &mut Rng) -> Member {
    let path = any(rng, &PATHS);
    match rng.usize(..6) {
        0 => Member::Check(path, rng.i32(0..2)),
        1 | 2 => Member::Create(path, any(rng, &VALUES), rng.usize(..4) == 0, acl(rng)),
        3 | 4 => Member::Set(path, any(rng, &VALUES), version(rng)),
        _ => Member::Delete(path, version(rng)),
    }
}

fn step(rng: &mut Rng) -> Step {
    let connection = rng.usize(..2);
    let path = any(rng, &PATHS);
    let op = match rng.usize(..200) {
        0..40 => {
            let modes = [
                CreateMode::Persistent,
                CreateMode::Persistent,
                CreateMode::Ephemeral,
                CreateMode::PersistentSequential,
                CreateMode::EphemeralSequential,
            ];
            Op::Create { path, value: any(rng, &VALUES), mode: any(rng, &modes), acl: acl(rng) }
        }
        40..65 => Op::Set { path, value: any(rng, &VALUES), version: version(rng) },
        65..95 => Op::Delete { path, version: version(rng) },
        95..105 => Op::Data(path),
        105..115 => Op::Stat(path),
        115..120 => Op::Children(path),
        120..130 => Op::Acl(path),
        130..140 => Op::ReadAll((0..rng.usize(1..5)).map(|_| (rng.bool(), any(rng, &PATHS))).collect()),
        140..180 => Op::WriteAll((0..rng.usize(1..5)).map(|_| member(rng)).collect()),
        180..190 => Op::Watch(path),
        190..197 => Op::Queue(path),
        197 | 198 => Op::Oversized(path),
        _ => Op::Reopen,
    };
    Step { connection, op }
}

/// One of the two that are compared: two connections, the first with a recursive watch.
struct Subject {
    ensemble: Arc<dyn Ensemble>,
    access: [Access; 2],
    sessions: [Option<Arc<dyn Session>>; 2],
    /// All sessions that there were.
    ids: Vec<i64>,
    events: Option<BoxStream<'static, WatchedEvent>>,
    one_shots: Vec<(usize, BoxFuture<'static, WatchedEvent>)>,
    steps: usize,
    /// The zxid of the first create.
    base: i64,
}

impl Subject {
    async fn new(ensemble: Arc<dyn Ensemble>, connect: &str) -> Subject {
        let connect = connect.to_owned();
        let access = Access { connect, session_timeout: Duration::from_secs(10), digest: None };
        let password = Password::new("user:word".to_owned(), || Ok("user:word".to_owned()));
        let access = [Access { digest: Some(password), ..access.clone() }, access];
        let (events, one_shots, ids) = (None, Vec::new(), Vec::new());
        let mut subject =
            Subject { ensemble, access, sessions: [None, None], ids, events, one_shots, steps: 0, base: 0 };
        for connection in 0..2 {
            subject.open(connection).await;
        }
        let root = subject.session(0).create("/t", b"", CreateMode::Persistent, &acls()[0]).await.unwrap();
        subject.base = root.stat.czxid;
        subject
    }

    async fn open(&mut self, connection: usize) {
        let session = self.ensemble.open(&self.access[connection]).await.unwrap();
        self.ids.push(session.id());
        self.sessions[connection] = Some(session);
        if connection == 0 {
            self.watch().await;
        }
    }

    async fn watch(&mut self) {
        // The new watch before the old one goes.
        let events = self.session(0).watch("/t").await.unwrap();
        self.events = Some(events);
    }

    fn session(&self, connection: usize) -> Arc<dyn Session> {
        Arc::clone(self.sessions[connection].as_ref().unwrap())
    }

    fn zxid(&self, zxid: i64) -> String {
        if zxid <= 0 { zxid.to_string() } else { format!("+{}", zxid - self.base) }
    }

    fn stat(&self, stat: &Stat) -> String {
        let owner = self.ids.iter().position(|id| *id == stat.ephemeral_owner);
        let zxids = [stat.czxid, stat.mzxid, stat.pzxid].map(|zxid| self.zxid(zxid)).join(" ");
        let numbers = (stat.version, stat.cversion, stat.aversion, stat.data_length, stat.num_children);
        assert!(stat.ctime <= stat.mtime);
        format!("{zxids} {numbers:?} {owner:?}")
    }

    fn event(&self, event: &WatchedEvent) -> String {
        match event.event_type {
            EventType::Session => format!("{:?}", event.session_state),
            kind => format!("{kind:?} {} {}", event.path, self.zxid(event.zxid)),
        }
    }

    fn stated(&self, answer: Result<Stat, Error>) -> String {
        match answer {
            Ok(stat) => self.stat(&stat),
            Err(error) => format!("{error:?}"),
        }
    }

    fn read(&self, read: MultiReadResult) -> String {
        match read {
            MultiReadResult::Data { data, stat } => format!("{data:?} {}", self.stat(&stat)),
            MultiReadResult::Children { mut children } => {
                children.sort();
                format!("{children:?}")
            }
            MultiReadResult::Error { err } => format!("{err:?}"),
            other => format!("{other:?}"),
        }
    }

    fn written(&self, written: Result<Vec<MultiWriteResult>, MultiWriteError>) -> String {
        match written {
            Ok(written) => {
                let each = written.into_iter().map(|written| match written {
                    MultiWriteResult::Create { path, stat } => format!("{path} {}", self.stat(&stat)),
                    MultiWriteResult::SetData { stat } => self.stat(&stat),
                    other => format!("{other:?}"),
                });
                each.collect::<Vec<_>>().join("; ")
            }
            Err(error) => format!("{error:?}"),
        }
    }

    /// Does one step; what came of it.
    async fn play(&mut self, step: &Step) -> String {
        self.steps += 1;
        // Whoever holds a handle holds the session.
        if matches!(step.op, Op::Reopen) {
            return self.reopen(step.connection).await;
        }
        let session = self.session(step.connection);
        match &step.op {
            Op::Create { path, value, mode, acl } => match session.create(path, value, *mode, &acls()[*acl]).await {
                Ok(created) => format!("{} {}", created.path, self.stat(&created.stat)),
                Err(error) => format!("{error:?}"),
            },
            Op::Set { path, value, version } => self.stated(session.set(path, value, *version).await),
            Op::Delete { path, version } => format!("{:?}", session.delete(path, *version).await),
            Op::Data(path) => match session.data(path).await {
                Ok((data, stat)) => format!("{data:?} {}", self.stat(&stat)),
                Err(error) => format!("{error:?}"),
            },
            Op::Stat(path) => format!("{:?}", session.stat(path).await.map(|stat| stat.map(|stat| self.stat(&stat)))),
            Op::Children(path) => {
                let mut children = session.children(path).await;
                children.as_mut().map(|children| children.sort()).unwrap_or_default();
                format!("{children:?}")
            }
            Op::Acl(path) => format!("{:?}", session.acl(path).await),
            Op::ReadAll(reads) => {
                let reads = reads.iter().map(|(data, path)| match data {
                    true => ReadOp::Data(path),
                    false => ReadOp::Children(path),
                });
                let found = session.read_all(&reads.collect::<Vec<_>>()).await;
                format!("{:?}", found.map(|found| found.into_iter().map(|read| self.read(read)).collect::<Vec<_>>()))
            }
            Op::WriteAll(members) => {
                let acls = acls();
                let writes: Vec<WriteOp<'_>> = members
                    .iter()
                    .map(|member| match *member {
                        Member::Check(path, version) => WriteOp::Check { path, version },
                        Member::Create(path, data, ephemeral, acl) => {
                            let mode = if ephemeral { CreateMode::Ephemeral } else { CreateMode::Persistent };
                            WriteOp::Create { path, data, mode, acl: &acls[acl] }
                        }
                        Member::Set(path, data, version) => WriteOp::Set { path, data, version },
                        Member::Delete(path, version) => WriteOp::Delete { path, version },
                    })
                    .collect();
                self.written(session.write_all(&writes).await)
            }
            Op::Watch(path) => match self.session(1).stat_and_watch(path).await {
                Ok((stat, changed)) => {
                    self.one_shots.push((self.steps, changed));
                    format!("{:?}", stat.map(|stat| self.stat(&stat)))
                }
                Err(error) => format!("{error:?}"),
            },
            Op::Queue(path) => {
                let created = session.create(path, b"queued", CreateMode::Persistent, &acls()[0]);
                let set = session.set(path, b"then", None);
                let deleted = session.delete(path, None);
                let (deleted, set) = (deleted.await, set.await);
                format!("{:?} {} {deleted:?}", created.await.map(|created| created.path), self.stated(set))
            }
            Op::Oversized(path) => self.exceed(step.connection, path).await,
            Op::Reopen => String::new(),
        }
    }

    /// Sends more than a server takes, and waits for the next connection.
    async fn exceed(&mut self, connection: usize, path: &str) -> String {
        let session = self.session(connection);
        let mut states = session.states();
        let large = vec![7; 1_100_000];
        let answer = self.stated(session.set(path, &large, None).await);
        if answer == "ConnectionLoss" {
            let connected = async { while states.next().await != Some(SessionState::SyncConnected) {} };
            tokio::time::timeout(PATIENCE, connected).await.expect("it connects again");
        }
        // A change that the old watch does not see; then the next one, as the source does.
        let missed = self.stated(self.session(1).set("/t", b"missed", None).await);
        let events = self.drain().await;
        if connection == 0 {
            self.watch().await;
        }
        format!("{answer}, {missed}, {events:?}")
    }

    /// Closes the session, waits until its ephemeral znodes are gone, and opens another one.
    async fn reopen(&mut self, connection: usize) -> String {
        let before = self.drain().await;
        let acl = &acls()[0];
        let marked = self.session(connection).create(MARKER, b"", CreateMode::Ephemeral, acl).await.is_ok();
        self.sessions[connection] = None;
        if connection == 1 {
            self.one_shots.clear();
        }
        let other = self.session(1 - connection);
        let mut is_gone = false;
        for _ in 0..2_000 {
            is_gone = other.stat(MARKER).await == Ok(None);
            if is_gone {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // They go in one transaction, in no order.
        let mut after = if connection == 1 { self.drain().await } else { Vec::new() };
        after.sort();
        self.open(connection).await;
        format!("{before:?} {marked} {is_gone} {after:?}")
    }

    /// Everything that was told so far: what comes behind an answer to the same connection has not happened yet.
    async fn drain(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for session in self.sessions.iter().flatten() {
            let _ = session.sync().await;
        }
        if let Some(mut events) = self.events.take() {
            while let Some(Some(event)) = events.next().now_or_never() {
                told.push(self.event(&event));
            }
            self.events = Some(events);
        }
        let waiting = std::mem::take(&mut self.one_shots);
        for (since, mut changed) in waiting {
            match (&mut changed).now_or_never() {
                Some(event) => told.push(format!("of step {since}: {}", self.event(&event))),
                None => self.one_shots.push((since, changed)),
            }
        }
        told
    }

    /// The znodes as a connection sees them.
    async fn znodes(&self, connection: usize) -> Vec<String> {
        let session = self.session(connection);
        let (mut open, mut seen) = (vec!["/t".to_owned()], Vec::new());
        while let Some(path) = open.pop() {
            let data = session.data(&path).await.map(|(data, stat)| (data, self.stat(&stat)));
            let children = session.children(&path).await;
            seen.push(format!("{path} {data:?} {:?}", session.acl(&path).await));
            // Those with a sequence number would become more and more.
            if path.len() > 10 && path.bytes().rev().take(10).all(|byte| byte.is_ascii_digit()) {
                seen.push(format!("{:?}", session.delete(&path, None).await));
            }
            let mut below: Vec<String> =
                children.unwrap_or_default().into_iter().map(|name| format!("{path}/{name}")).collect();
            below.sort();
            open.extend(below);
        }
        seen
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, real: &T, double: &T) -> Result<(), String> {
    if real == double { Ok(()) } else { Err(format!("{what}:\n  server {real:?}\n  double {double:?}")) }
}

/// Plays the same steps on both; how they differ, if they do.
async fn compare(seed: u64, steps: usize, real: &mut Subject, double: &mut Subject) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    for number in 1..=steps {
        let step = step(&mut rng);
        let what = format!("seed {seed}, step {number}, {step:?}");
        same(&what, &real.play(&step).await, &double.play(&step).await)?;
        if number % PAUSE_EVERY == 0 {
            same(&format!("{what}, events"), &real.drain().await, &double.drain().await)?;
            for connection in 0..2 {
                let what = format!("{what}, znodes of {connection}");
                same(&what, &real.znodes(connection).await, &double.znodes(connection).await)?;
            }
        }
    }
    Ok(())
}

async fn on_double(settings: Settings) -> Subject {
    Subject::new(Arc::new(DoubleEnsemble::new(settings)), "double:2181").await
}

fn seed() -> u64 {
    std::env::var("KEEPSTEP_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..1_000_000))
}

#[tokio::test]
async fn the_double_answers_and_tells_what_a_server_does() {
    let server = ZooKeeper::start().await;
    let version = version_of(&server.four_letters("srvr").await);
    let mut real = Subject::new(Arc::new(RealEnsemble), &server.connect_string()).await;
    let mut double = on_double(Settings { version, ..Settings::default() }).await;
    let seed = seed();
    println!("seed {seed}");
    compare(seed, OPERATIONS, &mut real, &mut double).await.unwrap_or_else(|difference| panic!("{difference}"));
}

fn version_of(srvr: &str) -> (u32, u32, u32) {
    let version = srvr.split("Zookeeper version: ").nth(1).and_then(|rest| rest.split(['-', ',']).next()).unwrap();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap())
}

#[tokio::test]
async fn a_double_that_is_kinder_than_a_server_is_found_out() {
    let switches = [
        Kinder::WatchSurvivesReconnect,
        Kinder::AnswersOversized,
        Kinder::KeepsEphemerals,
        Kinder::OneEventOfAMulti,
        Kinder::RefusedIsFree,
        Kinder::MultiKeepsPart,
        Kinder::ChildrenOfEphemerals,
        Kinder::SequenceOfItsOwn,
    ];
    let first = seed();
    println!("seed {first}");
    'switches: for switch in switches {
        // What is rare does not come up in each play.
        for seed in first..first + 10 {
            let mut truthful = on_double(Settings::default()).await;
            let mut kinder = on_double(Settings { kinder: Some(switch), ..Settings::default() }).await;
            if let Err(difference) = compare(seed, OPERATIONS, &mut truthful, &mut kinder).await {
                println!("{switch:?} was found: {difference}");
                continue 'switches;
            }
        }
        panic!("{switch:?} was not found in ten plays from seed {first} on");
    }
}

/// What another session sees when one that owns two znodes is not heard of any more, and what that one learns when it is back.
async fn expiry(
    ensemble: &dyn Ensemble,
    owner: &Access,
    other: &Access,
    cut: impl FnOnce(i64),
    heal: impl FnOnce(),
) -> Vec<String> {
    let (owner, other) = (ensemble.open(owner).await.unwrap(), ensemble.open(other).await.unwrap());
    let acl = &acls()[0];
    for path in ["/e", "/e/kept"] {
        other.create(path, b"", CreateMode::Persistent, acl).await.unwrap();
    }
    let mut events = other.watch("/e").await.unwrap();
    for path in ["/e/one", "/e/two"] {
        owner.create(path, b"", CreateMode::Ephemeral, acl).await.unwrap();
    }
    let base = other.stat("/e/two").await.unwrap().unwrap().czxid;
    let mut states = owner.states();
    cut(owner.id());
    eventually("its znodes are gone", PATIENCE, async || match other.children("/e").await {
        Ok(names) if names == ["kept"] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    heal();
    let mut seen = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        seen.push(format!("{:?} {} {}", event.event_type, event.path, event.zxid - base));
    }
    seen.sort();
    let stat = other.stat("/e").await.unwrap().unwrap();
    seen.push(format!("{} {} {}", stat.pzxid - base, stat.cversion, stat.num_children));
    let ended = async { while states.next().await != Some(SessionState::Expired) {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the owner learns that its session has ended");
    seen.push(format!(
        "{:?}",
        owner.create("/e/three", b"", CreateMode::Ephemeral, acl).await.map(|created| created.path)
    ));
    seen
}

#[tokio::test]
async fn a_session_that_is_not_heard_of_expires_and_its_znodes_go_in_one_transaction() {
    let server = ZooKeeper::start().await;
    let proxy = Proxy::start(server.address());
    let access =
        |connect: String, seconds| Access { connect, session_timeout: Duration::from_secs(seconds), digest: None };
    let (owner, other) = (access(proxy.address().to_string(), 2), access(server.connect_string(), 10));
    let real = expiry(&RealEnsemble, &owner, &other, |_| proxy.cut(), || proxy.heal()).await;
    let version = version_of(&server.four_letters("srvr").await);
    let ensemble = DoubleEnsemble::new(Settings { version, ..Settings::default() });
    let cut = |session| {
        ensemble.refuse_connections();
        ensemble.cut(session);
        ensemble.expire(session);
    };
    let double = expiry(&ensemble, &owner, &other, cut, || ensemble.accept_connections()).await;
    assert_eq!(real, double);
}
