//! Faults of the stores beside lost data and lost messages: what a Redis refuses for a time, a replica that takes the place of its primary,
//! what a server forgets about its clients.

use crate::draws::Draws;
use crate::executor::ProcessId;
use crate::play::{Later, Play};
use crate::rights::Right;
use crate::truth::Author;
use keepstep_doubles::redis::server::{Copy as Replica, Role, Server};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Why a Redis refuses commands for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    OutOfMemory,
    NoReplicas,
    /// It is made a replica, and then the primary again: with the data that it had.
    Replica,
    Loading,
    Busy,
    Unsaved,
}

impl Refusal {
    const ALL: [Refusal; 6] = [
        Refusal::OutOfMemory,
        Refusal::NoReplicas,
        Refusal::Replica,
        Refusal::Loading,
        Refusal::Busy,
        Refusal::Unsaved,
    ];

    /// What begins an answer of such a server.
    fn code(self) -> &'static str {
        match self {
            Refusal::OutOfMemory => "OOM",
            Refusal::NoReplicas => "NOREPLICAS",
            Refusal::Replica => "READONLY",
            Refusal::Loading => "LOADING",
            Refusal::Busy => "BUSY",
            Refusal::Unsaved => "MISCONF",
        }
    }

    fn set(self, server: &mut Server, is_on: bool) {
        let number = if is_on { "1" } else { "0" };
        match self {
            Refusal::OutOfMemory => server.configure("maxmemory", number),
            Refusal::NoReplicas => server.configure("min-replicas-to-write", number),
            Refusal::Replica => server.set_role(if is_on { Role::Replica } else { Role::Primary }),
            Refusal::Loading => server.is_loading = is_on,
            Refusal::Busy => server.is_busy = is_on,
            Refusal::Unsaved => server.is_unsaved = is_on,
        }
    }
}

/// What befalls a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    Refuses {
        why: Refusal,
    },
    /// A replica takes the place of the primary, without what was written since so long.
    FailsOver,
    FlushesScripts,
    SilencesNotifications,
    /// The user of the workers may not run this command.
    TakesCommand {
        command: String,
    },
    /// The workers lose a right to the key, or the znode, of a pair, or to the znode above.
    TakesKey {
        pair: usize,
        stays: bool,
    },
    TakesZnode {
        pair: usize,
        right: Right,
        stays: bool,
    },
    TakesParent {
        pair: usize,
        right: Right,
        stays: bool,
    },
    ChangesLeader,
    /// The ensemble has one server, and comes back with an older copy in the same epoch. No seed draws it yet.
    GoesBack,
    /// An application creates an ephemeral znode, whose session ends after so long.
    Ephemeral {
        pair: usize,
        value: u64,
    },
    /// An application gives the znode of a pair, or the one above, an ACL of so many entries.
    LongAcl {
        pair: usize,
        is_parent: bool,
        entries: usize,
    },
}

/// What ends a fault.
pub(crate) enum Over {
    Refusal(Refusal),
    FailsOver(Replica),
    /// With the changes that there were before.
    Notifications(u64),
    Command(String),
    Key(usize),
    Znode(String, Right),
    Stranded(ProcessId),
    Ephemeral(usize),
    /// Sessions of which a copy knows and nobody else.
    Forgotten,
}

/// Errors that a Redis answers for a time.
const CODES: [(&str, &str); 10] = [
    ("OOM", "redis: answered OOM"),
    ("NOREPLICAS", "redis: answered NOREPLICAS"),
    ("READONLY", "redis: answered READONLY"),
    ("LOADING", "redis: answered LOADING"),
    ("BUSY", "redis: answered BUSY"),
    ("MISCONF", "redis: answered MISCONF"),
    ("NOSCRIPT", "redis: answered NOSCRIPT"),
    ("NOPERM", "redis: answered NOPERM"),
    ("MASTERDOWN", "redis: answered MASTERDOWN"),
    ("TRYAGAIN", "redis: answered TRYAGAIN"),
];

/// How an error of a Redis is counted.
pub(crate) fn mark_of(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(own, _)| *own == code).map(|(_, mark)| *mark)
}

/// What a server, or what stands before it, answers to one command of many. `None`: it answers this command always.
pub(crate) fn refused_for_the_moment(name: &str, draws: Draws) -> Option<&'static str> {
    const TEXTS: [&str; 5] = [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ERR Script killed by user with SCRIPT KILL... script: 77841a2c, on @user_script:1.",
    ];
    let is_always = ["INFO", "CONFIG", "CLIENT", "PSUBSCRIBE", "PUNSUBSCRIBE", "HELLO"].contains(&name);
    let texts = if name == "EVALSHA" { &TEXTS[..] } else { &TEXTS[..3] };
    (!is_always).then(|| draws.named("refused").one(0, texts))
}

impl Fault {
    /// What a Redis refuses for a time.
    pub(crate) fn refusal(draws: Draws) -> Fault {
        Fault::Refuses { why: draws.named("refusal").one(0, &Refusal::ALL) }
    }

    /// What a Redis forgets about its clients.
    pub(crate) fn forgets(draws: Draws) -> Fault {
        if draws.named("forgets").happens(0, 0.5) { Fault::FlushesScripts } else { Fault::SilencesNotifications }
    }
}

impl Play {
    fn over(&mut self, ms: u64, what: Over) {
        self.later(Duration::from_millis(ms), Later::Over(what));
    }

    /// It begins, and is over after so long.
    pub(crate) fn befall(&mut self, fault: &Fault, ms: u64) {
        match *fault {
            Fault::Refuses { why } => {
                self.redis.with(|server| why.set(server, true));
                // What a replica holds is another's.
                self.is_reset |= why == Refusal::Replica;
                self.over(ms, Over::Refusal(why));
            }
            Fault::FailsOver => {
                let replica = self.redis.look(Server::copy);
                self.over(ms, Over::FailsOver(replica));
            }
            Fault::FlushesScripts => {
                self.redis.words("SCRIPT FLUSH");
                self.mark("redis: scripts flushed");
            }
            Fault::SilencesNotifications => {
                self.redis.with(|server| server.configure("notify-keyspace-events", ""));
                self.looks.silences += 1;
                let changes = self.redis.look(|server| server.changes);
                self.over(ms, Over::Notifications(changes));
            }
            Fault::ChangesLeader => self.change_leader(ms.min(3000)),
            Fault::GoesBack => self.go_back(),
            Fault::Ephemeral { pair, value } => {
                if let Some(over) = self.create_ephemeral(pair, value) {
                    self.over(ms, over);
                }
            }
            Fault::LongAcl { pair, is_parent, entries } => self.lengthen(pair, is_parent, entries),
            Fault::TakesCommand { .. }
            | Fault::TakesKey { .. }
            | Fault::TakesZnode { .. }
            | Fault::TakesParent { .. } => {
                if let Some(over) = self.take(fault) {
                    self.over(ms, over);
                }
            }
        }
    }

    pub(crate) fn is_over(&mut self, what: Over) {
        match what {
            Over::Refusal(why) => {
                self.redis.with(|server| why.set(server, false));
                self.tell(format!("the Redis does not answer {} any more", why.code()));
            }
            Over::FailsOver(replica) => {
                let states = self.truth.states();
                self.redis.with(|server| server.fail_over(replica));
                self.truth.lost(1, self.executor.now());
                self.servers.forget_epochs();
                self.look(Author::Loss);
                let has_lost = self.truth.states() != states;
                self.tell(format!(
                    "a replica takes the place of the Redis{}",
                    if has_lost { ", and lacks values" } else { "" }
                ));
                self.mark(if has_lost { "redis: failed over, values lost" } else { "redis: failed over" });
            }
            Over::Notifications(changes) => {
                self.looks.silences -= 1;
                if self.redis.look(|server| server.changes != changes) {
                    self.mark("redis: changed in silence");
                }
                self.redis.with(|server| server.configure("notify-keyspace-events", "AK"));
                self.tell("notifications are on again".to_owned());
            }
            Over::Stranded(process) => {
                for opened in self.ensembles.sessions_of(process) {
                    self.ensemble.give_up_stranded(opened.session);
                }
            }
            Over::Forgotten => {
                self.ensemble.expire_forgotten();
                let mut dead: BTreeSet<ProcessId> = self.ensembles.all().iter().map(|opened| opened.process).collect();
                dead.retain(|process| self.executor.is_dead(*process));
                dead.into_iter().for_each(|process| self.expire_sessions(process, u64::MAX));
                self.look(Author::Application);
            }
            Over::Ephemeral(number) => self.end_ephemeral(number),
            Over::Command(_) | Over::Key(_) | Over::Znode(..) => self.give_back(what),
        }
    }

    /// All that these faults have changed is as before.
    pub(crate) fn heal_stores(&mut self) {
        let pending: Vec<(Duration, u64)> =
            self.later.iter().filter(|(_, later)| matches!(later, Later::Over(_))).map(|(at, _)| *at).collect();
        for at in pending {
            if let Some(Later::Over(what)) = self.later.remove(&at) {
                self.is_over(what);
            }
        }
        for why in Refusal::ALL {
            // A promotion gives the history another name.
            if why != Refusal::Replica || self.redis.look(|server| server.role() == Role::Replica) {
                self.redis.with(|server| why.set(server, false));
            }
        }
        self.redis.with(|server| server.configure("notify-keyspace-events", "AK"));
    }
}
