//! The page of `/metrics`: the counters of the pipelines, the values of their statuses as gauges, and the
//! figures of the process.

use super::gauges;
use crate::pipeline::control::{PipelineState, PipelineStatus};
use crate::telemetry::{Metrics, process};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;

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

/// The page that Prometheus reads.
#[must_use]
pub(super) fn page(metrics: &Metrics, statuses: &[PipelineStatus], exposition: Exposition) -> String {
    let mut scrape = Registry::default();
    gauges::register(&mut scrape, statuses);
    process::register(&mut scrape);
    let mut counters = String::with_capacity(8 * 1024);
    let mut page = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail. A label that could not be encoded would leave the page short,
    // which a scraper detects by the missing end mark.
    let written = metrics
        .encode(&mut counters)
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
    use crate::change::{Op, Side};
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
        let page = page(&metrics, &[fake::status("p"), fake::status("q")], Exposition::Plain);
        let series = parsed(&page);
        assert!(series.as_ref().is_ok_and(|series| series.len() > 50), "{series:?} of\n{page}");
    }

    #[test]
    fn every_series_of_a_pipeline_has_its_label() {
        let page = page(&all_kinds(&["p"]), &[fake::status("p")], Exposition::Plain);
        for line in page.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_")) {
            assert!(line.starts_with("keepstep_") && line.contains("pipeline=\"p\""), "{line}");
        }
    }

    #[test]
    fn a_standby_serves_none_of_the_owners_figures() {
        let mut standby = fake::status("p");
        standby.state = PipelineState::Standby;
        standby.epoch = 0;
        let page = page(&all_kinds(&["p", "q"]), &[standby, fake::status("q")], Exposition::Plain);
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
            let page = page(&metrics, &[], exposition);
            assert!(
                lines(&page).contains(&r#"keepstep_changes_total{pipeline="p",route="settings",op="u"} 3"#),
                "{page}"
            );
            assert!(!page.contains("_total_total"), "{page}");
        }
    }

    #[test]
    fn in_plain_text_the_type_names_the_series_and_nothing_marks_the_end() {
        let plain = page(&all_kinds(&["p"]), &[], Exposition::Plain);
        assert!(lines(&plain).contains(&"# TYPE keepstep_gaps_total counter"), "{plain}");
        assert!(!plain.contains("# EOF"), "{plain}");
        assert!(page(&Metrics::new(), &[], Exposition::OpenMetrics).ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_introduced_is_there_at_zero() {
        let page = page(&all_kinds(&["p"]), &[], Exposition::Plain);
        for series in [
            r#"keepstep_changes_total{pipeline="p",route="settings",op="d"} 0"#,
            r#"keepstep_losses_total{pipeline="p",store="cache",cause="flushed"} 0"#,
            r#"keepstep_losses_total{pipeline="p",store="zk",cause="older"} 0"#,
        ] {
            assert!(lines(&page).contains(&series), "{series} is not in {page}");
        }
    }
}
