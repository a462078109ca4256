//! Plays a plan: machines, applications and faults, then healing, rest, and the judgement.

use crate::draws::Draws;
use crate::ensemble::Ensembles;
use crate::executor::{self, Executor, Paused, ProcessId};
use crate::flood::Lines;
use crate::guard;
use crate::judge;
use crate::machine::Machine;
use crate::network::{Network, Store, Way};
use crate::operator::Running;
use crate::plan::Plan;
use crate::planted::Planted;
use crate::published;
use crate::rights::Rights;
use crate::server::Servers;
use crate::settings::Settings;
use crate::statuses::Looks;
use crate::stores::Over;
use crate::streams;
use crate::truth::{Author, Pair, Truth};
use crate::znodes::Ephemerals;
use futures::FutureExt as _;
use keepstep::assembly;
use keepstep::pipeline::Ended;
use keepstep::store::Password;
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
    /// Lines of the log, at `info` and above, and requests to both stores.
    pub lines: u64,
    pub requests: u64,
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
    Over(Over),
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
    /// Command lines that run, and the end and the output of each that has ended.
    pub(crate) commands: Vec<Running>,
    pub(crate) printed: BTreeMap<ProcessId, (keepstep::cli::Ended, Vec<u8>)>,
    pub(crate) rights: Rights,
    pub(crate) ephemerals: Ephemerals,
    /// Workers that were refused one after the other, the newest, since the Redis is another one.
    pub(crate) refused: usize,
    /// Of the applications' ephemeral znodes.
    pub(crate) guarded: guard::Known,
    pub(crate) looks: Looks,
    /// Redis' statistics were set back, or it was a replica for a time.
    pub(crate) is_reset: bool,
    pub(crate) lines: Lines,
    /// When the operator looks next.
    pub(crate) look_at: Duration,
}

/// Plays it, with a fault where one is planted.
#[must_use]
pub fn play(plan: &Plan, planted: Option<Planted>) -> Outcome {
    let draws = Draws::of(plan.settings.seed).named("run").with(plan.settings.schedule);
    let disk = Arc::new(VolatileDisk::new(&Image::new(), |_| 0));
    let executor = Executor::new(draws, disk);
    let _entered = executor::enter(&executor);
    let lines = Lines::default();
    let mut play = Play::new(plan, draws, executor.clone(), lines.clone());
    match planted {
        Some(Planted::Code(fault)) => executor.plant(fault),
        Some(Planted::Script(kindness)) => play.redis.with(|server| server.kindness = Some(kindness)),
        None => {}
    }
    if tracing::dispatcher::has_been_set() {
        // Somebody reads the log.
        play.run(plan);
    } else {
        tracing::subscriber::with_default(lines, || play.run(plan));
    }
    let outcome = play.outcome();
    executor.end();
    outcome
}

pub(crate) fn everybody() -> Vec<Acl> {
    vec![Acl::new(Permission::ALL, AuthId::anyone())]
}

impl Play {
    fn new(plan: &Plan, draws: Draws, executor: Executor, lines: Lines) -> Play {
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
            rights: Rights::default(),
            ephemerals: Ephemerals::default(),
            refused: 0,
            guarded: guard::Known::default(),
            looks: Looks::default(),
            is_reset: false,
            lines,
            look_at: Duration::ZERO,
        };
        // The workers are the default user, who may lose a right.
        play.redis.words("ACL SETUSER operator on nopass allkeys allchannels +@all");
        play.redis.log_in("operator");
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
        // What a rest in between has taken.
        let mut shift = Duration::ZERO;
        for action in &plan.actions {
            if !self.until(action.at + shift) {
                return;
            }
            let before = self.executor.now();
            self.act(action);
            shift += self.executor.now() - before;
            if !self.wrong.is_empty() {
                return;
            }
        }
        let end = Duration::from_secs(2) + self.settings.length;
        if self.until(end + shift) {
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
            if self.executor.now() >= self.look_at {
                self.look_at = self.executor.now() + LOOK;
                self.look_at_statuses();
            }
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
        self.cut_for_good(process);
        self.start_later(machine);
    }

    /// A process has ended: nobody closes its sessions, so they expire.
    pub(crate) fn cut_for_good(&mut self, process: ProcessId) {
        self.servers.cut(process);
        for opened in self.ensembles.sessions_of(process) {
            self.later(opened.timeout, Later::ExpireSessions(process));
        }
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
                self.note_thaw(process);
                self.tell(format!("process {process} goes on"));
            }
            Later::Open(process, store) => self.open_way(process, store),
            Later::Start(machine) => {
                self.machines[machine].start(&self.files, &self.executor, &self.ensembles, &self.servers);
                if let Some(process) = self.process(machine) {
                    self.guarded.started.entry(process).or_insert(self.executor.now());
                }
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
            Later::Over(what) => self.is_over(what),
            Later::Space(machine) => self.machines[machine].disk.set_space(None),
        }
    }

    pub(crate) fn open_way(&mut self, process: ProcessId, store: Store) {
        self.network.set_way(process, store, Way::Open);
        self.note_way(process, store, Way::Open);
        if store == Store::Zookeeper {
            for opened in self.ensembles.sessions_of(process) {
                self.ensemble.cut_off(opened.session, false);
                // What waited for a connection is done now.
                self.truth.look(Author::Worker(process), self.executor.now());
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
                let process = self.process(number);
                self.machines[number].kill(&self.executor);
                // It could not close its session where the ensemble was out of reach.
                process.into_iter().for_each(|process| self.cut_for_good(process));
                self.start_later(number);
            }
        }
    }

    pub(crate) fn look(&self, by: Author) {
        self.truth.forget();
        self.truth.look(by, self.executor.now());
    }

    fn outcome(mut self) -> Outcome {
        let simulated = self.executor.now();
        let pairs = self.truth.pairs();
        if self.wrong.is_empty() {
            let disks: Vec<VolatileDisk> = self.machines.iter().map(|machine| machine.disk.clone()).collect();
            let (owners, excused) = (self.owners(), self.need_no_record());
            self.machines.iter_mut().for_each(|machine| machine.kill_all(&self.executor));
            let records = streams::records(&disks, self.settings.pipelines());
            self.wrong.extend(judge::newest_records(&pairs, &records, &owners, &excused, &self.settings));
            self.wrong.extend(self.truth.accused());
            self.wrong.extend(self.guarded.judge(&pairs, &self.settings));
            let (wrong, recreated) = judge::judge(&pairs, &records, &self.settings);
            self.wrong.extend(wrong);
            let messages = self.truth.published();
            messages.iter().for_each(|_| self.mark("redis: published"));
            let machines = self
                .machines
                .iter()
                .flat_map(|machine| machine.processes.iter().map(|process| (*process, machine.number)));
            let of = (self.truth.ownerships(), &self.settings);
            let (wrong, excused) = published::judge(&messages, &pairs, &records, &machines.collect(), (&of.0, of.1));
            self.wrong.extend(wrong);
            excused.iter().for_each(|why| self.mark(&format!("excused: {why}")));
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
            lines: self.lines.count(),
            requests: self.network.requests().values().sum(),
            told: self.told,
        }
    }
}

/// An application's session, which is with the double itself.
pub(crate) fn open(ensemble: &DoubleEnsemble) -> Arc<dyn Session> {
    let application = Password::new("app:app".to_owned(), || Ok("app:app".to_owned()));
    let access = Access {
        connect: "double:2181".to_owned(),
        session_timeout: Duration::from_secs(3600),
        digest: Some(application),
    };
    let opened = ensemble.open(&access).now_or_never().and_then(Result::ok);
    opened.expect("a double opens a session at once")
}
