//! The full comparison: every pair of the routes, both sides, in bounded memory.
//!
//! ```text
//!   1  walk ZooKeeper        each znode with its key and sidecar      (pairs that have a znode)
//!   2  scan Redis            keys that phase 1 did not meet           (pairs that have only a key)
//!   3  scan the sidecars     pairs that neither met, after a gap      (bases of pairs that are gone on both sides)
//! ```
//!
//! A pair that waits in the dirty set or is in a round is skipped: it is looked at anyway, by the slow path unless the
//! comparison is a routine one, since what happened in a gap gave no hint. Whatever looks older than its base, or absent,
//! or may have been read before the pair's last round and has no base to tell, is left to the slow path. What the comparison
//! says of the stores as a whole (what vanishes unseen from here on is a delete) waits until the last of these is settled.
//! Deletes that nobody saw are counted first, with those that its rounds meet (`inferred.rs`): many of them wait for `approve`.

use super::asked::Reason;
use super::comparison::{Busy, Comparison};
use super::dirty::Gone;
use super::engine::{Engine, lock};
use super::hint::{Hint, PairName};
use super::inferred::Decided;
use super::observe::{Batch, Pending, found_znode, present};
use super::pair::{Item, Loaded};
use super::round::Reading;
use super::settled::Settled;
use super::unreadable::Denied;
use crate::change::{GapState, KeyedHash, Side, ZkStat};
use crate::env::{self, Instant, Set, Tasks, tasks::Failed};
use crate::failpoint::{caches_are_off, crash_point};
use crate::plan::Known;
use crate::store::so_far;
use crate::store::{FailureKind, StoreError, VALUE_BYTES_MAX, Walk, ZnodeReading};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Batches of a comparison that are under way at a time: one is read while others sync, apply and are decided.
const BATCHES: usize = 8;

/// Keys of one batch of the scan of Redis.
const SCAN_BATCH: usize = 512;

/// A pair with the path, data and versions of its znode.
type WalkedItem = (Item, String, Vec<u8>, ZkStat);

impl Engine {
    /// Compares everything once; answers how many pairs were not in step.
    pub(super) async fn compare(self: &Arc<Self>, asked: &[Reason]) -> Result<u64, StoreError> {
        let begun = Instant::now();
        let gaps: Vec<Side> = asked.iter().filter_map(Reason::gap_in).collect();
        self.begin_steps();
        if let Some(keys) = &self.keys {
            keys.look_into().await;
        }
        self.conclusion.missed.store(0, Ordering::Relaxed);
        *lock(&self.conclusion.waits) = None;
        // Found again by this comparison, which is thorough while anything is lost; a pair that has gone meanwhile holds nothing back. One
        // that looks for what the stream lacks passes over what may not be read.
        if !self.is_lagging() {
            lock(&self.conclusion.stranded).clear();
        }
        let mark = self.keys.as_ref().map_or(0, |keys| keys.mark());
        // Where there is something to conclude, pairs that are under way are looked at on both sides as well. Asked after the mark:
        // what happens in between makes the mark an old one.
        let is_settled = self.keys.as_ref().is_none_or(|keys| keys.is_intact()) && !self.is_lagging();
        let life = self.keys.as_ref().map_or(0, |keys| keys.life());
        self.mark_settled_slots().await?;
        let were_paused = lock(&self.live).paused.clone();
        let begun_so = self.sources().begin(life, were_paused.is_empty());
        let comparison = Comparison::begin(!asked.is_empty(), is_settled, mark, begun_so);
        let event_gaps = self.dirty.gaps();
        self.dirty.begin_comparison();
        self.quarantine.begin_comparison();
        self.inferred.begin(|route| !were_paused.contains(&route));
        self.pairs.begin();
        let mut total = Settled::of(self.settings.routes.len());
        let counted = self.counts.mark();
        self.counters.snapshot_done.store(0, Ordering::Relaxed);
        let mut met: Set<KeyedHash> = Set::default();
        self.walk_znodes(comparison, &mut met, &mut total).await?;
        crash_point!("c12-znodes-compared");
        self.scan_keys(comparison, &mut met, &mut total).await?;
        if !comparison.is_routine() {
            self.scan_sidecars(comparison, &met, &mut total).await?;
        }
        let gone = self.gone_pairs(&met).await?;
        // A paused route is not looked at: what is concluded of the stores as a whole waits for a comparison without one.
        let every_route = self.sources().covers_every_route(comparison.begun());
        if every_route {
            let not_met = self.quarantine.not_met(|name, _| met.contains(&KeyedHash::of(name)));
            for (name, route) in not_met {
                self.dirty.note(&name, Hint::new(route).slow());
            }
        }
        drop(met);
        let paused_since = lock(&self.live).paused.clone();
        *lock(&self.conclusion.passed_over) = were_paused.iter().chain(&paused_since).copied().collect();
        let has_missed = self.conclusion.missed.load(Ordering::Relaxed) != 0;
        let found = self.with_sources(|sources| comparison.ended(sources, has_missed, !gone.is_empty()));
        self.blank.store(false, Ordering::Relaxed);
        for (name, route) in gone {
            self.inferred.infer(name, route);
            if let Some(count) = total.inferred.get_mut(route) {
                *count += 1;
            }
        }
        let acted = total.acted;
        let paused = lock(&self.live).paused.clone();
        self.pairs.end(|route| paused.contains(&route));
        // What went on in a gap was perhaps seen in part: the comparison that follows it counts anew.
        let sources = self.sources();
        if sources.is_unpaused_since(comparison.begun()) && self.dirty.gaps() == event_gaps {
            let left = self.dirty.left(self.settings.routes.len());
            let counts = total.inferred.iter().zip(left).enumerate();
            for (route, (inferred, (left, _))) in counts.filter(|(route, _)| !were_paused.contains(route)) {
                self.inferred.ended(route, self.pairs.looked_at(route) + inferred + left);
            }
        }
        if every_route && sources.hears(Side::Zookeeper) && sources.hears(Side::Redis) {
            self.cache.set_complete(true);
            self.counts.compared(counted);
        }
        crash_point!("c12-all-compared");
        *lock(&self.conclusion.waits) = Some(found);
        if self.keys.is_some() {
            // What a pair that was missed lost would be taken for deleted. Another comparison meets it: one at once, and if that
            // misses some as well, the next at its interval.
            if !self.conclusion.repeats.swap(has_missed, Ordering::Relaxed) && has_missed {
                self.ask_comparison(None, "the last one could not record what it found");
            }
            self.conclude().await?;
            self.remember().await?;
        }
        // What a paused route lost is not counted yet: the loss is told after a comparison that looked at every route.
        if every_route {
            self.counters.losses.compared(begun);
        }
        for side in gaps {
            self.mark_gap(side, GapState::Closed, &format!("a comparison settled {acted} pairs")).await;
        }
        self.metrics.comparisons.inc();
        self.metrics.comparison_seconds.set(begun.elapsed().as_secs_f64());
        self.counters.compared_ms.store(env::unix_ms(), Ordering::Relaxed);
        self.quarantine.save().await;
        let pairs: u64 = self.pairs.by_route().iter().sum();
        let inferred = self.inferred.not_held();
        tracing::debug!(pairs, acted, inferred, seconds = begun.elapsed().as_secs_f64(), "compared");
        Ok(acted + inferred)
    }

    /// A data set that came back older has the marks of then, and the sidecars. What the journal says of the time in between belongs to
    /// a life that is gone: the next owner would write it over what is agreed on from here on.
    async fn mark_settled_slots(&self) -> Result<(), StoreError> {
        let (Some(znodes), Some(keys)) = (&self.znodes, &self.keys) else { return Ok(()) };
        if keys.is_life_compared() {
            return Ok(());
        }
        keys.mark_slots(&znodes.settled_slots(), so_far(&self.lease, Some(znodes.as_ref()))).await
    }

    /// Decides about the deletes that nobody saw, as far as their number is known, and concludes the last comparison as soon as
    /// every pair that it left to the rounds is settled and none waits for approval.
    pub(super) async fn conclude(&self) -> Result<(), StoreError> {
        self.decide_deletes();
        if self.dirty.owes() || self.inferred.is_open() {
            return Ok(());
        }
        let Some(found) = lock(&self.conclusion.waits).take() else { return Ok(()) };
        let concluded = found.conclude(self.inferred.any_held(), !lock(&self.conclusion.stranded).is_empty());
        if concluded.asks_again {
            self.ask_comparison(None, "the stream was left behind, and pairs were gone");
        }
        if concluded.is_stream_complete {
            self.note_stream_complete();
        }
        match (&self.keys, concluded.mark) {
            (Some(keys), Some(mark)) => keys.compared(mark).await,
            _ => Ok(()),
        }
    }

    /// The key of this pair is lost, and the pair is left as it is, for another reason.
    pub(super) fn strand(&self, name: &PairName) {
        lock(&self.conclusion.stranded).insert(name.clone());
    }

    /// Both sides of this pair can be looked at, and something is done about it.
    pub(super) fn forget_stranded(&self, name: &PairName) {
        lock(&self.conclusion.stranded).remove(name);
    }

    /// A pair in step of which the record is missing: only another comparison meets it.
    pub(super) fn count_missed(&self) {
        self.conclusion.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Phase 1.
    async fn walk_znodes(
        self: &Arc<Self>,
        comparison: Comparison,
        met: &mut Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<(), StoreError> {
        let Some(znodes) = &self.znodes else { return Ok(()) };
        // The batches are tasks of their own, so they go on while the walk is waited for (which must not be cut off). They
        // end with the ownership, and not before they have given their pairs back.
        let mut under_way = Tasks::default();
        let mut result = self
            .start_batches(znodes.walk(self.map.roots(), false).as_mut(), comparison, &mut under_way, met, total)
            .await;
        while let Some(ended) = under_way.join_next().await {
            result = result.and(absorb(total, batch(ended)));
        }
        result
    }

    async fn start_batches(
        self: &Arc<Self>,
        walk: &mut dyn Walk,
        comparison: Comparison,
        under_way: &mut Tasks<Result<Settled, StoreError>>,
        met: &mut Set<KeyedHash>,
        total: &mut Settled,
    ) -> Result<(), StoreError> {
        let paused = lock(&self.live).paused.clone();
        let mut denied = Denied::default();
        loop {
            if under_way.len() >= BATCHES
                && let Some(ended) = under_way.join_next().await
            {
                absorb(total, batch(ended))?;
            }
            let gone = self.dirty.gone();
            let walked = walk.next().await?;
            self.step();
            for (path, reason) in walk.denied() {
                if let Some(name) = self.deny(&path, &reason, &mut denied) {
                    // Else the next two phases meet its key or its sidecar, which may say that it is lost.
                    if comparison.is_routine() || self.is_lagging() {
                        met.insert(KeyedHash::of(&name));
                    }
                    self.pairs.met(&name);
                }
            }
            let Some(walked) = walked else {
                self.set_unreadable(denied);
                return Ok(());
            };
            let mut items = Vec::with_capacity(walked.len());
            for (path, data, stat) in walked {
                let Some(mapped) = self.map.of_path(&path) else { continue };
                let Some(key) = mapped.pair.redis.clone() else { continue };
                met.insert(KeyedHash::of(&key));
                if paused.contains(&mapped.route) {
                    continue;
                }
                items.push((
                    Item { name: key.into(), hint: Hint::new(mapped.route), pair: mapped.pair },
                    path,
                    data,
                    stat,
                ));
            }
            self.counters.snapshot_done.store(u64::try_from(met.len()).unwrap_or(0), Ordering::Relaxed);
            let engine = Arc::clone(self);
            under_way.spawn(engine.compare_walked(items, comparison, gone));
        }
    }

    /// Compares znodes that were read when so many pairs had lost their base with their keys.
    async fn compare_walked(
        self: Arc<Self>,
        mut items: Vec<WalkedItem>,
        comparison: Comparison,
        gone: Gone,
    ) -> Result<Settled, StoreError> {
        let turn = self.dirty.turn();
        let free = self.dirty.try_take(&turn, &mut items.iter().map(|(item, ..)| (&item.name, item.hint)));
        let was_forgotten = self.dirty.gone() != gone;
        let mut free = free.into_iter();
        items.retain(|(item, ..)| self.is_left_to_us(item, free.next(), comparison));
        let mut batch = Batch::default();
        if self.blank.load(Ordering::Relaxed) && !was_forgotten && !caches_are_off() {
            items = self.guess_absent(items, &mut batch);
        }
        let pending = items.into_iter().map(|(item, _, data, stat)| {
            let znode = ZnodeReading::Present { data, stat };
            Pending::walked(Reading::walked(item.hint.news, found_znode(&znode), was_forgotten), item, znode)
        });
        if let Err((failed, error)) = self.read_keys(pending.collect(), false, &mut batch).await {
            for pending in failed {
                self.dirty.finish(pending.item.name, None);
            }
            return Err(error);
        }
        Ok(self.settle(batch).await)
    }

    /// Into a Redis that holds next to nothing, values are written on the guess that there is no key and no base; what
    /// the compare-and-set refuses is observed like everything else. Answers the pairs that need a look first.
    fn guess_absent(&self, items: Vec<WalkedItem>, batch: &mut Batch) -> Vec<WalkedItem> {
        let mut rest = Vec::new();
        for (item, path, data, stat) in items {
            let leads = self.route(item.hint.route).is_some_and(|route| route.policy.flow.leads_to(Side::Redis));
            let found = present(&data, &stat);
            let guessed = self
                .facts(&item, self.sources())
                .filter(|_| leads && !data.is_empty() && data.len() <= VALUE_BYTES_MAX && !stat.is_ephemeral())
                .map(|facts| Reading::guessed_absent(item.hint.news, found, &facts));
            let Some(observed) = guessed else {
                rest.push((item, path, data, stat));
                continue;
            };
            let events = self.events_of(&item.name);
            let Item { name, hint, pair } = item;
            let (entry, value, znode) = (Vec::new(), None, Some((data, stat)));
            batch.observed.push(Loaded { name, hint, pair, observed, entry, nonce: 0, znode, value, events });
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
        let Some(keys) = &self.keys else { return Ok(()) };
        for prefix in self.map.key_prefixes() {
            let mut cursor = 0;
            let mut batch = Vec::new();
            loop {
                let (next, found) = keys.scan(cursor, &prefix).await?;
                self.step();
                for key in found {
                    let Some(mapped) = self.map.of_key(&key) else { continue };
                    if met.insert(KeyedHash::of(&key)) {
                        batch.push(Item { name: key.into(), hint: Hint::new(mapped.route), pair: mapped.pair });
                    }
                }
                cursor = next;
                if batch.len() >= SCAN_BATCH || (cursor == 0 && !batch.is_empty()) {
                    absorb(total, self.compare_batch(std::mem::take(&mut batch), comparison).await)?;
                    self.counters.snapshot_done.store(u64::try_from(met.len()).unwrap_or(0), Ordering::Relaxed);
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
        let Some(keys) = &self.keys else { return Ok(()) };
        let mut cursor = 0;
        loop {
            let (next, found) = keys.scan_sidecars(cursor).await?;
            self.step();
            let items = found.into_iter().filter(|key| !met.contains(&KeyedHash::of(key))).filter_map(|key| {
                let mapped = self.map.of_key(&key)?;
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

    /// Compares pairs of which nothing is read yet, in a task of its own: a panic there ends this comparison and not the pipeline.
    async fn compare_batch(self: &Arc<Self>, items: Vec<Item>, comparison: Comparison) -> Result<Settled, StoreError> {
        let mut task = Tasks::default();
        let engine = Arc::clone(self);
        task.spawn(async move { Ok(engine.compare_both(items, comparison).await) });
        let ended = task.join_next().await;
        ended.map_or_else(|| Ok(Settled::default()), batch)
    }

    async fn compare_both(&self, mut items: Vec<Item>, comparison: Comparison) -> Settled {
        let paused = lock(&self.live).paused.clone();
        items.retain(|item| !paused.contains(&item.hint.route));
        let turn = self.dirty.turn();
        let free = self.dirty.try_take(&turn, &mut items.iter().map(|item| (&item.name, item.hint)));
        let mut free = free.into_iter();
        items.retain(|item| self.is_left_to_us(item, free.next(), comparison));
        let mut batch = Batch::default();
        let pending = items.into_iter().map(|item| Pending::new(Reading::both(item.hint.news, true), item));
        self.read(pending.collect(), &mut batch).await;
        self.settle(batch).await
    }

    /// Whether a comparison has taken this pair. One that waits or is in a round will be looked at or is being looked at, but
    /// perhaps at one side only, or before what a gap hides: then both sides are looked at once more.
    fn is_left_to_us(&self, item: &Item, is_free: Option<bool>, comparison: Comparison) -> bool {
        let is_free = is_free.unwrap_or(false);
        match self.cache.get(&item.name) {
            // Whoever has it will tell only what changes, if anything.
            Known::Base(_) if !is_free => self.pairs.left(&item.name, item.hint.route),
            _ => self.pairs.met(&item.name),
        }
        if !is_free {
            match comparison.busy(&self.sources()) {
                Busy::Again => self.dirty.note(&item.name, item.hint.slow().owed()),
                Busy::Left => self.dirty.leave(&item.name, item.hint.route),
            }
        }
        is_free
    }

    /// Lets deletes that nobody saw through, or holds those of a route back if they are many.
    fn decide_deletes(&self) {
        if !self.inferred.is_open() {
            return;
        }
        for (route, (_, open)) in self.dirty.left(self.settings.routes.len()).into_iter().enumerate() {
            let Decided { through, newly_held } = self.inferred.decide(route, open);
            if let (Some((deletes, pairs)), Some(rules)) = (newly_held, self.route(route)) {
                tracing::warn!(
                    pipeline = self.settings.pipeline,
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
            self.dirty.note(&name, Hint::new(route).slow().approved());
        }
    }
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
