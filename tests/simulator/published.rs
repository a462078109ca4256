//! What workers publish, as a subscriber receives it, and whether it is what the contract says.
//!
//! 1. A message is published in the atomic unit that writes its change to Redis.
//! 2. It is the `tail` JSON of a record on the stream of the worker that sent it, and each record is published at most once.
//! 3. A write to Redis by a route with `publish` is published, unless it restores a value that the key had before.

use crate::executor::ProcessId;
use crate::settings::Settings;
use crate::streams::Record;
use crate::truth::{Author, Pair, State};
use keepstep::codec::json::{self, StoreNames};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::reply::{Push, Sent};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A message, as it was received.
#[derive(Debug, Clone)]
pub struct Message {
    pub at: Duration,
    /// Who sent it.
    pub by: Author,
    pub channel: Vec<u8>,
    pub text: Vec<u8>,
}

/// Someone who subscribes to every channel of every route.
#[derive(Debug, Default)]
pub struct Subscriber {
    connection: Option<usize>,
    pub received: Vec<Message>,
}

impl Subscriber {
    /// Takes what was sent since the last call, which this author caused. Subscribes again where the connection is gone.
    pub fn receive(&mut self, server: &Double, by: Author, at: Duration) {
        let sent = server.with(|server| {
            let open = self.connection.filter(|connection| server.is_connected(*connection));
            let connection = open.unwrap_or_else(|| {
                let connection = server.connect(0, Some(("operator", None))).unwrap_or_default();
                server.command(connection, &[b"PSUBSCRIBE".to_vec(), b"changes*".to_vec()]);
                connection
            });
            self.connection = Some(connection);
            server.received(connection)
        });
        self.received.extend(sent.into_iter().filter_map(|sent| match sent {
            Sent::Push(Push::Message { channel, message, .. }) => Some(Message { at, by, channel, text: message }),
            _ => None,
        }));
    }
}

fn is_written(message: &Message, after: Option<&[u8]>, states: &[State]) -> bool {
    let from = states.partition_point(|state| state.at < message.at);
    let here = states.iter().skip(from).take_while(|state| state.at == message.at);
    here.into_iter().any(|state| state.by == message.by && state.value.as_deref() == after)
}

/// Whether the next owner may publish the same record again: Redis lost what the key had, and with it up to where all was written, so that
/// it cannot know what was published; or a worker of another machine has written the key since, which this stream lacks, and a new
/// change has led back to what its newest record says.
fn may_be_again(pair: &Pair, (process, from): (ProcessId, Duration), until: Duration) -> bool {
    let between = pair.redis.iter().filter(|state| (from..until).contains(&state.at));
    let has_lost = pair.losses[1].iter().any(|at| (from..until).contains(at));
    let is_another = |by: Author| by == Author::Loss || matches!(by, Author::Worker(other) if other != process);
    has_lost || between.into_iter().any(|state| is_another(state.by))
}

/// Whether an owner may take its first write of this state for a restore, and publish nothing: Redis lost up to where all was written
/// after the value was set, and before it was written by the next owner, so that nobody knows whether it had been written before.
fn may_be_restored(pair: &Pair, state: &State, ownerships: &[Duration]) -> bool {
    let set = pair.zookeeper.iter().filter(|set| set.at <= state.at && set.value == state.value).map(|set| set.at);
    let Some(set) = set.last() else { return false };
    let is_between = |at: &Duration| (set..=state.at).contains(at);
    pair.losses[1].iter().any(is_between) && ownerships.iter().any(is_between)
}

/// What is wrong with what was published, and what may be otherwise, each time. `machines`: where each process ran; `ownerships`: when those of each pipeline
/// began.
#[must_use]
pub fn judge(
    messages: &[Message],
    pairs: &[Pair],
    records: &[Record],
    machines: &BTreeMap<ProcessId, usize>,
    (ownerships, settings): (&[Vec<Duration>], &Settings),
) -> (Vec<String>, Vec<&'static str>) {
    let (mut wrong, mut excused) = (Vec::new(), Vec::new());
    let names = StoreNames { zookeeper: Some("zk".to_owned()), redis: Some("cache".to_owned()) };
    let records: BTreeMap<_, _> =
        records.iter().map(|record| ((record.machine, record.pipeline, record.position), &record.change)).collect();
    let of_key: BTreeMap<&[u8], (usize, &Pair)> =
        pairs.iter().enumerate().map(|(number, pair)| (pair.key.as_slice(), (number, pair))).collect();
    let (mut sent, mut published) = (BTreeSet::new(), BTreeMap::new());
    for message in messages {
        let (at, text) = (message.at.as_secs_f64(), String::from_utf8_lossy(&message.text));
        let mut accuse = |why: &str| wrong.push(format!("{at:.6} published, but {why}: {text}"));
        let Author::Worker(process) = message.by else {
            accuse("by no worker");
            continue;
        };
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let position = json["position"].as_u64().unwrap_or_default();
        let machine = machines.get(&process).copied().unwrap_or(usize::MAX);
        let route = String::from_utf8_lossy(&message.channel).trim_start_matches("changes").parse::<usize>().ok();
        let pipeline = route.and_then(|route| settings.routes.get(route)).map_or(0, |route| route.pipeline);
        let Some(change) = records.get(&(machine, pipeline, position)) else {
            accuse("it is not on the stream");
            continue;
        };
        if json::tail(position, change, &names) != json {
            accuse("the stream has something else at its position");
        }
        let key = change.pair.redis.as_deref().unwrap_or_default();
        let Some((number, pair)) = of_key.get(key) else {
            accuse("of no pair");
            continue;
        };
        if route != Some(pair.route) {
            accuse("on another channel");
        }
        if !is_written(message, change.after.as_deref(), &pair.redis) {
            accuse("it was not written with it");
        }
        let is_next = |before: (ProcessId, Duration), now: Duration| {
            let began = ownerships.get(pipeline).map(Vec::as_slice).unwrap_or_default();
            before.0 != process || began.iter().any(|began| (before.1..now).contains(began))
        };
        match published.insert((machine, pipeline, position), (process, message.at)) {
            Some(before) if is_next(before, message.at) && may_be_again(pair, before, message.at) => {
                excused.push("a record was published again by the next owner");
            }
            Some(_) => accuse("it was published before"),
            None => {}
        }
        sent.insert((*number, message.at, process));
    }
    for (number, pair) in pairs.iter().enumerate().filter(|(_, pair)| settings.is_published(pair.route)) {
        for (index, state) in pair.redis.iter().enumerate() {
            let Author::Worker(process) = state.by else { continue };
            let had = pair.redis[..index].iter().skip(1).any(|before| before.value == state.value);
            let began = ownerships.get(pair.pipeline).map(Vec::as_slice).unwrap_or_default();
            if !had && !sent.contains(&(number, state.at, process)) {
                if may_be_restored(pair, state, began) {
                    excused.push("a record that Redis may have had before it lost its data was not published");
                    continue;
                }
                let (at, value) = (state.at.as_secs_f64(), crate::judge::shown(state.value.as_deref()));
                wrong.push(format!("{at:.6} process {process} wrote {value} to {} and published nothing", pair.path));
            }
        }
    }
    (wrong, excused)
}
