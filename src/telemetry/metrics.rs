//! The counters that the pipeline moves, and the text that Prometheus reads.

use super::{gauges, names, process};
use crate::change::Op;
use crate::pipeline::control::PipelineStatus;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

/// A count that only grows. Cloning it is cheap and counts on the same number.
pub type Count = Counter<u64, AtomicU64>;

/// A number that goes up and down.
pub type Number = Gauge<f64, AtomicU64>;

/// Upper bounds of the buckets of `keepstep_apply_seconds`: from a batch on the same machine to one that met a retry.
const APPLY_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteOp {
    route: String,
    op: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Store {
    store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleWinner {
    rule: String,
    winner: String,
}

/// The text format a scraper asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' own, version 0.0.4: what is served unless something else is asked for.
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

/// The numbers of one worker, over all its pipelines: label sets carry no pipeline name, so routes of the same name
/// in two pipelines are one series, summed.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    changes: Family<RouteOp, Count>,
    writes: Family<Store, Count>,
    conflicts: Family<RuleWinner, Count>,
    /// Values that were replaced before Keepstep saw them.
    pub collapsed: Count,
    /// Times in which a source could not see every change.
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
    /// Writes that a store refused because its state was not the one they were decided on.
    pub refused: Count,
    /// How long a batch took to apply, seconds.
    pub apply_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All numbers at zero.
    #[must_use]
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            changes: Family::default(),
            writes: Family::default(),
            conflicts: Family::default(),
            collapsed: Count::default(),
            gaps: Count::default(),
            cache_hits: Count::default(),
            cache_misses: Count::default(),
            comparisons: Count::default(),
            comparison_seconds: Number::default(),
            recreate_overwrites: Count::default(),
            refused: Count::default(),
            apply_seconds: Histogram::new(APPLY_BUCKETS),
        };
        let registry = &mut metrics.registry;
        let mut add = |name: &str, help: &str, count: &Count| registry.register(stem(name), help, count.clone());
        add(names::COLLAPSED_TOTAL, "Values that were replaced before Keepstep saw them", &metrics.collapsed);
        add(names::GAPS_TOTAL, "Times in which a source could not see every change", &metrics.gaps);
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
            "Writes that a store refused because its state was not the one they were decided on",
            &metrics.refused,
        );
        registry.register(
            stem(names::CHANGES_TOTAL),
            "Changes recorded on the stream; op is r, c, u, d or m",
            metrics.changes.clone(),
        );
        registry.register(stem(names::WRITES_TOTAL), "Writes that a store took", metrics.writes.clone());
        registry.register(stem(names::CONFLICTS_TOTAL), "Settled conflicts", metrics.conflicts.clone());
        registry.register(
            names::COMPARISON_SECONDS,
            "How long the last full comparison took",
            metrics.comparison_seconds.clone(),
        );
        registry.register(names::APPLY_SECONDS, "How long a batch took to apply", metrics.apply_seconds.clone());
        metrics
    }

    /// Changes of this route and op that are on the stream.
    #[must_use]
    pub fn changes(&self, route: &str, op: Op) -> Count {
        self.changes.get_or_create_owned(&RouteOp { route: route.to_owned(), op: op.letter().to_owned() })
    }

    /// Writes that this store took.
    #[must_use]
    pub fn writes(&self, store: &str) -> Count {
        self.writes.get_or_create_owned(&Store { store: store.to_owned() })
    }

    /// Conflicts settled by this rule in favour of this store. The rule is as the pipeline file writes it.
    #[must_use]
    pub fn conflicts(&self, rule: &str, winner: &str) -> Count {
        self.conflicts.get_or_create_owned(&RuleWinner { rule: rule.to_owned(), winner: winner.to_owned() })
    }

    /// Makes a route's counters appear at zero, so that a rate over them is right from the first change on.
    pub fn introduce_route(&self, route: &str) {
        for op in [Op::Read, Op::Create, Op::Update, Op::Delete] {
            let _ = self.changes(route, op);
        }
    }

    /// The page that Prometheus reads.
    #[must_use]
    pub fn text(&self, statuses: &[PipelineStatus], exposition: Exposition) -> String {
        let mut scrape = Registry::default();
        gauges::register(&mut scrape, statuses);
        process::register(&mut scrape);
        let mut page = String::with_capacity(8 * 1024);
        // Writing to a String cannot fail; a label that could not be encoded leaves the page short, which a scraper
        // notices by the missing end.
        let written = text::encode_registry(&mut page, &self.registry)
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

/// The name under which a counter is registered: the encoder adds `_total` itself.
pub(super) fn stem(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

/// OpenMetrics text as Prometheus 0.0.4 writes it: a counter's comments name the series with its `_total`, and there
/// is no end mark.
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

    fn lines(page: &str) -> Vec<&str> {
        page.lines().collect()
    }

    #[test]
    fn a_counter_is_named_with_total_exactly_once() {
        let metrics = Metrics::new();
        metrics.changes("settings", Op::Update).inc_by(3);
        for exposition in [Exposition::Plain, Exposition::OpenMetrics] {
            let page = metrics.text(&[], exposition);
            assert!(lines(&page).contains(&r#"keepstep_changes_total{route="settings",op="u"} 3"#), "{page}");
            assert!(!page.contains("_total_total"), "{page}");
        }
    }

    #[test]
    fn in_plain_text_the_type_names_the_series_and_nothing_marks_the_end() {
        let page = Metrics::new().text(&[], Exposition::Plain);
        assert!(lines(&page).contains(&"# TYPE keepstep_gaps_total counter"), "{page}");
        assert!(!page.contains("# EOF"), "{page}");
        assert!(Metrics::new().text(&[], Exposition::OpenMetrics).ends_with("# EOF\n"));
    }

    #[test]
    fn only_keepstep_and_process_names_are_served() {
        let metrics = Metrics::new();
        metrics.introduce_route("settings");
        metrics.conflicts("prefer zk", "zk").inc();
        metrics.writes("cache").inc();
        metrics.apply_seconds.observe(0.01);
        let page = metrics.text(&[], Exposition::Plain);
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("keepstep_") || line.starts_with("process_"), "{line}");
            let value = line.rsplit(' ').next().unwrap_or_default();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(page.contains(r#"keepstep_conflicts_total{rule="prefer zk",winner="zk"} 1"#), "{page}");
        assert!(page.contains("process_resident_memory_bytes"), "{page}");
    }

    #[test]
    fn an_introduced_route_is_there_at_zero() {
        let metrics = Metrics::new();
        metrics.introduce_route("settings");
        let page = metrics.text(&[], Exposition::Plain);
        assert!(page.contains(r#"keepstep_changes_total{route="settings",op="d"} 0"#), "{page}");
    }
}
