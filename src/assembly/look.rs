//! Looks at the stores of a pipeline before anything is owned or claimed: `validate --connect`, and what every command waits for.

use super::{
    Finding, Level, Member, StartError, claims, kafka_settings, map, redis_place, redis_store, uses, zookeeper_place,
    zookeeper_store,
};
use crate::change::Side;
use crate::config::model;
use crate::env;
use crate::pipeline::captured_store::{self, Captured};
use crate::pipeline::identity;
use crate::pipeline::retry::Pauses;
use crate::store::preflight::Range;
use crate::store::{Keyspace as _, StoreError, Znodes as _};
use crate::stream::StreamError;
use crate::stream::kafka;
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use std::path::Path;
use std::time::Duration;

/// Looks at the stores of a pipeline; waits for one that is away, at most so long. What was found stands beside the error of a store
/// that cannot be looked at.
pub async fn check_connections(
    pipeline: &model::Pipeline,
    data_dir: &Path,
    timeout: Duration,
) -> (Vec<Finding>, Result<(), StartError>) {
    let map = match map(pipeline) {
        Ok(map) => map,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let deadline = &Deadline::new(timeout);
    let member = Member { once: true, ..Member::default() };
    let (has_path, has_key) = (|path: &str| map.reaching(path).is_some(), |key: &[u8]| map.of_key(key).is_some());
    // Half of the time: the other half is for what comes before and behind.
    let range = &Range { has_path: &has_path, has_key: &has_key, patience: timeout / 2 };
    let mut findings = Vec::new();
    let mut ended = Ok(());
    let mut take = |store: &str, found: Result<Vec<Finding>, StartError>| match found {
        Ok(found) => findings.extend(found),
        Err(StartError::Refused(why) | StartError::Stuck(why)) => {
            findings.push(Finding::new(Level::Error, store, why, ""));
        }
        // One that is away hides nothing of the others; the first is named.
        Err(error) => ended = std::mem::replace(&mut ended, Ok(())).and(Err(error)),
    };
    let uses = |side| uses(pipeline, side);
    let zookeeper = pipeline.zookeeper.as_ref().filter(|_| uses(Side::Zookeeper));
    let redis = pipeline.redis.as_ref().filter(|_| uses(Side::Redis));
    let znodes = zookeeper.map(|store| (store, zookeeper_store(pipeline, store, &map, &member)));
    let keys = redis.map(|store| (store, redis_store(pipeline, store, &map, &member)));
    let stream = kafka_settings(pipeline);
    // At the same time: one that is away takes none of the time of the others.
    let (of_znodes, of_keys, of_topic, of_registry) = tokio::join!(
        OptionFuture::from(znodes.as_ref().map(|(store, znodes)| {
            let place = zookeeper_place(store);
            async move { deadline.reach(&place, || znodes.preflight(range)).await }
        })),
        OptionFuture::from(keys.as_ref().map(|(store, keys)| {
            let place = redis_place(store);
            async move { deadline.reach(&place, || keys.preflight(range)).await }
        })),
        OptionFuture::from(stream.as_ref().map(|settings| async move {
            let place = format!("kafka {}", settings.brokers);
            deadline.reach(&place, || finding(kafka::look(settings.clone())).boxed()).await
        })),
        OptionFuture::from(stream.as_ref().and_then(|settings| settings.registry.as_ref().zip(Some(settings))).map(
            |(registry, settings)| async move {
                let place = format!("the schema registry at {}", registry.place());
                deadline.reach(&place, || finding(kafka::look_at_registry(settings.clone())).boxed()).await
            }
        )),
    );
    // What a store that cannot be looked at holds is not asked for once more.
    let is_looked_at = !matches!(of_znodes, Some(Err(_))) && !matches!(of_keys, Some(Err(_)));
    if let (Some((store, _)), Some(found)) = (&znodes, of_znodes) {
        take(&store.name, found);
    }
    if let (Some((store, _)), Some(found)) = (&keys, of_keys) {
        take(&store.name, found);
    }
    if is_looked_at && let (Some((store, znodes)), Some((database, keys))) = (&znodes, &keys) {
        let connected = deadline.reach(&zookeeper_place(store), || znodes.connect()).await;
        let tied = match connected {
            Ok(()) => deadline.reach("the stores", || identity::look(&pipeline.name, znodes, keys).boxed()).await,
            Err(error) => Err(error),
        };
        let is_tied = tied.is_ok();
        take("stores", tied.map(|finding| vec![finding]));
        // A capture of one store is in nobody's way; and what is refused for its stores comes to no claim.
        if is_tied {
            let claims = claims(pipeline);
            let free = |store: &str| {
                vec![Finding::new(Level::Ok, store, "no other live pipeline owns what the routes match", "")]
            };
            if let Some(claim) = &claims.zookeeper {
                let looked = deadline.reach(&zookeeper_place(store), || znodes.look_at_claims(claim)).await;
                take(&store.name, looked.map(|()| free(&store.name)));
            }
            if let Some(claim) = &claims.redis {
                let looked = deadline.reach(&redis_place(database), || keys.look_at_claims(claim)).await;
                take(&database.name, looked.map(|()| free(&database.name)));
            }
        }
    }
    let file = captured_store::file(&super::folder(data_dir, &pipeline.name));
    let captured = match (&znodes, &keys) {
        (Some((store, znodes)), None) => Some((zookeeper_place(store), Captured::Znodes(znodes))),
        (None, Some((store, keys))) => Some((redis_place(store), Captured::Keys(keys))),
        _ => None,
    };
    if let Some((place, captured)) = captured.filter(|_| is_looked_at) {
        if let Captured::Znodes(znodes) = &captured {
            take("stores", deadline.reach(&place, || znodes.connect()).await.map(|()| Vec::new()));
        }
        let looked = deadline.reach(&place, || captured_store::check(&pipeline.name, &file, &captured).boxed()).await;
        take("stores", looked.map(|()| Vec::new()));
    }
    if let Some((_, znodes)) = &znodes {
        znodes.close().await;
    }
    if let Some((_, keys)) = &keys {
        keys.close().await;
    }
    for found in [of_topic, of_registry].into_iter().flatten() {
        take("stream", found.map(|finding| vec![finding]));
    }
    (findings, ended)
}

/// What is found out about a part of the stream, as a finding.
async fn finding(look: impl Future<Output = Result<String, StreamError>>) -> Result<Finding, StoreError> {
    match look.await {
        Ok(what) => Ok(Finding::new(Level::Ok, "stream", what, "")),
        Err(StreamError::Refused(why)) => Ok(Finding::new(Level::Error, "stream", why, "")),
        Err(error) => Err(StoreError::Away(error.to_string())),
    }
}

/// How long stores are waited for.
pub(super) struct Deadline {
    timeout: Duration,
    at: env::Instant,
}

impl Deadline {
    pub(super) fn new(timeout: Duration) -> Deadline {
        Deadline { timeout, at: env::Instant::now() + timeout }
    }

    /// Tries until this store is reached. An error names it, with the reason of the last attempt.
    pub(super) async fn reach<'a, T>(
        &self,
        place: &str,
        look: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StartError> {
        if env::Instant::now() >= self.at {
            // Nothing was asked, so nothing can be said against it.
            let seconds = self.timeout.as_secs_f64();
            let why = format!("{place} was not looked at: the {seconds} s were over before; give more with --timeout");
            return Err(StartError::Stuck(why));
        }
        let mut pauses = Pauses::default();
        let mut last = StoreError::Away(format!("{place}: no answer"));
        let tries = async {
            loop {
                match look().await {
                    Ok(answer) => return Ok(answer),
                    Err(StoreError::Refused(why)) => return Err(StartError::Refused(why)),
                    // Nothing is owned here: a session that ended is followed by another one.
                    Err(error) => last = error,
                }
                env::sleep(pauses.pause()).await;
            }
        };
        if let Ok(reached) = env::timeout_at(self.at, tries).await {
            return reached;
        }
        let why = format!("{last}; not reachable within {} s (--timeout)", self.timeout.as_secs_f64());
        Err(match last {
            StoreError::Away(_) | StoreError::Fenced(_) => StartError::Unreachable(why),
            StoreError::NotNow(_) | StoreError::Refused(_) => StartError::Stuck(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_was_never_asked_is_not_called_away() {
        let deadline = Deadline::new(Duration::ZERO);
        let reached = deadline.reach("zookeeper zk (h:1)", || async { Ok::<(), StoreError>(()) }.boxed()).await;
        let said = match reached {
            Err(StartError::Stuck(why)) => why,
            other => format!("{other:?}"),
        };
        assert!(said.contains("was not looked at") && !said.contains("no answer"), "{said}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_named_as_away() {
        let deadline = Deadline::new(Duration::from_millis(20));
        let reached = deadline.reach("redis cache (h:1)", || std::future::pending::<Result<(), StoreError>>().boxed());
        let error = reached.await;
        assert!(matches!(&error, Err(StartError::Unreachable(why)) if why.contains("redis cache")), "{error:?}");
    }
}
