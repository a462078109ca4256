//! Rights that are taken from the workers and given back: of a user of Redis, and to znodes. Some stay taken until all else is at rest: then
//! the pairs that they concern may differ, in quarantine and with the reason; all others may not.

use crate::draws::Draws;
use crate::play::Play;
use crate::settings::Settings;
use crate::stores::{Fault, Over};
use keepstep_doubles::zookeeper::Right as Entry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The application's own entry of an ACL, `app:app`: what is taken is taken from the workers.
const APPLICATION: &str = "app:CilUEVajDvuSPWonIbYyu+xyLbY=";

/// What is taken at a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    Read,
    Write,
    Create,
    Delete,
    All,
}

impl Right {
    fn bits(self) -> u8 {
        match self {
            Right::Read => 1,
            Right::Write => 2,
            Right::Create => 4,
            Right::Delete => 8,
            Right::All => 31,
        }
    }
}

/// What a user of Redis may lose. Not PUBLISH: then changes are written and not published, as is logged.
const COMMANDS: [&str; 19] = [
    "get",
    "set",
    "strlen",
    "type",
    "pexpiretime",
    "del",
    "hmget",
    "hkeys",
    "evalsha",
    "script|load",
    "info",
    "scan",
    "time",
    "config|get",
    "client|tracking",
    "psubscribe",
    "sadd",
    "hset",
    "hdel",
];

/// What is taken just now, each with whether it stays so until all else is at rest.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    commands: Vec<String>,
    keys: Vec<(usize, bool)>,
    znodes: Vec<(String, Right, bool)>,
    /// Keys of the pairs that lack a right until all else is at rest.
    pub(crate) staying: BTreeSet<Vec<u8>>,
    /// And those that did: what became of their keys meanwhile nobody could look at.
    pub(crate) stayed: BTreeSet<Vec<u8>>,
    /// `quarantine drop` was called: pairs that lack a right may not be listed.
    pub(crate) has_dropped: bool,
}

impl Fault {
    /// Takes a right.
    pub(crate) fn taking(draws: Draws, settings: &Settings) -> Fault {
        let draws = draws.named("taking");
        let pair = draws.below(0, (settings.pairs * settings.routes.len()) as u64) as usize;
        let stays = draws.happens(1, 0.4);
        let right = draws.one(2, &[Right::Read, Right::Write, Right::All]);
        let of_parent = draws.one(3, &[Right::Create, Right::Delete, Right::Read, Right::All]);
        match draws.below(4, 10) {
            0..3 => Fault::TakesCommand { command: draws.one(5, &COMMANDS).to_owned() },
            3..6 => Fault::TakesKey { pair, stays },
            6..9 => Fault::TakesZnode { pair, right, stays },
            _ => Fault::TakesParent { pair, right: of_parent, stays },
        }
    }
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or("/", |(parent, _)| parent).to_owned()
}

/// The key of a pair, and those of the znodes above it: each of them is a pair.
fn with_above(key: &str) -> Vec<String> {
    let above = key.match_indices(':').map(|(at, _)| key.get(..at).unwrap_or_default().to_owned());
    above.skip(1).chain(std::iter::once(key.to_owned())).collect()
}

impl Play {
    /// Pairs of which the workers lack a right until all else is at rest.
    fn stay(&mut self, is_meant: impl Fn(usize, &str) -> bool) {
        for pair in 0..self.settings.pairs * self.settings.routes.len() {
            let (path, key) = self.settings.names(pair);
            if is_meant(pair, &path) {
                self.rights.staying.insert(key);
            }
        }
    }

    /// Takes a right, and says what gives it back; `None`: nothing does before all else is at rest.
    pub(crate) fn take(&mut self, fault: &Fault) -> Option<Over> {
        match *fault {
            Fault::TakesCommand { ref command } => {
                self.rights.commands.push(command.clone());
                self.set_user();
                Some(Over::Command(command.clone()))
            }
            Fault::TakesKey { pair, stays } => {
                self.rights.keys.push((pair, stays));
                self.set_user();
                if stays {
                    self.stay(|other, _| other == pair);
                }
                (!stays).then_some(Over::Key(pair))
            }
            Fault::TakesZnode { pair, right, stays } => {
                let (path, _) = self.settings.names(pair);
                if stays {
                    self.stay(|other, _| other == pair);
                }
                self.take_at(path, right, stays)
            }
            Fault::TakesParent { pair, right, stays } => {
                let path = parent(&self.settings.names(pair).0);
                if stays {
                    let below = format!("{path}/");
                    self.stay(|_, path| path.starts_with(&below));
                    // It is a pair as well.
                    self.rights.staying.insert(path.trim_start_matches('/').replace('/', ":").into_bytes());
                }
                self.take_at(path, right, stays)
            }
            _ => None,
        }
    }

    /// Whether the workers lack a right to it just now.
    pub(crate) fn lacks_right(&self, path: &str) -> bool {
        self.rights.znodes.iter().any(|(own, ..)| own == path)
    }

    fn take_at(&mut self, path: String, right: Right, stays: bool) -> Option<Over> {
        self.rights.znodes.push((path.clone(), right, stays));
        self.give(&path);
        (!stays).then_some(Over::Znode(path, right))
    }

    /// Gives a znode the ACL that it has now.
    fn give(&self, path: &str) {
        let taken = self.rights.znodes.iter().filter(|(own, ..)| own == path);
        let taken = taken.fold(0, |taken, (_, right, _)| taken | right.bits());
        let everybody = Entry { permissions: 31 & !taken, ..Entry::open() };
        let application = Entry { permissions: 31, scheme: "digest".to_owned(), id: APPLICATION.to_owned() };
        let all = if taken == 0 { vec![everybody] } else { vec![everybody, application] };
        self.ensemble.give(path, all.into_iter().filter(|entry| entry.permissions != 0).collect());
    }

    /// What a worker has created below a znode of which it lacked a right has the same ACL.
    fn give_below(&self, above: &str) {
        let below = format!("{}/", above.trim_end_matches('/'));
        let is_open = |acl: &[Entry]| acl.iter().any(|entry| *entry == Entry::open());
        let paths = self.ensemble.look(|ensemble| {
            let all = ensemble.tree().all().filter(|(path, znode)| path.starts_with(&below) && !is_open(&znode.acl));
            all.map(|(path, _)| path.to_owned()).collect::<Vec<_>>()
        });
        paths.iter().filter(|path| !self.lacks_right(path)).for_each(|path| self.give(path));
    }

    /// The user of the workers, as it is now.
    fn set_user(&self) {
        let mut rules = vec!["allchannels".to_owned(), "+@all".to_owned()];
        rules.extend(self.rights.commands.iter().map(|command| format!("-{command}")));
        if self.rights.keys.is_empty() {
            rules.push("allkeys".to_owned());
        } else {
            rules.extend(["resetkeys", "~_keepstep:*"].map(str::to_owned));
            let pairs = 0..self.settings.pairs * self.settings.routes.len();
            let key = |pair: usize| String::from_utf8_lossy(&self.settings.names(pair).1).into_owned();
            let taken: Vec<String> = self.rights.keys.iter().map(|(pair, _)| key(*pair)).collect();
            let allowed: BTreeSet<String> = pairs.flat_map(|pair| with_above(&key(pair))).collect();
            rules.extend(allowed.iter().filter(|key| !taken.contains(key)).map(|key| format!("~{key}")));
        }
        let mut words: Vec<&[u8]> = vec![b"ACL", b"SETUSER", b"default"];
        words.extend(rules.iter().map(|rule| rule.as_bytes()));
        let _ = self.redis.run(&words);
    }

    pub(crate) fn give_back(&mut self, what: Over) {
        fn without<T: PartialEq>(all: &mut Vec<T>, one: &T) {
            if let Some(at) = all.iter().position(|own| own == one) {
                all.swap_remove(at);
            }
        }
        match what {
            Over::Command(command) => without(&mut self.rights.commands, &command),
            Over::Key(pair) => without(&mut self.rights.keys, &(pair, false)),
            Over::Znode(path, right) => {
                without(&mut self.rights.znodes, &(path.clone(), right, false));
                self.give(&path);
                self.give_below(&path);
            }
            _ => {}
        }
        self.set_user();
    }

    /// What does not stay is given back; `all`: what stays as well.
    pub(crate) fn heal_rights(&mut self, all: bool) {
        self.rights.commands.clear();
        self.rights.keys.retain(|(_, stays)| *stays && !all);
        let taken = self.rights.znodes.clone();
        self.rights.znodes.retain(|(.., stays)| *stays && !all);
        taken.iter().for_each(|(path, ..)| self.give(path));
        self.give_below("/");
        self.set_user();
        if all {
            self.rights.stayed.append(&mut self.rights.staying);
        }
    }
}
