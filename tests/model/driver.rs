//! The driver of a round: the shipped machine (`keepstep::pipeline::round`), one request to a store a step. It reads, passes answers on,
//! and keeps what was read; what a write meets is in `writes.rs`.

use crate::config::{Bug, Config};
use crate::events::hear_keys_out;
use crate::facts::{Knows, knows, settle};
use crate::news::Hint;
use crate::ownership::{Left, connect, die, leave_milestone, observe};
use crate::truth::{Effects, digest_of, record, znode_of};
use crate::world::{B, Content, Ky, Look, Mile, Op, Pc, Read, Todo, Worker, World, Zn};
use crate::writes::{apply, mark, multi, note, resolve, write_of};
use keepstep::change::Side;
use keepstep::pipeline::round::{
    Decision, End, Facts, FoundKey, FoundZnode, KeyAnswer, Next, Observed, Reading, Stage,
};
use keepstep::plan::{Flow, Key, KeyOp, Known, Observation, OnConflict, Record, Seen, Task, Znode, ZnodeOp};
use keepstep::store::{LeftMilestone, ReadContext};
use std::ops::ControlFlow;

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
    begin_look(worker, heard, hint, false);
    let mut news = hint.news();
    if cfg.has(Bug::EveryZnodeEventIsAnEcho) {
        news.zxid = 0;
    }
    match Reading::begin(news, &knows(cfg, world, i)) {
        Next::Read(reading) => {
            set_stage(&mut world.workers[i], reading.stage);
            read(cfg, world, i, choice, effects)
        }
        Next::End(end) => {
            settle(cfg, &mut world.workers[i], end);
            (choice == 0).then_some(())
        }
        Next::Observed(_) => unreachable!("nothing was read"),
    }
}

/// Where the pair's reading is.
fn reading(cfg: &Config, worker: &Worker) -> Reading {
    let look = &worker.look;
    let znode = found(cfg, look.znode);
    // Whoever believes whatever is read looks at nothing twice.
    let again = look.twice || cfg.has(Bug::StaleReadBelieved);
    let stage = match worker.pc {
        Pc::ZnodeNext => Stage::Znode,
        Pc::KeyNext => Stage::Key,
        Pc::Znode => Stage::SyncedZnode { again },
        Pc::Key => Stage::KeyAfterZnode { znode, again },
        Pc::Walked if cfg.has(Bug::StaleReadBelieved) && !look.after_a_round => Stage::KeyAfterZnode { znode, again },
        Pc::Walked => Stage::KeyAfterWalk { znode, may_be_old: look.after_a_round },
        pc => unreachable!("{pc:?} reads nothing"),
    };
    Reading { news: look.hint.news(), comparing: look.comparing, stage }
}

/// The znode that was read, as the machine asks for it.
fn found(cfg: &Config, znode: Read<Zn>) -> FoundZnode {
    let znode = match znode {
        Read::No => Znode::AsBase,
        Read::Is(znode) if znode.is.value == 0 && cfg.has(Bug::LossNotDated) => Znode::Absent(i64::MAX),
        Read::Is(znode) => znode_of(znode),
    };
    FoundZnode { znode, fits: true }
}

fn set_stage(worker: &mut Worker, stage: Stage) {
    let Look { hint, comparing, heard, znode, .. } = worker.look;
    let none = Look { hint, comparing, heard, ..Look::default() };
    (worker.pc, worker.look) = match stage {
        Stage::Znode => (Pc::ZnodeNext, none),
        Stage::Key => (Pc::KeyNext, none),
        Stage::SyncedZnode { again } => (Pc::Znode, Look { twice: again, ..none }),
        Stage::KeyAfterZnode { again, .. } => (Pc::Key, Look { twice: again, znode, ..none }),
        Stage::Captured(_) => unreachable!("of captures only"),
        Stage::KeyAfterWalk { may_be_old, .. } => (Pc::Walked, Look { after_a_round: may_be_old, znode, ..none }),
    };
}

/// One request that reads, and what its answer leads to.
fn read(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    match world.workers[i].pc {
        Pc::ZnodeNext => read_znode(cfg, world, i, choice, effects),
        Pc::Znode => see_both(cfg, world, i, choice),
        _ => read_key(cfg, world, i, choice, effects),
    }
}

/// The znode, on the session of the source.
fn read_znode(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
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
    let facts = knows(cfg, world, i);
    let known = facts.known();
    let reading = reading(cfg, facts.worker());
    let next = match reading.znode(found(cfg, Read::Is(znode)), &facts) {
        Next::Read(Reading { stage: Stage::SyncedZnode { .. }, .. })
            if cfg.has(Bug::StaleReadBelieved) && known != Known::Unknown && znode.is.value != 0 =>
        {
            let base = if let Known::Base(base) = known { Some(base) } else { None };
            let observation = Observation {
                base,
                znode: znode_of(znode),
                key: Key::AsBase,
                ensemble: facts.ensemble(),
                seen: Seen::default(),
            };
            let news = world.workers[i].look.hint.news();
            Next::Observed(Observed { news, comparing: false, observation, has_value: false, incarnation: 0 })
        }
        next => next,
    };
    follow(cfg, world, i, 0, next, effects)
}

/// The znode, after `sync`.
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
    if znode.is.value == 0 && world.zk.watermark < world.workers[i].watermark && !cfg.has(Bug::TideNotLookedAt) {
        die(world, i);
        return Some(());
    }
    let worker = &mut world.workers[i];
    // Of one that is gone its parent's pzxid tells.
    if znode.is.value != 0 || !cfg.has(Bug::DeletionNotDated) {
        worker.zxid = worker.zxid.max(znode.mzxid);
    }
    let is_again = worker.look.twice;
    let reading = reading(cfg, worker);
    worker.look.znode = Read::Is(znode);
    match reading.znode(found(cfg, Read::Is(znode)), &knows(cfg, world, i)) {
        Next::Read(reading) => set_stage(&mut world.workers[i], reading.stage),
        next => unreachable!("{next:?}: the key is still to be read"),
    }
    world.workers[i].look.twice = is_again;
    Some(())
}

/// OBSERVE.
fn read_key(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    connect(world, i);
    if !observe(cfg, world, i) {
        die(world, i);
        return Some(());
    }
    let reading = reading(cfg, &world.workers[i]);
    let data = world.redis;
    let worker = &mut world.workers[i];
    worker.look.key = Read::Is(data.key);
    worker.look.base = data.bucket.entry;
    worker.look.nonce = data.bucket.nonce;
    worker.look.life = worker.lives;
    if cfg.has(Bug::CachedBaseWhereTheSidecarIsGone) && !worker.look.base.is {
        worker.look.base = worker.cache.base;
    }
    let key_gone = data.key.is.value == 0;
    // An absent key whose sidecar is there: the room asks for evictions before it says that nothing was lost, behind all events.
    if key_gone && worker.look.base.is && !cfg.has(Bug::EventsNotHeardOut) {
        hear_keys_out(world, i);
    }
    let worker = &world.workers[i];
    let look = worker.look;
    let evicted = if cfg.has(Bug::EvictionSeenLate) || !look.base.is { worker.evicted } else { world.evicted };
    let is_intact = worker.compared_run == worker.run && worker.compared_evicted == evicted;
    let key = if key_gone {
        FoundKey::Absent
    } else {
        FoundKey::Value {
            digest: digest_of(data.key.is),
            expires_ms: data.key.expires.then_some(crate::world::EXPIRES_MS),
            has_bytes: !(look.comparing && cfg.large_values),
        }
    };
    let context = ReadContext {
        now_ms: if world.late { 2 * crate::world::EXPIRES_MS } else { 0 },
        intact: is_intact || cfg.has(Bug::AbsenceIsADelete),
        compared: worker.compared_run == worker.run,
        older: false,
        events_delivered: true,
    };
    let life = u64::from(look.life);
    let answer = KeyAnswer { key, base: look.base.get(), has_sidecar: look.base.is, incarnation: life, context };
    let facts = Knows { times: told(cfg, &look, choice).unwrap_or_default(), ..knows(cfg, world, i) };
    let next = reading.key(answer, &facts);
    if matches!(next, Next::Observed(_)) {
        told(cfg, &look, choice)?;
    } else {
        (choice == 0).then_some(())?;
    }
    follow(cfg, world, i, choice, next, effects)
}

fn follow(cfg: &Config, world: &mut World, i: usize, choice: u8, next: Next, effects: &mut Effects) -> Option<()> {
    match next {
        Next::Read(reading) => {
            let worker = &mut world.workers[i];
            worker.look.hint = Hint::of(reading.news);
            set_stage(worker, reading.stage);
        }
        Next::End(end) => settle(cfg, &mut world.workers[i], end),
        Next::Observed(observed) => decide(cfg, world, i, observed, effects),
    }
    let _ = choice;
    Some(())
}

/// A comparison met the znode: the key, or a guess where Redis is blank.
pub fn read_walked(cfg: &Config, world: &mut World, i: usize, leads: bool, had_rounds: bool, effects: &mut Effects) {
    let worker = &mut world.workers[i];
    let may_be_old = had_rounds && !cfg.has(Bug::WalkBelievedAfterARound);
    let news = worker.look.hint.news();
    let walked = found(cfg, worker.look.znode);
    if worker.blank && leads && !may_be_old {
        let observed = Reading::guessed_absent(news, walked.znode, &knows(cfg, world, i));
        decide(cfg, world, i, observed, effects);
        return;
    }
    set_stage(worker, Reading::walked(news, walked, may_be_old).stage);
}

/// The pair's round goes on.
pub fn go(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let only = || (choice == 0).then_some(());
    match world.workers[i].pc {
        Pc::Idle => return None,
        Pc::ZnodeNext | Pc::KeyNext | Pc::Znode | Pc::Key | Pc::Walked => return read(cfg, world, i, choice, effects),
        Pc::Apply | Pc::ApplyOn => {
            only()?;
            apply(cfg, world, i, effects);
        }
        Pc::Milestone => {
            only()?;
            let left = match leave_milestone(cfg, world, i) {
                Left::There(milestone, life) => Some(LeftMilestone { milestone, incarnation: life }),
                Left::NotThere => None,
                Left::Fenced => {
                    die(world, i);
                    return Some(());
                }
            };
            let worker = &mut world.workers[i];
            match write_of(worker).milestone_written(left, keepstep::pipeline::round::Delay::None) {
                ControlFlow::Continue(write) => {
                    (worker.todo.milestone, worker.pc) = (Mile::of(write.milestone), Pc::Multi);
                }
                ControlFlow::Break(_) if cfg.has(Bug::WrittenWithoutMilestone) => worker.pc = Pc::Multi,
                ControlFlow::Break(end) => settle(cfg, worker, end),
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

/// The machine's decision, and what it comes to.
fn decide(cfg: &Config, world: &mut World, i: usize, observed: Observed, effects: &mut Effects) {
    let mut observed = observed;
    let worker = &mut world.workers[i];
    worker.look.hint = Hint::of(observed.news);
    if observed.observation.key == Key::AsBase {
        worker.look.base = B::from(observed.observation.base);
    }
    if cfg.has(Bug::NamedKeyNotLookedAt) {
        observed.news.key = false;
    }
    let facts = knows(cfg, world, i);
    let action = observed.plan(&cfg.policy);
    match observed.decide(action, &facts) {
        Decision::Write(_, write)
            if matches!(write.task, Task::Redis { base: Some(base), .. } if base.lost)
                && cfg.has(Bug::LossNotNoted) =>
        {
            settle(cfg, &mut world.workers[i], End::Lost(Side::Redis));
        }
        Decision::Capture(_) => unreachable!("of captures only"),
        Decision::End(end) => settle(cfg, &mut world.workers[i], end),
        Decision::Write(recorded, write) => begin(cfg, world, i, &recorded, write.task, effects),
    }
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
