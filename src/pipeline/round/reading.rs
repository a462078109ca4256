//! What is read of a pair, and when enough is known to decide.
//!
//! - An event named the znode: it is read on the source's session; the key is assumed to be as the base has it, even if
//!   an event named it as well (our own writes do), since the compare-and-set checks that. If the znode is as the base
//!   has it, the key is read next. An event that is not newer than the base is an echo and needs no read.
//! - An event named the key: it is read with its sidecar; the znode is assumed to be as the base has it. Only while the
//!   watch stands, has not named the znode, and a comparison has ended since it was laid.
//! - A capture reads the one side that it has, and nothing else.
//! - Otherwise, or when an assumption was refused, or when the pair is in quarantine (its base may be older than what was
//!   read of it): ZooKeeper first, after `sync`, then Redis. A znode that is absent or older than the base is believed only
//!   after a second such observation.

use super::end::{Again, Delay, End, Reason};
use super::facts::{Facts, NewestRecord};
use super::observed::Observed;
use crate::change::{Digest, Side, ZkVersion};
use crate::pipeline::hint::News;
use crate::plan::{
    Base, Flow, Key, Known, Next as Follows, Observation, Path, Removal, Seen, Vanished, Znode, after_key, after_znode,
    is_doubtful, path,
};
use crate::store::ReadContext;

/// What is asked of a store next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// The znode, on the session of the source.
    Znode,
    /// The znode, after `sync`.
    SyncedZnode,
    /// The key with its sidecar.
    Key,
}

/// What was read of a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundZnode {
    /// The znode; [`Znode::AsBase`] where it may not be read, or is too large to be.
    pub znode: Znode,
    /// Whether it can be mirrored.
    pub fits: bool,
}

impl FoundZnode {
    fn is_unreadable(&self) -> bool {
        self.znode == Znode::AsBase
    }

    fn version(&self) -> Option<ZkVersion> {
        match self.znode {
            Znode::Present { version, .. } => Some(version),
            Znode::Absent(_) | Znode::AsBase => None,
        }
    }
}

/// What was read of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKey {
    /// There is none.
    Absent,
    /// A string.
    Value {
        /// Its digest.
        digest: Digest,
        /// Its expiry time, milliseconds since the epoch.
        expires_ms: Option<i64>,
        /// Its bytes were read.
        has_bytes: bool,
    },
    /// Answers had no room for it: it is asked for again.
    Later,
    /// It cannot be mirrored.
    Unfit {
        /// The session may read neither the key nor its sidecar.
        is_denied: bool,
    },
}

/// A key with its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyAnswer {
    /// The key.
    pub key: FoundKey,
    /// The base in the sidecar, if it was agreed for this path.
    pub base: Option<Base>,
    /// Whether there is a sidecar at all.
    pub has_sidecar: bool,
    /// The incarnation of the data set in which it was read.
    pub incarnation: u64,
    /// When that was, and what absence may mean.
    pub context: ReadContext,
}

/// What was read before, and what is asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The znode; the key is assumed.
    Znode,
    /// The key; the znode is assumed.
    Key,
    /// The side that is captured, and no other.
    Captured(Side),
    /// The znode, after `sync`.
    SyncedZnode {
        /// What was read of both sides the first time was doubted.
        again: bool,
    },
    /// The key, after the znode.
    KeyAfterZnode {
        /// As read after `sync`.
        znode: FoundZnode,
        /// What was read of both sides the first time was doubted.
        again: bool,
    },
    /// The key, after the znode that a comparison's walk met.
    KeyAfterWalk {
        /// As the walk read it.
        znode: FoundZnode,
        /// Pairs lost their base after the walk read this znode, so the znode may be from before that loss.
        may_be_old: bool,
    },
}

/// A pair that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// For what.
    pub news: News,
    /// A comparison found it.
    pub comparing: bool,
    /// Where it is.
    pub stage: Stage,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More is read: see [`Reading::ask`].
    Read(Reading),
    /// Enough is known.
    Observed(Observed),
    /// The pair's round ends.
    End(End),
}

impl Reading {
    /// A round takes a pair.
    #[must_use]
    pub fn begin(news: News, facts: &impl Facts) -> Next {
        if let Flow::Capture(side) = facts.policy().flow {
            return Next::Read(Reading::captured(news, false, side));
        }
        let slow = news.slow || facts.is_quarantined();
        let named = News { slow, ..news }.named();
        let stage = match path(named, facts.known(), facts.ensemble().id, facts.is_watched()) {
            Path::Echo => return Next::End(End::Echo),
            Path::Znode => Stage::Znode,
            Path::Key => Stage::Key,
            Path::Both => Stage::SyncedZnode { again: false },
        };
        Next::Read(Reading { news, comparing: false, stage })
    }

    /// The side that is captured is read.
    #[must_use]
    pub fn captured(news: News, comparing: bool, side: Side) -> Reading {
        Reading { news, comparing, stage: Stage::Captured(side) }
    }

    /// Both sides are read, whatever is known.
    #[must_use]
    pub fn both(news: News, comparing: bool) -> Reading {
        Reading { news, comparing, stage: Stage::SyncedZnode { again: false } }
    }

    /// A comparison's walk met the znode.
    #[must_use]
    pub fn walked(news: News, znode: FoundZnode, may_be_old: bool) -> Reading {
        Reading { news, comparing: true, stage: Stage::KeyAfterWalk { znode, may_be_old } }
    }

    /// A comparison's walk met the znode, and Redis holds next to nothing: the value is written on the guess that there is neither
    /// key nor base; what the compare-and-set refuses is observed like everything else.
    #[must_use]
    pub fn guessed_absent(news: News, znode: Znode, facts: &impl Facts) -> Observed {
        Reading { news, comparing: true, stage: Stage::Znode }.observed(None, znode, Key::AsBase, facts)
    }

    /// What is asked of a store.
    #[must_use]
    pub fn ask(&self) -> Ask {
        match self.stage {
            Stage::Znode | Stage::Captured(Side::Zookeeper) => Ask::Znode,
            Stage::SyncedZnode { .. } => Ask::SyncedZnode,
            Stage::Key | Stage::Captured(Side::Redis) | Stage::KeyAfterZnode { .. } | Stage::KeyAfterWalk { .. } => {
                Ask::Key
            }
        }
    }

    /// The store failed as a whole.
    #[must_use]
    pub fn failed(self) -> End {
        let delay = match self.stage {
            Stage::Znode => Delay::Zookeeper,
            Stage::Key => Delay::Redis,
            Stage::Captured(_)
            | Stage::SyncedZnode { .. }
            | Stage::KeyAfterZnode { .. }
            | Stage::KeyAfterWalk { .. } => Delay::Either,
        };
        End::Again(Again::both(self.news, self.comparing, delay))
    }

    /// Whether a pair is read of which nothing is assumed: if a store does not answer, its delay is that of [`Delay::Either`].
    #[must_use]
    pub fn assumes_nothing(&self) -> bool {
        self.is_after_znode() || matches!(self.stage, Stage::Captured(_))
    }

    /// Whether the znode was read, and the key is read after it.
    #[must_use]
    pub fn is_after_znode(&self) -> bool {
        matches!(self.stage, Stage::KeyAfterZnode { .. } | Stage::KeyAfterWalk { .. })
    }

    fn to(self, stage: Stage) -> Next {
        Next::Read(Reading { stage, ..self })
    }

    fn to_both(self, again: bool) -> Next {
        self.to(Stage::SyncedZnode { again })
    }

    /// The znode was read. Not called for a pair that asked for its key.
    #[must_use]
    pub fn znode(self, found: FoundZnode, facts: &impl Facts) -> Next {
        match self.stage {
            Stage::Znode => self.after_znode(found, facts),
            Stage::Captured(_) if !found.fits => Next::End(self.unfit(false)),
            Stage::Captured(_) => Next::Observed(self.observed(None, found.znode, Key::AsBase, facts)),
            Stage::SyncedZnode { again } => self.to(Stage::KeyAfterZnode { znode: found, again }),
            Stage::Key | Stage::KeyAfterZnode { .. } | Stage::KeyAfterWalk { .. } => {
                debug_assert!(false, "the key was asked for");
                self.to_both(false)
            }
        }
    }

    fn after_znode(self, found: FoundZnode, facts: &impl Facts) -> Next {
        let known = facts.known();
        let follows = match found.is_unreadable() {
            // Whatever the base says, it goes into quarantine.
            true if known != Known::Unknown && !self.news.key => Follows::Decide,
            true => Follows::Both,
            false => after_znode(known, found.version(), self.news.key, facts.ensemble().id, facts.gone_zxid()),
        };
        match follows {
            Follows::Key => self.to(Stage::Key),
            Follows::Both => self.to_both(false),
            Follows::Decide if !found.fits => Next::End(self.unfit(false)),
            Follows::Decide => {
                let base = match known {
                    Known::Base(base) => Some(base),
                    Known::None | Known::Unknown => None,
                };
                Next::Observed(self.observed(base, found.znode, Key::AsBase, facts))
            }
        }
    }

    /// The key was read, or the store answered for it. Not called for a pair that asked for its znode.
    #[must_use]
    pub fn key(self, answer: KeyAnswer, facts: &impl Facts) -> Next {
        let KeyAnswer { base, has_sidecar, incarnation, context, .. } = answer;
        let ensemble = facts.ensemble().id;
        let (found, is_behind) = match self.stage {
            Stage::Key => {
                let is_compared = facts.is_compared(incarnation);
                if after_key(base.as_ref(), has_sidecar, ensemble, is_compared) == Follows::Both {
                    return self.to_both(false);
                }
                (FoundZnode { znode: Znode::AsBase, fits: true }, false)
            }
            Stage::KeyAfterZnode { znode, again } => {
                if !again && is_doubted(base.as_ref(), &znode, ensemble) {
                    return self.to_both(true);
                }
                (znode, true)
            }
            Stage::KeyAfterWalk { znode, may_be_old } => {
                if may_be_old && base.is_none() || is_doubted(base.as_ref(), &znode, ensemble) {
                    // The znode may be from before our own write, or the ensemble was restored: a round reads both sides again.
                    let news = News { slow: true, owed: true, ..self.news };
                    return Next::End(End::Again(Again { news, delay: Delay::None }));
                }
                (znode, true)
            }
            Stage::Captured(_) => return self.with_key(Znode::AsBase, KeyAnswer { base: None, ..answer }, facts),
            Stage::Znode | Stage::SyncedZnode { .. } => {
                debug_assert!(false, "the znode was asked for");
                return self.to_both(false);
            }
        };
        if is_behind && !found.fits {
            // Of the key it is noted whether it is lost.
            return Next::End(self.unfit(has_sidecar && !context.intact));
        }
        self.with_key(found.znode, answer, facts)
    }

    fn with_key(mut self, znode: Znode, answer: KeyAnswer, facts: &impl Facts) -> Next {
        let KeyAnswer { key, base, incarnation, context, .. } = answer;
        let key = match key {
            FoundKey::Absent => {
                self.news = facts.newest_event(self.news);
                Key::Absent(self.vanished(has_moved(base.as_ref(), znode), incarnation, context, facts))
            }
            FoundKey::Value { digest, expires_ms, has_bytes } => {
                // Nothing is written from a digest: the key is looked at again, with its value.
                let may_be_older =
                    has_bytes && is_as_base(base.as_ref(), digest, znode) && may_be_older(context, facts);
                Key::Present { digest, expires_ms, may_be_older }
            }
            FoundKey::Later => {
                let news = News { owed: self.news.owed || self.comparing, ..self.news };
                return Next::End(End::Again(Again { news, delay: Delay::None }));
            }
            // Nobody knows what a sidecar holds that may not be read, or whether a captured key is still there.
            FoundKey::Unfit { is_denied } => return Next::End(self.unfit(is_denied && !context.intact)),
        };
        let has_value = matches!(answer.key, FoundKey::Value { has_bytes: true, .. });
        Next::Observed(Observed { has_value, incarnation, ..self.observed(base, znode, key, facts) })
    }

    /// What is known of the disappearance of a key. `has_moved`: the znode is not as the key's base has it.
    fn vanished(&self, has_moved: bool, incarnation: u64, context: ReadContext, facts: &impl Facts) -> Vanished {
        let seen = self.news.removal.filter(|_| self.news.event.is_some() && context.events_delivered);
        // The delete was seen and recorded by an earlier look, whose write a store refused.
        let seen = seen.or_else(|| facts.is_delete_unwritten().then_some(Removal::Deleted));
        // A base beside which the znode has moved may be one that Redis went back to, with a time of expiry that an application had
        // taken from the key. What is there after a comparison of the whole route was put there since, but for a pair that it has left
        // to this round.
        let may_be_older = context.older || !context.compared && has_moved;
        let older = may_be_older && (self.news.owed || !facts.is_route_compared(incarnation));
        Vanished { seen, now_ms: context.now_ms, intact: context.intact, older }
    }

    fn unfit(&self, blocks_conclusion: bool) -> End {
        End::Quarantine { news: self.news, reason: Reason::Unfit, blocks_conclusion }
    }

    fn observed(&self, base: Option<Base>, znode: Znode, key: Key, facts: &impl Facts) -> Observed {
        let seen = if key == Key::AsBase { Seen::default() } else { facts.times(self.news, self.comparing) };
        let observation = Observation { base, znode, key, ensemble: facts.ensemble(), seen };
        Observed { news: self.news, comparing: self.comparing, observation, has_value: false, incarnation: 0 }
    }
}

/// [`is_doubtful`] for what was read: what may not be read is not doubted, it goes into quarantine.
fn is_doubted(base: Option<&Base>, found: &FoundZnode, ensemble: u32) -> bool {
    !found.is_unreadable() && is_doubtful(base, found.version(), ensemble)
}

/// Whether the key is as the base has it, and the znode is not.
fn is_as_base(base: Option<&Base>, key: Digest, znode: Znode) -> bool {
    base.is_some_and(|base| base.redis == Some(key)) && has_moved(base, znode)
}

/// Whether the znode is not as the base has it.
fn has_moved(base: Option<&Base>, znode: Znode) -> bool {
    base.is_some_and(|base| match znode {
        Znode::AsBase => false,
        Znode::Absent(_) => base.zookeeper.is_some(),
        Znode::Present { version, .. } => base.zookeeper != Some(version),
    })
}

/// Whether a key that is as its base has it may be an older state: the newest record of the pair is another value, and the znode
/// holds that one. In a data set that was not compared since it may have come back older, that other value is enough; and where
/// the stream cannot tell, that Redis did come back older. Where only Redis is written from, nothing else distinguishes this
/// from a change at the destination.
fn may_be_older(context: ReadContext, facts: &impl Facts) -> bool {
    if facts.policy().flow != Flow::From(Side::Redis) {
        return false;
    }
    match facts.newest_record() {
        Some(NewestRecord { is_key, is_znode }) => !is_key && (!context.compared || is_znode),
        None => context.older && !context.compared,
    }
}
