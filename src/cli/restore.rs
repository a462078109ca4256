//! `keepstep conflicts restore`: makes the value that lost a conflict the current value.

use super::archive::StreamArchive;
use super::args::{self, Global};
use super::confirmation::Confirmation;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{stream_position, text};
use crate::assembly;
use crate::change::{Change, Position, Side};
use crate::codec::json;
use crate::config;
use crate::history::{Cause, DesiredState, Outcome, Reasons, Restorer, Scope};
use crate::plan::Flow;
use crate::stream::Stream;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `conflicts restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
On a two-way route, the store that lost gets its value back; on a one-way route, the source gets it. From there it flows on. If the \
loser was a delete, the pair is deleted. The replaced value is in the conflict log first, so this can be undone in the same way.

Example:
  keepstep conflicts restore settings.yaml 4711 --yes")]
pub(super) struct Restore {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The position of the conflict, as `keepstep conflicts` shows it
    #[arg(value_name = "POSITION")]
    position: Position,
    #[command(flatten)]
    confirmation: Confirmation,
    /// How long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Restore, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    let scope = assembly::scope(&pipeline)?;
    let Some(stream) = assembly::open_stream(&pipeline, &global.data_dir).await? else {
        let empty = || stream_position::beyond(args.position, 0);
        return Err(stream_position::no_stream(&pipeline, &global.data_dir).unwrap_or_else(empty));
    };
    let change = find(stream.as_ref(), args.position).await?;
    let names = assembly::names(&pipeline);
    let Some(shown) = json::conflicts(args.position, &change, &names) else {
        return Err(Failure::Failed(format!("position {} has no conflict; see `keepstep conflicts`", args.position)));
    };
    let (side, desired) = desired_state(&scope, &change, args.position)?;
    let value = text::value(&json::value(desired.value.as_deref(), change.value));
    let question = format!("Make {value} the value of {}?", text::pair(&shown));
    args.confirmation.ask(&question)?;
    let stores = assembly::open_stores(&pipeline, &[side], args.timeout, &global.network).await?;
    let Some(client) = stores.client(side) else {
        return Err(Failure::Failed("the file no longer declares the store of this value".to_owned()));
    };
    let archive = StreamArchive::new(&pipeline, &global.data_dir, args.timeout);
    let restorer = Restorer {
        client,
        scope: &scope,
        archive: &archive,
        reasons: Reasons {
            winner: "stream".to_owned(),
            loser: scope.name(side).to_owned(),
            rule: "conflicts restore".to_owned(),
        },
        dry_run: false,
        with_ephemerals: false,
        patience: args.timeout,
    };
    let restored = restorer.restore(vec![desired], false).await;
    stores.close().await;
    let word = match restored?.pop() {
        Some((.., Outcome::Equal)) => "it has that value already",
        Some((.., Outcome::Created | Outcome::Updated)) => "restored",
        Some((.., Outcome::Deleted)) => "deleted, like the change that lost",
        Some((.., Outcome::Skipped(_))) => {
            return Err(Failure::Failed("an ephemeral znode cannot be restored".to_owned()));
        }
        Some((.., Outcome::Failed(reason, detail))) => return Err(Failure::Failed(format!("{reason}: {detail}"))),
        None => return Err(Failure::Failed("nothing was done".to_owned())),
    };
    let mut out = Output::new(global.format);
    let row = json!({
        "pipeline": pipeline.name, "command": "conflicts restore", "restored": args.position, "store": scope.name(side),
        "pair": json::pair(&change.pair, &names), "done": word,
    });
    out.row(&row, |row, _| {
        format!("{}: {} in {}", text::pair(row), text::field(row, "done"), text::field(row, "store"))
    })?;
    out.flush()?;
    Ok(Exit::Done)
}

async fn find(stream: &dyn Stream, position: Position) -> Result<Change, Failure> {
    let last = stream.extent().last;
    if position == 0 || position > last {
        return Err(stream_position::beyond(position, last));
    }
    let found = stream.read(position, 1, usize::MAX).await?.records.into_iter().next();
    match found.filter(|recorded| recorded.position == position) {
        Some(recorded) => Ok(recorded.change),
        None => {
            Err(Failure::Failed(format!("position {position} is no longer on the stream; see `keepstep conflicts`")))
        }
    }
}

/// The state to write, and the side to write it to, from which it flows on.
fn desired_state(scope: &Scope, change: &Change, position: Position) -> Result<(Side, DesiredState), Failure> {
    let mapped = match (&change.pair.redis, &change.pair.zookeeper) {
        (Some(key), _) => scope.map.of_key(key),
        (None, Some(path)) => scope.map.of_path(path),
        (None, None) => None,
    };
    let mapped = mapped.ok_or_else(|| Failure::Failed("no route of the file maps this pair any longer".to_owned()))?;
    let flow = scope.routes.get(mapped.route).map(|route| route.policy.flow);
    let conflict = change.conflict.as_ref();
    let lost_in = [Side::Zookeeper, Side::Redis]
        .into_iter()
        .find(|side| conflict.is_some_and(|conflict| scope.name(*side) == conflict.loser));
    let side = match flow {
        Some(Flow::Both(first)) => lost_in.unwrap_or(first),
        Some(Flow::From(source)) => source,
        Some(Flow::Capture(_)) | None => {
            return Err(Failure::Usage("its route only captures, so there is nothing to restore".to_owned()));
        }
    };
    let value = conflict.and_then(|conflict| conflict.value.clone());
    let cause = Cause::Command(format!("the loser of position {position} was restored"));
    Ok((side, DesiredState { route: mapped.route, pair: mapped.pair, value, cause, ephemeral: false }))
}
