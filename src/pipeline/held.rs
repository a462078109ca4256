//! What holds a pipeline up: each thing until that very thing works again. That a store can be read does not mean that the
//! stream takes records.

use crate::store::StoreError;
use crate::telemetry::Said;

/// What does not work, the most important first: it is what `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
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
pub(super) struct Holds {
    reasons: Vec<(Held, StoreError)>,
    said: Said,
}

impl Holds {
    /// Answers whether to say it.
    pub(super) fn hold(&mut self, what: Held, error: StoreError) -> bool {
        let reason = error.to_string();
        if self.reasons.iter().all(|(_, held)| held.to_string() != reason) {
            self.reasons.retain(|(held, _)| *held != what);
            self.reasons.push((what, error));
        }
        self.said.is_due(&reason)
    }

    /// It works: answers what had been in the way, if that is to be said.
    pub(super) fn release(&mut self, what: Held) -> Option<String> {
        let at = self.reasons.iter().position(|(held, _)| *held == what)?;
        let reason = self.reasons.remove(at).1.to_string();
        self.said.end(&reason).then_some(reason)
    }

    /// Whether this does not work.
    pub(super) fn has(&self, what: Held) -> bool {
        self.reasons.iter().any(|(held, _)| *held == what)
    }

    /// What is shown; empty while nothing is held up.
    pub(super) fn reason(&self) -> String {
        self.error().map(|error| error.to_string()).unwrap_or_default()
    }

    /// What is shown, with its kind.
    pub(super) fn error(&self) -> Option<StoreError> {
        self.reasons.iter().min_by_key(|(held, _)| *held).map(|(_, error)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_the_stream_up_is_not_over_because_a_store_can_be_read() {
        let mut holds = Holds::default();
        let hold = |holds: &mut Holds, what, reason: &str| holds.hold(what, StoreError::Away(reason.to_owned()));
        assert!(hold(&mut holds, Held::Reads, "redis is away"));
        assert!(hold(&mut holds, Held::Stream, "capture is paused"));
        assert!(!hold(&mut holds, Held::Stream, "capture is paused"), "said already");
        assert_eq!(holds.reason(), "capture is paused");
        assert_eq!(holds.release(Held::Reads).as_deref(), Some("redis is away"));
        assert_eq!(holds.reason(), "capture is paused");
        assert_eq!(holds.release(Held::Writes), None);
        assert_eq!(holds.release(Held::Stream).as_deref(), Some("capture is paused"));
        assert_eq!(holds.reason(), "");
        assert!(!hold(&mut holds, Held::Stream, "capture is paused"), "it was not over");
        assert_eq!((holds.release(Held::Stream), holds.reason()), (None, String::new()));
    }

    #[test]
    fn one_reason_is_held_once_by_whom_it_was_told_first() {
        let mut holds = Holds::default();
        let hold = |holds: &mut Holds, what, reason: &str| holds.hold(what, StoreError::Away(reason.to_owned()));
        assert!(hold(&mut holds, Held::Stream, "capture is paused"));
        assert!(!hold(&mut holds, Held::Reads, "capture is paused"));
        assert_eq!(holds.release(Held::Reads), None);
        assert_eq!(holds.reason(), "capture is paused");
    }
}
