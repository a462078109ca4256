//! What each action of a plan does: to the stores as an application or a fault would, to machines and workers, to the network.

use crate::network::{Store, Way};
use crate::play::{Later, Play, everybody, open};
use crate::settings::TOO_LARGE;
use crate::stores::Over;
use crate::truth::Author;
use crate::what::{Action, Copied, Side, Unheard, What};
use futures::FutureExt as _;
use keepstep::store::zookeeper::session::CreateMode;
use keepstep_doubles::redis::server;
use keepstep_doubles::zookeeper::Lag;
use std::time::Duration;

impl Play {
    pub(crate) fn act(&mut self, action: &Action) {
        self.tell(format!("{:?}", action.what));
        match action.what {
            What::Set { side, pair, value } => self.set(side, pair, value),
            What::Delete { side: Side::Zookeeper, pair } => {
                let (path, _) = self.settings.names(pair);
                let _ = self.application.delete(&path, None).now_or_never();
                self.look(Author::Application);
            }
            What::Delete { side: Side::Redis, pair } => {
                let (_, key) = self.settings.names(pair);
                self.redis_run(&[b"DEL", &key]);
                self.look(Author::Application);
            }
            What::Expire { pair, ms } => {
                let (_, key) = self.settings.names(pair);
                self.redis_run(&[b"PEXPIRE", &key, ms.to_string().as_bytes()]);
                self.look(Author::Application);
            }
            What::Kill { worker } => self.kill(worker, |machine, executor| machine.kill(executor)),
            What::KillAtPoll { worker, polls } => {
                if let Some(process) = self.process(worker) {
                    self.executor.kill_after(process, polls);
                }
            }
            What::KillAtDisk { worker, operations } => self.machines[worker].disk.kill_after(operations),
            What::StartAgain { worker, frozen_ms, ends_after_ms, is_killed } => {
                self.start_again(worker, frozen_ms, ends_after_ms.map(|ms| (ms, is_killed)));
            }
            What::Files { worker, ref runs } => self.run_others(worker, runs.clone()),
            What::Stop { worker } => {
                self.machines[worker].worker.iter().for_each(|worker| worker.stop(&self.executor));
            }
            What::PowerLoss { worker } => {
                self.mark("machine: lost its power");
                self.kill_commands(|command| command.machine == worker);
                self.end_all_former(worker);
                self.kill(worker, |machine, executor| machine.lose_power(executor));
            }
            What::Freeze { worker, ms } => {
                let Some(process) = self.process(worker) else { return };
                self.mark("worker: frozen");
                self.executor.freeze(process, true);
                self.later(self.settings.session_timeout, Later::ExpireSessions(process));
                self.later(Duration::from_millis(ms), Later::Thaw(process));
            }
            What::Cut { worker, store } => self.cut(worker, store),
            What::Close { worker, store, way, ms } => {
                let Some(process) = self.process(worker) else { return };
                self.network.set_way(process, store, way);
                self.note_way(process, store, way);
                if store == Store::Zookeeper {
                    for opened in self.ensembles.sessions_of(process) {
                        self.ensemble.cut_off(opened.session, true);
                    }
                    self.later(self.settings.session_timeout, Later::ExpireSessions(process));
                    self.later(self.settings.session_timeout, Later::GiveUp(process));
                } else if way == Way::Refused {
                    self.servers.cut(process);
                }
                self.mark(match way {
                    Way::Silent => "network: silent",
                    _ => "network: refused",
                });
                self.later(Duration::from_millis(ms), Later::Open(process, store));
            }
            What::ExpireSessions { worker, which } => {
                if let Some(process) = self.process(worker) {
                    self.expire_sessions(process, which);
                }
            }
            What::StepClock { worker, ms } => {
                self.mark("machine: clock stepped");
                self.machines[worker].clock_ms += ms;
                let workers = self.machines[worker].workers();
                workers.for_each(|worker| self.executor.step_clock(worker.process, ms));
            }
            What::FullDisk { worker, ms } => {
                self.mark("disk: full");
                self.machines[worker].disk.set_space(Some(0));
                self.later(Duration::from_millis(ms), Later::Space(worker));
            }
            What::RefuseSync { worker } => {
                self.mark("disk: sync refused");
                self.machines[worker].disk.refuse_next_sync();
            }
            What::FlushRedis => {
                self.mark("redis: flushed");
                self.redis_run(&[b"FLUSHALL"]);
                self.lost_redis();
                self.look(Author::Loss);
            }
            What::RestartRedis { with } => self.restart_redis(with),
            What::CopyRedis => self.copy_of_redis = Some(self.redis.look(server::Server::copy)),
            What::EvictKey { pair } => {
                self.mark("redis: evicted");
                let (_, key) = self.settings.names(pair);
                self.redis.with(|server| server.evict(0, &key));
                self.lost_redis();
                self.look(Author::Loss);
            }
            What::SwapDatabases => {
                self.mark("redis: databases swapped");
                self.redis_run(&[b"SWAPDB", b"0", b"1"]);
                self.lost_redis();
                self.look(Author::Loss);
            }
            What::ResetStatistics => {
                self.mark("redis: statistics reset");
                self.is_reset = true;
                self.redis_run(&[b"CONFIG", b"RESETSTAT"]);
            }
            What::Lag { server, ms } => {
                self.mark("zookeeper: a server lags");
                self.ensemble.lag(server, Lag::UntilAsked);
                self.later(Duration::from_millis(ms), Later::CatchUp(server));
            }
            What::CopyEnsemble => self.copy_of_ensemble = Some(self.ensemble.copy()),
            What::RestoreEnsemble { with } => self.restore_ensemble(with),
            What::Operate { worker, pipeline, ref operation, polls } => {
                self.operate(worker, pipeline, operation, polls);
            }
            What::Store { ref fault, ms } => self.befall(fault, ms),
            What::Rest => self.rest_in_between(),
            What::Depose => self.depose(),
            What::Unheard { worker, pair, happens, ms } => self.unheard(worker, pair, happens, ms),
            What::Fill { side, route, value } => {
                for pair in 0..self.settings.pairs {
                    self.set(side, route * self.settings.pairs + pair, value + pair as u64);
                }
            }
            What::DeleteUnseen { side, route, first, count } => {
                for machine in 0..self.machines.len() {
                    self.kill(machine, |machine, executor| machine.kill(executor));
                }
                let now = self.executor.now();
                let begin = route * self.settings.pairs + first;
                for pair in begin..begin + count {
                    self.act(&Action { at: now, what: What::Delete { side, pair } });
                    if self.truth.was_changed_at(pair, side == Side::Redis, now) {
                        self.guarded.delete(pair, side, now);
                    }
                }
                self.mark("application: deleted in mass, unseen");
            }
            What::SetHash { pair, value } => {
                let (_, key) = self.settings.names(pair);
                self.redis_run(&[b"DEL", &key]);
                self.look(Author::Application);
                self.redis_run(&[b"HSET", &key, b"field", &self.settings.value(value)]);
                self.look(Author::Application);
                self.mark("application: a key of another type");
            }
            What::Name { route, name, is_there } => {
                let key = name.key(route);
                let words: &[&[u8]] = if is_there { &[b"SET", &key, b"odd"] } else { &[b"DEL", &key] };
                self.redis_run(words);
                self.mark("application: a name that no znode can have");
            }
        }
    }

    fn depose(&self) {
        let line = "/_keepstep/sim/election";
        let names = self.application.children(line).now_or_never().and_then(Result::ok).unwrap_or_default();
        let Some(first) = names.iter().min() else { return };
        let _ = self.application.delete(&format!("{line}/{first}"), None).now_or_never();
        self.mark(if names.len() > 1 { "operator: deposed the owner" } else { "operator: deposed the only worker" });
    }

    fn unheard(&mut self, worker: usize, pair: usize, happens: Unheard, ms: u64) {
        let (_, key) = self.settings.names(pair);
        let at = self.executor.now();
        self.act(&Action { at, what: What::Close { worker, store: Store::Redis, way: Way::Refused, ms } });
        match happens {
            Unheard::Evicted => self.act(&Action { at, what: What::EvictKey { pair } }),
            Unheard::Deleted => self.act(&Action { at, what: What::Delete { side: Side::Redis, pair } }),
            Unheard::Restarted => {
                self.redis_run(&[b"DEL", &key]);
                self.look(Author::Application);
                self.act(&Action { at, what: What::RestartRedis { with: Copied::Now } });
            }
        }
        self.mark("redis: something happened unheard");
    }

    /// The worker of a machine stops, and the next one runs these pipelines.
    pub(crate) fn run_others(&mut self, machine: usize, runs: Vec<usize>) {
        self.mark("worker: other files");
        let machine = &mut self.machines[machine];
        machine.runs = runs;
        machine.worker.iter().for_each(|worker| worker.stop(&self.executor));
    }

    fn redis_run(&self, words: &[&[u8]]) {
        self.redis.set_clock(keepstep::env::unix_ms());
        let _ = self.redis.run(words);
    }

    fn set(&mut self, side: Side, pair: usize, value: u64) {
        let (path, key) = self.settings.names(pair);
        let data = self.settings.value(value);
        if value >= TOO_LARGE {
            self.mark("application: a value that is too large");
        }
        match side {
            Side::Redis => self.redis_run(&[b"SET", &key, &data]),
            Side::Zookeeper => {
                let is_set = matches!(self.application.set(&path, &data, None).now_or_never(), Some(Ok(_)));
                if !is_set {
                    self.make_ancestors(&path);
                    let _ = self.application.create(&path, &data, CreateMode::Persistent, &everybody()).now_or_never();
                }
            }
        }
        self.look(Author::Application);
    }

    pub(crate) fn make_ancestors(&self, path: &str) {
        let mut above = 0;
        while let Some(at) = path.get(above + 1..).and_then(|rest| rest.find('/')) {
            above += 1 + at;
            let parent = path.get(..above).unwrap_or_default();
            let _ = self.application.create(parent, b"", CreateMode::Persistent, &everybody()).now_or_never();
        }
    }

    fn cut(&mut self, worker: usize, store: Store) {
        let Some(process) = self.process(worker) else { return };
        match store {
            Store::Zookeeper => {
                self.ensembles.sessions_of(process).iter().for_each(|opened| self.ensemble.cut(opened.session));
            }
            Store::Redis => self.servers.cut(process),
        }
        self.mark(match store {
            Store::Zookeeper => "zookeeper: cut",
            Store::Redis => "redis: cut",
        });
    }

    fn lost_redis(&self) {
        self.truth.lost(1, self.executor.now());
        self.servers.forget_epochs();
    }

    fn restart_redis(&mut self, with: Copied) {
        let copy = match with {
            Copied::Now => Some(self.redis.look(server::Server::copy)),
            Copied::Older => self.copy_of_redis.clone(),
            Copied::Nothing => None,
        };
        self.mark(match with {
            Copied::Now => "redis: restarted",
            Copied::Older if copy.is_some() => "redis: restarted with an older copy",
            _ => "redis: restarted empty",
        });
        self.redis.with(|server| server.restart(copy));
        self.lost_redis();
        self.look(Author::Loss);
    }

    fn restore_ensemble(&mut self, with: Copied) {
        let copy = if with == Copied::Nothing { None } else { self.copy_of_ensemble.clone() };
        if with != Copied::Nothing && copy.is_none() {
            return;
        }
        self.mark(if copy.is_some() { "zookeeper: restored from a copy" } else { "zookeeper: emptied" });
        self.ensemble.restore(copy, true);
        self.truth.lost(0, self.executor.now());
        self.application = open(&self.ensemble);
        self.look(Author::Loss);
        self.make_roots();
        self.look(Author::Loss);
        self.later(self.settings.session_timeout, Later::Over(Over::Forgotten));
    }
}
