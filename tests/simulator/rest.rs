//! Healing after all faults, and rest: both sides become equal, first without the rights that stay taken, and then nothing more is written.

use crate::executor::ProcessId;
use crate::judge::{self, Rest};
use crate::machine::{Machine, Worker};
use crate::network::{Store, Weather};
use crate::play::{COMMAND_MAX, LOOK, Later, Play};
use crate::settings::name_of;
use crate::truth::Pair;
use crate::what::Operation;
use keepstep::pipeline::Pipeline;
use keepstep::pipeline::control::{Handle as _, PipelineState, PipelineStatus, RouteState};
use keepstep_doubles::zookeeper::Lag;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
            let processes: Vec<ProcessId> = self.machines[number].workers().map(|worker| worker.process).collect();
            for process in processes {
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
        while self.executor.now() < healed + limit {
            self.steer();
            if !self.until(self.executor.now() + LOOK) {
                return false;
            }
            let quarantined = self.quarantined();
            // What may differ may also be about to be settled.
            let may_differ = self.executor.now() + Duration::from_secs(15) >= healed + limit;
            let lack = &self.rights.staying;
            let unreadable = self.unreadable();
            let is_denied = |key: &Vec<u8>| quarantined.get(key).is_some_and(|reason| reason == "no_permission");
            // Nobody can list what is below a znode that may not be read.
            let is_told = |pair: &Pair| {
                let is_silent = self.rights.has_dropped && !quarantined.contains_key(&pair.key);
                is_silent
                    || is_denied(&pair.key)
                    || unreadable.iter().any(|above| pair.path.starts_with(&format!("{above}/")))
            };
            let is_at_rest = self.commands.is_empty()
                && self.is_settled()
                && !self.truth.has_expiry()
                && quarantined.keys().all(|key| lack.contains(key) || !is_denied(key))
                && self.truth.is_all(|pair| match judge::rest(pair, &self.settings) {
                    Rest::Equal => true,
                    Rest::Excused(_) => may_differ,
                    Rest::Wrong(_) if lack.contains(&pair.key) => is_told(pair),
                    Rest::Wrong(_) => may_differ && quarantined.contains_key(&pair.key),
                });
            since = is_at_rest.then(|| since.unwrap_or_else(|| self.executor.now()));
            if since.is_some_and(|since: Duration| self.executor.now() >= since + Duration::from_secs(2)) {
                self.mark("rest");
                for pair in self.truth.pairs() {
                    if let Rest::Excused(why) = judge::rest(&pair, &self.settings) {
                        self.mark(&format!("excused: {why}"));
                    }
                }
                quarantined.values().for_each(|reason| self.mark(&format!("excused: quarantined, {reason}")));
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
            for pair in self.truth.pairs().iter().filter(|pair| !refused.contains(&pair.pipeline)) {
                if let Rest::Wrong(why) = judge::rest(pair, &self.settings) {
                    self.wrong.push(why);
                }
            }
            return false;
        }
        if since.is_none() {
            for pair in self.truth.pairs() {
                if let Rest::Wrong(why) = judge::rest(&pair, &self.settings) {
                    self.wrong.push(why);
                }
            }
            if self.wrong.is_empty() {
                let statuses: Vec<String> = self.statuses();
                self.wrong.push(format!("no rest {limit:?} after all faults were over: {}", statuses.join("; ")));
            }
            return false;
        }
        if !self.until(self.executor.now() + Duration::from_secs(5)) {
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

    /// Each pipeline of each worker.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&Worker, Arc<Pipeline>)> {
        let workers = self.machines.iter().flat_map(Machine::workers);
        workers.flat_map(|worker| worker.pipelines().into_iter().map(move |pipeline| (worker, pipeline)))
    }

    /// By key.
    fn quarantined(&self) -> BTreeMap<Vec<u8>, String> {
        let owners = self.running().filter(|(_, pipeline)| pipeline.status().state == PipelineState::Live);
        let rows = owners.flat_map(|(_, pipeline)| pipeline.quarantine());
        rows.filter_map(|row| row.redis.map(|key| (key, row.reason))).collect()
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
                if is_in(RouteState::AwaitingApproval) {
                    self.mark("owner: awaiting approval");
                    asked.push((machine.number, pipeline, Operation::Approve));
                }
                if is_in(RouteState::Paused) {
                    self.mark("owner: paused");
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
            status.state == PipelineState::Live && status.ready && status.routes.iter().all(|route| route.pending == 0)
        };
        (0..self.settings.pipelines())
            .map(name_of)
            .all(|name| statuses.iter().any(|status| status.pipeline == name && is_settled(status)))
    }
}
