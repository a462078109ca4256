//! What must hold, whatever happened.
//!
//! 1. *Origin*: what a worker writes was there on the other side, or is on a stream.
//! 2. *No loss*: what a worker replaces was on the other side before, or lost a conflict that is on a stream.
//!    What a command line replaces is in a conflict on a stream, in any case.
//! 3. *No delete from a loss*: what a worker deletes was deleted by an application, or expired, on the other side.
//! 4. *Rest*: see `play.rs`.
//! 5. *Nothing comes back*: a value that its own side has replaced is not what both sides have at the end.
//! 6. *No spurious conflict*: without a loss, a conflict is between two values of which neither was there when the other was written; a key
//!    that is put back to the value of its ephemeral znode is none.
//! 7. *The stream is true*: at rest, the newest record of a pair is what both sides have.

use crate::settings::{Flow, Settings};
use crate::streams::Record;
use crate::truth::{Author, OTHER_TYPE, Pair, State, newest};
use keepstep::change::{Change, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rule 7: the newest record of each pair in step, on the stream of the owner of its pipeline. `owners`: the machine of each;
/// `excused`: pairs that need not be there as they are.
#[must_use]
pub fn newest_records(
    pairs: &[Pair],
    records: &[Record],
    owners: &BTreeMap<usize, usize>,
    excused: &BTreeSet<usize>,
    settings: &Settings,
) -> Vec<String> {
    let mut known: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    for record in records.iter().filter(|record| owners.get(&record.pipeline) == Some(&record.machine)) {
        if let (Some(key), true) = (&record.change.pair.redis, record.change.op != Op::Marker) {
            known.insert(key, record.change.after.as_deref());
        }
    }
    let is_in_step = |pair: &Pair| owners.contains_key(&pair.pipeline) && rest(pair, settings) == Rest::Equal;
    let in_step = pairs.iter().enumerate().filter(|(number, pair)| is_in_step(pair) && !excused.contains(number));
    in_step
        .filter_map(|(_, pair)| {
            let value = newest(&pair.redis).map(Vec::as_slice);
            let recorded = known.get(pair.key.as_slice()).copied().flatten();
            (recorded != value).then(|| {
                let (recorded, value) = (shown(recorded), shown(value));
                format!("untrue stream: the newest record of {} has {recorded}, and both sides have {value}", pair.path)
            })
        })
        .collect()
}

pub(crate) fn shown(value: Option<&[u8]>) -> String {
    value.map_or("nothing".to_owned(), |value| {
        String::from_utf8_lossy(value.get(..value.len().min(24)).unwrap_or_default()).into_owned()
    })
}

/// How a pair is at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    Equal,
    /// It differs, as it may: by the rules of its route, or since a store lost what would tell.
    Excused(&'static str),
    Wrong(String),
}

/// How a pair is.
#[must_use]
pub fn rest(pair: &Pair, settings: &Settings) -> Rest {
    let route = &settings.routes[pair.route];
    let (znode, key) = (newest(&pair.zookeeper), newest(&pair.redis));
    if znode == key {
        return Rest::Equal;
    }
    let by = |states: &[State]| states.last().map(|state| state.by);
    let at = |states: &[State]| states.last().map_or(Duration::ZERO, |state| state.at);
    // Kept apart by a delete or an expiry, and nothing of what came after it is there.
    let is_kept = |states: &[State]| {
        // Which of the two it was is told by the recorded expiry, where nobody saw it happen.
        let keeps = |state: &State| {
            let goes = matches!(state.by, Author::Application | Author::Command(_) | Author::Expiry);
            goes && (route.on_delete == "keep" || route.on_expire == "keep")
        };
        newest(states).is_none() && states.iter().skip(1).any(|state| state.value.is_none() && keeps(state))
    };
    // What the destination has, it has from before the source lost data: what became of it there nobody can tell.
    let is_lost = |source: &[State], destination: &[State], side: usize| {
        let lost_at = pair.losses[side].last().copied().unwrap_or_default();
        let is_from_before = at(destination) <= lost_at
            || source.iter().any(|state| state.at <= lost_at && state.value.as_ref() == newest(destination));
        by(source) == Some(Author::Loss) || (newest(source).is_none() && is_from_before)
    };
    let is_extra = |source: &[State], destination: &[State]| {
        newest(source).is_none()
            && matches!(by(destination), Some(Author::Application | Author::Command(_) | Author::Loss))
    };
    let (kept, lost, extra) = match route.flow {
        Flow::Both => {
            // A delete was carried over, and an older copy has brought the value back: the znode's delete is kept from it.
            let is_back = route.on_delete == "keep" && znode.is_none() && by(&pair.redis) == Some(Author::Loss);
            (is_kept(&pair.zookeeper) || is_kept(&pair.redis) || is_back, false, false)
        }
        Flow::ToRedis => {
            (is_kept(&pair.zookeeper), is_lost(&pair.zookeeper, &pair.redis, 0), is_extra(&pair.zookeeper, &pair.redis))
        }
        Flow::ToZookeeper => {
            (is_kept(&pair.redis), is_lost(&pair.redis, &pair.zookeeper, 1), is_extra(&pair.redis, &pair.zookeeper))
        }
    };
    match (kept, lost, extra) {
        (true, _, _) => Rest::Excused("kept apart"),
        (_, true, _) => Rest::Excused("the source of a one-way route lost data"),
        (_, _, true) => Rest::Excused("only the destination of a one-way route has it"),
        _ => {
            let (znode, key) = (shown(znode.map(Vec::as_slice)), shown(key.map(Vec::as_slice)));
            Rest::Wrong(format!("at rest {} has {znode} and {} has {key}", pair.path, shown(Some(&pair.key))))
        }
    }
}

/// The largest value that is mirrored, bytes.
const MIRRORED_MAX: usize = 1_000_000;

/// Why a pair may be in quarantine with this reason; `None`: it may not. `is_unproven`: nothing shows that a key which vanished was deleted.
#[must_use]
pub fn cause(reason: &str, pair: &Pair, settings: &Settings, is_unproven: bool) -> Option<&'static str> {
    let route = &settings.routes[pair.route];
    let (znode, key) = (newest(&pair.zookeeper), newest(&pair.redis));
    let is_large = |value: Option<&Vec<u8>>| value.is_some_and(|value| value.len() > MIRRORED_MAX);
    let is_ephemeral = pair.zookeeper.last().is_some_and(|state| state.is_ephemeral);
    let (has_cause, why) = match reason {
        "too_large" => (is_large(znode) || is_large(key), "quarantined, too large"),
        "wrong_type" => (key.is_some_and(|key| key.starts_with(OTHER_TYPE)), "quarantined, of another type"),
        "conflict" => (route.on_conflict == "quarantine" && znode != key, "quarantined, a conflict"),
        "ephemeral" => (is_ephemeral && route.flow == Flow::ToZookeeper, "quarantined, an ephemeral znode"),
        "lost" => (is_unproven, "quarantined, lost"),
        _ => (false, ""),
    };
    has_cause.then_some(why)
}

/// All that is wrong, and how often a znode that was recreated at the same version excuses a write.
#[must_use]
pub fn judge(pairs: &[Pair], records: &[Record], settings: &Settings) -> (Vec<String>, usize) {
    let losers: BTreeSet<&[u8]> = records
        .iter()
        .filter_map(|record| record.change.conflict.as_ref())
        .filter_map(|conflict| conflict.value.as_deref())
        .collect();
    let (mut wrong, mut recreated) = (Vec::new(), 0);
    for pair in pairs {
        let sides = [("zookeeper", &pair.zookeeper, &pair.redis), ("redis", &pair.redis, &pair.zookeeper)];
        for (name, own, other) in sides {
            recreated += writes(name, pair, own, other, &losers, &mut wrong);
        }
        comes_back(pair, &losers, settings, &mut wrong);
        spurious(pair, records, settings, &mut wrong);
    }
    (wrong, recreated)
}

/// Rule 6.
fn spurious(pair: &Pair, records: &[Record], settings: &Settings, wrong: &mut Vec<String>) {
    let has_losses = pair.losses.iter().any(|losses| !losses.is_empty());
    if has_losses || settings.routes[pair.route].flow != Flow::Both {
        return;
    }
    if is_commanded(pair) {
        return;
    }
    // What a command replaces, or was about to, is in a marker.
    let is_of_pair = |change: &&Change| change.op != Op::Marker && change.pair.redis.as_ref() == Some(&pair.key);
    for change in records.iter().map(|record| &record.change).filter(is_of_pair) {
        let Some(conflict) = &change.conflict else { continue };
        let (Some(loser), Some(winner)) = (&conflict.value, &change.after) else { continue };
        // By the name of the store in the pipeline file.
        let (winners, losers) = match conflict.winner.as_str() {
            "zk" => (&pair.zookeeper, &pair.redis),
            "cache" => (&pair.redis, &pair.zookeeper),
            _ => continue,
        };
        let is_revert = winners.iter().any(|state| state.is_ephemeral && state.value.as_ref() == Some(winner));
        let includes = |newer: &Vec<u8>, own: &[State], older: &Vec<u8>| {
            let written =
                own.iter().position(|state| state.by == Author::Application && state.value.as_ref() == Some(newer));
            written.is_some_and(|written| own[..written].iter().any(|state| state.value.as_ref() == Some(older)))
        };
        if !is_revert && (includes(winner, winners, loser) || includes(loser, losers, winner)) {
            let (winner, loser, path) = (shown(Some(winner)), shown(Some(loser)), &pair.path);
            wrong.push(format!(
                "{path}: a spurious conflict: {winner} beat {loser}, and one was written over the other"
            ));
        }
    }
}

/// How long before a write its worker may have read the znode: a request that takes seconds, and another try.
const READ_BEFORE: Duration = Duration::from_secs(15);

/// Rules 1 to 3. Answers how many writes a recreated znode excuses.
fn writes(
    name: &str,
    pair: &Pair,
    own: &[State],
    other: &[State],
    losers: &BTreeSet<&[u8]>,
    wrong: &mut Vec<String>,
) -> usize {
    let mut recreated = 0;
    for (before, state) in own.iter().zip(own.iter().skip(1)) {
        let (process, is_command) = match state.by {
            Author::Worker(process) => (process, false),
            Author::Command(process) => (process, true),
            _ => continue,
        };
        let until = other.partition_point(|other| other.at <= state.at);
        let seen = &other[..until];
        let was_there = |value: &Vec<u8>| seen.iter().any(|other| other.value.as_ref() == Some(value));
        // A command line may bring back what either side ever had.
        let was_here = |value: &Vec<u8>| {
            is_command && own.iter().any(|own| own.at < state.at && own.value.as_ref() == Some(value))
        };
        let (at, path) = (state.at.as_secs_f64(), &pair.path);
        if let Some(value) = &state.value
            && !was_there(value)
            && !was_here(value)
            && !losers.contains(value.as_slice())
        {
            let value = shown(Some(value));
            wrong.push(format!("{at:.6} process {process} wrote {value} to {path} in {name}: nobody else ever had it"));
        }
        let Some(replaced) = &before.value else { continue };
        let mut found = Vec::new();
        let of = shown(Some(replaced));
        if (is_command || !was_there(replaced)) && !losers.contains(replaced.as_slice()) {
            let by = shown(state.value.as_deref());
            found.push(format!(
                "{at:.6} process {process} replaced {of} of {path} in {name} by {by}: it is nowhere else, and in no conflict"
            ));
        }
        if state.value.is_none() && !is_command {
            let deletes = |other: &State| {
                let by = matches!(other.by, Author::Application | Author::Command(_) | Author::Expiry);
                other.value.is_none() && by
            };
            // Or here, and an older copy has brought it back.
            let first = own.iter().position(|state| state.value.as_ref() == Some(replaced)).unwrap_or(0);
            let was_deleted = own.iter().skip(first).any(|own| own.at < state.at && deletes(own));
            let has_expired = pair.expiring.iter().any(|(value, at)| value == replaced && *at <= state.at);
            if !was_deleted && !has_expired && !seen.iter().skip(1).any(deletes) {
                found.push(format!(
                    "{at:.6} process {process} deleted {of} of {path} in {name}: nobody deleted it on the other side"
                ));
            }
        }
        if !found.is_empty() && is_recreated(own, before, state.at) {
            recreated += 1;
        } else {
            wrong.extend(found);
        }
    }
    recreated
}

/// Whether a command line has written the pair: then an old value is a new one.
fn is_commanded(pair: &Pair) -> bool {
    [&pair.zookeeper, &pair.redis]
        .into_iter()
        .any(|states| states.iter().any(|state| matches!(state.by, Author::Command(_))))
}

/// The contract's first exception: the znode was deleted and created again with the version that the worker had read.
fn is_recreated(own: &[State], before: &State, written: Duration) -> bool {
    let Some((czxid, version)) = before.znode else { return false };
    own.iter().zip(own.iter().skip(1)).any(|(state, next)| {
        let is_same = state.znode.is_some_and(|(other, same)| same == version && other < czxid);
        is_same && next.at + READ_BEFORE >= written
    })
}

/// Rule 5.
fn comes_back(pair: &Pair, losers: &BTreeSet<&[u8]>, settings: &Settings, wrong: &mut Vec<String>) {
    let has_losses =
        [&pair.zookeeper, &pair.redis].into_iter().any(|states| states.iter().any(|state| state.by == Author::Loss));
    let route = &settings.routes[pair.route];
    let is_kept = route.on_delete == "keep" || route.on_expire == "keep";
    if has_losses || is_kept || route.flow != Flow::Both || is_commanded(pair) {
        return;
    }
    let last = newest(&pair.zookeeper);
    let Some(last) = last.filter(|last| newest(&pair.redis) == Some(last)) else { return };
    for (name, own) in [("zookeeper", &pair.zookeeper), ("redis", &pair.redis)] {
        let Some(first) =
            own.iter().position(|state| state.by == Author::Application && state.value.as_ref() == Some(last))
        else {
            continue;
        };
        let newer = own.iter().skip(first + 1).filter(|state| matches!(state.by, Author::Application | Author::Expiry));
        let Some(newest) = newer.last() else { continue };
        let lost_openly = newest.value.as_ref().is_some_and(|value| losers.contains(value.as_slice()));
        // A delete loses to a change of the other side, if there was one that it had not seen.
        if !lost_openly && newest.value.is_some() {
            let (last, newest, path) = (shown(Some(last)), shown(newest.value.as_deref()), &pair.path);
            wrong.push(format!("{path}: {last} came back, which {name} had replaced by {newest}"));
        }
    }
}
