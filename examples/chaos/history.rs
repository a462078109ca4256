//! The history of a run and its judge: what applications wrote and what they replaced, and for each value whether it is
//! accounted for.
//!
//! Every value is written once, and every write says which value it replaced on its own side, read in the same atomic
//! step. So a value that is gone was replaced either by an application, which is known, or by Keepstep, which then owes
//! an account: both sides had held it, or it is in the conflict log.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Zookeeper,
    Redis,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Zookeeper => Side::Redis,
            Side::Redis => Side::Zookeeper,
        }
    }
}

/// What a write left in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Value(String),
    /// Deleted, or given an expiry that may delete it.
    Nothing,
}

/// One write of an application.
#[derive(Debug, Clone)]
pub struct Write {
    pub pair: String,
    pub side: Side,
    pub left: Left,
    /// What stood there before; outer `None`: the answer was lost, so neither is it known whether the write was done.
    pub replaced: Option<Option<String>>,
    /// When its answer came, since the run began.
    pub at: Duration,
}

/// Everything that happened, and everything that is left.
#[derive(Debug, Default)]
pub struct History {
    /// When the run began, milliseconds since the epoch.
    pub begun_ms: i64,
    /// In the order of each side of each pair.
    pub writes: Vec<Write>,
    /// When Redis lost data, or may have: the end of each loss.
    pub redis_losses: Vec<Duration>,
    /// When ZooKeeper came back without what it had been told for a while: beginning and end of each loss.
    pub zookeeper_losses: Vec<Duration>,
    /// When bases may have been taken from beside their values.
    pub bases_lost: Vec<Duration>,
    /// By pair: what was seen on the ZooKeeper side and when, in order.
    pub seen_in_zookeeper: BTreeMap<String, Vec<(Duration, String)>>,
    /// By pair: what the ZooKeeper side and the Redis side hold at the end.
    pub held: BTreeMap<String, (Option<String>, Option<String>)>,
    /// By pair: how often a worker said that it had written over a znode that was recreated at the version it had read. That
    /// is the one overwriting that ZooKeeper cannot refuse; it is detected and counted.
    pub recreated: BTreeMap<String, usize>,
    /// When each command that rewrites values began and ended.
    pub commands: Vec<(Duration, Duration)>,
    /// What went wrong beside the pairs, in words.
    pub complaints: Vec<String>,
    /// Everything on the streams of all workers.
    pub changes: Vec<Value>,
    /// The conflict logs of all workers.
    pub conflicts: Vec<Value>,
}

/// What the judge found.
#[derive(Debug, Default)]
pub struct Judgement {
    pub checked: usize,
    /// How each value is accounted for, by kind.
    pub accounts: BTreeMap<&'static str, usize>,
    /// One text for each value that is not.
    pub lost: Vec<String>,
    /// One for each pair whose sides differ.
    pub diverged: Vec<String>,
    /// One for each delete on a stream that no application made.
    pub deletes: Vec<String>,
    /// One for each value that came back to ZooKeeper after its successor.
    pub returned: Vec<String>,
    /// One for each conflict of a pair that only ZooKeeper's applications write.
    pub spurious: Vec<String>,
    /// What went wrong beside the pairs.
    pub complaints: Vec<String>,
}

impl Judgement {
    pub fn is_clean(&self) -> bool {
        let found = [&self.lost, &self.diverged, &self.deletes, &self.returned, &self.spurious, &self.complaints];
        found.iter().all(|found| found.is_empty())
    }
}

/// Odd names begin so; they are apart from the pairs that the judge accounts for.
pub const ODD: &str = "settings:odd";

pub fn path(pair: &str) -> String {
    format!("/settings/{pair}")
}

pub fn key(pair: &str) -> String {
    format!("settings:{pair}")
}

fn pair_of(row: &Value) -> Option<String> {
    let key = row["pair"]["cache"].as_str()?;
    key.strip_prefix("settings:").map(str::to_owned)
}

/// What is looked up again and again.
struct Index<'a> {
    /// By side and pair, in order.
    writes: BTreeMap<(Side, &'a str), Vec<&'a Write>>,
    /// Values that a write of an application is known to have replaced: (side of that write, value).
    replaced: BTreeSet<(Side, &'a str)>,
    /// Both values of each conflict.
    in_conflict_log: BTreeSet<(String, String)>,
    on_stream: BTreeSet<(String, String)>,
    seen: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Index<'a> {
    fn new(history: &'a History) -> Index<'a> {
        let mut writes: BTreeMap<(Side, &str), Vec<&Write>> = BTreeMap::new();
        let mut replaced = BTreeSet::new();
        for write in &history.writes {
            writes.entry((write.side, &write.pair)).or_default().push(write);
            if let Some(Some(value)) = &write.replaced {
                replaced.insert((write.side, value.as_str()));
            }
        }
        let mut in_conflict_log = BTreeSet::new();
        for row in &history.conflicts {
            for value in [&row["zk"], &row["cache"]] {
                in_conflict_log.extend(pair_of(row).zip(value.as_str().map(str::to_owned)));
            }
        }
        let after = |row: &Value| pair_of(row).zip(row["after"].as_str().map(str::to_owned));
        let on_stream = history.changes.iter().filter_map(after).collect();
        let seen = history.seen_in_zookeeper.iter();
        let seen = seen.flat_map(|(pair, values)| values.iter().map(move |(_, value)| (pair.as_str(), value.as_str())));
        Index { writes, replaced, in_conflict_log, on_stream, seen: seen.collect() }
    }

    fn is_logged(&self, pair: &str, value: &str) -> bool {
        self.in_conflict_log.contains(&(pair.to_owned(), value.to_owned()))
    }

    /// How this value is accounted for; `None`: it is lost.
    fn account(&self, history: &History, write: &Write, value: &str) -> Option<&'static str> {
        let (pair, side) = (write.pair.as_str(), write.side);
        if history
            .held
            .get(pair)
            .is_some_and(|(znode, key)| [znode, key].iter().any(|held| held.as_deref() == Some(value)))
        {
            return Some("final");
        }
        if self.replaced.contains(&(side, value)) {
            return Some("superseded on its side");
        }
        if self.replaced.contains(&(side.other(), value)) {
            return Some("agreed before");
        }
        if self.is_logged(pair, value) {
            return Some("in the conflict log");
        }
        if side == Side::Redis && history.redis_losses.iter().any(|loss| *loss >= write.at) {
            // Redis forgot it itself. If ZooKeeper had it by then, only an application may have ended it.
            if !self.seen.contains(&(pair, value)) {
                return Some("lost by Redis before it was carried");
            }
        }
        if history.zookeeper_losses.iter().any(|loss| *loss >= write.at) {
            // What both held is put back, unless an application of ZooKeeper writes over the older value first.
            match (self.on_stream.contains(&(pair.to_owned(), value.to_owned())), side) {
                (true, _) => return Some("on the stream, and lost by ZooKeeper"),
                (false, Side::Zookeeper) => return Some("lost by ZooKeeper before it was carried"),
                (false, Side::Redis) => {}
            }
        }
        None
    }
}

/// What may have ended a value without a trace, each of them one value.
struct Excuses<'a> {
    recreated: BTreeMap<String, usize>,
    /// By pair: when each write without an answer was given up.
    unanswered: BTreeMap<&'a str, Vec<Duration>>,
}

impl<'a> Excuses<'a> {
    fn new(history: &'a History) -> Excuses<'a> {
        let mut unanswered: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for write in history.writes.iter().filter(|write| write.replaced.is_none()) {
            unanswered.entry(&write.pair).or_default().push(write.at);
        }
        Excuses { recreated: history.recreated.clone(), unanswered }
    }

    /// Excuses this value, if anything is left that does. Called from the newest value to the oldest: whatever excuses a newer one
    /// would excuse an older one as well, so none is used up in vain.
    fn excuse(&mut self, write: &Write) -> Option<&'static str> {
        if write.side == Side::Zookeeper
            && let Some(left) = self.recreated.get_mut(&write.pair).filter(|left| **left > 0)
        {
            *left -= 1;
            return Some("recreated under a write, and counted");
        }
        let later = self.unanswered.get_mut(write.pair.as_str())?;
        let at = later.iter().position(|given_up| *given_up > write.at)?;
        later.swap_remove(at);
        Some("perhaps replaced by a write without an answer")
    }
}

/// Whether a command was at work then, or what it wrote was still on its way.
fn is_under_a_command(history: &History, at: f64) -> bool {
    let during = |(begun, ended): &(Duration, Duration)| seconds(*begun) <= at && at <= seconds(*ended + CARRIED);
    history.commands.iter().any(during)
}

/// After so long what a command wrote has arrived on the other side, whatever is broken meanwhile.
const CARRIED: Duration = Duration::from_secs(15);

/// After so long every pair that lost its base has been looked at: the longest fault, a session, and a comparison.
const WITHOUT_BASES: Duration = Duration::from_secs(15);

/// Judges a run.
pub fn judge(history: &History) -> Judgement {
    let index = Index::new(history);
    let mut found = Judgement { complaints: history.complaints.clone(), ..Judgement::default() };
    let mut excuses = Excuses::new(history);
    let mut newest_first: Vec<&Write> = history.writes.iter().collect();
    newest_first.sort_by_key(|write| std::cmp::Reverse(write.at));
    for write in newest_first {
        let (Left::Value(value), Some(_)) = (&write.left, &write.replaced) else { continue };
        found.checked += 1;
        match index.account(history, write, value).or_else(|| excuses.excuse(write)) {
            Some(account) => *found.accounts.entry(account).or_default() += 1,
            None => {
                let captured = index.on_stream.contains(&(write.pair.clone(), value.clone()));
                let seen = index.seen.contains(&(write.pair.as_str(), value.as_str()));
                found.lost.push(format!(
                    "{}: {value}, written to {:?} after {:.3?} (on the stream: {captured}; seen in ZooKeeper: {seen})\n{}",
                    write.pair,
                    write.side,
                    write.at,
                    story(history, &write.pair)
                ));
            }
        }
    }
    for (pair, (znode, key)) in &history.held {
        if znode != key {
            found.diverged.push(format!("{pair}: znode {znode:?}, key {key:?}\n{}", story(history, pair)));
        }
    }
    for row in &history.changes {
        // Odd names are deleted by their own application, of which no history is kept.
        let is_ours = |pair: &String| row["op"] == "d" && !key(pair).starts_with(ODD);
        let Some(pair) = pair_of(row).filter(is_ours) else { continue };
        // On either side: what an older copy of Redis brings back is deleted again, from ZooKeeper's side.
        let is_made = [Side::Zookeeper, Side::Redis].into_iter().any(|side| {
            let writes = index.writes.get(&(side, pair.as_str()));
            writes.is_some_and(|all| all.iter().any(|write| write.left == Left::Nothing))
        });
        // `repair` deletes what the preferred side does not have, and `replay` what the stream says is gone.
        let at = (row["ts_ms"].as_i64().unwrap_or(0) - history.begun_ms) as f64 / 1000.0;
        if !is_made && !is_under_a_command(history, at) {
            found.deletes.push(format!("{pair}: {row}\n{}", story(history, &pair)));
        }
    }
    for (pair, values) in &history.seen_in_zookeeper {
        let (mut known, mut before) = (BTreeSet::new(), None);
        for (at, value) in values {
            // Without its base, what is left on one side is copied to the other, however old.
            let unsettled = history.bases_lost.iter().chain(&history.zookeeper_losses);
            let without_base = unsettled.into_iter().any(|lost| lost <= at && *at - *lost < WITHOUT_BASES);
            // Unless it won a conflict, or what it replaced lost one. A value that an older copy of Redis holds and that had
            // not been carried by then is no old value: it counts as a change.
            let won = before.replace(value).is_some_and(|before| index.is_logged(pair, before))
                || index.is_logged(pair, value)
                || without_base
                || is_under_a_command(history, seconds(*at));
            if !known.insert(value) && !won {
                found.returned.push(format!("{pair}: {value}\n{}", story(history, pair)));
                break;
            }
        }
    }
    for row in &history.conflicts {
        // Without a base, two values that differ are a conflict by definition.
        let at = (row["ts_ms"].as_i64().unwrap_or(0) - history.begun_ms) as f64 / 1000.0;
        let unsettled = history.bases_lost.iter().chain(&history.zookeeper_losses);
        let has_lost_bases = unsettled.into_iter().any(|lost| seconds(*lost) <= at);
        let has_lost_bases = has_lost_bases || is_under_a_command(history, at);
        if let Some(pair) = pair_of(row).filter(|pair| pair.starts_with('z') && !has_lost_bases) {
            found.spurious.push(format!("{pair}: {row}\n{}", story(history, &pair)));
        }
    }
    found
}

/// What is known of a pair, in the order of time, for the text of a failure.
fn story(history: &History, pair: &str) -> String {
    let mut lines = Vec::new();
    for write in history.writes.iter().filter(|write| write.pair == pair) {
        let replaced = write.replaced.as_ref().map_or("?", |replaced| replaced.as_deref().unwrap_or("nothing"));
        lines.push((seconds(write.at), format!("{:?}: {:?} replaced {replaced}", write.side, write.left)));
    }
    let row_seconds = |row: &Value| (row["ts_ms"].as_i64().unwrap_or(0) - history.begun_ms) as f64 / 1000.0;
    for row in history.changes.iter().filter(|row| pair_of(row).as_deref() == Some(pair)) {
        let (source, base) = (&row["source"], &row["base"]);
        let text = format!(
            "    stream {}: {} {} -> {}; from {} {} mzxid {} version {}; base {} {} {}; {}",
            row["position"],
            row["op"],
            row["before"],
            row["after"],
            source["connector"],
            source["event"],
            source["mzxid"],
            source["version"],
            base["sequence"],
            base["mzxid"],
            base["version"],
            row["conflict"]
        );
        lines.push((row_seconds(row), text));
    }
    lines.extend(history.redis_losses.iter().map(|at| (seconds(*at), "---- Redis lost data".to_owned())));
    lines.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut text: String = lines.iter().map(|(at, line)| format!("    {at:>8.3} {line}\n")).collect();
    text += &format!("    seen in ZooKeeper: {:?}\n", history.seen_in_zookeeper.get(pair));
    text + &format!("    held: {:?}", history.held.get(pair))
}

fn seconds(at: Duration) -> f64 {
    at.as_secs_f64()
}
