//! Both sides compared, pair by pair, in bounded memory: what differs is looked at twice.
//!
//! ```text
//!   walk ZooKeeper, look at the keys  --\
//!   scan Redis for keys not met       ---+--> suspects --> wait until what was under way has landed --> look again
//! ```
//!
//! *No false alarms.* A change that is on its way makes its pair differ for a moment. So a suspect is looked at again once
//! everything that was known to be under way at the first look has been carried over ([`Settling`]). One whose sides
//! changed in between is in flux and stays a suspect; only what stands still and differs is told.

use super::hand::{Found, found_znode, look_keys};
use super::make::{Why, Wish};
use super::{HistoryError, Scope};
use crate::change::{Pair, Side};
use crate::pipeline::Route;
use crate::plan::{Ephemeral, Flow};
use crate::store::{Keyspace, Look, StoreError, Walk, Walked, ZnodeReading, Znodes};
use futures::future::BoxFuture;
use hashbrown::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Suspects that are gathered before they are looked at again: some megabytes of names.
const SUSPECTS: usize = 20_000;

/// Suspects of one second look, with both values: 64 of the largest pairs are 128 MB.
const SECOND: usize = 64;

/// Keys of one batch of the scan.
const SCAN: usize = 512;

/// Times that a pair in flux is looked at again.
const LOOKS: u8 = 6;

/// How a pair differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffState {
    /// The second store of the flow, or its destination, lacks it.
    Missing,
    /// The first store of the flow, or its source, lacks it.
    Extra,
    /// Both have it, and differ.
    Different,
    /// It is in quarantine, or cannot be compared for a reason that puts it there.
    Quarantined,
}

impl DiffState {
    /// As it is printed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            DiffState::Missing => "missing",
            DiffState::Extra => "extra",
            DiffState::Different => "different",
            DiffState::Quarantined => "quarantined",
        }
    }
}

/// A pair that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Index of its route.
    pub route: usize,
    /// The pair.
    pub pair: Pair,
    /// How it differs.
    pub state: DiffState,
    /// What ZooKeeper has.
    pub zookeeper: Found,
    /// What Redis has.
    pub redis: Found,
}

impl Difference {
    /// What makes the other side equal to this one.
    ///
    /// # Errors
    /// Why the preferred side has nothing that could be written: reason and detail.
    pub fn repaired(&self, prefer: Side, rule: &str) -> Result<Wish, (&'static str, String)> {
        let found = match prefer {
            Side::Zookeeper => &self.zookeeper,
            Side::Redis => &self.redis,
        };
        if let Found::Unfit(reason, detail) = found {
            return Err((reason, detail.clone()));
        }
        let (pair, value) = (self.pair.clone(), found.value().map(<[u8]>::to_vec));
        let why = Why::Asked(format!("the other store was preferred: {rule}"));
        Ok(Wish { route: self.route, pair, value, why, ephemeral: false })
    }
}

/// Knows what is under way between the stores.
pub trait Settling: Send + Sync {
    /// Resolves when whatever was under way at `since` has landed, as far as can be known, or when it takes too long.
    fn settled(&self, since: Instant) -> BoxFuture<'_, ()>;
}

/// Numbers of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that were looked at.
    pub pairs: u64,
    /// Pairs that changed at every look, so that nothing can be said of them.
    pub unsettled: u64,
}

struct Suspect {
    route: usize,
    pair: Pair,
    /// As last seen; `None`: this side was not looked at.
    zookeeper: Option<Found>,
    redis: Option<Found>,
    since: Instant,
    looks: u8,
    /// Neither side has ever changed between two looks.
    still: (bool, bool),
}

/// See the module.
pub struct Differ<'a> {
    scope: &'a Scope,
    znodes: Arc<dyn Znodes>,
    keys: Arc<dyn Keyspace>,
    settling: &'a dyn Settling,
    quarantined: HashSet<u64>,
    walk: Option<Box<dyn Walk>>,
    walked: Option<Vec<(usize, Pair, Found)>>,
    prefixes: VecDeque<Vec<u8>>,
    cursor: u64,
    met: HashSet<u64>,
    suspects: VecDeque<Suspect>,
    confirming: bool,
    told: VecDeque<Difference>,
    /// Numbers so far.
    pub numbers: Comparison,
}

impl<'a> Differ<'a> {
    /// A comparison that has not begun. `quarantined`: hashes ([`xxh3_64`]) of the keys that are in quarantine.
    pub fn new(
        scope: &'a Scope,
        (znodes, keys): (Arc<dyn Znodes>, Arc<dyn Keyspace>),
        settling: &'a dyn Settling,
        quarantined: HashSet<u64>,
    ) -> Differ<'a> {
        let walk = znodes.walk(scope.map.roots());
        Differ {
            scope,
            znodes,
            keys,
            settling,
            quarantined,
            walk: Some(walk),
            walked: None,
            prefixes: scope.map.key_prefixes().into(),
            cursor: 0,
            met: HashSet::new(),
            suspects: VecDeque::new(),
            confirming: false,
            told: VecDeque::new(),
            numbers: Comparison::default(),
        }
    }

    /// The next pairs that differ, perhaps none of them; `None` at the end.
    ///
    /// # Errors
    /// A store is away, or refuses.
    pub async fn next(&mut self) -> Result<Option<Vec<Difference>>, HistoryError> {
        let all_seen = self.walk.is_none() && self.walked.is_none() && self.prefixes.is_empty();
        if !self.told.is_empty() {
            return Ok(Some(self.told.drain(..).collect()));
        }
        if self.suspects.is_empty() {
            self.confirming = false;
            if all_seen {
                return Ok(None);
            }
        }
        if self.confirming || all_seen || self.suspects.len() >= SUSPECTS {
            self.confirming = true;
            return self.confirm().await.map(Some);
        }
        if self.walk.is_some() || self.walked.is_some() {
            self.step_znodes().await?;
        } else {
            self.step_keys().await?;
        }
        Ok(Some(Vec::new()))
    }

    /// Walks on, while the keys of what was walked before are looked at.
    async fn step_znodes(&mut self) -> Result<(), HistoryError> {
        let before = self.walked.take();
        let (walked, looked) = futures::join!(
            async {
                match &mut self.walk {
                    Some(walk) => Some((walk.next().await, walk.denied())),
                    None => None,
                }
            },
            look_beside(self.keys.as_ref(), before.as_deref())
        );
        for ((route, pair, znode), key) in before.into_iter().flatten().zip(looked?) {
            self.numbers.pairs += u64::from(znode.exists() || key != Found::Nothing);
            if self.compare(route, &pair, &znode, &key).is_some() {
                self.suspect(route, pair, Some(znode.bare()), Some(key.bare()));
            }
        }
        let Some((walked, denied)) = walked else { return Ok(()) };
        for (path, reason) in denied {
            let Some(mapped) = self.scope.map.of_path(&path).filter(|mapped| self.scope.takes(mapped)) else {
                continue;
            };
            if let Some(key) = &mapped.pair.redis {
                self.met.insert(xxh3_64(key));
            }
            self.told.push_back(Difference {
                route: mapped.route,
                pair: mapped.pair,
                state: DiffState::Quarantined,
                zookeeper: Found::Unfit("no_permission", reason),
                redis: Found::Nothing,
            });
        }
        match walked? {
            Some(walked) => self.walked = Some(self.take(walked)),
            None => self.walk = None,
        }
        Ok(())
    }

    fn take(&mut self, walked: Walked) -> Vec<(usize, Pair, Found)> {
        let mut taken = Vec::with_capacity(walked.len());
        for (path, data, stat) in walked {
            let Some(mapped) = self.scope.map.of_path(&path).filter(|mapped| self.scope.takes(mapped)) else {
                continue;
            };
            let Some(key) = &mapped.pair.redis else { continue };
            let is_captured =
                self.route(mapped.route).is_none_or(|route| matches!(route.policy.flow, Flow::Capture(_)));
            self.met.insert(xxh3_64(key));
            if !is_captured {
                taken.push((mapped.route, mapped.pair, found_znode(ZnodeReading::Present { data, stat })));
            }
        }
        taken
    }

    /// Scans on for keys that the walk did not meet.
    async fn step_keys(&mut self) -> Result<(), HistoryError> {
        let Some(prefix) = self.prefixes.front() else { return Ok(()) };
        let mut found = 0;
        while found < SCAN {
            let (next, keys) = self.keys.scan(self.cursor, prefix).await?;
            for key in keys {
                let Some(mapped) = self.scope.map.of_key(&key).filter(|mapped| self.scope.takes(mapped)) else {
                    continue;
                };
                let flow = self.scope.routes.get(mapped.route).map(|route| route.policy.flow);
                if mapped.pair.zookeeper.is_none() || matches!(flow, None | Some(Flow::Capture(_))) {
                    continue;
                }
                if self.met.insert(xxh3_64(&key)) {
                    self.numbers.pairs += 1;
                    found += 1;
                    self.suspects.push_back(Suspect {
                        route: mapped.route,
                        pair: mapped.pair,
                        zookeeper: Some(Found::Nothing),
                        redis: None,
                        since: Instant::now(),
                        looks: 1,
                        still: (true, true),
                    });
                }
            }
            self.cursor = next;
            if next == 0 {
                self.prefixes.pop_front();
                return Ok(());
            }
        }
        Ok(())
    }

    fn suspect(&mut self, route: usize, pair: Pair, zookeeper: Option<Found>, redis: Option<Found>) {
        let (since, still) = (Instant::now(), (true, true));
        self.suspects.push_back(Suspect { route, pair, zookeeper, redis, since, looks: 1, still });
    }

    fn route(&self, at: usize) -> Option<&Route> {
        self.scope.routes.get(at)
    }

    /// The second look at some suspects.
    async fn confirm(&mut self) -> Result<Vec<Difference>, HistoryError> {
        let count = self.suspects.len().min(SECOND);
        let some: Vec<Suspect> = self.suspects.drain(..count).collect();
        let Some(since) = some.iter().map(|suspect| suspect.since).max() else { return Ok(Vec::new()) };
        self.settling.settled(since).await;
        let looked = Instant::now();
        // ZooKeeper first: what is absent there is absent after `sync`.
        let paths: Vec<String> =
            some.iter().map(|suspect| suspect.pair.zookeeper.clone().unwrap_or_default()).collect();
        let znodes = self.znodes.read(&paths, Look::Synced).await?;
        let names: Vec<&[u8]> = some.iter().map(|suspect| suspect.pair.redis.as_deref().unwrap_or_default()).collect();
        let keys = look_keys(self.keys.as_ref(), &names, true).await?;
        let mut differ = Vec::new();
        for ((suspect, znode), key) in some.into_iter().zip(znodes).zip(keys) {
            let znode = found_znode(znode);
            let Some(state) = self.compare(suspect.route, &suspect.pair, &znode, &key) else { continue };
            let stood = |then: &Option<Found>, now: &Found| then.as_ref().is_none_or(|then| then.same(now));
            let (znode_stood, key_stood) = (stood(&suspect.zookeeper, &znode), stood(&suspect.redis, &key));
            let still = (suspect.still.0 && znode_stood, suspect.still.1 && key_stood);
            if znode_stood && key_stood || suspect.looks >= LOOKS && (still.0 || still.1) {
                let Suspect { route, pair, .. } = suspect;
                differ.push(Difference { route, pair, state, zookeeper: znode, redis: key });
            } else if suspect.looks >= LOOKS {
                self.numbers.unsettled += 1;
            } else {
                let (zookeeper, redis) = (Some(znode.bare()), Some(key.bare()));
                let looks = suspect.looks + 1;
                self.suspects.push_back(Suspect { zookeeper, redis, since: looked, looks, still, ..suspect });
            }
        }
        Ok(differ)
    }

    /// How a pair differs; `None` if it does not.
    fn compare(&self, route: usize, pair: &Pair, znode: &Found, key: &Found) -> Option<DiffState> {
        let flow = self.route(route)?.policy.flow;
        if znode.is_ephemeral() {
            let is_mapped = self.route(route)?.policy.ephemeral != Ephemeral::Skip;
            if !is_mapped || (!flow.leads_to(Side::Redis) && *key == Found::Nothing) {
                return None;
            }
        }
        let is_unfit = matches!(znode, Found::Unfit(..)) || matches!(key, Found::Unfit(..));
        let is_equal = match (znode, key) {
            (Found::Znode { data, .. }, Found::Key { .. }) => key.is(Some(data)),
            (znode, Found::Nothing) => !znode.exists(),
            _ => false,
        };
        if is_equal && !is_unfit {
            return None;
        }
        let is_listed = pair.redis.as_deref().is_some_and(|key| self.quarantined.contains(&xxh3_64(key)));
        if is_unfit || is_listed {
            return Some(DiffState::Quarantined);
        }
        let first = match flow {
            Flow::Both(first) | Flow::From(first) | Flow::Capture(first) => first,
        };
        let (has_first, has_second) = match first {
            Side::Zookeeper => (znode.exists(), key.exists()),
            Side::Redis => (key.exists(), znode.exists()),
        };
        Some(match (has_first, has_second) {
            (true, false) => DiffState::Missing,
            (false, true) => DiffState::Extra,
            _ => DiffState::Different,
        })
    }
}

/// The keys of what was walked.
async fn look_beside(keys: &dyn Keyspace, walked: Option<&[(usize, Pair, Found)]>) -> Result<Vec<Found>, StoreError> {
    let names: Vec<&[u8]> =
        walked.into_iter().flatten().map(|(_, pair, _)| pair.redis.as_deref().unwrap_or_default()).collect();
    if names.is_empty() { Ok(Vec::new()) } else { look_keys(keys, &names, false).await }
}
