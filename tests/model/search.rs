//! Breadth first through every interleaving of one configuration, by 64-bit fingerprints of the states.

use crate::comparison::{compare, conclude};
use crate::config::Config;
use crate::driver;
use crate::events::{Step, finishing, outside, values};
use crate::ownership::{die, lease};
use crate::truth::{Effects, at_rest};
use crate::world::{Life, Pc, World};
use hashbrown::HashTable;
use std::hash::{Hash, Hasher};
use xxhash_rust::xxh3::Xxh3Default;

/// Writes of ours that may follow the last change of others.
pub const TRAILING_MAX: u8 = 3;

/// Steps after which a worker that is left alone has come to rest; far more than the longest path.
const REST_STEPS: usize = 400;

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub states: usize,
    pub transitions: u64,
    pub drained: u64,
    pub trailing: u8,
    pub conflicts: u64,
    /// Counted apart: docs/reliability-model.md says why.
    pub recreated: u64,
    pub unseen: u64,
    pub undone: u64,
    pub bounded: bool,
    /// The shortest way to the first state in which a property does not hold.
    pub failure: Option<String>,
}

/// A set of fingerprints: eight bytes a state and half as much room again.
#[derive(Default)]
struct Visited(HashTable<u64>);

impl Visited {
    fn insert(&mut self, print: u64) -> bool {
        match self.0.entry(print, |known| *known == print, |print| *print) {
            hashbrown::hash_table::Entry::Occupied(_) => false,
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(print);
                true
            }
        }
    }
}

pub fn fingerprint(world: &World) -> u64 {
    let mut hasher = Xxh3Default::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// What happens if this happens next; nothing if it cannot.
pub fn after(cfg: &Config, world: &World, step: Step) -> Option<(World, Effects)> {
    let mut next = *world;
    let mut effects = Effects::default();
    match step {
        Step::Lease(i) => lease(cfg, &mut next, i)?,
        Step::Take(i, choice) => driver::take(cfg, &mut next, i, choice, &mut effects)?,
        Step::Go(i, choice) => driver::go(cfg, &mut next, i, choice, &mut effects)?,
        Step::Compare(i) => compare(cfg, &mut next, i, &mut effects)?,
        step => outside(cfg, &mut next, step)?,
    }
    if let Step::Take(i, _) | Step::Go(i, _) = step {
        conclude(cfg, &mut next, i);
    }
    next.tidy();
    Some((next, effects))
}

/// Everything that a worker does by itself, in the order in which a drain tries it.
fn work(world: &World, i: usize, steps: &mut Vec<Step>) {
    match world.workers[i].life {
        Life::Dead => {}
        Life::Live => {
            if !world.workers[i].has_session {
                steps.push(Step::SessionLost(i));
            }
            match world.workers[i].pc {
                Pc::Idle => steps.extend((0..3).map(|choice| Step::Take(i, choice))),
                Pc::Multi => steps.extend((0..6).map(|choice| Step::Go(i, choice))),
                _ => steps.extend((0..3).map(|choice| Step::Go(i, choice))),
            }
            steps.extend([Step::Compare(i), Step::HearZnode(i), Step::HearKey(i), Step::LookAtRedis(i)]);
        }
        _ => {
            if !world.workers[i].has_session {
                steps.push(Step::SessionLost(i));
            }
            steps.push(Step::Lease(i));
        }
    }
}

fn all_steps(cfg: &Config, world: &World, steps: &mut Vec<Step>) {
    steps.clear();
    for i in (0..2).filter(|i| !cfg.frozen || usize::from(world.newest) == *i) {
        work(world, i, steps);
    }
    let left = &world.left;
    let [one, other] = values(cfg, world);
    if left.znode_writes > 0 {
        steps.push(Step::Znode(one));
        if one != other {
            steps.push(Step::Znode(other));
        }
        if cfg.deletes {
            steps.push(Step::Znode(0));
        }
    }
    if left.key_writes > 0 {
        steps.push(Step::Key(one, false));
        if one != other {
            steps.push(Step::Key(other, false));
        }
        if cfg.expiry {
            steps.push(Step::Key(one, true));
        }
        if cfg.deletes {
            steps.push(Step::Key(0, false));
        }
    }
    if cfg.expiry {
        steps.push(Step::Expire);
    }
    for i in [0, 1] {
        let mut push = |left: u8, step: Step| {
            if left > 0 {
                steps.push(step);
            }
        };
        push(left.crashes, Step::Crash(i));
        push(left.starts, Step::Start(i));
        push(left.gaps, Step::ZnodeGap(i));
        push(left.gaps, Step::KeyGap(i));
        push(left.repeats, Step::RepeatZnode(i));
        push(left.repeats, Step::RepeatKey(i));
        push(left.comparisons, Step::AskComparison(i));
        push(left.others, Step::OtherPair(i));
        push(left.late_ends, Step::EndLate(i));
    }
    if left.commands > 0 {
        steps.push(Step::Command);
    }
    if left.siblings > 0 {
        steps.push(Step::Sibling);
    }
    if left.evictions > 0 {
        steps.push(Step::Evict);
    }
    if left.flushes > 0 {
        steps.push(Step::Flush);
    }
    if left.restarts > 0 {
        steps.push(Step::RestartRedis);
    }
    if left.returns > 0 {
        steps.push(Step::KeyReturns);
    }
    if left.key_rollbacks > 0 {
        steps.extend([Step::CopyRedis, Step::RestartRedisFromTheCopy]);
    }
    if left.znode_rollbacks > 0 {
        steps.extend([Step::CopyEnsemble, Step::RestoreEnsembleFromTheCopy]);
        if cfg.new_epoch {
            steps.extend([Step::Remember(0), Step::Remember(1)]);
        }
    }
}

/// The first thing that a worker left alone does next, if anything.
fn next_alone(cfg: &Config, world: &World, steps: &mut Vec<Step>) -> Option<World> {
    steps.clear();
    for i in (0..2).filter(|i| !cfg.frozen || usize::from(world.newest) == *i) {
        work(world, i, steps);
    }
    steps.iter().find_map(|step| after(cfg, world, *step)).map(|(world, _)| world)
}

/// Lets whoever is there work until nothing is left to do.
fn rest(cfg: &Config, mut world: World, steps: &mut Vec<Step>) -> Result<World, String> {
    world.left = finishing();
    for _ in 0..REST_STEPS {
        match next_alone(cfg, &world, steps) {
            Some(next) => world = next,
            None => return Ok(world),
        }
        if world.trailing > TRAILING_MAX {
            return Err(format!("more than {TRAILING_MAX} writes follow the last change"));
        }
    }
    Err("it never comes to rest".to_owned())
}

/// A fresh worker takes over and finishes.
pub fn drain(cfg: &Config, world: &World, steps: &mut Vec<Step>) -> Result<World, String> {
    let mut world = *world;
    world.left = finishing();
    die(&mut world, 0);
    die(&mut world, 1);
    world.tidy();
    let started = after(cfg, &world, Step::Start(0)).map(|(world, _)| world);
    let world = rest(cfg, started.ok_or("no worker can start")?, steps)?;
    at_rest(cfg, &world).map(|()| world)
}

/// A pair in step and a worker that watches it.
pub fn beginning(cfg: &Config) -> World {
    let mut world = World { run: 1, ..World::default() };
    world.zk.zxid = 1;
    world.seen_len = 1;
    world.left.znode_writes = 1;
    let mut steps = Vec::new();
    let sound = Config { bug: crate::config::Bug::None, ..*cfg };
    let redis_first = !cfg.policy.flow.leads_to(keepstep::change::Side::Redis);
    let first = if redis_first { Step::Key(1, false) } else { Step::Znode(1) };
    world.left.key_writes = 1;
    let (world, _) = after(&sound, &world, first).unwrap();
    let mut world = drain(&sound, &world, &mut steps).unwrap();
    if cfg.frozen {
        world.left = finishing();
        let (taken_over, _) = after(&sound, &world, Step::Start(1)).unwrap();
        world = rest(&sound, taken_over, &mut steps).unwrap();
    }
    world.trailing = 0;
    world.left = cfg.budget;
    world
}

struct Search<'a> {
    cfg: &'a Config,
    figures: Figures,
    steps: Vec<Step>,
}

impl Search<'_> {
    /// What does not hold in this state, or in what comes of it if all else ends.
    fn check(&mut self, world: &World, print: u64, moves: bool) -> Result<(), String> {
        self.figures.trailing = self.figures.trailing.max(world.trailing);
        if world.trailing > TRAILING_MAX {
            return Err(format!("{} writes follow the last change", world.trailing));
        }
        // Nobody has anything to do: without any comparison or takeover all must be in step.
        let newest = &world.workers[usize::from(world.newest)];
        if !moves && newest.life == Life::Live && newest.has_session {
            at_rest(self.cfg, world).map_err(|why| format!("at rest, and {why}"))?;
        }
        if print.is_multiple_of(self.cfg.drain_every) {
            self.figures.drained += 1;
            let mut steps = std::mem::take(&mut self.steps);
            let drained = drain(self.cfg, world, &mut steps);
            self.steps = steps;
            let drained = drained.map_err(|why| format!("after a takeover: {why}"))?;
            self.figures.trailing = self.figures.trailing.max(drained.trailing);
        }
        Ok(())
    }
}

fn judge(effects: &Effects, figures: &mut Figures) -> Result<(), String> {
    figures.conflicts += u64::from(effects.conflict);
    figures.recreated += u64::from(effects.recreated);
    figures.unseen += u64::from(effects.unseen);
    figures.undone += u64::from(effects.undone);
    if effects.lost {
        return Err("a value was lost: it was replaced by one that does not include it, and is in no record".to_owned());
    }
    if effects.spurious {
        return Err("a conflict was recorded that is none: one value includes the other".to_owned());
    }
    if effects.from_loss {
        return Err("a loss became a delete".to_owned());
    }
    if effects.older {
        return Err("an older state of the key was carried over what had been carried before".to_owned());
    }
    if effects.unguarded {
        return Err("a delete that nobody saw was carried out before it was counted".to_owned());
    }
    Ok(())
}

/// Explores everything. With `seek`, stops at the state of this fingerprint and remembers the way.
pub fn explore(cfg: &Config) -> Figures {
    run(cfg, None).0
}

type Trail = std::collections::HashMap<u64, (u64, Step)>;

fn run(cfg: &Config, mut trail: Option<&mut Trail>) -> (Figures, Option<(u64, Option<Step>, String)>) {
    let first = beginning(cfg);
    let mut search = Search { cfg, figures: Figures::default(), steps: Vec::new() };
    let mut visited = Visited::default();
    visited.insert(fingerprint(&first));
    search.figures.states = 1;
    let (mut level, mut next) = (vec![first], Vec::new());
    let mut steps = Vec::new();
    while !level.is_empty() {
        for world in level.drain(..) {
            let print = fingerprint(&world);
            let mut moves = false;
            all_steps(cfg, &world, &mut steps);
            for step in &steps {
                let Some((there, effects)) = after(cfg, &world, *step) else { continue };
                search.figures.transitions += 1;
                moves |= matches!(
                    step,
                    Step::Lease(_)
                        | Step::Take(..)
                        | Step::Go(..)
                        | Step::Compare(_)
                        | Step::HearZnode(_)
                        | Step::HearKey(_)
                        | Step::LookAtRedis(_)
                        | Step::SessionLost(_)
                );
                if let Err(why) = judge(&effects, &mut search.figures) {
                    return found(search.figures, print, Some(*step), why);
                }
                let there_print = fingerprint(&there);
                if visited.insert(there_print) {
                    if let Some(trail) = trail.as_deref_mut() {
                        trail.insert(there_print, (print, *step));
                    }
                    search.figures.states += 1;
                    next.push(there);
                }
            }
            if let Err(why) = search.check(&world, print, moves) {
                return found(search.figures, print, None, why);
            }
            if search.figures.states >= cfg.states_max {
                search.figures.bounded = true;
                return (search.figures, None);
            }
        }
        std::mem::swap(&mut level, &mut next);
    }
    (search.figures, None)
}

fn found(
    mut figures: Figures,
    print: u64,
    step: Option<Step>,
    why: String,
) -> (Figures, Option<(u64, Option<Step>, String)>) {
    figures.failure = Some(why.clone());
    (figures, Some((print, step, why)))
}

/// The shortest way to the first failure, in words.
pub fn tell(cfg: &Config) -> String {
    let mut trail = Trail::new();
    let (_, Some((print, last, why))) = run(cfg, Some(&mut trail)) else { return "it holds".to_owned() };
    let mut way = Vec::from_iter(last);
    let mut at = print;
    while let Some((before, step)) = trail.get(&at) {
        way.push(*step);
        at = *before;
    }
    way.reverse();
    let mut world = beginning(cfg);
    let mut text = format!("{}: {why}\n  0  {}\n", cfg.name, crate::words::state(&world));
    for (number, step) in way.iter().enumerate() {
        let Some((next, _)) = after(cfg, &world, *step) else { break };
        world = next;
        text += &format!("{:3}  {}\n       {}\n", number + 1, crate::words::step(step), crate::words::state(&world));
    }
    if last.is_none() {
        let mut steps = Vec::new();
        text += &match drain(cfg, &world, &mut steps) {
            Ok(world) => format!("  a fresh worker makes of it  {}\n", crate::words::state(&world)),
            Err(why) => format!("  a fresh worker: {why}\n"),
        };
    }
    text
}
