//! What is true of the values, whatever the workers believe: which write includes which, and what a write of ours did to them.

use crate::config::{Bug, Config};
use crate::world::{Content, Ky, Look, NOBODY, Read, World, Zn};
use keepstep::change::{Digest, Side};
use keepstep::plan::{Action, Key, Observation, OnConflict, Vanished, Verdict, Znode, plan};

/// What a step did that is to be counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Effects {
    /// A value was replaced that the new one does not include and that is in no record.
    pub lost: bool,
    /// A conflict was recorded between two values of which one includes the other.
    pub spurious: bool,
    /// A delete was carried over from a side that had lost its value.
    pub from_loss: bool,
    /// A znode that was recreated between read and write was overwritten, and that was reported.
    pub recreated: bool,
    /// A value replaced a delete that nobody saw.
    pub unseen: bool,
    /// A delete was undone that nobody saw while data was missing, so that it looked like the loss.
    pub undone: bool,
    /// A conflict was recorded.
    pub conflict: bool,
    /// A delete that no event told of was carried out, and had not been counted.
    pub unguarded: bool,
    /// A key that came back at an older state, with its base, was carried over what had been carried before.
    pub older: bool,
}

/// A write of ours replaces `old`.
pub fn replace(cfg: &Config, world: &World, old: Content, new: &mut Content, how: How, effects: &mut Effects) {
    let is_new_to_it = old.last != NOBODY && old.last != new.last && new.knows & World::bit(old.last) == 0;
    // What is deleted at the destination of a one-way route is put back: there is no value to lose.
    let is_put_back = old.value == 0 && matches!(cfg.policy.flow, keepstep::plan::Flow::From(_));
    if is_new_to_it && !is_put_back && world.logged & World::bit(old.last) == 0 && !cfg.two_values {
        match how {
            // After any restart of Redis a delete that nobody saw looks like a loss.
            _ if old.value == 0 && (world.was_lost || world.run > 1) => effects.undone = true,
            How::Agreed => effects.undone = true,
            How::Recreated => effects.recreated = true,
            How::UnseenDelete if old.value == 0 => effects.unseen = true,
            How::UnseenDelete | How::Plain => effects.lost = true,
        }
    }
    new.knows |= old.knows;
    new.lost = false;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Plain,
    /// The znode is another life, its event is on the way, and the answer said so.
    Recreated,
    /// No base had a value there.
    UnseenDelete,
    /// It is what both had agreed on, and the ensemble has lost its copy since.
    Agreed,
}

/// A decision goes on the stream: what it says of the two sides as observed.
pub fn record(cfg: &Config, world: &mut World, look: &Look, verdict: &Verdict, effects: &mut Effects) {
    let (Read::Is(znode), Read::Is(key)) = (look.znode, look.key) else { return };
    let (znode, key) = (znode.is, key.is);
    let loser = if verdict.winner == Side::Zookeeper { key } else { znode };
    effects.conflict = true;
    let includes = |one: Content, other: Content| one.knows & World::bit(other.last) != 0;
    // On a one-way route what the destination holds is replaced even where it is the newer one: on record is what it should be.
    let is_one_way = matches!(cfg.policy.flow, keepstep::plan::Flow::From(_));
    let is_told_twice = match verdict.winner {
        Side::Zookeeper => includes(znode, key) || (!is_one_way && includes(key, znode)),
        Side::Redis => includes(key, znode) || (!is_one_way && includes(znode, key)),
    };
    effects.spurious = !cfg.two_values && !world.was_lost && is_told_twice;
    if !cfg.has(Bug::LoserNotRecorded) {
        world.logged |= World::bit(loser.last);
    }
}

pub fn znode_of(znode: Zn) -> Znode {
    match znode.version() {
        None => Znode::Absent(i64::from(znode.mzxid)),
        Some(version) => Znode::Present { version, digest: digest_of(znode.is), ephemeral: false, mtime_ms: 500 },
    }
}

pub fn digest_of(content: Content) -> Digest {
    crate::world::digest(content.value)
}

pub fn key_of(key: Ky, vanished: Vanished, may_be_older: bool) -> Key {
    if key.is.value == 0 {
        return Key::Absent(vanished);
    }
    let expires_ms = key.expires.then_some(crate::world::EXPIRES_MS);
    Key::Present { digest: digest_of(key.is), expires_ms, may_be_older }
}

/// Whether all is in step and at rest: the shipped `plan()` finds nothing to do in what is really there.
pub fn at_rest(cfg: &Config, world: &World) -> Result<(), String> {
    let worker = &world.workers[usize::from(world.newest)];
    let vanished = Vanished { seen: None, now_ms: 0, intact: false, older: false };
    let (znode, key, base) = (world.zk.znode, world.redis.key, world.redis.bucket.entry.get());
    let seen = Observation {
        base,
        znode: znode_of(znode),
        key: key_of(key, vanished, false),
        ensemble: keepstep::plan::Ensemble { id: u32::from(worker.lineage), since_zxid: i64::from(worker.since) },
        seen: Default::default(),
    };
    let action = plan(&cfg.policy, &seen);
    let is_equal = znode.is.value == key.is.value;
    let is_settled = match action {
        Action::Nothing => {
            let both = matches!(cfg.policy.flow, keepstep::plan::Flow::Both(_));
            is_equal || !both || base.is_some_and(|base| base.apart)
        }
        Action::Quarantine => cfg.policy.on_conflict == OnConflict::Quarantine,
        Action::Lost(_) => !matches!(cfg.policy.flow, keepstep::plan::Flow::Both(_)),
        // A base of two absent sides is forgotten by the next comparison that looks through the sidecars.
        _ => false,
    };
    if is_settled { Ok(()) } else { Err(format!("not in step: {action:?} is still to be done")) }
}
