//! From an error of a store or of the stream to what the pipeline does about it: the one place that decides it.
//!
//! | remedy | what follows | who carries it out |
//! | --- | --- | --- |
//! | ask again | the pairs wait for a growing pause, and the status says what holds them up | rounds, comparisons, the owner |
//! | end the ownership | no further round begins; the worker stands by and takes over anew | [`super::halt`] |
//! | refuse | before the worker has owned anything the start fails, exit 1; later it is waited for like the first | [`super::owner`] |
//!
//! What concerns a single pair (too large, no permission, of another type) is an answer about that pair and not an error of
//! the call: it is quarantined where the answer is read.

use crate::failpoint::{mark, planted};
use crate::store::{FailureKind, StoreError};
use crate::stream::StreamError;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing is known of what was asked, or it is not done now.
    AskAgain,
    /// Another worker owns the pipeline, or the stream must be opened anew.
    EndOwnership,
    /// Only a person can mend it.
    Refuse,
}

/// What is done about an error of a store.
pub(super) fn of_store(error: &StoreError) -> Remedy {
    mark!(match error {
        StoreError::Away(_) => "store: away",
        StoreError::NotNow(_) => "store: not now",
        StoreError::Fenced(_) => "store: fenced",
        StoreError::Refused(_) => "store: refused",
    });
    match error {
        StoreError::Away(_) | StoreError::NotNow(_) => Remedy::AskAgain,
        StoreError::Fenced(_) if planted!("a fence is asked again") => Remedy::AskAgain,
        StoreError::Fenced(_) => Remedy::EndOwnership,
        StoreError::Refused(_) => Remedy::Refuse,
    }
}

/// What is done about an error of the stream, beside that nothing is carried over which it does not record.
pub(super) fn of_stream(error: &StreamError) -> Remedy {
    mark!(match error {
        StreamError::Owned(_) => "stream: owned",
        StreamError::Lost(_) => "stream: lost",
        StreamError::Refused(_) => "stream: refused",
        StreamError::Unavailable(_) => "stream: unavailable",
        StreamError::TooLarge { .. } => "stream: too large",
        StreamError::Damaged(_) => "stream: damaged",
        StreamError::OutOfRange(_) => "stream: out of range",
    });
    match error {
        StreamError::Owned(_) | StreamError::Lost(_) => Remedy::EndOwnership,
        StreamError::Refused(_) => Remedy::Refuse,
        StreamError::Unavailable(_)
        | StreamError::TooLarge { .. }
        | StreamError::Damaged(_)
        | StreamError::OutOfRange(_) => Remedy::AskAgain,
    }
}

/// What keeps a stream from being opened, as the error of the ownership that needs it.
pub(super) fn of_opening(error: &StreamError) -> StoreError {
    let text = error.to_string();
    let failed = match of_stream(error) {
        Remedy::Refuse => StoreError::refused(FailureKind::Worker, text),
        Remedy::AskAgain | Remedy::EndOwnership => StoreError::away(FailureKind::Worker, text),
    };
    failed.with_source(error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_ownership_or_a_lost_stream_ends_it_and_only_a_refusal_is_final() {
        let text = String::new;
        assert_eq!(of_store(&StoreError::away(FailureKind::Worker, text())), Remedy::AskAgain);
        assert_eq!(of_store(&StoreError::not_now(FailureKind::Worker, text())), Remedy::AskAgain);
        assert_eq!(of_store(&StoreError::fenced(FailureKind::Worker, text())), Remedy::EndOwnership);
        assert_eq!(of_store(&StoreError::refused(FailureKind::Worker, text())), Remedy::Refuse);
        assert_eq!(of_stream(&StreamError::Owned(text())), Remedy::EndOwnership);
        assert_eq!(of_stream(&StreamError::Unavailable(text())), Remedy::AskAgain);
        assert_eq!(
            of_opening(&StreamError::Refused("no".to_owned())),
            StoreError::refused(FailureKind::Worker, "no".to_owned())
        );
        assert_eq!(
            of_opening(&StreamError::Owned("p".to_owned())),
            StoreError::away(FailureKind::Worker, "p".to_owned())
        );
    }
}
