//! What holds a pipeline up: each thing until that very thing works again. That a store can be read does not mean that the
//! stream takes records.

use super::engine::{Engine, lock};
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
}

/// The reasons that hold now, and which of them the log has.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    reasons: Vec<(Held, String)>,
    said: Said,
}

impl Holds {
    /// Answers whether to say it.
    fn hold(&mut self, what: Held, reason: &str) -> bool {
        if self.reasons.iter().all(|(_, held)| held != reason) {
            self.reasons.retain(|(held, _)| *held != what);
            self.reasons.push((what, reason.to_owned()));
        }
        self.said.is_due(reason)
    }

    /// It works: answers what had been in the way.
    fn release(&mut self, what: Held) -> Option<String> {
        let at = self.reasons.iter().position(|(held, _)| *held == what)?;
        let (_, reason) = self.reasons.remove(at);
        self.said.forget(&reason);
        Some(reason)
    }

    /// Whether this does not work.
    pub(super) fn has(&self, what: Held) -> bool {
        self.reasons.iter().any(|(held, _)| *held == what)
    }

    /// What is shown; empty while nothing is held up.
    pub(super) fn reason(&self) -> String {
        self.reasons.iter().min_by_key(|(held, _)| *held).map(|(_, reason)| reason.clone()).unwrap_or_default()
    }
}

impl Engine {
    /// Says what holds things up.
    pub(super) fn held_up(&self, what: Held, reason: &str) {
        if lock(&self.live).holds.hold(what, reason) {
            tracing::warn!(pipeline = self.settings.pipeline, "{reason}");
        }
    }

    /// This works.
    pub(super) fn works(&self, what: Held) {
        let reason = lock(&self.live).holds.release(what);
        if let Some(reason) = reason {
            tracing::info!(pipeline = self.settings.pipeline, "resumed after: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_the_stream_up_is_not_over_because_a_store_can_be_read() {
        let mut holds = Holds::default();
        assert!(holds.hold(Held::Reads, "redis is away"));
        assert!(holds.hold(Held::Stream, "capture is paused"));
        assert!(!holds.hold(Held::Stream, "capture is paused"), "said already");
        assert_eq!(holds.reason(), "capture is paused");
        assert_eq!(holds.release(Held::Reads).as_deref(), Some("redis is away"));
        assert_eq!(holds.reason(), "capture is paused");
        assert_eq!(holds.release(Held::Writes), None);
        assert_eq!(holds.release(Held::Stream).as_deref(), Some("capture is paused"));
        assert_eq!(holds.reason(), "");
        assert!(holds.hold(Held::Stream, "capture is paused"), "after an end it is news again");
    }

    #[test]
    fn one_reason_is_held_once_by_whom_it_was_told_first() {
        let mut holds = Holds::default();
        assert!(holds.hold(Held::Stream, "capture is paused"));
        assert!(!holds.hold(Held::Reads, "capture is paused"));
        assert_eq!(holds.release(Held::Reads), None);
        assert_eq!(holds.reason(), "capture is paused");
    }
}
