//! Makes states true in a store: looks, keeps what it is about to replace, and writes by compare-and-set.

use super::hand::{Edit, Found, Hand};
use super::scope::{HistoryError, Scope};
use crate::change::{Change, Conflict, Connector, Op, Pair, Position, Source};
use crate::env::{self, Instant};
use crate::pipeline::retry::Pauses;
use crate::store::{KeyOutcome, StoreError, ZnodeAcl};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::time::Duration;

/// Times that a pair is looked at again because somebody changed it between look and write. With a look and a write
/// some milliseconds apart this is a pair that changes hundreds of times a second.
const TRIES: usize = 20;

/// A pair and the value that it shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Index of its route.
    pub route: usize,
    /// The pair.
    pub pair: Pair,
    /// The value; `None`: none.
    pub value: Option<Vec<u8>>,
    /// What the conflict log says of what is replaced.
    pub why: Why,
    /// It stood for an ephemeral znode, whose life no stream can give back.
    pub ephemeral: bool,
}

/// Where a wish comes from; shown as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is the state that this record gave the pair.
    After(Position),
    /// It is the state that this record replaced.
    Before(Position),
    /// Somebody asked for it: the sentence.
    Asked(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::After(position) => write!(out, "the state of position {position} was replayed"),
            Why::Before(position) => write!(out, "the state before position {position} was replayed"),
            Why::Asked(sentence) => out.write_str(sentence),
        }
    }
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It was true already.
    Equal,
    /// There was nothing.
    Created,
    /// There was another value, which is kept.
    Updated,
    /// There was a value, which is kept, and there is none now.
    Deleted,
    /// It was left as it is: why, in one word.
    Skipped(&'static str),
    /// It could not be done: reason (one word) and detail (one sentence).
    Failed(&'static str, String),
}

/// Where replaced values are kept.
pub trait Keeper: Send + Sync {
    /// Puts these records on the stream; `Ok` means that they are durable. May be repeated.
    fn keep(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), HistoryError>>;
}

/// What the conflict log says of who replaced a value.
#[derive(Debug, Clone)]
pub struct Reasons {
    /// Whose value stays: a store's name, or `stream`.
    pub winner: String,
    /// Whose value is replaced.
    pub loser: String,
    /// The command.
    pub rule: String,
}

/// See the module.
pub struct Maker<'a> {
    /// The store.
    pub hand: Hand,
    /// Routes and names.
    pub scope: &'a Scope,
    /// Where replaced values go.
    pub keeper: &'a dyn Keeper,
    /// Who replaces whom.
    pub reasons: Reasons,
    /// Only looks.
    pub dry_run: bool,
    /// Whether what stood for an ephemeral znode is written as any other value.
    pub with_ephemerals: bool,
    /// How long the store may be away.
    pub patience: Duration,
}

/// A wish on its way.
struct Open {
    at: usize,
    wish: Wish,
}

impl Maker<'_> {
    /// Makes these true, and answers what became of each and what was there before. `blank`: the store is believed to
    /// have none of them, so that what is written need not be looked at first; the compare-and-set finds out.
    ///
    /// # Errors
    /// [`HistoryError::Away`] if the store is away for longer than `patience`; whatever the keeper fails with.
    pub async fn make(&self, wishes: Vec<Wish>, blank: bool) -> Result<Vec<(Wish, Found, Made)>, HistoryError> {
        let mut done: Vec<Option<(Wish, Found, Made)>> = Vec::new();
        done.resize_with(wishes.len(), || None);
        let mut settle = |open: Open, found: Found, made: Made| {
            if let Some(place) = done.get_mut(open.at) {
                *place = Some((open.wish, found, made));
            }
        };
        let mut open: Vec<Open> = wishes.into_iter().enumerate().map(|(at, wish)| Open { at, wish }).collect();
        // That there is nothing to delete takes a look in ZooKeeper.
        let deletes = open.iter().any(|open| open.wish.value.is_none());
        let mut guess = blank && !self.dry_run && (matches!(self.hand, Hand::Keys(_)) || !deletes);
        let mut pauses = Pauses::default();
        let mut away_since: Option<Instant> = None;
        let mut tries = 0;
        while !open.is_empty() {
            let round = self.round(std::mem::take(&mut open), guess).await;
            let (settled, again, trouble) = match round {
                Ok(round) => round,
                Err((wishes, error)) => (Vec::new(), wishes, Some(self.waited(error)?)),
            };
            guess = false;
            for (wish, found, made) in settled {
                settle(wish, found, made);
            }
            open = again;
            match trouble {
                Some(why) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.patience {
                        return Err(HistoryError::Away(why));
                    }
                    env::sleep(pauses.pause()).await;
                    // What fails here fails in the next round, with its reason.
                    let _ = self.hand.connect().await;
                }
                None => {
                    away_since = None;
                    tries += 1;
                    if tries > TRIES {
                        for left in open.drain(..) {
                            let detail = "it changed each time between being read and being written".to_owned();
                            settle(left, Found::Nothing, Made::Failed("busy", detail));
                        }
                    }
                }
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    fn waited(&self, error: RoundError) -> Result<String, HistoryError> {
        match error {
            RoundError::Store(StoreError::Away(why) | StoreError::NotNow(why) | StoreError::Fenced(why)) => Ok(why),
            RoundError::Store(StoreError::Refused(why)) => Err(HistoryError::Failed(why)),
            RoundError::Keeper(error) => Err(error),
        }
    }

    /// One look and one write. Answers what is settled, what is to be tried again, and why if the store takes nothing.
    async fn round(
        &self,
        mut open: Vec<Open>,
        guess: bool,
    ) -> Result<(Vec<(Open, Found, Made)>, Vec<Open>, Option<String>), (Vec<Open>, RoundError)> {
        let founds = if guess { Ok(vec![Found::Nothing; open.len()]) } else { self.look(&open).await };
        let founds = match founds {
            Ok(founds) => founds,
            Err(error) => return Err((open, error.into())),
        };
        let mut settled = Vec::new();
        let mut work: Vec<(Open, Found)> = Vec::new();
        for (wish, found) in open.drain(..).zip(founds) {
            match self.verdict(&wish.wish, &found, guess) {
                Some(made) => settled.push((wish, found, made)),
                None => work.push((wish, found)),
            }
        }
        let kept: Vec<Change> = work.iter().filter_map(|(open, found)| self.kept(&open.wish, found)).collect();
        if !kept.is_empty()
            && let Err(error) = self.keeper.keep(kept).await
        {
            return Err((work.into_iter().map(|(open, _)| open).collect(), RoundError::Keeper(error)));
        }
        let edits: Vec<Edit<'_>> = work
            .iter()
            .map(|(open, found)| Edit {
                pair: &open.wish.pair,
                found,
                value: open.wish.value.as_deref(),
                acl: self.scope.routes.get(open.wish.route).map_or(ZnodeAcl::Parent, |route| route.acl),
            })
            .collect();
        let outcomes = if edits.is_empty() { Ok(Vec::new()) } else { self.hand.edit(&edits).await };
        drop(edits);
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // What was settled by the look is looked at again with the rest: equal stays equal.
                let settled = settled.into_iter().map(|(open, ..)| open);
                return Err((settled.chain(work.into_iter().map(|(open, _)| open)).collect(), error.into()));
            }
        };
        let mut again = Vec::new();
        let mut trouble = None;
        for ((open, found), outcome) in work.into_iter().zip(outcomes) {
            match outcome {
                KeyOutcome::Done => {
                    let made = made(&open.wish, &found);
                    settled.push((open, found, made));
                }
                KeyOutcome::Refused => again.push(open),
                KeyOutcome::NotNow(why) => {
                    trouble = Some(why);
                    again.push(open);
                }
                KeyOutcome::Impossible(reason, detail) => settled.push((open, found, Made::Failed(reason, detail))),
            }
        }
        Ok((settled, again, trouble))
    }

    /// Reads short: the value of a long one only where it will be replaced.
    async fn look(&self, open: &[Open]) -> Result<Vec<Found>, StoreError> {
        let pairs: Vec<&Pair> = open.iter().map(|open| &open.wish.pair).collect();
        let mut founds = self.hand.look(&pairs, false).await?;
        let replaced = |(open, found): &(&Open, &Found)| {
            matches!(found, Found::Key { bytes: None, .. }) && !found.is(open.wish.value.as_deref())
        };
        let long: Vec<usize> =
            open.iter().zip(&founds).enumerate().filter(|(_, both)| replaced(both)).map(|(at, _)| at).collect();
        let names: Vec<&Pair> = long.iter().filter_map(|at| pairs.get(*at).copied()).collect();
        if !names.is_empty() {
            for (at, found) in long.into_iter().zip(self.hand.look(&names, true).await?) {
                if let Some(place) = founds.get_mut(at) {
                    *place = found;
                }
            }
        }
        Ok(founds)
    }

    /// What needs no write.
    fn verdict(&self, wish: &Wish, found: &Found, guess: bool) -> Option<Made> {
        if wish.ephemeral && !self.with_ephemerals {
            return Some(Made::Skipped("ephemeral"));
        }
        if let Found::Unfit(reason, detail) = found {
            return Some(Made::Failed(reason, detail.clone()));
        }
        if guess {
            return None;
        }
        if found.is(wish.value.as_deref()) {
            return Some(Made::Equal);
        }
        if found.is_ephemeral() {
            return Some(Made::Skipped("ephemeral"));
        }
        self.dry_run.then(|| made(wish, found))
    }

    /// The record of what is replaced; `None` where nothing is.
    fn kept(&self, wish: &Wish, found: &Found) -> Option<Change> {
        let lost = found.value()?;
        let route = self.scope.routes.get(wish.route)?;
        let stat = match found {
            Found::Znode { stat, .. } => Some(stat),
            _ => None,
        };
        let now = env::unix_ms();
        Some(Change {
            op: Op::Marker,
            before: None,
            after: wish.value.clone(),
            source: Source::new(Connector::Keepstep, &self.reasons.winner, now),
            ts_ms: now,
            route: route.name.clone(),
            value: route.value,
            pair: wish.pair.clone(),
            base: None,
            collapsed: None,
            conflict: Some(Conflict {
                winner: self.reasons.winner.clone(),
                loser: self.reasons.loser.clone(),
                value: Some(lost.to_vec()),
                mzxid: stat.map(|stat| stat.mzxid),
                version: stat.map(|stat| stat.version),
                rule: self.reasons.rule.clone(),
                reason: wish.why.to_string(),
            }),
            gap: None,
            epoch: 0,
            loss: None,
        })
    }
}

/// Why a round as a whole did not go.
enum RoundError {
    Store(StoreError),
    Keeper(HistoryError),
}

impl From<StoreError> for RoundError {
    fn from(error: StoreError) -> RoundError {
        RoundError::Store(error)
    }
}

fn made(wish: &Wish, found: &Found) -> Made {
    match (&wish.value, found.exists()) {
        (None, true) => Made::Deleted,
        (None, false) => Made::Equal,
        (Some(_), true) => Made::Updated,
        (Some(_), false) => Made::Created,
    }
}

/// Cuts wishes into batches: at most so many, and so many bytes of values.
pub(super) fn batch(waiting: &mut VecDeque<Wish>, count: usize, bytes: usize) -> Vec<Wish> {
    let mut batch = Vec::new();
    let mut size = 0;
    while let Some(wish) = waiting.pop_front() {
        let more = wish.value.as_ref().map_or(0, Vec::len);
        if !batch.is_empty() && (batch.len() >= count || size + more > bytes) {
            waiting.push_front(wish);
            break;
        }
        size += more;
        batch.push(wish);
    }
    batch
}
