//! The fold of a stream: the state of each pair at a position, in memory that does not grow with
//! the values.
//!
//! ```text
//!   pass 1   the whole stream                            pair -> position of its state, and as many states as fit into a budget
//!   pass 2   from the first state that did not fit       the other states, in the order of the stream
//! ```
//!
//! *Compaction.* Before the start of full history, only the newest record of each pair is left. If
//! that record is after the requested position, its `before` is the state at that position. If the
//! value was too long to be repeated there, the state is lost, and is reported as lost.

use super::restore::{Cause, DesiredState};
use super::scope::{HistoryError, Scope};
use crate::change::{Change, KeyedHash, Op, Position, Side};
use crate::env::Map;
use crate::stream::{Recorded, Stream};
use std::collections::VecDeque;
use std::sync::Arc;

/// Records of one read, and its bytes.
const READ: (usize, usize) = (2_000, 4 * 1024 * 1024);

/// Bytes of states that are held between the passes. A state that is not held is read twice. All
/// states of a hundred thousand pairs of a hundred bytes fit, and a part of a million.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of a held state beside its names and its value: the struct, three allocations, its place
/// in the table.
const HELD_EACH: usize = 300;

/// How many records that cannot be read are listed.
const DAMAGED_MAX: usize = 20;

/// How far a stream is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// This position and everything before it.
    Position(Position),
    /// What was recorded up to this time, milliseconds since the epoch.
    Time(i64),
}

impl Until {
    /// The position, which lies in full history.
    ///
    /// # Errors
    /// The stream has no such position, or is compacted there.
    pub async fn position(
        self,
        stream: &dyn Stream,
        shown: &(dyn Fn(i64) -> String + Sync),
    ) -> Result<Position, HistoryError> {
        let extent = stream.extent();
        if extent.first == 0 {
            return Err(HistoryError::Failed("the stream is empty".to_owned()));
        }
        let position = match self {
            Until::End => return Ok(extent.last),
            Until::Position(position) if position > extent.last || position == 0 => {
                let last = extent.last;
                return Err(HistoryError::Failed(format!(
                    "there is no position {position}: the stream ends at {last}"
                )));
            }
            Until::Position(position) => position,
            Until::Time(ms) => stream.position_at(ms.saturating_add(1)).await?.saturating_sub(1),
        };
        if position < extent.full_from {
            if extent.full_from <= 1 {
                let since = shown(extent.full_from_ms);
                return Err(HistoryError::Failed(format!(
                    "full history begins at position 1 ({since}), where the stream begins; nothing is known of the time before"
                )));
            }
            return Err(HistoryError::Failed(format!(
                "full history begins at position {} ({}); before it only the newest state of each pair is kept, so \
                 the states at an earlier time are not known",
                extent.full_from,
                shown(extent.full_from_ms)
            )));
        }
        Ok(position)
    }
}

/// Which record has the state of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    /// The `after` of this record.
    After(Position),
    /// The `before` of this record, the first one after the requested position.
    Before(Position),
    /// The pair had no state then.
    None,
}

/// See the module.
pub struct Fold<'a> {
    stream: Arc<dyn Stream>,
    scope: &'a Scope,
    side: Side,
    until: Position,
    spots: Map<KeyedHash, Spot>,
    held: Map<KeyedHash, DesiredState>,
    held_bytes: usize,
    /// States that are ready, and not yet cut into batches.
    waiting: VecDeque<DesiredState>,
    /// The next position of pass 2; `None` before it begins.
    next: Option<Position>,
    /// The last position that pass 2 must read.
    end: Position,
    /// The newest position when pass 1 began.
    stream_end: Position,
    /// Records read in pass 1.
    pub records: u64,
    /// Records of pairs that no route of the pipeline file maps.
    pub unmapped: u64,
    /// Pairs whose state at the position is lost.
    pub lost: Vec<String>,
    /// Records that cannot be read: one sentence each, the first ones.
    pub damaged: Vec<String>,
}

impl<'a> Fold<'a> {
    /// Runs pass 1. `progress` is called with the position reached.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub async fn new(
        stream: Arc<dyn Stream>,
        scope: &'a Scope,
        side: Side,
        until: Position,
        progress: &(dyn Fn(Position) + Sync),
    ) -> Result<Fold<'a>, HistoryError> {
        let extent = stream.extent();
        // In full history no record after `until` is needed.
        let end = if extent.full_from > 1 { extent.last } else { until };
        let mut fold = Fold {
            stream,
            scope,
            side,
            until,
            spots: Map::default(),
            held: Map::default(),
            held_bytes: 0,
            waiting: VecDeque::new(),
            next: None,
            end: 0,
            stream_end: extent.last,
            records: 0,
            unmapped: 0,
            lost: Vec::new(),
            damaged: Vec::new(),
        };
        let mut next = extent.first;
        while next <= end {
            let batch = fold.stream.read(next, READ.0, READ.1).await?;
            fold.damaged.extend(batch.damaged.into_iter().take(DAMAGED_MAX.saturating_sub(fold.damaged.len())));
            for recorded in batch.records {
                if recorded.position > end {
                    break;
                }
                fold.records += 1;
                fold.take(recorded);
            }
            progress(next.min(end));
            if batch.next <= next {
                break;
            }
            next = batch.next;
            // A long fold must not block other tasks.
            tokio::task::yield_now().await;
        }
        fold.spots.shrink_to_fit();
        Ok(fold)
    }

    /// Pairs that have a state.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        u64::try_from(self.spots.values().filter(|spot| **spot != Spot::None).count()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, recorded: Recorded) {
        let Recorded { position, change } = recorded;
        if change.op == Op::Marker {
            return;
        }
        // The glob first: it is cheap, and most of a stream may be other pairs.
        if !self.scope.takes_name(&change.pair) {
            return;
        }
        let Some(mapped) = self.scope.mapped(&change, self.side) else {
            self.unmapped += 1;
            return;
        };
        if !self.scope.takes(&mapped) {
            return;
        }
        let hash = self.hash(&mapped.pair);
        if position > self.until {
            if self.spots.contains_key(&hash) {
                return;
            }
            let spot = match (change.op, &change.before) {
                (Op::Update | Op::Delete, Some(_)) => Spot::Before(position),
                (Op::Update | Op::Delete, None) => {
                    self.lost.push(shown(&mapped.pair));
                    Spot::None
                }
                (Op::Create | Op::Read | Op::Marker, _) => Spot::None,
            };
            self.spots.insert(hash, spot);
            if spot != Spot::None {
                self.hold(hash, desired(change, mapped, position, spot));
            }
            return;
        }
        self.spots.insert(hash, Spot::After(position));
        self.hold(hash, desired(change, mapped, position, Spot::After(position)));
    }

    fn hash(&self, pair: &crate::change::Pair) -> KeyedHash {
        match self.side {
            Side::Zookeeper => KeyedHash::of(pair.zookeeper.as_deref().unwrap_or_default().as_bytes()),
            Side::Redis => KeyedHash::of(pair.redis.as_deref().unwrap_or_default()),
        }
    }

    /// Holds a state if it fits, in place of the pair's older one.
    fn hold(&mut self, hash: KeyedHash, desired: DesiredState) {
        let bytes = cost(&desired);
        if let Some(old) = self.held.remove(&hash) {
            self.held_bytes = self.held_bytes.saturating_sub(cost(&old));
        }
        if self.held_bytes + bytes <= HELD_BYTES {
            self.held_bytes += bytes;
            self.held.insert(hash, desired);
        }
    }

    /// The next states: at most `count`, and at most `bytes` bytes of values; `None` at the end.
    /// Each pair comes once.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub async fn next(&mut self, count: usize, bytes: usize) -> Result<Option<Vec<DesiredState>>, HistoryError> {
        loop {
            let held: usize =
                self.waiting.iter().take(count).map(|desired| desired.value.as_ref().map_or(0, Vec::len)).sum();
            let enough = self.waiting.len() >= count || held >= bytes || self.waiting_is_all();
            if enough && !self.waiting.is_empty() {
                return Ok(Some(super::restore::batch(&mut self.waiting, count, bytes)));
            }
            if self.waiting_is_all() {
                return self.all_found().map(|()| None);
            }
            self.fill().await?;
        }
    }

    /// Retention may compact a record between the two passes, because the pair has changed since.
    /// For a fold to the end of the stream that does no harm; for a fold to an earlier moment it is
    /// an error.
    fn all_found(&self) -> Result<(), HistoryError> {
        match self.spots.len() {
            missing if missing > 0 && self.until < self.stream_end => Err(HistoryError::Failed(format!(
                "the records of {missing} pairs were compacted while the stream was read; these pairs keep their values; run it again"
            ))),
            _ => Ok(()),
        }
    }

    fn waiting_is_all(&self) -> bool {
        self.held.is_empty() && self.next.is_some_and(|next| next > self.end)
    }

    async fn fill(&mut self) -> Result<(), HistoryError> {
        let Some(next) = self.next else {
            // Between the passes: find the first and the last state that are not held.
            let places = self.spots.iter().filter(|(hash, _)| !self.held.contains_key(*hash));
            let places = places.filter_map(|(_, spot)| match spot {
                Spot::After(position) | Spot::Before(position) => Some(*position),
                Spot::None => None,
            });
            let (mut first, mut last) = (Position::MAX, 0);
            for place in places {
                (first, last) = (first.min(place), last.max(place));
            }
            self.spots.retain(|hash, spot| *spot != Spot::None && !self.held.contains_key(hash));
            (self.next, self.end) = (Some(first), last);
            return Ok(());
        };
        if !self.held.is_empty() {
            self.waiting.extend(std::mem::take(&mut self.held).into_values());
            return Ok(());
        }
        let batch = self.stream.read(next, READ.0, READ.1).await?;
        for Recorded { position, change } in batch.records {
            let Some(mapped) = self.scope.mapped(&change, self.side) else { continue };
            let hash = self.hash(&mapped.pair);
            match self.spots.get(&hash).copied() {
                Some(spot @ (Spot::After(at) | Spot::Before(at))) if at == position && change.op != Op::Marker => {
                    self.spots.remove(&hash);
                    self.waiting.push_back(desired(change, mapped, position, spot));
                }
                _ => {}
            }
        }
        self.next = Some(if batch.next > next { batch.next } else { Position::MAX });
        Ok(())
    }
}

fn cost(desired: &DesiredState) -> usize {
    let names =
        desired.pair.zookeeper.as_ref().map_or(0, String::len) + desired.pair.redis.as_ref().map_or(0, Vec::len);
    HELD_EACH + names + desired.value.as_ref().map_or(0, Vec::len)
}

fn desired(change: Change, mapped: crate::route::Mapped, position: Position, spot: Spot) -> DesiredState {
    let (value, cause) = match spot {
        Spot::Before(_) => (change.before, Cause::Before(position)),
        Spot::After(_) | Spot::None => (change.after, Cause::After(position)),
    };
    let ephemeral = value.is_some() && change.source.ephemeral_owner.is_some_and(|owner| owner != 0);
    DesiredState { route: mapped.route, pair: mapped.pair, value, cause, ephemeral }
}

fn shown(pair: &crate::change::Pair) -> String {
    let key = pair.redis.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
    key.or_else(|| pair.zookeeper.clone()).unwrap_or_default()
}
