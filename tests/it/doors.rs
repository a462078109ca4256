//! The doors to the stores by themselves, with no engine behind them.

use crate::scripts::store;
use crate::support::{LIVE, Redis, ZooKeeper, eventually};
use keepstep::change::{Digest, LossCause, Side, ZkVersion};
use keepstep::plan::{Base, KeyOp, ZnodeOp};
use keepstep::store::contract::*;
use keepstep::store::zookeeper::{Access, RealEnsemble, Sessions, Settings, ZookeeperStore};
use keepstep::store::{
    FailureKind, Hints, KeyOutcome, KeyState, KeyWrite, Link, Look, Remembered, StoreError, Taken, ZnodeAcl,
    ZnodeOutcome, ZnodeReading, ZnodeWrite,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the source has told.
#[derive(Default)]
struct Told {
    /// The last event of each key.
    keys: Mutex<HashMap<Vec<u8>, String>>,
    is_up: Mutex<bool>,
}

impl Hints for Told {
    fn znode(&self, _: &str, _: Option<i64>, _: bool) {}

    fn key(&self, key: &[u8], event: Option<&str>) {
        if let Some(event) = event {
            self.keys.lock().unwrap().insert(key.to_vec(), event.to_owned());
        }
    }

    fn everything(&self, _: Side, _: &str) {}

    fn lost(&self, _: Side, _: LossCause, _: &str, _: bool) {}

    fn link(&self, _: Side, link: Link) {
        *self.is_up.lock().unwrap() = matches!(link, Link::Up);
    }

    fn end(&self, _: StoreError) {}
}

fn agreed(value: &str) -> Base {
    Base {
        sequence: 1,
        zookeeper: None,
        redis: Some(Digest::of(value.as_bytes())),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        lost: false,
        left: false,
        path_id: 7,
        ensemble: 1,
    }
}

/// What says how a key went away may be behind hundreds of other events when somebody looks for the key.
#[tokio::test(flavor = "multi_thread")]
async fn that_a_key_is_gone_is_answered_behind_all_events_that_tell_why() {
    let redis = Redis::start().await;
    let mut client = redis.client().await;
    let store = store(&redis);
    store.connect().await.unwrap();
    store.begin(Remembered { epoch: 1, ensemble: 1, zxid: 1, watermark: 0 }).await.unwrap();
    let told = Arc::new(Told::default());
    store.watch(Arc::clone(&told) as Arc<dyn Hints>);
    eventually("the source is connected", LIVE, async || {
        if *told.is_up.lock().unwrap() { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    for round in 0..100 {
        let key = format!("settings:{round}").into_bytes();
        let write = KeyWrite {
            key: &key,
            op: KeyOp::Set,
            expect: None,
            expect_entry: Vec::new(),
            expect_nonce: 0,
            incarnation: 0,
            milestone: None,
            value: b"v",
            base: Some(agreed("v")),
            publish: None,
        };
        assert_eq!(store.apply(&[write]).await.unwrap(), [KeyOutcome::Done]);
        let mut noise = redis::pipe();
        for number in 0..500 {
            noise.cmd("SET").arg(format!("settings:noise:{number}")).arg(round).ignore();
        }
        noise.cmd("DEL").arg(&key).ignore();
        noise.query_async::<()>(&mut client).await.unwrap();
        let answer = store.observe(&[&key], true).await.unwrap();
        assert_eq!(answer.readings[0].state, KeyState::Absent);
        assert!(answer.context.events_delivered && answer.context.now_ms > 0, "round {round}");
        let last = told.keys.lock().unwrap().get(&key).cloned();
        assert_eq!(last.as_deref(), Some("del"), "round {round}: the answer came before the event");
    }
    store.unwatch().await;
    let answer = store.observe(&[b"settings:0"], true).await.unwrap();
    assert!(!answer.context.events_delivered, "nobody listens any more");
}

fn zookeeper_store(zookeeper: &ZooKeeper) -> ZookeeperStore {
    let access = Access { connect: zookeeper.connect_string(), session_timeout: Duration::from_secs(10), digest: None };
    ZookeeperStore::new(Settings {
        name: "zk".to_owned(),
        sessions: Arc::new(Sessions::new(access, Arc::new(RealEnsemble))),
        pipeline: "settings".to_owned(),
        worker: keepstep::worker::this(),
        routes_digest: String::new(),
        once: true,
        roots: vec!["/settings".to_owned()],
    })
}

/// A lagging server of the watches may show the znode of before: the deletion has to be known by its zxid.
#[tokio::test]
async fn a_synced_look_at_a_deleted_znode_learns_when_it_was_deleted() {
    let zookeeper = ZooKeeper::start().await;
    let store = zookeeper_store(&zookeeper);
    store.connect().await.unwrap();
    let znodes = zookeeper.client().await;
    znodes.put("/settings/a", "1").await;
    let written = znodes.stat("/settings/a").await.mzxid;
    znodes.delete("/settings/a").await;
    let look = async |path: &str| {
        let found = store.read(&[path.to_owned()], Look::Synced).await.unwrap();
        assert_eq!(found, [ZnodeReading::Absent(store.zxid())]);
        store.zxid()
    };
    let seen = look("/settings/a").await;
    assert!(seen > written, "{seen} was seen, {written} was the last write");
    assert_eq!(seen, znodes.stat("/settings").await.pzxid);

    znodes.put("/settings/b/c", "1").await;
    znodes.delete("/settings/b/c").await;
    znodes.delete("/settings/b").await;
    assert_eq!(look("/settings/b/c").await, znodes.stat("/settings").await.pzxid, "the nearest ancestor tells");
    store.close().await;
}

/// In an older copy of the ensemble a znode may have the very version that was read; what the owner left in it since tells.
#[tokio::test]
async fn nothing_is_written_to_an_ensemble_that_is_older_than_its_owner_left_it() {
    let zookeeper = ZooKeeper::start().await;
    let store = zookeeper_store(&zookeeper);
    store.connect().await.unwrap();
    store.stand(&|_, _| {}).await.unwrap();
    store.own(Remembered::default(), Taken::default()).await.unwrap();
    store.journal().await.unwrap();
    let znodes = zookeeper.client().await;
    znodes.put("/settings/a", "0").await;
    let write = async |version: i32, data: &str| {
        let base = Base { zookeeper: Some(ZkVersion { czxid: 1, mzxid: 1, version: version + 1 }), ..agreed(data) };
        let (op, data, acl) = (ZnodeOp::Set(version), data.as_bytes(), ZnodeAcl::Open);
        let writes =
            [ZnodeWrite { path: "/settings/a", op, data, key: b"settings:a", base, nonce: 1, acl, milestone: None }];
        let written = store.write(&writes).await?;
        store.release(&written.slots);
        Ok::<_, StoreError>(matches!(written.outcomes.as_slice(), [ZnodeOutcome::Done { .. }]))
    };
    for _ in 0..3 {
        store.advance_watermark().await.unwrap();
    }
    assert!(write(0, "1").await.unwrap());
    let path = "/_keepstep/settings/lineage";
    let lineage = znodes.get(path).await.unwrap();
    znodes.put(path, &lineage).await;
    assert!(write(1, "2").await.unwrap(), "a watermark that rises meanwhile costs another try");
    assert_eq!(store.watermark(), 4);
    znodes.delete(path).await;
    znodes.put(path, &lineage).await;
    let refused = write(2, "3").await;
    assert!(matches!(&refused, Err(StoreError::Fenced(why)) if why.kind() == FailureKind::Identity), "{refused:?}");
    assert_eq!(znodes.text("/settings/a").await.as_deref(), Some("2"));
    store.close().await;
}

/// The ancestors of a deep znode are created in parts, behind the writes that came with it.
#[tokio::test]
async fn a_deep_znode_is_created_over_several_calls_and_what_comes_with_it_at_once() {
    let zookeeper = ZooKeeper::start().await;
    let store = zookeeper_store(&zookeeper);
    store.connect().await.unwrap();
    store.stand(&|_, _| {}).await.unwrap();
    store.own(Remembered::default(), Taken::default()).await.unwrap();
    store.journal().await.unwrap();
    let znodes = zookeeper.client().await;
    fn create(path: &str) -> ZnodeWrite<'_> {
        let (op, acl) = (ZnodeOp::Create, ZnodeAcl::Open);
        ZnodeWrite { path, op, data: b"v", key: b"settings:k", base: agreed("v"), nonce: 1, acl, milestone: None }
    }
    let deep = format!("/settings{}", "/a".repeat(550));
    znodes.put("/settings/plain", "").await;
    let mut calls = 0;
    loop {
        let plain = format!("/settings/plain/{calls}");
        let written = store.write(&[create(&deep), create(&plain)]).await.unwrap();
        store.release(&written.slots);
        assert!(matches!(written.outcomes[1], ZnodeOutcome::Done { .. }), "call {calls}: {:?}", written.outcomes);
        calls += 1;
        match &written.outcomes[0] {
            ZnodeOutcome::Done { .. } => break,
            other => assert_eq!(*other, ZnodeOutcome::Refused, "call {calls}"),
        }
        if calls == 1 {
            let ancestor = znodes.stat("/settings/a").await;
            assert!(znodes.stat(&plain).await.czxid < ancestor.czxid, "others are written before its ancestors");
        }
        assert!(calls < 20, "each call brings it nearer");
    }
    assert!(calls > 2, "{calls} calls");
    assert_eq!(znodes.text(&deep).await.as_deref(), Some("v"));
    store.close().await;
}
