//! `keepstep diff`: what the two stores do not have in common.

use super::args::{self, Global};
use super::exit::{Exit, Failure};
use super::meter::Meter;
use super::output::{Colour, Output, Paint};
use super::settling::WorkerSettling;
use super::which::Pairs;
use super::{quarantine, text};
use crate::assembly::{self, Stores};
use crate::change::{KeyedHash, Op, Pair, Side};
use crate::codec::json;
use crate::config::{self, Pipeline};
use crate::env::Set;
use crate::history::{DiffState, Differ, Difference, Found, Scope};
use crate::store::{Keyspace, Znodes};
use crate::stream::{LatestValue, Stream};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Both sides are read as they are; with a running worker or without one. What differs is looked at again once changes that were \
under way have landed. `missing` is what the second store of a flow (or its destination) lacks, `extra` what the first one \
lacks. It exits with 1 if anything differs.

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
    let meter = Meter::new("comparing", "pairs", None);
    let mut count = 0_u64;
    while let Some(differences) = differ.next().await? {
        meter.at(differ.numbers.pairs);
        // Only text tells which side is newer, and a topic is read to its end for it.
        if history.is_none() && !differences.is_empty() && !out.json() {
            let opened = assembly::open_stream_with_pairs(&pipeline, &global.data_dir).await;
            history = Some(opened.inspect_err(|error| tracing::warn!("which side is newer is not told: {error}")).ok());
        }
        let history = history.iter().flatten().flatten().next();
        for difference in &differences {
            count += 1;
            let newer = match history {
                Some(stream) => newer(stream.as_ref(), &scope, difference).await,
                None => None,
            };
            out.row(&row(&scope, difference), |row, paint| line(row, newer, paint))?;
        }
        if !differences.is_empty() {
            out.flush()?;
        }
    }
    drop(meter);
    let numbers = differ.numbers;
    show_unreadable(&differ, &scope, &mut out)?;
    count += numbers.unreadable;
    compared.close().await;
    none_matched(&args.pairs, numbers.pairs, count)?;
    if !out.json() {
        let busy = match numbers.unsettled {
            0 => String::new(),
            busy => format!("; {busy} changed at every look, and nothing is said of them"),
        };
        out.line(&format!("{}: {} pairs compared, {count} differ{busy}", pipeline.name, numbers.pairs))?;
    }
    out.flush()?;
    Ok(if count > 0 { Exit::Differs } else { Exit::Done })
}

/// Shows the znodes that hide pairs: they are in no other row.
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
            format!("{state}  {}  {path}: {reason}; nothing is known of what is below it", text::field(row, "route"))
        })?;
    }
    let listed = u64::try_from(differ.unreadable.len()).unwrap_or(u64::MAX);
    let more = differ.numbers.unreadable.saturating_sub(listed);
    if more > 0 && !out.json() {
        out.line(&format!("… and {more} more znodes that cannot be read"))?;
    }
    Ok(())
}

/// A glob that matches nothing may be misspelt; "no difference" would be a wrong answer then.
pub(super) fn none_matched(pairs: &Pairs, compared: u64, differ: u64) -> Result<(), Failure> {
    match &pairs.key {
        Some(key) if compared == 0 && differ == 0 => {
            Err(Failure::Failed(format!("no pair on either side matches {}", text::printable(&key.text()))))
        }
        _ => Ok(()),
    }
}

/// Both stores, open, and what else a comparison needs.
pub(super) struct Compared {
    sides: (Arc<dyn Znodes>, Arc<dyn Keyspace>),
    pub(super) stores: Stores,
    settling: WorkerSettling,
    quarantined: Set<KeyedHash>,
}

impl Compared {
    pub(super) async fn open(
        pipeline: &Pipeline,
        scope: &Scope,
        global: &Global,
        timeout: Duration,
    ) -> Result<Compared, Failure> {
        let joins = |at: usize| scope.route.is_none_or(|route| route == at);
        let mut meant = scope.routes.iter().enumerate().filter(|(at, _)| joins(*at)).map(|(_, route)| route);
        if meant.all(|route| matches!(route.policy.flow, crate::plan::Flow::Capture(_))) {
            let file = pipeline.file.display();
            return Err(Failure::Usage(format!("{file} captures one store: there is nothing to compare it with")));
        }
        let listed = quarantine::keys(pipeline, global).await?;
        let stores = assembly::open_stores(pipeline, &[Side::Zookeeper, Side::Redis], timeout).await?;
        let (Some(znodes), Some(keys)) = (stores.znodes.clone(), stores.keys.clone()) else {
            return Err(Failure::Usage(format!("{} declares one store only", pipeline.file.display())));
        };
        Ok(Compared {
            sides: (znodes, keys),
            stores,
            settling: WorkerSettling::new(&global.data_dir, &pipeline.name),
            quarantined: listed.iter().map(|key| KeyedHash::of(key)).collect(),
        })
    }

    pub(super) fn differ<'a>(&'a self, scope: &'a Scope) -> Differ<'a> {
        Differ::new(scope, self.sides.clone(), &self.settling, self.quarantined.clone())
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

/// The side that changed after the pair was last recorded, as far as the stream can tell. A side that has nothing may have been changed
/// or may have lost what it had; one that is as it was before that record may still wait for it. Of either nothing is said.
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
    let may_wait = record.before.is_none() || changed.is(record.before.as_deref());
    let may_wait = may_wait && matches!(record.op, Op::Update | Op::Delete);
    (changed.exists() && !may_wait).then(|| scope.name(side))
}

/// `state  route  path = key  zk="a"  cache="b"  zk is newer`.
pub(super) fn line(row: &Value, newer: Option<&str>, paint: Paint) -> String {
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
    let values =
        row.as_object().into_iter().flatten().filter(|(name, _)| !["route", "pair", "state"].contains(&name.as_str()));
    for (store, value) in values {
        line.push_str(&format!("  {}={}", text::printable(store), text::value(value)));
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
        assert_eq!(line(&row, Some("cache"), Paint::OFF), expected);
    }
}
