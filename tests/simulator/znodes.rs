//! An ensemble with a new leader, or back at an older state in the same epoch; znodes of applications that are ephemeral or have long ACLs.

use crate::draws::Draws;
use crate::executor::ProcessId;
use crate::network::{Store, Way};
use crate::play::{Later, Play, everybody, open};
use crate::settings::{Flow, Settings};
use crate::stores::{Fault, Over};
use crate::truth::Author;
use futures::FutureExt as _;
use keepstep::store::zookeeper::session::{CreateMode, Session};
use keepstep_doubles::zookeeper::Right as Entry;
use std::sync::Arc;
use std::time::Duration;

/// An ACL has at most so many entries: 45 bytes each, so that some creates of one request are larger than a server takes.
const ENTRIES_MAX: f64 = 2000.0;

/// The application's sessions that have ephemeral znodes.
#[derive(Default)]
pub(crate) struct Ephemerals(Vec<Option<Arc<dyn Session>>>);

impl Fault {
    /// A znode as some applications make them.
    pub(crate) fn of_znode(draws: Draws, settings: &Settings) -> Fault {
        let draws = draws.named("znode");
        let pair = draws.below(0, (settings.pairs * settings.routes.len()) as u64) as usize;
        let is_parent = draws.happens(1, 0.5);
        let entries = draws.log_uniform(2, 10.0, ENTRIES_MAX) as usize;
        // Above those of the load.
        let value = 1_000_000 + draws.below(3, 1_000_000_000);
        if draws.happens(4, 0.5) {
            Fault::LongAcl { pair, is_parent, entries }
        } else {
            Fault::Ephemeral { pair, value }
        }
    }
}

impl Play {
    /// Another leader: zxids go on in a new epoch, nothing is lost, connections are cut, and no server gives a session while it is elected.
    pub(crate) fn change_leader(&mut self, ms: u64) {
        let place = self.draws.named("place").below(self.count, self.settings.servers as u64);
        self.ensemble.connect_to(place as usize);
        self.cut_all_off(ms);
        let copy = self.ensemble.copy();
        self.ensemble.restore(Some(copy), true);
        self.mark("zookeeper: the leader changed");
        self.look(Author::Application);
    }

    /// A single server comes back with an older copy, in the epoch that it had: zxids are given a second time.
    pub(crate) fn go_back(&mut self) {
        let Some(copy) = self.copy_of_ensemble.clone() else { return };
        self.mark("zookeeper: restored in the same epoch");
        self.cut_all_off(100);
        self.ensemble.restore(Some(copy), false);
        self.truth.lost(0, self.executor.now());
        self.application = open(&self.ensemble);
        self.look(Author::Loss);
        self.make_roots();
        self.look(Author::Loss);
        // A client that has seen more than there is now finds no server for its session.
        for process in self.processes() {
            self.later(self.settings.session_timeout, Later::Over(Over::Stranded(process)));
        }
        self.later(self.settings.session_timeout, Later::Over(Over::Forgotten));
    }

    fn processes(&self) -> Vec<ProcessId> {
        (0..self.machines.len()).filter_map(|machine| self.process(machine)).collect()
    }

    fn cut_all_off(&mut self, ms: u64) {
        for process in self.processes() {
            if self.network.way(process, Store::Zookeeper) != Way::Open {
                continue;
            }
            self.network.set_way(process, Store::Zookeeper, Way::Refused);
            for opened in self.ensembles.sessions_of(process) {
                self.ensemble.cut_off(opened.session, true);
            }
            self.later(Duration::from_millis(ms + process as u64), Later::Open(process, Store::Zookeeper));
        }
    }

    /// An application creates an ephemeral znode, where there is none.
    pub(crate) fn create_ephemeral(&mut self, pair: usize, value: u64) -> Option<Over> {
        let (path, _) = self.settings.names(pair);
        let session = open(&self.ensemble);
        self.make_ancestors(&path);
        if self.settings.routes[pair / self.settings.pairs].flow == Flow::ToZookeeper {
            // In the place of what the worker has written.
            let _ = self.application.delete(&path, None).now_or_never();
            self.look(Author::Application);
        }
        let data = self.settings.value(value);
        let created = session.create(&path, &data, CreateMode::Ephemeral, &everybody()).now_or_never();
        let is_created = matches!(created, Some(Ok(_)));
        if is_created {
            self.mark("zookeeper: ephemeral created");
            self.ephemerals.0.push(Some(session));
        }
        self.look(Author::Application);
        is_created.then(|| Over::Ephemeral(self.ephemerals.0.len() - 1))
    }

    pub(crate) fn end_ephemeral(&mut self, number: usize) {
        let states = self.truth.states();
        self.ephemerals.0[number] = None;
        self.look(Author::Application);
        if self.truth.states() != states {
            self.mark("zookeeper: ephemeral gone");
        }
    }

    /// An application gives a znode an ACL of many entries; what is created below it has the same, by `acl: parent`.
    pub(crate) fn lengthen(&mut self, pair: usize, is_parent: bool, entries: usize) {
        let (path, _) = self.settings.names(pair);
        let path = if is_parent { path.rsplit_once('/').map_or("/", |(parent, _)| parent).to_owned() } else { path };
        if self.ensemble.stat(&path).is_none() || self.lacks_right(&path) {
            return;
        }
        let entry = |n: usize| Entry {
            permissions: 1,
            scheme: "digest".to_owned(),
            id: format!("u{n}:CilUEVajDvuSPWonIbYyu+xyLbY="),
        };
        self.ensemble.give(&path, std::iter::once(Entry::open()).chain((0..entries).map(entry)).collect());
        self.mark("zookeeper: long ACL");
    }
}
