//! What happens around the workers: applications write, keys expire, stores lose data or come back older, workers end and begin.

use crate::config::{Bug, Config};
use crate::ensemble::{self, ANY, Path, Value};
use crate::facts::note_hint;
use crate::news::{Event, Hint};
use crate::ownership::{die, note_in_redis};
use crate::redis::{Field, Kept};
use crate::world::{Budget, Content, Data, Ky, Life, NOBODY, Slot, Worker, World};
use keepstep::change::Side;
use keepstep_doubles::redis::rules::Rule;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// An application writes the znode (0: deletes it), creating it if it is missing.
    Znode(u8),
    /// An application writes the key (0: deletes it); with an expiry time or without.
    Key(u8, bool),
    Expire,
    /// Another child comes beside the znode: its parent's pzxid rises.
    Sibling,
    Evict,
    Flush,
    RestartRedis,
    /// An application sets the key to what it was when it was agreed on.
    KeyReturns,
    CopyRedis,
    RestartRedisFromTheCopy,
    CopyEnsemble,
    RestoreEnsembleFromTheCopy,
    Crash(usize),
    Start(usize),
    /// The worker whose session the ensemble forgot ends.
    SessionLost(usize),
    HearZnode(usize),
    HearKey(usize),
    /// An event that tells nothing new: late, twice, or of tracking.
    RepeatZnode(usize),
    RepeatKey(usize),
    ZnodeGap(usize),
    KeyGap(usize),
    /// The look at INFO and canary, once a second.
    LookAtRedis(usize),
    AskComparison(usize),
    /// A step of the takeover.
    Lease(usize),
    /// A round takes the pair; the number chooses what a follower shows, or what a rule is told.
    Take(usize, u8),
    /// The pair's round goes on; the number chooses the slot and what becomes of the reply, or what a rule is told.
    Go(usize, u8),
    Compare(usize),
    /// The watermark is raised and remembered.
    Remember(usize),
    /// A command, or somebody elsewhere whose folder is here now, has written under the next epoch.
    Command,
    /// A former owner ends.
    EndLate(usize),
    /// Another pair's write to ZooKeeper uses a slot that is free, and its sidecar is written.
    OtherPair(usize),
}

/// What an application writes next: each value once, or one of two.
fn content(world: &mut World, value: u8, before: Content) -> Content {
    world.writes += 1;
    Content { value, last: world.writes, knows: before.knows | World::bit(world.writes), lost: false }
}

fn changed(world: &mut World) {
    world.trailing = 0;
}

fn spend(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}

/// Values that an application may write now.
pub fn values(cfg: &Config, world: &World) -> [u8; 2] {
    if cfg.two_values { [1, 2] } else { [world.writes + 1, world.writes + 1] }
}

pub fn outside(cfg: &Config, world: &mut World, step: Step) -> Option<()> {
    match step {
        Step::Znode(value) => {
            spend(&mut world.left.znode_writes)?;
            // What is written before anybody can know that the ensemble is an older one may get the very zxid that was lost.
            if world.is_restored && !cfg.new_epoch {
                return None;
            }
            let before = world.zk.znode;
            if before.is.value == 0 && value == 0 {
                return None;
            }
            let is = content(world, value, before.is);
            let write = match (before.is.value, value) {
                (_, 0) => ensemble::delete(ANY),
                (0, _) => ensemble::create(is),
                _ => ensemble::set(Path::Pair, Value::Pair(is), ANY),
            };
            world.zk.transact(&[write]).unwrap();
            world.zk.znode.is = is;
            world.tell_of_znode();
            changed(world);
        }
        Step::Key(value, expires) => {
            spend(&mut world.left.key_writes)?;
            let before = world.redis.key;
            if before.is.value == 0 && value == 0 {
                return None;
            }
            let is = content(world, value, before.is);
            world.set_key(Ky { is, expires }, if value == 0 { Event::Del } else { Event::Set });
            changed(world);
        }
        Step::Expire => {
            let before = world.redis.key;
            if !before.expires || before.is.value == 0 {
                return None;
            }
            let is = content(world, 0, before.is);
            world.set_key(Ky { is, expires: false }, Event::Expired);
            world.late = true;
            changed(world);
        }
        Step::Sibling => {
            spend(&mut world.left.siblings)?;
            world.zk.zxid += 1;
            if world.zk.znode.is.value != 0 {
                return None;
            }
            world.zk.znode.mzxid = world.zk.zxid;
            world.seen[usize::from(world.seen_len - 1)].0 = world.zk.znode;
        }
        Step::Evict => {
            spend(&mut world.left.evictions)?;
            if world.redis.key.is.value == 0 {
                return None;
            }
            let knows = world.redis.key.is.knows;
            world.set_key(gone(knows), Event::Evicted);
            world.evicted += 1;
            world.was_lost = true;
            changed(world);
        }
        Step::Flush => {
            spend(&mut world.left.flushes)?;
            world.redis = Data { key: gone(0), ..Data::default() };
            world.was_lost = true;
            changed(world);
        }
        Step::RestartRedis => {
            spend(&mut world.left.restarts)?;
            restart_redis(cfg, world);
        }
        Step::KeyReturns => {
            spend(&mut world.left.returns)?;
            let (before, noted) = (world.redis.key, world.redis.bucket.entry);
            if !noted.is || noted.value == 0 || before.is.value == noted.value {
                return None;
            }
            let is = content(world, noted.value, before.is);
            world.set_key(Ky { is, expires: false }, Event::Set);
            changed(world);
        }
        Step::CopyRedis => {
            if world.left.key_rollbacks == 0 || world.redis_copy.is_some() {
                return None;
            }
            world.redis_copy = Some(world.redis);
        }
        Step::RestartRedisFromTheCopy => {
            let copy = world.redis_copy.take()?;
            spend(&mut world.left.key_rollbacks)?;
            world.redis = copy;
            world.was_lost = true;
            restart_redis(cfg, world);
        }
        Step::CopyEnsemble => {
            if world.left.znode_rollbacks == 0 || world.zk_copy.is_some() {
                return None;
            }
            world.zk_copy = Some(world.zk);
        }
        Step::RestoreEnsembleFromTheCopy => {
            let copy = world.zk_copy.take()?;
            spend(&mut world.left.znode_rollbacks)?;
            let newest = world.zk.zxid;
            // A copy that is younger than the last watermark is not told from what was lost with it.
            if cfg.new_epoch && (world.redis.state.watermark == 0 || copy.watermark >= world.told_watermark) {
                return None;
            }
            world.zk = copy;
            if cfg.new_epoch {
                world.zk.zxid = newest + 1;
            }
            world.restored_at = world.writes;
            world.seen = Default::default();
            world.seen[0] = (world.zk.znode, world.zk.zxid);
            world.seen_len = 1;
            world.was_lost = true;
            (world.is_restored, world.was_restored) = (true, true);
            world.left.starts += 1;
            for worker in &mut world.workers {
                // A session that the copy knows lives on.
                worker.has_session &= cfg.new_epoch && worker.life == Life::Live && worker.fence == copy.fence;
                worker.znode_heard = u8::from(worker.life == Life::Live);
                if worker.has_session {
                    watch_again(worker);
                }
                worker.comparison.asked |= worker.has_session;
            }
            changed(world);
        }
        Step::Crash(i) => {
            spend(&mut world.left.crashes)?;
            if world.workers[i].life == Life::Dead {
                return None;
            }
            die(world, i);
        }
        Step::SessionLost(i) => {
            if world.workers[i].life == Life::Dead || world.workers[i].has_session {
                return None;
            }
            die(world, i);
        }
        Step::Start(i) => {
            spend(&mut world.left.starts)?;
            let other = world.workers[1 - i].life;
            if world.workers[i].life != Life::Dead || (other != Life::Dead && !cfg.zombies) {
                return None;
            }
            world.workers[i].life = Life::Remembering;
            world.workers[i].has_session = true;
            world.newest = u8::from(i == 1);
        }
        Step::Remember(i) => {
            let copy = world.zk_copy?;
            if copy.watermark < world.zk.watermark {
                return None;
            }
            crate::ownership::remember(cfg, world, i)?;
        }
        Step::Command => {
            spend(&mut world.left.commands)?;
            world.on_stream = world.on_stream.max(world.zk.epoch) + 1;
        }
        Step::EndLate(i) => {
            spend(&mut world.left.late_ends)?;
            crate::ownership::end_late(cfg, world, i)?;
        }
        Step::OtherPair(i) => {
            spend(&mut world.left.others)?;
            let worker = &mut world.workers[i];
            let slot = (0..crate::world::SLOTS).find(|slot| worker.free[*slot])?;
            let place = &world.zk.slots[slot];
            let is_owner = worker.life == Life::Live && worker.has_session && worker.fence == world.zk.fence;
            if !is_owner || place.version != worker.slots[slot] || world.redis.state.epoch > worker.epoch {
                return None;
            }
            let checks = [ensemble::check(Path::Epoch, worker.fence), ensemble::check(Path::Lineage, worker.watermark)];
            let entry = ensemble::set(Path::Slot(slot), Value::Slot(Slot::default()), i32::from(worker.slots[slot]));
            world.zk.transact(&[&checks[..], &[entry]].concat()).ok()?;
            let version = world.zk.slots[slot].version;
            worker.slots[slot] = version;
            worker.zxid = world.zk.zxid;
            // Its milestone and its sidecar.
            if worker.run == world.run {
                let _ = crate::ownership::leave_milestone(cfg, world, i);
            }
            let _ = note_in_redis(cfg, world, i, &[(Rule::Set, Field::Mark(slot), Kept::Number(version))]);
        }
        _ => return hearing(cfg, world, step),
    }
    Some(())
}

/// The connections broke: what was on its way is lost, and the source asks for a comparison when it is back.
fn restart_redis(cfg: &Config, world: &mut World) {
    world.run += 1;
    let all = world.key_events();
    for worker in world.workers.iter_mut().filter(|worker| worker.life == Life::Live) {
        lose_key_events(cfg, worker, all);
        worker.comparison.asked = true;
    }
    changed(world);
}

/// What an eviction took was agreed or is superseded by what is written next; after a flush nothing is known.
fn gone(knows: u16) -> Ky {
    Ky { is: Content { value: 0, last: NOBODY, knows, lost: true }, expires: false }
}

/// What reaches a worker's sources.
fn hearing(cfg: &Config, world: &mut World, step: Step) -> Option<()> {
    let (Step::HearZnode(i)
    | Step::HearKey(i)
    | Step::RepeatZnode(i)
    | Step::RepeatKey(i)
    | Step::ZnodeGap(i)
    | Step::KeyGap(i)
    | Step::LookAtRedis(i)
    | Step::AskComparison(i)) = step
    else {
        return None;
    };
    let (znode_events, key_events) = (world.znode_events(), world.key_events());
    let mut worker = world.workers[i];
    if worker.life != Life::Live {
        return None;
    }
    let mut hint = Hint { on: true, ..Hint::default() };
    match step {
        Step::HearZnode(_) => {
            if worker.znode_heard >= znode_events {
                return None;
            }
            let (_, zxid) = world.seen[usize::from(worker.znode_heard - world.seen_before)];
            (hint.znode, hint.zxid) = (true, if cfg.no_zxids { u8::MAX } else { zxid });
            worker.znode_heard += 1;
        }
        Step::HearKey(_) => {
            if worker.key_heard >= key_events {
                return None;
            }
            hear_key(world, i);
            return Some(());
        }
        Step::RepeatZnode(_) => {
            spend(&mut world.left.repeats)?;
            (hint.znode, hint.zxid) = (true, if cfg.no_zxids { u8::MAX } else { 1 });
        }
        Step::RepeatKey(_) => {
            spend(&mut world.left.repeats)?;
            hint.key = true;
        }
        Step::ZnodeGap(_) => {
            spend(&mut world.left.gaps)?;
            worker.znode_heard = znode_events;
            watch_again(&mut worker);
            worker.comparison.asked = !cfg.has(Bug::GapNotCompared);
        }
        Step::KeyGap(_) => {
            spend(&mut world.left.gaps)?;
            lose_key_events(cfg, &mut worker, key_events);
            worker.comparison.asked = !cfg.has(Bug::GapNotCompared);
        }
        Step::AskComparison(_) => {
            spend(&mut world.left.comparisons)?;
            worker.comparison.due = true;
        }
        _ => {
            world.workers[i] = worker;
            return look_at_redis(cfg, world, i);
        }
    }
    world.workers[i] = worker;
    if hint.znode || hint.key {
        note_hint(&mut world.workers[i], hint);
    }
    Some(())
}

/// The next event of the key.
fn hear_key(world: &mut World, i: usize) {
    let at = usize::from(world.workers[i].key_heard - world.events_before);
    let hint = Hint { on: true, key: true, event: world.events[at], ..Hint::default() };
    let worker = &mut world.workers[i];
    worker.key_heard += 1;
    note_hint(worker, hint);
}

/// Events are lost: what was heard before explains nothing any more.
fn lose_key_events(cfg: &Config, worker: &mut Worker, all: u8) {
    worker.key_heard = all;
    if !cfg.has(Bug::DeleteFromBeforeAGapBelieved) {
        for hint in [&mut worker.hint, &mut worker.later, &mut worker.look.hint] {
            hint.event = Event::None;
        }
    }
}

/// Every event of the key that there is, as an answer on the connection of the source comes behind them.
pub fn hear_keys_out(world: &mut World, i: usize) {
    while world.workers[i].key_heard < world.key_events() {
        hear_key(world, i);
    }
}

/// As `store/redis/listener.rs`: INFO, then the canary.
fn look_at_redis(cfg: &Config, world: &mut World, i: usize) -> Option<()> {
    let state = world.redis.state;
    let worker = &mut world.workers[i];
    let is_newer_owner = state.epoch > worker.epoch;
    let is_other = state.canary != worker.canary && !is_newer_owner;
    let has_news = worker.run != world.run || worker.evicted != world.evicted;
    if !is_other && !has_news {
        return None;
    }
    crate::ownership::connect(world, i);
    let worker = &mut world.workers[i];
    if worker.evicted != world.evicted {
        worker.evicted = world.evicted;
        worker.generation += 1;
    }
    if is_other {
        worker.generation += 1;
        worker.lives += 1;
        worker.compared_run = 0;
        world.nonces += 1;
        worker.canary = world.nonces;
        worker.comparison.asked = true;
        let canary = (Rule::Set, Field::Canary, Kept::Number(worker.canary));
        let _ = note_in_redis(cfg, world, i, &[canary]);
    }
    Some(())
}

/// A budget as it is while a worker is left alone to finish.
pub fn finishing() -> Budget {
    Budget { starts: 1, ..crate::config::NOTHING }
}

/// The watch ended and was laid again.
fn watch_again(worker: &mut Worker) {
    worker.sources.link(Side::Zookeeper, false);
    worker.sources.link(Side::Zookeeper, true);
}
