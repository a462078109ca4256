//! The Redis door: scripts that read and write by compare-and-set, and the keyspace source.
//!
//! ```text
//!   source connection (RESP3)   keyspace events + tracking pushes --> Hints
//!                               INFO, canary and flags once a second: restarts, swaps, evictions, silence
//!   sink connection             OBSERVE (value + sidecar), APPLY (compare-and-set + sidecar), SCAN
//! ```
//!
//! Why nothing is lost: the subscription is confirmed before the pipeline's comparison scans; whatever happens later
//! gives a hint; whatever gives none (FLUSHDB without tracking, SWAPDB, a replaced data set) changes the canary or the
//! lineage, which asks for a comparison; and the periodic comparison finds the rest.

mod claim;
mod connection;
mod info;
mod preflight;
mod script;
mod slot;
mod source;

use super::{
    Claim, Hints, JournalEntry, KeyOp, KeyOutcome, KeyReading, KeyReadings, KeyState, KeyWrite, Keyspace,
    KeyspaceFacts, Remembered, StoreError, VALUE_BYTES_MAX,
};
use crate::change::Digest;
use connection::{explain, is_broken};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use info::Info;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use script::Script;
use slot::Buckets;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a Redis is reached and which part of it a pipeline uses.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's name in the pipeline file.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database number.
    pub database: u32,
    /// ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// The pipeline.
    pub pipeline: String,
    /// Literal beginnings of the keys that routes can match.
    pub prefixes: Vec<Vec<u8>>,
    /// Whether bases are kept beside the values; a pipeline that only captures leaves no trace.
    pub sidecars: bool,
    /// A claim that is not renewed for this long is void.
    pub claim_ttl: Duration,
}

/// Keys in one script call: beyond some hundred nothing is gained and the server is held longer (`facts`: 50 to 200).
const KEYS_PER_CALL: usize = 128;

/// Bytes of values in one answer of a script; the rest is asked for again. Bounds what a batch of large values holds.
const ANSWER_BYTES: usize = 1024 * 1024 + VALUE_BYTES_MAX;

/// In a comparison, values above this come as digests: the server's SHA-1 costs about what sending them would.
const DIGEST_ABOVE: usize = 1024;

/// A Redis store.
pub struct RedisStore {
    shared: Arc<Shared>,
    source: Mutex<Vec<tokio::task::AbortHandle>>,
}

/// What the door and its source share.
struct Shared {
    settings: Settings,
    buckets: Buckets,
    observe: Script,
    apply: Script,
    complete: Script,
    connection: tokio::sync::Mutex<Option<(u64, MultiplexedConnection)>>,
    connections: AtomicU64,
    epoch: AtomicU64,
    nonce: AtomicU64,
    lineage: Mutex<Lineage>,
    facts: Mutex<KeyspaceFacts>,
    claim: Mutex<Option<Claim>>,
}

/// What decides whether a key that vanished unseen was deleted or lost.
#[derive(Debug, Default)]
struct Lineage {
    /// The life of the data set now.
    current: String,
    evicted_keys: u64,
    /// Both, as they were before the last comparison that ended in step.
    compared: Option<(String, u64)>,
    /// Moves when either of them does, or when the canary is gone.
    generation: u64,
    canary: String,
}

impl Lineage {
    fn is_intact(&self) -> bool {
        self.compared.as_ref().is_some_and(|(life, evicted)| *life == self.current && *evicted == self.evicted_keys)
    }

    /// Takes in what INFO says; whether the data set is another one, and whether something was evicted.
    fn note(&mut self, info: &Info) -> (bool, bool) {
        let replaced = !self.current.is_empty() && self.current != info.lineage();
        let evicted = !replaced && info.evicted_keys > self.evicted_keys && !self.current.is_empty();
        if replaced || evicted || self.current.is_empty() {
            self.generation += 1;
        }
        self.current = info.lineage();
        self.evicted_keys = info.evicted_keys;
        (replaced, evicted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisStore {
    /// A store that is not yet connected.
    #[must_use]
    pub fn new(settings: Settings) -> RedisStore {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let buckets = Buckets::new(&settings.pipeline);
        let shared = Shared {
            buckets,
            settings,
            observe: Script::observe(),
            apply: Script::apply(),
            complete: Script::complete(),
            connection: tokio::sync::Mutex::new(None),
            connections: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            // Nonces need only differ from those of earlier lives of a bucket: nanoseconds and a counter do.
            nonce: AtomicU64::new(u64::try_from(seed & 0x7fff_ffff_ffff_ffff).unwrap_or(1)),
            lineage: Mutex::new(Lineage::default()),
            facts: Mutex::new(KeyspaceFacts::default()),
            claim: Mutex::new(None),
        };
        RedisStore { shared: Arc::new(shared), source: Mutex::new(Vec::new()) }
    }
}

impl Shared {
    fn place(&self) -> String {
        format!("redis {} ({}:{})", self.settings.name, self.settings.host, self.settings.port)
    }

    fn state_key(&self) -> String {
        format!("_keepstep:{}", self.settings.pipeline)
    }

    /// The sink connection, made anew if the last one broke. Every new one learns the server's lineage first.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        let mut slot = self.connection.lock().await;
        if let Some((id, connection)) = slot.as_ref() {
            return Ok((*id, connection.clone()));
        }
        let mut connection = connection::open(&self.settings, None).await?;
        let info = self.info(&mut connection).await?;
        info.check(&self.place())?;
        lock(&self.lineage).note(&info);
        let id = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        *slot = Some((id, connection.clone()));
        Ok((id, connection))
    }

    async fn info(&self, connection: &mut MultiplexedConnection) -> Result<Info, StoreError> {
        let text: String = redis::cmd("INFO")
            .arg(&["server", "replication", "stats", "persistence"])
            .query_async(connection)
            .await
            .map_err(|error| explain(&self.settings, &error))?;
        let info = Info::parse(&text);
        let mut facts = lock(&self.facts);
        facts.server.clone_from(&info.server);
        facts.replication_id.clone_from(&info.replication_id);
        facts.replication_offset = info.replication_offset;
        Ok(info)
    }

    /// Forgets this connection if it broke.
    async fn failed(&self, id: u64, error: &RedisError) -> StoreError {
        if is_broken(error) {
            let mut slot = self.connection.lock().await;
            if slot.as_ref().is_some_and(|(current, _)| *current == id) {
                *slot = None;
            }
        }
        explain(&self.settings, error)
    }

    /// Runs one command on the sink connection.
    async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        let (id, mut connection) = self.connection().await?;
        match answer(connection.send_packed_command(command).await) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(id, &error).await),
        }
    }

    /// Runs a script, loading it where the server does not have it. The inner error is the script's.
    async fn script(&self, script: &Script, command: &Cmd) -> Result<Result<Value, RedisError>, StoreError> {
        let (id, mut connection) = self.connection().await?;
        let mut result = answer(connection.send_packed_command(command).await);
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script.text);
            result = match answer(connection.send_packed_command(&load).await) {
                Ok(_) => answer(connection.send_packed_command(command).await),
                Err(error) => Err(error),
            };
        }
        match result {
            Err(error) if is_broken(&error) => Err(self.failed(id, &error).await),
            result => Ok(result),
        }
    }

    fn fenced(&self) -> StoreError {
        StoreError::Fenced(format!("{}: a newer owner has written here", self.place()))
    }

    async fn observe_chunk(&self, keys: &[&[u8]], values: bool) -> Result<(Vec<KeyReading>, i64), StoreError> {
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.observe.sha).arg(keys.len() * 2);
        for key in keys {
            command.arg(*key).arg(self.buckets.of(key));
        }
        let digest_above = if values { VALUE_BYTES_MAX } else { DIGEST_ABOVE };
        command.arg(self.epoch.load(Ordering::Relaxed));
        if self.settings.sidecars {
            command.arg(nonce);
        } else {
            command.arg("");
        }
        command.arg(ANSWER_BYTES).arg(digest_above);
        command.arg(VALUE_BYTES_MAX);
        match self.script(&self.observe, &command).await? {
            Ok(value) => self.readings(value, keys.len()),
            Err(error) if is_denied(&error) && keys.len() > 1 => {
                let mut readings = Vec::with_capacity(keys.len());
                let mut now_ms = 0;
                for key in keys {
                    let (one, now) = Box::pin(self.observe_chunk(&[*key], values)).await?;
                    readings.extend(one);
                    now_ms = now;
                }
                Ok((readings, now_ms))
            }
            Err(error) if is_denied(&error) => {
                let state = KeyState::Denied(error.to_string());
                Ok((vec![KeyReading { state, entry: Vec::new(), nonce: 0 }], 0))
            }
            Err(error) => Err(explain(&self.settings, &error)),
        }
    }

    fn readings(&self, value: Value, count: usize) -> Result<(Vec<KeyReading>, i64), StoreError> {
        let Value::Array(items) = value else {
            return Err(StoreError::Away(format!("{}: a script answered {value:?}", self.place())));
        };
        let mut items = items.into_iter();
        let seconds = integer(items.next());
        let microseconds = integer(items.next());
        let mut readings = Vec::with_capacity(count);
        while let Some(code) = items.next() {
            let (value, expires) = (items.next(), integer(items.next()));
            let (entry, nonce) = (bytes(items.next()), bytes(items.next()));
            let expires_ms = (expires >= 0).then_some(expires);
            let state = match integer(Some(code)) {
                0 => KeyState::Absent,
                1 => KeyState::Value { bytes: bytes(value), expires_ms },
                2 => match Digest::from_hex(&bytes(value)) {
                    Some(digest) => KeyState::Digest { digest, expires_ms },
                    None => KeyState::Later,
                },
                3 => KeyState::TooLarge(u64::try_from(integer(value)).unwrap_or(0)),
                4 => KeyState::WrongType(String::from_utf8_lossy(&bytes(value)).into_owned()),
                6 => return Err(self.fenced()),
                _ => KeyState::Later,
            };
            let nonce = std::str::from_utf8(&nonce).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            readings.push(KeyReading { state, entry, nonce });
        }
        Ok((readings, seconds * 1000 + microseconds / 1000))
    }

    async fn apply_chunk(&self, writes: &[KeyWrite<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.apply.sha).arg(writes.len() * 2);
        for write in writes {
            command.arg(write.key).arg(self.buckets.of(write.key));
        }
        command.arg(self.epoch.load(Ordering::Relaxed)).arg(nonce).arg(VALUE_BYTES_MAX);
        for write in writes {
            command.arg(match write.op {
                KeyOp::Set => "s",
                KeyOp::Delete => "d",
                KeyOp::Note => "n",
            });
            command.arg(write.expect.map(|digest| digest.hex()).unwrap_or_default()).arg(write.expect_entry.as_slice());
            match write.expect_nonce {
                0 => command.arg(""),
                nonce => command.arg(nonce),
            };
            command.arg(write.value).arg(write.base.map(|base| base.encode()).unwrap_or_default());
            match &write.publish {
                Some((channel, message)) => command.arg(*channel).arg(message.as_str()),
                None => command.arg("").arg(""),
            };
        }
        match self.script(&self.apply, &command).await? {
            Ok(Value::Array(codes)) => codes.into_iter().map(|code| self.outcome(code)).collect(),
            Ok(other) => Err(StoreError::Away(format!("{}: a script answered {other:?}", self.place()))),
            Err(error) if is_denied(&error) && writes.len() > 1 => {
                let mut outcomes = Vec::with_capacity(writes.len());
                for write in writes {
                    outcomes.extend(Box::pin(self.apply_chunk(std::slice::from_ref(write))).await?);
                }
                Ok(outcomes)
            }
            Err(error) if is_denied(&error) => {
                Ok(vec![KeyOutcome::Impossible("no_permission", format!("{}: {error}", self.place()))])
            }
            Err(error) => match error.code() {
                Some("OOM" | "READONLY" | "MISCONF" | "NOREPLICAS") => {
                    Ok(vec![KeyOutcome::NotNow(error.to_string()); writes.len()])
                }
                _ => Err(explain(&self.settings, &error)),
            },
        }
    }

    fn outcome(&self, code: Value) -> Result<KeyOutcome, StoreError> {
        let text = match code {
            Value::Int(1) => return Ok(KeyOutcome::Done),
            Value::Int(0) => return Ok(KeyOutcome::Refused),
            Value::Int(6) => return Err(self.fenced()),
            other => String::from_utf8_lossy(&bytes(Some(other))).into_owned(),
        };
        let not_now = ["OOM", "READONLY", "MISCONF", "NOREPLICAS"].iter().any(|code| text.contains(code));
        Ok(if text.contains("WRONGTYPE") {
            KeyOutcome::Impossible("wrong_type", format!("{}: the key holds another type than a string", self.place()))
        } else if text.contains("NOPERM") || text.contains("ermission") {
            KeyOutcome::Impossible("no_permission", format!("{}: {text}", self.place()))
        } else if not_now {
            KeyOutcome::NotNow(text)
        } else {
            KeyOutcome::Impossible("refused", format!("{}: {text}", self.place()))
        })
    }
}

/// A command's answer with a server error taken out of it.
fn answer(result: Result<Value, RedisError>) -> Result<Value, RedisError> {
    match result {
        Ok(Value::ServerError(error)) => Err(error.into()),
        other => other,
    }
}

fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

fn integer(value: Option<Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => number,
        Some(Value::BulkString(bytes)) => std::str::from_utf8(&bytes).ok().and_then(|t| t.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

fn bytes(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes,
        Some(Value::SimpleString(text)) => text.into_bytes(),
        Some(Value::Int(number)) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

fn keys_of(value: Value) -> Vec<Vec<u8>> {
    match value {
        Value::Array(items) | Value::Set(items) => items.into_iter().map(|item| bytes(Some(item))).collect(),
        _ => Vec::new(),
    }
}

/// A glob that matches exactly what begins with this prefix.
fn glob(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

impl Keyspace for RedisStore {
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.shared.connection().await.map(|_| ()) }.boxed()
    }

    fn preflight(&self) -> BoxFuture<'_, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(&self.shared).boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>> {
        claim::lay(&self.shared, claim).boxed()
    }

    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>> {
        async move {
            let mut load = redis::cmd("HMGET");
            load.arg(self.shared.state_key()).arg(&["epoch", "ensemble", "zxid"]);
            let mut items = keys_of(self.shared.command(&load).await?).into_iter().map(Value::BulkString);
            Ok(Remembered {
                epoch: u64::try_from(integer(items.next())).unwrap_or(0),
                ensemble: u32::try_from(integer(items.next())).unwrap_or(0),
                zxid: integer(items.next()),
            })
        }
        .boxed()
    }

    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let shared = &self.shared;
            shared.epoch.store(now.epoch, Ordering::Relaxed);
            let mut load = redis::cmd("HMGET");
            load.arg(shared.state_key()).arg(&["lineage", "evicted_keys"]);
            let mut stored = keys_of(shared.command(&load).await?).into_iter();
            let life = String::from_utf8_lossy(&stored.next().unwrap_or_default()).into_owned();
            let evicted = u64::try_from(integer(stored.next().map(Value::BulkString))).unwrap_or(0);
            let canary = shared.nonce.fetch_add(1, Ordering::Relaxed).to_string();
            {
                let mut lineage = lock(&shared.lineage);
                lineage.compared = (!life.is_empty()).then_some((life, evicted));
                lineage.canary.clone_from(&canary);
            }
            let mut save = redis::cmd("HSET");
            save.arg(shared.state_key()).arg("canary").arg(canary).arg("epoch").arg(now.epoch);
            save.arg("ensemble").arg(now.ensemble).arg("zxid").arg(now.zxid);
            shared.command(&save).await.map(|_| ())
        }
        .boxed()
    }

    fn remember(&self, zxid: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let mut save = redis::cmd("HSET");
            save.arg(self.shared.state_key()).arg("zxid").arg(zxid);
            self.shared.command(&save).await.map(|_| ())
        }
        .boxed()
    }

    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            for chunk in entries.chunks(KEYS_PER_CALL) {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&self.shared.complete.sha).arg(chunk.len());
                for entry in chunk {
                    command.arg(self.shared.buckets.of(&entry.key));
                }
                command.arg(self.shared.epoch.load(Ordering::Relaxed));
                for entry in chunk {
                    let base = entry.base.map(|base| base.encode()).unwrap_or_default();
                    command.arg(&entry.key).arg(entry.nonce).arg(entry.sequence).arg(base);
                }
                match self.shared.script(&self.shared.complete, &command).await? {
                    Ok(Value::Int(6)) => return Err(self.shared.fenced()),
                    Ok(_) => {}
                    Err(error) => return Err(explain(&self.shared.settings, &error)),
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn watch(&self, hints: Arc<dyn Hints>) {
        let task = tokio::spawn(source::run(Arc::clone(&self.shared), hints));
        lock(&self.source).push(task.abort_handle());
    }

    fn observe<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<KeyReadings, StoreError>> {
        async move {
            let calls = keys.chunks(KEYS_PER_CALL).map(|chunk| self.shared.observe_chunk(chunk, values));
            let chunks = futures::future::try_join_all(calls).await?;
            let intact = lock(&self.shared.lineage).is_intact();
            let now_ms = chunks.last().map_or(0, |(_, now_ms)| *now_ms);
            Ok(KeyReadings {
                readings: chunks.into_iter().flat_map(|(readings, _)| readings).collect(),
                now_ms,
                intact,
            })
        }
        .boxed()
    }

    fn apply<'a>(&'a self, writes: &'a [KeyWrite<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>> {
        async move {
            let calls = writes.chunks(KEYS_PER_CALL).map(|chunk| self.shared.apply_chunk(chunk));
            Ok(futures::future::try_join_all(calls).await?.into_iter().flatten().collect())
        }
        .boxed()
    }

    fn scan<'a>(&'a self, cursor: u64, prefix: &'a [u8]) -> BoxFuture<'a, Result<(u64, Vec<Vec<u8>>), StoreError>> {
        async move {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob(prefix)).arg("COUNT").arg(1000);
            match self.shared.command(&command).await? {
                Value::Array(mut items) if items.len() == 2 => {
                    let keys = items.pop().map(keys_of).unwrap_or_default();
                    Ok((u64::try_from(integer(items.pop())).unwrap_or(0), keys))
                }
                other => Err(StoreError::Away(format!("{}: SCAN answered {other:?}", self.shared.place()))),
            }
        }
        .boxed()
    }

    fn scan_sidecars(&self, cursor: u64) -> BoxFuture<'_, Result<(u64, Vec<Vec<u8>>), StoreError>> {
        async move {
            let (next, buckets) = self.scan(cursor, &slot::prefix(&self.shared.settings.pipeline)).await?;
            let mut keys = Vec::new();
            for bucket in buckets {
                let mut command = redis::cmd("HKEYS");
                command.arg(bucket);
                let fields = keys_of(self.shared.command(&command).await?);
                keys.extend(fields.into_iter().filter(|field| !field.starts_with(b"_keepstep:")));
            }
            Ok((next, keys))
        }
        .boxed()
    }

    fn compared(&self, begun: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let (life, evicted) = {
                let mut lineage = lock(&self.shared.lineage);
                if lineage.generation != begun {
                    return Ok(());
                }
                let now = (lineage.current.clone(), lineage.evicted_keys);
                if lineage.compared.as_ref() == Some(&now) {
                    return Ok(());
                }
                lineage.compared = Some(now.clone());
                now
            };
            if !self.shared.settings.sidecars {
                return Ok(());
            }
            let mut save = redis::cmd("HSET");
            save.arg(self.shared.state_key()).arg("lineage").arg(life).arg("evicted_keys").arg(evicted);
            self.shared.command(&save).await.map(|_| ())
        }
        .boxed()
    }

    fn mark(&self) -> u64 {
        lock(&self.shared.lineage).generation
    }

    fn facts(&self) -> KeyspaceFacts {
        lock(&self.shared.facts).clone()
    }

    fn database(&self) -> i64 {
        i64::from(self.shared.settings.database)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            for task in lock(&self.source).drain(..) {
                task.abort();
            }
            claim::give_up(&self.shared).await;
            *self.shared.connection.lock().await = None;
        }
        .boxed()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        for task in lock(&self.source).drain(..) {
            task.abort();
        }
    }
}
