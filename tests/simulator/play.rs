//! Plays a plan: machines, applications and faults, then healing, rest, and the judgement.

use crate::draws::Draws;
use crate::ensemble::Ensembles;
use crate::executor::{self, Executor, Paused, ProcessId};
use crate::judge::{self, Rest};
use crate::machine::{Machine, Worker};
use crate::network::{Network, Store, Way, Weather};
use crate::operator::Running;
use crate::plan::Plan;
use crate::planted::Planted;
use crate::published;
use crate::server::Servers;
use crate::settings::{Settings, name_of};
use crate::streams;
use crate::truth::{Author, Pair, Truth};
use crate::what::Operation;
use futures::FutureExt as _;
use keepstep::assembly;
use keepstep::pipeline::control::{Handle as _, PipelineState, PipelineStatus, RouteState};
use keepstep::pipeline::{Ended, Pipeline};
use keepstep::store::zookeeper::session::{Access, Acl, AuthId, CreateMode, Ensemble as _, Permission, Session};
use keepstep_doubles::disk::{Image, VolatileDisk};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::server;
use keepstep_doubles::zookeeper::{self, DoubleEnsemble, Lag};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often an operator looks.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// A command line ends within this, where nothing is in its way: it waits for changes in flight for half of it.
pub(crate) const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub wrong: Vec<String>,
    /// What has happened, and how often.
    pub marks: BTreeMap<String, u64>,
    /// The same for the same story.
    pub trace: u128,
    pub polls: u64,
    /// States of pairs that there were.
    pub states: usize,
    /// How long it would have taken.
    pub simulated: Duration,
    /// What happened, in the order of time.
    pub told: Vec<String>,
}

/// Something that follows from an action.
pub(crate) enum Later {
    Thaw(ProcessId),
    Open(ProcessId, Store),
    Start(usize),
    ExpireSessions(ProcessId),
    GiveUp(ProcessId),
    /// A former worker ends: by SIGKILL, or by SIGTERM.
    EndFormer(ProcessId, bool),
    Space(usize),
    CatchUp(usize),
}

pub(crate) struct Play {
    pub(crate) settings: Settings,
    /// Of each pipeline.
    pub(crate) files: Vec<String>,
    pub(crate) executor: Executor,
    pub(crate) network: Network,
    pub(crate) ensemble: DoubleEnsemble,
    pub(crate) redis: Double,
    pub(crate) ensembles: Ensembles,
    pub(crate) servers: Servers,
    pub(crate) truth: Truth,
    pub(crate) machines: Vec<Machine>,
    pub(crate) application: Arc<dyn Session>,
    pub(crate) later: BTreeMap<(Duration, u64), Later>,
    pub(crate) count: u64,
    pub(crate) copy_of_redis: Option<server::Copy>,
    pub(crate) copy_of_ensemble: Option<zookeeper::Copy>,
    pub(crate) draws: Draws,
    pub(crate) wrong: Vec<String>,
    pub(crate) told: Vec<String>,
    pub(crate) is_healed: bool,
    /// Command lines that run, and the exit code and the output of each that has ended.
    pub(crate) commands: Vec<Running>,
    pub(crate) printed: BTreeMap<ProcessId, (u8, Vec<u8>)>,
    /// Workers that were refused one after the other, the newest, since the Redis is another one.
    pub(crate) refused: usize,
}

/// Plays it, with a fault where one is planted.
#[must_use]
pub fn play(plan: &Plan, planted: Option<Planted>) -> Outcome {
    let draws = Draws::of(plan.settings.seed).named("run").with(plan.settings.schedule);
    let disk = Arc::new(VolatileDisk::new(&Image::new(), |_| 0));
    let executor = Executor::new(draws, disk);
    let _entered = executor::enter(&executor);
    let mut play = Play::new(plan, draws, executor.clone());
    match planted {
        Some(Planted::Code(fault)) => executor.plant(fault),
        Some(Planted::Script(kindness)) => play.redis.with(|server| server.kindness = Some(kindness)),
        None => {}
    }
    play.run(plan);
    let outcome = play.outcome();
    executor.end();
    outcome
}

pub(crate) fn everybody() -> Vec<Acl> {
    vec![Acl::new(Permission::ALL, AuthId::anyone())]
}

impl Play {
    fn new(plan: &Plan, draws: Draws, executor: Executor) -> Play {
        let settings = plan.settings.clone();
        let ensemble =
            DoubleEnsemble::new(zookeeper::Settings { servers: settings.servers, ..zookeeper::Settings::default() });
        let redis = Double::default();
        let pairs = (0..settings.pairs * settings.routes.len()).map(|pair| {
            let (path, key) = settings.names(pair);
            let route = pair / settings.pairs;
            Pair::new(path, key, route, settings.routes[route].pipeline)
        });
        let truth = Truth::new(ensemble.clone(), redis.clone(), executor.clone(), pairs.collect());
        let network = Network::new(executor.clone(), truth.clone(), draws, settings.weather);
        let ensembles = Ensembles::new(network.clone(), ensemble.clone(), settings.servers);
        let servers = Servers::new(network.clone(), redis.clone());
        let machines =
            (0..settings.workers).map(|number| Machine::new(number, settings.runs_of(number), draws)).collect();
        let application = open(&ensemble);
        let files = (0..settings.pipelines()).map(|pipeline| settings.file(pipeline)).collect();
        let mut play = Play {
            settings,
            files,
            executor,
            network,
            ensemble,
            redis,
            ensembles,
            servers,
            truth,
            machines,
            application,
            later: BTreeMap::new(),
            count: 0,
            copy_of_redis: None,
            copy_of_ensemble: None,
            draws: draws.named("play"),
            wrong: Vec::new(),
            told: Vec::new(),
            is_healed: false,
            commands: Vec::new(),
            printed: BTreeMap::new(),
            refused: 0,
        };
        if (0..play.settings.routes.len()).any(|route| play.settings.is_published(route)) {
            play.truth.subscribe();
        }
        play.make_roots();
        play
    }

    pub(crate) fn make_roots(&mut self) {
        for route in 0..self.settings.routes.len() {
            let _ = self
                .application
                .create(&format!("/r{route}"), b"", CreateMode::Persistent, &everybody())
                .now_or_never();
        }
    }

    pub(crate) fn later(&mut self, after: Duration, what: Later) {
        self.count += 1;
        self.later.insert((self.executor.now() + after, self.count), what);
    }

    pub(crate) fn mark(&self, name: &str) {
        self.executor.mark(name);
    }

    pub(crate) fn tell(&mut self, text: String) {
        tracing::info!("-- {text}");
        self.told.push(format!("{:10.6} {text}", self.executor.now().as_secs_f64()));
    }

    fn run(&mut self, plan: &Plan) {
        for machine in 0..self.machines.len() {
            self.count += 1;
            let after = self.draws.named("start").time(self.count, Duration::from_millis(1), Duration::from_secs(2));
            self.later(after, Later::Start(machine));
        }
        for action in &plan.actions {
            if !self.until(action.at) {
                return;
            }
            self.act(action);
        }
        let end = Duration::from_secs(2) + self.settings.length;
        if self.until(end) {
            self.rest();
        }
    }

    /// Whether it came so far.
    pub(crate) fn until(&mut self, moment: Duration) -> bool {
        loop {
            let now = self.executor.now();
            if now >= moment {
                return true;
            }
            let due = self.later.first_key_value().map_or(moment, |((at, _), _)| *at).min(moment).min(now + LOOK);
            match self.executor.run(due) {
                Paused::Time => {}
                Paused::Killed(process) => self.was_killed(process),
                Paused::Broken(why) => {
                    self.wrong.push(why);
                    return false;
                }
            }
            while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= self.executor.now()) {
                let what = entry.remove();
                self.follow(what);
            }
            self.look_after_workers();
            self.look_after_commands();
            self.expire_keys();
        }
    }

    /// The ways of a process to the stores.
    pub(crate) fn network_of(&self, process: ProcessId) -> assembly::Network {
        assembly::Network { ensembles: self.ensembles.of(process), servers: self.servers.of(process) }
    }

    fn machine_of(&self, process: ProcessId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.worker.as_ref().is_some_and(|of| of.process == process))
    }

    pub(crate) fn process(&self, worker: usize) -> Option<ProcessId> {
        self.machines.get(worker)?.worker.as_ref().map(|worker| worker.process)
    }

    fn was_killed(&mut self, process: ProcessId) {
        self.kill_commands(|command| command.process == process);
        if let Some(machine) = self.machine_of(process) {
            self.tell(format!("the worker of machine {machine} is killed where it is"));
            self.kill(machine, |machine, executor| machine.kill(executor));
        } else {
            self.end_former(process, true);
        }
    }

    pub(crate) fn kill(&mut self, machine: usize, kill: impl Fn(&mut Machine, &Executor)) {
        let Some(process) = self.process(machine) else { return };
        self.mark("worker: killed");
        kill(&mut self.machines[machine], &self.executor);
        self.servers.cut(process);
        for opened in self.ensembles.sessions_of(process) {
            self.later(opened.timeout, Later::ExpireSessions(process));
        }
        self.start_later(machine);
    }

    fn start_later(&mut self, machine: usize) {
        self.count += 1;
        let after = match self.is_healed {
            true => Duration::from_millis(200),
            false => self.draws.time(self.count, Duration::from_millis(50), Duration::from_secs(10)),
        };
        self.later(after, Later::Start(machine));
    }

    pub(crate) fn follow(&mut self, what: Later) {
        match what {
            Later::Thaw(process) => {
                self.executor.freeze(process, false);
                self.tell(format!("process {process} goes on"));
            }
            Later::Open(process, store) => self.open_way(process, store),
            Later::Start(machine) => {
                self.machines[machine].start(&self.files, &self.executor, &self.ensembles, &self.servers);
                self.tell(format!("machine {machine} starts a worker: process {:?}", self.process(machine)));
            }
            Later::ExpireSessions(process) => {
                // Those that are there still, and belong to nobody who could be heard.
                let is_silent = self.executor.is_dead(process)
                    || self.executor.is_frozen(process)
                    || self.network.way(process, Store::Zookeeper) != Way::Open;
                if is_silent {
                    self.expire_sessions(process, u64::MAX);
                }
            }
            Later::GiveUp(process) => {
                if self.network.way(process, Store::Zookeeper) != Way::Open {
                    for opened in self.ensembles.sessions_of(process) {
                        self.ensemble.give_up(opened.session);
                    }
                }
            }
            Later::EndFormer(process, is_killed) => self.end_former(process, is_killed),
            Later::CatchUp(server) => self.ensemble.lag(server, Lag::None),
            Later::Space(machine) => self.machines[machine].disk.set_space(None),
        }
    }

    pub(crate) fn open_way(&mut self, process: ProcessId, store: Store) {
        self.network.set_way(process, store, Way::Open);
        if store == Store::Zookeeper {
            for opened in self.ensembles.sessions_of(process) {
                self.ensemble.cut_off(opened.session, false);
            }
        }
    }

    pub(crate) fn expire_sessions(&mut self, process: ProcessId, which: u64) {
        for (number, opened) in self.ensembles.sessions_of(process).into_iter().enumerate() {
            if which & (1 << (number % 64)) != 0 && self.ensemble.look(|ensemble| ensemble.has_session(opened.session))
            {
                self.mark("zookeeper: session expired");
                self.ensemble.expire(opened.session);
            }
        }
        self.look(Author::Loss);
    }

    /// The server gets to keys whose time has come, sooner or later.
    fn expire_keys(&mut self) {
        let now_ms = keepstep::env::unix_ms();
        for (pair, key) in self.redis.look(|server| self.truth.with_keys(|key| server.is_due(0, key, now_ms))) {
            self.count += 1;
            if self.draws.with(pair as u64).happens(self.count, 0.3) {
                self.redis.set_clock(now_ms);
                self.redis.with(|server| server.expire(0, &key));
                self.truth.look(Author::Expiry, self.executor.now());
            }
        }
    }

    /// A supervisor starts what has ended; what may not start is tried again.
    fn look_after_workers(&mut self) {
        for number in 0..self.machines.len() {
            self.look_after_former(number);
            let ended = self.machines[number].worker.as_ref().and_then(|worker| worker.ended());
            if let Some(ended) = ended {
                self.tell(format!("the worker of machine {number} ended: {ended:?}"));
                let is_another =
                    |ended: &Ended| matches!(ended, Ended::Refused(why) if why.contains("has other stores"));
                self.refused = if ended.as_ref().is_ok_and(is_another) { self.refused + 1 } else { 0 };
                self.mark(match &ended {
                    Ok(Ended::Stopped) => "worker: stopped",
                    Ok(Ended::Refused(_)) => "worker: refused",
                    _ => "worker: ended otherwise",
                });
                self.machines[number].kill(&self.executor);
                self.start_later(number);
            }
        }
    }

    pub(crate) fn look(&self, by: Author) {
        self.truth.forget();
        self.truth.look(by, self.executor.now());
    }

    fn heal(&mut self) {
        self.is_healed = true;
        let calm = Weather { scale: self.settings.weather.scale.min(1.0), ..Weather::CALM };
        self.network.set_weather(calm);
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
    fn rest(&mut self) {
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
        let healed = self.executor.now();
        // An owner that was just killed is waited for as long as its session lives.
        let limit = self.settings.patience + self.settings.session_timeout * 2;
        let mut since = None;
        while self.executor.now() < healed + limit {
            self.steer();
            if !self.until(self.executor.now() + LOOK) {
                return;
            }
            let quarantined = self.quarantined();
            // What may differ may also be about to be settled.
            let may_differ = self.executor.now() + Duration::from_secs(15) >= healed + limit;
            let is_at_rest = self.commands.is_empty()
                && self.is_settled()
                && !self.truth.has_expiry()
                && self.truth.is_all(|pair| match judge::rest(pair, &self.settings) {
                    Rest::Equal => true,
                    Rest::Excused(_) => may_differ,
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
        let states = self.truth.states();
        if since.is_none() && self.refused >= self.machines.len() * 3 {
            // Databases that were swapped while both got their identity: which is the pipeline's only an operator knows.
            self.mark("excused: refused, for the Redis is another one");
            return;
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
            return;
        }
        if !self.until(self.executor.now() + Duration::from_secs(5)) {
            return;
        }
        if self.truth.states() != states {
            self.wrong.push("something was written after both sides were at rest".to_owned());
        }
        if self.draws.named("diff").happens(1, 0.3) {
            self.judge_diff();
        }
    }

    /// Each pipeline of each worker.
    fn running(&self) -> impl Iterator<Item = (&Worker, Arc<Pipeline>)> {
        let workers = self.machines.iter().flat_map(Machine::workers);
        workers.flat_map(|worker| worker.pipelines().into_iter().map(move |pipeline| (worker, pipeline)))
    }

    /// By key.
    fn quarantined(&self) -> BTreeMap<Vec<u8>, String> {
        let owners = self.running().filter(|(_, pipeline)| pipeline.status().state == PipelineState::Live);
        let rows = owners.flat_map(|(_, pipeline)| pipeline.quarantine());
        rows.filter_map(|row| row.redis.map(|key| (key, row.reason))).collect()
    }

    fn statuses(&self) -> Vec<String> {
        let of = |(worker, pipeline): (&Worker, Arc<Pipeline>)| {
            let status = pipeline.status();
            let pending: u64 = status.routes.iter().map(|route| route.pending).sum();
            let (process, name, state, note) = (worker.process, &status.pipeline, status.state, &status.note);
            format!("process {process}, {name}: {state:?} {note} {pending} pending")
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

    fn outcome(mut self) -> Outcome {
        let simulated = self.executor.now();
        let pairs = self.truth.pairs();
        if self.wrong.is_empty() {
            let disks: Vec<VolatileDisk> = self.machines.iter().map(|machine| machine.disk.clone()).collect();
            self.machines.iter_mut().for_each(|machine| machine.kill_all(&self.executor));
            let records = streams::records(&disks, self.settings.pipelines());
            self.wrong.extend(self.truth.accused());
            let (wrong, recreated) = judge::judge(&pairs, &records, &self.settings);
            self.wrong.extend(wrong);
            let messages = self.truth.published();
            messages.iter().for_each(|_| self.mark("redis: published"));
            let machines = self
                .machines
                .iter()
                .flat_map(|machine| machine.processes.iter().map(|process| (*process, machine.number)));
            let (wrong, again) = published::judge(&messages, &pairs, &records, &machines.collect(), &self.settings);
            self.wrong.extend(wrong);
            (0..again).for_each(|_| self.mark("excused: a record was published again by another owner"));
            (0..recreated).for_each(|_| self.mark("excused: a znode recreated at the same version"));
        }
        self.machines.iter_mut().for_each(|machine| machine.kill_all(&self.executor));
        Outcome {
            wrong: self.wrong,
            marks: self.executor.marks(),
            trace: self.executor.traced(),
            polls: self.executor.polled(),
            states: self.truth.states(),
            simulated,
            told: self.told,
        }
    }
}

/// An application's session, which is with the double itself.
pub(crate) fn open(ensemble: &DoubleEnsemble) -> Arc<dyn Session> {
    let access = Access { connect: "double:2181".to_owned(), session_timeout: Duration::from_secs(3600), digest: None };
    let opened = ensemble.open(&access).now_or_never().and_then(Result::ok);
    opened.expect("a double opens a session at once")
}
