//! The checker's data set of Redis (`tests/model/redis.rs`) beside the double's: random calls go to the one by the rules of the scripts,
//! and to the other through the shipped store. What each answers and leaves must be the same.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same cases again.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use crate::redis::store;
use fastrand::Rng;
use keepstep::change::{Digest, ZkVersion};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::contract::*;
use keepstep::store::{JournalEntry, KeyOutcome, KeyState, KeyWrite, Remembered, Slot, StoreError};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::reply::Reply;
use keepstep_doubles::redis::rules::{Code, Write};
use keepstep_model::redis::Held;
use keepstep_model::world::{B, Bk, Content, Data, EXPIRES_MS, PATH, digest};

const CASES: usize = 4_000;
/// Few are called for: then a number of the checker's fits in a byte.
const LIVES_MAX: u8 = 250;
const KEY: &[u8] = b"s:a";

/// A value of the checker's; 0: none.
fn value(rng: &mut Rng) -> u8 {
    rng.u8(0..4)
}

/// The same on the double.
fn bytes(value: u8) -> Option<Vec<u8>> {
    (value != 0).then(|| vec![b'a' + value])
}

fn base(rng: &mut Rng, sequence: u8) -> B {
    let version = ZkVersion { czxid: 3, mzxid: i64::from(rng.u8(3..6)), version: i32::from(rng.u8(0..3)) };
    let held = value(rng);
    B::from((rng.u8(0..4) > 0).then(|| Base {
        sequence: u32::from(sequence),
        zookeeper: rng.bool().then_some(version),
        redis: (held != 0).then(|| digest(held)),
        expires_ms: rng.bool().then_some(EXPIRES_MS),
        ephemeral: false,
        apart: rng.bool(),
        unverified: rng.bool(),
        lost: rng.bool(),
        left: false,
        path_id: PATH,
        ensemble: 1,
    }))
}

/// What the store's error is to the checker.
fn code<T>(result: &Result<T, StoreError>) -> Code {
    match result {
        Ok(_) => Code::Done,
        Err(StoreError::Fenced(_)) => Code::Fenced,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_data_of_the_checker_answer_and_become_what_those_of_the_double_do() {
    let said = std::env::var("KEEPSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = said.unwrap_or_else(|| fastrand::u64(..));
    println!("KEEPSTEP_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let double = Double::default();
    let owners = [store(&double, "twin"), store(&double, "twin")];
    let mut epochs = [1_u8, 2];
    for (owner, epoch) in owners.iter().zip(epochs) {
        owner.connect().await.unwrap();
        owner.begin(Remembered { epoch: u64::from(epoch), ensemble: 1, zxid: 1, watermark: 0 }).await.unwrap();
        // Nothing was lost: then COMPLETE alone decides what becomes of a journal.
        owner.compared(owner.mark()).await.unwrap();
    }
    owners[0].observe(&[KEY], true).await.unwrap();
    let scanned = owners[0].scan(0, b"_keepstep:twin:").await.unwrap().1;
    let [bucket] = scanned.as_slice() else { panic!("one bucket: {scanned:?}") };
    double.run(&[b"DEL", bucket]);
    let (mut data, mut nonces) = (Data::default(), 0_u8);
    let mut met = [0_usize; 3];
    // The store's number for each of the checker's.
    let mut lives = vec![1_u64];
    for case in 0..CASES {
        let at = rng.usize(0..2);
        let (owner, epoch) = (&owners[at], epochs[at]);
        let what = format!("seed {seed}, case {case}");
        let fresh = nonces;
        let held = Content { value: rng.u8(1..4), ..Content::default() };
        let mut pair = Held { data: &mut data, nonces: &mut nonces, epoch, value: held, kindness: None };
        let has = pair.data.bucket.entry;
        let next = (has.seq + 1) % 100;
        let incarnation =
            if rng.bool() { pair.data.bucket.nonce } else { rng.u8(0..u8::try_from(lives.len()).unwrap()) };
        match rng.u8(0..40) {
            0 if fresh < LIVES_MAX => {
                double.run(&[b"DEL", bucket]);
                pair.data.bucket = Bk::default();
            }
            1 if epoch < LIVES_MAX => {
                // The one that is behind takes over.
                let behind = usize::from(epochs[1] < epochs[0]);
                epochs[behind] = epochs[1 - behind] + 1;
                let now = Remembered { epoch: u64::from(epochs[behind]), ensemble: 1, zxid: 1, watermark: 0 };
                owners[behind].begin(now).await.unwrap();
            }
            0..=7 => {
                pair.data.key.is.value = value(&mut rng);
                match bytes(pair.data.key.is.value) {
                    Some(bytes) => double.run(&[b"SET", KEY, &bytes]),
                    None => double.run(&[b"DEL", KEY]),
                };
            }
            8..=15 => {
                let told = pair.observe();
                let read = owner.observe(&[KEY], true).await;
                assert_eq!(code(&read), told, "{what}: observe");
                if let Ok(read) = read {
                    let reading = &read.readings[0];
                    let found = match &reading.state {
                        KeyState::Absent => None,
                        KeyState::Value { bytes, .. } => Some(bytes.clone()),
                        other => panic!("{what}: {other:?}"),
                    };
                    let observed = (found, B::from(Base::decode(&reading.entry)));
                    assert_eq!(observed, (bytes(data.key.is.value), data.bucket.entry), "{what}: observed");
                }
            }
            16..=31 => {
                let op = [KeyOp::Set, KeyOp::Delete, KeyOp::Note][rng.usize(0..3)];
                let is_right = rng.u8(0..3) > 0;
                let expect = if is_right { pair.data.key.is.value } else { value(&mut rng) };
                let sidecar = if is_right { has } else { base(&mut rng, next) };
                let nonce = if rng.bool() { 0 } else { incarnation };
                let leave = base(&mut rng, next);
                let told = pair.apply(&Write { op, expect, sidecar, nonce, leave });
                met[told as usize] += 1;
                let write = KeyWrite {
                    key: KEY,
                    op,
                    expect: bytes(expect).map(|bytes| Digest::of(&bytes)),
                    expect_entry: sidecar.get().map(|base| base.encode()).unwrap_or_default(),
                    expect_nonce: if nonce == 0 { 0 } else { lives[usize::from(nonce)] },
                    incarnation: 0,
                    milestone: None,
                    value: &bytes(held.value).unwrap(),
                    base: leave.get(),
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
                let sequence = has.seq + rng.u8(0..3);
                let leave = base(&mut rng, sequence);
                let told = pair.complete(incarnation, u32::from(sequence), leave);
                let slot = Slot { number: 0, version: 1 };
                let (nonce, base, sequence) = (lives[usize::from(incarnation)], leave.get(), u32::from(sequence));
                let entry = JournalEntry { slot, key: KEY.to_vec(), nonce, base, sequence, milestone: None };
                assert_eq!(code(&owner.complete(vec![entry]).await), told, "{what}: complete");
            }
        }
        let field = |name: &[u8]| match double.run(&[b"HMGET", bucket, name]) {
            Reply::Array(fields) => match fields.first() {
                Some(Reply::Text(text)) => Some(text.clone()),
                _ => None,
            },
            other => panic!("{what}: {other:?}"),
        };
        let number = |name| field(name).map_or(0, |text| String::from_utf8_lossy(&text).parse::<u64>().unwrap());
        let (owner, nonce) = (number(b"_keepstep:e"), number(b"_keepstep:n"));
        if nonces > fresh {
            lives.push(nonce);
        }
        let there = (owner, nonce, B::from(field(KEY).and_then(|entry| Base::decode(&entry))));
        let Bk { epoch, nonce, entry } = data.bucket;
        let nonce = if nonce == 0 { 0 } else { lives[usize::from(nonce)] };
        assert_eq!(there, (u64::from(epoch), nonce, entry), "{what}: the bucket");
        let key = match double.run(&[b"GET", KEY]) {
            Reply::Text(text) => Some(text),
            _ => None,
        };
        assert_eq!(key, bytes(data.key.is.value), "{what}: the key");
    }
    assert!(met.iter().all(|count| *count > CASES / 200), "done, refused and fenced were all met: {met:?}");
}
