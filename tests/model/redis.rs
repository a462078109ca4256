//! The data set of Redis in a few bytes. What a script decides about it is decided by the rules of the double
//! (`keepstep_doubles::redis::rules`); here is only how they read and write these bytes.

use crate::world::{B, Content, Data, Mile, State};
use keepstep_doubles::redis::rules::{self, Change, Code, Meta, MetaOf, Pair, Value, WriteOf};
use keepstep_doubles::redis::server::Kindness;
use std::convert::Infallible;

/// The pair's key and its bucket, as a script sees them that an owner calls.
pub struct Held<'a> {
    pub data: &'a mut Data,
    /// Numbers that were given so far: the next one is fresh.
    pub nonces: &'a mut u8,
    pub epoch: u8,
    /// What SET puts.
    pub value: Content,
    pub kindness: Option<Kindness>,
}

impl Pair for Held<'_> {
    type Epoch = u8;
    type Nonce = u8;
    type Sidecar = B;
    type Digest = u8;
    type Error = Infallible;

    fn kindness(&self) -> Option<Kindness> {
        self.kindness
    }

    fn epoch(&self) -> u8 {
        self.epoch
    }

    fn meta(&mut self) -> Result<MetaOf<Self>, Infallible> {
        let bucket = self.data.bucket;
        let exists = bucket.epoch != 0;
        Ok(Meta {
            owner: exists.then_some(bucket.epoch),
            nonce: exists.then_some(bucket.nonce),
            sidecar: bucket.entry.is.then_some(bucket.entry),
        })
    }

    fn sequence(sidecar: &B) -> Option<i64> {
        Some(i64::from(sidecar.seq))
    }

    fn begin_life(&mut self) -> Option<u8> {
        *self.nonces += 1;
        (self.data.bucket.epoch, self.data.bucket.nonce) = (self.epoch, *self.nonces);
        Some(*self.nonces)
    }

    fn raise_epoch(&mut self) {
        self.data.bucket.epoch = self.epoch;
    }

    fn digest(&mut self) -> Result<Option<u8>, Infallible> {
        Ok(Some(self.data.key.is.value))
    }

    fn set(&mut self) -> Result<(), Infallible> {
        (self.data.key.is, self.data.key.expires) = (self.value, false);
        Ok(())
    }

    fn delete(&mut self) -> Result<(), Infallible> {
        (self.data.key.is, self.data.key.expires) = (Content { value: 0, ..self.value }, false);
        Ok(())
    }

    fn put_sidecar(&mut self, sidecar: &B, begins_life: bool) -> Result<(), Infallible> {
        if begins_life {
            self.begin_life();
        }
        self.data.bucket.entry = *sidecar;
        Ok(())
    }

    fn remove_sidecar(&mut self) -> Result<(), Infallible> {
        self.data.bucket.entry = B::default();
        Ok(())
    }
}

/// What a script answers where the server refuses no command.
fn always<T>(answer: Result<T, Infallible>) -> T {
    let Ok(answer) = answer;
    answer
}

impl Held<'_> {
    /// `OBSERVE`.
    pub fn observe(&mut self) -> Code {
        always(rules::observe(self, true)).0
    }

    /// `APPLY` with one write.
    pub fn apply(&mut self, write: &WriteOf<Self>) -> Code {
        always(rules::apply(self, write))
    }

    /// `COMPLETE` with one entry of a journal.
    pub fn complete(&mut self, nonce: u8, sequence: u32, leave: B) -> Code {
        always(rules::complete(self, &nonce, i64::from(sequence), &leave))
    }
}

/// A field of the hash `_keepstep:<pipeline>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Zxid,
    Watermark,
    Canary,
    Run,
    Evicted,
    Mark(usize),
    Milestone,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Number(u8),
    Milestone(Mile),
}

impl Value for Kept {
    type Number = u8;

    fn number(&self) -> Option<u8> {
        if let Kept::Number(number) = self { Some(*number) } else { None }
    }

    fn names(&self, held: Option<&Kept>) -> bool {
        held == Some(self)
    }

    fn milestone(&self) -> Option<(u8, u8)> {
        if let Kept::Milestone(is) = self { (is.branch != 0).then_some((is.branch, is.number)) } else { None }
    }
}

struct Hash<'a> {
    state: &'a mut State,
    kindness: Option<Kindness>,
}

impl rules::State for Hash<'_> {
    type Epoch = u8;
    type Ensemble = u8;
    type Field = Field;
    type Value = Kept;
    type Error = Infallible;

    fn kindness(&self) -> Option<Kindness> {
        self.kindness
    }

    fn owner(&mut self) -> Result<(Option<u8>, Option<u8>), Infallible> {
        let some = |number: u8| (number != 0).then_some(number);
        Ok((some(self.state.epoch), some(self.state.ensemble)))
    }

    fn field(&mut self, field: &Field) -> Result<Option<Kept>, Infallible> {
        let state = &*self.state;
        Ok(Some(match *field {
            Field::Zxid => Kept::Number(state.zxid),
            Field::Watermark => Kept::Number(state.watermark),
            Field::Canary => Kept::Number(state.canary),
            Field::Run => Kept::Number(state.run),
            Field::Evicted => Kept::Number(state.evicted),
            Field::Mark(slot) => Kept::Number(state.marks[slot]),
            Field::Milestone => Kept::Milestone(state.milestone),
        }))
    }
}

/// A change of the hash, with the rule by which it is made.
pub type Update = (rules::Rule, Field, Kept);

/// `STATE`, called by the owner of this epoch in this lineage.
pub fn state(state: &mut State, (epoch, ensemble): (u8, u8), changes: &[Update], kindness: Option<Kindness>) -> Code {
    let mut hash = Hash { state: &mut *state, kindness };
    let changes: &[Change<Hash<'_>>] = changes;
    let (code, put) = always(rules::state(&mut hash, epoch, &ensemble, changes));
    if code != Code::Done {
        return code;
    }
    (state.epoch, state.ensemble) = (epoch, ensemble);
    for at in put {
        match (changes[at].1, changes[at].2) {
            (Field::Zxid, Kept::Number(number)) => state.zxid = number,
            (Field::Watermark, Kept::Number(number)) => state.watermark = number,
            (Field::Canary, Kept::Number(number)) => state.canary = number,
            (Field::Run, Kept::Number(number)) => state.run = number,
            (Field::Evicted, Kept::Number(number)) => state.evicted = number,
            (Field::Mark(slot), Kept::Number(number)) => state.marks[slot] = number,
            (Field::Milestone, Kept::Milestone(milestone)) => state.milestone = milestone,
            (field, kept) => unreachable!("{field:?} does not hold {kept:?}"),
        }
    }
    Code::Done
}
