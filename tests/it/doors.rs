//! The doors to the stores by themselves, with no engine behind them.

use crate::scripts::settings;
use crate::support::{LIVE, Redis, eventually};
use keepstep::change::{Digest, Side};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::redis::RedisStore;
use keepstep::store::{Hints, KeyOutcome, KeyState, KeyWrite, Keyspace, Link, Remembered};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What the source has told.
#[derive(Default)]
struct Told {
    /// The last event of each key.
    keys: Mutex<HashMap<Vec<u8>, String>>,
    is_up: Mutex<bool>,
}

impl Hints for Told {
    fn znode(&self, _: &str, _: Option<i64>) {}

    fn key(&self, key: &[u8], event: Option<&str>) {
        if let Some(event) = event {
            self.keys.lock().unwrap().insert(key.to_vec(), event.to_owned());
        }
    }

    fn everything(&self, _: Side, _: &str) {}

    fn link(&self, _: Side, link: Link) {
        *self.is_up.lock().unwrap() = matches!(link, Link::Up);
    }
}

/// What says how a key went away may be behind hundreds of other events when somebody looks for the key.
#[tokio::test(flavor = "multi_thread")]
async fn that_a_key_is_gone_is_answered_behind_all_events_that_tell_why() {
    let redis = Redis::start().await;
    let mut client = redis.client().await;
    let store = RedisStore::new(settings(&redis));
    store.connect().await.unwrap();
    store.begin(Remembered { epoch: 1, ensemble: 1, zxid: 1, tide: 0 }).await.unwrap();
    let told = Arc::new(Told::default());
    store.watch(Arc::clone(&told) as Arc<dyn Hints>);
    eventually("the source is connected", LIVE, async || {
        if *told.is_up.lock().unwrap() { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    for round in 0..100 {
        let key = format!("settings:{round}").into_bytes();
        let base = Base {
            sequence: 1,
            zookeeper: None,
            redis: Some(Digest::of(b"v")),
            expires_ms: None,
            ephemeral: false,
            apart: false,
            unproven: false,
            path_id: 7,
            ensemble: 1,
        };
        let write = KeyWrite {
            key: &key,
            op: KeyOp::Set,
            expect: None,
            expect_entry: Vec::new(),
            expect_nonce: 0,
            life: 0,
            value: b"v",
            base: Some(base),
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
        assert!(answer.moment.told && answer.moment.now_ms > 0, "round {round}");
        let last = told.keys.lock().unwrap().get(&key).cloned();
        assert_eq!(last.as_deref(), Some("del"), "round {round}: the answer came before the event");
    }
    store.unwatch().await;
    let answer = store.observe(&[b"settings:0"], true).await.unwrap();
    assert!(!answer.moment.told, "nobody listens any more");
}
