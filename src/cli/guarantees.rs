//! The guarantees of a route in sentences, for `validate`.

use super::text;
use crate::change::Side;
use crate::config::{Ephemeral, Flow, OnConflict, OnRemoval, Pipeline, Route};
use std::time::Duration;

/// How much longer a full comparison may take than its interval (contract, guarantee 1).
const SETTLE: Duration = Duration::from_secs(30);

/// The guarantees for the pairs of this route.
pub(super) fn of(pipeline: &Pipeline, route: &Route) -> Vec<String> {
    let mut sentences = match route.flow {
        Flow::Both(first) => both_ways(pipeline, route, first),
        Flow::From(source) => one_way(pipeline, route, source),
        Flow::Capture(side) => {
            let store = store(pipeline, side);
            vec![format!(
                "Every latest state of {store} is on the stream at least once; nothing is written to {store}."
            )]
        }
    };
    sentences.push(
        "A value that is replaced before Keepstep sees it is collapsed into the next one, and counted where possible."
            .to_owned(),
    );
    if let Some(sentence) = ephemerals(pipeline, route) {
        sentences.push(sentence);
    }
    if let Some(channel) = &route.publish {
        sentences.push(format!("Each change that Keepstep writes to Redis is published on the channel {channel}."));
    }
    if route.match_zookeeper.is_some() {
        sentences
            .push("A znode called `_keepstep`, at any depth, and the znodes below it are never mapped.".to_owned());
    }
    if !matches!(route.flow, Flow::Capture(_)) {
        sentences.push(
            "Values of more than 1,000,000 bytes are not mirrored: the pair is quarantined as too_large.".to_owned(),
        );
    }
    sentences
}

fn both_ways(pipeline: &Pipeline, route: &Route, first: Side) -> Vec<String> {
    let (one, other) = (store(pipeline, first), store(pipeline, first.other()));
    let mut sentences = vec![
        format!(
            "After writes have stopped and faults are over, {one} and {other} hold the same values within {}, except for quarantined pairs.",
            within(pipeline)
        ),
        conflicts(pipeline, route, one),
        removals(route, "on one side", "the other"),
    ];
    sentences.extend(guard(pipeline, route));
    sentences.push(expiries(route));
    sentences
}

fn one_way(pipeline: &Pipeline, route: &Route, source: Side) -> Vec<String> {
    let (from, to) = (store(pipeline, source), store(pipeline, source.other()));
    let mut sentences = vec![
        format!(
            "After writes have stopped and faults are over, {to} holds the values of {from} within {}, except for quarantined pairs.",
            within(pipeline)
        ),
        format!(
            "A change in {to} is reverted, at the latest by the next comparison (every {}); its value is kept in the \
             conflict log for {}. Data that only {to} has is left alone.",
            text::duration(pipeline.worker.reconcile),
            text::duration(pipeline.stream.retention_age)
        ),
        removals(route, &format!("in {from}"), to),
    ];
    sentences.extend(guard(pipeline, route));
    if source == Side::Redis {
        sentences.push(expiries(route));
    }
    sentences
}

fn conflicts(pipeline: &Pipeline, route: &Route, first: &str) -> String {
    let winner = match route.on_conflict {
        OnConflict::Quarantine => return "In a conflict neither side is touched: the pair is quarantined.".to_owned(),
        OnConflict::Prefer(side) => format!("In a conflict {} wins", store(pipeline, side)),
        OnConflict::Latest => {
            format!("In a conflict the later change wins, or {first} if the times cannot be compared")
        }
        OnConflict::HigherVersion => {
            format!("In a conflict the side with more writes wins, or {first} if they cannot be counted or are equal")
        }
    };
    let kept = text::duration(pipeline.stream.retention_age);
    format!(
        "{winner}; a change beats a delete. The value that loses is on the stream before it is replaced, and is kept for {kept}."
    )
}

fn removals(route: &Route, place: &str, kept: &str) -> String {
    match route.on_delete {
        OnRemoval::Propagate => {
            format!(
                "A delete {place} is applied on the other side; a loss of data is never a delete: it is restored or reported."
            )
        }
        OnRemoval::Keep => {
            format!("A delete {place} leaves {kept} as it is, until either changes again (on_delete: keep).")
        }
    }
}

fn expiries(route: &Route) -> String {
    match (route.on_expire, route.on_delete) {
        (OnRemoval::Propagate, OnRemoval::Propagate) => "A key that expires counts as deleted.".to_owned(),
        (OnRemoval::Propagate, OnRemoval::Keep) => "When a key expires, its znode is deleted.".to_owned(),
        (OnRemoval::Keep, _) => {
            "A key that expires leaves its znode as it is, until either changes again (on_expire: keep).".to_owned()
        }
    }
}

/// What happens to bulk deletes that a comparison infers; nothing where the route applies none. The guard does not count ephemerals.
fn guard(pipeline: &Pipeline, route: &Route) -> Option<String> {
    let expiries_delete = route.flow != Flow::From(Side::Zookeeper) && route.on_expire == OnRemoval::Propagate;
    let applies_deletes = route.on_delete == OnRemoval::Propagate || expiries_delete;
    applies_deletes.then(|| if pipeline.worker.delete_guard {
        "If a comparison (at a start, after a gap) infers deletes of more than 100 pairs and of more than half of the route, they wait \
         for `keepstep approve`; deletes that are observed as they happen do not wait."
            .to_owned()
    } else {
        "Deletes that a comparison infers are applied, whatever their number (delete_guard: off).".to_owned()
    })
}

fn ephemerals(pipeline: &Pipeline, route: &Route) -> Option<String> {
    let leaves_zookeeper = match route.flow {
        Flow::Both(_) => true,
        Flow::From(side) | Flow::Capture(side) => side == Side::Zookeeper,
    };
    let to = store(pipeline, Side::Redis);
    leaves_zookeeper.then(|| match route.ephemeral {
        Ephemeral::Mirror if matches!(route.flow, Flow::Capture(_)) => {
            "Ephemeral znodes are recorded, and their end is recorded as a delete.".to_owned()
        }
        Ephemeral::Mirror => {
            format!("Ephemeral znodes flow to {to}, and their keys are removed with them; nothing flows back to them.")
        }
        Ephemeral::Skip => "Ephemeral znodes are not mapped (ephemeral: skip).".to_owned(),
    })
}

fn within(pipeline: &Pipeline) -> String {
    text::duration(pipeline.worker.reconcile.saturating_add(SETTLE))
}

fn store(pipeline: &Pipeline, side: Side) -> &str {
    match side {
        Side::Zookeeper => pipeline.zookeeper.as_ref().map_or("ZooKeeper", |store| &store.name),
        Side::Redis => pipeline.redis.as_ref().map_or("Redis", |store| &store.name),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::config;

    /// The guarantees of a route with this flow and these lines, as one text.
    fn text_of(flow: &str, lines: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        let names = if flow == "zk" { "zk: /a/**" } else { "zk: /a/**, cache: \"a:**\"" };
        let cache = if flow == "zk" { "" } else { "  cache: {redis: {url: redis://127.0.0.1/0}}\n" };
        let text = format!(
            "version: 1\npipeline: p\nstores:\n  zk: {{zookeeper: {{connect: 127.0.0.1:2181}}}}\n{cache}routes:\n  \
             - name: r\n    flow: {flow}\n    match: {{{names}}}\n{lines}"
        );
        std::fs::write(&file, text).unwrap();
        let pipeline = config::load(&file).unwrap();
        pipeline.routes.iter().flat_map(|route| of(&pipeline, route)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_capture_records_ephemeral_znodes_and_their_end() {
        let text = text_of("zk", "");
        assert!(text.contains("Ephemeral znodes are recorded, and their end is recorded as a delete."), "{text}");
        assert!(!text.contains("keys are removed"), "{text}");
    }

    #[test]
    fn where_deletes_are_kept_and_expiries_are_not_an_expiry_still_deletes() {
        let text = text_of("cache -> zk", "    on_delete: keep\n    on_expire: propagate\n");
        assert!(text.contains("When a key expires, its znode is deleted."), "{text}");
        assert!(!text.contains("counts as deleted"), "{text}");
    }

    #[test]
    fn the_delete_guard_is_named_only_where_a_delete_can_be_applied() {
        const KEEP_BOTH: &str = "    on_delete: keep\n    on_expire: keep\n";
        for (flow, lines, is_named) in [
            ("zk <-> cache", "", true),
            ("zk <-> cache", KEEP_BOTH, false),
            ("cache -> zk", "    on_delete: keep\n", true),
            ("zk -> cache", "", true),
            ("zk -> cache", "    on_delete: keep\n", false),
            ("zk", "", false),
        ] {
            let text = text_of(flow, lines);
            assert_eq!(text.contains("keepstep approve"), is_named, "{flow}: {text}");
        }
    }
}
