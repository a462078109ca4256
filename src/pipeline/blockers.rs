//! What blockers a pipeline up: each thing until that very thing works again. That a store can be read does not mean that the
//! stream takes records.

use crate::store::StoreError;
use crate::telemetry::LogThrottle;

/// What does not work, the most important first: it is what `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The stream takes no records.
    Stream,
    /// A store takes no writes.
    Writes,
    /// A store is not reached, or cannot be read.
    Reads,
    /// Redis evicts what is restored.
    Room,
}

/// The reasons that hold now, and which of them the log has.
#[derive(Debug, Clone, Default)]
pub(super) struct Blockers {
    reasons: Vec<(Cause, StoreError)>,
    said: LogThrottle,
}

impl Blockers {
    /// Answers whether to say it.
    pub(super) fn block(&mut self, what: Cause, error: StoreError) -> bool {
        let reason = error.to_string();
        if self.reasons.iter().all(|(_, held)| held.to_string() != reason) {
            self.reasons.retain(|(cause, _)| *cause != what);
            self.reasons.push((what, error));
        }
        self.said.is_due(&reason)
    }

    /// It works: answers what had been in the way, if that is to be said.
    pub(super) fn clear(&mut self, what: Cause) -> Option<String> {
        let at = self.reasons.iter().position(|(cause, _)| *cause == what)?;
        let reason = self.reasons.remove(at).1.to_string();
        self.said.end(&reason).then_some(reason)
    }

    /// Whether this does not work.
    pub(super) fn has(&self, what: Cause) -> bool {
        self.reasons.iter().any(|(cause, _)| *cause == what)
    }

    /// What is shown; empty while nothing is held up.
    pub(super) fn reason(&self) -> String {
        self.error().map(|error| error.to_string()).unwrap_or_default()
    }

    /// What is shown, with its kind.
    pub(super) fn error(&self) -> Option<StoreError> {
        self.reasons.iter().min_by_key(|(cause, _)| *cause).map(|(_, error)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FailureKind;

    #[test]
    fn what_blockers_the_stream_up_is_not_over_because_a_store_can_be_read() {
        let mut blockers = Blockers::default();
        let hold = |blockers: &mut Blockers, what, reason: &str| {
            blockers.block(what, StoreError::away(FailureKind::Worker, reason))
        };
        assert!(hold(&mut blockers, Cause::Reads, "redis is away"));
        assert!(hold(&mut blockers, Cause::Stream, "capture is paused"));
        assert!(!hold(&mut blockers, Cause::Stream, "capture is paused"), "said already");
        assert_eq!(blockers.reason(), "capture is paused");
        assert_eq!(blockers.clear(Cause::Reads).as_deref(), Some("redis is away"));
        assert_eq!(blockers.reason(), "capture is paused");
        assert_eq!(blockers.clear(Cause::Writes), None);
        assert_eq!(blockers.clear(Cause::Stream).as_deref(), Some("capture is paused"));
        assert_eq!(blockers.reason(), "");
        assert!(!hold(&mut blockers, Cause::Stream, "capture is paused"), "it was not over");
        assert_eq!((blockers.clear(Cause::Stream), blockers.reason()), (None, String::new()));
    }

    #[test]
    fn one_reason_is_held_once_by_whom_it_was_told_first() {
        let mut blockers = Blockers::default();
        let hold = |blockers: &mut Blockers, what, reason: &str| {
            blockers.block(what, StoreError::away(FailureKind::Worker, reason))
        };
        assert!(hold(&mut blockers, Cause::Stream, "capture is paused"));
        assert!(!hold(&mut blockers, Cause::Reads, "capture is paused"));
        assert_eq!(blockers.clear(Cause::Reads), None);
        assert_eq!(blockers.reason(), "capture is paused");
    }
}
