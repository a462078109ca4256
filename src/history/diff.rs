//! Compares both sides pair by pair, and checks each difference twice. Memory grows with the number
//! of names (8 bytes each), never with values.
//!
//! ```text
//!   walk ZooKeeper, look at the keys,   --\
//!     and scan Redis beside it             +--> suspects --> wait for the changes in flight --> look again
//! ```
//!
//! *No false alarms.* A change in flight makes its pair differ for a moment. So a suspect is looked
//! at again after all changes that were in flight at the first look have finished ([`InFlight`]). A
//! pair that changed in between stays a suspect; only a pair that differs and has not changed is
//! reported.

use super::client::{Found, found_znode, look_keys};
use super::restore::{Cause, DesiredState, Outcome, foresee};
use super::scan::KeyScan;
use super::scope::{HistoryError, Scope};
use crate::change::{KeyedHash, Pair, Side};
use crate::env::{Instant, Set};
use crate::failpoint::planted;
use crate::pipeline::Route;
use crate::plan::{Ephemeral, Flow};
use crate::route::Mapped;
use crate::store::{Keyspace, Look, StoreError, Walk, Walked, ZnodeOp, ZnodeReading, Znodes, one_for_one};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::VecDeque;
use std::sync::Arc;

/// Suspects that are collected before the second look: some megabytes of names.
const SUSPECTS: usize = 20_000;

/// Suspects in one second look, with both values: 64 of the largest pairs are 128 MB.
const SECOND: usize = 64;

/// Keys of one batch of the scan.
const SCAN: usize = 512;

/// Looks at keys in flight during the walk, and the scan beside them: enough that none waits for
/// another.
const UNDER_WAY: usize = 5;

/// How often a pair that keeps changing is looked at.
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
    /// It is in quarantine, or cannot be compared for a reason of the quarantine.
    Quarantined,
}

impl DiffState {
    /// The word in the output.
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

/// A pair whose sides differ.
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
    /// What this side has.
    #[must_use]
    pub fn found(&self, side: Side) -> &Found {
        match side {
            Side::Zookeeper => &self.zookeeper,
            Side::Redis => &self.redis,
        }
    }

    /// The state that makes the other side equal to the preferred one. `reason`: for the conflict log.
    ///
    /// # Errors
    /// The preferred side has no value that could be written: reason and detail.
    pub fn repaired(&self, prefer: Side, reason: &str) -> Result<DesiredState, (&'static str, String)> {
        let found = self.found(prefer);
        if let Found::Unsupported(reason, detail) = found {
            return Err((reason, detail.clone()));
        }
        let (pair, value) = (self.pair.clone(), found.value().map(<[u8]>::to_vec));
        let cause = Cause::Command(reason.to_owned());
        Ok(DesiredState { route: self.route, pair, value, cause, ephemeral: false })
    }

    /// What a repair would do, if neither side changes before.
    #[must_use]
    pub fn repair_outcome(&self, prefer: Side) -> Outcome {
        match self.repaired(prefer, "") {
            Ok(desired) => foresee(&desired, self.found(prefer.other()), false),
            Err((reason, detail)) => Outcome::Failed(reason, detail),
        }
    }
}

/// Knows the changes in flight between the stores.
pub trait InFlight: Send + Sync {
    /// Resolves when the changes that were in flight at `since` have finished, as far as can be
    /// known, or when that takes too long. May be cancelled.
    fn landed(&self, since: Instant) -> BoxFuture<'_, ()>;
}

/// Numbers of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that were looked at.
    pub pairs: u64,
    /// Pairs that changed at every look, so that they could not be compared.
    pub unsettled: u64,
    /// Znodes that are no pairs and may not be read, although pairs may be below them.
    pub unreadable: u64,
}

/// How many of these znodes are listed. The others are counted.
const UNREADABLE_LISTED: usize = 100;

/// A znode that is no pair and may not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableZnode {
    /// Index of the first route that has pairs below it.
    pub route: usize,
    /// Its path.
    pub path: String,
    /// The reason.
    pub reason: String,
}

struct Suspect {
    route: usize,
    pair: Pair,
    /// The last state seen; `None`: this side was not looked at.
    zookeeper: Option<Found>,
    redis: Option<Found>,
    since: Instant,
    looks: u8,
    /// For each side: it has never changed between two looks.
    still: (bool, bool),
}

/// The result of a task beside the walk.
enum Finished {
    /// Znodes with their keys.
    Looked(Vec<(usize, Pair, Found, Found)>),
    /// All keys that are compared.
    Scanned(Set<KeyedHash>),
}

/// See the module.
pub struct Differ<'a> {
    scope: &'a Scope,
    znodes: Arc<dyn Znodes>,
    keys: Arc<dyn Keyspace>,
    in_flight: &'a dyn InFlight,
    quarantined: Set<KeyedHash>,
    walk: Option<Box<dyn Walk>>,
    under_way: FuturesUnordered<BoxFuture<'a, Result<Finished, StoreError>>>,
    /// Hashes of the keys that the scan beside the walk has found.
    scanned: Set<KeyedHash>,
    /// The second scan, which names the keys that the walk did not meet.
    scan: KeyScan,
    met: Set<KeyedHash>,
    suspects: VecDeque<Suspect>,
    confirming: bool,
    found: VecDeque<Difference>,
    /// Numbers so far.
    pub numbers: Comparison,
    /// The first znodes that are no pairs and may not be read.
    pub unreadable: Vec<UnreadableZnode>,
}

impl<'a> Differ<'a> {
    /// A comparison that has not begun. `quarantined`: hashes of the quarantined keys.
    pub fn new(
        scope: &'a Scope,
        (znodes, keys): (Arc<dyn Znodes>, Arc<dyn Keyspace>),
        in_flight: &'a dyn InFlight,
        quarantined: Set<KeyedHash>,
    ) -> Differ<'a> {
        let walk = znodes.walk(scope.map.roots(), true);
        let under_way = FuturesUnordered::new();
        under_way.push(scan(scope, Arc::clone(&keys)).boxed());
        let scan = KeyScan::new(Arc::clone(&keys), scope.map.key_prefixes());
        Differ {
            scope,
            znodes,
            keys,
            in_flight,
            quarantined,
            walk: Some(walk),
            under_way,
            scanned: Set::default(),
            scan,
            met: Set::default(),
            suspects: VecDeque::new(),
            confirming: false,
            found: VecDeque::new(),
            numbers: Comparison::default(),
            unreadable: Vec::new(),
        }
    }

    /// The next pairs that differ, perhaps none of them; `None` at the end.
    ///
    /// # Errors
    /// A store is away, or refuses.
    pub async fn next(&mut self) -> Result<Option<Vec<Difference>>, HistoryError> {
        let is_walking = self.walk.is_some() || !self.under_way.is_empty();
        let all_seen = !is_walking && self.scan.is_done();
        if !self.found.is_empty() {
            return Ok(Some(self.found.drain(..).collect()));
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
        if is_walking {
            self.step_znodes().await?;
        } else {
            self.step_keys().await?;
        }
        Ok(Some(Vec::new()))
    }

    /// One step of the walk, while the keys of the znodes before are looked at and Redis is
    /// scanned.
    async fn step_znodes(&mut self) -> Result<(), HistoryError> {
        let mut finished = Vec::new();
        let mut walked = None;
        {
            let (walk, under_way) = (&mut self.walk, &mut self.under_way);
            let walks = walk.is_some() && under_way.len() < UNDER_WAY;
            let mut walking = std::pin::pin!(async {
                match walk {
                    Some(walk) => Some((walk.next().await, walk.denied())),
                    None => None,
                }
            });
            // A step of the walk that has begun must not be dropped: its names would be lost.
            loop {
                tokio::select! {
                    biased;
                    Some(done) = under_way.next(), if !under_way.is_empty() => {
                        finished.push(done?);
                        if !walks {
                            break;
                        }
                    }
                    step = &mut walking, if walks => {
                        walked = step;
                        break;
                    }
                    else => break,
                }
            }
        }
        for finished in finished {
            match finished {
                Finished::Scanned(scanned) => self.scanned = scanned,
                Finished::Looked(pairs) => self.looked(pairs),
            }
        }
        if let Some((step, denied)) = walked {
            self.denied(denied);
            match step? {
                Some(walked) => {
                    let taken = self.take(walked);
                    if !taken.is_empty() {
                        self.under_way.push(look_beside(Arc::clone(&self.keys), taken).boxed());
                    }
                }
                None => self.walk = None,
            }
        }
        if self.walk.is_none() && self.under_way.is_empty() {
            // The second scan is needed only if Redis has a key that the walk did not meet.
            if self.scanned.is_subset(&self.met) || planted!("diff does not scan the keys") {
                self.scan.stop();
            }
            self.scanned = Set::default();
        }
        Ok(())
    }

    fn looked(&mut self, pairs: Vec<(usize, Pair, Found, Found)>) {
        for (route, pair, znode, key) in pairs {
            self.numbers.pairs += u64::from(znode.exists() || key != Found::Nothing);
            if self.compare(route, &pair, &znode, &key).is_some() {
                self.suspect(route, pair, Some(znode.bare()), Some(key.bare()));
            }
        }
    }

    fn denied(&mut self, denied: Vec<(String, String)>) {
        for (path, reason) in denied {
            let Some(mapped) = self.scope.map.of_path(&path) else {
                self.hidden(path, reason);
                continue;
            };
            if !self.scope.takes(&mapped) {
                continue;
            }
            if let Some(key) = &mapped.pair.redis {
                self.met.insert(KeyedHash::of(key));
            }
            self.found.push_back(Difference {
                route: mapped.route,
                pair: mapped.pair,
                state: DiffState::Quarantined,
                zookeeper: Found::Unsupported("no_permission", reason),
                redis: Found::Nothing,
            });
        }
    }

    /// The znodes below this one cannot be compared.
    fn hidden(&mut self, path: String, reason: String) {
        let Some(route) = self.scope.map.reaching(&path) else { return };
        if self.scope.route.is_some_and(|wanted| wanted != route) {
            return;
        }
        self.numbers.unreadable += 1;
        if self.unreadable.len() < UNREADABLE_LISTED {
            self.unreadable.push(UnreadableZnode { route, path, reason });
        }
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
            self.met.insert(KeyedHash::of(key));
            if !is_captured {
                taken.push((mapped.route, mapped.pair, found_znode(ZnodeReading::Present { data, stat })));
            }
        }
        taken
    }

    /// Continues the scan for keys that the walk did not meet.
    async fn step_keys(&mut self) -> Result<(), HistoryError> {
        let mut found = 0;
        while found < SCAN {
            let Some(keys) = self.scan.next().await? else { return Ok(()) };
            for key in keys {
                let Some(mapped) = compared_key(self.scope, &key) else { continue };
                if self.met.insert(KeyedHash::of(&key)) {
                    self.numbers.pairs += 1;
                    found += 1;
                    self.suspect(mapped.route, mapped.pair, Some(Found::Nothing), None);
                }
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
        self.in_flight.landed(since).await;
        let looked = Instant::now();
        // ZooKeeper first: an absent znode is absent only after `sync`.
        let paths: Vec<String> =
            some.iter().map(|suspect| suspect.pair.zookeeper.clone().unwrap_or_default()).collect();
        let znodes = one_for_one("znodes", paths.len(), self.znodes.read(&paths, Look::Synced).await?)?;
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
        let is_unsupported = matches!(znode, Found::Unsupported(..)) || matches!(key, Found::Unsupported(..));
        let is_equal = match (znode, key) {
            (Found::Znode { data, .. }, Found::Key { .. }) => key.is(Some(data)),
            (znode, Found::Nothing) => !znode.exists(),
            _ => false,
        };
        if is_equal && !is_unsupported {
            return None;
        }
        let is_listed = pair.redis.as_deref().is_some_and(|key| self.quarantined.contains(&KeyedHash::of(key)));
        // A worker quarantines such a pair before it asks a store. So does this comparison, which
        // may run without a worker.
        let cannot_be_created = || match (&pair.zookeeper, &pair.redis) {
            (Some(path), Some(name)) if !znode.exists() && flow.leads_to(Side::Zookeeper) => {
                let bytes = key.value().map_or(0, <[u8]>::len);
                self.znodes.fits(path, ZnodeOp::Create, bytes, name.len()).is_err()
            }
            _ => false,
        };
        if is_unsupported || is_listed || cannot_be_created() {
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

/// Looks at the keys of znodes from the walk.
async fn look_beside(keys: Arc<dyn Keyspace>, walked: Vec<(usize, Pair, Found)>) -> Result<Finished, StoreError> {
    let names: Vec<&[u8]> = walked.iter().map(|(_, pair, _)| pair.redis.as_deref().unwrap_or_default()).collect();
    let founds = look_keys(keys.as_ref(), &names, false).await?;
    let pairs = walked.into_iter().zip(founds).map(|((route, pair, znode), key)| (route, pair, znode, key));
    Ok(Finished::Looked(pairs.collect()))
}

/// Finds all keys that are compared.
async fn scan(scope: &Scope, keys: Arc<dyn Keyspace>) -> Result<Finished, StoreError> {
    let mut scanned = Set::default();
    let mut scan = KeyScan::new(keys, scope.map.key_prefixes());
    while let Some(names) = scan.next().await? {
        let compared = names.iter().filter(|name| compared_key(scope, name).is_some());
        scanned.extend(compared.map(|name| KeyedHash::of(name)));
    }
    Ok(Finished::Scanned(scanned))
}

/// The pair of a key, if the pair is compared.
fn compared_key(scope: &Scope, key: &[u8]) -> Option<Mapped> {
    let mapped = scope.map.of_key(key).filter(|mapped| scope.takes(mapped))?;
    let flow = scope.routes.get(mapped.route).map(|route| route.policy.flow);
    (mapped.pair.zookeeper.is_some() && !matches!(flow, None | Some(Flow::Capture(_)))).then_some(mapped)
}
