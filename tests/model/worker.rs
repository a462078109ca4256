//! A worker around its pair: what it hears, its connection to Redis, its end, the takeover and the comparison; in the order in
//! which `src/pipeline` does these.

use crate::config::{Bug, Config};
use crate::news::Hint;
use crate::redis::{self, Field, Held, Kept, Update};
use crate::round::{begin_look, read_walked, see_both};
use crate::truth::Effects;
use crate::world::{B, Comparison, Life, Look, Mile, Pc, Read, SLOTS, Stage, State, Worker, World, some};
use keepstep::change::Side;
use keepstep::pipeline::comparison::{self, Busy};
use keepstep::pipeline::sources::Sources;
use keepstep::pipeline::takeover::Owning;
use keepstep::plan::guard::{self, Late, Milestone, Remembered};
use keepstep::plan::{Base, Ensemble};
use keepstep::store::Lease;
use keepstep_doubles::redis::rules::{Code, Rule};

/// It ends, and with it whatever it knew.
pub fn die(world: &mut World, i: usize) {
    world.workers[i] = Worker::default();
}

/// A hint comes in.
pub fn note_hint(worker: &mut Worker, hint: Hint) {
    let place = if worker.busy { &mut worker.later } else { &mut worker.hint };
    place.merge(hint);
}

/// The pair's round ends; `again`: what is still to be done.
pub fn finish(cfg: &Config, worker: &mut Worker, again: Option<Hint>) {
    let forgets = worker.look.comparing && cfg.has(Bug::SkippedPairTakenAsCompared);
    worker.busy = false;
    worker.pc = Pc::Idle;
    worker.look = Look::default();
    worker.todo = Default::default();
    let later = std::mem::take(&mut worker.later);
    let mut hint = again.map(|again| Hint { owed: again.owed && !forgets, ..again }).unwrap_or_default();
    if !cfg.has(Bug::HintDuringARoundDropped) {
        hint.merge(later);
    }
    worker.hint = hint;
}

/// The connection as it is when a call goes out: made anew if it broke, and then the lineage is learned.
pub fn connect(world: &mut World, i: usize) {
    let (run, evicted) = (world.run, world.evicted);
    let worker = &mut world.workers[i];
    if worker.run != run {
        worker.run = run;
        worker.lives += 1;
        worker.generation += 1;
        worker.evicted = evicted;
    }
}

/// The pair in Redis, as the scripts see it that this worker calls.
pub fn held<'a>(cfg: &Config, world: &'a mut World, i: usize) -> Held<'a> {
    let Worker { epoch, todo, .. } = world.workers[i];
    Held { data: &mut world.redis, nonces: &mut world.nonces, epoch, value: todo.write, kindness: cfg.kindness() }
}

/// OBSERVE; `false`: fenced.
pub fn observe(cfg: &Config, world: &mut World, i: usize) -> bool {
    held(cfg, world, i).observe() != Code::Fenced
}

/// One step of the takeover, as `Pipeline::lease`.
pub fn lease(cfg: &Config, world: &mut World, i: usize) -> Option<()> {
    let life = world.workers[i].life;
    match life {
        Life::Dead | Life::Live => return None,
        Life::Remembering => {
            connect(world, i);
            let state = world.redis.state;
            let worker = &mut world.workers[i];
            worker.remembered = state;
            worker.blank = state == State::default();
            worker.life = Life::Owning;
        }
        Life::Owning => own(cfg, world, i),
        Life::Beginning => {
            connect(world, i);
            world.nonces += 1;
            let canary = world.nonces;
            let state = world.redis.state;
            let worker = &mut world.workers[i];
            worker.compared_run = state.run;
            worker.compared_evicted = state.evicted;
            worker.canary = canary;
            worker.life = Life::Reading;
            let canary = (Rule::Set, Field::Canary, Kept::Number(canary));
            if note_in_redis(cfg, world, i, &[canary]) == Code::Fenced {
                die(world, i);
            }
        }
        Life::Reading => {
            if !world.workers[i].has_session {
                die(world, i);
                return Some(());
            }
            let worker = &mut world.workers[i];
            worker.journal = world.zk.slots;
            worker.slots = world.zk.slots.map(|slot| slot.version);
            worker.free = [true; SLOTS];
            worker.life = Life::Completing;
        }
        Life::Completing => complete(cfg, world, i),
        Life::Marking => {
            connect(world, i);
            let journal = world.workers[i].journal;
            let full = journal.iter().enumerate().filter(|(_, slot)| slot.kind != 0 && !cfg.has(Bug::SlotsNeverMarked));
            let marks = full.map(|(at, slot)| (Rule::Set, Field::Mark(at), Kept::Number(slot.version)));
            if note_in_redis(cfg, world, i, &marks.collect::<Vec<_>>()) == Code::Fenced {
                die(world, i);
                return Some(());
            }
            go_live(world, i);
        }
    }
    Some(())
}

/// The shipped takeover, before it owns the ensemble; what a process knows of an ownership before is not modelled.
fn owning(in_redis: &State, on_stream: u8) -> Owning {
    let in_redis = Remembered {
        epoch: u64::from(in_redis.epoch),
        ensemble: u32::from(in_redis.ensemble),
        zxid: i64::from(in_redis.zxid),
        tide: i32::from(in_redis.tide),
    };
    Owning::new(in_redis, Remembered::default(), guard::Taken::on_stream(i64::from(on_stream)))
}

fn own(cfg: &Config, world: &mut World, i: usize) {
    // The place in line of a worker that is not the newest is gone.
    if !world.workers[i].has_session || usize::from(world.newest) != i {
        die(world, i);
        return;
    }
    let zk = &mut world.zk;
    zk.zxid += 1;
    world.is_restored = false;
    let worker = &mut world.workers[i];
    let remembered = worker.remembered;
    let remembered_epoch =
        if cfg.has(Bug::StreamTakenAsEvidence) { remembered.epoch.max(world.on_stream) } else { remembered.epoch };
    let age = |epoch: u8, ensemble: u8, zxid: u8, tide: u8| Remembered {
        epoch: u64::from(epoch),
        ensemble: u32::from(ensemble),
        zxid: i64::from(zxid),
        tide: if cfg.has(Bug::TideNotRemembered) { 0 } else { i32::from(tide) },
    };
    let is_older = guard::is_older(
        age(zk.epoch, zk.lineage, zk.zxid, zk.tide),
        age(remembered_epoch, remembered.ensemble, remembered.zxid, remembered.tide),
    );
    let taken = owning(&worker.remembered, world.on_stream).taken();
    zk.epoch = u8::try_from(taken.next(u64::from(zk.epoch.max(remembered.epoch)))).unwrap();
    world.on_stream = zk.epoch;
    zk.fence += 1;
    if zk.lineage == 0 || is_older {
        world.nonces += 1;
        (zk.lineage, zk.since) = (world.nonces, zk.zxid);
        zk.tide += 1;
    }
    worker.tide = zk.tide;
    (worker.epoch, worker.fence) = (zk.epoch, zk.fence);
    (worker.lineage, worker.since, worker.zxid) = (zk.lineage, zk.since, zk.zxid);
    worker.life = Life::Beginning;
}

fn complete(cfg: &Config, world: &mut World, i: usize) {
    connect(world, i);
    let worker = world.workers[i];
    let may_be_older = worker.compared_run != worker.run;
    let owned = owning(&worker.remembered, 0).owned(Lease {
        epoch: u64::from(worker.epoch),
        ensemble: Ensemble { id: u32::from(worker.lineage), since_zxid: i64::from(worker.since) },
        lost: None,
    });
    let at = |number: usize, version: u8| keepstep::store::Slot { number, version: i32::from(version) };
    let entries = worker.journal.into_iter().enumerate().filter(|(_, slot)| slot.kind != 0);
    let marked = world.redis.state.marks;
    let marked: Vec<_> = marked.into_iter().enumerate().map(|(number, version)| at(number, version)).collect();
    let completing = owned.journal(entries.collect(), |(number, slot)| at(*number, slot.version), &marked);
    for (_, slot) in completing.left {
        if cfg.has(Bug::JournalNotCompleted) {
            continue;
        }
        let mut later =
            (slot.kind != 1).then(|| guard::landed(slot.base.force(), slot.kind == 2, i64::from(slot.mzxid)));
        if may_be_older && !cfg.has(Bug::OlderDataSetNotNoticed) {
            if !observe(cfg, world, i) {
                return die(world, i);
            }
            let (key, noted) = (some(world.redis.key.is.value), world.redis.bucket.entry.get());
            let milestone = slot.milestone.get().filter(|_| !cfg.has(Bug::MilestoneNotAsked));
            if !milestone.is_some_and(|milestone| milestone.is_in(world.redis.state.milestone.get())) {
                let late = guard::late(key, noted.as_ref(), later.as_ref());
                let noted = noted.map(|noted| Base { sequence: slot.base.force().sequence, ..noted });
                match late.note(noted, later, slot.milestone.get()) {
                    _ if late == Late::Unproven && cfg.has(Bug::UnprovenTakenAsProven) => {}
                    None => continue,
                    Some(note) => later = note,
                }
            }
        }
        let sequence = slot.base.force().sequence;
        if held(cfg, world, i).complete(slot.nonce, sequence, B::from(later)) == Code::Fenced {
            return die(world, i);
        }
    }
    world.workers[i].life = Life::Marking;
}

/// What became of a milestone that was to be left in Redis.
pub enum Left {
    /// It is there, and in this life of the data set.
    There(Milestone, u64),
    /// The one before it is not: this data set is another one.
    NotThere,
    Fenced,
}

/// As `store/redis/state.rs`.
pub fn leave_milestone(cfg: &Config, world: &mut World, i: usize) -> Left {
    connect(world, i);
    if world.workers[i].branch == 0 {
        world.nonces += 1;
        world.workers[i].branch = world.nonces;
    }
    world.workers[i].given += 1;
    let worker = world.workers[i];
    let of = |number| Mile { branch: worker.branch, number };
    let next = of(worker.given);
    let before = (worker.left > 0).then(|| (Rule::Has, Field::Milestone, Kept::Milestone(of(worker.left))));
    let changes: Vec<Update> =
        before.into_iter().chain([(Rule::Milestone, Field::Milestone, Kept::Milestone(next))]).collect();
    match note_in_redis(cfg, world, i, &changes) {
        Code::Fenced => Left::Fenced,
        Code::Refused => {
            let worker = &mut world.workers[i];
            (worker.branch, worker.given, worker.left) = (0, 0, 0);
            Left::NotThere
        }
        Code::Done => {
            world.workers[i].left = next.number;
            let life = if cfg.has(Bug::MilestoneOfAnotherLife) { worker.look.life } else { worker.lives };
            next.get().map_or(Left::NotThere, |milestone| Left::There(milestone, u64::from(life)))
        }
    }
}

/// Every write of what Redis remembers, as `store/redis/state.rs`: it says again how far the ensemble has come.
pub fn note_in_redis(cfg: &Config, world: &mut World, i: usize, changes: &[Update]) -> Code {
    let worker = world.workers[i];
    if worker.fence == world.zk.fence {
        world.told_tide = worker.tide;
    }
    let rises = |field, number| (Rule::Rise, field, Kept::Number(number));
    let all = [&[rises(Field::Zxid, worker.zxid), rises(Field::Tide, worker.tide)], changes].concat();
    redis::state(&mut world.redis.state, (worker.epoch, worker.lineage), &all, cfg.kindness())
}

/// As the end of an ownership that another one has followed: what it had seen is remembered, if the script lets it.
pub fn end_late(cfg: &Config, world: &mut World, i: usize) -> Option<()> {
    let worker = world.workers[i];
    if worker.life != Life::Live || worker.fence == world.zk.fence {
        return None;
    }
    let _ = note_in_redis(cfg, world, i, &[]);
    die(world, i);
    Some(())
}

/// As `Engine::remember`: the tide is raised, then it is remembered with the zxid.
pub fn remember(cfg: &Config, world: &mut World, i: usize) -> Option<()> {
    let worker = world.workers[i];
    let is_owner = worker.life == Life::Live && worker.has_session && worker.fence == world.zk.fence;
    if !is_owner || worker.run != world.run {
        return None;
    }
    world.zk.zxid += 1;
    world.zk.tide += 1;
    world.workers[i].tide = world.zk.tide;
    let _ = note_in_redis(cfg, world, i, &[]);
    Some(())
}

fn go_live(world: &mut World, i: usize) {
    let (znode_heard, key_heard) = (world.znode_events(), world.key_events());
    let worker = &mut world.workers[i];
    worker.life = Life::Live;
    worker.journal = Default::default();
    worker.remembered = State::default();
    (worker.znode_heard, worker.key_heard) = (znode_heard, key_heard);
    worker.sources = Sources::default();
    worker.sources.link(Side::Zookeeper, true);
    worker.sources.link(Side::Redis, true);
    worker.comparison.asked = true;
}

/// One step of a comparison, as `pipeline/compare.rs`: the walk's read, the visit of the pair, the end.
pub fn compare(cfg: &Config, world: &mut World, i: usize, effects: &mut Effects) -> Option<()> {
    let worker = world.workers[i];
    if worker.life != Life::Live {
        return None;
    }
    match worker.comparison.stage {
        Stage::None if worker.comparison.asked || worker.comparison.due => {
            if !worker.has_session {
                die(world, i);
                return Some(());
            }
            connect(world, i);
            let settled = world.workers[i];
            // As `Engine::mark_settled_slots`.
            if settled.compared_run != settled.run && !cfg.has(Bug::JournalOfALostLifeKept) {
                let free = (0..SLOTS).filter(|slot| settled.free[*slot]);
                let marks = free.map(|slot| (Rule::Set, Field::Mark(slot), Kept::Number(settled.slots[slot])));
                if note_in_redis(cfg, world, i, &marks.collect::<Vec<_>>()) == Code::Fenced {
                    die(world, i);
                    return Some(());
                }
            }
            let worker = &mut world.workers[i];
            let is_settled = worker.compared_run == worker.run && worker.compared_evicted == worker.evicted;
            worker.concludes = None;
            worker.inferred = false;
            let (is_asked_for, mark) = (worker.comparison.asked, u64::from(worker.generation));
            let begun = worker.sources.begin(u64::from(worker.lives), true);
            worker.comparison = Comparison {
                asked: false,
                due: false,
                stage: Stage::Walked,
                znode: world.zk.znode,
                shipped: Some(comparison::Comparison::begin(is_asked_for, is_settled, mark, begun)),
                life: worker.lives,
                ended: worker.ended,
            };
            if world.zk.znode.is.value != 0 {
                worker.zxid = worker.zxid.max(world.zk.znode.mzxid);
            }
        }
        Stage::Walked => visit(cfg, world, i, effects),
        Stage::Visited if !(worker.busy && worker.look.comparing) => end(cfg, world, i),
        Stage::None | Stage::Visited => return None,
    }
    Some(())
}

fn visit(cfg: &Config, world: &mut World, i: usize, effects: &mut Effects) {
    let heard = world.heard(i);
    let worker = &mut world.workers[i];
    let walked = std::mem::take(&mut worker.comparison.znode);
    worker.comparison.stage = Stage::Visited;
    let had_rounds = worker.ended != worker.comparison.ended;
    (worker.ended, worker.comparison.ended) = (0, 0);
    let is_there = walked.is.value != 0;
    if worker.busy || worker.hint.on {
        let busy = worker.comparison.shipped.unwrap().busy(&worker.sources);
        if busy == Busy::Again && !cfg.has(Bug::BusyPairSkipped) {
            let owed = !cfg.has(Bug::SkippedPairTakenAsCompared);
            note_hint(worker, Hint { on: true, slow: true, owed, ..Hint::default() });
        }
        return;
    }
    begin_look(worker, heard, Hint { on: true, ..Hint::default() }, true);
    if !is_there {
        worker.pc = Pc::Znode;
        see_both(cfg, world, i, 0);
        return;
    }
    worker.look.znode = Read::Is(walked);
    let leads = cfg.policy.flow.leads_to(keepstep::change::Side::Redis);
    read_walked(cfg, world, i, leads, had_rounds, effects);
}

fn end(cfg: &Config, world: &mut World, i: usize) {
    let worker = &mut world.workers[i];
    let comparison = std::mem::take(&mut worker.comparison);
    (worker.comparison.asked, worker.comparison.due) = (comparison.asked, comparison.due);
    let mut shipped = comparison.shipped.unwrap();
    if cfg.has(Bug::ComparisonVouchesForALaterGap) {
        let begun = worker.sources.begin(u64::from(comparison.life), true);
        shipped = comparison::Comparison::begin(true, false, u64::from(worker.generation), begun);
    }
    worker.blank = false;
    worker.cache.complete = cfg.cache;
    worker.concludes = Some(shipped.ended(&mut worker.sources, false, false));
    conclude(cfg, world, i);
    if world.workers[i].run == world.run && note_in_redis(cfg, world, i, &[]) == Code::Fenced {
        die(world, i);
    }
}

/// As `Engine::conclude`: what vanishes unseen from here on is a delete.
pub fn conclude(cfg: &Config, world: &mut World, i: usize) {
    let worker = &mut world.workers[i];
    let is_owed = worker.hint.owed || worker.later.owed || (worker.busy && worker.look.hint.owed);
    // Nothing is carried out before a comparison has ended in which no event was lost.
    let has_ended = worker.comparison.stage == Stage::None && worker.sources.is_watched();
    if worker.inferred && has_ended && !is_owed {
        worker.inferred = false;
        note_hint(worker, Hint { on: true, slow: true, approved: true, ..Hint::default() });
    }
    if is_owed {
        return;
    }
    let Some(found) = worker.concludes.take() else { return };
    if found.conclude(false, false).mark == Some(u64::from(worker.generation)) {
        (worker.compared_run, worker.compared_evicted) = (worker.run, worker.evicted);
        // The answer is waited for on the connection of the comparison: with another server it fails.
        let (run, evicted) = (worker.run, worker.evicted);
        let set = |field, number| (Rule::Set, field, Kept::Number(number));
        let evidence = [set(Field::Run, run), set(Field::Evicted, evicted)];
        if run == world.run && note_in_redis(cfg, world, i, &evidence) == Code::Fenced {
            die(world, i);
        }
    }
}

pub fn is_watched(cfg: &Config, worker: &Worker) -> bool {
    worker.sources.is_watched() || cfg.has(Bug::FastPathWhileUnwatched)
}
