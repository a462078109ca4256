//! The keys of our own that have one name each, and what is said where something else has that name.
//!
//! An application or an operator may write any key. Nothing that lies there is touched: it may be theirs, and what it replaced is gone.
//! The pipeline waits and says which key it is; once that is renamed or deleted, what it held counts as lost and is written again. What
//! lies in place of a bucket concerns the pairs of that bucket alone, which are quarantined (`KeyState::Obstructed`).

use super::fault::explain;
use super::{Settings, Shared, claim, lock, state, ties};
use crate::store::StoreError;
use redis::{Arg, Cmd, RedisError};
use std::sync::Arc;

/// What the names of all our keys begin with. No key of a user does, as far as routes can match it.
const PREFIX: &[u8] = b"_keepstep:";

/// Each of these keys with its type, as `TYPE` answers it.
pub(super) fn all(shared: &Shared) -> [(String, &'static str); 5] {
    [
        (state::key(shared), "hash"),
        (claim::CLAIMS.to_owned(), "set"),
        (claim::key(&shared.settings.pipeline), "string"),
        (ties::IDENTITY.to_owned(), "string"),
        (ties::key(shared), "string"),
    ]
}

/// The one sentence on a key of ours that holds another type than it is to hold.
pub(super) fn overwritten(settings: &Settings, key: &str) -> String {
    format!(
        "{}: the key `{key}` is Keepstep's own, and something else has been written to it, of another type; rename or delete `{key}`: \
         Keepstep writes it again",
        settings.place()
    )
}

/// Whether the key that was asked for holds another type.
pub(super) fn is_of_another_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}

/// [`explain`] for a command that names one of our keys, and at most one that may be of another type. The server answers, and the key
/// may be gone at any moment, so it is asked again.
pub(super) fn explain_named(settings: &Settings, command: &Cmd, error: &RedisError) -> StoreError {
    let named = command.args_iter().find_map(|argument| match argument {
        Arg::Simple(name) if name.starts_with(PREFIX) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    });
    match named.filter(|_| is_of_another_type(error)) {
        Some(key) => StoreError::NotNow(overwritten(settings, &key)),
        None => explain(settings, error),
    }
}

impl Shared {
    /// Shows what is to be said of a key that something else has written and that keeps nothing back, and logs it when it is news; empty:
    /// there is none.
    pub(super) fn say_overwritten(&self, what: String) {
        let mut facts = lock(&self.facts);
        if facts.overwritten == what {
            return;
        }
        let pipeline = &self.settings.pipeline;
        if what.is_empty() {
            tracing::info!(pipeline, "goes on, after: {}", facts.overwritten);
        } else {
            tracing::warn!(pipeline, "{what}");
        }
        Arc::make_mut(&mut facts).overwritten = what;
    }
}
