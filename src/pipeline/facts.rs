//! What the machine of [`super::round`] asks of the worker about a pair, and what the end of the pair's round changes in the books.

use super::hint::{Hint, News, PairName};
use super::pair::{Item, Loaded, Misfit};
use super::round::{Again, Delay, Facts, Hindrance, NewestRecord, PairBooks, Reason};
use super::rounds::Rounds;
use super::settled::Settled;
use super::sources::Sources;
use super::spec::Route;
use crate::change::{Pair, Side, ZkStat};
use crate::plan::{Base, CLOCK_WAS_SET, Ensemble, Known, OnConflict, Policy, Reported, Seen, Task, path_id};
use crate::store::clock::steady_ms;
use std::cell::OnceCell;
use std::time::Duration;

/// Times closer than this, beside the doubt in how far the clocks are apart, are not distinguished by `latest`: the way of an
/// event from Redis to us, with room to spare.
const DOUBT_MS: i64 = 100;

/// Pause before a conflict is looked at again whose rule needs to know when or how often the key changed, while the
/// key's event may still be on its way.
const EVENT_MAY_COME: Duration = Duration::from_millis(30);

/// Pause before an evicted key is restored: under memory pressure it will be evicted again.
const EVICTED: Duration = Duration::from_secs(1);

/// See [`Facts`]. Of the sources it holds a copy: who looks at several things of them sees one moment.
pub(super) struct PairFacts<'a> {
    pub(super) rounds: &'a Rounds,
    pub(super) route: &'a Route,
    pub(super) sources: Sources,
    pub(super) name: &'a [u8],
    pub(super) hint: Hint,
    pub(super) pair: &'a Pair,
    /// As read, as far as it was.
    pub(super) znode: Option<(&'a [u8], &'a ZkStat)>,
    pub(super) value: Option<&'a [u8]>,
    /// Why no request can hold a write that was asked about.
    pub(super) too_large: OnceCell<String>,
}

impl Facts for PairFacts<'_> {
    fn policy(&self) -> &Policy {
        &self.route.policy
    }

    fn path_id(&self) -> u32 {
        path_id(self.pair.zookeeper.as_deref().unwrap_or_default())
    }

    fn ensemble(&self) -> Ensemble {
        self.rounds.doors.ensemble()
    }

    fn guards_deletes(&self) -> bool {
        self.rounds.spec.settings.delete_guard
    }

    fn is_watched(&self) -> bool {
        self.sources.is_watched()
    }

    fn is_compared(&self, incarnation: u64) -> bool {
        self.sources.is_compared(incarnation)
    }

    fn is_route_compared(&self, incarnation: u64) -> bool {
        let was_paused = self.rounds.books.conclusion.was_passed_over(self.hint.route);
        self.sources.is_looked_at(incarnation) && !was_paused
    }

    fn hears_redis(&self) -> bool {
        self.sources.hears(Side::Redis)
    }

    fn is_quarantined(&self) -> bool {
        self.rounds.books.quarantine.holds(self.name)
    }

    fn known(&self) -> Known {
        self.rounds.books.cache.get(self.name)
    }

    fn gone_zxid(&self) -> i64 {
        self.rounds.books.dirty.gone().zxid
    }

    fn newest_event(&self, news: News) -> News {
        self.rounds.books.dirty.with_newest_event(self.name, self.hint.with(news)).news
    }

    fn reported(&self, news: News) -> Reported {
        self.rounds.books.dirty.reported(self.name, self.hint.with(news))
    }

    fn newest_record(&self) -> Option<NewestRecord> {
        if self.rounds.books.lag.is_lagging() || self.rounds.books.unwritten.holds(self.name) {
            return None;
        }
        let newest = self.rounds.doors.newest(self.pair)?.after;
        // A znode that was deleted stays, empty, where others are below it.
        let znode = self.znode.map(|(data, _)| data).filter(|data| newest.exists() || !data.is_empty());
        Some(NewestRecord { is_key: newest.is(self.value), is_znode: newest.is(znode) })
    }

    fn is_delete_unwritten(&self) -> bool {
        let is_unwritten = self.hint.news.unwritten || self.rounds.books.unwritten.holds(self.name);
        is_unwritten && self.rounds.doors.newest(self.pair).is_some_and(|newest| !newest.after.exists())
    }

    fn may_be_lost(&self) -> bool {
        self.rounds.books.counters.losses.is_open(Side::Redis) || self.rounds.books.missing.has(self.name)
    }

    fn times(&self, news: News, comparing: bool) -> Seen {
        let seen_ms = self.hint.key_seen_ms;
        let was_watched = news.key && seen_ms > 0 && !comparing;
        let mtime_ms = self.znode.map_or(i64::MAX, |(_, stat)| stat.mtime_ms);
        let clock = self.rounds.doors.clock();
        let converted = clock.and_then(|clock| clock.convert(seen_ms, mtime_ms, steady_ms()));
        Seen {
            redis_ms: was_watched.then(|| converted.map_or(seen_ms, |converted| converted.ms)),
            doubt_ms: converted.map_or(CLOCK_WAS_SET, |converted| converted.doubt_ms.saturating_add(DOUBT_MS)),
            redis_writes: if comparing { None } else { self.rounds.writes_since_base(self.name, self.hint.route) },
        }
    }

    fn hindrance(&self, task: &Task, is_restore: bool) -> Option<Hindrance> {
        if let Err(detail) = self.rounds.doors.fits(self.pair, self.name, self.value, *task) {
            let _ = self.too_large.set(detail);
            return Some(Hindrance::TooLarge);
        }
        // A key that is restored while Redis evicts takes another's place: fewer and fewer are.
        if is_restore { self.rounds.room().err().map(Hindrance::NoRoom) } else { None }
    }
}

/// See [`PairBooks`].
pub(super) struct PairInBooks<'a> {
    pub(super) rounds: &'a Rounds,
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: &'a Pair,
    /// Why a store or its room does not take the pair.
    pub(super) misfit: Option<Misfit>,
    /// What the comparison or round has come to so far.
    pub(super) settled: Option<&'a mut Settled>,
}

impl PairInBooks<'_> {
    fn put(&self, reason: &str, detail: &str) {
        self.rounds.quarantine(&self.name, self.hint.route, self.pair, reason, detail);
    }

    fn take_name(&mut self) -> PairName {
        std::mem::take(&mut self.name)
    }
}

impl PairBooks for PairInBooks<'_> {
    fn remember(&mut self, base: Option<Base>) {
        self.rounds.books.cache.put(&self.name, base);
    }

    fn refused(&mut self) {
        self.rounds.books.metrics.refused.inc();
        self.rounds.books.cache.put(&self.name, None);
    }

    fn count(&mut self, had_base: bool, has_base: bool) {
        self.rounds.books.pairs.settled(&self.name, self.hint.route, had_base, has_base);
    }

    fn release(&mut self) {
        self.rounds.books.quarantine.remove(&self.name);
    }

    fn quarantine(&mut self, reason: Reason, is_news: bool) {
        if is_news {
            self.rounds.books.quarantine.forget_drop(&self.name);
        }
        match (reason, self.misfit.take()) {
            (Reason::Conflict, _) => self.put(
                "conflict",
                "both sides hold a value that the other never had; make them equal, or restore one of them",
            ),
            (Reason::Ephemeral, _) => self
                .put("ephemeral", "the key stands for an ephemeral znode, and ephemerals flow only out of ZooKeeper"),
            (Reason::Unfit | Reason::TooLarge | Reason::Impossible, Some((reason, detail))) => {
                self.put(reason, &detail)
            }
            (Reason::Unfit | Reason::TooLarge | Reason::Impossible, None) => {
                debug_assert!(false, "whoever finds a pair unfit says why");
            }
        }
    }

    fn quarantine_lost(&mut self, side: Side) {
        let store = self.rounds.spec.store_name(side);
        let detail = format!(
            "store {store} lost its value, or holds an older one, and nothing flows there: the other side keeps its own until the key \
             changes"
        );
        self.put("lost", &detail);
    }

    fn found(&mut self) {
        if self.rounds.spec.captures().is_some() {
            self.rounds.books.missing.found(&self.name);
        }
    }

    fn miss(&mut self) {
        if self.rounds.books.missing.miss(&self.name) {
            self.rounds.books.counters.losses.count(Side::Redis, &self.name);
        }
    }

    fn block_conclusion(&mut self) {
        self.rounds.books.conclusion.strand(&self.name);
    }

    fn infer(&mut self) {
        if let Some(count) = self.settled.as_mut().and_then(|settled| settled.inferred.get_mut(self.hint.route)) {
            *count += 1;
        }
        self.rounds.books.inferred.infer(self.name.clone(), self.hint.route);
    }

    fn not_inferred(&mut self) {
        self.rounds.books.inferred.settled(&self.name, self.hint.route);
    }

    fn mark_written(&mut self) {
        self.rounds.books.unwritten.settled(&self.name);
    }

    fn finish_gone(&mut self, news: News) {
        let name = self.take_name();
        self.rounds.books.finish_gone(name, self.rounds.doors.zxid(), news.zxid);
    }

    fn finish(&mut self) {
        let name = self.take_name();
        self.rounds.books.dirty.finish(name, None);
    }

    fn finish_again(&mut self, again: Again) {
        let delay = self.rounds.delay_of(again.delay);
        let name = self.take_name();
        self.rounds.books.dirty.finish(name, Some((self.hint.with(again.news), delay)));
    }
}

impl Rounds {
    /// What the machine asks about a pair of which nothing is read yet. `None`: its route is not known.
    pub(super) fn facts<'a>(&'a self, item: &'a Item, sources: Sources) -> Option<PairFacts<'a>> {
        let route = self.spec.route(item.hint.route)?;
        let (name, hint, pair) = (&*item.name, item.hint, &item.pair);
        let (znode, value, too_large) = (None, None, OnceCell::new());
        Some(PairFacts { rounds: self, route, sources, name, hint, pair, znode, value, too_large })
    }

    /// The same for one that was observed.
    pub(super) fn facts_of<'a>(&'a self, loaded: &'a Loaded, route: &'a Route) -> PairFacts<'a> {
        PairFacts {
            rounds: self,
            route,
            sources: self.books.sources(),
            name: &loaded.name,
            hint: loaded.hint,
            pair: &loaded.pair,
            znode: loaded.znode.as_ref().map(|(data, stat)| (data.as_slice(), stat)),
            value: loaded.value.as_deref(),
            too_large: OnceCell::new(),
        }
    }

    /// How long a pair waits.
    pub(super) fn delay_of(&self, delay: Delay) -> Duration {
        match delay {
            Delay::None => Duration::ZERO,
            Delay::Event => EVENT_MAY_COME,
            Delay::Evicted => EVICTED,
            Delay::Room(wait) => wait,
            Delay::Stream => self.books.retries.stream.refused(),
            Delay::Zookeeper => self.books.retries.zookeeper.refused(),
            Delay::Redis => self.books.retries.redis.refused(),
            Delay::Either => self.books.retries.looks.refused(),
        }
    }

    /// Whether the rule of this pair's route asks when the key changed.
    pub(super) fn asks_for_times(&self, item: &Item) -> bool {
        let route = self.spec.route(item.hint.route);
        item.hint.news.key && route.is_some_and(|route| route.policy.on_conflict == OnConflict::Latest)
    }
}
