//! The counters of the pipelines.

use super::names::{self, stem};
use crate::change::{LossCause, Op, Side};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// A count that only grows. A clone is cheap and counts on the same number.
pub type Count = Counter<u64, AtomicU64>;

/// A number that goes up and down.
pub type Number = Gauge<f64, AtomicU64>;

/// Upper bounds of the buckets of `keepstep_apply_seconds`: from a batch on the same machine to one
/// that was retried.
const APPLY_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPipeline {
    pipeline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRouteOp {
    pipeline: String,
    route: String,
    op: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStore {
    pipeline: String,
    store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRuleWinner {
    pipeline: String,
    rule: String,
    winner: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    pipeline: String,
    store: String,
    cause: String,
}

/// The counters of one worker; each of its pipelines has its own ([`Metrics::of`]).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    changes: Family<ByRouteOp, Count>,
    writes: Family<ByStore, Count>,
    conflicts: Family<ByRuleWinner, Count>,
    losses: Family<ByCause, Count>,
    lost_pairs: Family<ByCause, Count>,
    collapsed: Family<ByPipeline, Count>,
    gaps: Family<ByPipeline, Count>,
    cache_hits: Family<ByPipeline, Count>,
    cache_misses: Family<ByPipeline, Count>,
    comparisons: Family<ByPipeline, Count>,
    recreate_overwrites: Family<ByPipeline, Count>,
    refused: Family<ByPipeline, Count>,
    comparison_seconds: Family<ByPipeline, Number>,
    apply_seconds: Family<ByPipeline, Histogram, fn() -> Histogram>,
}

/// The counters of one pipeline.
#[derive(Debug)]
pub struct PipelineMetrics {
    pipeline: String,
    changes: Family<ByRouteOp, Count>,
    writes: Family<ByStore, Count>,
    conflicts: Family<ByRuleWinner, Count>,
    losses: Family<ByCause, Count>,
    lost_pairs: Family<ByCause, Count>,
    /// Values that were replaced before Keepstep saw them.
    pub collapsed: Count,
    /// Gaps: periods in which a source missed changes.
    pub gaps: Count,
    /// Lookups answered from memory.
    pub cache_hits: Count,
    /// Lookups that had to ask a store or the stream.
    pub cache_misses: Count,
    /// Full comparisons that ended.
    pub comparisons: Count,
    /// How long the last full comparison took, seconds.
    pub comparison_seconds: Number,
    /// Znodes replaced although they had been recreated at the very same version.
    pub recreate_overwrites: Count,
    /// Writes that a store refused because its state had changed since the decision.
    pub refused: Count,
    /// How long a batch took to apply, seconds.
    pub apply_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn apply_seconds() -> Histogram {
    Histogram::new(APPLY_BUCKETS)
}

impl Metrics {
    /// No numbers yet.
    #[must_use]
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            changes: Family::default(),
            writes: Family::default(),
            conflicts: Family::default(),
            losses: Family::default(),
            lost_pairs: Family::default(),
            collapsed: Family::default(),
            gaps: Family::default(),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            comparisons: Family::default(),
            recreate_overwrites: Family::default(),
            refused: Family::default(),
            comparison_seconds: Family::default(),
            apply_seconds: Family::new_with_constructor(apply_seconds),
        };
        let registry = &mut metrics.registry;
        let mut add = |name: &str, help: &str, counts: &Family<ByPipeline, Count>| {
            registry.register(stem(name), help, counts.clone());
        };
        add(names::COLLAPSED_TOTAL, "Values that were replaced before Keepstep saw them", &metrics.collapsed);
        add(names::GAPS_TOTAL, "Gaps: periods in which a source missed changes", &metrics.gaps);
        add(names::CACHE_HITS_TOTAL, "Lookups answered from memory", &metrics.cache_hits);
        add(names::CACHE_MISSES_TOTAL, "Lookups that had to ask a store or the stream", &metrics.cache_misses);
        add(names::COMPARISONS_TOTAL, "Full comparisons that ended", &metrics.comparisons);
        add(
            names::RECREATE_OVERWRITES_TOTAL,
            "Znodes replaced although they had been recreated at the very same version",
            &metrics.recreate_overwrites,
        );
        add(
            names::REFUSED_TOTAL,
            "Writes that a store refused because its state had changed since the decision",
            &metrics.refused,
        );
        registry.register(
            stem(names::CHANGES_TOTAL),
            "Changes recorded on the stream; op is r, c, u, d or m",
            metrics.changes.clone(),
        );
        registry.register(stem(names::WRITES_TOTAL), "Writes that a store accepted", metrics.writes.clone());
        registry.register(
            stem(names::CONFLICTS_TOTAL),
            "Entries of the conflict log: conflicts that a rule resolved, and values that a command replaced",
            metrics.conflicts.clone(),
        );
        registry.register(
            stem(names::LOSSES_TOTAL),
            "Times in which a store lost data; cause is flushed, replaced, evicted, older or emptied",
            metrics.losses.clone(),
        );
        registry.register(stem(names::LOST_PAIRS_TOTAL), "Pairs in these losses", metrics.lost_pairs.clone());
        registry.register(
            names::COMPARISON_SECONDS,
            "How long the last full comparison took",
            metrics.comparison_seconds.clone(),
        );
        registry.register(names::APPLY_SECONDS, "How long a batch took to apply", metrics.apply_seconds.clone());
        metrics
    }

    /// The counters of this pipeline, the same at each call.
    #[must_use]
    pub fn of(&self, pipeline: &str) -> PipelineMetrics {
        let by = ByPipeline { pipeline: pipeline.to_owned() };
        PipelineMetrics {
            pipeline: pipeline.to_owned(),
            changes: self.changes.clone(),
            writes: self.writes.clone(),
            conflicts: self.conflicts.clone(),
            losses: self.losses.clone(),
            lost_pairs: self.lost_pairs.clone(),
            collapsed: self.collapsed.get_or_create_owned(&by),
            gaps: self.gaps.get_or_create_owned(&by),
            cache_hits: self.cache_hits.get_or_create_owned(&by),
            cache_misses: self.cache_misses.get_or_create_owned(&by),
            comparisons: self.comparisons.get_or_create_owned(&by),
            comparison_seconds: self.comparison_seconds.get_or_create_owned(&by),
            recreate_overwrites: self.recreate_overwrites.get_or_create_owned(&by),
            refused: self.refused.get_or_create_owned(&by),
            apply_seconds: self.apply_seconds.get_or_create_owned(&by),
        }
    }

    /// Writes the counters in the OpenMetrics format, without its end mark.
    ///
    /// # Errors
    /// A label that cannot be encoded.
    pub fn encode(&self, out: &mut String) -> std::fmt::Result {
        text::encode_registry(out, &self.registry)
    }
}

impl PipelineMetrics {
    /// Changes of this route and op that are on the stream.
    #[must_use]
    pub fn changes(&self, route: &str, op: Op) -> Count {
        let (pipeline, route, op) = (self.pipeline.clone(), route.to_owned(), op.letter().to_owned());
        self.changes.get_or_create_owned(&ByRouteOp { pipeline, route, op })
    }

    /// Writes that this store accepted.
    #[must_use]
    pub fn writes(&self, store: &str) -> Count {
        self.writes.get_or_create_owned(&ByStore { pipeline: self.pipeline.clone(), store: store.to_owned() })
    }

    /// Conflicts that this rule resolved in favour of this store. The rule is written as in the
    /// pipeline file.
    #[must_use]
    pub fn conflicts(&self, rule: &str, winner: &str) -> Count {
        let (pipeline, rule, winner) = (self.pipeline.clone(), rule.to_owned(), winner.to_owned());
        self.conflicts.get_or_create_owned(&ByRuleWinner { pipeline, rule, winner })
    }

    /// Losses of this store, by this cause.
    #[must_use]
    pub fn losses(&self, store: &str, cause: LossCause) -> Count {
        self.losses.get_or_create_owned(&self.by_cause(store, cause))
    }

    /// Pairs in these losses.
    #[must_use]
    pub fn lost_pairs(&self, store: &str, cause: LossCause) -> Count {
        self.lost_pairs.get_or_create_owned(&self.by_cause(store, cause))
    }

    fn by_cause(&self, store: &str, cause: LossCause) -> ByCause {
        ByCause { pipeline: self.pipeline.clone(), store: store.to_owned(), cause: cause.word().to_owned() }
    }

    /// Makes a route's counters appear at zero, so that a rate over them is right from the first
    /// change on.
    pub fn introduce_route(&self, route: &str) {
        for op in [Op::Read, Op::Create, Op::Update, Op::Delete] {
            let _ = self.changes(route, op);
        }
    }

    /// Makes a store's counters appear at zero.
    pub fn introduce_store(&self, side: Side, store: &str) {
        let _ = self.writes(store);
        let causes: &[LossCause] = match side {
            Side::Zookeeper => &[LossCause::Older, LossCause::Emptied],
            Side::Redis => &[LossCause::Flushed, LossCause::Replaced, LossCause::Evicted],
        };
        for cause in causes {
            let _ = (self.losses(store, *cause), self.lost_pairs(store, *cause));
        }
    }
}
