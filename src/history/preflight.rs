//! The checks of `validate --connect`: every store and the stream at the same time, then what needs
//! both stores.

use super::reach::{Deadline, StartError};
use super::stores::{Named, Stores};
use crate::pipeline::captured_store::{self, Captured};
use crate::pipeline::{Claims, identity};
use crate::route::RouteMap;
use crate::store::preflight::{Finding, Level, Range};
use crate::store::{FailureKind, Keyspace, StoreError, Znodes};
use crate::stream::StreamError;
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture, join_all};
use std::path::PathBuf;
use std::time::Duration;

/// A part of the stream that can be looked at: the topic, or the schema registry.
pub struct Check {
    /// How messages name it.
    pub label: String,
    /// Looks at it once, and answers with what was found.
    pub look: Box<dyn Fn() -> BoxFuture<'static, Result<String, StreamError>> + Send + Sync>,
}

/// What is looked at.
pub struct Preflight {
    /// The name of the pipeline.
    pub pipeline: String,
    /// Its map between paths and keys.
    pub map: RouteMap,
    /// The stores that its routes use, not connected.
    pub stores: Stores,
    /// What it would claim.
    pub claims: Claims,
    /// The file in which a capture remembers its store.
    pub captured_file: PathBuf,
    /// The parts of its stream.
    pub stream: Vec<Check>,
}

/// The findings so far, and the first error of a store that could not be looked at.
#[derive(Default)]
struct Findings {
    found: Vec<Finding>,
    error: Option<StartError>,
}

impl Findings {
    fn take(&mut self, store: &str, found: Result<Vec<Finding>, StartError>) {
        match found {
            Ok(found) => self.found.extend(found),
            Err(StartError::Refused(why) | StartError::Stuck(why)) => {
                self.found.push(Finding::new(Level::Error, store, why, ""));
            }
            // A store that is away hides nothing about the others. The first one is reported.
            Err(error @ StartError::Unreachable(_)) => self.error = self.error.take().or(Some(error)),
        }
    }
}

/// Looks at everything once, and waits at most `timeout` for a store that is away. Closes the
/// stores at the end. What was found is returned beside the error of a store that cannot be looked
/// at.
pub async fn preflight(preflight: Preflight, timeout: Duration) -> (Vec<Finding>, Result<(), StartError>) {
    let Preflight { pipeline, map, stores, claims, captured_file, stream } = &preflight;
    let deadline = &Deadline::new(timeout);
    let mut findings = Findings::default();
    let (has_path, has_key) = (|path: &str| map.reaching(path).is_some(), |key: &[u8]| map.of_key(key).is_some());
    // Half of the time: the other half is for the steps before and after.
    let range = &Range { has_path: &has_path, has_key: &has_key, patience: timeout / 2 };
    // At the same time: a store that is away takes no time from the others.
    let (of_znodes, of_keys, of_stream) = tokio::join!(
        OptionFuture::from(
            stores.znodes.as_ref().map(|znodes| deadline.reach(&znodes.label, || znodes.store.preflight(range)))
        ),
        OptionFuture::from(
            stores.keys.as_ref().map(|keys| deadline.reach(&keys.label, || keys.store.preflight(range)))
        ),
        join_all(stream.iter().map(|check| deadline.reach(&check.label, || finding((check.look)()).boxed()))),
    );
    // A store that could not be looked at is not asked again.
    let all_answered = !matches!(of_znodes, Some(Err(_))) && !matches!(of_keys, Some(Err(_)));
    if let (Some(znodes), Some(found)) = (&stores.znodes, of_znodes) {
        findings.take(&znodes.name, found);
    }
    if let (Some(keys), Some(found)) = (&stores.keys, of_keys) {
        findings.take(&keys.name, found);
    }
    match (&stores.znodes, &stores.keys) {
        (Some(znodes), Some(keys)) if all_answered => {
            check_both(pipeline, (znodes, keys), claims, deadline, &mut findings).await;
        }
        (Some(znodes), None) if all_answered => {
            let connected = deadline.reach(&znodes.label, || znodes.store.connect()).await;
            findings.take("stores", connected.map(|()| Vec::new()));
            let captured = Captured::Znodes(znodes.store.as_ref());
            let check = || captured_store::check(pipeline, captured_file, &captured).boxed();
            findings.take("stores", deadline.reach(&znodes.label, check).await.map(|()| Vec::new()));
        }
        (None, Some(keys)) if all_answered => {
            let captured = Captured::Keys(keys.store.as_ref());
            let check = || captured_store::check(pipeline, captured_file, &captured).boxed();
            findings.take("stores", deadline.reach(&keys.label, check).await.map(|()| Vec::new()));
        }
        _ => {}
    }
    stores.close().await;
    for found in of_stream {
        findings.take("stream", found.map(|finding| vec![finding]));
    }
    (findings.found, findings.error.map_or(Ok(()), Err))
}

/// Whether the two stores belong to this pipeline, and whether another pipeline owns what the
/// routes match. A capture of one store conflicts with nobody, and stores that are refused need no
/// claim.
async fn check_both(
    pipeline: &str,
    (znodes, keys): (&Named<dyn Znodes>, &Named<dyn Keyspace>),
    claims: &Claims,
    deadline: &Deadline,
    findings: &mut Findings,
) {
    let ties = match deadline.reach(&znodes.label, || znodes.store.connect()).await {
        Ok(()) => {
            let look = || identity::look(pipeline, znodes.store.as_ref(), keys.store.as_ref()).boxed();
            deadline.reach("the stores", look).await
        }
        Err(error) => Err(error),
    };
    let is_tied = ties.is_ok();
    findings.take("stores", ties.map(|finding| vec![finding]));
    if !is_tied {
        return;
    }
    let free =
        |store: &str| vec![Finding::new(Level::Ok, store, "no other live pipeline owns what the routes match", "")];
    if let Some(claim) = &claims.zookeeper {
        let looked = deadline.reach(&znodes.label, || znodes.store.look_at_claims(claim)).await;
        findings.take(&znodes.name, looked.map(|()| free(&znodes.name)));
    }
    if let Some(claim) = &claims.redis {
        let looked = deadline.reach(&keys.label, || keys.store.look_at_claims(claim)).await;
        findings.take(&keys.name, looked.map(|()| free(&keys.name)));
    }
}

/// The result of a look at a part of the stream.
async fn finding(look: BoxFuture<'static, Result<String, StreamError>>) -> Result<Finding, StoreError> {
    match look.await {
        Ok(what) => Ok(Finding::new(Level::Ok, "stream", what, "")),
        Err(StreamError::Refused(why)) => Ok(Finding::new(Level::Error, "stream", why, "")),
        Err(error) => Err(StoreError::away(FailureKind::Worker, error.to_string()).with_source(error)),
    }
}
