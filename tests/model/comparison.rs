//! A comparison: its walk, the visit of the pair, its end, and what follows from it.

use crate::config::{Bug, Config};
use crate::driver::{begin_look, read_walked, see_both};
use crate::facts::note_hint;
use crate::news::Hint;
use crate::ownership::{connect, die, note_in_redis};
use crate::redis::{Field, Kept};
use crate::truth::Effects;
use crate::world::{Comparison, Life, Pc, Read, SLOTS, Stage, World};
use keepstep::pipeline::comparison::{self, Busy};
use keepstep_doubles::redis::rules::{Code, Rule};

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
            // What a lost life of the data set had not marked is marked again.
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
    worker.concludes = Some(shipped.ended(&mut worker.sources, false, 0));
    conclude(cfg, world, i);
    if world.workers[i].run == world.run && note_in_redis(cfg, world, i, &[]) == Code::Fenced {
        die(world, i);
    }
}

/// The comparison is concluded: what vanishes unseen from here on is a delete.
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
    if found.conclude(false, false, 0).mark == Some(u64::from(worker.generation)) {
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
