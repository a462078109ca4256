//! What the shipped round asks of a worker (`Facts`) and changes in it (`PairBooks`), with the faults that are planted there.

use crate::config::{Bug, Config};
use crate::news::{Event, Hint};
use crate::world::{B, Look, Pc, Read, Worker, World};
use keepstep::change::Side;
use keepstep::pipeline::hint::News;
use keepstep::pipeline::round::{Again, End, Facts, Hindrance, NewestRecord, PairBooks, Reason};
use keepstep::plan::{Ensemble, Known, Policy, Reported, Seen, Task};

/// What the worker knows of its pair.
pub struct Knows<'a> {
    pub cfg: &'a Config,
    pub world: &'a World,
    pub i: usize,
    /// What a rule is told of times and numbers.
    pub times: Seen,
}

impl Knows<'_> {
    pub fn worker(&self) -> &Worker {
        &self.world.workers[self.i]
    }
}

impl Facts for Knows<'_> {
    fn policy(&self) -> &Policy {
        &self.cfg.policy
    }

    fn path_id(&self) -> u32 {
        crate::world::PATH
    }

    fn ensemble(&self) -> Ensemble {
        let worker = self.worker();
        Ensemble { id: u32::from(worker.lineage), since_zxid: i64::from(worker.since) }
    }

    fn guards_deletes(&self) -> bool {
        self.cfg.guard
    }

    fn may_be_lost(&self) -> bool {
        unreachable!("the model's routes write to both stores or to one: none is a capture")
    }

    fn is_watched(&self) -> bool {
        is_watched(self.cfg, self.worker())
    }

    fn is_compared(&self, life: u64) -> bool {
        self.worker().sources.is_compared(life) || self.cfg.has(Bug::SidecarOfAnOlderLifeTrusted)
    }

    fn is_route_compared(&self, life: u64) -> bool {
        self.worker().sources.is_looked_at(life)
    }

    fn hears_redis(&self) -> bool {
        self.worker().sources.hears(Side::Redis)
    }

    fn is_quarantined(&self) -> bool {
        self.worker().quarantined && !self.cfg.has(Bug::QuarantinedPairTakenFast)
    }

    fn known(&self) -> Known {
        self.worker().cache.get()
    }

    fn gone_zxid(&self) -> i64 {
        if self.cfg.has(Bug::GonePairReadOld) { 0 } else { i64::from(self.worker().gone) }
    }

    fn newest_event(&self, mut news: News) -> News {
        let later = self.worker().later;
        if later.event != Event::None {
            news.take_event(later.news());
        }
        news
    }

    fn reported(&self, _news: News) -> Reported {
        let worker = self.worker();
        let look = worker.look;
        let all = self.cfg.has(Bug::RoundsCarryOutWhatNobodySaw) && !look.comparing;
        Reported { znode: look.hint.znode || worker.later.znode || all, key: look.hint.key || worker.later.key || all }
    }

    fn newest_record(&self) -> Option<NewestRecord> {
        let look = self.worker().look;
        let recorded = self.world.recorded;
        let is_key = matches!(look.key, Read::Is(key) if key.is.value == recorded);
        let is_znode = matches!(look.znode, Read::Is(znode) if znode.is.value == recorded);
        Some(NewestRecord { is_key: is_key || self.cfg.has(Bug::OlderKeyFollowed), is_znode })
    }

    fn is_delete_unwritten(&self) -> bool {
        false
    }

    fn times(&self, _news: News, _comparing: bool) -> Seen {
        self.times
    }

    fn hindrance(&self, _task: &Task, _is_restore: bool) -> Option<Hindrance> {
        None
    }
}

/// What the worker keeps of its pair.
pub struct Keeps<'a> {
    pub cfg: &'a Config,
    pub worker: &'a mut Worker,
}

impl PairBooks for Keeps<'_> {
    fn remember(&mut self, base: Option<keepstep::plan::Base>) {
        self.worker.cache.base = if self.cfg.cache { B::from(base) } else { B::default() };
    }

    fn refused(&mut self) {
        self.worker.cache.base = B::default();
    }

    fn count(&mut self, _had_base: bool, _has_base: bool) {}

    fn release(&mut self) {
        self.worker.quarantined = false;
    }

    fn quarantine(&mut self, _reason: Reason, _is_news: bool) {
        self.worker.quarantined = true;
    }

    fn quarantine_lost(&mut self, _side: Side) {
        self.worker.quarantined = true;
    }

    fn found(&mut self) {
        unreachable!("of captures only");
    }

    fn miss(&mut self) {
        unreachable!("of captures only");
    }

    fn block_conclusion(&mut self) {}

    fn infer(&mut self) {
        self.worker.inferred = true;
    }

    fn not_inferred(&mut self) {
        self.worker.inferred = false;
    }

    fn mark_written(&mut self) {}

    fn finish_gone(&mut self, news: News) {
        let worker = &mut *self.worker;
        worker.ended += u8::from(worker.comparison.stage == crate::world::Stage::Walked);
        let heard = if news.zxid == i64::MAX { 0 } else { u8::try_from(news.zxid).unwrap() };
        worker.gone = worker.gone.max(worker.zxid).max(heard);
        self.finish();
    }

    fn finish(&mut self) {
        finish(self.cfg, self.worker, None);
    }

    fn finish_again(&mut self, again: Again) {
        finish(self.cfg, self.worker, Some(Hint::of(again.news)));
    }
}

/// The pair's round ends.
pub fn settle(cfg: &Config, worker: &mut Worker, end: End) {
    end.settle(&mut Keeps { cfg, worker });
}

pub fn knows<'a>(cfg: &'a Config, world: &'a World, i: usize) -> Knows<'a> {
    Knows { cfg, world, i, times: Seen::default() }
}

/// A hint comes in.
pub fn note_hint(worker: &mut Worker, hint: Hint) {
    let place = if worker.busy { &mut worker.later } else { &mut worker.hint };
    place.merge(hint);
}

/// The pair's round ends; `again`: what is still to be done.
pub fn finish(cfg: &Config, worker: &mut Worker, again: Option<Hint>) {
    let forgets = worker.look.comparing && cfg.has(Bug::SkippedPairTakenAsCompared);
    worker.busy = false;
    worker.pc = Pc::Idle;
    worker.look = Look::default();
    worker.todo = Default::default();
    let later = std::mem::take(&mut worker.later);
    let mut hint = again.map(|again| Hint { owed: again.owed && !forgets, ..again }).unwrap_or_default();
    if !cfg.has(Bug::HintDuringARoundDropped) {
        hint.merge(later);
    }
    worker.hint = hint;
}

pub fn is_watched(cfg: &Config, worker: &Worker) -> bool {
    worker.sources.is_watched() || cfg.has(Bug::FastPathWhileUnwatched)
}
