//! Applications: they write values that nobody else writes, and note what each write replaced.

use crate::history::{Left, Side, Write, key, path};
use crate::support::Znodes;
use crate::world::{Shared, is_never_deleted, pairs};
use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use zookeeper_client::{Acls, Client, CreateMode, Error};

/// Writers a side; each has pairs of its own, so that the order of the writes to one side of a pair is known.
const WRITERS: usize = 2;
/// The longest time after which a key expires.
pub const EXPIRES: Duration = Duration::from_millis(600);
/// Pauses between writes, ms: some hundred writes a second in all.
const PAUSE_MS: std::ops::Range<u64> = 2..25;
/// A write to ZooKeeper that is not answered by then has an unknown outcome.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Load(Vec<JoinHandle<()>>);

impl Load {
    pub async fn end(self) {
        for task in self.0 {
            task.await.expect("an application has no fault of its own");
        }
    }
}

pub fn start(shared: &Arc<Shared>, seed: u64) -> Load {
    static VALUE: AtomicU64 = AtomicU64::new(0);
    VALUE.store(0, Ordering::SeqCst);
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        let of = |kind: char| -> Vec<String> {
            let of_side = pairs().into_iter().filter(|pair| pair.starts_with(['s', kind]));
            of_side.skip(number).step_by(WRITERS).collect()
        };
        let rng = |salt: u64| Rng::with_seed(seed.wrapping_mul(31).wrapping_add(salt + 2 * number as u64));
        tasks.push(tokio::spawn(write_znodes(Arc::clone(shared), of('z'), rng(1), &VALUE)));
        tasks.push(tokio::spawn(write_keys(Arc::clone(shared), of('r'), rng(1000), &VALUE)));
    }
    tasks.push(tokio::spawn(audit(Arc::clone(shared))));
    Load(tasks)
}

fn note(shared: &Shared, pair: &str, side: Side, left: Left, replaced: Option<Option<String>>) {
    let at = shared.now();
    shared.history().writes.push(Write { pair: pair.to_owned(), side, left, replaced, at });
}

/// What is done next, with a fresh value.
enum Next {
    Set(String),
    Delete,
    Expire,
}

fn next(rng: &mut Rng, pair: &str, side: &str, value: &AtomicU64) -> Next {
    let most = if is_never_deleted(pair) { 84 } else { 100 };
    match rng.u32(..most) {
        0..84 => Next::Set(format!("{side}-{}", value.fetch_add(1, Ordering::SeqCst))),
        84..94 => Next::Delete,
        _ => Next::Expire,
    }
}

/// The last few pairs are written again and again, so that both sides meet.
fn pick<'a>(rng: &mut Rng, pairs: &'a [String]) -> &'a str {
    let hot = pairs.len().min(4);
    if rng.u32(..4) == 0 { &pairs[rng.usize(..hot)] } else { &pairs[rng.usize(..pairs.len())] }
}

async fn write_keys(shared: Arc<Shared>, pairs: Vec<String>, mut rng: Rng, value: &AtomicU64) {
    let mut connection: Option<(usize, MultiplexedConnection)> = None;
    while !shared.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE_MS))).await;
        let primary = shared.primary();
        if connection.as_ref().is_none_or(|(server, _)| *server != primary) {
            connection = shared.connect(primary).await.ok().map(|open| (primary, open));
        }
        let Some((_, open)) = &mut connection else { continue };
        let pair = pick(&mut rng, &pairs).to_owned();
        let (command, left) = match next(&mut rng, &pair, "r", value) {
            Next::Set(value) => {
                let mut set = redis::cmd("SET");
                set.arg(key(&pair)).arg(&value).arg("GET");
                (set, Left::Value(value))
            }
            Next::Delete => {
                let mut delete = redis::cmd("GETDEL");
                delete.arg(key(&pair));
                (delete, Left::Nothing)
            }
            Next::Expire => {
                let mut expire = redis::cmd("GETEX");
                expire.arg(key(&pair)).arg("PX").arg(rng.u64(20..u64::try_from(EXPIRES.as_millis()).unwrap()));
                (expire, Left::Nothing)
            }
        };
        match command.query_async::<Option<String>>(open).await {
            // Nothing was there to be deleted.
            Ok(None) if left == Left::Nothing => {}
            Ok(replaced) => note(&shared, &pair, Side::Redis, left, Some(replaced)),
            // A server's own no: not done.
            Err(error) if error.code().is_some() => connection = None,
            Err(_) => {
                note(&shared, &pair, Side::Redis, left, None);
                connection = None;
            }
        }
    }
}

async fn write_znodes(shared: Arc<Shared>, pairs: Vec<String>, mut rng: Rng, value: &AtomicU64) {
    let mut session: Option<Client> = None;
    while !shared.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE_MS))).await;
        if session.as_ref().is_none_or(|open| open.state().is_terminated()) {
            session = connect(&shared).await;
        }
        let Some(open) = &session else { continue };
        let pair = pick(&mut rng, &pairs).to_owned();
        let left = match next(&mut rng, &pair, "z", value) {
            Next::Set(value) => Left::Value(value),
            Next::Delete | Next::Expire => Left::Nothing,
        };
        match tokio::time::timeout(PATIENCE, write_znode(open, &path(&pair), &left)).await {
            Ok(Done::Replaced(replaced)) => note(&shared, &pair, Side::Zookeeper, left, Some(replaced)),
            Ok(Done::Not) => {}
            Ok(Done::Unknown) => note(&shared, &pair, Side::Zookeeper, left, None),
            Err(_) => {
                note(&shared, &pair, Side::Zookeeper, left, None);
                session = None;
            }
        }
    }
}

async fn connect(shared: &Shared) -> Option<Client> {
    Some(Znodes::try_connect(&shared.zookeeper).await?.client().clone())
}

enum Done {
    Replaced(Option<String>),
    Not,
    Unknown,
}

/// Reads, then writes what was read by compare-and-set: so it is known what was replaced.
async fn write_znode(client: &Client, path: &str, left: &Left) -> Done {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for _ in 0..5 {
        let seen = match client.get_data(path).await {
            Ok((data, stat)) => Some((String::from_utf8(data).expect("values are text"), stat.version)),
            Err(Error::NoNode) => None,
            Err(_) => return Done::Not,
        };
        let replaced = seen.as_ref().map(|(value, _)| value.clone());
        let written = match (left, seen) {
            (Left::Nothing, None) => return Done::Not,
            (Left::Nothing, Some((_, version))) => client.delete(path, Some(version)).await,
            (Left::Value(value), Some((_, version))) => {
                client.set_data(path, value.as_bytes(), Some(version)).await.map(|_| ())
            }
            (Left::Value(value), None) => client.create(path, value.as_bytes(), &options).await.map(|_| ()),
        };
        match written {
            Ok(()) => return Done::Replaced(replaced),
            Err(Error::BadVersion | Error::NoNode | Error::NodeExists) => {}
            Err(_) => return Done::Unknown,
        }
    }
    Done::Not
}

/// Reads all znodes again and again on one session, so that each pair's values are seen in their order.
async fn audit(shared: Arc<Shared>) {
    let mut session: Option<Client> = None;
    while !shared.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_open = session.as_ref().is_some_and(|open| !open.state().is_terminated());
        if !is_open {
            // A new session may be with a server that lags behind what the last one saw.
            session = connect(&shared).await;
            if let Some(open) = &session
                && !matches!(tokio::time::timeout(PATIENCE, open.sync("/")).await, Ok(Ok(())))
            {
                session = None;
            }
        }
        let Some(open) = &session else { continue };
        for pair in pairs() {
            let Ok(Ok((data, _))) = tokio::time::timeout(PATIENCE, open.get_data(&path(&pair))).await else { continue };
            let value = String::from_utf8(data).expect("values are text");
            let at = shared.now();
            let mut history = shared.history();
            let seen = history.seen_in_zookeeper.entry(pair).or_default();
            if seen.last().is_none_or(|(_, last)| *last != value) {
                seen.push((at, value));
            }
        }
    }
}
