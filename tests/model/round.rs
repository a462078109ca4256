//! A round: observe, decide by the shipped functions, record, apply; one request to a store is one step.

use crate::apply::{apply, is_gone, mark, multi, note, resolve};
use crate::config::{Bug, Config};
use crate::events::hear_keys_out;
use crate::truth::{Effects, key_of, record, znode_of};
use crate::worker::{connect, die, finish, is_watched, leave_milestone, observe};
use crate::world::{B, Content, Event, Hint, Ky, Look, Op, Pc, Read, Todo, Worker, World};
use keepstep::change::Side;
use keepstep::plan::{
    Circumstances, Ensemble, Flow, KeyOp, Known, Next, Observation, OnConflict, Path, Record, Seen, Step, Task, Told,
    Vanished, Wait, ZnodeOp, after_key, after_znode, is_doubtful, path, plan, step,
};

pub fn begin_look(worker: &mut Worker, heard: u8, hint: Hint, comparing: bool) {
    worker.busy = true;
    worker.look = Look { hint, comparing, heard, ..Look::default() };
}

/// A round takes the pair and reads what it reads first.
pub fn take(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let heard = world.heard(i);
    let worker = &mut world.workers[i];
    if worker.life != crate::world::Life::Live || !worker.hint.on || worker.busy {
        return None;
    }
    let hint = std::mem::take(&mut worker.hint);
    let known = worker.cache.get();
    let watched = is_watched(cfg, worker);
    let mut named = hint.named();
    if cfg.has(Bug::EveryZnodeEventIsAnEcho) {
        named.zxid = 0;
    }
    named.slow |= worker.quarantined && !cfg.has(Bug::QuarantinedPairTakenFast);
    begin_look(worker, heard, hint, false);
    match path(named, known, u32::from(worker.lineage), watched) {
        Path::Echo if choice == 0 => finish(cfg, worker, None),
        Path::Echo => return None,
        Path::Znode => return see_znode(cfg, world, i, known, choice, effects),
        Path::Key => return see_key(cfg, world, i, choice, effects),
        Path::Both => return see_both(cfg, world, i, choice),
    }
    Some(())
}

/// The fast path of the ZooKeeper source.
fn see_znode(cfg: &Config, world: &mut World, i: usize, known: Known, choice: u8, effects: &mut Effects) -> Option<()> {
    if !world.workers[i].has_session {
        die(world, i);
        return Some(());
    }
    let lag = if cfg.follower_lags { choice } else { (choice == 0).then_some(0)? };
    let heard = world.workers[i].znode_heard;
    let newest = world.seen_len - 1;
    let least = heard.saturating_sub(1).saturating_sub(world.seen_before);
    let at = newest.checked_sub(lag).filter(|at| *at >= least)?;
    let (znode, _) = world.seen[usize::from(at)];
    let worker = &mut world.workers[i];
    if znode.is.value != 0 {
        worker.zxid = worker.zxid.max(znode.mzxid);
    }
    worker.look.znode = Read::Is(znode);
    let lineage = u32::from(worker.lineage);
    let gone = if cfg.has(Bug::GonePairReadOld) { 0 } else { worker.gone };
    let next = match after_znode(known, znode.version(), worker.look.hint.key, lineage, i64::from(gone)) {
        Next::Both if cfg.has(Bug::StaleReadBelieved) && known != Known::Unknown && znode.is.value != 0 => Next::Decide,
        next => next,
    };
    match next {
        Next::Key => {
            worker.look.znode = Read::No;
            worker.pc = Pc::KeyNext;
        }
        Next::Both => {
            worker.look.znode = Read::No;
            worker.pc = Pc::Znode;
        }
        Next::Decide => {
            if let Known::Base(base) = known {
                worker.look.base = B::of(&base);
            }
            return decide(cfg, world, i, 0, effects);
        }
    }
    Some(())
}

/// The fast path of the Redis source.
fn see_key(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    if !read_key(cfg, world, i) {
        return Some(());
    }
    let worker = &mut world.workers[i];
    let base = worker.look.base.get();
    let is_compared = worker.look.life == worker.life_compared || cfg.has(Bug::SidecarOfAnOlderLifeTrusted);
    if after_key(base.as_ref(), worker.look.base.is, u32::from(worker.lineage), is_compared) == Next::Both {
        worker.look = Look { hint: worker.look.hint, heard: worker.look.heard, ..Look::default() };
        worker.pc = Pc::Znode;
        return (choice == 0).then_some(());
    }
    decide(cfg, world, i, choice, effects)
}

/// OBSERVE; `false`: it was fenced.
fn read_key(cfg: &Config, world: &mut World, i: usize) -> bool {
    connect(world, i);
    if !observe(cfg, world, i) {
        die(world, i);
        return false;
    }
    let data = world.redis;
    let worker = &mut world.workers[i];
    worker.look.key = Read::Is(data.key);
    worker.look.base = data.bucket.entry;
    worker.look.nonce = data.bucket.nonce;
    worker.look.life = worker.lives;
    if cfg.has(Bug::CachedBaseWhereTheSidecarIsGone) && !worker.look.base.is {
        worker.look.base = worker.cache.base;
    }
    true
}

/// The slow path: the znode, after `sync`.
pub fn see_both(cfg: &Config, world: &mut World, i: usize, choice: u8) -> Option<()> {
    if !world.workers[i].has_session {
        die(world, i);
        return Some(());
    }
    // Without a base what `sync` brought is believed; no rule could tell.
    let may_lag = cfg.sync_lags && world.redis.bucket.entry.is && !world.workers[i].look.twice;
    let lag = if may_lag { choice } else { (choice == 0).then_some(0)? };
    let at = (world.seen_len - 1).checked_sub(lag)?;
    let (znode, _) = world.seen[usize::from(at)];
    if znode.is.value == 0 && world.zk.tide < world.workers[i].tide && !cfg.has(Bug::TideNotLookedAt) {
        die(world, i);
        return Some(());
    }
    let worker = &mut world.workers[i];
    // Of one that is gone its parent's pzxid tells.
    if znode.is.value != 0 || !cfg.has(Bug::DeletionNotDated) {
        worker.zxid = worker.zxid.max(znode.mzxid);
    }
    worker.look.znode = Read::Is(znode);
    worker.pc = Pc::Key;
    Some(())
}

/// The slow path: then the key; what is doubted is looked at once more, as a whole.
fn see_both_key(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    if !read_key(cfg, world, i) {
        return Some(());
    }
    let worker = &mut world.workers[i];
    let Read::Is(znode) = worker.look.znode else { return None };
    let is_doubted = is_doubtful(worker.look.base.get().as_ref(), znode.version(), u32::from(worker.lineage));
    let believes = cfg.has(Bug::StaleReadBelieved);
    if is_doubted && !worker.look.twice && !believes {
        let Look { hint, comparing, heard, .. } = worker.look;
        worker.look = Look { hint, comparing, heard, twice: true, ..Look::default() };
        worker.pc = Pc::Znode;
        return (choice == 0).then_some(());
    }
    decide(cfg, world, i, choice, effects)
}

/// A comparison met the znode: the key, or a guess where Redis is blank.
pub fn read_walked(cfg: &Config, world: &mut World, i: usize, leads: bool, had_rounds: bool, effects: &mut Effects) {
    let worker = &mut world.workers[i];
    worker.look.after_a_round = had_rounds && !cfg.has(Bug::WalkBelievedAfterARound);
    if worker.blank && leads && !worker.look.after_a_round {
        let _ = decide(cfg, world, i, 0, effects);
        return;
    }
    worker.pc = Pc::Walked;
}

fn walked(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    if !read_key(cfg, world, i) {
        return Some(());
    }
    let worker = &mut world.workers[i];
    let Read::Is(znode) = worker.look.znode else { return None };
    let is_doubted = is_doubtful(worker.look.base.get().as_ref(), znode.version(), u32::from(worker.lineage));
    let may_be_old = worker.look.after_a_round && !worker.look.base.is;
    if may_be_old || is_doubted && !cfg.has(Bug::StaleReadBelieved) {
        let hint = Hint { slow: true, ..worker.look.hint };
        finish(cfg, worker, Some(hint));
        return (choice == 0).then_some(());
    }
    decide(cfg, world, i, choice, effects)
}

/// The pair's round goes on.
pub fn go(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let only = || (choice == 0).then_some(());
    match world.workers[i].pc {
        Pc::Idle => return None,
        Pc::KeyNext => return see_key(cfg, world, i, choice, effects),
        Pc::Znode => return see_both(cfg, world, i, choice),
        Pc::Key => return see_both_key(cfg, world, i, choice, effects),
        Pc::Walked => return walked(cfg, world, i, choice, effects),
        Pc::Apply | Pc::ApplyOn => {
            only()?;
            apply(cfg, world, i, effects);
        }
        Pc::Milestone => {
            only()?;
            let milestone = leave_milestone(cfg, world, i);
            let worker = &mut world.workers[i];
            (worker.todo.milestone, worker.pc) = (milestone, Pc::Multi);
            // What was read belongs to a data set that is gone, if any was.
            let needs_none = worker.look.life == 0 || cfg.has(Bug::WrittenWithoutMilestone);
            if milestone.get().is_none() && !needs_none {
                let hint = Hint { slow: true, ..worker.look.hint };
                finish(cfg, worker, Some(hint));
            }
        }
        Pc::Multi => return multi(cfg, world, i, choice, effects),
        Pc::Resolve => {
            only()?;
            resolve(cfg, world, i);
        }
        Pc::Note | Pc::NoteOn => {
            only()?;
            note(cfg, world, i);
        }
        Pc::Mark => {
            only()?;
            mark(cfg, world, i);
        }
    }
    Some(())
}

/// What a rule may be told of times and numbers.
fn told(cfg: &Config, look: &Look, choice: u8) -> Option<Seen> {
    let watched = look.hint.key && !look.comparing;
    let none = Seen::default();
    let at = |redis_ms| Seen { redis_ms: Some(redis_ms), doubt_ms: 100, ..none };
    let counted = |writes| Seen { redis_writes: Some(writes), ..none };
    match (cfg.policy.on_conflict, choice) {
        (OnConflict::Latest, 0) => Some(if watched { at(0) } else { none }),
        (OnConflict::Latest, 1) if watched => Some(at(1_000)),
        (OnConflict::Latest, 2) if watched => Some(at(500)),
        (OnConflict::HigherVersion, 1) if !look.comparing => Some(counted(0)),
        (OnConflict::HigherVersion, 2) if !look.comparing => Some(counted(9)),
        (_, 0) => Some(none),
        _ => None,
    }
}

/// As `Engine::may_be_older`, which asks the stream: the life of the data set was not compared yet, and the newest record is of
/// another value.
fn may_be_older(cfg: &Config, world: &World, i: usize, key: Ky) -> bool {
    let worker = world.workers[i];
    let is_source = cfg.policy.flow == Flow::From(Side::Redis);
    let has_value = !(worker.look.comparing && cfg.large_values);
    let is_newest = world.recorded == key.is.value;
    let is_compared = worker.compared_run == worker.run;
    is_source && has_value && !is_compared && !is_newest && !cfg.has(Bug::OlderKeyFollowed)
}

/// On which sides an event told of what is there now, as `DirtySet::told`.
fn told_of(cfg: &Config, worker: &Worker) -> Told {
    let look = worker.look;
    let all = cfg.has(Bug::RoundsCarryOutWhatNobodySaw) && !look.comparing;
    Told { znode: look.hint.znode || worker.later.znode || all, key: look.hint.key || worker.later.key || all }
}

/// `plan()` and `step()`, and what they come to.
fn decide(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let key_gone = matches!(world.workers[i].look.key, Read::Is(key) if key.is.value == 0);
    // An absent key whose sidecar is there: the door asks for evictions before it says that nothing was lost, behind all events.
    if key_gone && world.workers[i].look.base.is && !cfg.has(Bug::EventsNotHeardOut) {
        hear_keys_out(world, i);
    }
    let mut worker = world.workers[i];
    if key_gone && worker.later.event != Event::None {
        worker.look.hint.event = worker.later.event;
    }
    let look = worker.look;
    let is_late = cfg.has(Bug::EvictionSeenLate);
    let evicted = if is_late || !look.base.is { worker.evicted } else { world.evicted };
    let is_intact = worker.compared_run == worker.run && worker.compared_evicted == evicted;
    let vanished = Vanished {
        seen: look.hint.event.removal(),
        now_ms: if world.late { 2 * crate::world::EXPIRES_MS } else { 0 },
        intact: is_intact || cfg.has(Bug::AbsenceIsADelete),
        older: false,
    };
    let seen = Observation {
        base: look.base.get(),
        znode: match look.znode {
            Read::No => keepstep::plan::Znode::AsBase,
            Read::Is(znode) if znode.is.value == 0 && cfg.has(Bug::LossNotDated) => {
                keepstep::plan::Znode::Absent(i64::MAX)
            }
            Read::Is(znode) => znode_of(znode),
        },
        key: match look.key {
            Read::No => keepstep::plan::Key::AsBase,
            Read::Is(key) => key_of(key, vanished, may_be_older(cfg, world, i, key)),
        },
        ensemble: Ensemble { id: u32::from(worker.lineage), since_zxid: i64::from(worker.since) },
        seen: told(cfg, &look, choice)?,
    };
    let has_key = matches!(look.key, Read::Is(key) if key.is.value != 0);
    let about = Circumstances {
        has_value: has_key && !(look.comparing && cfg.large_values),
        was_evicted: look.hint.event == Event::Evicted,
        has_waited: look.hint.waited,
        comparing: look.comparing,
        told: told_of(cfg, &worker),
        guards_deletes: cfg.guard && !look.hint.approved,
        key_named: look.hint.key && !cfg.has(Bug::NamedKeyNotLookedAt),
        hears_redis: true,
        path_id: crate::world::PATH,
    };
    let action = plan(&cfg.policy, &seen);
    let worker = &mut world.workers[i];
    let next = match step(action, &cfg.policy, &seen, &about) {
        Step::Do(_, Task::Redis { base: Some(base), .. }) if base.lost && cfg.has(Bug::LossNotNoted) => {
            Step::Lost(keepstep::change::Side::Redis)
        }
        next => next,
    };
    match next {
        Step::Nothing => {
            worker.quarantined = false;
            if !look.base.is && matches!(look.znode, Read::Is(znode) if znode.is.value == 0) {
                is_gone(worker);
            }
            if look.znode != Read::No && look.key != Read::No {
                put(cfg, worker, look.base);
            }
            finish(cfg, worker, None);
        }
        Step::Lost(_) | Step::Quarantine | Step::NotOurs => {
            worker.quarantined = true;
            finish(cfg, worker, None);
        }
        Step::Again(wait) => {
            let waited = look.hint.waited || wait != Wait::Read;
            finish(cfg, worker, Some(Hint { slow: true, waited, ..look.hint }));
        }
        Step::Guarded => {
            worker.inferred = true;
            finish(cfg, worker, None);
        }
        Step::Do(recorded, task) => begin(cfg, world, i, &recorded, task, effects),
    }
    Some(())
}

pub fn put(cfg: &Config, worker: &mut Worker, base: B) {
    worker.cache.base = if cfg.cache { base } else { B::default() };
}

/// The stream has the record; the write is next.
fn begin(cfg: &Config, world: &mut World, i: usize, recorded: &Record, task: Task, effects: &mut Effects) {
    let look = world.workers[i].look;
    let later = world.workers[i].later;
    let deletes = match task {
        Task::Redis { op: KeyOp::Delete, .. } => !(look.hint.znode || later.znode),
        Task::Znode { op: ZnodeOp::Delete(_), .. } => !(look.hint.key || later.key),
        _ => false,
    };
    effects.unguarded |= deletes && cfg.guard && !look.hint.approved;
    if let Record::Change(_, Some(verdict)) = recorded {
        record(cfg, world, &look, verdict, effects);
    }
    if cfg.policy.flow == Flow::From(Side::Redis)
        && let (Record::Change(..) | Record::Agreed, Read::Is(key)) = (recorded, look.key)
    {
        world.recorded = key.is.value;
    }
    let nothing = Content::default();
    let znode = if let Read::Is(znode) = look.znode { znode.is } else { nothing };
    let key = if let Read::Is(key) = look.key { key } else { Ky::default() };
    let todo = match task {
        Task::Redis { op, expect, base } => {
            if op == KeyOp::Note && base.is_none() && znode.value == 0 && key.is.value == 0 {
                // Both are gone, and both deletes are known.
                world.logged |= World::bit(znode.last) | World::bit(key.is.last);
            }
            effects.from_loss |= op == KeyOp::Delete && znode.lost;
            Todo {
                op: match op {
                    KeyOp::Note => Op::Note,
                    KeyOp::Set => Op::Set,
                    KeyOp::Delete => Op::Delete,
                },
                expect: expect.map_or(0, |digest| digest.0[0]),
                base: B::from(base),
                write: znode,
                over: if look.key == Read::No { u8::MAX } else { key.is.last },
                baseless: !look.base.is || look.base.value == 0,
                ..Todo::default()
            }
        }
        Task::Znode { op, base } => {
            effects.from_loss |= matches!(op, ZnodeOp::Delete(_)) && key.is.lost;
            // Where applications write the key alone, what the znode knows of it was carried there.
            let is_carried = cfg.policy.flow == Flow::From(Side::Redis) && cfg.budget.znode_writes == 0;
            let is_as_base = look.base.is && look.base.value == key.is.value;
            let is_behind = znode.last != key.is.last && znode.knows & World::bit(key.is.last) != 0;
            effects.older |= is_carried && is_as_base && is_behind && !cfg.two_values;
            let version = |version: i32| u8::try_from(version).unwrap();
            Todo {
                op: match op {
                    ZnodeOp::Create => Op::ZCreate,
                    ZnodeOp::Set(at) => Op::ZSet(version(at)),
                    ZnodeOp::Delete(at) => Op::ZDelete(version(at)),
                },
                base: B::of(&base),
                write: key.is,
                over: if look.znode == Read::No { u8::MAX } else { znode.last },
                baseless: !look.base.is || !look.base.has_z,
                ..Todo::default()
            }
        }
    };
    // Nobody asks for a milestone where Redis is never restarted.
    let is_restarted = cfg.budget.restarts > 0 || cfg.budget.key_rollbacks > 0;
    let before_multi = if is_restarted { Pc::Milestone } else { Pc::Multi };
    let worker = &mut world.workers[i];
    worker.pc = if matches!(todo.op, Op::Note | Op::Set | Op::Delete) { Pc::Apply } else { before_multi };
    worker.todo = todo;
    // Of what was read only this is needed from here on.
    (worker.look.znode, worker.look.key, worker.look.twice) = (Read::No, Read::No, false);
    worker.look.after_a_round = false;
}
