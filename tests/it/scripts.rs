//! The scripts of Redis against their twin in Rust, on which the model checker runs (`tests/model/twin.rs`): the same random cases
//! through both.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same cases again.

use crate::support::Redis;
use fastrand::Rng;
use keepstep::change::{Digest, ZkVersion};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::redis::{Access, RedisStore, Server, Settings};
use keepstep::store::{JournalEntry, KeyOutcome, KeyState, KeyWrite, Keyspace, Remembered, Slot, StoreError};
use keepstep_model::twin::{self, Bucket, Code, Write};
use std::sync::Arc;
use std::time::Duration;

const CASES: usize = 4_000;
const KEY: &[u8] = b"settings:a";
/// The twin's name for a number that the door makes up.
const FRESH: u64 = u64::MAX;

pub fn settings(redis: &Redis) -> Settings {
    let address = redis.address();
    let access =
        Access { host: address.ip().to_string(), port: address.port(), database: 0, username: None, password: None };
    Settings {
        name: "cache".to_owned(),
        server: Arc::new(Server::new(access)),
        pipeline: "twin".to_owned(),
        prefixes: vec![b"settings:".to_vec()],
        sidecars: true,
        channels: Vec::new(),
        claim_ttl: Duration::from_secs(30),
    }
}

fn value(rng: &mut Rng) -> Option<Vec<u8>> {
    (rng.u8(0..4) > 0).then(|| vec![rng.u8(b'a'..=b'c')])
}

fn base(rng: &mut Rng, sequence: u32) -> Option<Base> {
    let version = ZkVersion { czxid: 3, mzxid: i64::from(rng.u8(3..6)), version: i32::from(rng.u8(0..3)) };
    (rng.u8(0..4) > 0).then(|| Base {
        sequence,
        zookeeper: rng.bool().then_some(version),
        redis: value(rng).map(|value| Digest::of(&value)),
        expires_ms: rng.bool().then_some(1_000),
        ephemeral: rng.bool(),
        apart: rng.bool(),
        unproven: rng.bool(),
        path_id: 7,
        ensemble: 1,
    })
}

/// What the door's error is to the twin.
fn code<T>(result: &Result<T, StoreError>) -> Code {
    match result {
        Ok(_) => Code::Done,
        Err(StoreError::Fenced(_)) => Code::Fenced,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_twin_of_the_scripts_answers_and_leaves_what_they_do() {
    let seed = std::env::var("KEEPSTEP_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("KEEPSTEP_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let redis = Redis::start().await;
    let mut client = redis.client().await;
    let owners = [RedisStore::new(settings(&redis)), RedisStore::new(settings(&redis))];
    let mut epochs = [1, 2];
    for (owner, epoch) in owners.iter().zip(epochs) {
        owner.connect().await.unwrap();
        owner.begin(Remembered { epoch, ensemble: 1, zxid: 1, tide: 0 }).await.unwrap();
        // Nothing was lost: then COMPLETE alone decides what becomes of a journal.
        owner.compared(owner.mark()).await.unwrap();
    }
    owners[0].observe(&[KEY], true).await.unwrap();
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("_keepstep:twin:*").query_async(&mut client).await.unwrap();
    let [bucket_name] = names.as_slice() else { panic!("one bucket: {names:?}") };
    redis::cmd("DEL").arg(bucket_name).exec_async(&mut client).await.unwrap();
    let (mut twin, mut held): (Bucket, Option<Vec<u8>>) = (Bucket::default(), None);
    let mut met = [0_usize; 3];
    let mut old_nonces = vec![1];
    for case in 0..CASES {
        let at = rng.usize(0..2);
        let (owner, epoch) = (&owners[at], epochs[at]);
        let what = format!("seed {seed}, case {case}");
        match rng.u8(0..20) {
            0 => {
                redis::cmd("DEL").arg(bucket_name).exec_async(&mut client).await.unwrap();
                twin = Bucket::default();
            }
            1 => {
                // The one that is behind takes over.
                let behind = usize::from(epochs[1] < epochs[0]);
                epochs[behind] = epochs[1 - behind] + 1;
                owners[behind]
                    .begin(Remembered { epoch: epochs[behind], ensemble: 1, zxid: 1, tide: 0 })
                    .await
                    .unwrap();
            }
            2..=4 => {
                held = value(&mut rng);
                match &held {
                    Some(bytes) => redis::cmd("SET").arg(KEY).arg(bytes.as_slice()).exec_async(&mut client).await,
                    None => redis::cmd("DEL").arg(KEY).exec_async(&mut client).await,
                }
                .unwrap();
            }
            5..=8 => {
                let told = twin::observe(&mut twin, epoch, FRESH);
                let read = owner.observe(&[KEY], true).await;
                assert_eq!(code(&read), told, "{what}: observe");
                if let Ok(read) = read {
                    let reading = &read.readings[0];
                    let found = match &reading.state {
                        KeyState::Absent => None,
                        KeyState::Value { bytes, .. } => Some(bytes.clone()),
                        other => panic!("{what}: {other:?}"),
                    };
                    assert_eq!((found, Base::decode(&reading.entry)), (held.clone(), twin.entry), "{what}: observed");
                }
            }
            9..=16 => {
                let op = [KeyOp::Set, KeyOp::Delete, KeyOp::Note][rng.usize(0..3)];
                let is_right = rng.u8(0..3) > 0;
                let expect = if is_right { held.clone() } else { value(&mut rng) };
                let next = twin.entry.map_or(1, |base| base.sequence + 1);
                let entry = if is_right { twin.entry } else { base(&mut rng, next) };
                let nonce = match rng.u8(0..3) {
                    0 => 0,
                    1 => twin.nonce,
                    _ => old_nonces[rng.usize(0..old_nonces.len())],
                };
                let bytes = vec![rng.u8(b'a'..=b'c')];
                let base = base(&mut rng, next);
                let expect = expect.map(|value| Digest::of(&value));
                let have = held.as_ref().map(|value| Digest::of(value));
                let told = twin::apply(&mut twin, have, &Write { op, expect, entry, nonce, base }, epoch, FRESH);
                met[told as usize] += 1;
                if told == Code::Done {
                    match op {
                        KeyOp::Set => held = Some(bytes.clone()),
                        KeyOp::Delete => held = None,
                        KeyOp::Note => {}
                    }
                }
                let write = KeyWrite {
                    key: KEY,
                    op,
                    expect,
                    expect_entry: entry.map(|base| base.encode()).unwrap_or_default(),
                    expect_nonce: nonce,
                    life: 0,
                    value: &bytes,
                    base,
                    publish: None,
                };
                let done = match owner.apply(&[write]).await {
                    Ok(outcomes) if outcomes == [KeyOutcome::Done] => Code::Done,
                    Ok(outcomes) if outcomes == [KeyOutcome::Refused] => Code::Refused,
                    Ok(outcomes) => panic!("{what}: {outcomes:?}"),
                    Err(error) => code(&Err::<(), _>(error)),
                };
                assert_eq!(done, told, "{what}: apply");
            }
            _ => {
                let nonce = if rng.bool() { twin.nonce } else { old_nonces[rng.usize(0..old_nonces.len())] };
                let sequence = twin.entry.map_or(1, |base| base.sequence) + rng.u32(0..3);
                let base = base(&mut rng, sequence);
                let told = twin::complete(&mut twin, epoch, nonce, sequence, base);
                let slot = Slot { number: 0, version: 1 };
                let entry = JournalEntry { slot, key: KEY.to_vec(), nonce, base, sequence };
                assert_eq!(code(&owner.complete(vec![entry]).await), told, "{what}: complete");
            }
        }
        let mut look = redis::cmd("HMGET");
        look.arg(bucket_name).arg("_keepstep:e").arg("_keepstep:n").arg(KEY);
        let (owner, nonce, entry): (Option<u64>, Option<u64>, Option<Vec<u8>>) =
            look.query_async(&mut client).await.unwrap();
        if twin.nonce == FRESH {
            twin.nonce = nonce.unwrap();
            old_nonces.push(twin.nonce);
        }
        let there =
            Bucket { epoch: owner, nonce: nonce.unwrap_or(0), entry: entry.and_then(|entry| Base::decode(&entry)) };
        assert_eq!(there, twin, "{what}: the bucket");
        let key: Option<Vec<u8>> = redis::cmd("GET").arg(KEY).query_async(&mut client).await.unwrap();
        assert_eq!(key, held, "{what}: the key");
    }
    assert!(met.iter().all(|count| *count > CASES / 200), "done, refused and fenced were all met: {met:?}");
}

#[tokio::test]
async fn an_owner_that_was_overtaken_marks_no_slot() {
    let redis = Redis::start().await;
    let owners = [RedisStore::new(settings(&redis)), RedisStore::new(settings(&redis))];
    for (owner, epoch) in owners.iter().zip([1, 2]) {
        owner.connect().await.unwrap();
        owner.begin(Remembered { epoch, ensemble: 1, zxid: 1, tide: 0 }).await.unwrap();
    }
    let slot = |version| [Slot { number: 3, version }];
    owners[1].mark_slots(&slot(6), 40).await.unwrap();
    let late = owners[0].mark_slots(&slot(5), 30).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    assert_eq!(owners[1].marked_slots().await.unwrap(), slot(6));
    assert_eq!(owners[1].remembered().await.unwrap().zxid, 40);
}
