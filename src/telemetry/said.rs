//! What was said already: a reason that lasts is one log line when it comes, not one for each attempt.

use crate::env::Instant;
use std::time::Duration;

/// A reason that lasts is said again after so long: a log that is looked at later still says what holds things up.
const AGAIN: Duration = Duration::from_secs(60);

/// What comes back within this time was not over: two connections to one server, of which one still works, take turns many times a second.
const QUIET: Duration = Duration::from_secs(5);

/// So many reasons take turns without being said each time: two stores, a stream and its brokers.
const REASONS_MAX: usize = 8;

/// Remembers which reasons were said in the last 60 s.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The oldest first.
    told: Vec<Told>,
}

#[derive(Debug, Clone)]
struct Told {
    reason: String,
    at: Instant,
    /// When it was over last.
    over: Option<Instant>,
    /// It has come back since it was said that it is over, too soon to be news.
    is_back: bool,
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
        let is_stale = |told: &Told| {
            let is_over = told.over.is_some_and(|over| now.saturating_duration_since(over) >= QUIET);
            is_over || now.saturating_duration_since(told.at) >= AGAIN
        };
        self.told.retain(|told| !is_stale(told));
        if let Some(told) = self.told.iter_mut().find(|told| told.reason == reason) {
            told.is_back |= told.over.take().is_some();
            return false;
        }
        if self.told.len() >= REASONS_MAX {
            self.told.remove(0);
        }
        self.told.push(Told { reason: reason.to_owned(), at: now, over: None, is_back: false });
        true
    }

    /// This is over; whether to say so. When it comes back after a while, it is news.
    pub fn end(&mut self, reason: &str) -> bool {
        self.end_at(reason, Instant::now())
    }

    fn end_at(&mut self, reason: &str, now: Instant) -> bool {
        let Some(told) = self.told.iter_mut().find(|told| told.reason == reason) else { return true };
        told.over = Some(now);
        !told.is_back
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
    fn what_ends_and_comes_back_many_times_a_second_is_said_once() {
        let (mut said, start) = (Said::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(said.is_due_at("away", at(0)) && said.end_at("away", at(10)));
        for turn in 1..100 {
            assert!(!said.is_due_at("away", at(turn * 100)) && !said.end_at("away", at(turn * 100 + 10)));
        }
        assert!(said.is_due_at("away", at(20_000)) && said.end_at("away", at(20_010)), "after a while it is news");
    }

    #[test]
    fn reasons_that_never_come_back_are_forgotten() {
        let (mut said, start) = (Said::new(), Instant::now());
        assert!((0..1_000).all(|number| said.is_due_at(&number.to_string(), start)));
        assert!(said.told.len() <= REASONS_MAX);
    }
}
