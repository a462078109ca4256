//! What Redis remembers of a pipeline, and its claim, between owners that follow each other, on a real server.

use crate::support::{LIVE, Redis, eventually};
use keepstep::change::Side;
use keepstep::store::contract::*;
use keepstep::store::redis::{Access, Client, RedisStore, Server, Settings};
use keepstep::store::{Claim, Hints, Link, Remembered, Slot, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A store of the pipeline `twin` on this server.
pub fn store(redis: &Redis) -> RedisStore {
    let address = redis.address();
    let access =
        Access { host: address.ip().to_string(), port: address.port(), database: 0, username: None, password: None };
    let settings = Settings {
        name: "cache".to_owned(),
        pipeline: "twin".to_owned(),
        prefixes: vec![b"settings:".to_vec()],
        sidecars: true,
        ranges: "the routes".to_owned(),
        channels: Vec::new(),
        claim_ttl: Duration::from_secs(30),
    };
    RedisStore::new(settings, Arc::new(Server::new(access, Arc::new(Client))))
}

/// The first owner, and the one after it: where the pipeline's state was written by both, in this order.
async fn overtaken(redis: &Redis, first: Remembered, second: Remembered) -> [RedisStore; 2] {
    let owners = [store(redis), store(redis)];
    for (owner, now) in owners.iter().zip([first, second]) {
        owner.connect().await.unwrap();
        owner.begin(now).await.unwrap();
    }
    owners
}

fn at(epoch: u64, ensemble: u32, zxid: i64, watermark: i32) -> Remembered {
    Remembered { epoch, ensemble, zxid, watermark }
}

/// Everything that Redis remembers of the pipeline.
async fn state(redis: &Redis) -> BTreeMap<String, String> {
    redis.run("HGETALL _keepstep:twin").await
}

#[tokio::test]
async fn an_owner_that_was_overtaken_writes_nothing_of_what_is_remembered() {
    let redis = Redis::start().await;
    let first = at(1, 1, 20, 2);
    let owners = overtaken(&redis, first, at(2, 1, 30, 3)).await;
    let slot = |version| [Slot { number: 3, version }];
    owners[1].mark_slots(&slot(6), at(2, 1, 40, 3)).await.unwrap();
    owners[1].compared(owners[1].mark()).await.unwrap();
    let before = state(&redis).await;
    assert_eq!((before["zxid"].as_str(), before["slot:3"].as_str(), before["epoch"].as_str()), ("40", "6", "2"));
    // It ends late, or thaws between two calls; one call of a comparison, of the canary and of an ownership that only begins is as late.
    let newer = at(1, 1, 50, 9);
    for late in [
        owners[0].remember(newer, 1).await,
        owners[0].mark_slots(&slot(5), newer).await,
        owners[0].compared(owners[0].mark()).await,
        owners[0].begin(first).await,
    ] {
        assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    }
    assert_eq!(state(&redis).await, before);
    assert_eq!(owners[1].marked_slots().await.unwrap(), slot(6));
}

#[tokio::test]
async fn what_is_remembered_only_rises_and_begins_anew_with_another_lineage_of_the_ensemble() {
    let redis = Redis::start().await;
    // Beyond what a double tells apart, and longer numbers are newer.
    let high = (1 << 53) + 2;
    let owners = overtaken(&redis, at(1, 1, high, 9), at(2, 1, 30, 10)).await;
    let remembered = async || owners[1].remembered().await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high, 10), "an older zxid does not take its place");
    owners[1].remember(at(2, 1, high - 1, 9), 1).await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high, 10));
    owners[1].remember(at(2, 1, high + 1, 11), 1).await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high + 1, 11));
    let left_over = owners[1].remember(at(1, 1, i64::MAX, 99), 1).await;
    assert!(matches!(left_over, Err(StoreError::Fenced(_))), "of an ownership before: {left_over:?}");
    owners[0].begin(at(3, 2, 7, 0)).await.unwrap();
    assert_eq!(remembered().await, at(3, 2, 7, 0), "zxids of another lineage are others");
    // Epochs were given a second time: who is of another lineage is another owner.
    let twin = owners[1].begin(at(3, 1, high, 11)).await;
    assert!(matches!(twin, Err(StoreError::Fenced(_))), "{twin:?}");
    assert_eq!(remembered().await, at(3, 2, 7, 0));
}

#[tokio::test]
async fn what_a_flushed_redis_has_forgotten_is_remembered_again_whole() {
    let redis = Redis::start().await;
    let owner = store(&redis);
    owner.connect().await.unwrap();
    owner.begin(at(4, 1, 20, 2)).await.unwrap();
    owner.remember(at(4, 1, 25, 3), 1).await.unwrap();
    redis.run::<()>("FLUSHALL").await;
    owner.mark_slots(&[Slot { number: 0, version: 1 }], at(4, 1, 24, 3)).await.unwrap();
    assert_eq!(owner.remembered().await.unwrap(), at(4, 1, 25, 3));
    assert!(!state(&redis).await.contains_key("canary"), "that it was flushed is still to be noticed");
}

#[tokio::test]
async fn whoever_gives_up_or_renews_late_leaves_the_claim_of_the_next_owner_alone() {
    let redis = Redis::start().await;
    let owners = overtaken(&redis, at(1, 1, 20, 2), at(2, 1, 30, 3)).await;
    let claim = Claim {
        pipeline: "twin".to_owned(),
        // Two of the same name, as in two containers.
        worker: "here:1".to_owned(),
        identity: "a random one".to_owned(),
        lineage: 1,
        ensemble: String::new(),
        patterns: vec!["settings:**".to_owned()],
        writes: true,
        captures: false,
    };
    let held = async || redis.run::<Option<String>>("GET _keepstep::claim:twin").await;
    owners[0].claim(claim.clone()).await.unwrap();
    let first = held().await;
    owners[1].claim(claim.clone()).await.unwrap();
    let second = held().await;
    assert!(second.is_some() && first != second);
    let told = Arc::new(Deaf);
    owners[0].watch(Arc::clone(&told) as Arc<dyn Hints>);
    // It is renewed every four seconds; each time its set is named again.
    redis.run::<()>("DEL _keepstep::claims").await;
    eventually("a renewal", LIVE, async || {
        let named = redis.run::<bool>("SISMEMBER _keepstep::claims twin").await;
        if named { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    assert_eq!(held().await, second);
    owners[0].close().await;
    assert_eq!(held().await, second);
    owners[1].close().await;
    assert_eq!(held().await, None);
}

/// Listens to nothing.
struct Deaf;

impl Hints for Deaf {
    fn znode(&self, _: &str, _: Option<i64>, _: bool) {}
    fn key(&self, _: &[u8], _: Option<&str>) {}
    fn everything(&self, _: Side, _: &str) {}
    fn lost(&self, _: Side, _: keepstep::change::LossCause, _: &str, _: bool) {}
    fn link(&self, _: Side, _: Link) {}
    fn end(&self, _: keepstep::store::StoreError) {}
}
