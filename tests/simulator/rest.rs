//! Healing after all faults, and rest: both sides become equal, first without the rights that stay taken, and then nothing more is written.

use crate::executor::ProcessId;
use crate::judge::{self, Rest};
use crate::machine::{Machine, Worker};
use crate::network::{Store, Weather};
use crate::play::{COMMAND_MAX, LOOK, Later, Play};
use crate::settings::{Flow, name_of};
use crate::truth::{Author, Pair, State, newest};
use crate::what::Operation;
use keepstep::pipeline::Pipeline;
use keepstep::pipeline::control::{Handle as _, PipelineState, PipelineStatus, RouteState, RouteStatus};
use keepstep_doubles::zookeeper::Lag;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What was sent into silence before is given up after 5 s (`RESPONSE_TIMEOUT`), and only then the worker knows of it.
const NOTICED: Duration = Duration::from_secs(7);

/// How long nothing may be written once both sides are at rest.
const QUIET: Duration = Duration::from_secs(5);

/// How long, beyond a session, the next owner may take until it has compared everything.
const TAKE_OVER: Duration = Duration::from_secs(6);

/// Why a pair differs whose delete waits.
const WAITS: &str = "a delete waits for approval";

/// What the owners of all pipelines say may differ.
#[derive(Debug, Default)]
struct Told {
    /// Pairs in quarantine, by key, with the reason.
    quarantined: BTreeMap<Vec<u8>, String>,
    /// How many deletes of a route wait for an approval that nobody gives.
    waits: BTreeMap<usize, u64>,
    /// When the present ownership of each pipeline began.
    began: Vec<Duration>,
}

impl Play {
    fn heal(&mut self) {
        self.is_healed = true;
        let calm = Weather { scale: self.settings.weather.scale.min(1.0), ..Weather::CALM };
        self.network.set_weather(calm);
        self.heal_stores();
        self.heal_rights(false);
        (0..self.settings.servers).for_each(|server| self.ensemble.lag(server, Lag::None));
        for number in 0..self.machines.len() {
            self.machines[number].disk.set_space(None);
            self.machines[number].disk.kill_after(u64::MAX);
            let processes: Vec<ProcessId> = self.machines[number].workers().map(|worker| worker.process).collect();
            for process in processes {
                self.executor.kill_after(process, u64::MAX / 2);
                self.executor.freeze(process, false);
                Store::BOTH.into_iter().for_each(|store| self.open_way(process, store));
            }
        }
        // An operator sees that nobody runs a pipeline.
        for pipeline in 0..self.settings.pipelines() {
            if !self.machines.iter().any(|machine| machine.runs.contains(&pipeline)) {
                let machine = pipeline % self.machines.len();
                let runs = [self.machines[machine].runs.clone(), vec![pipeline]].concat();
                self.run_others(machine, runs);
            }
        }
        let starts: Vec<(Duration, u64)> = self
            .later
            .iter()
            .filter(|(_, later)| matches!(later, Later::Start(_) | Later::EndFormer(..)))
            .map(|(at, _)| *at)
            .collect();
        for at in starts {
            if let Some(start) = self.later.remove(&at) {
                self.later(Duration::from_millis(10), start);
            }
        }
        self.tell("all faults are over".to_owned());
    }

    /// All is healed: both sides become equal, and then nothing more is written.
    pub(crate) fn rest(&mut self) {
        self.heal();
        let begun = self.executor.now();
        while !self.commands.is_empty() {
            if self.executor.now() > begun + COMMAND_MAX {
                let names: Vec<&str> = self.commands.iter().map(|command| command.name).collect();
                self.wrong.push(format!("{names:?} did not end within {COMMAND_MAX:?} without a fault"));
                return;
            }
            if !self.until(self.executor.now() + LOOK) {
                return;
            }
        }
        if self.comes_to_rest() && !self.rights.staying.is_empty() {
            self.mark("rest: before all rights were given back");
            self.heal_rights(true);
            self.tell("all rights are given back".to_owned());
            self.comes_to_rest();
        }
    }

    /// Whether it does, within its time.
    fn comes_to_rest(&mut self) -> bool {
        let healed = self.executor.now();
        // An owner that was just killed is waited for as long as its session lives.
        let limit = self.settings.patience + self.settings.session_timeout * 2;
        let mut since = None;
        let all = 0..self.settings.pairs * self.settings.routes.len();
        let names: BTreeSet<Vec<u8>> = all.map(|pair| self.settings.names(pair).1).collect();
        while self.executor.now() < healed + limit {
            self.steer();
            if !self.until(self.executor.now() + LOOK) {
                return false;
            }
            let told = self.told();
            // What may differ may also be about to be settled.
            let may_differ = self.executor.now() + Duration::from_secs(15) >= healed + limit;
            let lack = &self.rights.staying;
            let unreadable = self.unreadable();
            let is_denied = |key: &Vec<u8>| told.quarantined.get(key).is_some_and(|reason| reason == "no_permission");
            // Nobody can list what is below a znode that may not be read.
            let is_told = |pair: &Pair| {
                let is_silent = self.rights.has_dropped && !told.quarantined.contains_key(&pair.key);
                is_silent
                    || is_denied(&pair.key)
                    || unreadable.iter().any(|above| pair.path.starts_with(&format!("{above}/")))
            };
            // The names of no pair, to which the user has no right while it lacks one.
            let is_extra = |key: &Vec<u8>| !lack.is_empty() && !names.contains(key);
            let is_at_rest = self.commands.is_empty()
                && self.is_settled()
                && !self.truth.has_expiry()
                && told.quarantined.keys().all(|key| lack.contains(key) || is_extra(key) || !is_denied(key))
                && self.truth.is_all(|number, pair| match self.rest_of(number, pair, &told) {
                    Rest::Equal => true,
                    Rest::Excused(_) => may_differ,
                    Rest::Wrong(_) if lack.contains(&pair.key) => is_told(pair),
                    Rest::Wrong(_) => false,
                });
            since = is_at_rest.then(|| since.unwrap_or_else(|| self.executor.now()));
            let is_noticed = self.executor.now() >= healed + NOTICED;
            if is_noticed && since.is_some_and(|since: Duration| self.executor.now() >= since + Duration::from_secs(2))
            {
                self.mark("rest");
                let mut waits = BTreeMap::<usize, u64>::new();
                for (number, pair) in self.truth.pairs().iter().enumerate() {
                    if let Rest::Excused(why) = self.rest_of(number, pair, &told) {
                        self.mark(&format!("excused: {why}"));
                        *waits.entry(pair.route).or_default() += u64::from(why == WAITS);
                    }
                }
                for (route, waits) in waits {
                    let said = told.waits.get(&route).copied().unwrap_or(0);
                    if waits > said {
                        self.wrong.push(format!(
                            "untrue status: {said} deletes of route {route} wait for approval, and {waits} do"
                        ));
                    }
                }
                self.judge_quarantine(&told.quarantined);
                break;
            }
        }
        let states = self.states_of_able();
        if since.is_none() && self.refused >= self.machines.len() * 3 {
            // Databases that were swapped while both got their identity: which is the pipeline's only an operator knows.
            self.mark("excused: refused, for the Redis is another one");
            return false;
        }
        let refused = self.refused_pipelines();
        if since.is_none() && !refused.is_empty() {
            // A store lost its identity, and another pipeline, which did not remember it, gave it a new one first.
            self.mark("excused: refused, for another pipeline gave the emptied store an identity");
            let told = self.told();
            let pairs = self.truth.pairs();
            for (number, pair) in pairs.iter().enumerate().filter(|(_, pair)| !refused.contains(&pair.pipeline)) {
                if let Rest::Wrong(why) = self.rest_of(number, pair, &told) {
                    self.wrong.push(why);
                }
            }
            return false;
        }
        if since.is_none() {
            let told = self.told();
            for (number, pair) in self.truth.pairs().iter().enumerate() {
                if let Rest::Wrong(why) = self.rest_of(number, pair, &told) {
                    self.wrong.push(why);
                }
            }
            if self.wrong.is_empty() {
                let statuses: Vec<String> = self.statuses();
                self.wrong.push(format!("no rest {limit:?} after all faults were over: {}", statuses.join("; ")));
            }
            return false;
        }
        if !self.stays_settled() {
            return false;
        }
        if self.states_of_able() != states {
            self.wrong.push("something was written after both sides were at rest".to_owned());
        }
        if self.rights.staying.is_empty() && self.draws.named("diff").happens(1, 0.3) {
            self.judge_diff();
        }
        true
    }

    /// Whether for five seconds each pipeline has a worker that says that all flows. A pipeline that is handed over to a worker which has
    /// fewer has no owner for a moment: then the next one has to say so in its time, and the five seconds begin anew.
    fn stays_settled(&mut self) -> bool {
        let is_handed_over = |play: &Play| play.executor.marked("handed over");
        let at_first = is_handed_over(self);
        let (mut handed_over, mut is_due) = (at_first, self.executor.now());
        let mut quiet = self.executor.now() + QUIET;
        while self.executor.now() < quiet {
            if !self.until(self.executor.now() + LOOK) {
                return false;
            }
            let now = self.executor.now();
            if is_handed_over(self) > handed_over {
                handed_over = is_handed_over(self);
                is_due = now + self.settings.session_timeout + TAKE_OVER;
                quiet = is_due + QUIET;
            }
            if self.is_settled() {
                continue;
            }
            if now >= is_due {
                let statuses = self.statuses().join("; ");
                self.wrong.push(format!("untrue status: both sides are at rest, and no worker says so: {statuses}"));
                return false;
            }
        }
        // Each moves at most once: then no worker has two more than another.
        let times = handed_over - at_first;
        if times > self.settings.pipelines() as u64 {
            self.wrong.push(format!("pipelines are handed to and fro: {times} times at rest"));
        }
        true
    }

    /// Of several pipelines those that wait since one of their stores has an identity which is not the one that they remember.
    fn refused_pipelines(&self) -> BTreeSet<usize> {
        let several = 0..if self.settings.pipelines() > 1 { self.settings.pipelines() } else { 0 };
        let statuses: Vec<PipelineStatus> = self.running().map(|(_, pipeline)| pipeline.status()).collect();
        let is_refused = |pipeline: &usize| {
            let mut of = statuses.iter().filter(|status| status.pipeline == name_of(*pipeline));
            of.any(|status| status.note.contains("has other stores"))
        };
        several.filter(is_refused).collect()
    }

    /// All faults are over for a time, and begin again when both sides were at rest.
    pub(crate) fn rest_in_between(&mut self) {
        self.rest();
        self.is_healed = false;
        self.network.set_weather(self.settings.weather);
        self.mark("rest in between");
    }

    /// The machine of the worker that owns each pipeline.
    pub(crate) fn owners(&self) -> BTreeMap<usize, usize> {
        let mut owners = BTreeMap::new();
        for machine in &self.machines {
            for status in machine.workers().flat_map(Worker::statuses).filter(|status| self.is_flowing(status.state)) {
                let of = (0..self.settings.pipelines()).find(|pipeline| name_of(*pipeline) == status.pipeline);
                owners.extend(of.map(|pipeline| (pipeline, machine.number)));
            }
        }
        owners
    }

    /// How a pair is, by its route, the delete guard, and the list of what could not be brought in step.
    fn rest_of(&self, number: usize, pair: &Pair, told: &Told) -> Rest {
        let rest = judge::rest(pair, &self.settings);
        let may_wait = |began: &Duration| self.guarded.may_wait(number, pair, *began);
        let waits = || told.waits.contains_key(&pair.route) && told.began.get(pair.pipeline).is_some_and(may_wait);
        match (&rest, told.quarantined.get(&pair.key)) {
            (Rest::Wrong(_), _) if waits() => Rest::Excused(WAITS),
            (Rest::Wrong(_), None)
                if self.rights.has_dropped && self.settings.routes[pair.route].on_conflict == "quarantine" =>
            {
                Rest::Excused("an operator dropped its conflict")
            }
            (Rest::Wrong(_), Some(reason)) => {
                match judge::cause(reason, pair, &self.settings, self.is_unproven(pair)) {
                    Some(why) => Rest::Excused(why),
                    None => rest,
                }
            }
            _ => rest,
        }
    }

    /// Whether nothing shows that what vanished of a pair was deleted: nobody saw it, and a store has lost data, counts of evictions were set
    /// back, or no worker had compared before.
    fn is_unproven(&self, pair: &Pair) -> bool {
        [&pair.zookeeper, &pair.redis].into_iter().filter_map(|states| states.last()).any(|last| {
            let pipeline = name_of(pair.pipeline);
            let is_known = self.looks.has_concluded(&pipeline, last.at);
            let has_cause = self.is_reset || pair.last_loss().is_some() || !is_known;
            let is_hidden = self.rights.stayed.contains(&pair.key);
            // A time to live may be that of an older data set until a comparison of it is concluded.
            let is_hidden = is_hidden || last.by == Author::Expiry && pair.last_loss().is_some();
            let is_seen = !is_hidden && last.by != Author::Loss && self.looks.is_seen(&pipeline, last.at);
            has_cause && !is_seen
        })
    }

    /// Pairs that need not be on the stream as they are: a loss took what both sides do not have, or a delete of what neither side has waits.
    pub(crate) fn need_no_record(&self) -> BTreeSet<usize> {
        let told = self.told();
        let pairs = self.truth.pairs();
        let of = pairs.iter().enumerate().filter(|(_, pair)| {
            let states = [&pair.zookeeper, &pair.redis];
            let is_gone = states.iter().all(|states| newest(states).is_none());
            // What a destination has is no state of the pair.
            let sources = match self.settings.routes[pair.route].flow {
                Flow::Both => &states[..],
                Flow::ToRedis => &states[..1],
                Flow::ToZookeeper => &states[1..],
            };
            let is_seen = |states: &&Vec<State>| {
                let last = states.last().filter(|last| last.by != Author::Loss && Some(last.at) > pair.last_loss());
                last.is_some_and(|last| self.looks.is_seen(&name_of(pair.pipeline), last.at))
            };
            let is_lost = pair.last_loss().is_some() && !sources.iter().any(is_seen);
            is_gone && (is_lost || told.waits.contains_key(&pair.route))
        });
        of.map(|(number, _)| number).collect()
    }

    /// At rest each pair in quarantine has a cause, of which the owner knows the right one.
    fn judge_quarantine(&mut self, quarantined: &BTreeMap<Vec<u8>, String>) {
        let pairs = self.truth.pairs();
        for (key, reason) in quarantined {
            let name = String::from_utf8_lossy(key.get(..key.len().min(40)).unwrap_or_default());
            let lacks_right = reason == "no_permission" && self.rights.staying.contains(key);
            let has_cause = match pairs.iter().find(|pair| pair.key == *key) {
                _ if lacks_right => true,
                Some(pair) => judge::cause(reason, pair, &self.settings, self.is_unproven(pair)).is_some(),
                // A name that no znode can have.
                None if reason == "no_permission" => !self.rights.staying.is_empty(),
                None => reason == "too_large" && self.redis.look(|server| server.peek(0, key).is_some()),
            };
            if has_cause {
                self.executor.mark(&format!("quarantined: {reason}"));
            } else {
                self.wrong.push(format!("{name} is in quarantine without a cause: {reason}"));
            }
        }
    }

    /// Whether a worker in this state lets all flow but what an operator has to decide.
    fn is_flowing(&self, state: PipelineState) -> bool {
        let may_wait = self.settings.guard.nobody_approves;
        state == PipelineState::Live || (may_wait && state == PipelineState::AwaitingApproval)
    }

    /// Each pipeline of each worker.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&Worker, Arc<Pipeline>)> {
        let workers = self.machines.iter().flat_map(Machine::workers);
        workers.flat_map(|worker| worker.pipelines().into_iter().map(move |pipeline| (worker, pipeline)))
    }

    /// What the owners say may differ.
    fn told(&self) -> Told {
        let mut told = Told::default();
        told.began.extend(self.truth.ownerships().iter().map(|began| began.last().copied().unwrap_or_default()));
        for (_, pipeline) in self.running() {
            let status = pipeline.status();
            if !self.is_flowing(status.state) {
                continue;
            }
            let rows = pipeline.quarantine().into_iter();
            told.quarantined.extend(rows.filter_map(|row| row.redis.map(|key| (key, row.reason))));
            let waits = status.routes.iter().filter(|route| route.awaiting_approval > 0);
            let number = |route: &RouteStatus| route.route.trim_start_matches('r').parse().ok();
            told.waits.extend(waits.filter_map(|route| Some((number(route)?, route.awaiting_approval))));
        }
        if !self.settings.guard.nobody_approves {
            told.waits.clear();
        }
        told
    }

    /// How many states there were of the pairs that lack no right: the others may still be found.
    fn states_of_able(&self) -> usize {
        self.truth.states_of(|key| !self.rights.staying.contains(key))
    }

    /// What may not be read, as the owner says.
    fn unreadable(&self) -> Vec<String> {
        let live =
            self.running().map(|(_, pipeline)| pipeline.status()).filter(|status| status.state == PipelineState::Live);
        let names = live.flat_map(|status| status.routes).flat_map(|route| route.unreadable_names);
        names.map(|unreadable| unreadable.name).collect()
    }

    fn statuses(&self) -> Vec<String> {
        let of = |(worker, pipeline): (&Worker, Arc<Pipeline>)| {
            let status = pipeline.status();
            let pending: u64 = status.routes.iter().map(|route| route.pending).sum();
            let (process, name, state, note) = (worker.process, &status.pipeline, status.state, &status.note);
            let rows = pipeline.quarantine().into_iter();
            let listed: Vec<String> = rows.map(|row| format!("{:?} {}", row.zookeeper, row.reason)).collect();
            let ready = status.ready;
            format!(
                "process {process}, {name}: {state:?} ready {ready} {note} {pending} pending, quarantined {listed:?}"
            )
        };
        self.running().map(of).collect()
    }

    /// What an operator does who sees deletes waiting, or a pause.
    fn steer(&mut self) {
        let mut asked = Vec::new();
        for machine in &self.machines {
            for status in machine.workers().flat_map(Worker::statuses) {
                let is_in = |state: RouteState| status.routes.iter().any(|route| route.state == state);
                let pipeline = (0..self.settings.pipelines()).find(|pipeline| name_of(*pipeline) == status.pipeline);
                let Some(pipeline) = pipeline else { continue };
                if is_in(RouteState::AwaitingApproval) && !self.settings.guard.nobody_approves {
                    asked.push((machine.number, pipeline, Operation::Approve));
                }
                if is_in(RouteState::Paused) {
                    asked.push((machine.number, pipeline, Operation::Resume));
                }
            }
        }
        for (machine, pipeline, operation) in asked {
            let of = (machine, pipeline, operation.name());
            if !self.commands.iter().any(|command| (command.machine, command.pipeline, command.name) == of) {
                self.operate(machine, pipeline, &operation, None);
            }
        }
    }

    /// Whether for each pipeline one worker says that all flows and nothing waits.
    fn is_settled(&self) -> bool {
        let statuses: Vec<PipelineStatus> = self.running().map(|(_, pipeline)| pipeline.status()).collect();
        let is_settled = |status: &PipelineStatus| {
            // A comparison looks again at each pair in quarantine.
            let waits = |route: &RouteStatus| route.pending > route.quarantined;
            self.is_flowing(status.state) && status.ready && !status.routes.iter().any(waits)
        };
        (0..self.settings.pipelines())
            .map(name_of)
            .all(|name| statuses.iter().any(|status| status.pipeline == name && is_settled(status)))
    }
}
