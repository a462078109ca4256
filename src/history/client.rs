//! A client of one store that does what an application does: it reads plain values and changes them
//! by compare-and-set.

use crate::change::{Digest, Pair, Side, ZkStat};
use crate::store::{
    KeyEdit, KeyOutcome, KeyState, Keyspace, Look, StoreError, VALUE_BYTES_MAX, ZnodeAcl, ZnodeEdit, ZnodeOp,
    ZnodeOutcome, ZnodeReading, Znodes, one_for_one,
};
use std::sync::Arc;

/// One store.
#[derive(Clone)]
pub enum StoreClient {
    /// A ZooKeeper.
    Znodes(Arc<dyn Znodes>),
    /// A Redis.
    Keys(Arc<dyn Keyspace>),
}

/// What a store has under the name of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Neither znode nor key.
    Nothing,
    /// A znode.
    Znode {
        /// Its data.
        data: Vec<u8>,
        /// Its versions.
        stat: ZkStat,
    },
    /// A key.
    Key {
        /// SHA-1 of the value.
        digest: Digest,
        /// The value, if it is short or was asked for.
        bytes: Option<Vec<u8>>,
    },
    /// A value that cannot be mirrored: reason (one word) and detail (one sentence).
    Unsupported(&'static str, String),
}

/// One change of one pair. It is made only if the store still has what was found.
pub(super) struct Edit<'a> {
    pub(super) pair: &'a Pair,
    pub(super) found: &'a Found,
    pub(super) value: Option<&'a [u8]>,
    pub(super) acl: ZnodeAcl,
}

impl Found {
    /// The value, if it is known. A persistent znode with empty data has none.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Found::Znode { data, stat } => Some(data.as_slice()).filter(|_| !data.is_empty() || stat.is_ephemeral()),
            Found::Key { bytes, .. } => bytes.as_deref(),
            Found::Nothing | Found::Unsupported(..) => None,
        }
    }

    /// Whether there is a value.
    #[must_use]
    pub fn exists(&self) -> bool {
        matches!(self, Found::Key { .. }) || self.value().is_some()
    }

    /// Whether this is the wanted value. A persistent znode with empty data equals both no value
    /// and the empty value.
    #[must_use]
    pub fn is(&self, wanted: Option<&[u8]>) -> bool {
        match (self, wanted) {
            (Found::Nothing, None) => true,
            (Found::Znode { .. }, None) => !self.exists(),
            (Found::Znode { data, .. }, Some(wanted)) => data == wanted,
            (Found::Key { bytes: Some(bytes), .. }, Some(wanted)) => bytes == wanted,
            (Found::Key { digest, .. }, Some(wanted)) => *digest == Digest::of(wanted),
            _ => false,
        }
    }

    /// Whether it is an ephemeral znode.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        matches!(self, Found::Znode { stat, .. } if stat.is_ephemeral())
    }

    /// Whether both are the same state. A znode is the same if nobody wrote it in between, even if
    /// its data is equal.
    pub(super) fn same(&self, other: &Found) -> bool {
        match (self, other) {
            (Found::Znode { stat: one, .. }, Found::Znode { stat: two, .. }) => one.mzxid == two.mzxid,
            (Found::Key { digest: one, .. }, Found::Key { digest: two, .. }) => one == two,
            _ => self == other,
        }
    }

    /// Without the bytes, enough for a later [`Found::same`].
    pub(super) fn bare(&self) -> Found {
        match self {
            Found::Znode { stat, .. } => Found::Znode { data: Vec::new(), stat: *stat },
            Found::Key { digest, .. } => Found::Key { digest: *digest, bytes: None },
            other => other.clone(),
        }
    }
}

/// From the reading of a znode.
pub(super) fn found_znode(reading: ZnodeReading) -> Found {
    match reading {
        ZnodeReading::Absent(_) => Found::Nothing,
        ZnodeReading::Present { data, .. } if data.len() > VALUE_BYTES_MAX => {
            let detail = format!("the znode holds {} bytes, and at most {VALUE_BYTES_MAX} are mirrored", data.len());
            Found::Unsupported("too_large", detail)
        }
        ZnodeReading::Present { data, stat } => Found::Znode { data, stat },
        ZnodeReading::Denied(detail) => Found::Unsupported("no_permission", detail),
        ZnodeReading::TooLarge(detail) => Found::Unsupported("too_large", detail),
    }
}

/// From the state of a key; `None`: ask again.
pub(super) fn found_key(state: KeyState) -> Option<Found> {
    Some(match state {
        KeyState::Absent => Found::Nothing,
        KeyState::Value { bytes, .. } => Found::Key { digest: Digest::of(&bytes), bytes: Some(bytes) },
        KeyState::Digest { digest, .. } => Found::Key { digest, bytes: None },
        KeyState::TooLarge(bytes) => {
            let detail = format!("the key holds {bytes} bytes, and at most {VALUE_BYTES_MAX} are mirrored");
            Found::Unsupported("too_large", detail)
        }
        KeyState::WrongType(kind) => {
            Found::Unsupported("wrong_type", format!("the key is a {kind}, and this route carries strings"))
        }
        KeyState::Denied(detail) => Found::Unsupported("no_permission", detail),
        KeyState::Obstructed(bucket) => Found::Unsupported("wrong_type", KeyState::obstructed_by(&bucket)),
        KeyState::Unasked(detail) => Found::Unsupported("too_large", detail),
        KeyState::Later => return None,
    })
}

/// What these keys hold. Keys for which an answer had no room are asked for again.
pub(super) async fn look_keys(
    keyspace: &dyn Keyspace,
    names: &[&[u8]],
    values: bool,
) -> Result<Vec<Found>, StoreError> {
    let states = one_for_one("keys", names.len(), keyspace.look(names, values).await?)?;
    let mut founds: Vec<Option<Found>> = states.into_iter().map(found_key).collect();
    loop {
        let left: Vec<usize> =
            founds.iter().enumerate().filter(|(_, found)| found.is_none()).map(|(at, _)| at).collect();
        if left.is_empty() {
            return Ok(founds.into_iter().flatten().collect());
        }
        // Every answer holds at least one value, so this ends.
        let again: Vec<&[u8]> = left.iter().filter_map(|at| names.get(*at).copied()).collect();
        let states = one_for_one("keys", again.len(), keyspace.look(&again, values).await?)?;
        for (at, state) in left.into_iter().zip(states) {
            if let Some(place) = founds.get_mut(at) {
                *place = found_key(state);
            }
        }
    }
}

impl StoreClient {
    /// Which kind of store it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            StoreClient::Znodes(_) => Side::Zookeeper,
            StoreClient::Keys(_) => Side::Redis,
        }
    }

    /// Connects, or reconnects.
    pub(super) async fn connect(&self) -> Result<(), StoreError> {
        match self {
            StoreClient::Znodes(znodes) => znodes.connect().await,
            StoreClient::Keys(keys) => keys.connect().await,
        }
    }

    /// What the store has under these names, in order. Long values of keys come as digests unless
    /// `values` is set.
    ///
    /// # Errors
    /// The store is away, or refuses the request.
    pub async fn look(&self, pairs: &[&Pair], values: bool) -> Result<Vec<Found>, StoreError> {
        match self {
            StoreClient::Znodes(znodes) => {
                let paths: Vec<String> = pairs.iter().map(|pair| pair.zookeeper.clone().unwrap_or_default()).collect();
                let readings = one_for_one("znodes", paths.len(), znodes.read(&paths, Look::Synced).await?)?;
                Ok(readings.into_iter().map(found_znode).collect())
            }
            StoreClient::Keys(keys) => {
                let names: Vec<&[u8]> = pairs.iter().map(|pair| pair.redis.as_deref().unwrap_or_default()).collect();
                look_keys(keys.as_ref(), &names, values).await
            }
        }
    }

    /// Changes pairs, each by its own compare-and-set. One outcome for each edit, in order.
    pub(super) async fn edit(&self, edits: &[Edit<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        match self {
            StoreClient::Keys(keys) => {
                let changes: Vec<KeyEdit<'_>> = edits
                    .iter()
                    .map(|edit| KeyEdit {
                        key: edit.pair.redis.as_deref().unwrap_or_default(),
                        expect: match edit.found {
                            Found::Key { digest, .. } => Some(*digest),
                            _ => None,
                        },
                        value: edit.value,
                    })
                    .collect();
                one_for_one("edits of keys", changes.len(), keys.edit(&changes).await?)
            }
            StoreClient::Znodes(znodes) => {
                let mut order: Vec<usize> = (0..edits.len()).collect();
                // Parents are created before children, and children are deleted before parents.
                order.sort_by_key(|at| {
                    edits.get(*at).map_or(0, |edit| {
                        let path = edit.pair.zookeeper.as_deref().unwrap_or_default();
                        let depth = i64::try_from(path.bytes().filter(|byte| *byte == b'/').count()).unwrap_or(0);
                        if edit.value.is_none() { -depth } else { depth }
                    })
                });
                let changes: Vec<ZnodeEdit<'_>> =
                    order.iter().filter_map(|at| edits.get(*at)).map(znode_edit).collect();
                let mut outcomes = vec![KeyOutcome::Refused; edits.len()];
                let edited = one_for_one("edits of znodes", changes.len(), znodes.edit(&changes).await?)?;
                for (at, outcome) in order.iter().zip(edited) {
                    if let Some(place) = outcomes.get_mut(*at) {
                        *place = match outcome {
                            ZnodeOutcome::Done { .. } => KeyOutcome::Done,
                            ZnodeOutcome::Refused => KeyOutcome::Refused,
                            ZnodeOutcome::Impossible(reason, detail) => KeyOutcome::Impossible(reason, detail),
                        };
                    }
                }
                Ok(outcomes)
            }
        }
    }
}

fn znode_edit<'a>(edit: &Edit<'a>) -> ZnodeEdit<'a> {
    let op = match (edit.found, edit.value) {
        (Found::Znode { stat, .. }, Some(_)) => ZnodeOp::Set(stat.version),
        (Found::Znode { stat, .. }, None) => ZnodeOp::Delete(stat.version),
        _ => ZnodeOp::Create,
    };
    let path = edit.pair.zookeeper.as_deref().unwrap_or_default();
    ZnodeEdit { path, op, data: edit.value.unwrap_or_default(), acl: edit.acl }
}
