//! What the worker keeps in memory of a pipeline that it owns: each part has one lock of its own, or none, and knows no other part.
//!
//! | part | what it holds | bounded by |
//! | --- | --- | --- |
//! | dirty, pairs, unwritten, quarantine, inferred, missing, recorded states | pairs that wait, that are in step, whose record is not written, that cannot be mirrored, that nobody saw being deleted; of captures, what is on the stream | pairs |
//! | cache, counts, sizes | bases that need no read, changes since the base, how large values are | constants |
//! | sources, lag, conclusion | what is known of the sources, of the stream, and what the last comparison allows to conclude | a few numbers; stranded pairs |
//! | health, halt, asked, retries, pressure | what holds things up, what ends the ownership, what is asked for, how long to wait | constants |
//! | counters, metrics | numbers | constants |
//!
//! What joins two parts and no store stands here as well, so that nobody asks one of them and forgets the other.

use super::asked::Questions;
use super::cache::{self, Cache};
use super::census::Census;
use super::conclusion::Conclusion;
use super::counters::Counters;
use super::counts::Counts;
use super::dirty::DirtySet;
use super::halt::Halt;
use super::health::{Health, Live};
use super::hint::PairName;
use super::inferred::Inferred;
use super::missing::Missing;
use super::pressure::Pressure;
use super::quarantine::Quarantine;
use super::recorded_states::RecordedStates;
use super::retry::SharedPauses;
use super::sizes::Sizes;
use super::sources::Sources;
use super::spec::Spec;
use super::stream_lag::StreamLag;
use super::unwritten::Unwritten;
use crate::env::lock;
use crate::failpoint::caches_are_off;
use crate::telemetry::PipelineMetrics;
use std::sync::{Arc, Mutex};

/// How long what a store, or the stream, does not take now waits before it is tried again.
#[derive(Debug, Default)]
pub(super) struct StorePauses {
    pub(super) zookeeper: SharedPauses,
    pub(super) redis: SharedPauses,
    /// At both sides of a pair, where either may be what does not answer.
    pub(super) looks: SharedPauses,
    pub(super) stream: SharedPauses,
}

/// See the module.
pub(super) struct Books {
    pub(super) dirty: Arc<DirtySet>,
    pub(super) cache: Cache,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) missing: Missing,
    pub(super) recorded_states: RecordedStates,
    pub(super) inferred: Inferred,
    /// Pairs in step, by route.
    pub(super) pairs: Census,
    /// What is on the stream and perhaps not in the stores.
    pub(super) unwritten: Unwritten,
    pub(super) counts: Counts,
    pub(super) sizes: Sizes,
    pub(super) pressure: Pressure,
    sources: Mutex<Sources>,
    /// Whether the stream was left behind.
    pub(super) lag: StreamLag,
    pub(super) conclusion: Conclusion,
    pub(super) health: Health,
    pub(super) halt: Halt,
    pub(super) asked: Questions,
    pub(super) retries: StorePauses,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Arc<PipelineMetrics>,
}

/// What outlives an ownership.
pub(super) struct Kept {
    pub(super) counters: Arc<Counters>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) metrics: Arc<PipelineMetrics>,
    pub(super) live: Live,
}

impl Books {
    /// The books of an ownership that begins.
    pub(super) fn new(spec: &Spec, mut lag: StreamLag, kept: Kept) -> Books {
        let routes = spec.settings.routes.len();
        let dirty = DirtySet::default();
        for route in &kept.live.pauses.paused {
            dirty.pause(*route, true);
        }
        Books {
            dirty: Arc::new(dirty),
            cache: Cache::new(if caches_are_off() { 0 } else { cache::PAIRS_MAX }),
            quarantine: kept.quarantine,
            missing: Missing::default(),
            recorded_states: RecordedStates::default(),
            inferred: Inferred::new(routes, spec.settings.delete_guard),
            pairs: Census::new(routes),
            unwritten: lag.take_left(),
            counts: Counts::default(),
            sizes: Sizes::default(),
            pressure: Pressure::default(),
            sources: Mutex::default(),
            lag,
            conclusion: Conclusion::default(),
            health: Health::new(spec.name(), kept.live),
            halt: Halt::default(),
            asked: Questions::default(),
            retries: StorePauses::default(),
            counters: kept.counters,
            metrics: kept.metrics,
        }
    }

    /// What is known of both sources now. A copy: who looks at several things of it sees one moment.
    pub(super) fn sources(&self) -> Sources {
        *lock(&self.sources)
    }

    /// Changes what is known of the sources, in one step.
    pub(super) fn with_sources<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        change(&mut lock(&self.sources))
    }

    /// Whether the stream's newest record of this pair may be older than what was agreed on: the stream was left behind, or
    /// nobody could look at the pair when it was.
    pub(super) fn may_lag(&self, name: &[u8]) -> bool {
        self.lag.is_lagging() || self.quarantine.holds(name) || self.unwritten.holds(name)
    }

    /// Ends the round of a pair that was found to have neither znode nor base, or lost its base: what was read of its znode before may
    /// be older. `seen`: the newest zxid that was seen; `event_zxid`: that of its newest event, `i64::MAX` where the server does not send it.
    pub(super) fn finish_gone(&self, name: PairName, seen: i64, event_zxid: i64) {
        let heard = if event_zxid == i64::MAX { 0 } else { event_zxid };
        self.dirty.finish_gone(name, seen.max(heard));
    }
}
