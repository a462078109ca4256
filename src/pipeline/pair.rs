//! One pair in a round of this worker: its names, what it was named for, and its bytes beside the machine of [`super::round`].

use super::hint::{Hint, PairName};
use super::round::Observed;
use crate::change::{Pair, ZkStat};
use crate::plan::path_id;
use crate::stream::Latest;

/// A znode's data and versions.
pub(super) type ZnodeData = (Vec<u8>, ZkStat);

/// Why a state cannot be mirrored: reason (one word) and detail (one sentence).
pub(super) type Misfit = (&'static str, String);

/// A pair that a round has taken.
pub(super) struct Item {
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: Pair,
}

impl Item {
    pub(super) fn path(&self) -> &str {
        self.pair.zookeeper.as_deref().unwrap_or_default()
    }
}

/// One pair as observed, with the bytes that its decision will need.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: Pair,
    pub(super) observed: Observed,
    /// The sidecar's bytes as read (or as known), for the compare-and-set.
    pub(super) entry: Vec<u8>,
    pub(super) nonce: u64,
    pub(super) znode: Option<ZnodeData>,
    /// The key's bytes, where they were read.
    pub(super) value: Option<Vec<u8>>,
    /// Changes of the key since its base that were counted before it was read.
    pub(super) events: i32,
    /// What the stream has last of the pair; `None`: it was not asked.
    pub(super) newest: Option<Option<Latest>>,
}

impl Loaded {
    /// A pair of which so much was observed; whoever has more of it sets that. `events`: see the field.
    pub(super) fn new(item: Item, observed: Observed, events: i32) -> Loaded {
        let Item { name, hint, pair } = item;
        let (entry, nonce, znode, value, newest) = (Vec::new(), 0, None, None, None);
        Loaded { name, hint, pair, observed, entry, nonce, znode, value, events, newest }
    }

    pub(super) fn path_id(&self) -> u32 {
        path_id(self.pair.zookeeper.as_deref().unwrap_or_default())
    }
}
