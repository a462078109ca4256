//! What a worker does about the identities of its stores: it looks, refuses, remembers. The rules are those of [`super::identity`] and
//! [`super::captured_store`].

use super::captured_store::{Captured, check};
use super::folder;
use super::identity::{
    LOOK_EVERY, LOOKS_WITHOUT, Watching, both, elsewhere, is_here, other_routes, with_another_redis,
};
use super::owner::Pipeline;
use crate::env::{self, lock};
use crate::store::{FailureKind, HeldClaim, Keyspace, Known, StoreError, Ties, Znodes, difference, random_identity};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a standby that knows the owner's stores to be its own looks again.
const SELDOM: u32 = 10;

/// Looks at a Redis with the right identity, beyond those in which a claim ends, before it is taken for a copy of the owner's.
const CUT_OFF: u64 = 10;

/// How often an owner looks whether the data set has become another one; the source notices that within a second.
const TIED_EVERY: Duration = Duration::from_millis(500);

impl Pipeline {
    /// Waits for the first place in line. Ends as well, with a refusal, if the owner has other stores than this worker.
    pub(super) async fn stand(&self) -> Result<(), StoreError> {
        let Some(znodes) = &self.stores.znodes else { return Ok(()) };
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
        let Some((znodes, keys)) = self.stores.both() else { return std::future::pending().await };
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
        let pipeline = &self.spec.settings.pipeline;
        if let Some(what) = difference(pipeline, &zookeeper, &redis) {
            return Err(StoreError::refused(FailureKind::Identity, what));
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
                (true, true) => {
                    return Err(StoreError::refused(
                        FailureKind::Owner,
                        elsewhere(pipeline, &held, &zookeeper, &redis),
                    ));
                }
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
            _ => self.spec.settings.claim_ttl.as_secs() + CUT_OFF,
        };
        if u64::from(*looks) > patience {
            return Err(StoreError::refused(
                FailureKind::Identity,
                with_another_redis(pipeline, &owner, &zookeeper, &redis),
            ));
        }
        Ok(())
    }

    fn compare_routes(&self, owners: &[String]) {
        let differs = other_routes(&self.spec.settings.routes_text, owners);
        if !differs.is_empty() && lock(&self.identity.said).is_due(&differs) {
            tracing::warn!(
                pipeline = self.spec.settings.pipeline,
                "{differs}; it stands by, and takes over with its own"
            );
        }
        *lock(&self.identity.other_routes) = differs;
    }

    /// Refuses stores that are not this pipeline's.
    pub(super) async fn refuse_other_stores(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.stores.both() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        difference(&self.spec.settings.pipeline, &zookeeper, &redis)
            .map_or(Ok(()), |what| Err(StoreError::refused(FailureKind::Identity, what)))
    }

    /// As the first in line: nobody is at work on this Redis through another ensemble. A claim of whoever died a moment ago is waited
    /// out, unless it was laid in our own line. Answers with the ensemble's lineage, 0 if there is none.
    pub(super) async fn refuse_another_owner(&self) -> Result<u32, StoreError> {
        let Some((znodes, keys)) = self.stores.both() else { return Ok(0) };
        let mut watching = Watching::default();
        loop {
            let (zookeeper, redis) = both(znodes, keys).await?;
            if let Some(what) = difference(&self.spec.settings.pipeline, &zookeeper, &redis) {
                return Err(StoreError::refused(FailureKind::Identity, what));
            }
            let is_ours =
                |held: &HeldClaim| held.claim.identity == self.spec.settings.identity || is_here(held, &zookeeper);
            let Some(held) = keys.held_claim().await?.filter(|held| !is_ours(held)) else {
                return Ok(zookeeper.lineage);
            };
            let (moves, is_believed) = (watching.moves(&held), watching.is_believed(true));
            if moves && is_believed {
                let what = elsewhere(&self.spec.settings.pipeline, &held, &zookeeper, &redis);
                return Err(StoreError::refused(FailureKind::Owner, what));
            }
            let note = format!("waiting for the claim of worker {} in {} to end", held.claim.worker, redis.place);
            self.note(&note);
            env::sleep(LOOK_EVERY).await;
        }
    }

    /// As the first in line: each store has an identity, and remembers the other one. What is missing is written again as the other one
    /// remembers it.
    pub(super) async fn tie(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.stores.both() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        if let Some(what) = difference(&self.spec.settings.pipeline, &zookeeper, &redis) {
            return Err(StoreError::refused(FailureKind::Identity, what));
        }
        let pipeline = &self.spec.settings.pipeline;
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
            return Err(StoreError::refused(FailureKind::Identity, what));
        }
        let routes = &self.spec.settings.routes_text;
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
        let Some((_, keys)) = self.stores.both() else { return std::future::pending().await };
        let mut incarnation = keys.incarnation();
        loop {
            env::sleep(TIED_EVERY).await;
            let now = keys.incarnation();
            if now == incarnation {
                continue;
            }
            match self.tie_again().await {
                Ok(()) => incarnation = now,
                // Asked again.
                Err(StoreError::Away(_) | StoreError::NotNow(_)) => {}
                Err(error) => return error,
            }
        }
    }

    /// The data set is another one than before. In the same life of the server it was flushed, swapped or replaced there, which is a
    /// loss, whatever it is called now; a server that was started again, or another one, has to be ours.
    async fn tie_again(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.stores.both() else { return Ok(()) };
        let (zookeeper, redis) = both(znodes, keys).await?;
        let tied = lock(&self.identity.tied).clone();
        let is_replaced = tied.is_some_and(|tied| {
            !redis.own.identity.is_empty()
                && redis.own.identity != tied.own.identity
                && redis.own.is_same_run(&tied.own)
        });
        if is_replaced {
            tracing::warn!(
                pipeline = self.spec.settings.pipeline,
                "{} holds the data of another one, identity {}: this pipeline has it from here on",
                redis.place,
                redis.own.identity
            );
            znodes.tie(redis.own.clone(), self.spec.settings.routes_text.clone()).await?;
            keys.tie(zookeeper.own.clone()).await?;
        }
        self.tie().await
    }
}

/// The identity that the other store had, as this one remembers it, or a new one.
fn formerly(by: &Ties) -> String {
    let known = by.other.as_ref().map(|known| known.identity.clone());
    known.filter(|identity| !identity.is_empty()).unwrap_or_else(random_identity)
}

impl Pipeline {
    /// The store, where the pipeline captures one.
    fn captured(&self) -> Option<Captured<'_>> {
        match (&self.stores.znodes, &self.stores.keys) {
            (Some(znodes), None) => Some(Captured::Znodes(znodes.as_ref())),
            (None, Some(keys)) => Some(Captured::Keys(keys.as_ref())),
            _ => None,
        }
    }

    /// Refuses another store than the one that is captured.
    pub(super) async fn refuse_another_store(&self) -> Result<(), StoreError> {
        let Some(store) = self.captured() else { return Ok(()) };
        check(&self.spec.settings.pipeline, &self.store_file, &store).await
    }

    /// As the owner: the store has an identity, and the folder remembers it. One that is missing is written again as it was.
    pub(super) async fn remember_store(&self) -> Result<(), StoreError> {
        let Some(store) = self.captured() else { return Ok(()) };
        let (ties, known) = store.look(&self.spec.settings.pipeline, &self.store_file).await?;
        // Another run is the same store.
        let mut own = Known { incarnation: String::new(), ..ties.own };
        if own.identity.is_empty() {
            let before = known.as_ref().map_or_else(random_identity, |known| known.identity.clone());
            own.identity = match store.identify(before).await {
                Ok(identity) => identity,
                // A login that only reads captures all the same: of a store without an identity nothing can be remembered.
                Err(StoreError::Refused(why)) => {
                    tracing::info!(pipeline = self.spec.settings.pipeline, "the store gets no identity: {why}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
        }
        if known.as_ref() == Some(&own) {
            return Ok(());
        }
        let text = serde_json::to_vec(&own).unwrap_or_default();
        folder::replace(&self.store_file, text).await
    }
}
