//! The canary: a field that each owner leaves beside its epoch, and changes every few seconds in which it wrote something. A data set
//! without it is another one, or was flushed; one with an earlier one is an older one.

use super::calls::answer as no_error;
use super::source::Member;
use super::state::{self, Update};
use super::{Shared, lock, own};
use crate::change::LossCause;
use crate::store::StoreError;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Looks for the canaries of all these pipelines in one go.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    up: &[(Arc<Member>, Arc<Shared>)],
) -> Result<(), RedisError> {
    let mut looks = redis::pipe();
    let mut asked = Vec::new();
    for (member, shared) in up {
        let (canary, next) = {
            let lineage = lock(&shared.lineage);
            (lineage.canary.clone(), lineage.next_canary.clone())
        };
        if !canary.is_empty() {
            looks.cmd("HMGET").arg(state::key(shared)).arg(&[state::CANARY, state::EPOCH]);
            asked.push((member, shared, canary, next));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let answers = connection.send_packed_commands(&looks, 0, asked.len()).await?;
    for ((member, shared, canary, next), answer) in asked.into_iter().zip(answers) {
        let answer = match no_error(Ok(answer)) {
            Err(error) if own::is_of_another_type(&error) => {
                // Of this pipeline alone; the next ownership begins when it can be remembered.
                let why = own::overwritten(&shared.settings, &state::key(shared));
                member.tell(|hints| hints.end(StoreError::NotNow(why)));
                continue;
            }
            answer => answer?,
        };
        let (found, epoch): (Option<String>, Option<u64>) = redis::from_redis_value(answer)?;
        let is_newer_owner = epoch > Some(shared.epoch.load(Ordering::Relaxed));
        // Of the last change nobody may know whether it arrived.
        let is_ours = found.as_ref().is_some_and(|found| *found == canary || !next.is_empty() && *found == next);
        if !is_newer_owner && !is_ours {
            is_gone(connection, member, shared, &canary, found.is_some()).await;
        }
    }
    Ok(())
}

/// Changes the canary where something was written since, so that a copy that was made before is told from what is there now.
pub(super) async fn change(connection: &mut MultiplexedConnection, shared: &Shared) -> Result<(), RedisError> {
    if lock(&shared.lineage).canary.is_empty() || !shared.has_written.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    let (before, next) = {
        let mut lineage = lock(&shared.lineage);
        lineage.next_canary = shared.nonce.fetch_add(1, Ordering::Relaxed).to_string();
        (lineage.canary.clone(), lineage.next_canary.clone())
    };
    let written = state::write_on(connection, shared, Update::default().canary(&next)).await;
    if written.is_err() {
        shared.has_written.store(true, Ordering::Relaxed);
    }
    if written? {
        let mut lineage = lock(&shared.lineage);
        if lineage.canary == before && lineage.next_canary == next {
            lineage.canary = std::mem::take(&mut lineage.next_canary);
        }
    }
    Ok(())
}

/// `is_another`: there is one, of another time.
async fn is_gone(
    connection: &mut MultiplexedConnection,
    member: &Member,
    shared: &Shared,
    canary: &str,
    is_another: bool,
) {
    let fresh = {
        let mut lineage = lock(&shared.lineage);
        if lineage.canary != canary {
            // The next ownership has left another one meanwhile.
            return;
        }
        lineage.generation += 1;
        lineage.life += 1;
        lineage.compared = None;
        lineage.older = is_another;
        lineage.next_canary.clear();
        // Another one than before: the data set that went may come back (SWAPDB), and is then an older one.
        lineage.canary = shared.nonce.fetch_add(1, Ordering::Relaxed).to_string();
        lineage.canary.clone()
    };
    let saved = state::write_on(connection, shared, Update::default().canary(&fresh)).await;
    // The loss is told with the number of its pairs, once that is known.
    tracing::info!(
        store = shared.settings.name,
        "Keepstep's own keys are gone from Redis: its data set is another one"
    );
    if let Err(error) = saved {
        tracing::debug!(store = shared.settings.name, %error, "they are written again later");
    }
    member.lost(LossCause::Flushed, "the data set was flushed, swapped or replaced");
}
