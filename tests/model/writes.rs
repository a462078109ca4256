//! A round's writes: scripts, multis with their journal slot, sidecars, marks; and what each outcome means.

use crate::config::{Bug, Config};
use crate::ensemble::{self, ANY, Path, Value, Write};
use crate::facts::settle;
use crate::news::Event;
use crate::ownership::{connect, die, held, note_in_redis, observe};
use crate::redis::{Field, Kept};
use crate::truth::{Effects, How, replace};
use crate::world::{B, Content, Ensemble, Op, Pc, Slot, Worker, World, Zn, some};
use keepstep::pipeline::round::{self, Outcome, ZnodeWritten};
use keepstep::plan::guard::{self, Fate, Late};
use keepstep::plan::{KeyOp, Task, ZnodeOp};
use keepstep_doubles::redis::rules::{self, Code, Rule};
use std::ops::ControlFlow;

/// Whether a note waits for a look at the key first. `None`: it is refused; `Some(false)`: it waits for its turn.
fn taken_back(cfg: &Config, world: &mut World, i: usize, op: KeyOp, base: B, on: Pc) -> Option<bool> {
    connect(world, i);
    let worker = world.workers[i];
    let milestone = worker.todo.milestone.get().filter(|_| !cfg.has(Bug::MilestoneNotAsked));
    let found = world.redis.state.milestone.get();
    let is_late = guard::is_late(op, u64::from(worker.look.life), u64::from(worker.lives), milestone, found);
    if !is_late || cfg.has(Bug::OlderDataSetNotNoticed) {
        return Some(true);
    }
    if !observe(cfg, world, i) {
        die(world, i);
        return Some(false);
    }
    let (key, noted) = (some(world.redis.key.is.value), world.redis.bucket.entry.get());
    let late = guard::late(key, noted.as_ref(), base.get().as_ref());
    let is_taken_back = late == Late::TakenBack;
    if is_taken_back && (!worker.look.base.is || worker.todo.milestone.get().is_some()) {
        return None;
    }
    let worker = &mut world.workers[i];
    (worker.todo.unverified, worker.pc) = (late == Late::Unverified && !cfg.has(Bug::UnprovenTakenAsProven), on);
    worker.todo.taken_back = is_taken_back;
    Some(false)
}

/// APPLY with one member; answers its outcome, or nothing where the worker ended.
fn script(cfg: &Config, world: &mut World, i: usize, op: KeyOp, base: B) -> Option<Code> {
    let Worker { look, todo, .. } = world.workers[i];
    let late = match (todo.taken_back, todo.unverified) {
        (true, _) => Late::TakenBack,
        (false, true) => Late::Unverified,
        (false, false) => Late::AsItIs,
    };
    let leave = B::from(late.note(look.base.get(), base.get(), None).flatten());
    let nonce = if op == KeyOp::Note { look.nonce } else { 0 };
    let code = held(cfg, world, i).apply(&rules::Write { op, expect: todo.expect, sidecar: look.base, nonce, leave });
    if code == Code::Fenced {
        die(world, i);
        return None;
    }
    Some(code)
}

pub fn apply(cfg: &Config, world: &mut World, i: usize, effects: &mut Effects) {
    let (todo, look) = (world.workers[i].todo, world.workers[i].look);
    let op = match todo.op {
        Op::Set => KeyOp::Set,
        Op::Delete => KeyOp::Delete,
        _ => KeyOp::Note,
    };
    if world.workers[i].pc == Pc::ApplyOn {
        if world.workers[i].run != world.run {
            return key_written(cfg, &mut world.workers[i], Outcome::NotNow);
        }
    } else {
        match taken_back(cfg, world, i, op, todo.base, Pc::ApplyOn) {
            None => return key_written(cfg, &mut world.workers[i], Outcome::Refused),
            Some(false) => return,
            Some(true) => {}
        }
    }
    let before = world.redis.key;
    let Some(code) = script(cfg, world, i, op, todo.base) else { return };
    if code == Code::Refused || todo.taken_back {
        return key_written(cfg, &mut world.workers[i], Outcome::Refused);
    }
    let is_nothing = op == KeyOp::Delete && before.is.value == 0;
    if op != KeyOp::Note {
        let mut is = world.redis.key.is;
        let is_unseen = todo.baseless || todo.over != before.is.last;
        let is_newer = world.was_restored && is.last > world.restored_at;
        let is_agreed = is_newer && look.base.has_z && look.base.value == before.is.value;
        let how = match (is_agreed, is_unseen) {
            (true, _) => How::Agreed,
            (false, true) => How::UnseenDelete,
            (false, false) => How::Plain,
        };
        replace(cfg, world, before.is, &mut is, how, effects);
        world.redis.key.is = is;
        let event = match (is_nothing, op) {
            (true, _) => Event::None,
            (false, KeyOp::Delete) => Event::Del,
            (false, _) => Event::Set,
        };
        world.tell_of_key(event);
        world.trailing = world.trailing.saturating_add(u8::from(!is_nothing));
    }
    key_written(cfg, &mut world.workers[i], Outcome::Done);
}

/// The write that is under way, as the machine has it.
pub fn write_of(worker: &Worker) -> round::Write {
    let (look, todo) = (worker.look, worker.todo);
    let task = match todo.op {
        Op::Note => Task::Redis { op: KeyOp::Note, expect: None, base: todo.base.get() },
        Op::Set => Task::Redis { op: KeyOp::Set, expect: some(todo.expect), base: todo.base.get() },
        Op::Delete => Task::Redis { op: KeyOp::Delete, expect: some(todo.expect), base: todo.base.get() },
        Op::ZCreate | Op::ZSet(_) | Op::ZDelete(_) => Task::Znode { op: op_of(todo.op), base: todo.base.force() },
    };
    round::Write {
        news: look.hint.news(),
        comparing: look.comparing,
        task,
        incarnation: u64::from(look.life),
        had_base: look.base.is,
        is_lost: false,
        milestone: todo.milestone.get(),
    }
}

fn key_written(cfg: &Config, worker: &mut Worker, outcome: Outcome) {
    let end = write_of(worker).key_written(outcome);
    settle(cfg, worker, end);
}

fn znode_refused(cfg: &Config, worker: &mut Worker) {
    match write_of(worker).znode_written(ZnodeWritten::Refused) {
        ControlFlow::Break(end) => settle(cfg, worker, end),
        ControlFlow::Continue(_) => unreachable!("it was refused"),
    }
}

/// The multi: fence, lineage, write, journal slot. `choice`: which free slot, and what becomes of the answer.
pub fn multi(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let (slot, reply) = (usize::from(choice % 2), choice / 2);
    let worker = world.workers[i];
    if !worker.has_session {
        die(world, i);
        return (choice == 0).then_some(());
    }
    if !worker.free[slot] {
        return None;
    }
    // Which of two slots that hold nothing is taken makes no difference.
    if slot == 1 && worker.free[0] && world.zk.slots[0].kind == 0 {
        return None;
    }
    if reply > 0 {
        world.left.lost_replies = world.left.lost_replies.checked_sub(1)?;
    }
    world.workers[i].todo.slot = u8::try_from(slot).unwrap();
    if reply == 2 {
        world.workers[i].pc = Pc::Resolve;
        return Some(());
    }
    let todo = worker.todo;
    let held = world.zk.znode;
    match world.zk.transact(&members(cfg, &world.zk, &worker, slot)) {
        // Nothing was done, as where it did not arrive.
        Err(_) if reply > 0 => return None,
        Err(Path::Pair) => {
            znode_refused(cfg, &mut world.workers[i]);
            return Some(());
        }
        // The watermark was advanced meanwhile; or this is an older copy, or of another owner, in which versions say nothing.
        Err(Path::Lineage) if world.zk.watermark >= worker.watermark && world.zk.lineage == worker.lineage => {
            world.workers[i].watermark = world.zk.watermark;
            return Some(());
        }
        Err(_) => {
            die(world, i);
            return Some(());
        }
        Ok(()) => {}
    }
    let zxid = world.zk.zxid;
    let after = world.zk.znode;
    let (settled, recreated) =
        guard::outcome(op_of(todo.op), todo.base.force(), found(todo.op, &after), i64::from(zxid));
    let is_other = todo.base.czxid != held.czxid && matches!(todo.op, Op::ZSet(_) | Op::ZDelete(_));
    let is_on_its_way = held.czxid > worker.look.heard;
    let is_told = (recreated && !cfg.has(Bug::RecreationNotNoticed)) || matches!(todo.op, Op::ZDelete(_)) || reply == 1;
    let is_unseen = todo.baseless || todo.over != held.is.last;
    let how = match (is_other && is_on_its_way && is_told, is_unseen) {
        (true, _) => How::Recreated,
        (false, true) => How::UnseenDelete,
        (false, false) => How::Plain,
    };
    let mut is = Content { value: after.is.value, ..todo.write };
    replace(cfg, world, held.is, &mut is, how, effects);
    world.zk.znode.is = is;
    world.tell_of_znode();
    world.trailing = world.trailing.saturating_add(1);
    let version = world.zk.slots[slot].version;
    let worker = &mut world.workers[i];
    worker.zxid = worker.zxid.max(zxid);
    if reply == 1 {
        worker.pc = Pc::Resolve;
        return Some(());
    }
    worker.slots[slot] = version;
    written(cfg, worker, B::from(settled));
    Some(())
}

/// What is in the multi, in the order of `store/zookeeper/sink.rs`.
fn members(cfg: &Config, zk: &Ensemble, worker: &Worker, slot: usize) -> Vec<Write> {
    let todo = worker.todo;
    let mut members = Vec::with_capacity(4);
    if !cfg.has(Bug::EpochNotCheckedInZookeeper) {
        members.push(ensemble::check(Path::Epoch, worker.fence));
    }
    if !cfg.has(Bug::TideNotCheckedByWrites) {
        members.push(ensemble::check(Path::Lineage, worker.watermark));
    }
    let expected = |version| if cfg.has(Bug::ZnodeWrittenWhateverItsVersion) { ANY } else { i32::from(version) };
    let (write, kind) = match todo.op {
        Op::ZCreate => (ensemble::create(todo.write), 2),
        Op::ZSet(version) => (ensemble::set(Path::Pair, Value::Pair(todo.write), expected(version)), 3),
        Op::ZDelete(version) => (ensemble::delete(expected(version)), 1),
        Op::Note | Op::Set | Op::Delete => unreachable!("not a write to ZooKeeper"),
    };
    members.push(write);
    let entry = Slot { kind, nonce: worker.look.nonce, base: todo.base, milestone: todo.milestone, ..Slot::default() };
    let entry = if cfg.has(Bug::JournalNotWritten) { zk.slots[slot] } else { entry };
    members.push(ensemble::set(Path::Slot(slot), Value::Slot(entry), i32::from(worker.slots[slot])));
    members
}

fn op_of(op: Op) -> ZnodeOp {
    match op {
        Op::ZCreate => ZnodeOp::Create,
        Op::ZSet(version) => ZnodeOp::Set(i32::from(version)),
        Op::ZDelete(version) => ZnodeOp::Delete(i32::from(version)),
        Op::Note | Op::Set | Op::Delete => unreachable!("not a write to ZooKeeper"),
    }
}

fn found(op: Op, znode: &Zn) -> Option<keepstep::change::ZkVersion> {
    if matches!(op, Op::ZSet(_)) { znode.version() } else { None }
}

fn written(cfg: &Config, worker: &mut Worker, settled: B) {
    let slot = usize::from(worker.todo.slot);
    match write_of(worker).znode_written(ZnodeWritten::Done(settled.get())) {
        ControlFlow::Continue(base) => worker.todo.settled = B::from(base),
        ControlFlow::Break(end) => unreachable!("{end:?}: it was written"),
    }
    worker.free[slot] = cfg.has(Bug::SlotReusedBeforeItsSidecars);
    worker.pc = Pc::Note;
}

/// The answer was lost: the journal slot tells.
pub fn resolve(cfg: &Config, world: &mut World, i: usize) {
    let worker = world.workers[i];
    if !worker.has_session {
        return die(world, i);
    }
    let todo = worker.todo;
    let now = world.zk.slots[usize::from(todo.slot)];
    if cfg.has(Bug::UnknownOutcomeIsARefusal) {
        world.workers[i].slots[usize::from(todo.slot)] = now.version;
        return znode_refused(cfg, &mut world.workers[i]);
    }
    let before = worker.slots[usize::from(todo.slot)];
    let holds_ours = now.base == todo.base && now.nonce == worker.look.nonce;
    match guard::fate(i32::from(before), i32::from(now.version), holds_ours) {
        Fate::NotApplied => world.workers[i].pc = Pc::Multi,
        Fate::Fenced => die(world, i),
        Fate::Applied => {
            let znode = world.zk.znode;
            let found = found(todo.op, &znode).filter(|found| found.mzxid == i64::from(now.mzxid));
            let (settled, _) = guard::outcome(op_of(todo.op), todo.base.force(), found, i64::from(now.mzxid));
            let worker = &mut world.workers[i];
            worker.slots[usize::from(todo.slot)] = now.version;
            worker.zxid = worker.zxid.max(now.mzxid);
            written(cfg, worker, B::from(settled));
        }
    }
}

/// The sidecar of a write to ZooKeeper.
pub fn note(cfg: &Config, world: &mut World, i: usize) {
    let settled = world.workers[i].todo.settled;
    if world.workers[i].pc == Pc::NoteOn {
        if world.workers[i].run != world.run {
            world.workers[i].pc = Pc::Note;
            return;
        }
    } else {
        match taken_back(cfg, world, i, KeyOp::Note, settled, Pc::NoteOn) {
            None => {
                let worker = &mut world.workers[i];
                (worker.todo.refused, worker.pc) = (true, Pc::Mark);
                return;
            }
            Some(false) => return,
            Some(true) => {}
        }
    }
    let Some(code) = script(cfg, world, i, KeyOp::Note, settled) else { return };
    let worker = &mut world.workers[i];
    (worker.todo.refused, worker.pc) = (code == Code::Refused || worker.todo.taken_back, Pc::Mark);
}

/// Redis learns that the slot's sidecars are written, and the slot is free again.
pub fn mark(cfg: &Config, world: &mut World, i: usize) {
    connect(world, i);
    let worker = world.workers[i];
    let slot = usize::from(worker.todo.slot);
    let mark = (Rule::Set, Field::Mark(slot), Kept::Number(worker.slots[slot]));
    let marks = if cfg.has(Bug::SlotsNeverMarked) { Vec::new() } else { vec![mark] };
    if note_in_redis(cfg, world, i, &marks) == Code::Fenced {
        return die(world, i);
    }
    let worker = &mut world.workers[i];
    worker.free[slot] = true;
    let outcome = if worker.todo.refused { Outcome::Refused } else { Outcome::Done };
    let end = write_of(worker).sidecar_written(worker.todo.settled.get(), outcome);
    settle(cfg, worker, end);
}
