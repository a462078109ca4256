//! What was said already: a reason that lasts is one log line when it comes, not one for each attempt.

use crate::env::Instant;
use std::time::Duration;

/// A reason that lasts is said again after so long: a log that is looked at later still says what holds things up.
const AGAIN: Duration = Duration::from_secs(60);

/// So many reasons take turns without being said each time: two stores, a stream and its brokers.
const REASONS_MAX: usize = 8;

/// Remembers which reasons were said in the last 60 s.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The oldest first.
    told: Vec<(String, Instant)>,
}

impl Said {
    /// Nothing was said.
    #[must_use]
    pub const fn new() -> Said {
        Said { told: Vec::new() }
    }

    /// Whether to say this now. If so, it counts as said.
    pub fn is_due(&mut self, reason: &str) -> bool {
        self.is_due_at(reason, Instant::now())
    }

    fn is_due_at(&mut self, reason: &str, now: Instant) -> bool {
        self.told.retain(|(_, at)| now.saturating_duration_since(*at) < AGAIN);
        if self.told.iter().any(|(told, _)| told == reason) {
            return false;
        }
        if self.told.len() >= REASONS_MAX {
            self.told.remove(0);
        }
        self.told.push((reason.to_owned(), now));
        true
    }

    /// This is over: when it comes back, it is news.
    pub fn forget(&mut self, reason: &str) {
        self.told.retain(|(told, _)| told != reason);
    }

    /// All is over: the next reason is news, whichever it is.
    pub fn clear(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_lasts_is_said_at_once_and_then_once_a_minute() {
        let (mut said, start) = (Said::new(), Instant::now());
        let due: Vec<u64> =
            (0..200).filter(|second| said.is_due_at("away", start + Duration::from_secs(*second))).collect();
        assert_eq!(due, [0, 60, 120, 180]);
    }

    #[test]
    fn another_reason_is_said_at_once_and_reasons_that_take_turns_once_each() {
        let (mut said, start) = (Said::new(), Instant::now());
        let said_of = |reason: &str, said: &mut Said| {
            (0..50).filter(|second| said.is_due_at(reason, start + Duration::from_secs(*second))).count()
        };
        assert!(said.is_due_at("away", start));
        assert!(said.is_due_at("refused", start));
        assert_eq!([said_of("away", &mut said), said_of("refused", &mut said)], [0, 0]);
        said.clear();
        assert!(said.is_due_at("away", start), "after an end it is news again");
    }

    #[test]
    fn reasons_that_never_come_back_are_forgotten() {
        let (mut said, start) = (Said::new(), Instant::now());
        assert!((0..1_000).all(|number| said.is_due_at(&number.to_string(), start)));
        assert!(said.told.len() <= REASONS_MAX);
    }
}
