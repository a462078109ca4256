//! `keepstep repair`: makes one side equal to the other.

use super::archive::StreamArchive;
use super::args::{self, Global};
use super::confirmation::Confirmation;
use super::diff::{self, Compared};
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::progress::Progress;
use super::replay::{self, Tally};
use super::selection::{self, Pairs};
use super::text;
use crate::change::Side;
use crate::codec::json;
use crate::config;
use crate::history::{Difference, Outcome, Reasons, Restorer, Scope};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How many pairs are shown before the question, or by a dry run as text.
const SAMPLE: u64 = 10;

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares like `diff` and gives each pair that differs the preferred store's value in the other store; a pair that the preferred store \
lacks is deleted there. Every write is a compare-and-set, and a replaced value is in the conflict log first. The routes treat it as \
an application's write after which both sides agree. Works with and without a running worker.

Examples:
  keepstep repair settings.yaml --prefer zk --dry-run
  keepstep repair settings.yaml --prefer zk --yes")]
pub(super) struct Repair {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store whose values are used, by its name in the file; it is not written
    #[arg(long, env = "KEEPSTEP_PREFER", value_name = "STORE")]
    prefer: String,
    #[command(flatten)]
    pairs: Pairs,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Show what would be done, and write nothing
    #[arg(long, env = "KEEPSTEP_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// How long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Repair, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    let prefer = selection::side(&pipeline, &args.prefer)?;
    let scope = args.pairs.scope(&pipeline)?;
    if !args.dry_run {
        args.confirmation.check(&format!("repair makes the other side equal to {}", args.prefer))?;
    }
    let compared = Compared::open(&pipeline, &scope, global, args.timeout).await?;
    if let Err(failure) = warn_about_loss(&compared, prefer, &args.prefer).await {
        compared.close().await;
        return Err(failure);
    }
    let mut out = Output::new(global.format);
    if !args.confirmation.yes && !args.dry_run {
        let count = show(&compared, &scope, prefer, &args, &mut out).await?;
        let question = format!("Make {} equal to {}?", text::count(count, "pair", "pairs"), args.prefer);
        if count > 0
            && let Err(failure) = args.confirmation.ask(&question)
        {
            compared.close().await;
            return Err(failure);
        }
    }
    let other = prefer.other();
    let Some(client) = compared.stores.client(other) else {
        return Err(Failure::Usage("there is no other store".to_owned()));
    };
    let archive = StreamArchive::new(&pipeline, &global.data_dir, args.timeout);
    let restorer = Restorer {
        client,
        scope: &scope,
        archive: &archive,
        reasons: Reasons {
            winner: args.prefer.clone(),
            loser: scope.name(other).to_owned(),
            rule: format!("repair --prefer {}", args.prefer),
        },
        dry_run: args.dry_run,
        with_ephemerals: false,
        patience: args.timeout,
    };
    let mut tally = Tally { pipeline: pipeline.name.clone(), ..Tally::default() };
    let reason = format!("an operator made {} equal to {}", scope.name(other), args.prefer);
    let (compared_pairs, unreadable) = repair(&compared, &restorer, (prefer, &reason), &mut tally, &mut out).await?;
    compared.close().await;
    diff::none_matched(&args.pairs, compared_pairs, tally.pairs)?;
    let mut row = Map::new();
    row.insert("pipeline".to_owned(), json!(pipeline.name));
    row.insert("prefer".to_owned(), json!(args.prefer));
    row.insert("dry_run".to_owned(), json!(args.dry_run));
    row.extend(tally.numbers());
    out.row(&Value::Object(row), |row, _| {
        let would = if args.dry_run { "would be, of" } else { "of" };
        let pairs = text::count(tally.pairs, "pair", "pairs");
        format!("{}: {would} {pairs} that differed: {}", pipeline.name, replay::counts(row))
    })?;
    out.flush()?;
    Ok(if tally.failed > 0 || unreadable > 0 { Exit::Differs } else { Exit::Done })
}

/// If the preferred store lacks its identity, although the other one remembers it, the store has
/// lost its data: the pairs that it lacks were not deleted by anybody. At another address it may
/// never have been a store of this pipeline, and then repair is refused.
async fn warn_about_loss(compared: &Compared, prefer: Side, name: &str) -> Result<(), Failure> {
    let Some((znodes, keys)) = compared.stores.both() else { return Ok(()) };
    // A user who may not read the identities can still repair, and a store that is away is reported
    // by the comparison.
    let Ok((zookeeper, redis)) = futures::future::try_join(znodes.ties(), keys.ties()).await else { return Ok(()) };
    let (preferred, other) = if prefer == Side::Zookeeper { (zookeeper, redis) } else { (redis, zookeeper) };
    let Some(known) = other.other.filter(|_| preferred.own.identity.is_empty()) else { return Ok(()) };
    if known.address != preferred.own.address {
        return Err(Failure::Failed(format!(
            "{name} is {} here, the pipeline was last at work with {}, and nothing shows that the two are the same store: run a worker with \
             this file first, which restores lost data, or correct the address",
            preferred.own.address, known.address
        )));
    }
    tracing::warn!(
        "{name} has lost Keepstep's own data since the pipeline was last at work: it was emptied, or is another store. The pairs \
         that it lacks were not deleted by an application; `keepstep run` restores them from the other side"
    );
    Ok(())
}

/// Shows what would be done to the first pairs that differ, and returns the number of all.
async fn show(
    compared: &Compared,
    scope: &Scope,
    prefer: Side,
    args: &Repair,
    out: &mut Output,
) -> Result<u64, Failure> {
    let mut differ = compared.differ(scope);
    let progress = Progress::new("comparing", "pairs", None);
    let mut count = 0;
    while let Some(differences) = differ.next().await? {
        progress.at(differ.numbers.pairs);
        for difference in &differences {
            count += 1;
            if count <= SAMPLE && !out.json() {
                show_plan(scope, prefer, difference, out)?;
            }
        }
    }
    drop(progress);
    diff::none_matched(&args.pairs, differ.numbers.pairs, count)?;
    if count > SAMPLE && !out.json() {
        out.line(&format!("… and {} more", count - SAMPLE))?;
    }
    out.flush()?;
    Ok(count)
}

/// Shows what would be done to this pair: a row of `diff`, with `op` (`c`, `u` or `d`) if the other store would be written.
fn show_plan(scope: &Scope, prefer: Side, difference: &Difference, out: &mut Output) -> Result<(), Failure> {
    let mut row = diff::row(scope, difference);
    let outcome = difference.repair_outcome(prefer);
    if let (Some(op), Some(row)) = (op(&outcome), row.as_object_mut()) {
        row.insert("op".to_owned(), json!(op));
    }
    let (prefer, other) = (scope.name(prefer), scope.name(prefer.other()));
    out.row(&row, |row, paint| plan_line(row, &outcome, prefer, other, paint))
}

fn op(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Created => Some("c"),
        Outcome::Updated => Some("u"),
        Outcome::Deleted => Some("d"),
        Outcome::Equal | Outcome::Skipped(_) | Outcome::Failed(..) => None,
    }
}

/// `update in cache  route  path = key  "b" -> "a"`.
fn plan_line(row: &Value, outcome: &Outcome, prefer: &str, other: &str, paint: Paint) -> String {
    let other_name = text::printable(other);
    let (colour, what) = match outcome {
        Outcome::Created => (Colour::Good, format!("create in {other_name}")),
        Outcome::Updated => (Colour::Wait, format!("update in {other_name}")),
        Outcome::Deleted => (Colour::Bad, format!("delete in {other_name}")),
        Outcome::Equal => (Colour::Faint, "no write".to_owned()),
        Outcome::Skipped(reason) => (Colour::Faint, format!("skip ({reason})")),
        Outcome::Failed(reason, _) => (Colour::Bad, format!("cannot repair ({reason})")),
    };
    let pair = paint.with(Colour::Strong, &text::pair(row));
    let line = format!("{}  {}  {pair}", paint.with(colour, &what), text::field(row, "route"));
    let of = |store: &str| text::value(row.get(store).unwrap_or(&Value::Null));
    match outcome {
        Outcome::Created | Outcome::Updated | Outcome::Deleted => format!("{line}  {} -> {}", of(other), of(prefer)),
        Outcome::Equal | Outcome::Skipped(_) => line,
        Outcome::Failed(_, detail) => format!("{line}: {}", text::printable(detail)),
    }
}

/// Compares, and repairs each batch at once. Returns the number of compared pairs, and of znodes
/// that cannot be read and are no pairs.
async fn repair(
    compared: &Compared,
    restorer: &Restorer<'_>,
    (prefer, reason): (Side, &str),
    tally: &mut Tally,
    out: &mut Output,
) -> Result<(u64, u64), Failure> {
    let scope = restorer.scope;
    let mut differ = compared.differ(scope);
    let progress = Progress::new("comparing", "pairs", None);
    while let Some(differences) = differ.next().await? {
        progress.at(differ.numbers.pairs);
        let mut desired = Vec::with_capacity(differences.len());
        for difference in &differences {
            // As text, a row of its own says below why a pair cannot be repaired.
            let is_refused = || matches!(difference.repair_outcome(prefer), Outcome::Failed(..));
            if restorer.dry_run && (out.json() || tally.shown < SAMPLE && !is_refused()) {
                tally.shown += 1;
                show_plan(scope, prefer, difference, out)?;
            }
            match difference.repaired(prefer, reason) {
                Ok(state) => desired.push(state),
                Err((error, detail)) => {
                    tally.count(&Outcome::Failed(error, String::new()));
                    let pair = json::pair(&difference.pair, &scope.names);
                    out.row(&json!({ "pair": pair, "error": error, "detail": detail }), replay::problem)?;
                }
            }
        }
        for (desired, _, outcome) in restorer.restore(desired, false).await? {
            tally.count(&outcome);
            if let Outcome::Failed(error, detail) = outcome {
                let pair = json::pair(&desired.pair, &scope.names);
                out.row(&json!({ "pair": pair, "error": error, "detail": detail }), replay::problem)?;
            }
        }
        out.flush()?;
    }
    diff::show_unreadable(&differ, scope, out)?;
    Ok((differ.numbers.pairs, differ.numbers.unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_what_would_be_done_in_which_store() {
        let row = json!({
            "route": "settings", "pair": {"zk": "/s/a", "cache": "s:a"}, "state": "extra", "zk": null, "cache": "v2",
        });
        let line = |outcome: &Outcome, prefer, other| plan_line(&row, outcome, prefer, other, Paint::OFF);
        let create = "create in zk  settings  /s/a = s:a  absent -> \"v2\"";
        assert_eq!(line(&Outcome::Created, "cache", "zk"), create);
        let delete = "delete in cache  settings  /s/a = s:a  \"v2\" -> absent";
        assert_eq!(line(&Outcome::Deleted, "zk", "cache"), delete);
        assert_eq!(line(&Outcome::Skipped("ephemeral"), "zk", "cache"), "skip (ephemeral)  settings  /s/a = s:a");
        let failed = Outcome::Failed("wrong_type", "the key is a list".to_owned());
        let refused = "cannot repair (wrong_type)  settings  /s/a = s:a: the key is a list";
        assert_eq!(line(&failed, "cache", "zk"), refused);
    }
}
