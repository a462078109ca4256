//! Whether the stores are those of this pipeline, and whether its owner works on the same two.
//!
//! ```text
//!   connect -> standing by: has the owner the same stores? -> first in line: is nobody at work elsewhere? -> tie -> own
//! ```
//!
//! Identities (`store/ties.rs`) tell a store from another one, and one that lost its data from one that is another. Where they cannot,
//! since one is missing or there is a copy of a store, the claim in Redis does: a worker that owns the pipeline keeps it alive, so a
//! claim whose end moves is proof that somebody is at work on this very Redis, and by which lineage of an ensemble.
//! None of this decides who owns: the line and the fence do.

use super::engine::lock;
use super::owner::Pipeline;
use crate::env;
use crate::store::preflight::{Finding, Level};
use crate::store::{HeldClaim, Keyspace, Known, StoreError, Ties, Znodes, difference, random_identity};
use crate::telemetry::Said;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a claim is looked at. A claim is renewed every 4 s.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a standby that knows the owner's stores to be its own looks again.
const SELDOM: u32 = 10;

/// Looks at a Redis without an identity before it is taken for another one than the owner's: that owner notices within a second or
/// two that its data set went, and renews its claim every 4 s.
const LOOKS_WITHOUT: u32 = 8;

/// Looks at a claim that was laid through another lineage of an ensemble before it is taken for another ensemble than ours. Where an operator
/// deleted our state, or an owner has just begun another lineage, it is not: such an owner notices within two to four seconds, and gives its
/// claim up or lays it anew.
const LOOKS_ELSEWHERE: u32 = 6;

/// Looks at a Redis with the right identity, beyond those in which a claim ends, before it is taken for a copy of the owner's.
const CUT_OFF: u64 = 10;

/// How often an owner looks whether the data set has become another one; the source notices that within a second.
const TIED_EVERY: Duration = Duration::from_millis(500);

/// Bytes of a route that are shown of a difference.
const SHOWN_BYTES: usize = 250;

/// What a worker knows of its pipeline's stores.
#[derive(Default)]
pub(super) struct Identity {
    /// It was the owner, or saw the owner at work on its own Redis.
    proven: AtomicBool,
    /// How the owner's routes differ from those of our file; empty: not at all, as far as is known.
    other_routes: Mutex<String>,
    said: Mutex<Said>,
    /// Redis as this owner tied it.
    tied: Mutex<Option<Ties>>,
}

/// Looks at a claim until its end moves.
#[derive(Default)]
struct Watching {
    until_ms: Option<i64>,
    /// Looks in a row at one that is not of our ensemble.
    elsewhere: u32,
}

impl Watching {
    /// Whether somebody has kept the claim alive since the last look.
    fn moves(&mut self, held: &HeldClaim) -> bool {
        let moves = self.until_ms.is_some_and(|before| before < held.until_ms);
        self.until_ms = Some(held.until_ms);
        moves
    }

    /// Whether it was elsewhere, as it is by this look, for so long that this is believed.
    fn is_believed(&mut self, is_elsewhere: bool) -> bool {
        self.elsewhere = if is_elsewhere { self.elsewhere.saturating_add(1) } else { 0 };
        self.elsewhere > LOOKS_ELSEWHERE
    }
}

/// The claim is laid through the ensemble that we have.
fn is_here(held: &HeldClaim, zookeeper: &Ties) -> bool {
    held.claim.lineage != 0 && held.claim.lineage == zookeeper.lineage
}

async fn both(znodes: &dyn Znodes, keys: &dyn Keyspace) -> Result<(Ties, Ties), StoreError> {
    futures::future::try_join(znodes.ties(), keys.ties()).await
}

fn elsewhere(pipeline: &str, held: &HeldClaim, zookeeper: &Ties, redis: &Ties) -> String {
    format!(
        "pipeline `{pipeline}` is at work through another ensemble or chroot: worker {} owns it in {} with zookeeper {}, and this \
         file has {}; give this pipeline another name, or stop the other worker",
        held.claim.worker, redis.place, held.claim.ensemble, zookeeper.place
    )
}

fn with_another_redis(pipeline: &str, owner: &str, zookeeper: &Ties, redis: &Ties) -> String {
    let known = zookeeper.other.as_ref().map(|known| format!("{}, {}", known.address, known.part)).unwrap_or_default();
    format!(
        "pipeline `{pipeline}` is at work with another Redis: worker {owner} owns it with {known}, and keeps no claim alive in {}, which \
         this file has; give this pipeline another name, or stop the other worker",
        redis.place
    )
}

/// Whether nothing but a claim that is kept alive shows that this is the Redis which the owner has: it has no identity, or was started
/// at another time than that one, and may be a copy of it.
fn is_unproven(zookeeper: &Ties, redis: &Ties) -> bool {
    let known = zookeeper.other.as_ref().filter(|known| !known.is_same_run(&redis.own));
    known.is_some_and(|known| redis.own.identity.is_empty() || !known.life.is_empty())
}

/// How the routes of the owner differ from those of our file, in a sentence; empty if they do not, or if the owner does not tell.
fn other_routes(ours: &[String], owners: &[String]) -> String {
    if owners.is_empty() || ours == owners {
        return String::new();
    }
    let only = |these: &[String], those: &[String]| {
        let mut text =
            these.iter().find(|route| !those.contains(route)).cloned().unwrap_or_else(|| "no such route".to_owned());
        if text.len() > SHOWN_BYTES {
            text.truncate(text.floor_char_boundary(SHOWN_BYTES));
            text.push('…');
        }
        text
    };
    if ours.iter().all(|route| owners.contains(route)) && ours.len() == owners.len() {
        return "this worker's file has other routes: the same ones in another order".to_owned();
    }
    format!("this worker's file has other routes: {} (the owner: {})", only(ours, owners), only(owners, ours))
}

/// Whether the stores are those of the pipeline, for `validate --connect`.
pub async fn look(pipeline: &str, znodes: &dyn Znodes, keys: &dyn Keyspace) -> Result<Finding, StoreError> {
    let wrong = |what: String| Ok(Finding::new(Level::Error, "stores", what, ""));
    let mut watching = Watching::default();
    for look in 0..LOOKS_WITHOUT + LOOKS_ELSEWHERE {
        let (zookeeper, redis) = both(znodes, keys).await?;
        if let Some(what) = difference(pipeline, &zookeeper, &redis) {
            return wrong(what);
        }
        let held = keys.held_claim().await?;
        let owner = znodes.owner().await?;
        let moves = held.as_ref().is_some_and(|held| watching.moves(held));
        let is_elsewhere = held.as_ref().is_some_and(|held| !is_here(held, &zookeeper) && held.claim.lineage != 0);
        let is_believed = watching.is_believed(is_elsewhere);
        let is_without = owner.is_some() && is_unproven(&zookeeper, &redis);
        match held {
            Some(held) if is_believed && moves => return wrong(elsewhere(pipeline, &held, &zookeeper, &redis)),
            _ if !is_elsewhere && (!is_without || moves) => {
                let known = zookeeper.other.is_some() || redis.other.is_some();
                let what = match known {
                    true => format!("they are those of pipeline `{pipeline}`, or came back empty"),
                    false => format!("no pipeline `{pipeline}` has been at work here"),
                };
                return Ok(Finding::new(Level::Ok, "stores", what, ""));
            }
            // Whoever keeps a claim alive elsewhere renews it within the looks that are left after those at which it is not believed.
            _ if !is_elsewhere && look + 1 >= LOOKS_WITHOUT => break,
            _ => env::sleep(LOOK_EVERY).await,
        }
    }
    let (zookeeper, redis) = both(znodes, keys).await?;
    match znodes.owner().await? {
        Some(owner) if is_unproven(&zookeeper, &redis) => {
            wrong(with_another_redis(pipeline, &owner, &zookeeper, &redis))
        }
        _ => Ok(Finding::new(Level::Ok, "stores", "whoever claimed them is gone", "")),
    }
}

impl Pipeline {
    /// The doors, where a pipeline joins two stores.
    fn doors(&self) -> Option<(&dyn Znodes, &dyn Keyspace)> {
        self.znodes.as_deref().zip(self.keys.as_deref())
    }

    /// Waits for the first place in line. Ends as well, with a refusal, if the owner has other stores than this worker.
    pub(super) async fn stand(&self, znodes: &dyn Znodes) -> Result<(), StoreError> {
        let waiting = |owner: String, standbys: u64| {
            let differs = lock(&self.identity.other_routes).clone();
            let differs = if differs.is_empty() { differs } else { format!("; {differs}") };
            self.set(super::control::PipelineState::Standby, &format!("{owner} owns the pipeline{differs}"));
            // Another one owns it, and what is paused is its to say.
            std::mem::take(&mut *lock(&self.paused_before));
            let mut state = lock(&self.state);
            state.owner = owner;
            state.standbys = standbys;
        };
        let stood = tokio::select! {
            biased;
            stood = znodes.stand(&waiting) => stood,
            refused = self.stand_beside() => Err(refused),
        };
        if matches!(stood, Err(StoreError::Refused(_))) && !self.identity.proven.load(Ordering::Relaxed) {
            // It never was a standby: its start is refused.
            self.set(super::control::PipelineState::Connecting, "");
        }
        lock(&self.identity.other_routes).clear();
        stood
    }

    /// Resolves if the owner has other stores than this worker. What the routes are is looked at as well.
    async fn stand_beside(&self) -> StoreError {
        let Some((znodes, keys)) = self.doors() else { return std::future::pending().await };
        let (mut watching, mut looks) = (Watching::default(), 0);
        loop {
            let often = if self.identity.proven.load(Ordering::Relaxed) { SELDOM } else { 1 };
            let looked = self.look_beside(znodes, keys, &mut watching, &mut looks).await;
            if let Err(refused @ (StoreError::Refused(_) | StoreError::Fenced(_))) = looked {
                return refused;
            }
            env::sleep(LOOK_EVERY * often).await;
        }
    }

    async fn look_beside(
        &self,
        znodes: &dyn Znodes,
        keys: &dyn Keyspace,
        watching: &mut Watching,
        looks: &mut u32,
    ) -> Result<(), StoreError> {
        let (zookeeper, redis) = both(znodes, keys).await?;
        let pipeline = &self.settings.pipeline;
        if let Some(what) = difference(pipeline, &zookeeper, &redis) {
            return Err(StoreError::Refused(what));
        }
        self.compare_routes(&zookeeper.routes);
        let owner = znodes.owner().await?;
        // An owner of a version that ties nothing has nothing to be compared with.
        let (Some(owner), Some(known), false) = (owner, &zookeeper.other, self.identity.proven.load(Ordering::Relaxed))
        else {
            return Ok(());
        };
        // Also where that owner does not reach it at the moment, and keeps no claim alive.
        if known.is_same_run(&redis.own) {
            self.identity.proven.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if let Some(held) = keys.held_claim().await? {
            let moves = watching.moves(&held);
            let is_elsewhere = held.claim.lineage != 0 && !is_here(&held, &zookeeper);
            match (moves, watching.is_believed(is_elsewhere)) {
                (true, true) => return Err(StoreError::Refused(elsewhere(pipeline, &held, &zookeeper, &redis))),
                (true, false) => {
                    self.identity.proven.store(!is_elsewhere, Ordering::Relaxed);
                    return Ok(());
                }
                (false, _) => {}
            }
        }
        *looks += 1;
        let patience = match redis.own.identity.as_str() {
            "" => u64::from(LOOKS_WITHOUT),
            // An owner that is frozen keeps nothing alive, and is gone from the line before this. One that is cut off from a Redis that was
            // restarted meanwhile has as long again.
            _ => self.settings.claim_ttl.as_secs() + CUT_OFF,
        };
        if u64::from(*looks) > patience {
            return Err(StoreError::Refused(with_another_redis(pipeline, &owner, &zookeeper, &redis)));
        }
        Ok(())
    }

    fn compare_routes(&self, owners: &[String]) {
        let differs = other_routes(&self.settings.routes_text, owners);
        if !differs.is_empty() && lock(&self.identity.said).is_due(&differs) {
            tracing::warn!(pipeline = self.settings.pipeline, "{differs}; it stands by, and takes over with its own");
        }
        *lock(&self.identity.other_routes) = differs;
    }

    /// Refuses stores that are not this pipeline's.
    pub(super) async fn refuse_other_stores(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.doors() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        difference(&self.settings.pipeline, &zookeeper, &redis).map_or(Ok(()), |what| Err(StoreError::Refused(what)))
    }

    /// As the first in line: nobody is at work on this Redis through another ensemble. A claim of whoever died a moment ago is waited
    /// out, unless it was laid in our own line. Answers with the ensemble's lineage, 0 if there is none.
    pub(super) async fn refuse_another_owner(&self) -> Result<u32, StoreError> {
        let Some((znodes, keys)) = self.doors() else { return Ok(0) };
        let mut watching = Watching::default();
        loop {
            let (zookeeper, redis) = both(znodes, keys).await?;
            if let Some(what) = difference(&self.settings.pipeline, &zookeeper, &redis) {
                return Err(StoreError::Refused(what));
            }
            let is_ours = |held: &HeldClaim| held.claim.identity == self.settings.identity || is_here(held, &zookeeper);
            let Some(held) = keys.held_claim().await?.filter(|held| !is_ours(held)) else {
                return Ok(zookeeper.lineage);
            };
            let (moves, is_believed) = (watching.moves(&held), watching.is_believed(true));
            if moves && is_believed {
                let what = elsewhere(&self.settings.pipeline, &held, &zookeeper, &redis);
                return Err(StoreError::Refused(what));
            }
            let note = format!("waiting for the claim of worker {} in {} to end", held.claim.worker, redis.place);
            self.note(&note);
            env::sleep(LOOK_EVERY).await;
        }
    }

    /// As the first in line: each store has an identity, and remembers the other one. What is missing is written again as the other one
    /// remembers it.
    pub(super) async fn tie(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.doors() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        if let Some(what) = difference(&self.settings.pipeline, &zookeeper, &redis) {
            return Err(StoreError::Refused(what));
        }
        let pipeline = &self.settings.pipeline;
        for (store, known) in [(&zookeeper, &redis.other), (&redis, &zookeeper.other)] {
            // At the address that is remembered it lost its data, which is told as a loss.
            if let (true, Some(known)) = (store.own.identity.is_empty(), known)
                && known.address != store.own.address
            {
                tracing::warn!(
                    pipeline,
                    "{} has no identity: it is taken for {}, which came back empty, and gets its data again; if it is another \
                     store, stop this worker and correct the file",
                    store.place,
                    known.address
                );
            }
        }
        // Named first, each, then remembered: another pipeline may be naming them at this moment.
        let znode = match zookeeper.own.identity.as_str() {
            "" => Known { identity: znodes.identify(formerly(&redis)).await?, ..zookeeper.own.clone() },
            _ => zookeeper.own.clone(),
        };
        let key = match redis.own.identity.as_str() {
            "" => Known { identity: keys.identify(formerly(&zookeeper)).await?, ..redis.own.clone() },
            _ => redis.own.clone(),
        };
        let (znode_ties, key_ties) = (Ties { own: znode.clone(), ..zookeeper }, Ties { own: key.clone(), ..redis });
        if let Some(what) = difference(pipeline, &znode_ties, &key_ties) {
            return Err(StoreError::Refused(what));
        }
        let routes = &self.settings.routes_text;
        if znode_ties.other.as_ref() != Some(&key) || znode_ties.routes != *routes {
            znodes.tie(key.clone(), routes.clone()).await?;
        }
        if key_ties.other.as_ref() != Some(&znode) {
            keys.tie(znode).await?;
        }
        *lock(&self.identity.tied) = Some(key_ties);
        self.identity.proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// While this worker owns: a data set that became another one is tied again. Resolves if the stores are others now.
    pub(super) async fn keep_tied(&self) -> StoreError {
        let Some((_, keys)) = self.doors() else { return std::future::pending().await };
        let mut life = keys.life();
        loop {
            env::sleep(TIED_EVERY).await;
            let now = keys.life();
            if now == life {
                continue;
            }
            match self.tie_again().await {
                Ok(()) => life = now,
                // Asked again.
                Err(StoreError::Away(_) | StoreError::NotNow(_)) => {}
                Err(error) => return error,
            }
        }
    }

    /// The data set is another one than before. In the same life of the server it was flushed, swapped or replaced there, which is a
    /// loss, whatever it is called now; a server that was started again, or another one, has to be ours.
    async fn tie_again(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.doors() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        let tied = lock(&self.identity.tied).clone();
        let is_replaced = tied.is_some_and(|tied| {
            !redis.own.identity.is_empty()
                && redis.own.identity != tied.own.identity
                && redis.own.is_same_run(&tied.own)
        });
        if is_replaced {
            tracing::warn!(
                pipeline = self.settings.pipeline,
                "{} holds the data of another one, identity {}: this pipeline has it from here on",
                redis.place,
                redis.own.identity
            );
            znodes.tie(redis.own.clone(), self.settings.routes_text.clone()).await?;
            keys.tie(zookeeper.own.clone()).await?;
        }
        self.tie().await
    }
}

/// The identity that the other store had, as this one remembers it, or a new one.
fn formerly(by: &Ties) -> String {
    by.other.as_ref().map_or_else(random_identity, |known| known.identity.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_route_that_differs_is_shown_from_both_sides() {
        let ours = routes(&["a: same", "b: here"]);
        assert_eq!(other_routes(&ours, &ours), "");
        assert_eq!(other_routes(&ours, &[]), "", "an owner of the version before tells nothing");
        let told = other_routes(&ours, &routes(&["a: same", "b: there"]));
        assert!(told.contains("b: here") && told.contains("b: there") && !told.contains("same"), "{told}");
        let told = other_routes(&ours, &routes(&["a: same"]));
        assert!(told.contains("b: here") && told.contains("no such route"), "{told}");
        let told = other_routes(&ours, &routes(&["b: here", "a: same"]));
        assert!(told.contains("another order"), "{told}");
        let long = routes(&[&"é".repeat(10_000)]);
        assert!(other_routes(&long, &ours).len() < 1_000);
    }

    #[test]
    fn a_claim_whose_end_moves_is_kept_alive_and_a_copy_of_one_is_not() {
        let mut watching = Watching::default();
        let claim = crate::store::Claim {
            pipeline: "p".to_owned(),
            worker: "host:1".to_owned(),
            identity: "abc".to_owned(),
            lineage: 1,
            ensemble: "zk".to_owned(),
            patterns: Vec::new(),
            writes: true,
            captures: false,
        };
        let looks = [(10, false), (10, false), (14, true), (14, false)];
        for (until_ms, moves) in looks {
            assert_eq!(watching.moves(&HeldClaim { claim: claim.clone(), until_ms }), moves, "{until_ms}");
        }
    }

    #[test]
    fn an_owner_whose_state_was_deleted_is_given_time_to_notice_before_it_is_taken_for_one_elsewhere() {
        let mut watching = Watching::default();
        for _ in 0..LOOKS_ELSEWHERE {
            assert!(!watching.is_believed(true));
        }
        assert!(watching.is_believed(true));
        assert!(!watching.is_believed(false));
        assert!(!watching.is_believed(true), "it was here meanwhile");
    }
}
