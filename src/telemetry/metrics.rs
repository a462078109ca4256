//! The counters of the pipelines, and the text that Prometheus reads.

use super::names::{self, stem};
use super::{gauges, process};
use crate::change::{LossCause, Op, Side};
use crate::pipeline::control::{PipelineState, PipelineStatus};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
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

/// The text format that a scraper requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' own, version 0.0.4: the default.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The format for a request with this `Accept` header.
    #[must_use]
    pub fn accepted(accept: &str) -> Exposition {
        if accept.contains("application/openmetrics-text") { Exposition::OpenMetrics } else { Exposition::Plain }
    }

    /// The `Content-Type` that goes with it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
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
        registry.register(stem(names::CONFLICTS_TOTAL), "Resolved conflicts", metrics.conflicts.clone());
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

    /// The page that Prometheus reads.
    #[must_use]
    pub fn text(&self, statuses: &[PipelineStatus], exposition: Exposition) -> String {
        let mut scrape = Registry::default();
        gauges::register(&mut scrape, statuses);
        process::register(&mut scrape);
        let mut counters = String::with_capacity(8 * 1024);
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail. A label that could not be encoded would leave the page
        // short, which a scraper detects by the missing end mark.
        let written = text::encode_registry(&mut counters, &self.registry)
            .map(|()| page.push_str(&without_standbys(&counters, statuses)))
            .and_then(|()| text::encode_registry(&mut page, &scrape))
            .and_then(|()| text::encode_eof(&mut page));
        if let Err(error) = written {
            tracing::error!(%error, "metrics could not be written");
        }
        match exposition {
            Exposition::OpenMetrics => page,
            Exposition::Plain => plain(&page),
        }
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

/// The page without the counters of pipelines for which this worker is a standby: only the owner
/// serves them.
fn without_standbys(page: &str, statuses: &[PipelineStatus]) -> String {
    let standbys = statuses.iter().filter(|status| status.state == PipelineState::Standby);
    // The name of a pipeline never needs escaping, and a quote inside another label is escaped.
    let labels: Vec<[String; 2]> =
        standbys.map(|status| ["{", ","].map(|before| format!("{before}pipeline=\"{}\"", status.pipeline))).collect();
    let mut out = String::with_capacity(page.len());
    for line in page.lines().filter(|line| !labels.iter().flatten().any(|label| line.contains(label))) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// OpenMetrics text converted to the format of Prometheus 0.0.4: the comments of a counter include
/// `_total`, and there is no end mark.
fn plain(page: &str) -> String {
    let counters: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(page.len() + 256);
    for line in page.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let comment = ["# TYPE ", "# HELP "].into_iter().find_map(|mark| Some((mark, line.strip_prefix(mark)?)));
        match comment.and_then(|(mark, rest)| Some((mark, rest.split_once(' ')?))) {
            Some((mark, (name, rest))) if counters.contains(name) => {
                out.push_str(mark);
                out.push_str(name);
                out.push_str("_total ");
                out.push_str(rest);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Set;
    use crate::http::fake;

    fn lines(page: &str) -> Vec<&str> {
        page.lines().collect()
    }

    fn all_kinds(pipelines: &[&str]) -> Metrics {
        let metrics = Metrics::new();
        for pipeline in pipelines {
            let of = metrics.of(pipeline);
            of.introduce_route("settings");
            of.introduce_store(Side::Redis, "cache");
            of.introduce_store(Side::Zookeeper, "zk");
            of.conflicts("prefer zk", "zk").inc();
            of.apply_seconds.observe(0.01);
        }
        metrics
    }

    /// The rules of the text format 0.0.4 that a scraper enforces, a line at a time; answers the
    /// names of the series.
    fn parsed(page: &str) -> Result<Set<String>, String> {
        const TYPES: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];
        let is_name = |name: &str| {
            name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
                && name.chars().all(|it| it.is_ascii_alphanumeric() || it == '_' || it == ':')
        };
        let (mut typed, mut seen, mut current) = (Set::default(), Set::default(), String::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or(line)?;
                if !TYPES.contains(&kind) || !is_name(name) || !typed.insert(name.to_owned()) {
                    return Err(format!("{line}: an unknown type, or a second one"));
                }
                name.clone_into(&mut current);
                continue;
            }
            if let Some(rest) = line.strip_prefix("# HELP ") {
                rest.split_once(' ').ok_or(line)?;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').ok_or(line)?;
            value.parse::<f64>().map_err(|error| format!("{line}: {error}"))?;
            let name = series.split('{').next().unwrap_or_default();
            let labels = series.strip_prefix(name).unwrap_or_default();
            if !is_name(name) || !(labels.is_empty() || labels.ends_with('}')) {
                return Err(format!("{line}: no series"));
            }
            // A sample belongs to the type above it.
            let parts = ["", "_bucket", "_sum", "_count"];
            if !parts.iter().any(|part| name.strip_suffix(part) == Some(&current)) {
                return Err(format!("{line} stands below the type of {current}"));
            }
            if !seen.insert(series.to_owned()) {
                return Err(format!("{line} is there twice"));
            }
        }
        Ok(seen)
    }

    #[test]
    fn every_line_of_plain_text_follows_the_rules_of_the_format() {
        let metrics = all_kinds(&["p", "q"]);
        let page = metrics.text(&[fake::status("p"), fake::status("q")], Exposition::Plain);
        let series = parsed(&page);
        assert!(series.as_ref().is_ok_and(|series| series.len() > 50), "{series:?} of\n{page}");
    }

    #[test]
    fn every_series_of_a_pipeline_has_its_label() {
        let page = all_kinds(&["p"]).text(&[fake::status("p")], Exposition::Plain);
        for line in page.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_")) {
            assert!(line.starts_with("keepstep_") && line.contains("pipeline=\"p\""), "{line}");
        }
    }

    #[test]
    fn a_standby_serves_none_of_the_owners_figures() {
        let mut standby = fake::status("p");
        standby.state = PipelineState::Standby;
        standby.epoch = 0;
        let page = all_kinds(&["p", "q"]).text(&[standby, fake::status("q")], Exposition::Plain);
        assert!(parsed(&page).is_ok(), "{page}");
        for name in
            ["changes_total", "writes_total", "losses_total", "gaps_total", "pairs", "lag_seconds", "quarantined"]
        {
            let of = |pipeline: &str| page.contains(&format!("keepstep_{name}{{pipeline=\"{pipeline}\""));
            assert!(!of("p") && of("q"), "{name}: {page}");
        }
        assert!(page.contains(r#"keepstep_pipeline_ready{pipeline="p"} 1"#), "{page}");
    }

    #[test]
    fn a_counter_is_named_with_total_exactly_once() {
        let metrics = Metrics::new();
        metrics.of("p").changes("settings", Op::Update).inc_by(3);
        for exposition in [Exposition::Plain, Exposition::OpenMetrics] {
            let page = metrics.text(&[], exposition);
            assert!(
                lines(&page).contains(&r#"keepstep_changes_total{pipeline="p",route="settings",op="u"} 3"#),
                "{page}"
            );
            assert!(!page.contains("_total_total"), "{page}");
        }
    }

    #[test]
    fn in_plain_text_the_type_names_the_series_and_nothing_marks_the_end() {
        let page = all_kinds(&["p"]).text(&[], Exposition::Plain);
        assert!(lines(&page).contains(&"# TYPE keepstep_gaps_total counter"), "{page}");
        assert!(!page.contains("# EOF"), "{page}");
        assert!(Metrics::new().text(&[], Exposition::OpenMetrics).ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_introduced_is_there_at_zero() {
        let page = all_kinds(&["p"]).text(&[], Exposition::Plain);
        for series in [
            r#"keepstep_changes_total{pipeline="p",route="settings",op="d"} 0"#,
            r#"keepstep_losses_total{pipeline="p",store="cache",cause="flushed"} 0"#,
            r#"keepstep_losses_total{pipeline="p",store="zk",cause="older"} 0"#,
        ] {
            assert!(lines(&page).contains(&series), "{series} is not in {page}");
        }
    }
}
