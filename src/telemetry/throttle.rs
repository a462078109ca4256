//! Rate-limited logging: a reason that lasts is one log line when it begins and one each minute,
//! not one for each attempt.

use crate::env::Instant;
use std::time::Duration;

/// A reason that lasts is logged again after this time, so that the newest part of a log still
/// names what is blocking.
const AGAIN: Duration = Duration::from_secs(60);

/// A reason that returns within this time had not ended: two connections to one server, of which
/// one still works, alternate many times a second.
const QUIET: Duration = Duration::from_secs(5);

/// How many reasons may alternate without being logged each time: two stores, a stream and its
/// brokers.
const REASONS_MAX: usize = 8;

/// The reasons that were logged in the last 60 s.
#[derive(Debug, Clone, Default)]
pub struct LogThrottle {
    /// The oldest first.
    logged: Vec<Logged>,
}

#[derive(Debug, Clone)]
struct Logged {
    reason: String,
    at: Instant,
    /// When it last ended.
    ended: Option<Instant>,
    /// It returned after its end was logged, too soon to be logged again.
    returned: bool,
}

impl LogThrottle {
    /// Nothing was logged.
    #[must_use]
    pub const fn new() -> LogThrottle {
        LogThrottle { logged: Vec::new() }
    }

    /// Whether to log this reason now. If so, it counts as logged.
    pub fn is_due(&mut self, reason: &str) -> bool {
        self.is_due_at(reason, Instant::now())
    }

    fn is_due_at(&mut self, reason: &str, now: Instant) -> bool {
        let is_stale = |logged: &Logged| {
            let has_ended = logged.ended.is_some_and(|ended| now.saturating_duration_since(ended) >= QUIET);
            has_ended || now.saturating_duration_since(logged.at) >= AGAIN
        };
        self.logged.retain(|logged| !is_stale(logged));
        if let Some(logged) = self.logged.iter_mut().find(|logged| logged.reason == reason) {
            logged.returned |= logged.ended.take().is_some();
            return false;
        }
        if self.logged.len() >= REASONS_MAX {
            self.logged.remove(0);
        }
        self.logged.push(Logged { reason: reason.to_owned(), at: now, ended: None, returned: false });
        true
    }

    /// The reason has ended. Returns whether to log that: not if it had returned too soon to be
    /// logged.
    pub fn end(&mut self, reason: &str) -> bool {
        self.end_at(reason, Instant::now())
    }

    fn end_at(&mut self, reason: &str, now: Instant) -> bool {
        let Some(logged) = self.logged.iter_mut().find(|logged| logged.reason == reason) else { return true };
        logged.ended = Some(now);
        !logged.returned
    }

    /// All reasons have ended: the next one is logged, whichever it is.
    pub fn clear(&mut self) {
        self.logged.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_lasts_is_logged_at_once_and_then_once_a_minute() {
        let (mut throttle, start) = (LogThrottle::new(), Instant::now());
        let due: Vec<u64> =
            (0..200).filter(|second| throttle.is_due_at("away", start + Duration::from_secs(*second))).collect();
        assert_eq!(due, [0, 60, 120, 180]);
    }

    #[test]
    fn another_reason_is_logged_at_once_and_alternating_reasons_once_each() {
        let (mut throttle, start) = (LogThrottle::new(), Instant::now());
        let logged_of = |reason: &str, throttle: &mut LogThrottle| {
            (0..50).filter(|second| throttle.is_due_at(reason, start + Duration::from_secs(*second))).count()
        };
        assert!(throttle.is_due_at("away", start));
        assert!(throttle.is_due_at("refused", start));
        assert_eq!([logged_of("away", &mut throttle), logged_of("refused", &mut throttle)], [0, 0]);
        throttle.clear();
        assert!(throttle.is_due_at("away", start), "after an end it is logged again");
    }

    #[test]
    fn a_reason_that_ends_and_returns_many_times_a_second_is_logged_once() {
        let (mut throttle, start) = (LogThrottle::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(throttle.is_due_at("away", at(0)) && throttle.end_at("away", at(10)));
        for turn in 1..100 {
            assert!(!throttle.is_due_at("away", at(turn * 100)) && !throttle.end_at("away", at(turn * 100 + 10)));
        }
        assert!(
            throttle.is_due_at("away", at(20_000)) && throttle.end_at("away", at(20_010)),
            "after a while it is logged again"
        );
    }

    #[test]
    fn reasons_that_never_return_are_dropped() {
        let (mut throttle, start) = (LogThrottle::new(), Instant::now());
        assert!((0..1_000).all(|number| throttle.is_due_at(&number.to_string(), start)));
        assert!(throttle.logged.len() <= REASONS_MAX);
    }
}
