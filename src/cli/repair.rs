//! `keepstep repair`: makes one side equal to the other.

use super::args::{self, Global};
use super::diff::{self, Compared};
use super::exit::{Exit, Failure};
use super::keeper::StreamKeeper;
use super::meter::Meter;
use super::output::Output;
use super::replay::{self, Tally};
use super::text;
use super::which::{self, Confirmation, Pairs};
use crate::change::Side;
use crate::codec::json;
use crate::config;
use crate::history::{Hand, Made, Maker, Reasons, Scope};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Pairs that are shown before the question is asked, or by a dry run as text.
const SAMPLE: u64 = 10;

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It compares as `diff` does and gives the other side what the preferred store has; what that lacks is deleted there. Every write \
is a compare-and-set, and what it replaces is in the conflict log first. To the routes it is an application's write that both \
sides agree on. It runs beside a worker or without one.

Examples:
  keepstep repair settings.yaml --prefer zk --dry-run
  keepstep repair settings.yaml --prefer zk --yes")]
pub(super) struct Repair {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store that stays as it is, by its name in the file
    #[arg(long, env = "KEEPSTEP_PREFER", value_name = "STORE")]
    prefer: String,
    #[command(flatten)]
    pairs: Pairs,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Say what would be done, and do nothing
    #[arg(long, env = "KEEPSTEP_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// How long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Repair, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    let prefer = which::side(&pipeline, &args.prefer)?;
    let scope = args.pairs.scope(&pipeline)?;
    if !args.dry_run {
        args.confirmation.check(&format!("repair makes the other side equal to {}", args.prefer))?;
    }
    let compared = Compared::open(&pipeline, &scope, global, args.timeout).await?;
    if let Err(failure) = look_for_a_loss(&compared, prefer, &args.prefer).await {
        compared.close().await;
        return Err(failure);
    }
    let mut out = Output::new(global.format);
    if !args.confirmation.yes && !args.dry_run {
        let count = show(&compared, &scope, &args, &mut out).await?;
        let question = format!("Make {count} pairs equal to {}?", args.prefer);
        if count > 0
            && let Err(failure) = args.confirmation.ask(&question)
        {
            compared.close().await;
            return Err(failure);
        }
    }
    let other = prefer.other();
    let hand = match (other, &compared.stores.znodes, &compared.stores.keys) {
        (Side::Zookeeper, Some(znodes), _) => Hand::Znodes(znodes.clone()),
        (Side::Redis, _, Some(keys)) => Hand::Keys(keys.clone()),
        _ => return Err(Failure::Usage("there is no other store".to_owned())),
    };
    let keeper = StreamKeeper::new(&pipeline, &global.data_dir, args.timeout);
    let rule = format!("repair --prefer {}", args.prefer);
    let maker = Maker {
        hand,
        scope: &scope,
        keeper: &keeper,
        reasons: Reasons { winner: args.prefer.clone(), loser: scope.name(other).to_owned(), rule: rule.clone() },
        dry_run: args.dry_run,
        with_ephemerals: false,
        patience: args.timeout,
    };
    let mut tally = Tally { pipeline: pipeline.name.clone(), ..Tally::default() };
    let (compared_pairs, unreadable) = repair(&compared, &maker, (prefer, &rule), &mut tally, &mut out).await?;
    compared.close().await;
    diff::none_matched(&args.pairs, compared_pairs, tally.pairs)?;
    let mut row = Map::new();
    row.insert("pipeline".to_owned(), json!(pipeline.name));
    row.insert("prefer".to_owned(), json!(args.prefer));
    row.insert("dry_run".to_owned(), json!(args.dry_run));
    row.extend(tally.numbers());
    out.row(&Value::Object(row), |row, _| {
        let would = if args.dry_run { "would be, of" } else { "of" };
        format!("{}: {would} {} pairs that differed: {}", pipeline.name, text::field(row, "pairs"), replay::counts(row))
    })?;
    out.flush()?;
    Ok(if tally.failed > 0 || unreadable > 0 { Exit::Differs } else { Exit::Done })
}

/// A store that lacks its identity, though the other one remembers it, has lost what it held: then what it lacks was not deleted. At
/// another address it may never have been this pipeline's.
async fn look_for_a_loss(compared: &Compared, prefer: Side, name: &str) -> Result<(), Failure> {
    let (Some(znodes), Some(keys)) = (&compared.stores.znodes, &compared.stores.keys) else { return Ok(()) };
    // A login that may not read them can still repair; a store that is away says so itself.
    let Ok((zookeeper, redis)) = futures::future::try_join(znodes.ties(), keys.ties()).await else { return Ok(()) };
    let (preferred, other) = if prefer == Side::Zookeeper { (zookeeper, redis) } else { (redis, zookeeper) };
    let Some(known) = other.other.filter(|_| preferred.own.identity.is_empty()) else { return Ok(()) };
    if known.address != preferred.own.address {
        return Err(Failure::Failed(format!(
            "{name} is {} here, the pipeline was last at work with {}, and nothing in it says that it is the same store: run a worker with \
             this file first, which restores what a store has lost, or mend the address",
            preferred.own.address, known.address
        )));
    }
    tracing::warn!(
        "{name} has lost what Keepstep keeps in it: it was emptied, or is another store, since the pipeline was last at work. What \
         it lacks was not deleted there; `keepstep run` restores it from the other side"
    );
    Ok(())
}

/// Shows the first pairs that differ, and counts all.
async fn show(compared: &Compared, scope: &Scope, args: &Repair, out: &mut Output) -> Result<u64, Failure> {
    let mut differ = compared.differ(scope);
    let meter = Meter::new("comparing", "pairs", None);
    let mut count = 0;
    while let Some(differences) = differ.next().await? {
        meter.at(differ.numbers.pairs);
        for difference in &differences {
            count += 1;
            if count <= SAMPLE && !out.json() {
                out.row(&diff::row(scope, difference), |row, paint| diff::line(row, None, paint))?;
            }
        }
    }
    drop(meter);
    diff::none_matched(&args.pairs, differ.numbers.pairs, count)?;
    if count > SAMPLE && !out.json() {
        out.line(&format!("… and {} more", count - SAMPLE))?;
    }
    out.flush()?;
    Ok(count)
}

/// Compares and repairs as it goes; answers how many pairs were compared, and how many znodes hide others.
async fn repair(
    compared: &Compared,
    maker: &Maker<'_>,
    (prefer, rule): (Side, &str),
    tally: &mut Tally,
    out: &mut Output,
) -> Result<(u64, u64), Failure> {
    let scope = maker.scope;
    let mut differ = compared.differ(scope);
    let meter = Meter::new("comparing", "pairs", None);
    while let Some(differences) = differ.next().await? {
        meter.at(differ.numbers.pairs);
        let mut wishes = Vec::with_capacity(differences.len());
        for difference in &differences {
            if maker.dry_run && (out.json() || tally.shown < SAMPLE) {
                tally.shown += 1;
                out.row(&diff::row(scope, difference), |row, paint| diff::line(row, None, paint))?;
            }
            match difference.repaired(prefer, rule) {
                Ok(wish) => wishes.push(wish),
                Err((error, detail)) => {
                    tally.count(&Made::Failed(error, String::new()));
                    let pair = json::pair(&difference.pair, &scope.names);
                    out.row(&json!({ "pair": pair, "error": error, "detail": detail }), replay::problem)?;
                }
            }
        }
        for (wish, _, made) in maker.make(wishes, false).await? {
            tally.count(&made);
            if let Made::Failed(error, detail) = made {
                let pair = json::pair(&wish.pair, &scope.names);
                out.row(&json!({ "pair": pair, "error": error, "detail": detail }), replay::problem)?;
            }
        }
        out.flush()?;
    }
    diff::show_unreadable(&differ, scope, out)?;
    Ok((differ.numbers.pairs, differ.numbers.unreadable))
}
