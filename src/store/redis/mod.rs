//! The Redis door: scripts that read and write by compare-and-set, and the keyspace source.
//!
//! ```text
//!   source connection (RESP3)   keyspace events + tracking pushes --> Hints
//!                               INFO, canary and flags once a second: restarts, swaps, evictions, silence
//!   command connection          OBSERVE (value + sidecar), APPLY (compare-and-set + sidecar), SCAN
//! ```
//!
//! All pipelines of a worker share the two on one database (`server.rs`).
//!
//! Why nothing is lost: the subscription is confirmed before the pipeline's comparison scans; whatever happens later
//! gives a hint; whatever gives none (FLUSHDB without tracking, SWAPDB, a replaced data set) changes the canary or the
//! lineage, which asks for a comparison; and the periodic comparison finds the rest.

mod calls;
mod canary;
mod claim;
mod edit;
mod fault;
mod info;
mod lineage;
mod needs;
pub mod notification;
mod own;
mod preflight;
mod script;
mod server;
mod size;
mod slot;
mod source;
mod state;
mod ties;

use super::request::split;
use super::{
    Claim, HeldClaim, Hints, JournalEntry, KeyEdit, KeyOutcome, KeyReading, KeyReadings, KeyState, KeyWrite, Keyspace,
    KeyspaceFacts, Known, LeftMilestone, Moment, Remembered, Scanned, Slot, StoreError, Ties,
};
use crate::change::{LossCause, Position};
use crate::env;
use crate::plan::Base;
use crate::plan::guard::Late;
use calls::{glob, integer, keys_of, late};
use fault::explain;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lineage::Lineage;
use redis::Value;
use script::Script;
use server::Commands;
pub use server::{Access, Server};
use slot::Buckets;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a Redis is reached and which part of it a pipeline uses.
#[derive(Clone)]
pub struct Settings {
    /// The store's name in the pipeline file.
    pub name: String,
    /// The connections that it shares with the other pipelines of this worker.
    pub server: Arc<Server>,
    /// The pipeline.
    pub pipeline: String,
    /// Literal beginnings of the keys that routes can match.
    pub prefixes: Vec<Vec<u8>>,
    /// Whether bases are kept beside the values; a pipeline that only captures leaves no trace.
    pub sidecars: bool,
    /// Channels on which routes publish.
    pub channels: Vec<String>,
    /// A claim that is not renewed for this long is void.
    pub claim_ttl: Duration,
    /// Names which keys belong to which znodes, and which way they flow: what is proven of the pairs of some routes is not proven
    /// of those of others.
    pub ranges: String,
}

impl Settings {
    fn place(&self) -> String {
        format!("redis {} ({}:{})", self.name, self.server.access.host, self.server.access.port)
    }

    fn user(&self) -> &str {
        self.server.access.username.as_deref().unwrap_or("default")
    }
}

/// Keys in one script call: beyond some hundred nothing is gained and the server is held longer (`facts`: 50 to 200).
const KEYS_PER_CALL: usize = 128;

/// A Redis store.
pub struct RedisStore {
    shared: Arc<Shared>,
    source: Mutex<Option<source::Listens>>,
}

/// What the door and its source share.
struct Shared {
    settings: Settings,
    buckets: Buckets,
    observe: Script,
    apply: Script,
    apply_freeing: Script,
    complete: Script,
    state: Script,
    claims: claim::Scripts,
    look: Script,
    edit: Script,
    edit_freeing: Script,
    commands: Mutex<Option<Arc<Commands>>>,
    epoch: AtomicU64,
    /// This owner, and how far it has seen its ensemble come.
    owner: Mutex<Remembered>,
    nonce: AtomicU64,
    /// Everything that this owner has put on its stream below this position is written; 0 while that is not known.
    written: AtomicU64,
    milestones: Mutex<state::Milestones>,
    lineage: Mutex<Lineage>,
    facts: Mutex<Arc<KeyspaceFacts>>,
    claim: Mutex<Option<claim::Laid>>,
    /// Why what vanishes unseen cannot be told from what was lost, as last said.
    unproven: Mutex<Option<&'static str>>,
    /// It was said that PUBLISH is refused; once is enough.
    publish_refused: AtomicBool,
    /// Something was written since the canary was last changed.
    has_written: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisStore {
    /// A store that is not yet connected.
    #[must_use]
    pub fn new(settings: Settings) -> RedisStore {
        let buckets = Buckets::new(&settings.pipeline);
        let shared = Shared {
            buckets,
            settings,
            observe: Script::observe(),
            apply: Script::apply(),
            apply_freeing: Script::apply_freeing(),
            complete: Script::complete(),
            state: state::script(),
            claims: claim::Scripts::new(),
            look: Script::look(),
            edit: Script::edit(),
            edit_freeing: Script::edit_freeing(),
            commands: Mutex::new(None),
            epoch: AtomicU64::new(0),
            owner: Mutex::default(),
            // Nonces need only differ from those of earlier lives of a bucket: a random beginning and a counter do.
            nonce: AtomicU64::new(env::random::number() >> 1),
            written: AtomicU64::new(0),
            milestones: Mutex::default(),
            lineage: Mutex::new(Lineage::default()),
            facts: Mutex::default(),
            claim: Mutex::new(None),
            unproven: Mutex::new(None),
            publish_refused: AtomicBool::new(false),
            has_written: AtomicBool::new(false),
        };
        RedisStore { shared: Arc::new(shared), source: Mutex::new(None) }
    }

    async fn scanned(&self, scan: &redis::Cmd) -> Result<Scanned, StoreError> {
        match self.shared.command(scan).await? {
            Value::Array(mut items) if items.len() == 2 => {
                let keys = items.pop().map(keys_of).unwrap_or_default();
                Ok((u64::try_from(integer(items.pop())).unwrap_or(0), keys))
            }
            other => Err(StoreError::Away(format!("{}: SCAN answered {other:?}", self.shared.place()))),
        }
    }

    /// Asks how the server is behind every event that it has sent, so that whoever has the answer was told of them; `false`: not
    /// so, since the source is not connected.
    async fn ask_behind_events(&self) -> Result<(server::Heard, bool), StoreError> {
        let line = lock(&self.source).as_ref().and_then(source::Listens::line);
        if let Some(mut line) = line
            && let Ok(heard) = self.shared.settings.server.ask(&mut line).await
        {
            return Ok((heard, true));
        }
        Ok((self.shared.ask().await?, false))
    }
}

impl Keyspace for RedisStore {
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.shared.connection().await.map(|_| ()) }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        needs::check(&self.shared).boxed()
    }

    fn preflight<'a>(
        &'a self,
        range: &'a super::preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(&self.shared, range).boxed()
    }

    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>> {
        ties::look(&self.shared).boxed()
    }

    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>> {
        async move { ties::identify(&self.shared, &identity).await }.boxed()
    }

    fn tie(&self, other: Known) -> BoxFuture<'_, Result<(), StoreError>> {
        ties::tie(&self.shared, other).boxed()
    }

    fn held_claim(&self) -> BoxFuture<'_, Result<Option<HeldClaim>, StoreError>> {
        claim::held(&self.shared).boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>> {
        claim::lay(&self.shared, claim).boxed()
    }

    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        claim::look(&self.shared, claim).boxed()
    }

    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>> {
        state::remembered(&self.shared).boxed()
    }

    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            state::begin(&self.shared, now).await?;
            claim::name_lineage(&self.shared, now.ensemble).await
        }
        .boxed()
    }

    fn key_count(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        async move {
            let count = self.shared.command(&redis::cmd("DBSIZE")).await?;
            Ok(u64::try_from(integer(Some(count))).unwrap_or(u64::MAX))
        }
        .boxed()
    }

    fn remember(&self, now: Remembered, written: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        state::remember(&self.shared, now, written).boxed()
    }

    fn written(&self) -> BoxFuture<'_, Result<Option<Position>, StoreError>> {
        state::written(&self.shared).boxed()
    }

    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Since these were written Redis may have come back with an older state of itself, sidecars included.
            let may_be_older = {
                let lineage = lock(&self.shared.lineage);
                !lineage.is_life_compared()
            };
            let mut is_older = false;
            let bucket = self.shared.buckets.longest();
            let bytes = |entry: &JournalEntry| size::completed(entry, bucket);
            for chunk in split(&entries, KEYS_PER_CALL, size::TOGETHER_BYTES, bytes) {
                // What the sidecar of each is to hold; `None`: it stays.
                let mut notes: Vec<Option<Option<Base>>> = chunk.iter().map(|entry| Some(entry.base)).collect();
                if may_be_older {
                    let keys: Vec<&[u8]> = chunk.iter().map(|entry| entry.key.as_slice()).collect();
                    let (readings, _) = self.shared.observe_all(&keys, false).await?;
                    let (found, life) = if chunk.iter().any(|entry| entry.milestone.is_some()) {
                        state::milestone(&self.shared).await?
                    } else {
                        (None, 0)
                    };
                    for ((note, reading), entry) in notes.iter_mut().zip(&readings).zip(chunk) {
                        // The data set has what was observed before this was written.
                        if reading.life == life && entry.milestone.is_some_and(|milestone| milestone.is_in(found)) {
                            continue;
                        }
                        let becomes = late(reading, entry.base.as_ref());
                        // Only what is newer than what is there is noted.
                        let noted = Base::decode(&reading.entry);
                        let noted = noted.map(|noted| Base { sequence: entry.sequence, ..noted });
                        *note = becomes.note(noted, entry.base, entry.milestone);
                        let expires = entry.base.is_some_and(|base| base.expires_ms.is_some());
                        let is_read = matches!(
                            reading.state,
                            KeyState::Absent | KeyState::Value { .. } | KeyState::Digest { .. }
                        );
                        is_older |= becomes == Late::TakenBack && is_read && !expires;
                    }
                }
                let to_note = || chunk.iter().zip(&notes).filter_map(|(entry, note)| Some((entry, (*note)?)));
                let count = to_note().count();
                if count == 0 {
                    continue;
                }
                let mut command = redis::cmd("EVALSHA");
                command.arg(&self.shared.complete.sha).arg(count);
                for (entry, _) in to_note() {
                    command.arg(self.shared.buckets.of(&entry.key));
                }
                command.arg(self.shared.epoch.load(Ordering::Relaxed));
                for (entry, note) in to_note() {
                    let base = note.map(|base| base.encode()).unwrap_or_default();
                    command.arg(&entry.key).arg(entry.nonce).arg(entry.sequence).arg(base);
                }
                match self.shared.script(&self.shared.complete, &command).await? {
                    Ok(Value::Int(6)) => return Err(self.shared.fenced()),
                    Ok(_) => {}
                    Err(error) => return Err(explain(&self.shared.settings, &error)),
                }
            }
            Ok(is_older)
        }
        .boxed()
    }

    fn mark_slots<'a>(&'a self, slots: &'a [Slot], now: Remembered) -> BoxFuture<'a, Result<(), StoreError>> {
        state::mark_slots(&self.shared, slots, now).boxed()
    }

    fn marked_slots(&self) -> BoxFuture<'_, Result<Vec<Slot>, StoreError>> {
        state::marked_slots(&self.shared).boxed()
    }

    fn leave_milestone(&self) -> BoxFuture<'_, Result<Option<LeftMilestone>, StoreError>> {
        state::leave_milestone(&self.shared).boxed()
    }

    fn watch(&self, hints: Arc<dyn Hints>) {
        *lock(&self.source) = Some(source::listen(&self.shared, hints));
    }

    fn unwatch(&self) -> BoxFuture<'_, ()> {
        let listens = lock(&self.source).take();
        drop(listens);
        std::future::ready(()).boxed()
    }

    fn observe<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<KeyReadings, StoreError>> {
        async move {
            let (readings, now_ms) = self.shared.observe_all(keys, values).await?;
            // Without sidecars every key that is not there may have been.
            let may_have_been = |entry: &[u8]| !entry.is_empty() || !self.shared.settings.sidecars;
            let is_gone = |reading: &KeyReading| reading.state == KeyState::Absent && may_have_been(&reading.entry);
            let (intact, told) = if readings.iter().any(is_gone) {
                // What is known is up to a second old, and an eviction's event may still be on its way.
                let (heard, told) = self.ask_behind_events().await?;
                (lock(&self.shared.lineage).is_intact_as(&heard.info), told)
            } else {
                (lock(&self.shared.lineage).is_intact(), true)
            };
            // Behind the answer: what was heard of by now may have been so when it was given.
            let doubts = lock(&self.shared.lineage).doubts();
            if readings.iter().any(is_gone) {
                self.shared.settled(doubts).await;
            }
            let lineage = lock(&self.shared.lineage);
            let is_settled = lineage.is_settled(doubts);
            let (intact, compared) = (intact && is_settled, lineage.is_life_compared() && is_settled);
            let moment = Moment { now_ms, intact, compared, older: lineage.older, told };
            Ok(KeyReadings { readings, moment })
        }
        .boxed()
    }

    fn apply<'a>(&'a self, writes: &'a [KeyWrite<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>> {
        self.shared.apply_all(writes).boxed()
    }

    fn look<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<Vec<KeyState>, StoreError>> {
        self.shared.look_all(keys, values).boxed()
    }

    fn edit<'a>(&'a self, edits: &'a [KeyEdit<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>> {
        self.shared.edit_all(edits).boxed()
    }

    fn scan<'a>(&'a self, cursor: u64, prefix: &'a [u8]) -> BoxFuture<'a, Result<Scanned, StoreError>> {
        async move {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob(prefix)).arg("COUNT").arg(1000);
            self.scanned(&command).await
        }
        .boxed()
    }

    fn scan_sidecars(&self, cursor: u64) -> BoxFuture<'_, Result<Scanned, StoreError>> {
        async move {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob(&slot::prefix(&self.shared.settings.pipeline)));
            // What else has a bucket's name is no bucket.
            command.arg("COUNT").arg(1000).arg("TYPE").arg("hash");
            let (next, buckets) = self.scanned(&command).await?;
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
            let Some(evidence) = lock(&self.shared.lineage).conclude(begun) else { return Ok(()) };
            if !self.shared.settings.sidecars {
                return Ok(());
            }
            state::compared(&self.shared, &evidence).await
        }
        .boxed()
    }

    fn is_intact(&self) -> bool {
        let lineage = lock(&self.shared.lineage);
        lineage.is_intact() && lineage.is_settled(lineage.doubts())
    }

    fn is_life_compared(&self) -> bool {
        lock(&self.shared.lineage).is_life_compared()
    }

    fn look_into(&self) -> BoxFuture<'_, ()> {
        async move {
            let doubts = {
                let mut lineage = lock(&self.shared.lineage);
                lineage.doubt();
                lineage.doubts()
            };
            self.shared.settings.server.listeners.look_now();
            self.shared.settled(doubts).await;
        }
        .boxed()
    }

    fn note_older(&self) {
        lock(&self.shared.lineage).older = true;
    }

    fn lost_since_compared(&self) -> Option<LossCause> {
        lock(&self.shared.lineage).lost()
    }

    fn mark(&self) -> u64 {
        lock(&self.shared.lineage).generation
    }

    fn life(&self) -> u64 {
        lock(&self.shared.lineage).life
    }

    fn facts(&self) -> Arc<KeyspaceFacts> {
        lock(&self.shared.facts).clone()
    }

    fn database(&self) -> i64 {
        i64::from(self.shared.settings.server.access.database)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.unwatch().await;
            claim::give_up(&self.shared).await;
            *lock(&self.shared.commands) = None;
        }
        .boxed()
    }
}
