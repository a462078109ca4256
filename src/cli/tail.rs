//! `keepstep tail`: follows the stream.

use super::args::{From, Global};
use super::exit::{Exit, Failure};
use super::output::{self, Colour, Output, Paint};
use super::{selection, stream_position, text};
use crate::assembly;
use crate::change::{Change, Op, Position};
use crate::codec::json;
use crate::config::{self, Pipeline, Secrets};
use crate::env;
use crate::route::glob::Glob;
use crate::stream::{Stream, StreamError};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Records and bytes of one read: enough to be fast, few enough to begin printing at once.
const BATCH: (usize, usize) = (500, 4 * 1024 * 1024);
/// How many positions are searched first for the last changes.
const PORTION: u64 = 1_000;
/// How often to check whether a worker has begun the stream.
const BEGIN_POLL: Duration = Duration::from_millis(200);

/// Arguments of `tail`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads the stream directly, so it works with and without a running worker.

Examples:
  keepstep tail settings.yaml                          changes from now on
  keepstep tail settings.yaml --no-follow              all so far, then end
  keepstep tail settings.yaml --from 10m               from ten minutes ago
  keepstep tail settings.yaml -n 20 --no-follow        the last twenty changes
  keepstep tail settings.yaml --op delete --no-follow  all deletes so far
  keepstep tail settings.yaml --from 2026-11-22T17:00:00Z
  keepstep tail settings.yaml --key 'settings:db:*' --limit 1")]
pub(super) struct Tail {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to begin: earliest, latest, a position (42), a time (2026-11-22T17:00:00Z) or a time
    /// before now (10m) [default: latest; with --no-follow earliest]
    #[arg(long, env = "KEEPSTEP_FROM", value_name = "WHERE")]
    from: Option<From>,
    /// Begin with the last N changes that match the other flags
    #[arg(short = 'n', long, env = "KEEPSTEP_LAST", value_name = "N", conflicts_with = "from")]
    last: Option<usize>,
    #[command(flatten)]
    filter: Filter,
    /// Only these operations: read, create, update, delete, marker, or their first letters;
    /// separate several with commas
    #[arg(long, env = "KEEPSTEP_OP", value_name = "OP", value_delimiter = ',', value_parser = op)]
    op: Vec<Op>,
    /// End after this many changes
    #[arg(long, env = "KEEPSTEP_LIMIT", value_name = "N")]
    limit: Option<u64>,
    /// End at the end of the stream instead of waiting for more
    #[arg(long, env = "KEEPSTEP_NO_FOLLOW", value_parser = clap::builder::BoolishValueParser::new())]
    no_follow: bool,
    /// Leave out the values
    #[arg(long, env = "KEEPSTEP_NO_VALUES", value_parser = clap::builder::BoolishValueParser::new())]
    no_values: bool,
}

fn op(text: &str) -> Result<Op, String> {
    match text {
        "r" | "read" => Ok(Op::Read),
        "c" | "create" => Ok(Op::Create),
        "u" | "update" => Ok(Op::Update),
        "d" | "delete" => Ok(Op::Delete),
        "m" | "marker" => Ok(Op::Marker),
        _ => Err("allowed: read, create, update, delete and marker (r, c, u, d, m)".to_owned()),
    }
}

impl Tail {
    fn takes(&self, change: &Change) -> bool {
        self.filter.takes(change) && (self.op.is_empty() || self.op.contains(&change.op))
    }
}

/// Flags that select changes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Filter {
    /// Only changes of this route
    #[arg(long, env = "KEEPSTEP_ROUTE", value_name = "NAME")]
    pub(super) route: Option<String>,
    /// Only changes of keys that match this glob, as MATCH does in Redis: * ? [abc] [^a] [a-z] \x
    /// (of paths, for a pair without a key)
    #[arg(long, env = "KEEPSTEP_KEY", value_name = "GLOB")]
    pub(super) key: Option<Glob>,
}

impl Filter {
    /// Whether this change is selected. A marker has neither a route nor a key.
    pub(super) fn takes(&self, change: &Change) -> bool {
        let name = change.pair.redis.as_deref().or(change.pair.zookeeper.as_deref().map(str::as_bytes));
        self.route.as_ref().is_none_or(|route| *route == change.route)
            && self.key.as_ref().is_none_or(|key| name.is_some_and(|name| key.matches(name)))
    }
}

pub(super) async fn run(args: Tail, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&args.file, Secrets::OfStream)?;
    selection::known_route(&pipeline, args.filter.route.as_deref())?;
    selection::warn_about_path(&pipeline, args.filter.key.as_ref());
    let mut out = Output::new(global.format);
    tokio::select! {
        biased;
        // First whether the reader of stdout is still there, then the next record of the stream.
        () = output::closed() => Err(Failure::Closed),
        ended = follow(&args, &pipeline, global, &mut out) => ended,
    }
}

async fn follow(args: &Tail, pipeline: &Pipeline, global: &Global, out: &mut Output) -> Result<Exit, Failure> {
    let now = env::unix_ms();
    let from = args.from.unwrap_or(if args.no_follow { From::Earliest } else { From::Latest });
    if let From::Time(ms) = from {
        stream_position::not_in_future(ms, now)?;
    }
    let existed = assembly::open_stream(pipeline, &global.data_dir).await?;
    let (stream, mut next) = match existed {
        Some(stream) => {
            let next = match args.last {
                Some(count) => last(stream.as_ref(), args, count).await?,
                None => stream_position::position(stream.as_ref(), from, now).await?,
            };
            (stream, next)
        }
        None => match from {
            From::Position(position) if position > 1 => {
                return Err(stream_position::no_stream(pipeline, &global.data_dir)
                    .unwrap_or_else(|| stream_position::beyond(position, 0)));
            }
            _ if args.no_follow => {
                return stream_position::no_stream(pipeline, &global.data_dir).map_or(Ok(Exit::Done), Err);
            }
            // Every change of such a stream is new.
            _ => (begun(pipeline, global).await?, 1),
        },
    };
    let end = stream.extent().last;
    let mut printed = 0;
    let mut columns = Columns::default();
    let names = assembly::names(pipeline);
    while args.limit.is_none_or(|limit| printed < limit) && !(args.no_follow && next > end) {
        let batch = stream.read(next, BATCH.0, BATCH.1).await?;
        for damaged in &batch.damaged {
            tracing::warn!("{damaged}");
        }
        for recorded in &batch.records {
            if args.no_follow && recorded.position > end {
                break;
            }
            let change = &recorded.change;
            if !args.takes(change) {
                continue;
            }
            let mut row = json::tail(recorded.position, change, &names);
            if args.no_values {
                without_values(&mut row);
            }
            let size = change.after.as_ref().map(Vec::len);
            out.row(&row, |row, paint| columns.line(row, size, paint))?;
            printed += 1;
            if args.limit.is_some_and(|limit| printed >= limit) {
                break;
            }
        }
        out.flush()?;
        if batch.next > next {
            next = batch.next;
        } else if args.no_follow {
            break;
        } else {
            stream.wait_after(next.saturating_sub(1)).await;
        }
    }
    Ok(Exit::Done)
}

/// The position of the first of the last `count` selected changes. The stream is read backwards in
/// growing portions, and only positions are kept in memory.
async fn last(stream: &dyn Stream, args: &Tail, count: usize) -> Result<Position, Failure> {
    let end = stream.extent().last;
    let mut portion = u64::try_from(count).unwrap_or(u64::MAX).max(PORTION);
    loop {
        let from = end.saturating_sub(portion - 1).max(1);
        let mut found = VecDeque::new();
        let mut next = from;
        while next <= end && count > 0 {
            let batch = stream.read(next, BATCH.0, BATCH.1).await?;
            let wanted =
                batch.records.iter().filter(|recorded| recorded.position <= end && args.takes(&recorded.change));
            for recorded in wanted {
                found.push_back(recorded.position);
                if found.len() > count {
                    found.pop_front();
                }
            }
            if batch.next <= next {
                break;
            }
            next = batch.next;
        }
        match found.front() {
            Some(first) if found.len() == count || from == 1 => return Ok(*first),
            None if from == 1 || count == 0 => return Ok(end.saturating_add(1)),
            _ => portion = portion.saturating_mul(8),
        }
    }
}

/// Waits until a worker has begun the stream.
async fn begun(pipeline: &Pipeline, global: &Global) -> Result<Arc<dyn Stream>, StreamError> {
    let folder = assembly::folder(&global.data_dir, &pipeline.name);
    let folder = folder.display();
    tracing::info!(pipeline = pipeline.name, %folder, "there is no stream yet; waiting for a worker to begin one");
    loop {
        if let Some(stream) = assembly::open_stream(pipeline, &global.data_dir).await? {
            return Ok(stream);
        }
        env::sleep(BEGIN_POLL).await;
    }
}

fn without_values(row: &mut Value) {
    if let Some(row) = row.as_object_mut() {
        row.shift_remove("before");
        row.shift_remove("after");
        if let Some(Value::Object(conflict)) = row.get_mut("conflict") {
            conflict.shift_remove("value");
        }
    }
}

/// Widths of the columns, as wide as the widest cell so far.
#[derive(Debug, Default)]
struct Columns {
    route: usize,
    store: usize,
    pair: usize,
}

/// A wider pair moves the rest of its own line instead of widening the column.
const PAIR_WIDTH_MAX: usize = 60;

impl Columns {
    /// `position  time  op  route  store  path = key  version  size  "before" -> "after"`.
    fn line(&mut self, row: &Value, size: Option<usize>, paint: Paint) -> String {
        let op = text::field(row, "op");
        let (colour, word) = match op.as_str() {
            "r" => (Colour::New, "read"),
            "c" => (Colour::Good, "create"),
            "u" => (Colour::Wait, "update"),
            "d" => (Colour::Bad, "delete"),
            _ => (Colour::Strong, "marker"),
        };
        let source = row.get("source").unwrap_or(&Value::Null);
        let (route, store) = (text::field(row, "route"), text::field(source, "store"));
        let head = format!(
            "{:>8}  {}  {}  {}  {}",
            text::field(row, "position"),
            paint.with(Colour::Faint, &text::time_of(row, "ts_ms")),
            paint.with(colour, &format!("{word:<6}")),
            padded(&route, &mut self.route),
            padded(&store, &mut self.store),
        );
        if let Some(gap) = row.get("gap") {
            return format!("{head}  gap {}: {}", text::field(gap, "state"), text::field(gap, "reason"));
        }
        if let Some(loss) = row.get("loss") {
            let pairs = text::count(loss.get("pairs").and_then(Value::as_u64).unwrap_or(0), "pair", "pairs");
            return format!("{head}  loss of {pairs}: {}", text::field(loss, "cause"));
        }
        let pair = text::pair(row);
        let wide = text::width(&pair).min(PAIR_WIDTH_MAX);
        self.pair = self.pair.max(wide);
        let mut line = format!("{head}  {}", paint.with(Colour::Strong, &text::padded(&pair, self.pair)));
        let version = ["version", "revision"].iter().find_map(|name| source.get(*name)).and_then(Value::as_i64);
        let version = version.map_or_else(|| "-".to_owned(), |version| format!("v{version}"));
        let size = size.map_or_else(|| "-".to_owned(), |size| format!("{size} B"));
        line.push_str(&format!("  {version:>4}  {size:>8}"));
        if let Some(after) = row.get("after") {
            let before = row.get("before").unwrap_or(&Value::Null);
            let after = if op == "d" { "deleted".to_owned() } else { text::value(after) };
            if before.is_null() {
                line.push_str(&format!("  {after}"));
            } else {
                line.push_str(&format!("  {} -> {after}", text::value(before)));
            }
        }
        if row.get("collapsed").and_then(Value::as_i64).is_some_and(|count| count > 0) {
            line.push_str(&format!("  ({} collapsed)", text::field(row, "collapsed")));
        }
        if let Some(conflict) = row.get("conflict") {
            let lost = conflict.get("value").map_or_else(String::new, |value| format!(" over {}", text::value(value)));
            let (winner, rule) = (text::field(conflict, "winner"), text::field(conflict, "rule"));
            line.push_str(&paint.with(Colour::Bad, &format!("  conflict: {winner} wins{lost} ({rule})")));
        }
        line
    }
}

/// The cell, padded to the widest cell of its column so far.
fn padded(cell: &str, width: &mut usize) -> String {
    *width = (*width).max(text::width(cell).min(PAIR_WIDTH_MAX));
    text::padded(cell, *width)
}

/// Reads all records from `next` to the present end of the stream.
pub(super) async fn read_all(
    stream: &dyn Stream,
    mut next: Position,
    mut each: impl FnMut(Position, &Change) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let end = stream.extent().last;
    while next <= end {
        let batch = stream.read(next, BATCH.0, BATCH.1).await?;
        for damaged in &batch.damaged {
            tracing::warn!("{damaged}");
        }
        for recorded in batch.records.iter().filter(|recorded| recorded.position <= end) {
            each(recorded.position, &recorded.change)?;
        }
        if batch.next <= next {
            break;
        }
        next = batch.next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Connector, Op, Pair, Source, ValueKind};
    use serde_json::json;

    fn change(route: &str, zookeeper: Option<&str>, redis: Option<&str>) -> Change {
        Change {
            op: Op::Update,
            before: Some(b"v1".to_vec()),
            after: Some(b"v2".to_vec()),
            source: Source::new(Connector::Zookeeper, "zk", 0),
            ts_ms: 1_700_000_000_123,
            route: route.to_owned(),
            value: ValueKind::String,
            pair: Pair { zookeeper: zookeeper.map(str::to_owned), redis: redis.map(|key| key.as_bytes().to_vec()) },
            base: None,
            collapsed: Some(2),
            conflict: None,
            gap: None,
            epoch: 1,
            loss: None,
        }
    }

    fn filter(route: Option<&str>, key: Option<&str>) -> Filter {
        Filter { route: route.map(str::to_owned), key: key.and_then(|key| key.parse().ok()) }
    }

    #[test]
    fn a_key_is_matched_whole_and_a_pair_without_one_by_its_path() {
        let pair = change("a", Some("/s/x"), Some("s:x"));
        assert!(filter(None, Some("s:*")).takes(&pair));
        assert!(!filter(None, Some("s")).takes(&pair));
        assert!(!filter(None, Some("/s/*")).takes(&pair));
        assert!(filter(None, Some("/s/*")).takes(&change("a", Some("/s/x"), None)));
        assert!(!filter(None, Some("*")).takes(&change("", None, None)));
    }

    #[test]
    fn a_route_is_matched_by_name() {
        assert!(filter(Some("a"), None).takes(&change("a", None, None)));
        assert!(!filter(Some("b"), None).takes(&change("a", None, None)));
        assert!(filter(None, None).takes(&change("", None, None)));
    }

    #[test]
    fn a_line_says_when_what_where_and_the_values() {
        let names = json::StoreNames { zookeeper: Some("zk".to_owned()), redis: Some("cache".to_owned()) };
        let row = json::tail(42, &change("settings", Some("/s/x"), Some("s:x")), &names);
        let expected = "      42  2023-11-14T22:13:20.123Z  update  settings  zk  /s/x = s:x     -       2 B  \"v1\" -> \"v2\"  (2 collapsed)";
        let mut columns = Columns::default();
        assert_eq!(columns.line(&row, Some(2), Paint::OFF), expected);
        let row = json::tail(43, &change("long-name", Some("/s/wider"), Some("s:wider")), &names);
        assert!(columns.line(&row, None, Paint::OFF).contains("long-name  zk  /s/wider = s:wider     -         -  "));
        let row = json::tail(44, &change("short", Some("/s/x"), Some("s:x")), &names);
        assert!(columns.line(&row, None, Paint::OFF).contains("short      zk  /s/x = s:x             -"));
    }

    #[test]
    fn without_values_none_is_left() {
        let mut row = json!({"position": 1, "before": "a", "after": "b", "conflict": {"winner": "zk", "value": "c"}});
        without_values(&mut row);
        assert_eq!(row, json!({"position": 1, "conflict": {"winner": "zk"}}));
    }
}
