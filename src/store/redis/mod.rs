//! The Redis store: scripts that read and write by compare-and-set, and the keyspace source.
//!
//! ```text
//!   source connection (RESP3)   keyspace events + tracking pushes --> Hints
//!                               INFO, canary and flags once a second: restarts, swaps, evictions, silence
//!   command connection          OBSERVE (value + sidecar), APPLY (compare-and-set + sidecar), SCAN
//! ```
//!
//! All pipelines of a worker share the two on one database (`server.rs`).
//!
//! Why nothing is lost: the subscription is confirmed before the pipeline's comparison scans;
//! whatever happens later gives a hint; whatever gives none (FLUSHDB without tracking, SWAPDB, a
//! replaced data set) changes the canary or the lineage, which asks for a comparison; and the
//! periodic comparison finds the rest.

mod access;
mod batch;
mod calls;
mod canary;
mod claim;
mod client;
mod connections;
mod database;
mod edit;
mod fault;
mod info;
mod journal;
pub mod line;
mod lineage;
mod listener;
mod needs;
pub mod notification;
mod own;
mod part;
mod preflight;
mod reply;
mod script;
mod server;
mod settings;
mod size;
mod slot;
mod state;
mod subscribers;
mod ties;

use super::contract::{Connection, DataSet, Identity, KeyEditor, KeyReader, KeySink, OwnerState, RangeClaims, Source};
use super::{
    Claim, FailureKind, HeldClaim, Hints, JournalEntry, KeyEdit, KeyOutcome, KeyReading, KeyReadings, KeyState,
    KeyWrite, KeyspaceFacts, Known, LeftMilestone, ReadContext, Remembered, Scanned, Slot, StoreError, Ties,
};
use crate::change::{LossCause, Position};
use crate::env::lock;
pub use access::Access;
use claim::Claims;
pub use client::Client;
use connections::ServerInfo;
use database::Database;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use line::{Cmd, Value, cmd};
use part::Part;
use reply::{glob, integer, keys_of};
pub use server::Server;
pub use settings::Settings;
use state::State;
use std::sync::{Arc, Mutex};

/// A Redis store.
pub struct RedisStore {
    server: Arc<Server>,
    part: Arc<Part>,
    source: Mutex<Option<listener::Subscription>>,
}

impl RedisStore {
    /// A store that is not yet connected. `server`: the connections that it shares with the other
    /// pipelines of this worker.
    #[must_use]
    pub fn new(settings: Settings, server: Arc<Server>) -> RedisStore {
        let database = Database::new(settings, Arc::clone(&server.connections));
        let part = Part { database, state: State::default(), claims: Claims::default() };
        RedisStore { server, part: Arc::new(part), source: Mutex::new(None) }
    }

    fn database(&self) -> &Database {
        &self.part.database
    }

    async fn scanned(&self, scan: &Cmd) -> Result<Scanned, StoreError> {
        match self.database().command(scan).await? {
            Value::Array(mut items) if items.len() == 2 => {
                let keys = items.pop().map(keys_of).unwrap_or_default();
                Ok((u64::try_from(integer(items.pop())).unwrap_or(0), keys))
            }
            other => Err(StoreError::away(
                FailureKind::Protocol,
                format!("{}: SCAN answered {other:?}", self.database().place()),
            )),
        }
    }

    /// Asks how the server is behind every event that it has sent, so that whoever has the answer
    /// was given them; `false`: not so, since the source is not connected. Looks for the canary as
    /// well: what a database that was just exchanged says of its keys may be from long ago.
    async fn ask_behind_events(&self) -> Result<(ServerInfo, bool), StoreError> {
        let line = lock(&self.source).as_ref().and_then(listener::Subscription::line);
        if let Some(line) = line {
            let own = self.server.subscribers.up().into_iter().filter(|(_, part)| Arc::ptr_eq(part, &self.part));
            let own: Vec<_> = own.collect();
            let (server, looked) = futures::join!(self.server.connections.ask(&*line), canary::check(&*line, &own));
            if let (Ok(server), Ok(())) = (server, looked) {
                return Ok((server, true));
            }
        }
        Ok((self.database().ask().await?, false))
    }
}

impl Connection for RedisStore {
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.database().connection().await.map(|_| ()) }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        needs::check(self.database()).boxed()
    }

    fn preflight<'a>(
        &'a self,
        range: &'a super::preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(self.database(), range).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.unwatch().await;
            self.part.claims.give_up(self.database()).await;
            self.database().disconnect();
        }
        .boxed()
    }
}

impl Identity for RedisStore {
    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>> {
        ties::look(self.database()).boxed()
    }

    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>> {
        async move { ties::identify(self.database(), &identity).await }.boxed()
    }
}

impl RangeClaims for RedisStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>> {
        self.part.claims.lay(self.database(), claim).boxed()
    }

    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        claim::look(self.database(), claim).boxed()
    }
}

impl Source for RedisStore {
    fn watch(&self, hints: Arc<dyn Hints>) {
        *lock(&self.source) = Some(listener::listen(&self.server, &self.part, hints));
    }

    fn unwatch(&self) -> BoxFuture<'_, ()> {
        let listens = lock(&self.source).take();
        drop(listens);
        std::future::ready(()).boxed()
    }
}

impl OwnerState for RedisStore {
    fn tie(&self, other: Known) -> BoxFuture<'_, Result<(), StoreError>> {
        ties::tie(self.database(), other).boxed()
    }

    fn held_claim(&self) -> BoxFuture<'_, Result<Option<HeldClaim>, StoreError>> {
        claim::held(self.database()).boxed()
    }

    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>> {
        state::remembered(self.database()).boxed()
    }

    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.part.state.begin(self.database(), now).await?;
            self.part.claims.name_lineage(self.database(), now.ensemble).await
        }
        .boxed()
    }

    fn remember(&self, now: Remembered, written: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.part.state.remember(self.database(), now, written).boxed()
    }

    fn written(&self) -> BoxFuture<'_, Result<Option<Position>, StoreError>> {
        state::written(self.database()).boxed()
    }

    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.database().complete(entries).boxed()
    }

    fn mark_slots<'a>(&'a self, slots: &'a [Slot], now: Remembered) -> BoxFuture<'a, Result<(), StoreError>> {
        self.part.state.mark_slots(self.database(), slots, now).boxed()
    }

    fn marked_slots(&self) -> BoxFuture<'_, Result<Vec<Slot>, StoreError>> {
        state::marked_slots(self.database()).boxed()
    }
}

impl KeyReader for RedisStore {
    fn observe<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<KeyReadings, StoreError>> {
        async move {
            let (readings, now_ms) = self.database().observe_all(keys, values).await?;
            // Without sidecars every key that is not there may have been.
            let may_have_been = |entry: &[u8]| !entry.is_empty() || !self.database().settings.sidecars;
            let is_gone = |reading: &KeyReading| reading.state == KeyState::Absent && may_have_been(&reading.entry);
            let (intact, events_delivered) = if readings.iter().any(is_gone) {
                // What is known is up to a second old, and an eviction's event may still be on its
                // way.
                let (server, delivered) = self.ask_behind_events().await?;
                (lock(&self.database().lineage).is_intact_as(&server.info), delivered)
            } else {
                (lock(&self.database().lineage).is_intact(), true)
            };
            // Behind the answer: what was received by now may have been so when it was given.
            let doubts = lock(&self.database().lineage).doubts();
            if readings.iter().any(is_gone) {
                self.database().settled(doubts).await;
            }
            let lineage = lock(&self.database().lineage);
            // What is known of the data set is not known of the one that was read.
            if readings.iter().any(|reading| is_gone(reading) && reading.incarnation != lineage.incarnation) {
                drop(lineage);
                return Err(self.database().replaced());
            }
            let is_settled = lineage.is_settled(doubts);
            let (intact, compared) = (intact && is_settled, lineage.is_incarnation_compared() && is_settled);
            let context = ReadContext { now_ms, intact, compared, older: lineage.older, events_delivered };
            Ok(KeyReadings { readings, context })
        }
        .boxed()
    }

    fn scan<'a>(&'a self, cursor: u64, prefix: &'a [u8]) -> BoxFuture<'a, Result<Scanned, StoreError>> {
        async move {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob(prefix)).arg("COUNT").arg(1000);
            self.scanned(&command).await
        }
        .boxed()
    }

    fn scan_sidecars(&self, cursor: u64) -> BoxFuture<'_, Result<Scanned, StoreError>> {
        async move {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob(&slot::prefix(&self.database().settings.pipeline)));
            // What else has a bucket's name is no bucket.
            command.arg("COUNT").arg(1000).arg("TYPE").arg("hash");
            let (next, buckets) = self.scanned(&command).await?;
            let mut keys = Vec::new();
            for bucket in buckets {
                let mut command = cmd("HKEYS");
                command.arg(bucket);
                let fields = keys_of(self.database().command(&command).await?);
                keys.extend(fields.into_iter().filter(|field| !field.starts_with(b"_keepstep:")));
            }
            Ok((next, keys))
        }
        .boxed()
    }

    fn key_count(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        async move {
            let count = self.database().command(&cmd("DBSIZE")).await?;
            Ok(u64::try_from(integer(Some(count))).unwrap_or(u64::MAX))
        }
        .boxed()
    }
}

impl KeySink for RedisStore {
    fn apply<'a>(&'a self, writes: &'a [KeyWrite<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>> {
        self.database().apply_all(writes).boxed()
    }

    fn leave_milestone(&self) -> BoxFuture<'_, Result<Option<LeftMilestone>, StoreError>> {
        self.part.state.leave_milestone(self.database()).boxed()
    }
}

impl KeyEditor for RedisStore {
    fn look<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<Vec<KeyState>, StoreError>> {
        self.database().look_all(keys, values).boxed()
    }

    fn edit<'a>(&'a self, edits: &'a [KeyEdit<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>> {
        self.database().edit_all(edits).boxed()
    }
}

impl DataSet for RedisStore {
    fn mark(&self) -> u64 {
        lock(&self.database().lineage).generation
    }

    fn compared(&self, begun: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let Some(evidence) = lock(&self.database().lineage).conclude(begun) else { return Ok(()) };
            if !self.database().settings.sidecars {
                return Ok(());
            }
            self.part.state.compared(self.database(), &evidence).await
        }
        .boxed()
    }

    fn is_intact(&self) -> bool {
        let lineage = lock(&self.database().lineage);
        lineage.is_intact() && lineage.is_settled(lineage.doubts())
    }

    fn lost_since_compared(&self) -> Option<LossCause> {
        lock(&self.database().lineage).lost()
    }

    fn incarnation(&self) -> u64 {
        lock(&self.database().lineage).incarnation
    }

    fn is_incarnation_compared(&self) -> bool {
        lock(&self.database().lineage).is_incarnation_compared()
    }

    fn look_into(&self) -> BoxFuture<'_, ()> {
        async move {
            let doubts = {
                let mut lineage = lock(&self.database().lineage);
                lineage.doubt();
                lineage.doubts()
            };
            self.server.subscribers.look_now();
            self.database().settled(doubts).await;
        }
        .boxed()
    }

    fn note_older(&self) {
        lock(&self.database().lineage).older = true;
    }

    fn facts(&self) -> Arc<KeyspaceFacts> {
        lock(&self.database().facts).clone()
    }

    fn database(&self) -> i64 {
        i64::from(self.server.connections.access.database)
    }
}
