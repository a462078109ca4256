//! What the scripts of `store::redis` decide about one pair and about the hash of a pipeline: who is fenced, what is refused, what a
//! write leaves.
//!
//! ```text
//!   scripts.rs    the double: arguments and answers in bytes; its data are keys of a server      --+
//!                                                                                                  +--> rules.rs
//!   tests/model   the checker: the data of one pair in a few bytes                               --+
//! ```
//!
//! The rules are generic in the data, so that the checker explores the very functions that `tests/it/redis_conformance.rs` compares with a
//! real server. They follow the Lua line by line: an empty text is the default value of its type, a field that is missing is `None`.

use super::server::Kindness;
use keepstep::plan::KeyOp;

/// What a script reads of a bucket for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta<E, N, S> {
    pub owner: Option<E>,
    pub nonce: Option<N>,
    pub sidecar: Option<S>,
}

/// The meta of this pair.
pub type MetaOf<P> = Meta<<P as Pair>::Epoch, <P as Pair>::Nonce, <P as Pair>::Sidecar>;

/// A key and its bucket, as a script with its arguments sees them.
pub trait Pair {
    type Epoch: Copy + PartialOrd;
    /// Names an incarnation of the bucket; the default: none.
    type Nonce: Default + PartialEq;
    /// The default: none.
    type Sidecar: Default + PartialEq;
    /// Of a value; the default: of no key.
    type Digest: Default + PartialEq;
    type Error;

    /// A rule of the scripts that is left out, for tests that must notice it.
    fn kindness(&self) -> Option<Kindness>;

    /// The epoch of the caller.
    fn epoch(&self) -> Self::Epoch;

    /// The fields of the bucket.
    ///
    /// # Errors
    /// The server refuses the command.
    fn meta(&mut self) -> Result<MetaOf<Self>, Self::Error>;

    /// The sequence of a sidecar, if it has one.
    fn sequence(sidecar: &Self::Sidecar) -> Option<i64>;

    /// Notes the epoch of the caller, and a fresh nonce; the nonce if that was done.
    fn begin_life(&mut self) -> Option<Self::Nonce>;

    /// Notes the epoch of the caller; an error changes nothing.
    fn raise_epoch(&mut self);

    /// The digest of what the key holds; `None`: it is too large.
    ///
    /// # Errors
    /// The server refuses the command.
    fn digest(&mut self) -> Result<Option<Self::Digest>, Self::Error>;

    /// Gives the key the value of the write.
    ///
    /// # Errors
    /// The server refuses the command.
    fn set(&mut self) -> Result<(), Self::Error>;

    /// Deletes the key.
    ///
    /// # Errors
    /// The server refuses the command.
    fn delete(&mut self) -> Result<(), Self::Error>;

    /// Puts a sidecar into the bucket; `begins_life`: with the epoch of the caller and a fresh nonce.
    ///
    /// # Errors
    /// The server refuses the command.
    fn put_sidecar(&mut self, sidecar: &Self::Sidecar, begins_life: bool) -> Result<(), Self::Error>;

    /// Removes the sidecar.
    ///
    /// # Errors
    /// The server refuses the command.
    fn remove_sidecar(&mut self) -> Result<(), Self::Error>;
}

/// What a script answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Done,
    Refused,
    Fenced,
}

/// One write of a call of `APPLY`.
#[derive(Debug, Clone, Copy)]
pub struct Write<N, S, D> {
    pub op: KeyOp,
    /// What the key must hold.
    pub expect: D,
    /// The sidecar that must be there.
    pub sidecar: S,
    /// The incarnation of the bucket that it must be; the default: any.
    pub nonce: N,
    /// The sidecar that is left.
    pub leave: S,
}

/// A write to this pair.
pub type WriteOf<P> = Write<<P as Pair>::Nonce, <P as Pair>::Sidecar, <P as Pair>::Digest>;

fn has<P: Pair + ?Sized>(pair: &P, kindness: Kindness) -> bool {
    pair.kindness() == Some(kindness)
}

fn is_fenced<P: Pair + ?Sized>(pair: &P, meta: &MetaOf<P>) -> bool {
    meta.owner.is_some_and(|owner| owner > pair.epoch()) && !has(pair, Kindness::IgnoresEpochs)
}

/// `OBSERVE`: whether the caller may read, and the fields of the bucket with the nonce that it has from here on. `leaves_trace`: the bucket
/// takes the epoch of the caller.
///
/// # Errors
/// The bucket could not be read.
pub fn observe<P: Pair + ?Sized>(pair: &mut P, leaves_trace: bool) -> Result<(Code, MetaOf<P>), P::Error> {
    let mut meta = pair.meta()?;
    if is_fenced(pair, &meta) {
        return Ok((Code::Fenced, meta));
    }
    if !leaves_trace {
        meta.nonce = None;
    } else if meta.owner.is_none() || meta.nonce.is_none() {
        meta.nonce = pair.begin_life();
    } else if meta.owner.is_some_and(|owner| owner < pair.epoch()) && !has(pair, Kindness::ReadsWithoutRaising) {
        pair.raise_epoch();
    }
    Ok((Code::Done, meta))
}

/// `APPLY`: a write by compare-and-set, and the sidecar that it leaves.
///
/// # Errors
/// The server refuses a command; those before it are done.
pub fn apply<P: Pair + ?Sized>(pair: &mut P, write: &WriteOf<P>) -> Result<Code, P::Error> {
    let meta = pair.meta()?;
    if is_fenced(pair, &meta) {
        return Ok(Code::Fenced);
    }
    let is_any_life = write.nonce == P::Nonce::default() || has(pair, Kindness::IgnoresNonces);
    let is_same_life = is_any_life || meta.nonce.as_ref() == Some(&write.nonce);
    let is_same_sidecar =
        meta.sidecar.as_ref().map_or_else(|| write.sidecar == P::Sidecar::default(), |held| *held == write.sidecar);
    if !(is_same_sidecar || has(pair, Kindness::IgnoresSidecars)) || !is_same_life {
        return Ok(Code::Refused);
    }
    if write.op != KeyOp::Note {
        if pair.digest()?.as_ref() != Some(&write.expect) && !has(pair, Kindness::IgnoresValues) {
            return Ok(Code::Refused);
        }
        if write.op == KeyOp::Set {
            pair.set()?;
        } else {
            pair.delete()?;
        }
    }
    if write.leave != P::Sidecar::default() {
        pair.put_sidecar(&write.leave, meta.owner.is_none() || meta.nonce.is_none())?;
    } else if meta.sidecar.is_some() {
        pair.remove_sidecar()?;
    }
    Ok(Code::Done)
}

/// `COMPLETE` for one entry of a journal.
///
/// # Errors
/// The server refuses a command.
pub fn complete<P: Pair + ?Sized>(
    pair: &mut P,
    nonce: &P::Nonce,
    sequence: i64,
    leave: &P::Sidecar,
) -> Result<Code, P::Error> {
    let meta = pair.meta()?;
    if is_fenced(pair, &meta) {
        return Ok(Code::Fenced);
    }
    let is_same_life = meta.nonce.as_ref() == Some(nonce) || has(pair, Kindness::IgnoresNonces);
    if meta.owner.is_none() || !is_same_life {
        return Ok(Code::Done);
    }
    let have = meta.sidecar.as_ref().and_then(P::sequence).unwrap_or(-1);
    if have < sequence {
        if *leave != P::Sidecar::default() {
            pair.put_sidecar(leave, false)?;
        } else if meta.sidecar.is_some() {
            pair.remove_sidecar()?;
        }
    }
    Ok(Code::Done)
}

/// What is put into a field of a pipeline's hash.
pub trait Value: Sized {
    type Number: PartialOrd;

    /// `None`: it is no number.
    fn number(&self) -> Option<Self::Number>;

    /// Whether this is one of the values that this one names; `None`: there is none.
    fn names(&self, held: Option<&Self>) -> bool;

    /// Branch and number of a milestone. `None`: it is none.
    fn milestone(&self) -> Option<(Self::Number, Self::Number)>;
}

/// The hash of a pipeline.
pub trait State {
    type Epoch: Copy + PartialOrd;
    type Ensemble: PartialEq;
    type Field;
    type Value: Value;
    type Error;

    /// A rule that is left out, for tests that must notice it.
    fn kindness(&self) -> Option<Kindness>;

    /// The owner and the lineage of its ensemble.
    ///
    /// # Errors
    /// The server refuses the command.
    fn owner(&mut self) -> Result<(Option<Self::Epoch>, Option<Self::Ensemble>), Self::Error>;

    /// What a field holds.
    ///
    /// # Errors
    /// The server refuses the command.
    fn field(&mut self, field: &Self::Field) -> Result<Option<Self::Value>, Self::Error>;
}

/// When a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `s`: always.
    Set,
    /// `r`: it only rises in one lineage.
    Rise,
    /// `m`: unless this milestone, or a later one of its branch, is there.
    Milestone,
    /// `h`: never; nothing at all is written unless this milestone, or a later one of its branch, is there.
    Has,
    /// `e`: never; nothing at all is written unless one of these is there.
    OneOf,
}

/// A field that is to be written.
pub type Change<S> = (Rule, <S as State>::Field, <S as State>::Value);

/// `STATE`: whether it is written, and then which of the changes are. The caller writes them, with epoch and lineage, in one command.
///
/// # Errors
/// The server refuses a command.
pub fn state<S: State + ?Sized>(
    state: &mut S,
    epoch: S::Epoch,
    ensemble: &S::Ensemble,
    changes: &[Change<S>],
) -> Result<(Code, Vec<usize>), S::Error> {
    let (owner, of) = state.owner()?;
    let is_same = of.as_ref() == Some(ensemble);
    let is_any = state.kindness() == Some(Kindness::RemembersFormerOwners);
    let is_others = |owner: S::Epoch| owner > epoch || (owner == epoch && of.is_some() && !is_same);
    if owner.is_some_and(is_others) && !is_any {
        return Ok((Code::Fenced, Vec::new()));
    }
    for (rule, field, value) in changes {
        let is_there = *rule != Rule::Has || state.kindness() == Some(Kindness::PutsEveryMilestone);
        if !is_there && !is_in(state.field(field)?, value) {
            return Ok((Code::Refused, Vec::new()));
        }
        if *rule == Rule::OneOf && !value.names(state.field(field)?.as_ref()) {
            return Ok((Code::Refused, Vec::new()));
        }
    }
    let mut put = Vec::with_capacity(changes.len());
    for (at, (rule, field, value)) in changes.iter().enumerate() {
        let is_new = match rule {
            Rule::Has | Rule::OneOf => false,
            Rule::Milestone => !is_in(state.field(field)?, value),
            Rule::Rise if is_same && !is_any => {
                let held = state.field(field)?.as_ref().and_then(Value::number);
                held.is_none_or(|held| value.number().is_some_and(|value| value > held))
            }
            Rule::Rise | Rule::Set => true,
        };
        if is_new {
            put.push(at);
        }
    }
    Ok((Code::Done, put))
}

/// Whether this milestone, or a later one of its branch, is what a field holds.
fn is_in<V: Value>(held: Option<V>, wanted: &V) -> bool {
    let held = held.as_ref().and_then(Value::milestone);
    held.zip(wanted.milestone()).is_some_and(|((branch, number), (of, least))| branch == of && number >= least)
}
