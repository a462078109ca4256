//! `keepstep conflicts`: the resolved conflicts, oldest first.

use super::args::{From, Global};
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::restore::{self, Restore};
use super::tail::{self, Filter};
use super::{selection, stream_position, text};
use crate::assembly;
use crate::codec::json;
use crate::config::{self, Secrets};
use crate::env;
use serde_json::Value;
use std::path::PathBuf;

/// Arguments of `conflicts`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lists the resolved conflicts, oldest first. They are kept for the stream's `retention.age`. The command reads the stream directly, \
so it works with and without a running worker.

Examples:
  keepstep conflicts settings.yaml                     all conflicts
  keepstep conflicts restore settings.yaml 4711 --yes  restore what lost
  keepstep conflicts settings.yaml --from 10m --key 'settings:*' --format json")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Conflicts {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The pipeline file
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// Where to begin: earliest, latest, a position (42), a time (2026-11-22T17:00:00Z) or a time
    /// before now (10m)
    #[arg(long, env = "KEEPSTEP_FROM", value_name = "WHERE", default_value = "earliest")]
    from: From,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make the value that lost the current value
    Restore(Restore),
}

pub(super) async fn run(args: Conflicts, global: &Global) -> Result<Exit, Failure> {
    let file = match (args.verb, args.file) {
        (Some(Verb::Restore(args)), _) => return restore::run(args, global).await,
        (None, None) => return Err(Failure::Usage("give the FILE of the pipeline".to_owned())),
        (None, Some(file)) => file,
    };
    let pipeline = config::load_with(&file, Secrets::OfStream)?;
    selection::known_route(&pipeline, args.filter.route.as_deref())?;
    selection::warn_about_path(&pipeline, args.filter.key.as_ref());
    let names = assembly::names(&pipeline);
    let now = env::unix_ms();
    if let From::Time(ms) = args.from {
        stream_position::not_in_future(ms, now)?;
    }
    let Some(stream) = assembly::open_stream(&pipeline, &global.data_dir).await? else {
        return match (stream_position::no_stream(&pipeline, &global.data_dir), args.from) {
            (Some(failure), _) => Err(failure),
            (None, From::Position(position)) if position > 1 => Err(stream_position::beyond(position, 0)),
            (None, _) => Ok(Exit::Done),
        };
    };
    let mut out = Output::new(global.format);
    let next = stream_position::position(stream.as_ref(), args.from, now).await?;
    tail::read_all(stream.as_ref(), next, |position, change| {
        let (Some(row), Some(conflict)) = (json::conflicts(position, change, &names), &change.conflict) else {
            return Ok(());
        };
        let known = [conflict.winner.as_str(), conflict.loser.as_str()];
        if args.filter.takes(change) { out.row(&row, |row, paint| line(row, known, paint)) } else { Ok(()) }
    })
    .await?;
    out.flush()?;
    Ok(Exit::Done)
}

/// `position  time  route  path = key  zk="a"  cache="b"  zk wins (prefer zk): reason`. `known`: whose values the record has. `replay`
/// and `conflicts restore` read only the store that they write, so the value in the other one is not known.
fn line(row: &Value, known: [&str; 2], paint: Paint) -> String {
    const OTHERS: [&str; 7] = ["position", "ts_ms", "route", "pair", "winner", "rule", "reason"];
    let winner = text::field(row, "winner");
    let mut line = format!(
        "{:>8}  {}  {}  {}",
        text::field(row, "position"),
        paint.with(Colour::Faint, &text::time_of(row, "ts_ms")),
        text::field(row, "route"),
        paint.with(Colour::Strong, &text::pair(row)),
    );
    for (store, value) in row.as_object().into_iter().flatten().filter(|(key, _)| !OTHERS.contains(&key.as_str())) {
        let (colour, value) = match known.contains(&store.as_str()) {
            true if *store == winner => (Colour::Good, text::value(value)),
            true => (Colour::Bad, text::value(value)),
            false => (Colour::Faint, "unknown".to_owned()),
        };
        line.push_str(&format!("  {}={}", text::printable(store), paint.with(colour, &value)));
    }
    line.push_str(&format!("  {winner} wins ({}): {}", text::field(row, "rule"), text::field(row, "reason")));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_shows_both_values_the_winner_and_why() {
        let row = json!({
            "position": 3, "ts_ms": 0, "route": "settings", "pair": {"zk": "/s/a", "cache": "s:a"}, "zk": "v2",
            "cache": null, "winner": "zk", "rule": "prefer zk", "reason": "both sides changed",
        });
        let expected = "       3  1970-01-01T00:00:00.000Z  settings  /s/a = s:a  zk=\"v2\"  cache=absent  \
                        zk wins (prefer zk): both sides changed";
        assert_eq!(line(&row, ["zk", "cache"], Paint::OFF), expected);
    }

    #[test]
    fn the_value_in_a_store_that_a_replay_did_not_read_is_unknown_and_not_absent() {
        let row = json!({
            "position": 3, "ts_ms": 0, "route": "settings", "pair": {"zk": "/s/a", "cache": "s:a"}, "zk": null,
            "cache": "v2", "stream": null, "winner": "stream", "rule": "replay", "reason": "replayed",
        });
        let expected = "       3  1970-01-01T00:00:00.000Z  settings  /s/a = s:a  zk=unknown  cache=\"v2\"  \
                        stream=absent  stream wins (replay): replayed";
        assert_eq!(line(&row, ["stream", "cache"], Paint::OFF), expected);
    }
}
