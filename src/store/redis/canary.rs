//! The canary: a field that each owner leaves beside its epoch, and changes every few seconds in
//! which it wrote something. A data set without it is another one, or was flushed; one with an
//! earlier one is an older one.

use super::line::{Cmd, Line, RedisError, Value, cmd};
use super::lineage::Lineage;
use super::own;
use super::part::Part;
use super::reply::{integer, keys_of};
use super::state::{self, Update};
use super::subscribers::Subscriber;
use crate::change::LossCause;
use crate::env::lock;
use crate::store::{FailureKind, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Looks for the canaries of all these pipelines in one go.
pub(super) async fn check(line: &dyn Line, up: &[(Arc<Subscriber>, Arc<Part>)]) -> Result<(), RedisError> {
    let mut looks: Vec<Cmd> = Vec::new();
    let mut asked = Vec::new();
    for (subscriber, part) in up {
        let (canary, next) = {
            let lineage = lock(&part.database.lineage);
            (lineage.canary.clone(), lineage.next_canary.clone())
        };
        if !canary.is_empty() {
            let mut look = cmd("HMGET");
            look.arg(state::key(&part.database)).arg(&[state::CANARY, state::EPOCH]);
            looks.push(look);
            asked.push((subscriber, part, canary, next));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let answers = line.pipeline(looks).await?;
    for ((subscriber, part, canary, next), answer) in asked.into_iter().zip(answers) {
        let fields = match answer {
            Err(error) if own::is_of_another_type(&error) => {
                // Of this pipeline alone; the next ownership begins when it can be remembered.
                let why = own::overwritten(&part.database.target, &state::key(&part.database));
                subscriber.notify(|hints| hints.end(StoreError::not_now(FailureKind::Overwritten, why)));
                continue;
            }
            answer => keys_of(answer?),
        };
        let mut fields = fields.into_iter();
        let found = fields.next().filter(|found| !found.is_empty());
        let epoch = u64::try_from(integer(fields.next().map(Value::BulkString))).unwrap_or(0);
        let is_newer_owner = epoch > part.database.epoch.load(Ordering::Relaxed);
        let is = |canary: &str| found.as_ref().is_some_and(|found| *found == canary.as_bytes());
        if is(&canary) || !next.is_empty() && is(&next) {
            settle(&mut lock(&part.database.lineage), (&canary, &next), is(&next));
        } else if !is_newer_owner {
            is_gone(line, subscriber, part, &canary, found).await;
        }
    }
    Ok(())
}

/// It is known whether the change from one canary to the next has arrived.
fn settle(lineage: &mut Lineage, (canary, next): (&str, &str), has_arrived: bool) {
    if lineage.canary == canary && lineage.next_canary == next {
        let next = std::mem::take(&mut lineage.next_canary);
        if has_arrived {
            lineage.canary = next;
        }
    }
}

/// Changes the canary where something was written since, so that a copy that was made before can be
/// distinguished from what is there now. Not while nobody knows whether the last change arrived.
pub(super) async fn change(line: &dyn Line, part: &Part) -> Result<(), RedisError> {
    let database = &part.database;
    let (canary, next) = {
        let mut lineage = lock(&database.lineage);
        let is_settled = !lineage.canary.is_empty() && lineage.next_canary.is_empty();
        if !is_settled || !database.has_written.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        lineage.next_canary = database.nonce().to_string();
        (lineage.canary.clone(), lineage.next_canary.clone())
    };
    let written = part.state.write_on(line, database, Update::default().canary(&canary, &next)).await;
    match written {
        Ok(true) => settle(&mut lock(&database.lineage), (&canary, &next), true),
        // The next look finds the other data set, or the newer owner.
        Ok(false) => {}
        Err(_) => database.has_written.store(true, Ordering::Relaxed),
    }
    written.map(|_| ())
}

/// `found`: there is this one, of another time.
async fn is_gone(line: &dyn Line, subscriber: &Subscriber, part: &Part, canary: &str, found: Option<Vec<u8>>) {
    let database = &part.database;
    let fresh = {
        let mut lineage = lock(&database.lineage);
        if lineage.canary != canary {
            // The next ownership has left another one meanwhile.
            return;
        }
        lineage.generation += 1;
        lineage.incarnation += 1;
        lineage.compared = None;
        lineage.older = found.is_some();
        lineage.next_canary.clear();
        // Another one than before: the data set that went may come back (SWAPDB), and is then an
        // older one.
        lineage.canary = database.nonce().to_string();
        lineage.canary.clone()
    };
    // If just that is still there: else the next look finds what is.
    let found = String::from_utf8_lossy(found.as_deref().unwrap_or_default()).into_owned();
    let saved = part.state.write_on(line, database, Update::default().canary(&found, &fresh)).await;
    // The loss is reported with the number of its pairs, once that is known.
    tracing::info!(
        store = database.settings.name,
        "Keepstep's own keys are gone from Redis: its data set is another one"
    );
    if let Err(error) = saved {
        tracing::debug!(store = database.settings.name, %error, "they are written again later");
    }
    subscriber.lost(LossCause::Flushed, "the data set was flushed, swapped or replaced");
}
