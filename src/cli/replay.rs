//! `keepstep replay`: restores a store from the stream.

use super::archive::StreamArchive;
use super::args::{self, Global};
use super::confirmation::Confirmation;
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::progress::Progress;
use super::selection::{self, Pairs};
use super::text;
use crate::assembly;
use crate::change::{Position, Side};
use crate::codec::json;
use crate::config;
use crate::env::{self, Instant};
use crate::history::{DesiredState, Fold, Found, Outcome, Reasons, Restorer, Scope, Until};
use crate::stream::Stream;
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The largest batch: pairs, and bytes of their values.
const BATCH: (usize, usize) = (512, 2 * 1024 * 1024);
/// Batches in flight: one is read while another is written and a third is on its way.
const BATCHES: usize = 4;
/// How many pairs a dry run shows.
const SAMPLE: u64 = 10;
/// How many pairs that could not be written are listed. The others are only counted.
const LISTED_MAX: u64 = 1_000;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Gives each pair its last state on the stream, or its state at --until. A pair whose last change is a delete is deleted; a pair that \
the stream does not know is left alone. Every write is a compare-and-set, and a replaced value is in the conflict log first. The \
routes treat it as an application's write, so old values flow on to the other side. Works with and without a running worker. If \
interrupted, run it again: it ends in the same state.

Examples:
  keepstep replay settings.yaml --to cache --dry-run    show what would change
  keepstep replay settings.yaml --to cache --yes        fill an empty Redis
  keepstep replay settings.yaml --to zk --until 10m     as it was 10 minutes ago
  keepstep replay settings.yaml --to zk --until 2026-11-22T14:03:00Z
  keepstep replay settings.yaml --to zk --key 'settings:db:*' --until 4711
  keepstep replay settings.yaml --to cache --url redis://127.0.0.1:6380/0")]
pub(super) struct Replay {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store to write, by its name in the file
    #[arg(long, env = "KEEPSTEP_TO", value_name = "STORE")]
    to: String,
    /// Up to and including this position (42), time (2026-11-22T17:00:00Z) or time before now (10m)
    /// [default: the end]
    #[arg(long, env = "KEEPSTEP_UNTIL", value_name = "WHEN", value_parser = until)]
    until: Option<Until>,
    #[command(flatten)]
    pairs: Pairs,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Show what would be done, and write nothing
    #[arg(long, env = "KEEPSTEP_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Write a scratch store at this address instead: redis://HOST:PORT/DATABASE, or
    /// HOST:PORT/CHROOT of an ensemble
    // A plain text that is parsed later, because clap would quote a wrong value, and the value may
    // hold a password. Without a variable: KEEPSTEP_URL is a worker's address.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Continue although records of the stream cannot be read: their pairs get the state before
    /// those records
    #[arg(long, env = "KEEPSTEP_SKIP_DAMAGED", value_parser = clap::builder::BoolishValueParser::new())]
    skip_damaged: bool,
    /// How long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

fn until(text: &str) -> Result<Until, String> {
    match text.parse::<args::From>() {
        Ok(args::From::Position(position)) => Ok(Until::Position(position)),
        Ok(args::From::Time(ms)) => Ok(Until::Time(ms)),
        _ => Err("give a position (42), a time (2026-11-22T17:00:00Z) or a time before now (10m)".to_owned()),
    }
}

pub(super) async fn run(args: Replay, global: &Global) -> Result<Exit, Failure> {
    let mut pipeline = config::load(&args.file)?;
    let side = selection::side(&pipeline, &args.to)?;
    let scope = args.pairs.scope(&pipeline)?;
    let until = args.until.unwrap_or(Until::End);
    if let Until::Time(ms) = until
        && ms > env::unix_ms()
    {
        return Err(Failure::Usage(format!(
            "{} is in the future; leave out --until to replay up to the end",
            text::time(ms)
        )));
    }
    let archive = StreamArchive::new(&pipeline, &global.data_dir, args.timeout);
    let mut is_scratch = false;
    if let Some(url) = &args.url {
        let (changed, is_other) =
            config::with_store_at(&pipeline, side, url).map_err(|error| Failure::Usage(format!("--url: {error}")))?;
        (pipeline, is_scratch) = (changed, is_other);
    }
    if until != Until::End && !is_scratch {
        refuse_destination(&scope, side, &args.to)?;
    }
    let Some(stream) = assembly::open_stream(&pipeline, &global.data_dir).await? else {
        let folder = assembly::folder(&global.data_dir, &pipeline.name);
        let place = pipeline.stream.kafka.as_ref().map_or(folder.display().to_string(), |kafka| kafka.topic.clone());
        return Err(Failure::Failed(format!(
            "there is no stream in {place}; see --data-dir, and `stream` in the pipeline file"
        )));
    };
    refuse_damage(&stream.damage(), &args)?;
    let target = if is_scratch { "the scratch store" } else { args.to.as_str() };
    if !args.dry_run {
        args.confirmation.check(&format!("replay rewrites pairs in {target}"))?;
    }
    let position = until.position(stream.as_ref(), &text::time).await?;
    let mut fold = read(stream, &scope, side, position, &args).await?;
    if !args.dry_run {
        let pairs = fold.pairs();
        let pairs = text::count(pairs, "pair", "pairs");
        args.confirmation.ask(&format!("Give {pairs} in {target} the state at position {position}?"))?;
    }
    // A scratch store belongs to no pipeline.
    let stores = match is_scratch {
        true => assembly::open_scratch(&pipeline, &[side], args.timeout, &global.network).await?,
        false => assembly::open_stores(&pipeline, &[side], args.timeout, &global.network).await?,
    };
    let Some(client) = stores.client(side) else {
        return Err(Failure::Usage(format!("the file declares no store {}", args.to)));
    };
    let loser = if is_scratch { "scratch".to_owned() } else { args.to.clone() };
    let restorer = Restorer {
        client,
        scope: &scope,
        archive: &archive,
        reasons: Reasons { winner: "stream".to_owned(), loser, rule: "replay".to_owned() },
        dry_run: args.dry_run,
        with_ephemerals: is_scratch,
        patience: args.timeout,
    };
    let begun = Instant::now();
    let mut tally = Tally { pipeline: pipeline.name.clone(), ..Tally::default() };
    let mut out = Output::new(global.format);
    for lost in fold.lost.drain(..) {
        tally.failed += 1;
        let detail = "its value at that position was too long to be stored twice, and its record is compacted";
        out.row(&json!({ "key": lost, "error": "not_kept", "detail": detail }), problem)?;
    }
    let ended = write(&mut fold, &restorer, &mut tally, &mut out).await;
    stores.close().await;
    ended?;
    let row = tally.row(&args, position, begun.elapsed());
    out.row(&row, summary)?;
    out.flush()?;
    Ok(if tally.failed > 0 { Exit::Differs } else { Exit::Done })
}

/// A replay with `--until` is to last. In a store that is only a destination it would be reverted.
fn refuse_destination(scope: &Scope, side: Side, store: &str) -> Result<(), Failure> {
    let routes = scope.destinations_only(side);
    if routes.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{store} is only a destination of {}: values restored there with --until would be reverted; replay to the other store, or \
         to a scratch store with --url{}",
        routes.join(", "),
        if scope.route.is_none() && scope.routes.len() > routes.len() {
            ", or choose another route with --route"
        } else {
            ""
        }
    )))
}

/// Folds the stream. Any fault of the stream is reported before anything is written.
async fn read<'a>(
    stream: Arc<dyn Stream>,
    scope: &'a Scope,
    side: Side,
    position: Position,
    args: &Replay,
) -> Result<Fold<'a>, Failure> {
    let progress = Progress::new("reading the stream", "positions", Some(position));
    let fold = Fold::new(stream, scope, side, position, &|at| progress.at(at)).await?;
    drop(progress);
    refuse_damage(&fold.damaged, args)?;
    if fold.pairs() > 0 || !fold.lost.is_empty() {
        return Ok(fold);
    }
    let file = args.file.display();
    Err(Failure::Failed(match (&args.pairs.key, &args.pairs.route) {
        _ if fold.unmapped > 0 => format!(
            "none of {} changes belongs to a pair that {file} maps; this may be the stream of another pipeline",
            fold.unmapped
        ),
        (Some(key), _) => format!("no pair on the stream matches {}", text::printable(&key.text())),
        (None, Some(route)) => format!("the stream has no pair of the route {route}"),
        (None, None) => format!("the stream has no state of any pair up to position {position}"),
    }))
}

/// A record that cannot be read may have been the newest state of a pair.
fn refuse_damage(damaged: &[String], args: &Replay) -> Result<(), Failure> {
    match damaged.first() {
        Some(what) if !args.skip_damaged => Err(Failure::Failed(format!(
            "records of the stream cannot be read ({} places, such as: {what}); they may be damaged, or of a newer version \
             of this program. Nothing is written; --skip-damaged continues without them",
            damaged.len()
        ))),
        _ => Ok(()),
    }
}

async fn write(
    fold: &mut Fold<'_>,
    restorer: &Restorer<'_>,
    tally: &mut Tally,
    out: &mut Output,
) -> Result<(), Failure> {
    let progress = Progress::new(if restorer.dry_run { "reading" } else { "writing" }, "pairs", Some(fold.pairs()));
    let mut in_flight = FuturesUnordered::new();
    let mut expect_empty = false;
    let mut is_read = false;
    loop {
        if !is_read && in_flight.len() < BATCHES {
            match fold.next(BATCH.0, BATCH.1).await? {
                Some(states) => in_flight.push(restorer.restore(states, expect_empty)),
                None => is_read = true,
            }
            // The first batch goes alone: it shows whether the store is empty.
            if tally.pairs > 0 || is_read {
                continue;
            }
        }
        let Some(done) = in_flight.next().await else { return Ok(()) };
        let done = done?;
        // Whether the store is almost empty is guessed from the last batch: a wrong guess costs a
        // refused write.
        let created = done.iter().filter(|(.., outcome)| *outcome == Outcome::Created).count();
        expect_empty = !restorer.dry_run && created * 10 >= done.len() * 9;
        for (desired, found, outcome) in done {
            tally.count(&outcome);
            print(&desired, &found, &outcome, restorer, tally, out)?;
        }
        progress.at(tally.pairs);
    }
}

fn print(
    desired: &DesiredState,
    found: &Found,
    outcome: &Outcome,
    restorer: &Restorer<'_>,
    tally: &mut Tally,
    out: &mut Output,
) -> Result<(), Failure> {
    let scope = restorer.scope;
    let pair = json::pair(&desired.pair, &scope.names);
    let route = scope.routes.get(desired.route);
    let name = route.map(|route| route.name.as_str()).unwrap_or_default();
    match outcome {
        Outcome::Failed(error, detail) if tally.failed <= LISTED_MAX => {
            out.row(&json!({ "route": name, "pair": pair, "error": error, "detail": detail }), problem)
        }
        Outcome::Created | Outcome::Updated | Outcome::Deleted if restorer.dry_run && tally.shown < SAMPLE => {
            tally.shown += 1;
            let kind = route.map(|route| route.value).unwrap_or(crate::change::ValueKind::String);
            let op = match outcome {
                Outcome::Created => "c",
                Outcome::Updated => "u",
                _ => "d",
            };
            let row = json!({
                "route": name, "pair": pair, "op": op, "before": json::value(found.value(), kind),
                "after": json::value(desired.value.as_deref(), kind),
            });
            out.row(&row, sample)
        }
        _ => Ok(()),
    }
}

/// How many pairs had which outcome.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) pipeline: String,
    pub(super) pairs: u64,
    pub(super) equal: u64,
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
    pub(super) skipped: u64,
    pub(super) failed: u64,
    pub(super) shown: u64,
}

impl Tally {
    pub(super) fn count(&mut self, outcome: &Outcome) {
        self.pairs += 1;
        let count = match outcome {
            Outcome::Equal => &mut self.equal,
            Outcome::Created => &mut self.created,
            Outcome::Updated => &mut self.updated,
            Outcome::Deleted => &mut self.deleted,
            Outcome::Skipped(_) => &mut self.skipped,
            Outcome::Failed(..) => &mut self.failed,
        };
        *count += 1;
    }

    /// The numbers, as the last row has them.
    pub(super) fn numbers(&self) -> Map<String, Value> {
        let numbers = json!({
            "pairs": self.pairs, "equal": self.equal, "created": self.created, "updated": self.updated,
            "deleted": self.deleted, "skipped": self.skipped, "failed": self.failed,
        });
        match numbers {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    fn row(&self, args: &Replay, position: Position, elapsed: Duration) -> Value {
        let mut row = Map::new();
        row.insert("pipeline".to_owned(), json!(self.pipeline));
        row.insert("to".to_owned(), json!(args.to));
        row.insert("until".to_owned(), json!(position));
        row.insert("dry_run".to_owned(), json!(args.dry_run));
        row.extend(self.numbers());
        row.insert("seconds".to_owned(), json!((elapsed.as_secs_f64() * 1000.0).round() / 1000.0));
        Value::Object(row)
    }
}

pub(super) fn problem(row: &Value, paint: Paint) -> String {
    let pair = if row.get("pair").is_some() { text::pair(row) } else { text::field(row, "key") };
    let error = paint.with(Colour::Bad, &text::field(row, "error"));
    format!("not done: {pair}: {error}: {}", text::field(row, "detail"))
}

fn sample(row: &Value, paint: Paint) -> String {
    let (colour, word) = match text::field(row, "op").as_str() {
        "c" => (Colour::Good, "create"),
        "u" => (Colour::Wait, "update"),
        _ => (Colour::Bad, "delete"),
    };
    let of = |name: &str| text::value(row.get(name).unwrap_or(&Value::Null));
    let (before, after) = (of("before"), of("after"));
    format!("{}  {}  {before} -> {after}", paint.with(colour, word), paint.with(Colour::Strong, &text::pair(row)))
}

/// The numbers of the last row in words.
pub(super) fn counts(row: &Value) -> String {
    let of = |name: &str| text::field(row, name);
    format!(
        "{} created, {} updated, {} deleted, {} as they should be, {} skipped, {} failed",
        of("created"),
        of("updated"),
        of("deleted"),
        of("equal"),
        of("skipped"),
        of("failed")
    )
}

fn summary(row: &Value, _: Paint) -> String {
    let would = if row.get("dry_run") == Some(&Value::Bool(true)) { "would be, of" } else { "of" };
    format!(
        "{}: {would} {} up to position {}: {}; {} s",
        text::field(row, "to"),
        text::count(row.get("pairs").and_then(Value::as_u64).unwrap_or(0), "pair", "pairs"),
        text::field(row, "until"),
        counts(row),
        text::field(row, "seconds")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_position_or_a_time() {
        assert_eq!(until("42"), Ok(Until::Position(42)));
        assert_eq!(until("2023-11-14T22:13:20Z"), Ok(Until::Time(1_700_000_000_000)));
        for wrong in ["earliest", "latest", "yesterday", ""] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_summary_counts_the_outcomes() {
        let mut tally = Tally::default();
        for outcome in
            [Outcome::Created, Outcome::Equal, Outcome::Failed("busy", String::new()), Outcome::Skipped("ephemeral")]
        {
            tally.count(&outcome);
        }
        let row = Value::Object(tally.numbers());
        assert_eq!(counts(&row), "1 created, 0 updated, 0 deleted, 1 as they should be, 1 skipped, 1 failed");
        assert_eq!(row.get("pairs"), Some(&json!(4)));
    }
}
