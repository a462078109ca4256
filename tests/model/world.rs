//! The state of the model: both stores, the workers, and what is true of every value, in some hundred bytes.
//!
//! Numbers are small so that states stay small: a value is one byte, its digest twenty times that byte; a zxid, an epoch, a
//! nonce is one byte, 0 for none.

use crate::news::{Event, Hint};
use keepstep::change::{Digest, ZkVersion};
use keepstep::pipeline::comparison::{self, Found};
use keepstep::pipeline::sources::Sources;
use keepstep::plan::guard::Milestone;
use keepstep::plan::{Base, Known};

/// No application has written this.
pub const NOBODY: u8 = 0;
pub const SLOTS: usize = 2;
pub const HISTORY: usize = 8;
pub const PATH: u32 = 7;
/// The expiry time of every key that has one.
pub const EXPIRES_MS: i64 = 1_000;

/// What a side holds, and what is true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Content {
    /// 0: absent.
    pub value: u8,
    /// The application's write (or delete) that made it so.
    pub last: u8,
    /// The writes that it includes, a bit each.
    pub knows: u16,
    /// Absent because its store lost it.
    pub lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Zn {
    pub is: Content,
    pub czxid: u8,
    /// Of one that is gone: the zxid of its deletion, as its parent's pzxid tells it.
    pub mzxid: u8,
    pub version: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ky {
    pub is: Content,
    pub expires: bool,
}

/// A base in ten bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct B {
    pub is: bool,
    pub seq: u8,
    pub has_z: bool,
    pub czxid: u8,
    pub mzxid: u8,
    pub version: u8,
    pub value: u8,
    pub expires: bool,
    pub apart: bool,
    pub unverified: bool,
    pub lost: bool,
    pub ensemble: u8,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Slot {
    pub version: u8,
    pub mzxid: u8,
    /// 0: empty; then kind of [`journal`] + 1: gone, created, set.
    pub kind: u8,
    pub nonce: u8,
    pub base: B,
    pub milestone: Mile,
}

/// The ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ensemble {
    pub zxid: u8,
    pub znode: Zn,
    pub epoch: u8,
    pub fence: u8,
    pub lineage: u8,
    pub watermark: u8,
    pub since: u8,
    pub slots: [Slot; SLOTS],
}

/// The fields of a bucket that matter; it exists if its epoch is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Bk {
    pub epoch: u8,
    pub nonce: u8,
    pub entry: B,
}

/// `_keepstep:<pipeline>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    pub epoch: u8,
    pub ensemble: u8,
    pub zxid: u8,
    pub watermark: u8,
    pub canary: u8,
    /// Run and evictions as of the last comparison in step; 0: none.
    pub run: u8,
    pub evicted: u8,
    pub marks: [u8; SLOTS],
    pub milestone: Mile,
}

/// The data set of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Data {
    pub key: Ky,
    pub bucket: Bk,
    pub state: State,
}

/// Where a worker is in its ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Life {
    #[default]
    Dead,
    Remembering,
    Owning,
    Beginning,
    Reading,
    Completing,
    Marking,
    Live,
}

/// Where a worker is with the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pc {
    #[default]
    Idle,
    /// The znode, on the session of the source.
    ZnodeNext,
    /// The znode was read by the fast path and is as the base has it: the key next.
    KeyNext,
    /// Both, the znode first.
    Znode,
    /// The znode is read: the key next.
    Key,
    /// The comparison's walk has the znode: the key next.
    Walked,
    Apply,
    /// It is known that no older data set has taken the state back, on this connection.
    ApplyOn,
    /// It is recorded; a milestone is left in Redis before the multi.
    Milestone,
    Multi,
    Resolve,
    Note,
    NoteOn,
    Mark,
}

/// What was read of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Read<T> {
    #[default]
    No,
    Is(T),
}

/// A pair on its way through a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Look {
    pub hint: Hint,
    pub base: B,
    pub nonce: u8,
    pub life: u8,
    pub znode: Read<Zn>,
    pub key: Read<Ky>,
    pub comparing: bool,
    pub twice: bool,
    /// Rounds have ended since the walk read the znode.
    pub after_a_round: bool,
    /// Zxid of the last event of the znode that had been heard when the pair was taken.
    pub heard: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Op {
    #[default]
    Note,
    Set,
    Delete,
    ZCreate,
    ZSet(u8),
    ZDelete(u8),
}

/// A task, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Todo {
    pub op: Op,
    pub expect: u8,
    pub base: B,
    /// What is written.
    pub write: Content,
    pub expires: bool,
    /// After a multi: the base that the sidecar gets.
    pub settled: B,
    pub slot: u8,
    pub refused: bool,
    /// The note comes after a restart of Redis, and the key holds neither what it says nor what was there.
    pub unverified: bool,
    /// The same, and the key is as the sidecar has it: what is noted is that this proves nothing.
    pub taken_back: bool,
    /// Left in Redis behind what was observed.
    pub milestone: Mile,
    /// The write that was seen where this goes; `u8::MAX`: not looked at.
    pub over: u8,
    /// No base had a value there.
    pub baseless: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stage {
    #[default]
    None,
    Walked,
    Visited,
}

/// A comparison under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Comparison {
    pub asked: bool,
    /// By the clock alone.
    pub due: bool,
    pub stage: Stage,
    pub znode: Zn,
    /// The shipped one; nothing while none is under way.
    pub shipped: Option<comparison::Comparison>,
    pub life: u8,
    /// Rounds that had ended when the znode was read.
    pub ended: u8,
}

/// What the cache says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cache {
    pub base: B,
    pub complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Worker {
    /// A delete that nobody saw waits until the comparison has concluded.
    pub inferred: bool,
    pub life: Life,
    pub has_session: bool,
    pub epoch: u8,
    pub fence: u8,
    pub lineage: u8,
    pub watermark: u8,
    pub since: u8,
    pub remembered: State,
    pub journal: [Slot; SLOTS],
    /// The run of the server that it is connected to, and lives of the data set it has counted.
    pub run: u8,
    pub lives: u8,
    pub generation: u8,
    pub evicted: u8,
    pub compared_run: u8,
    pub compared_evicted: u8,
    pub canary: u8,
    pub blank: bool,
    /// Events up to these were delivered.
    pub znode_heard: u8,
    pub key_heard: u8,
    pub sources: Sources,
    pub slots: [u8; SLOTS],
    pub free: [bool; SLOTS],
    /// The newest zxid seen when the pair last lost its base.
    pub gone: u8,
    /// Its last look left the pair as it was.
    pub quarantined: bool,
    pub cache: Cache,
    pub hint: Hint,
    pub later: Hint,
    pub busy: bool,
    pub pc: Pc,
    pub look: Look,
    pub todo: Todo,
    pub comparison: Comparison,
    /// Of its milestones: the branch, how many were given, and the last that Redis took; 0: none.
    pub branch: u8,
    pub given: u8,
    pub left: u8,
    /// A comparison has ended and waits for the pair.
    pub concludes: Option<Found>,
    pub ended: u8,
    /// The newest zxid that it has seen.
    pub zxid: u8,
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub znode_writes: u8,
    pub key_writes: u8,
    pub crashes: u8,
    pub starts: u8,
    pub lost_replies: u8,
    pub gaps: u8,
    pub repeats: u8,
    pub flushes: u8,
    pub evictions: u8,
    pub key_rollbacks: u8,
    /// Redis restarts and has lost nothing.
    pub restarts: u8,
    /// An application puts the key back to what its sidecar says.
    pub returns: u8,
    pub znode_rollbacks: u8,
    pub comparisons: u8,
    pub others: u8,
    pub siblings: u8,
    /// Something else than an owner writes under an epoch of its own: a command, or whoever filled a data folder that was copied here.
    pub commands: u8,
    /// A former owner ends and says how far it had seen the ensemble come.
    pub late_ends: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct World {
    pub zk: Ensemble,
    /// States of the znode that somebody may still see, newest last, each with the zxid of its event, and how many there were
    /// before.
    pub seen: [(Zn, u8); HISTORY],
    pub seen_len: u8,
    pub seen_before: u8,
    pub redis: Data,
    pub run: u8,
    pub evicted: u8,
    /// Past the expiry of every key.
    pub late: bool,
    pub events: [Event; HISTORY],
    pub events_len: u8,
    pub events_before: u8,
    /// The ensemble came back older, and no owner has begun since.
    pub is_restored: bool,
    /// That has happened, after so many writes of applications.
    pub was_restored: bool,
    pub restored_at: u8,
    pub zk_copy: Option<Ensemble>,
    pub redis_copy: Option<Data>,
    pub nonces: u8,
    pub writes: u8,
    /// Losers on the stream, a bit each.
    pub logged: u16,
    /// The value of the newest record, where only Redis is written from.
    pub recorded: u8,
    /// Writes of ours to key or znode since the last change by others.
    pub trailing: u8,
    /// Data was lost by a store: what conflicts then is not told.
    pub was_lost: bool,
    pub left: Budget,
    pub workers: [Worker; 2],
    /// The worker that was started last.
    pub newest: u8,
    /// The highest epoch on the stream.
    pub on_stream: u8,
    /// The highest watermark that an owner told Redis of, whatever became of it there.
    pub told_watermark: u8,
}

pub fn digest(value: u8) -> Digest {
    Digest([value; 20])
}

fn value_of(digest: Digest) -> u8 {
    digest.0[0]
}

pub fn some(value: u8) -> Option<Digest> {
    (value != 0).then(|| digest(value))
}

pub fn small(number: i64) -> u8 {
    u8::try_from(number).unwrap()
}

impl Zn {
    pub fn version(&self) -> Option<ZkVersion> {
        (self.is.value != 0).then(|| ZkVersion {
            czxid: i64::from(self.czxid),
            mzxid: i64::from(self.mzxid),
            version: i32::from(self.version),
        })
    }
}

impl B {
    pub fn of(base: &Base) -> B {
        let version = base.zookeeper.unwrap_or(ZkVersion { czxid: 0, mzxid: 0, version: 0 });
        B {
            is: true,
            seq: u8::try_from(base.sequence).unwrap(),
            has_z: base.zookeeper.is_some(),
            czxid: small(version.czxid),
            mzxid: small(version.mzxid),
            version: u8::try_from(version.version).unwrap(),
            value: base.redis.map_or(0, value_of),
            expires: base.expires_ms.is_some(),
            apart: base.apart,
            unverified: base.unverified,
            lost: base.lost,
            ensemble: u8::try_from(base.ensemble).unwrap(),
        }
    }

    pub fn from(base: Option<Base>) -> B {
        base.as_ref().map_or(B::default(), B::of)
    }

    pub fn get(self) -> Option<Base> {
        self.is.then(|| self.force())
    }

    /// The base even where it stands for none.
    pub fn force(self) -> Base {
        let version =
            ZkVersion { czxid: i64::from(self.czxid), mzxid: i64::from(self.mzxid), version: i32::from(self.version) };
        Base {
            sequence: u32::from(self.seq),
            zookeeper: self.has_z.then_some(version),
            redis: some(self.value),
            expires_ms: self.expires.then_some(EXPIRES_MS),
            ephemeral: false,
            apart: self.apart,
            unverified: self.unverified,
            lost: self.lost,
            // No operator drops a pair here.
            left: false,
            path_id: PATH,
            ensemble: u32::from(self.ensemble),
        }
    }
}

impl Cache {
    pub fn get(self) -> Known {
        match self.base.get() {
            Some(base) => Known::Base(base),
            None if self.complete => Known::None,
            None => Known::Unknown,
        }
    }
}

impl World {
    pub fn bit(write: u8) -> u16 {
        if write == NOBODY { 0 } else { 1 << (write - 1) }
    }

    /// How many states of the znode there were.
    pub fn znode_events(&self) -> u8 {
        self.seen_before + self.seen_len
    }

    /// Zxid of the last event of the znode that this worker has heard.
    pub fn heard(&self, i: usize) -> u8 {
        let at = self.workers[i].znode_heard.saturating_sub(self.seen_before);
        at.checked_sub(1).map_or(0, |at| self.seen[usize::from(at)].1)
    }

    pub fn key_events(&self) -> u8 {
        self.events_before + self.events_len
    }

    /// The znode has changed; all hear of it.
    pub fn tell_of_znode(&mut self) {
        self.seen[usize::from(self.seen_len)] = (self.zk.znode, self.zk.zxid);
        self.seen_len += 1;
    }

    pub fn set_key(&mut self, key: Ky, event: Event) {
        self.redis.key = key;
        self.tell_of_key(event);
    }

    /// The key has changed; all who listen hear of it.
    pub fn tell_of_key(&mut self, event: Event) {
        if event != Event::None {
            self.events[usize::from(self.events_len)] = event;
            self.events_len += 1;
        }
    }

    /// Forgets what nobody can see any more, so that states that differ in nothing else are one.
    pub fn tidy(&mut self) {
        let (mut znode, mut key) = (self.znode_events() - 1, self.key_events());
        for worker in self.workers.iter().filter(|worker| worker.life == Life::Live) {
            znode = znode.min(worker.znode_heard.saturating_sub(1));
            key = key.min(worker.key_heard);
        }
        let cut = usize::from(znode - self.seen_before);
        if cut > 0 {
            self.seen.copy_within(cut.., 0);
            self.seen[HISTORY - cut..].fill(Default::default());
            self.seen_len -= cut as u8;
            self.seen_before = znode;
        }
        let cut = usize::from(key - self.events_before);
        if cut > 0 {
            self.events.copy_within(cut.., 0);
            self.events[HISTORY - cut..].fill(Event::None);
            self.events_len -= cut as u8;
            self.events_before = key;
        }
        // How often there was an event matters to nobody.
        let (znode, key) = (self.seen_before, self.events_before);
        (self.seen_before, self.events_before) = (0, 0);
        for worker in self.workers.iter_mut().filter(|worker| worker.life == Life::Live) {
            worker.znode_heard -= znode;
            worker.key_heard -= key;
        }
    }
}
