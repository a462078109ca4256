//! A record of the topic: its key, its headers, the fence, and what a message turns out to be when
//! it is read.
//!
//! ```text
//!   key      {"zookeeper":"/settings/a","redis":"settings:a"}    the pair; compaction goes by it
//!   headers  keepstep.pipeline  keepstep.route  keepstep.op  keepstep.fence = epoch.session
//!            the marker of an owner: keepstep.whole = the epoch through which the stream is complete
//!                                    keepstep.lineage = the lineage of the ensemble whose owners had these epochs
//!            a value that a command replaced has no fence: it is no state of a pair, and no owner's
//!   value    the change as Avro; none in the tombstone that follows a delete
//! ```

use super::wire::{Wire, WireError};
use crate::change::{Change, Op, Pair, Position};
use crate::codec::json;
use crate::stream::CompleteThrough;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use serde_json::Value;
use std::borrow::Cow;

const PIPELINE: &str = "keepstep.pipeline";
const ROUTE: &str = "keepstep.route";
const OP: &str = "keepstep.op";
const FENCE: &str = "keepstep.fence";
const COMPLETE_THROUGH: &str = "keepstep.whole";
const LINEAGE: &str = "keepstep.lineage";

/// Key of the marker with which an owner begins. One key, so that compaction keeps the newest.
const OWNER_KEY: &[u8] = br#"{"marker":"owner"}"#;
/// Key of the markers of gaps.
const GAP_KEY: &[u8] = br#"{"marker":"gap"}"#;

/// Who wrote a record: the owner's epoch, and which of its producers. A later one shuts out all
/// earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Fence {
    pub epoch: i64,
    pub session: u32,
}

impl std::fmt::Display for Fence {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.epoch, self.session)
    }
}

impl Fence {
    fn parse(text: &[u8]) -> Option<Fence> {
        let (epoch, session) = std::str::from_utf8(text).ok()?.split_once('.')?;
        Some(Fence { epoch: epoch.parse().ok()?, session: session.parse().ok()? })
    }
}

/// The key of a change.
pub(super) fn key_of(change: &Change) -> Vec<u8> {
    match change.op {
        Op::Marker => GAP_KEY.to_vec(),
        Op::Read | Op::Create | Op::Update | Op::Delete => pair_key(&change.pair),
    }
}

/// The key of a pair: its names as compact JSON, in this order, an absent one left out. Written by
/// hand: every change asks for it twice.
pub(super) fn pair_key(pair: &Pair) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let mut put = |name: &str, value: Value| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(name.as_bytes());
        // Into memory, which does not fail.
        let _ = serde_json::to_writer(&mut out, &value);
    };
    if let Some(path) = &pair.zookeeper {
        put("\"zookeeper\":", Value::String(path.clone()));
    }
    if let Some(key) = &pair.redis {
        put("\"redis\":", json::text(key));
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    out
}

/// A record on its way to the topic.
pub(super) struct Outgoing {
    pub key: Vec<u8>,
    /// `None`: a tombstone.
    pub payload: Option<Vec<u8>>,
    pub ts_ms: i64,
    pub headers: OwnedHeaders,
}

/// Bytes that a record takes beside key and value: its headers, and what the protocol adds.
const OVERHEAD_BYTES: usize = 256;

impl Outgoing {
    pub fn of(change: &Change, pipeline: &str, fence: Fence, wire: &Wire) -> Result<Outgoing, String> {
        let payload = Some(wire.encode(change)?);
        let headers = headers(pipeline, &change.route, change.op.letter(), Some(fence));
        Ok(Outgoing { key: key_of(change), payload, ts_ms: change.ts_ms, headers })
    }

    /// A value that a command replaced.
    pub fn replaced(change: &Change, pipeline: &str, wire: &Wire) -> Result<Outgoing, String> {
        let payload = Some(wire.encode(change)?);
        let headers = headers(pipeline, &change.route, change.op.letter(), None);
        Ok(Outgoing { key: key_of(change), payload, ts_ms: change.ts_ms, headers })
    }

    /// The end of a key, as far as compaction is concerned.
    pub fn tombstone(key: Vec<u8>, ts_ms: i64, pipeline: &str, route: &str, fence: Fence) -> Outgoing {
        Outgoing { key, payload: None, ts_ms, headers: headers(pipeline, route, Op::Delete.letter(), Some(fence)) }
    }

    /// The marker with which an owner begins, or records the epoch through which the stream is
    /// complete.
    pub fn owner(
        marker: &Change,
        pipeline: &str,
        fence: Fence,
        complete: CompleteThrough,
        wire: &Wire,
    ) -> Result<Outgoing, String> {
        let Outgoing { headers, payload, ts_ms, .. } = Outgoing::of(marker, pipeline, fence, wire)?;
        let headers = headers.insert(Header { key: COMPLETE_THROUGH, value: Some(&complete.epoch.to_string()) });
        let headers = headers.insert(Header { key: LINEAGE, value: Some(&complete.ensemble.to_string()) });
        Ok(Outgoing { key: OWNER_KEY.to_vec(), payload, ts_ms, headers })
    }

    /// Bytes on the wire, at most.
    pub fn bytes(&self) -> usize {
        let names: usize =
            self.headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum();
        self.key.len() + self.payload.as_ref().map_or(0, Vec::len) + names + OVERHEAD_BYTES
    }
}

fn headers(pipeline: &str, route: &str, op: &str, fence: Option<Fence>) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(4);
    for (key, value) in [(PIPELINE, pipeline), (ROUTE, route), (OP, op)] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    match fence {
        Some(fence) => headers.insert(Header { key: FENCE, value: Some(&fence.to_string()) }),
        None => headers,
    }
}

/// The pipeline that wrote it.
pub(super) fn writer<'a>(message: &'a BorrowedMessage<'_>) -> Option<Cow<'a, str>> {
    header(message, PIPELINE).map(String::from_utf8_lossy)
}

/// What a message is.
pub(super) enum Entry {
    /// A change of this pipeline.
    Change(Box<Change>),
    /// The end of a key.
    Tombstone,
    /// The beginning of an ownership.
    Owner,
    /// A record of another pipeline.
    OtherPipeline(String),
    /// Not a record that can be read; why.
    Damaged(String),
    /// Cannot be read now; why.
    Away(String),
}

/// A message as it was read.
pub(super) struct Incoming {
    pub position: Position,
    /// `None` for a message without a writer's name.
    pub fence: Option<Fence>,
    pub key: Vec<u8>,
    /// As the marker of an owner has it; zeros for all other records.
    pub complete_through: CompleteThrough,
    pub entry: Entry,
    pub bytes: usize,
}

impl Incoming {
    /// Reads a message of the topic of this pipeline.
    pub fn read(message: &BorrowedMessage<'_>, pipeline: &str, wire: &Wire) -> Incoming {
        let key = message.key().unwrap_or_default();
        let mut fence = header(message, FENCE).and_then(Fence::parse);
        let writer = writer(message);
        let entry = match (writer, message.payload()) {
            (Some(writer), _) if writer != pipeline => Entry::OtherPipeline(writer.into_owned()),
            (_, _) if key == OWNER_KEY => Entry::Owner,
            (Some(_), None) => Entry::Tombstone,
            (None, None) => Entry::Damaged("it has no value and does not say who wrote it".to_owned()),
            (_, Some(payload)) => match wire.decode(payload) {
                Ok(change) if change.op == Op::Marker && change.conflict.is_some() => Entry::Change(Box::new(change)),
                Ok(change) => {
                    fence = fence.or(Some(Fence { epoch: change.epoch, session: 0 }));
                    Entry::Change(Box::new(change))
                }
                Err(WireError::Damaged(why)) => Entry::Damaged(why),
                Err(WireError::Away(why)) => Entry::Away(why),
            },
        };
        let position = position_of(message.offset());
        let epoch = number(message, COMPLETE_THROUGH).unwrap_or(0);
        let complete_through = CompleteThrough { epoch, ensemble: number(message, LINEAGE).unwrap_or(0) };
        Incoming { position, fence, key: key.to_vec(), complete_through, entry, bytes: message.payload_len() }
    }

    /// The sentence about a message that cannot be delivered.
    pub fn complaint(&self, topic: &str) -> Option<String> {
        let position = self.position;
        match &self.entry {
            Entry::Damaged(why) => Some(format!("position {position} of topic {topic} cannot be read: {why}")),
            Entry::OtherPipeline(writer) => {
                Some(format!("position {position} of topic {topic} is of pipeline `{writer}`"))
            }
            Entry::Change(_) | Entry::Tombstone | Entry::Owner | Entry::Away(_) => None,
        }
    }
}

fn header<'m>(message: &'m BorrowedMessage<'_>, wanted: &str) -> Option<&'m [u8]> {
    let headers = message.headers()?;
    headers.iter().find(|header| header.key == wanted).and_then(|header| header.value)
}

fn number<T: std::str::FromStr>(message: &BorrowedMessage<'_>, wanted: &str) -> Option<T> {
    std::str::from_utf8(header(message, wanted)?).ok()?.parse().ok()
}

/// The fence that a message of this pipeline names, without reading its value.
pub(super) fn fence_of(message: &BorrowedMessage<'_>, pipeline: &str) -> Option<Fence> {
    header(message, PIPELINE).filter(|writer| *writer == pipeline.as_bytes())?;
    header(message, FENCE).and_then(Fence::parse)
}

/// The position of an offset: positions begin at 1.
pub(super) fn position_of(offset: i64) -> Position {
    u64::try_from(offset).unwrap_or(0).saturating_add(1)
}

/// The offset of a position; that of 0 is the first.
pub(super) fn offset_of(position: Position) -> i64 {
    i64::try_from(position.saturating_sub(1)).unwrap_or(i64::MAX)
}

/// Who could write when: the places at which a newer fence begins, in order.
#[derive(Debug, Default, Clone)]
pub(super) struct Fences(Vec<(Position, Fence)>);

impl Fences {
    /// Notes that a record with this fence is at this position.
    pub fn note(&mut self, position: Position, fence: Fence) {
        if self.before(position) >= fence {
            return;
        }
        let at = self.0.partition_point(|(place, _)| *place < position);
        self.0.insert(at, (position, fence));
        // What begins later with an older fence begins nothing.
        let mut highest = Fence { epoch: i64::MIN, session: 0 };
        self.0.retain(|(_, fence)| {
            let rises = *fence > highest;
            highest = highest.max(*fence);
            rises
        });
    }

    /// The newest fence before this position.
    pub fn before(&self, position: Position) -> Fence {
        let at = self.0.partition_point(|(place, _)| *place < position);
        at.checked_sub(1)
            .and_then(|at| self.0.get(at))
            .map_or(Fence { epoch: i64::MIN, session: 0 }, |(_, fence)| *fence)
    }

    /// Whether a record of this fence at this position is to be dropped.
    pub fn shuts_out(&self, position: Position, fence: Fence) -> bool {
        self.before(position) > fence
    }

    /// The newest fence of all.
    pub fn newest(&self) -> Option<Fence> {
        self.0.last().map(|(_, fence)| *fence)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn fence(epoch: i64, session: u32) -> Fence {
        Fence { epoch, session }
    }

    #[test]
    fn a_record_behind_a_newer_fence_is_shut_out_and_one_before_it_is_not() {
        let mut fences = Fences::default();
        assert!(!fences.shuts_out(1, fence(0, 0)));
        fences.note(3, fence(7, 1));
        fences.note(10, fence(8, 1));
        fences.note(12, fence(7, 1));
        fences.note(14, fence(8, 2));
        assert!(!fences.shuts_out(2, fence(1, 1)));
        assert!(fences.shuts_out(4, fence(1, 1)));
        assert!(!fences.shuts_out(10, fence(7, 1)));
        assert!(fences.shuts_out(11, fence(7, 1)));
        assert!(!fences.shuts_out(14, fence(8, 1)));
        assert!(fences.shuts_out(15, fence(8, 1)));
        assert_eq!(fences.newest(), Some(fence(8, 2)));
    }

    #[test]
    fn a_fence_that_is_found_late_takes_its_place() {
        let mut fences = Fences::default();
        fences.note(20, fence(9, 1));
        fences.note(5, fence(9, 1));
        fences.note(2, fence(3, 1));
        assert!(fences.shuts_out(6, fence(8, 9)));
        assert!(!fences.shuts_out(5, fence(3, 1)));
        assert_eq!(fences.0, [(2, fence(3, 1)), (5, fence(9, 1))]);
    }

    #[test]
    fn a_fence_reads_back_from_its_header() {
        assert_eq!(Fence::parse(fence(17, 2).to_string().as_bytes()), Some(fence(17, 2)));
        assert_eq!(Fence::parse(b"17"), None);
    }

    #[test]
    fn a_key_names_the_pair_and_nothing_else() {
        let pair = |zookeeper: Option<&str>, redis: Option<&[u8]>| Pair {
            zookeeper: zookeeper.map(str::to_owned),
            redis: redis.map(<[u8]>::to_vec),
        };
        let text = |pair: &Pair| String::from_utf8(pair_key(pair)).unwrap();
        assert_eq!(text(&pair(Some("/s/a"), Some(b"s:a"))), r#"{"zookeeper":"/s/a","redis":"s:a"}"#);
        assert_eq!(text(&pair(Some("/s/a"), None)), r#"{"zookeeper":"/s/a"}"#);
        assert_eq!(text(&pair(None, Some(&[0xff]))), r#"{"redis":{"base64":"/w=="}}"#);
    }

    #[test]
    fn positions_begin_at_one() {
        assert_eq!((position_of(0), offset_of(1), offset_of(0)), (1, 0, 0));
    }
}
