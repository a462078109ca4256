//! What is known of a pair that may have changed: the news that decide what its round looks at, and what is counted beside them.

use crate::env::Instant;
use crate::plan::{Named, Removal};

/// The name of a pair within its pipeline: the Redis key, or the path where there is no key.
pub type PairName = Box<[u8]>;

/// What decides what a round looks at, and what its absence may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct News {
    /// An event named the znode.
    pub znode: bool,
    /// The zxid of the znode's newest event; `i64::MAX` where the server does not send it (before 3.9), 0 without an event.
    pub zxid: i64,
    /// The znode's last event was its deletion.
    pub znode_deleted: bool,
    /// An event named the key.
    pub key: bool,
    /// Name of the key's last event; `None` if only client tracking named the key.
    pub event: Option<&'static str>,
    /// What that event says of the key's disappearance.
    pub removal: Option<Removal>,
    /// The last event with a name was a deletion or an expiry. Set by [`super::dirty::DirtySet::note`].
    pub key_deleted: bool,
    /// Both sides must be read, ZooKeeper after `sync`.
    pub slow: bool,
    /// The pair was put back because a decision had to wait.
    pub waited: bool,
    /// An operator approved the pair's deletes, or they were few enough.
    pub approved: bool,
    /// A change of the pair was recorded, and its write is not done yet.
    pub unwritten: bool,
    /// A comparison left the pair to the rounds and concludes nothing before it is settled
    /// ([`super::dirty::DirtySet::owes`]).
    pub owed: bool,
}

impl News {
    /// As [`crate::plan::path()`] asks for them.
    #[must_use]
    pub fn named(self) -> Named {
        Named { znode: self.znode, zxid: self.zxid, key: self.key, slow: self.slow }
    }

    /// Adds what is newer.
    pub fn merge(&mut self, newer: News) {
        self.zxid = self.zxid.max(newer.zxid);
        self.take_event(newer);
        self.take_names(newer);
        self.slow |= newer.slow;
        self.waited |= newer.waited;
        self.approved |= newer.approved;
        self.unwritten |= newer.unwritten;
        self.owed |= newer.owed;
    }

    /// Of what is newer, which sides it names.
    pub fn take_names(&mut self, newer: News) {
        if newer.znode {
            (self.znode, self.znode_deleted) = (true, newer.znode_deleted);
        }
        self.key |= newer.key;
        if newer.key && newer.event.is_some() {
            self.key_deleted = newer.key_deleted;
        }
    }

    /// Of what is newer, the key's event if it has one.
    pub fn take_event(&mut self, newer: News) {
        if newer.key && newer.event.is_some() {
            (self.event, self.removal) = (newer.event, newer.removal);
        }
    }
}

/// How often the events of each side may have been lost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gaps {
    /// Of znodes.
    pub znode: u64,
    /// Of keys.
    pub key: u64,
}

/// What is known about a pair that may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Index of the route.
    pub route: usize,
    /// What decides what its round reads.
    pub news: News,
    /// Gaps in the events of keys before the key's last event; set by [`super::dirty::DirtySet::note`].
    pub gaps: u64,
    /// Gaps in the events of each side before it was last named; set by [`super::dirty::DirtySet::note`].
    pub named_after: Gaps,
    /// Changes of the key that were announced since the pair was last taken.
    pub writes: u32,
    /// All hints since the pair was last taken.
    pub hints: u32,
    /// When the pair was first named.
    pub since: Instant,
    /// When an event last named the key, by [`crate::store::clock::steady_ms`]; 0 if never.
    pub key_seen_ms: i64,
    /// The pair was in a round that ended by a panic: it gets one of its own.
    pub alone: bool,
}

impl Hint {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(route: usize) -> Hint {
        Hint {
            route,
            news: News::default(),
            gaps: 0,
            named_after: Gaps::default(),
            writes: 0,
            hints: 0,
            since: Instant::now(),
            key_seen_ms: 0,
            alone: false,
        }
    }

    /// The same pair with these news.
    #[must_use]
    pub fn with(self, news: News) -> Hint {
        Hint { news, ..self }
    }

    /// The same, to be read on both sides.
    #[must_use]
    pub fn slow(self) -> Hint {
        self.with(News { slow: true, ..self.news })
    }

    /// The same, and a comparison waits until the pair is settled.
    #[must_use]
    pub fn owed(self) -> Hint {
        self.with(News { owed: true, ..self.news })
    }

    /// The same, with its deletes approved.
    #[must_use]
    pub fn approved(self) -> Hint {
        self.with(News { approved: true, ..self.news })
    }

    /// Adds what is newer.
    pub fn merge(&mut self, newer: Hint) {
        self.take_event(newer);
        self.take_names(newer);
        self.news.merge(newer.news);
        self.writes += newer.writes;
        self.hints += newer.hints;
        self.since = self.since.min(newer.since);
        self.key_seen_ms = self.key_seen_ms.max(newer.key_seen_ms);
        self.alone |= newer.alone;
    }

    /// Of what is newer, which sides it names.
    pub fn take_names(&mut self, newer: Hint) {
        if newer.news.znode {
            self.named_after.znode = newer.named_after.znode;
        }
        if newer.news.key {
            self.named_after.key = newer.named_after.key;
        }
        self.news.take_names(newer.news);
    }

    /// Of what is newer, the key's event if it has one.
    pub fn take_event(&mut self, newer: Hint) {
        if newer.news.key && newer.news.event.is_some() {
            self.gaps = newer.gaps;
        }
        self.news.take_event(newer.news);
    }
}
