//! A round: observe, decide by the shipped functions, record, apply; one request to a store is one step.

use crate::config::{Bug, Config};
use crate::truth::{Effects, How, key_of, record, replace, znode_of};
use crate::twin::{self, Code, Write};
use crate::worker::{connect, die, epoch, finish, is_watched, observe};
use crate::world::{B, Content, Event, Hint, Ky, Look, Op, Pc, Read, Todo, Worker, World, Zn, some};
use keepstep::plan::guard::{self, Fate};
use keepstep::plan::{
    Circumstances, Ensemble, KeyOp, Known, Next, Observation, OnConflict, Path, Record, Seen, Step, Task, Vanished,
    Wait, ZnodeOp, after_key, after_znode, is_doubtful, path, plan, step,
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
    worker.zxid = worker.zxid.max(znode.mzxid);
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
    if after_key(base.as_ref(), worker.look.base.is, u32::from(worker.lineage)) == Next::Both {
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
    let worker = &mut world.workers[i];
    worker.zxid = worker.zxid.max(znode.mzxid);
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
    let believes = cfg.has(Bug::StaleReadBelieved) || (znode.is.value == 0 && cfg.has(Bug::AbsenceBelievedAtOnce));
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

/// `plan()` and `step()`, and what they come to.
fn decide(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let worker = world.workers[i];
    let look = worker.look;
    // An absent key whose sidecar is there: the door asks for evictions before it says that nothing was lost.
    let is_late = cfg.has(Bug::EvictionSeenLate);
    let evicted = if is_late || !look.base.is { worker.evicted } else { world.evicted };
    let is_intact = worker.compared_run == worker.run && worker.compared_evicted == evicted;
    let vanished = Vanished {
        seen: look.hint.event.removal(),
        now_ms: if world.late { 2 * crate::world::EXPIRES_MS } else { 0 },
        intact: is_intact || cfg.has(Bug::AbsenceIsADelete),
    };
    let seen = Observation {
        base: look.base.get(),
        znode: match look.znode {
            Read::No => keepstep::plan::Znode::AsBase,
            Read::Is(znode) => znode_of(znode),
        },
        key: match look.key {
            Read::No => keepstep::plan::Key::AsBase,
            Read::Is(key) => key_of(key, vanished),
        },
        ensemble: Ensemble {
            id: u32::from(worker.lineage),
            since_zxid: i64::from(worker.since),
            newest_zxid: i64::from(worker.zxid),
        },
        seen: told(cfg, &look, choice)?,
    };
    let has_key = matches!(look.key, Read::Is(key) if key.is.value != 0);
    let about = Circumstances {
        has_value: has_key && !(look.comparing && cfg.large_values),
        was_evicted: look.hint.event == Event::Evicted,
        has_waited: look.hint.waited,
        comparing: look.comparing,
        guards_deletes: cfg.guard && !look.hint.approved,
        key_named: look.hint.key && !cfg.has(Bug::NamedKeyNotLookedAt),
        hears_redis: true,
        path_id: crate::world::PATH,
    };
    let action = plan(&cfg.policy, &seen);
    let worker = &mut world.workers[i];
    match step(action, &cfg.policy, &seen, &about) {
        Step::Nothing => {
            worker.quarantined = false;
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
            worker.comparison.inferred = true;
            finish(cfg, worker, None);
        }
        Step::Do(recorded, task) => begin(cfg, world, i, &recorded, task, effects),
    }
    Some(())
}

fn put(cfg: &Config, worker: &mut Worker, base: B) {
    worker.cache.base = if cfg.cache { base } else { B::default() };
}

/// The stream has the record; the write is next.
fn begin(cfg: &Config, world: &mut World, i: usize, recorded: &Record, task: Task, effects: &mut Effects) {
    let look = world.workers[i].look;
    if let Record::Change(_, Some(verdict)) = recorded {
        record(cfg, world, &look, verdict, effects);
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
    let worker = &mut world.workers[i];
    worker.pc = if matches!(todo.op, Op::Note | Op::Set | Op::Delete) { Pc::Apply } else { Pc::Multi };
    worker.todo = todo;
    // Of what was read only this is needed from here on.
    (worker.look.znode, worker.look.key, worker.look.twice) = (Read::No, Read::No, false);
    worker.look.after_a_round = false;
}

/// Whether a note waits for a look at the key first. `None`: it is refused; `Some(false)`: it waits for its turn.
fn taken_back(cfg: &Config, world: &mut World, i: usize, op: KeyOp, base: B, on: Pc) -> Option<bool> {
    connect(world, i);
    let worker = world.workers[i];
    let is_suspect = guard::is_suspect(op, u64::from(worker.look.life), u64::from(worker.lives));
    if !is_suspect || cfg.has(Bug::OlderDataSetNotNoticed) {
        return Some(true);
    }
    if !observe(cfg, world, i) {
        die(world, i);
        return Some(false);
    }
    if guard::is_back(some(world.redis.key.is.value), base.get().as_ref()) {
        return None;
    }
    world.workers[i].pc = on;
    Some(false)
}

/// APPLY with one member; answers its outcome, or nothing where the worker ended or its connection did.
fn script(cfg: &Config, world: &mut World, i: usize, op: KeyOp, base: B) -> Option<Code> {
    let worker = world.workers[i];
    let (look, todo) = (worker.look, worker.todo);
    let mut bucket = world.redis.bucket.get();
    let held = world.redis.key;
    let nonce = if op == KeyOp::Note && !cfg.has(Bug::NonceNotCompared) { u64::from(look.nonce) } else { 0 };
    let entry = look.base.get();
    let value = if cfg.has(Bug::KeyWrittenWhateverItHolds) { some(todo.expect) } else { some(held.is.value) };
    let write = Write { op, expect: some(todo.expect), entry, nonce, base: base.get() };
    let epoch = if cfg.has(Bug::EpochNotCheckedByScripts) { u64::from(u8::MAX) } else { epoch(world, i) };
    let before = bucket.epoch;
    let code = twin::apply(&mut bucket, value, &write, epoch, u64::from(world.nonces) + 1);
    if cfg.has(Bug::EpochNotCheckedByScripts) && bucket.epoch.is_some() {
        bucket.epoch = Some(before.unwrap_or(u64::from(worker.epoch)));
    }
    if code == Code::Fenced {
        die(world, i);
        return None;
    }
    if code == Code::Done && before.is_none() && bucket.epoch.is_some() {
        world.nonces += 1;
    }
    world.redis.bucket.set(&bucket);
    Some(code)
}

fn apply(cfg: &Config, world: &mut World, i: usize, effects: &mut Effects) {
    let (todo, look) = (world.workers[i].todo, world.workers[i].look);
    let op = match todo.op {
        Op::Set => KeyOp::Set,
        Op::Delete => KeyOp::Delete,
        _ => KeyOp::Note,
    };
    if world.workers[i].pc == Pc::ApplyOn {
        if world.workers[i].run != world.run {
            let worker = &mut world.workers[i];
            let hint = Hint { slow: true, ..worker.look.hint };
            return finish(cfg, worker, Some(hint));
        }
    } else {
        match taken_back(cfg, world, i, op, todo.base, Pc::ApplyOn) {
            None => return not_done(cfg, &mut world.workers[i]),
            Some(false) => return,
            Some(true) => {}
        }
    }
    let Some(code) = script(cfg, world, i, op, todo.base) else { return };
    if code == Code::Refused {
        return not_done(cfg, &mut world.workers[i]);
    }
    let held = world.redis.key;
    let is_nothing = op == KeyOp::Delete && held.is.value == 0;
    if op != KeyOp::Note {
        let mut is = todo.write;
        if op == KeyOp::Delete {
            is.value = 0;
        }
        let is_unseen = todo.baseless || todo.over != held.is.last;
        let is_agreed = world.was_restored && look.base.has_z && look.base.value == held.is.value;
        let how = match (is_agreed, is_unseen) {
            (true, _) => How::Agreed,
            (false, true) => How::UnseenDelete,
            (false, false) => How::Plain,
        };
        replace(cfg, world, held.is, &mut is, how, effects);
        let event = match (is_nothing, op) {
            (true, _) => Event::None,
            (false, KeyOp::Delete) => Event::Del,
            (false, _) => Event::Set,
        };
        world.set_key(Ky { is, expires: false }, event);
        world.trailing = world.trailing.saturating_add(u8::from(!is_nothing));
    }
    in_step(cfg, &mut world.workers[i], todo.base);
}

fn in_step(cfg: &Config, worker: &mut Worker, base: B) {
    worker.quarantined = false;
    if !base.is {
        let heard = if worker.look.hint.zxid == u8::MAX { 0 } else { worker.look.hint.zxid };
        worker.gone = worker.gone.max(worker.zxid).max(heard);
    }
    put(cfg, worker, base);
    finish(cfg, worker, None);
}

fn not_done(cfg: &Config, worker: &mut Worker) {
    put(cfg, worker, B::default());
    let hint = Hint { slow: true, ..worker.look.hint };
    finish(cfg, worker, Some(hint));
}

/// The multi: fence, write, journal slot. `choice`: which free slot, and what becomes of the answer.
fn multi(cfg: &Config, world: &mut World, i: usize, choice: u8, effects: &mut Effects) -> Option<()> {
    let (slot, reply) = (usize::from(choice % 2), choice / 2);
    let worker = world.workers[i];
    if !worker.has_session || worker.fence != world.zk.fence && !cfg.has(Bug::EpochNotCheckedInZookeeper) {
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
    let is_there = held.is.value != 0;
    let fits = match todo.op {
        Op::ZCreate => !is_there,
        Op::ZSet(version) | Op::ZDelete(version) => {
            is_there && (held.version == version || cfg.has(Bug::ZnodeWrittenWhateverItsVersion))
        }
        _ => false,
    };
    let other_wrote = world.zk.slots[slot].version != worker.slots[slot];
    if !fits || other_wrote {
        if reply > 0 {
            return None;
        }
        if !fits {
            not_done(cfg, &mut world.workers[i]);
        } else {
            die(world, i);
        }
        return Some(());
    }
    world.zk.zxid += 1;
    let zxid = world.zk.zxid;
    let after = match todo.op {
        Op::ZCreate => Zn { is: todo.write, czxid: zxid, mzxid: zxid, version: 0 },
        Op::ZSet(_) => Zn { is: todo.write, mzxid: zxid, version: held.version + 1, ..held },
        _ => Zn { is: Content { value: 0, ..todo.write }, ..Zn::default() },
    };
    let kind = match todo.op {
        Op::ZDelete(_) => 1,
        Op::ZCreate => 2,
        _ => 3,
    };
    let place = &mut world.zk.slots[slot];
    if !cfg.has(Bug::JournalNotWritten) {
        (place.kind, place.nonce, place.base, place.mzxid) = (kind, worker.look.nonce, todo.base, zxid);
    }
    place.version += 1;
    let version = place.version;
    let mut after = after;
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
    replace(cfg, world, held.is, &mut after.is, how, effects);
    world.set_znode(after);
    world.trailing = world.trailing.saturating_add(1);
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
    worker.todo.settled = settled;
    worker.free[slot] = cfg.has(Bug::SlotReusedBeforeItsSidecars);
    worker.pc = Pc::Note;
}

/// The answer was lost: the journal slot tells.
fn resolve(cfg: &Config, world: &mut World, i: usize) {
    let worker = world.workers[i];
    if !worker.has_session {
        return die(world, i);
    }
    let todo = worker.todo;
    let now = world.zk.slots[usize::from(todo.slot)];
    if cfg.has(Bug::UnknownOutcomeIsARefusal) {
        world.workers[i].slots[usize::from(todo.slot)] = now.version;
        return not_done(cfg, &mut world.workers[i]);
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
fn note(cfg: &Config, world: &mut World, i: usize) {
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
    (worker.todo.refused, worker.pc) = (code == Code::Refused, Pc::Mark);
}

/// Redis learns that the slot's sidecars are written, and the slot is free again.
fn mark(cfg: &Config, world: &mut World, i: usize) {
    connect(world, i);
    let worker = world.workers[i];
    let slot = usize::from(worker.todo.slot);
    if world.redis.state.epoch > worker.epoch {
        return die(world, i);
    }
    if !cfg.has(Bug::SlotsNeverMarked) {
        world.redis.state.marks[slot] = worker.slots[slot];
        world.redis.state.zxid = worker.zxid;
    }
    let worker = &mut world.workers[i];
    worker.free[slot] = true;
    let todo = worker.todo;
    if todo.refused { not_done(cfg, worker) } else { in_step(cfg, worker, todo.settled) }
}
