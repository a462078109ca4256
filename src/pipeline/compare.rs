//! The full comparison: every pair of the routes, both sides, in bounded memory.
//!
//! ```text
//!   1  walk ZooKeeper        each znode with its key and sidecar      (pairs that have a znode)
//!   2  scan Redis            keys that phase 1 did not meet           (pairs that have only a key)
//!   3  scan the sidecars     pairs that neither met, after a gap      (bases of pairs that are gone on both sides)
//! ```
//!
//! A capture has one of the first two phases, and in place of the third the pairs of which its stream has a value.
//!
//! A pair that waits in the dirty set or is in a round is skipped: it is looked at anyway, by the slow path unless the
//! comparison is a routine one, since what happened in a gap gave no hint. Whatever looks older than its base, or absent,
//! or may have been read before the pair's last round and has no base to tell, is left to the slow path. What the comparison
//! says of the stores as a whole (what vanishes unseen from here on is a delete) waits until the last of these is settled.
//! Deletes that nobody saw are counted first, with those that its rounds meet (`inferred.rs`): many of them wait for `approve`.

use super::asked::Reason;
use super::books::Books;
use super::comparison::{Busy, Comparison};
use super::dirty::Gone;
use super::doors::{Doors, ZnodeWalk};
use super::hint::{Hint, PairName};
use super::inferred::Decided;
use super::observe::{Batch, Pending, found_znode, present};
use super::pair::{Item, Loaded};
use super::round::Reading;
use super::rounds::Rounds;
use super::settled::Settled;
use super::spec::Spec;
use super::unreadable::Denied;
use crate::change::{GapState, KeyedHash, Op, Pair, Side, ZkStat};
use crate::env::{self, Instant, Map, Set, Tasks, tasks::Failed};
use crate::failpoint::{caches_are_off, crash_point};
use crate::plan::Known;
use crate::store::{FailureKind, StoreError, VALUE_BYTES_MAX, ZnodeReading};
use crate::stream::StreamError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Batches of a comparison that are under way at a time: one is read while others sync, apply and are decided.
const BATCHES: usize = 8;

/// Keys of one batch of the scan of Redis.
const SCAN_BATCH: usize = 512;

/// A pair with the data and versions of its znode.
type WalkedItem = (Item, Vec<u8>, ZkStat);

/// See the module.
pub(super) struct Comparer {
    pub(super) spec: Arc<Spec>,
    pub(super) doors: Arc<Doors>,
    pub(super) books: Arc<Books>,
    pub(super) rounds: Arc<Rounds>,
    /// Until the first comparison is done: Redis holds next to nothing, and no base.
    is_redis_blank: AtomicBool,
}

impl Comparer {
    pub(super) fn new(rounds: Arc<Rounds>, is_redis_blank: bool) -> Comparer {
        let (spec, doors, books) = (Arc::clone(&rounds.spec), Arc::clone(&rounds.doors), Arc::clone(&rounds.books));
        Comparer { spec, doors, books, rounds, is_redis_blank: AtomicBool::new(is_redis_blank) }
    }

    /// Compares everything once; answers how many pairs were not in step.
    pub(super) async fn compare(self: &Arc<Self>, asked: &[Reason]) -> Result<u64, StoreError> {
        let begun = Instant::now();
        let gaps: Vec<Side> = asked.iter().filter_map(Reason::gap_in).collect();
        self.books.counters.begin_steps();
        self.doors.look_into_redis().await;
        // Stranded pairs are found again by this comparison, which is thorough while anything is lost; a pair that has gone meanwhile holds
        // nothing back. One that looks for what the stream lacks passes over what may not be read.
        self.books.conclusion.begin(!self.books.lag.is_lagging());
        let mark = self.doors.redis_mark();
        // Where there is something to conclude, pairs that are under way are looked at on both sides as well. Asked after the mark:
        // what happens in between makes the mark an old one.
        let is_settled = self.doors.is_redis_intact() && !self.books.lag.is_lagging();
        let incarnation = self.doors.incarnation();
        self.doors.mark_settled_slots().await?;
        let were_paused = self.books.health.paused();
        let begun_so = self.books.sources().begin(incarnation, were_paused.is_empty());
        let comparison = Comparison::begin(!asked.is_empty(), is_settled, mark, begun_so);
        let event_gaps = self.books.dirty.gaps();
        self.books.dirty.begin_comparison();
        self.books.quarantine.begin_comparison();
        self.books.inferred.begin(|route| !were_paused.contains(&route));
        let in_step: u64 = self.books.pairs.by_route().iter().sum();
        self.books.pairs.begin();
        let mut total = Settled::of(self.spec.settings.routes.len());
        let counted = self.books.counts.mark();
        self.books.counters.snapshot_done.store(0, Ordering::Relaxed);
        let mut met: Set<KeyedHash> = Set::default();
        let hidden = self.walk_znodes(comparison, &mut met, &mut total).await?;
        crash_point!("c12-znodes-compared");
        self.scan_keys(comparison, &mut met, &mut total).await?;
        if self.spec.captures().is_some() {
            // A routine one walks over the whole stream only if fewer pairs are there than were in step.
            let has_fewer = u64::try_from(met.len()).unwrap_or(u64::MAX) < in_step;
            if !comparison.is_routine() || has_fewer {
                self.scan_stream(comparison, &met, &mut total).await?;
            }
        } else if !comparison.is_routine() {
            self.scan_sidecars(comparison, &met, &mut total).await?;
        }
        met.extend(hidden);
        let gone = self.gone_pairs(&met).await?;
        // A paused route is not looked at: what is concluded of the stores as a whole waits for a comparison without one.
        let every_route = self.books.sources().covers_every_route(comparison.begun());
        if every_route {
            let not_met = self.books.quarantine.not_met(|name, _| met.contains(&KeyedHash::of(name)));
            for (name, route) in not_met {
                self.books.dirty.note(&name, Hint::new(route).slow());
            }
        }
        drop(met);
        let paused_since = self.books.health.paused();
        self.books.conclusion.pass_over(were_paused.iter().chain(&paused_since).copied().collect());
        let has_missed = self.books.conclusion.has_missed();
        let found = self.books.with_sources(|sources| comparison.ended(sources, has_missed, gone.len()));
        self.is_redis_blank.store(false, Ordering::Relaxed);
        for (name, route) in gone {
            self.books.inferred.infer(name, route);
            if let Some(count) = total.inferred.get_mut(route) {
                *count += 1;
            }
        }
        let acted = total.acted;
        let paused = self.books.health.paused();
        self.books.pairs.end(|route| paused.contains(&route));
        // What went on in a gap was perhaps seen in part: the comparison that follows it counts anew.
        let sources = self.books.sources();
        if sources.is_unpaused_since(comparison.begun()) && self.books.dirty.gaps() == event_gaps {
            let left = self.books.dirty.left(self.spec.settings.routes.len());
            let counts = total.inferred.iter().zip(left).enumerate();
            for (route, (inferred, (left, _))) in counts.filter(|(route, _)| !were_paused.contains(route)) {
                self.books.inferred.ended(route, self.books.pairs.looked_at(route) + inferred + left);
            }
        }
        if every_route && sources.hears(Side::Zookeeper) && sources.hears(Side::Redis) {
            self.books.cache.set_complete(true);
            self.books.counts.compared(counted);
        }
        crash_point!("c12-all-compared");
        // What a pair that was missed lost would be taken for deleted: another comparison meets it.
        self.books.conclusion.ended(found);
        self.conclude().await?;
        self.rounds.advance.remember().await?;
        // What a paused route lost is not counted yet: the loss is told after a comparison that looked at every route.
        if every_route {
            self.books.counters.losses.compared(begun);
        }
        for side in gaps {
            self.rounds.recorder.mark_gap(side, GapState::Closed, &format!("a comparison settled {acted} pairs")).await;
        }
        self.books.metrics.comparisons.inc();
        self.books.metrics.comparison_seconds.set(begun.elapsed().as_secs_f64());
        self.books.counters.compared_ms.store(env::unix_ms(), Ordering::Relaxed);
        self.books.quarantine.save().await;
        let pairs: u64 = self.books.pairs.by_route().iter().sum();
        let inferred = self.books.inferred.not_held();
        tracing::debug!(pairs, acted, inferred, seconds = begun.elapsed().as_secs_f64(), "compared");
        Ok(acted + inferred)
    }

    /// Decides about the deletes that nobody saw, as far as their number is known, and concludes the last comparison as soon as
    /// every pair that it left to the rounds is settled and none waits for approval.
    pub(super) async fn conclude(&self) -> Result<(), StoreError> {
        self.decide_deletes();
        if self.books.dirty.owes() || self.books.inferred.is_open() {
            return Ok(());
        }
        let Some(found) = self.books.conclusion.take() else { return Ok(()) };
        let gone_before = self.books.conclusion.replace_gone(found.gone());
        let concluded =
            found.conclude(self.books.inferred.any_held(), self.books.conclusion.has_stranded(), gone_before);
        if concluded.asks_again {
            self.books.asked.ask(None, "the stream was left behind, and pairs were gone");
        }
        if concluded.is_stream_complete {
            self.books.lag.note_looked();
        }
        match concluded.mark {
            Some(mark) => self.doors.compared(mark).await,
            None => Ok(()),
        }
    }

    /// Phase 1. Answers which pairs have a znode that may not be read, and that the next two phases look at.
    async fn walk_znodes(
        self: &Arc<Self>,
        comparison: Comparison,
        met: &mut Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<Vec<KeyedHash>, StoreError> {
        let Some(mut walk) = self.doors.walk(self.spec.map.roots()) else { return Ok(Vec::new()) };
        // The batches are tasks of their own, so they go on while the walk is waited for (which must not be cut off). They
        // end with the ownership, and not before they have given their pairs back.
        let mut under_way = Tasks::default();
        let mut result = self.start_batches(&mut walk, comparison, &mut under_way, met, total).await;
        while let Some(ended) = under_way.join_next().await {
            let absorbed = absorb(total, batch(ended));
            result = result.and_then(|hidden| absorbed.map(|()| hidden));
        }
        result
    }

    async fn start_batches(
        self: &Arc<Self>,
        walk: &mut ZnodeWalk,
        comparison: Comparison,
        under_way: &mut Tasks<Result<Settled, StoreError>>,
        met: &mut Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<Vec<KeyedHash>, StoreError> {
        let paused = self.books.health.paused();
        let (mut denied, mut hidden) = (Denied::default(), Vec::new());
        loop {
            if under_way.len() >= BATCHES
                && let Some(ended) = under_way.join_next().await
            {
                absorb(total, batch(ended))?;
            }
            let gone = self.books.dirty.gone();
            let walked = walk.next().await?;
            self.books.counters.step();
            for (path, reason) in walk.denied() {
                if let Some(name) = self.deny(&path, &reason, &mut denied) {
                    // Else the next two phases meet its key or its sidecar, which may say that it is lost.
                    if comparison.is_routine() || self.books.lag.is_lagging() || self.spec.captures().is_some() {
                        met.insert(KeyedHash::of(&name));
                    } else {
                        hidden.push(KeyedHash::of(&name));
                    }
                    self.books.pairs.met(&name);
                }
            }
            let Some(walked) = walked else {
                self.set_unreadable(denied);
                return Ok(hidden);
            };
            let mut items = Vec::with_capacity(walked.len());
            for (path, data, stat) in walked {
                let Some(mapped) = self.spec.map.of_path(&path) else { continue };
                let Some(name) = name_of(&mapped.pair) else { continue };
                met.insert(KeyedHash::of(&name));
                if paused.contains(&mapped.route) {
                    continue;
                }
                let item = Item { name, hint: Hint::new(mapped.route), pair: mapped.pair };
                items.push((item, data, stat));
            }
            self.books.counters.snapshot_done.store(u64::try_from(met.len()).unwrap_or(0), Ordering::Relaxed);
            let comparer = Arc::clone(self);
            if self.spec.captures().is_some() {
                // Read again once the pair is taken: what the walk read may be older than its newest record.
                let items = items.into_iter().map(|(item, ..)| item).collect();
                under_way.spawn(async move { Ok(comparer.compare_read(items, comparison).await) });
            } else {
                under_way.spawn(comparer.compare_walked(items, comparison, gone));
            }
        }
    }

    /// Compares znodes that were read when so many pairs had lost their base with their keys.
    async fn compare_walked(
        self: Arc<Self>,
        mut items: Vec<WalkedItem>,
        comparison: Comparison,
        gone: Gone,
    ) -> Result<Settled, StoreError> {
        let turn = self.books.dirty.turn();
        let free = self.books.dirty.try_take(&turn, &mut items.iter().map(|(item, ..)| (&item.name, item.hint)));
        let was_forgotten = self.books.dirty.gone() != gone;
        let mut free = free.into_iter();
        items.retain(|(item, ..)| self.is_left_to_us(item, free.next(), comparison));
        let mut batch = Batch::default();
        if self.is_redis_blank.load(Ordering::Relaxed) && !was_forgotten && !caches_are_off() {
            items = self.guess_absent(items, &mut batch);
        }
        let pending = items.into_iter().map(|(item, data, stat)| {
            let znode = ZnodeReading::Present { data, stat };
            Pending::walked(Reading::walked(item.hint.news, found_znode(&znode), was_forgotten), item, znode)
        });
        if let Err((failed, error)) = self.rounds.read_keys(pending.collect(), false, &mut batch).await {
            for pending in failed {
                self.books.dirty.finish(pending.item.name, None);
            }
            return Err(error);
        }
        Ok(self.rounds.settle(batch).await)
    }

    /// Into a Redis that holds next to nothing, values are written on the guess that there is no key and no base; what
    /// the compare-and-set refuses is observed like everything else. Answers the pairs that need a look first.
    fn guess_absent(&self, items: Vec<WalkedItem>, batch: &mut Batch) -> Vec<WalkedItem> {
        let mut rest = Vec::new();
        for (item, data, stat) in items {
            let leads = self.spec.route(item.hint.route).is_some_and(|route| route.policy.flow.leads_to(Side::Redis));
            let found = present(&data, &stat);
            let guessed = self
                .rounds
                .facts(&item, self.books.sources())
                .filter(|_| leads && !data.is_empty() && data.len() <= VALUE_BYTES_MAX && !stat.is_ephemeral())
                .map(|facts| Reading::guessed_absent(item.hint.news, found, &facts));
            let Some(observed) = guessed else {
                rest.push((item, data, stat));
                continue;
            };
            let events = self.rounds.events_of(&item.name);
            let znode = Some((data, stat));
            batch.observed.push(Loaded { znode, ..Loaded::new(item, observed, events) });
        }
        rest
    }

    /// Phase 2.
    async fn scan_keys(
        self: &Arc<Self>,
        comparison: Comparison,
        met: &mut Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<(), StoreError> {
        if !self.doors.has_keys() {
            return Ok(());
        }
        for prefix in self.spec.map.key_prefixes() {
            let mut cursor = 0;
            let mut batch = Vec::new();
            loop {
                let (next, found) = self.doors.scan(cursor, &prefix).await?;
                self.books.counters.step();
                for key in found {
                    let Some(mapped) = self.spec.map.of_key(&key) else { continue };
                    if met.insert(KeyedHash::of(&key)) {
                        batch.push(Item { name: key.into(), hint: Hint::new(mapped.route), pair: mapped.pair });
                    }
                }
                cursor = next;
                if batch.len() >= SCAN_BATCH || (cursor == 0 && !batch.is_empty()) {
                    absorb(total, self.compare_batch(std::mem::take(&mut batch), comparison).await)?;
                    self.books.counters.snapshot_done.store(u64::try_from(met.len()).unwrap_or(0), Ordering::Relaxed);
                }
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Phase 3.
    async fn scan_sidecars(
        self: &Arc<Self>,
        comparison: Comparison,
        met: &Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<(), StoreError> {
        if !self.doors.has_keys() {
            return Ok(());
        }
        let mut cursor = 0;
        loop {
            let (next, found) = self.doors.scan_sidecars(cursor).await?;
            self.books.counters.step();
            let items = found.into_iter().filter(|key| !met.contains(&KeyedHash::of(key))).filter_map(|key| {
                let mapped = self.spec.map.of_key(&key)?;
                Some(Item { name: key.into(), hint: Hint::new(mapped.route), pair: mapped.pair })
            });
            let items: Vec<Item> = items.collect();
            if !items.is_empty() {
                absorb(total, self.compare_batch(items, comparison).await)?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Phase 3 of a capture: pairs of which the stream has a value, and that neither phase met.
    async fn scan_stream(
        self: &Arc<Self>,
        comparison: Comparison,
        met: &Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<(), StoreError> {
        let mut from = 1;
        loop {
            let existing = self.doors.existing(from, SCAN_BATCH).await.map_err(unread)?;
            self.books.counters.step();
            let gone = existing.pairs.iter().filter_map(|pair| {
                let name = name_of(pair).filter(|name| !met.contains(&KeyedHash::of(name)))?;
                let mapped = self.spec.pair_of(&name)?;
                Some(Item { name, hint: Hint::new(mapped.route), pair: mapped.pair })
            });
            let gone: Vec<Item> = gone.collect();
            if !gone.is_empty() {
                absorb(total, self.compare_batch(gone, comparison).await)?;
            }
            if existing.next <= from {
                return Ok(());
            }
            from = existing.next;
        }
    }

    /// Compares pairs of which nothing is read yet, in a task of its own: a panic there ends this comparison and not the pipeline.
    async fn compare_batch(self: &Arc<Self>, items: Vec<Item>, comparison: Comparison) -> Result<Settled, StoreError> {
        let mut task = Tasks::default();
        let comparer = Arc::clone(self);
        task.spawn(async move { Ok(comparer.compare_read(items, comparison).await) });
        let ended = task.join_next().await;
        ended.map_or_else(|| Ok(Settled::default()), batch)
    }

    /// Compares pairs of which nothing is read yet.
    async fn compare_read(&self, mut items: Vec<Item>, comparison: Comparison) -> Settled {
        let paused = self.books.health.paused();
        items.retain(|item| !paused.contains(&item.hint.route));
        let turn = self.books.dirty.turn();
        let free = self.books.dirty.try_take(&turn, &mut items.iter().map(|item| (&item.name, item.hint)));
        let mut free = free.into_iter();
        items.retain(|item| self.is_left_to_us(item, free.next(), comparison));
        let mut batch = Batch::default();
        let reading = |news| match self.spec.captures() {
            Some(side) => Reading::captured(news, true, side),
            None => Reading::both(news, true),
        };
        let pending = items.into_iter().map(|item| Pending::new(reading(item.hint.news), item));
        self.rounds.read(pending.collect(), &mut batch).await;
        self.rounds.settle(batch).await
    }

    /// Whether a comparison has taken this pair. One that waits or is in a round will be looked at or is being looked at, but
    /// perhaps at one side only, or before what a gap hides: then both sides are looked at once more.
    fn is_left_to_us(&self, item: &Item, is_free: Option<bool>, comparison: Comparison) -> bool {
        let is_free = is_free.unwrap_or(false);
        match self.books.cache.get(&item.name) {
            // Whoever has it will tell only what changes, if anything.
            Known::Base(_) if !is_free => self.books.pairs.left(&item.name, item.hint.route),
            _ => self.books.pairs.met(&item.name),
        }
        if !is_free {
            match comparison.busy(&self.books.sources()) {
                Busy::Again => self.books.dirty.note(&item.name, item.hint.slow().owed()),
                Busy::Left => self.books.dirty.leave(&item.name, item.hint.route),
            }
        }
        is_free
    }

    /// Pairs that the stream has and a comparison met on neither side, with their routes. A pair that no route maps as it is
    /// on the stream is left alone. Memory grows with these pairs.
    pub(super) async fn gone_pairs(&self, met: &Set<KeyedHash>) -> Result<Vec<(PairName, usize)>, StoreError> {
        if self.spec.captures().is_some() {
            return Ok(Vec::new());
        }
        let left = self.books.unwritten.left_from().filter(|_| !self.books.lag.has_looked());
        let mut from = match (self.books.lag.is_lagging(), left) {
            (true, _) => 1,
            (false, Some(left)) => left,
            (false, None) => return Ok(Vec::new()),
        };
        let is_meant = |key: &[u8]| self.books.lag.is_lagging() || self.books.unwritten.holds(key);
        let paused = self.books.health.paused();
        let mut gone: Map<PairName, usize> = Map::default();
        loop {
            let batch = self.doors.records(from).await.map_err(unread)?;
            if batch.next <= from {
                break;
            }
            from = batch.next;
            self.books.counters.step();
            for change in batch.records.into_iter().map(|recorded| recorded.change) {
                // A marker may name a pair, whose value a command replaced: it is no state.
                let Some(key) = change.pair.redis.as_deref().filter(|_| change.op != Op::Marker) else { continue };
                if met.contains(&KeyedHash::of(key)) || !is_meant(key) {
                    continue;
                }
                let mapped = self.spec.map.of_key(key).filter(|mapped| mapped.pair == change.pair);
                match mapped.filter(|mapped| change.after.is_some() && !paused.contains(&mapped.route)) {
                    Some(mapped) => gone.insert(key.into(), mapped.route),
                    None => gone.remove(key),
                };
            }
        }
        if self.books.lag.absence_counts || gone.is_empty() {
            return Ok(gone.into_iter().collect());
        }
        let pairs = gone.len();
        tracing::warn!(
            pipeline = self.spec.settings.pipeline,
            pairs,
            "a store has lost its data since this stream was left, or it was written beside other stores: pairs that neither store has stay \
             on it as they are"
        );
        Ok(Vec::new())
    }

    /// Lets deletes that nobody saw through, or holds those of a route back if they are many.
    fn decide_deletes(&self) {
        if !self.books.inferred.is_open() {
            return;
        }
        for (route, (_, open)) in self.books.dirty.left(self.spec.settings.routes.len()).into_iter().enumerate() {
            let Decided { through, newly_held } = self.books.inferred.decide(route, open);
            if let (Some((deletes, pairs)), Some(rules)) = (newly_held, self.spec.route(route)) {
                tracing::warn!(
                    pipeline = self.spec.settings.pipeline,
                    route = rules.name,
                    deletes,
                    pairs,
                    "deletes in mass were inferred and none is applied; look at both stores, then run `keepstep approve`, or \
                     `keepstep repair` to undo them"
                );
            }
            self.carry_out(through, route);
        }
    }

    /// Puts pairs whose deletes may go through into the dirty set.
    pub(super) fn carry_out(&self, names: Vec<PairName>, route: usize) {
        for name in names {
            self.books.dirty.note(&name, Hint::new(route).slow().approved());
        }
    }
}

/// The name by which a pair is known here: its key, or its path where it has none.
fn name_of(pair: &Pair) -> Option<PairName> {
    match (&pair.redis, &pair.zookeeper) {
        (Some(key), _) => Some(key.as_slice().into()),
        (None, Some(path)) => Some(path.as_bytes().into()),
        (None, None) => None,
    }
}

/// The stream cannot be read now.
fn unread(error: StreamError) -> StoreError {
    StoreError::away(FailureKind::Worker, format!("the stream is read: {error}")).with_source(error)
}

/// How a batch ended.
fn batch(ended: Result<Result<Settled, StoreError>, Failed>) -> Result<Settled, StoreError> {
    ended.unwrap_or_else(|error| {
        Err(StoreError::away(FailureKind::Worker, format!("a batch ended early: {error}")).with_source(error))
    })
}

fn absorb(total: &mut Settled, settled: Result<Settled, StoreError>) -> Result<(), StoreError> {
    let settled = settled?;
    total.acted += settled.acted;
    for (place, count) in total.inferred.iter_mut().zip(settled.inferred) {
        *place += count;
    }
    Ok(())
}
