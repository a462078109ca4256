//! Gives pairs the values that a command wants in one store: reads, archives what it is about to
//! replace, and writes by compare-and-set.

use super::client::{Edit, Found, StoreClient};
use super::scope::{HistoryError, Scope};
use crate::change::{Change, Conflict, Connector, Op, Pair, Position, Source};
use crate::env::{self, Instant};
use crate::failpoint::planted;
use crate::pipeline::retry::Pauses;
use crate::store::{KeyOutcome, StoreError, ZnodeAcl};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::time::Duration;

/// How often a pair is read again because an application changed it between the read and the write.
/// With some milliseconds between the two, only a pair that changes hundreds of times a second
/// reaches this.
const TRIES: usize = 20;

/// The value that a pair is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredState {
    /// Index of its route.
    pub route: usize,
    /// The pair.
    pub pair: Pair,
    /// The value; `None`: the pair is to have no value in this store.
    pub value: Option<Vec<u8>>,
    /// The reason that the conflict log gives for the replaced value.
    pub cause: Cause,
    /// The value was that of an ephemeral znode. No stream can restore the session on which it
    /// depends.
    pub ephemeral: bool,
}

/// Where a desired state comes from; shown as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The state that this record gave the pair.
    After(Position),
    /// The state that this record replaced.
    Before(Position),
    /// A command asked for it: the sentence.
    Command(String),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::After(position) => write!(out, "the state of position {position} was replayed"),
            Cause::Before(position) => write!(out, "the state before position {position} was replayed"),
            Cause::Command(sentence) => out.write_str(sentence),
        }
    }
}

/// What happened to a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pair had the value already.
    Equal,
    /// The pair had no value.
    Created,
    /// The pair had another value, which is archived.
    Updated,
    /// The pair had a value, which is archived, and has none now.
    Deleted,
    /// The pair was left as it is: the reason, one word.
    Skipped(&'static str),
    /// The write is not possible: reason (one word) and detail (one sentence).
    Failed(&'static str, String),
}

/// A pair that is done: what it was to have, what it had, and what happened.
pub type Done = (DesiredState, Found, Outcome);

/// Where replaced values are recorded.
pub trait Archive: Send + Sync {
    /// Puts these records on the stream. Called before the values are replaced. `Ok` means that the
    /// records are durable; after an error some of them may be. May be repeated: the same record
    /// twice does no harm.
    fn record_replaced(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), HistoryError>>;
}

/// The parts of an entry of the conflict log that are the same for all pairs of a command.
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
pub struct Restorer<'a> {
    /// The store that is written.
    pub client: StoreClient,
    /// Routes and names.
    pub scope: &'a Scope,
    /// Where replaced values are recorded.
    pub archive: &'a dyn Archive,
    /// Who replaces whom.
    pub reasons: Reasons,
    /// Only reads.
    pub dry_run: bool,
    /// Writes the value of an ephemeral znode like any other.
    pub with_ephemerals: bool,
    /// How long the store may be away.
    pub patience: Duration,
}

/// A pair that is not done yet.
struct Pending {
    /// Its place in the answer.
    at: usize,
    desired: DesiredState,
}

/// One read and one write.
struct Attempt {
    done: Vec<(Pending, Found, Outcome)>,
    again: Vec<Pending>,
    /// Why the store takes no writes now.
    not_now: Option<String>,
}

impl Restorer<'_> {
    /// Gives these pairs their values and answers with each pair's outcome and what it had before.
    /// `expect_empty`: the store probably has none of them, so the first read is left out; a wrong
    /// guess costs a refused write.
    ///
    /// # Errors
    /// [`HistoryError::Away`] if the store is away for longer than `patience`; or the error of the
    /// archive.
    pub async fn restore(&self, desired: Vec<DesiredState>, expect_empty: bool) -> Result<Vec<Done>, HistoryError> {
        let mut done: Vec<Option<Done>> = Vec::new();
        done.resize_with(desired.len(), || None);
        let mut finish = |pending: Pending, found: Found, outcome: Outcome| {
            if let Some(place) = done.get_mut(pending.at) {
                *place = Some((pending.desired, found, outcome));
            }
        };
        let mut open: Vec<Pending> =
            desired.into_iter().enumerate().map(|(at, desired)| Pending { at, desired }).collect();
        // Only a read of ZooKeeper can show that there is nothing to delete.
        let deletes = open.iter().any(|pending| pending.desired.value.is_none());
        let mut guess = expect_empty && !self.dry_run && (matches!(self.client, StoreClient::Keys(_)) || !deletes);
        let mut pauses = Pauses::default();
        let mut away_since: Option<Instant> = None;
        let mut tries = 0;
        while !open.is_empty() {
            let attempt = match self.attempt(std::mem::take(&mut open), guess).await {
                Ok(attempt) => attempt,
                Err((again, error)) => Attempt { done: Vec::new(), again, not_now: Some(error.worth_waiting()?) },
            };
            guess = false;
            for (pending, found, outcome) in attempt.done {
                finish(pending, found, outcome);
            }
            open = attempt.again;
            match attempt.not_now {
                Some(why) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.patience {
                        return Err(HistoryError::Away(why));
                    }
                    env::sleep(pauses.pause()).await;
                    // If this fails, the next attempt fails and gives the reason.
                    let _ = self.client.connect().await;
                }
                None => {
                    away_since = None;
                    tries += 1;
                    if tries > TRIES {
                        for left in open.drain(..) {
                            let detail = "it changed between every read and the write that followed".to_owned();
                            finish(left, Found::Nothing, Outcome::Failed("busy", detail));
                        }
                    }
                }
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Reads, archives and writes once. An error gives all pairs back.
    async fn attempt(&self, mut open: Vec<Pending>, guess: bool) -> Result<Attempt, (Vec<Pending>, AttemptError)> {
        let founds = if guess { Ok(vec![Found::Nothing; open.len()]) } else { self.read(&open).await };
        let founds = match founds {
            Ok(founds) => founds,
            Err(error) => return Err((open, error.into())),
        };
        let mut done = Vec::new();
        let mut to_write: Vec<(Pending, Found)> = Vec::new();
        for (pending, found) in open.drain(..).zip(founds) {
            match self.outcome_without_write(&pending.desired, &found, guess) {
                Some(outcome) => done.push((pending, found, outcome)),
                None => to_write.push((pending, found)),
            }
        }
        let replaced: Vec<Change> =
            to_write.iter().filter_map(|(pending, found)| self.replaced(&pending.desired, found)).collect();
        if !replaced.is_empty()
            && !planted!("a command does not record what it replaces")
            && let Err(error) = self.archive.record_replaced(replaced).await
        {
            return Err((to_write.into_iter().map(|(pending, _)| pending).collect(), AttemptError::Archive(error)));
        }
        let edits: Vec<Edit<'_>> = to_write
            .iter()
            .map(|(pending, found)| Edit {
                pair: &pending.desired.pair,
                found,
                value: pending.desired.value.as_deref(),
                acl: self.scope.routes.get(pending.desired.route).map_or(ZnodeAcl::Parent, |route| route.acl),
            })
            .collect();
        let edited = if edits.is_empty() { Ok(Vec::new()) } else { self.client.edit(&edits).await };
        drop(edits);
        let edited = match edited {
            Ok(edited) => edited,
            Err(error) => {
                // Pairs that needed no write are read again with the rest: an equal pair is still
                // equal.
                let done = done.into_iter().map(|(pending, ..)| pending);
                return Err((done.chain(to_write.into_iter().map(|(pending, _)| pending)).collect(), error.into()));
            }
        };
        let mut attempt = Attempt { done, again: Vec::new(), not_now: None };
        for ((pending, found), edited) in to_write.into_iter().zip(edited) {
            match edited {
                KeyOutcome::Done => {
                    let outcome = outcome(&pending.desired, &found);
                    attempt.done.push((pending, found, outcome));
                }
                KeyOutcome::Refused => attempt.again.push(pending),
                KeyOutcome::NotNow(why) => {
                    attempt.not_now = Some(why);
                    attempt.again.push(pending);
                }
                KeyOutcome::Impossible(reason, detail) => {
                    attempt.done.push((pending, found, Outcome::Failed(reason, detail)));
                }
            }
        }
        Ok(attempt)
    }

    /// Reads all pairs, and the value of a long one only if it will be replaced.
    async fn read(&self, open: &[Pending]) -> Result<Vec<Found>, StoreError> {
        let pairs: Vec<&Pair> = open.iter().map(|pending| &pending.desired.pair).collect();
        let mut founds = self.client.look(&pairs, false).await?;
        let is_replaced = |(pending, found): &(&Pending, &Found)| {
            matches!(found, Found::Key { bytes: None, .. }) && !found.is(pending.desired.value.as_deref())
        };
        let long: Vec<usize> =
            open.iter().zip(&founds).enumerate().filter(|(_, both)| is_replaced(both)).map(|(at, _)| at).collect();
        let names: Vec<&Pair> = long.iter().filter_map(|at| pairs.get(*at).copied()).collect();
        if !names.is_empty() {
            for (at, found) in long.into_iter().zip(self.client.look(&names, true).await?) {
                if let Some(place) = founds.get_mut(at) {
                    *place = found;
                }
            }
        }
        Ok(founds)
    }

    /// The outcome of a pair that needs no write, or may not be written; `None`: write it.
    fn outcome_without_write(&self, desired: &DesiredState, found: &Found, guess: bool) -> Option<Outcome> {
        match foresee(desired, found, self.with_ephemerals) {
            Outcome::Equal if guess => None,
            Outcome::Created | Outcome::Updated | Outcome::Deleted if !self.dry_run => None,
            outcome => Some(outcome),
        }
    }

    /// The record of the value that is replaced; `None` if none is. A marker with a conflict: it is
    /// in the conflict log and is no state of the pair.
    fn replaced(&self, desired: &DesiredState, found: &Found) -> Option<Change> {
        let lost = found.value()?;
        let route = self.scope.routes.get(desired.route)?;
        let stat = match found {
            Found::Znode { stat, .. } => Some(stat),
            _ => None,
        };
        let now = env::unix_ms();
        Some(Change {
            op: Op::Marker,
            before: None,
            after: desired.value.clone(),
            source: Source::new(Connector::Keepstep, &self.reasons.winner, now),
            ts_ms: now,
            route: route.name.clone(),
            value: route.value,
            pair: desired.pair.clone(),
            base: None,
            collapsed: None,
            conflict: Some(Conflict {
                winner: self.reasons.winner.clone(),
                loser: self.reasons.loser.clone(),
                value: Some(lost.to_vec()),
                mzxid: stat.map(|stat| stat.mzxid),
                version: stat.map(|stat| stat.version),
                rule: self.reasons.rule.clone(),
                reason: desired.cause.to_string(),
            }),
            gap: None,
            epoch: 0,
            loss: None,
        })
    }
}

/// Why an attempt as a whole failed.
enum AttemptError {
    Store(StoreError),
    Archive(HistoryError),
}

impl AttemptError {
    /// The reason, if the store may recover; else the error of the command.
    fn worth_waiting(self) -> Result<String, HistoryError> {
        match self {
            AttemptError::Store(StoreError::Away(why) | StoreError::NotNow(why) | StoreError::Fenced(why)) => {
                Ok(why.into_text())
            }
            AttemptError::Store(error @ StoreError::Refused(_)) => Err(error.into()),
            AttemptError::Archive(error) => Err(error),
        }
    }
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> AttemptError {
        AttemptError::Store(error)
    }
}

/// What comes of a pair if the store still has what was found.
pub(super) fn foresee(desired: &DesiredState, found: &Found, with_ephemerals: bool) -> Outcome {
    if desired.ephemeral && !with_ephemerals {
        return Outcome::Skipped("ephemeral");
    }
    match found {
        Found::Unsupported(reason, detail) => Outcome::Failed(reason, detail.clone()),
        found if found.is(desired.value.as_deref()) => Outcome::Equal,
        found if found.is_ephemeral() => Outcome::Skipped("ephemeral"),
        found => outcome(desired, found),
    }
}

fn outcome(desired: &DesiredState, found: &Found) -> Outcome {
    match (&desired.value, found.exists()) {
        (None, true) => Outcome::Deleted,
        (None, false) => Outcome::Equal,
        (Some(_), true) => Outcome::Updated,
        (Some(_), false) => Outcome::Created,
    }
}

/// Takes the next batch: at most `count` states and `bytes` bytes of values, and at least one.
pub(super) fn batch(waiting: &mut VecDeque<DesiredState>, count: usize, bytes: usize) -> Vec<DesiredState> {
    let mut batch = Vec::new();
    let mut size = 0;
    while let Some(desired) = waiting.pop_front() {
        let more = desired.value.as_ref().map_or(0, Vec::len);
        if !batch.is_empty() && (batch.len() >= count || size + more > bytes) {
            waiting.push_front(desired);
            break;
        }
        size += more;
        batch.push(desired);
    }
    batch
}
