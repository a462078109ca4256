//! The keys of our own that have one name each, and the sentence for one that something else has
//! overwritten.
//!
//! An application or an operator may write any key. Nothing that lies there is touched: it may be
//! theirs, and what it replaced is gone. The pipeline waits and names the key; once that key is
//! renamed or deleted, its content counts as lost and is written again. What lies in place of a
//! bucket concerns the pairs of that bucket alone, which are quarantined (`KeyState::Obstructed`).

use super::access::Target;
use super::fault::explain;
use super::line::{Arg, Cmd, RedisError};
use crate::store::{FailureKind, StoreError};

/// What the names of all our keys begin with. No key of a user does, as far as routes can match it.
const PREFIX: &[u8] = b"_keepstep:";

/// The one sentence on a key of ours that holds another type than Keepstep writes.
pub(super) fn overwritten(target: &Target, key: &str) -> String {
    format!(
        "{}: the key `{key}` is Keepstep's own, and something else has been written to it, of another type; rename or delete `{key}`: \
         Keepstep writes it again",
        target.place()
    )
}

/// Whether the key that was asked for holds another type.
pub(super) fn is_of_another_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}

/// [`explain`] for a command that names one of our keys, and at most one that may be of another
/// type. The server answers, and the key may be gone at any moment, so it is asked again.
pub(super) fn explain_named(target: &Target, command: &Cmd, error: &RedisError) -> StoreError {
    let named = command.args_iter().find_map(|argument| match argument {
        Arg::Simple(name) if name.starts_with(PREFIX) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    });
    match named.filter(|_| is_of_another_type(error)) {
        Some(key) => StoreError::not_now(FailureKind::Overwritten, overwritten(target, &key)),
        None => explain(target, error),
    }
}
