//! An ownership: its connection to Redis, its end, the steps of a takeover, and what Redis remembers of it.

use crate::config::{Bug, Config};
use crate::ensemble::{self, Path, Value};
use crate::redis::{self, Field, Held, Kept, Update};
use crate::world::{B, Life, Mile, SLOTS, State, Worker, World, some};
use keepstep::change::Side;
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
        watermark: i32::from(in_redis.watermark),
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
    world.is_restored = false;
    let worker = &mut world.workers[i];
    let remembered = worker.remembered;
    let remembered_epoch =
        if cfg.has(Bug::StreamTakenAsEvidence) { remembered.epoch.max(world.on_stream) } else { remembered.epoch };
    let age = |epoch: u8, ensemble: u8, zxid: u8, watermark: u8| Remembered {
        epoch: u64::from(epoch),
        ensemble: u32::from(ensemble),
        zxid: i64::from(zxid),
        watermark: if cfg.has(Bug::TideNotRemembered) { 0 } else { i32::from(watermark) },
    };
    let is_older = guard::is_older(
        age(zk.epoch, zk.lineage, zk.zxid + 1, zk.watermark),
        age(remembered_epoch, remembered.ensemble, remembered.zxid, remembered.watermark),
    );
    let taken = owning(&worker.remembered, world.on_stream).taken();
    let epoch = u8::try_from(taken.next(u64::from(zk.epoch.max(remembered.epoch)))).unwrap();
    let raise = ensemble::set(Path::Epoch, Value::Epoch(epoch), i32::from(zk.fence));
    let lineage = if zk.lineage == 0 || is_older {
        world.nonces += 1;
        let begins = Value::Lineage { id: world.nonces, since: zk.zxid + 1 };
        ensemble::set(Path::Lineage, begins, i32::from(zk.watermark))
    } else {
        ensemble::check(Path::Lineage, zk.watermark)
    };
    zk.transact(&[raise, lineage]).unwrap();
    world.on_stream = zk.epoch;
    worker.watermark = zk.watermark;
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
                    _ if late == Late::Unverified && cfg.has(Bug::UnprovenTakenAsProven) => {}
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
            let life = if cfg.has(Bug::MilestoneOfAnotherIncarnation) { worker.look.life } else { worker.lives };
            next.get().map_or(Left::NotThere, |milestone| Left::There(milestone, u64::from(life)))
        }
    }
}

/// Every write of what Redis remembers, as `store/redis/state.rs`: it says again how far the ensemble has come.
pub fn note_in_redis(cfg: &Config, world: &mut World, i: usize, changes: &[Update]) -> Code {
    let worker = world.workers[i];
    if worker.fence == world.zk.fence {
        world.told_watermark = worker.watermark;
    }
    let rises = |field, number| (Rule::Rise, field, Kept::Number(number));
    let all = [&[rises(Field::Zxid, worker.zxid), rises(Field::Watermark, worker.watermark)], changes].concat();
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

/// The watermark is advanced, then Redis remembers it with the zxid.
pub fn remember(cfg: &Config, world: &mut World, i: usize) -> Option<()> {
    let worker = world.workers[i];
    let is_owner = worker.life == Life::Live && worker.has_session && worker.fence == world.zk.fence;
    if !is_owner || worker.run != world.run {
        return None;
    }
    let zk = &mut world.zk;
    let same = Value::Lineage { id: zk.lineage, since: zk.since };
    let raise = ensemble::set(Path::Lineage, same, i32::from(worker.watermark));
    zk.transact(&[ensemble::check(Path::Epoch, worker.fence), raise]).ok()?;
    world.workers[i].watermark = world.zk.watermark;
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
