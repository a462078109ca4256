//! `keepstep diff`: the differences between the two stores.

use super::args::{self, Global};
use super::exit::{Exit, Failure};
use super::in_flight::WorkerInFlight;
use super::output::{Colour, Output, Paint};
use super::progress::Progress;
use super::selection::Pairs;
use super::{quarantine, text};
use crate::assembly;
use crate::change::{KeyedHash, Op, Pair, Side};
use crate::codec::json;
use crate::config::{self, Pipeline};
use crate::env::Set;
use crate::history::{DiffState, Differ, Difference, Found, Scope, Stores};
use crate::store::{Keyspace, Znodes};
use crate::stream::{LatestValue, Stream};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares both sides pair by pair, with or without a running worker. Each difference is checked again once the changes in flight have \
finished. `missing` marks a pair that the second store of the flow (or the destination) lacks, `extra` one that the first store \
lacks. Exits with 1 if anything differs.

Examples:
  keepstep diff settings.yaml
  keepstep diff settings.yaml --key 'settings:db:*' --format json")]
pub(super) struct Diff {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pairs: Pairs,
    /// How long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Diff, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    let scope = args.pairs.scope(&pipeline)?;
    let compared = Compared::open(&pipeline, &scope, global, args.timeout).await?;
    let mut history = None;
    let mut out = Output::new(global.format);
    let mut differ = compared.differ(&scope);
    let progress = Progress::new("comparing", "pairs", None);
    let mut count = 0_u64;
    while let Some(differences) = differ.next().await? {
        progress.at(differ.numbers.pairs);
        // Only the text form shows which side is newer, and a topic must be read to its end for
        // that.
        if history.is_none() && !differences.is_empty() && !out.json() {
            let opened = assembly::open_stream_with_pairs(&pipeline, &global.data_dir).await;
            history = Some(
                opened
                    .inspect_err(
                        |error| tracing::warn!(%error, "cannot show which side is newer: the stream cannot be read"),
                    )
                    .ok(),
            );
        }
        let history = history.iter().flatten().flatten().next();
        for difference in &differences {
            count += 1;
            let newer = match history {
                Some(stream) => newer(stream.as_ref(), &scope, difference).await,
                None => None,
            };
            let stores = stores(&scope, difference);
            out.row(&row(&scope, difference), |row, paint| line(row, stores, newer, paint))?;
        }
        if !differences.is_empty() {
            out.flush()?;
        }
    }
    drop(progress);
    let numbers = differ.numbers;
    show_unreadable(&differ, &scope, &mut out)?;
    count += numbers.unreadable;
    compared.close().await;
    none_matched(&args.pairs, numbers.pairs, count)?;
    if !out.json() {
        let busy = match numbers.unsettled {
            0 => String::new(),
            busy => format!("; {busy} changed at every look and could not be compared"),
        };
        let pairs = text::count(numbers.pairs, "pair", "pairs");
        let differ = text::count(count, "differs", "differ");
        out.line(&format!("{}: {pairs} compared, {differ}{busy}", pipeline.name))?;
    }
    out.flush()?;
    Ok(if count > 0 { Exit::Differs } else { Exit::Done })
}

/// Prints the znodes that cannot be read and are no pairs, although pairs may be below them. No
/// other row shows them.
pub(super) fn show_unreadable(differ: &Differ<'_>, scope: &Scope, out: &mut Output) -> Result<(), Failure> {
    for znode in &differ.unreadable {
        let pair = Pair { zookeeper: Some(znode.path.clone()), redis: None };
        let row = json!({
            "route": scope.routes.get(znode.route).map(|route| route.name.as_str()),
            "pair": json::pair(&pair, &scope.names),
            "state": DiffState::Quarantined.word(),
            scope.name(Side::Zookeeper): null,
            scope.name(Side::Redis): null,
            "reason": "no_permission",
            "detail": znode.reason,
        });
        out.row(&row, |row, paint| {
            let state = paint.with(Colour::Bad, "unreadable ");
            let path = paint.with(Colour::Strong, &text::printable(&znode.path));
            let reason = text::printable(&znode.reason);
            format!("{state}  {}  {path}: {reason}; the znodes below it cannot be compared", text::field(row, "route"))
        })?;
    }
    let listed = u64::try_from(differ.unreadable.len()).unwrap_or(u64::MAX);
    let more = differ.numbers.unreadable.saturating_sub(listed);
    if more > 0 && !out.json() {
        out.line(&format!("… and {more} more znodes that cannot be read"))?;
    }
    Ok(())
}

/// Refuses a glob that matches nothing. It may be misspelt, and then "no difference" would be a
/// wrong answer.
pub(super) fn none_matched(pairs: &Pairs, compared: u64, differ: u64) -> Result<(), Failure> {
    match &pairs.key {
        Some(key) if compared == 0 && differ == 0 => {
            Err(Failure::Failed(format!("no pair on either side matches {}", text::printable(&key.text()))))
        }
        _ => Ok(()),
    }
}

/// Both stores, open, and everything else that a comparison needs.
pub(super) struct Compared {
    sides: (Arc<dyn Znodes>, Arc<dyn Keyspace>),
    pub(super) stores: Stores,
    in_flight: WorkerInFlight,
    quarantined: Set<KeyedHash>,
}

impl Compared {
    pub(super) async fn open(
        pipeline: &Pipeline,
        scope: &Scope,
        global: &Global,
        timeout: Duration,
    ) -> Result<Compared, Failure> {
        let is_selected = |at: usize| scope.route.is_none_or(|route| route == at);
        let mut selected = scope.routes.iter().enumerate().filter(|(at, _)| is_selected(*at)).map(|(_, route)| route);
        if selected.all(|route| matches!(route.policy.flow, crate::plan::Flow::Capture(_))) {
            let file = pipeline.file.display();
            return Err(Failure::Usage(format!(
                "{file} captures one store, so there is no other store to compare it with"
            )));
        }
        let listed = quarantine::keys(pipeline, global).await?;
        let stores = assembly::open_stores(pipeline, &[Side::Zookeeper, Side::Redis], timeout, &global.network).await?;
        let Some(sides) = stores.both() else {
            return Err(Failure::Usage(format!("{} declares one store only", pipeline.file.display())));
        };
        Ok(Compared {
            sides,
            stores,
            in_flight: WorkerInFlight::new(&global.data_dir, &pipeline.name),
            quarantined: listed.iter().map(|key| KeyedHash::of(key)).collect(),
        })
    }

    pub(super) fn differ<'a>(&'a self, scope: &'a Scope) -> Differ<'a> {
        Differ::new(scope, self.sides.clone(), &self.in_flight, self.quarantined.clone())
    }

    pub(super) async fn close(&self) {
        self.stores.close().await;
    }
}

/// `{"route":…,"pair":…,"state":…,"zk":…,"cache":…}`.
pub(super) fn row(scope: &Scope, difference: &Difference) -> Value {
    let route = scope.routes.get(difference.route);
    let kind = route.map_or(crate::change::ValueKind::String, |route| route.value);
    let mut row = Map::new();
    row.insert("route".to_owned(), json!(route.map(|route| route.name.as_str())));
    row.insert("pair".to_owned(), json::pair(&difference.pair, &scope.names));
    row.insert("state".to_owned(), json!(difference.state.word()));
    for (side, found) in [(Side::Zookeeper, &difference.zookeeper), (Side::Redis, &difference.redis)] {
        row.insert(scope.name(side).to_owned(), json::value(found.value(), kind));
    }
    Value::Object(row)
}

/// The store that changed after the pair was last recorded, if the stream shows it. A side without
/// a value may have been changed or may have lost its value, and a side that still has the value
/// before that record may not have received it yet. In both cases: `None`.
async fn newer<'a>(stream: &dyn Stream, scope: &'a Scope, difference: &Difference) -> Option<&'a str> {
    let latest = stream.latest(&difference.pair).ok().flatten()?;
    let recorded = |found: &Found| match &latest.after {
        LatestValue::Absent => found.is(None),
        LatestValue::Kept(value) => found.is(Some(value)),
        LatestValue::Hash(hash) => found.value().is_some_and(|value| KeyedHash::of(value) == *hash),
    };
    let (side, changed) = match (recorded(&difference.zookeeper), recorded(&difference.redis)) {
        (true, false) => (Side::Redis, &difference.redis),
        (false, true) => (Side::Zookeeper, &difference.zookeeper),
        _ => return None,
    };
    let record = stream.read(latest.position, 1, 1).await.ok()?.records.into_iter().next()?.change;
    // A large value is not repeated in the next record.
    let may_be_pending = record.before.is_none() || changed.is(record.before.as_deref());
    let may_be_pending = may_be_pending && matches!(record.op, Op::Update | Op::Delete);
    (changed.exists() && !may_be_pending).then(|| scope.name(side))
}

/// The names of both stores, and what each has.
fn stores<'a>(scope: &'a Scope, difference: &'a Difference) -> [(&'a str, &'a Found); 2] {
    [Side::Zookeeper, Side::Redis].map(|side| (scope.name(side), difference.found(side)))
}

/// `state  route  path = key  zk="a"  cache="b"  zk is newer`. What cannot be mirrored is shown as `quarantine show` does.
fn line(row: &Value, stores: [(&str, &Found); 2], newer: Option<&str>, paint: Paint) -> String {
    let state = text::field(row, "state");
    let colour = match state.as_str() {
        "different" => Colour::Bad,
        "missing" | "extra" => Colour::Wait,
        _ => Colour::Faint,
    };
    let mut line = format!(
        "{}  {}  {}",
        paint.with(colour, &format!("{state:<11}")),
        text::field(row, "route"),
        paint.with(Colour::Strong, &text::pair(row)),
    );
    for (store, found) in stores {
        let value = match found {
            Found::Unsupported(_, detail) => format!("({})", text::printable(detail)),
            _ => text::value(row.get(store).unwrap_or(&Value::Null)),
        };
        line.push_str(&format!("  {}={value}", text::printable(store)));
    }
    if let Some(newer) = newer {
        line.push_str(&format!("  {} is newer", text::printable(newer)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_state_both_values_and_which_is_newer() {
        let row = json!({
            "route": "settings", "pair": {"zk": "/s/a", "cache": "s:a"}, "state": "different", "zk": "v1", "cache": "v2",
        });
        let expected = "different    settings  /s/a = s:a  zk=\"v1\"  cache=\"v2\"  cache is newer";
        assert_eq!(
            line(&row, [("zk", &Found::Nothing), ("cache", &Found::Nothing)], Some("cache"), Paint::OFF),
            expected
        );
    }

    #[test]
    fn a_key_that_cannot_be_mirrored_is_not_absent() {
        let row = json!({
            "route": "settings", "pair": {"zk": "/s/a", "cache": "s:a"}, "state": "quarantined", "zk": null, "cache": null,
        });
        let list = Found::Unsupported("wrong_type", "the key is a list".to_owned());
        let expected = "quarantined  settings  /s/a = s:a  zk=absent  cache=(the key is a list)";
        assert_eq!(line(&row, [("zk", &Found::Nothing), ("cache", &list)], None, Paint::OFF), expected);
    }
}
