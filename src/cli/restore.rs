//! `keepstep conflicts restore`: the value that lost becomes the current one.

use super::args::{self, Global};
use super::exit::{Exit, Failure};
use super::keeper::StreamKeeper;
use super::output::Output;
use super::which::Confirmation;
use super::{place, text};
use crate::assembly;
use crate::change::{Change, Position, Side};
use crate::codec::json;
use crate::config;
use crate::history::{Hand, Made, Maker, Reasons, Scope, Why, Wish};
use crate::plan::Flow;
use crate::stream::Stream;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `conflicts restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
On a two-way route the store that lost gets its value back, on a one-way route the source gets it; from there it flows on. A \
delete that lost deletes. What it replaces is in the conflict log first, so this can be undone in the same way.

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
        let empty = || place::beyond(args.position, 0);
        return Err(place::no_stream(&pipeline, &global.data_dir).unwrap_or_else(empty));
    };
    let change = find(stream.as_ref(), args.position).await?;
    let names = assembly::names(&pipeline);
    let Some(shown) = json::conflicts(args.position, &change, &names) else {
        return Err(Failure::Failed(format!(
            "position {} settled no conflict; see `keepstep conflicts`",
            args.position
        )));
    };
    let (side, wish) = wished(&scope, &change, args.position)?;
    let value = text::value(&json::value(wish.value.as_deref(), change.value));
    let question = format!("Make {value} the value of {}?", text::pair(&shown));
    args.confirmation.ask(&question)?;
    let stores = assembly::open_stores(&pipeline, &[side], args.timeout).await?;
    let hand = match (side, &stores.znodes, &stores.keys) {
        (Side::Zookeeper, Some(znodes), _) => Hand::Znodes(znodes.clone()),
        (Side::Redis, _, Some(keys)) => Hand::Keys(keys.clone()),
        _ => return Err(Failure::Failed("the store of this value is no longer declared".to_owned())),
    };
    let keeper = StreamKeeper::new(&pipeline, &global.data_dir, args.timeout);
    let maker = Maker {
        hand,
        scope: &scope,
        keeper: &keeper,
        reasons: Reasons {
            winner: "stream".to_owned(),
            loser: scope.name(side).to_owned(),
            rule: "conflicts restore".to_owned(),
        },
        dry_run: false,
        with_ephemerals: false,
        patience: args.timeout,
    };
    let made = maker.make(vec![wish], false).await;
    stores.close().await;
    let word = match made?.pop() {
        Some((.., Made::Equal)) => "it has that value already",
        Some((.., Made::Created | Made::Updated)) => "restored",
        Some((.., Made::Deleted)) => "deleted, as the change that lost had it",
        Some((.., Made::Skipped(_))) => {
            return Err(Failure::Failed("an ephemeral znode cannot be restored".to_owned()));
        }
        Some((.., Made::Failed(reason, detail))) => return Err(Failure::Failed(format!("{reason}: {detail}"))),
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
        return Err(place::beyond(position, last));
    }
    let found = stream.read(position, 1, usize::MAX).await?.records.into_iter().next();
    match found.filter(|recorded| recorded.position == position) {
        Some(recorded) => Ok(recorded.change),
        None => Err(Failure::Failed(format!("position {position} is no longer kept; see `keepstep conflicts`"))),
    }
}

/// What is to be written, and where: at the side from which it flows on.
fn wished(scope: &Scope, change: &Change, position: Position) -> Result<(Side, Wish), Failure> {
    let mapped = match (&change.pair.redis, &change.pair.zookeeper) {
        (Some(key), _) => scope.map.of_key(key),
        (None, Some(path)) => scope.map.of_path(path),
        (None, None) => None,
    };
    let mapped = mapped.ok_or_else(|| Failure::Failed("no route of the file maps this pair any more".to_owned()))?;
    let flow = scope.routes.get(mapped.route).map(|route| route.policy.flow);
    let conflict = change.conflict.as_ref();
    let lost_in = [Side::Zookeeper, Side::Redis]
        .into_iter()
        .find(|side| conflict.is_some_and(|conflict| scope.name(*side) == conflict.loser));
    let side = match flow {
        Some(Flow::Both(first)) => lost_in.unwrap_or(first),
        Some(Flow::From(source)) => source,
        Some(Flow::Capture(_)) | None => {
            return Err(Failure::Usage("its route only captures: there is nothing to restore".to_owned()));
        }
    };
    let value = conflict.and_then(|conflict| conflict.value.clone());
    let why = Why::Asked(format!("the loser of position {position} was restored"));
    Ok((side, Wish { route: mapped.route, pair: mapped.pair, value, why, ephemeral: false }))
}
