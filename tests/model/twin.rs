//! What the scripts of Redis decide (`src/store/redis/script.rs`), once more in Rust: the model runs on this. `tests/on_doubles/twin.rs`
//! holds it to the double of the server, and `tests/it/redis_conformance.rs` holds the double to a real one.

use keepstep::change::Digest;
use keepstep::plan::guard::Milestone;
use keepstep::plan::{Base, KeyOp};

/// The fields of a bucket that one pair has to do with. It exists if it has an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    pub epoch: Option<u64>,
    pub nonce: u64,
    pub entry: Option<Base>,
}

/// A milestone in two bytes; of branch 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mile {
    pub branch: u8,
    pub number: u8,
}

impl Mile {
    pub fn of(milestone: Option<Milestone>) -> Mile {
        let small = |number: u64| u8::try_from(number).unwrap();
        milestone.map_or(Mile::default(), |is| Mile { branch: small(is.branch), number: small(is.number) })
    }

    pub fn get(self) -> Option<Milestone> {
        (self.branch != 0).then(|| Milestone { branch: u64::from(self.branch), number: u64::from(self.number) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Done,
    Refused,
    Fenced,
}

/// One member of a call to `APPLY`.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub op: KeyOp,
    pub expect: Option<Digest>,
    pub entry: Option<Base>,
    /// 0: not looked at.
    pub nonce: u64,
    pub base: Option<Base>,
}

/// `OBSERVE`: whether the reader may, and the bucket raised to its epoch.
pub fn observe(bucket: &mut Bucket, epoch: u64, fresh: u64) -> Code {
    match bucket.epoch {
        Some(owner) if owner > epoch => return Code::Fenced,
        Some(owner) => bucket.epoch = Some(owner.max(epoch)),
        None => (bucket.epoch, bucket.nonce) = (Some(epoch), fresh),
    }
    Code::Done
}

/// `APPLY`: whether the write is done, and the sidecar it leaves. The caller changes the key.
pub fn apply(bucket: &mut Bucket, key: Option<Digest>, write: &Write, epoch: u64, fresh: u64) -> Code {
    if bucket.epoch.is_some_and(|owner| owner > epoch) {
        return Code::Fenced;
    }
    let is_same_life = write.nonce == 0 || (bucket.epoch.is_some() && bucket.nonce == write.nonce);
    if bucket.entry != write.entry || !is_same_life {
        return Code::Refused;
    }
    if write.op != KeyOp::Note && key != write.expect {
        return Code::Refused;
    }
    if write.base.is_some() && bucket.epoch.is_none() {
        (bucket.epoch, bucket.nonce) = (Some(epoch), fresh);
    }
    bucket.entry = write.base;
    Code::Done
}

/// `COMPLETE` for one entry of a journal.
pub fn complete(bucket: &mut Bucket, epoch: u64, nonce: u64, sequence: u32, base: Option<Base>) -> Code {
    match bucket.epoch {
        Some(owner) if owner > epoch => return Code::Fenced,
        Some(_) if bucket.nonce == nonce => {
            if bucket.entry.is_none_or(|have| have.sequence < sequence) {
                bucket.entry = base;
            }
        }
        Some(_) | None => {}
    }
    Code::Done
}
