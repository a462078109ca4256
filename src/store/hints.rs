//! What a source reports: which pairs may have changed, and whether it is connected.

use super::error::StoreError;
use crate::change::{LossCause, Side};
use crate::plan::Removal;

/// Whether a source is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Events arrive from here on; everything before must be compared.
    Up,
    /// Events are being missed, for this reason.
    Down(StoreError),
}

/// Receives what a source reports. Never blocks; a pair is in it once however often it is named.
pub trait Hints: Send + Sync {
    /// This znode may have changed. `zxid` is the event's, where the server sends it (3.9 and
    /// later). `deleted`: by the event it was deleted.
    fn znode(&self, path: &str, zxid: Option<i64>, deleted: bool);

    /// This key may have changed. `event` is the keyspace event's name, `None` for one that
    /// tracking reported.
    fn key(&self, key: &[u8], event: Option<&str>);

    /// Anything may have changed on this side: compare everything.
    fn everything(&self, side: Side, why: &str);

    /// This side may have lost data, in this way: compare everything, and report what is missing as
    /// a loss. Not `is_certain`: others can cause such a report as often as they like.
    fn lost(&self, side: Side, cause: LossCause, why: &str, is_certain: bool);

    /// The source's connection came or went.
    fn link(&self, side: Side, link: Link);

    /// The ownership has to end, for this reason: the state that the store keeps of it can be
    /// neither read nor written.
    fn end(&self, why: StoreError);
}

/// How a key disappeared by this keyspace event; `None` if the event does not remove keys (or is
/// one of a newer server that we do not know), so that the disappearance counts as unseen.
#[must_use]
pub fn removal_of(event: &str) -> Option<Removal> {
    match event {
        "del" | "rename_from" | "move_from" => Some(Removal::Deleted),
        "expired" => Some(Removal::Expired),
        "evicted" => Some(Removal::Lost),
        _ => None,
    }
}
