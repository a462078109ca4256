//! How far the ensemble's clock is ahead of ours, for the rule that asks which of two changes is
//! the later one.
//!
//! ```text
//!   our clock        sent ---------- answered        ahead is between  stamp - answered  and  stamp - sent
//!   the ensemble's         stamp                     each measurement narrows what the ones before left open
//! ```
//!
//! Ours is a clock that nobody sets ([`steady_ms`]); the ensemble's may be. A measurement that the
//! ones before exclude means that it was: times from before cannot be compared with times from
//! after.

use crate::env;

/// Two clocks may drift apart by this part of the time that passes, without either being set: a
/// clock that is being slewed runs up to 500 millionths faster or slower, and so may the other.
const DRIFT: i64 = 1000;

/// Rounding of the two clocks to milliseconds.
const ROUNDING_MS: i64 = 1;

/// Milliseconds since the epoch, by this machine's clock as it was when the process first asked for
/// it, and what has passed since: whoever sets that clock does not move this one.
#[must_use]
pub fn steady_ms() -> i64 {
    let (start_ms, start) = env::clock::began();
    start_ms.saturating_add(i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// What this machine's clock shows now for a moment of [`steady_ms`].
#[must_use]
pub fn shown_ms(steady: i64) -> i64 {
    env::unix_ms().saturating_sub(steady_ms().saturating_sub(steady))
}

/// See the module. All its times of ours are those of [`steady_ms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockOffset {
    measured: Option<Measured>,
    /// The ensemble's clock was set before this moment of ours.
    set_before_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    /// Bounds of what it is ahead.
    least_ms: i64,
    most_ms: i64,
    /// When that held.
    at_ms: i64,
}

impl Measured {
    /// The reading of the clock at a later moment.
    fn at(self, now_ms: i64) -> Measured {
        let drift_ms = (now_ms.saturating_sub(self.at_ms).max(0) + DRIFT - 1) / DRIFT;
        Measured { least_ms: self.least_ms - drift_ms, most_ms: self.most_ms + drift_ms, at_ms: now_ms }
    }
}

/// A time of ours by the ensemble's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// Milliseconds since the epoch.
    pub ms: i64,
    /// It may be so much earlier or later.
    pub doubt_ms: i64,
}

impl ClockOffset {
    /// Takes in that the ensemble stamped something with this time between these two moments of
    /// ours.
    pub fn measure(&mut self, sent_ms: i64, answered_ms: i64, stamp_ms: i64) {
        let (least_ms, most_ms) = (stamp_ms - answered_ms - ROUNDING_MS, stamp_ms - sent_ms + ROUNDING_MS);
        let now = Measured { least_ms, most_ms, at_ms: answered_ms };
        let before = self.measured.map(|before| before.at(answered_ms));
        self.measured = Some(match before {
            Some(before) if before.least_ms <= most_ms && least_ms <= before.most_ms => Measured {
                least_ms: least_ms.max(before.least_ms),
                most_ms: most_ms.min(before.most_ms),
                at_ms: answered_ms,
            },
            Some(_) => {
                self.set_before_ms = Some(answered_ms);
                now
            }
            None => now,
        });
    }

    /// Whether nothing was measured for this long.
    #[must_use]
    pub fn is_older_than(&self, age_ms: i64, now_ms: i64) -> bool {
        self.measured.is_none_or(|measured| now_ms.saturating_sub(measured.at_ms) > age_ms)
    }

    /// This moment of ours by the ensemble's clock, to be compared with a time that the ensemble
    /// stamped; `None` where that is unknown, since its clock was set after the earlier of the two.
    #[must_use]
    pub fn convert(&self, ours_ms: i64, stamp_ms: i64, now_ms: i64) -> Option<Converted> {
        let Measured { least_ms, most_ms, .. } = self.measured?.at(now_ms);
        let (ahead_ms, doubt_ms) = (i64::midpoint(least_ms, most_ms), (most_ms - least_ms + 1) / 2);
        let stamped_ms = stamp_ms.saturating_sub(ahead_ms);
        let is_comparable =
            self.set_before_ms.is_none_or(|set_ms| ours_ms >= set_ms && stamped_ms >= set_ms.saturating_sub(doubt_ms));
        is_comparable.then_some(Converted { ms: ours_ms.saturating_add(ahead_ms), doubt_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is this much ahead, measured at these moments with answers that take 4 ms.
    fn measured(ahead_and_at: &[(i64, i64)]) -> ClockOffset {
        let mut clock = ClockOffset::default();
        for (ahead_ms, at_ms) in ahead_and_at {
            clock.measure(*at_ms, at_ms + 4, at_ms + 2 + ahead_ms);
        }
        clock
    }

    #[test]
    fn nothing_is_known_before_a_measurement() {
        assert_eq!(ClockOffset::default().convert(1_000, 1_000, 1_000), None);
    }

    #[test]
    fn a_moment_is_converted_with_half_the_round_trip_as_doubt() {
        let clock = measured(&[(500, 1_000)]);
        assert_eq!(clock.convert(2_000, 2_500, 1_004), Some(Converted { ms: 2_500, doubt_ms: 3 }));
    }

    #[test]
    fn a_slow_answer_does_not_blur_what_is_known_and_age_does() {
        let mut clock = measured(&[(500, 1_000)]);
        // Between 0 and 3,000 ahead.
        clock.measure(1_010, 4_010, 4_010);
        assert_eq!(clock.convert(4_010, 4_510, 4_010), Some(Converted { ms: 4_510, doubt_ms: 7 }));
        let later = clock.convert(4_010, 4_510, 64_010);
        assert_eq!(later.map(|converted| converted.doubt_ms), Some(67));
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let moments: Vec<(i64, i64)> = (0..1_000).map(|n| (n, 2_000 * n)).collect();
        let clock = measured(&moments);
        let converted = clock.convert(2_000_000, 2_001_000, 2_000_000);
        assert!(
            converted.is_some_and(|at| (at.ms - 2_001_000).abs() <= at.doubt_ms && at.doubt_ms < 10),
            "{converted:?}"
        );
    }

    #[test]
    fn times_from_before_and_after_a_clock_was_set_are_not_compared() {
        let clock = measured(&[(0, 1_000), (0, 3_000), (-3_600_000, 5_000)]);
        // The key changed before, the znode after; both before; the znode before, the key after.
        assert_eq!(clock.convert(4_000, 6_000 - 3_600_000, 7_000), None);
        assert_eq!(clock.convert(4_000, 3_500, 7_000), None);
        assert_eq!(clock.convert(6_000, 4_900 - 3_600_000, 7_000), None);
        // Both after.
        let after = clock.convert(6_000, 5_500 - 3_600_000, 7_000);
        assert_eq!(after.map(|at| at.ms), Some(6_000 - 3_600_000));
    }

    #[test]
    fn the_steady_clock_shows_what_the_wall_shows_while_nobody_sets_it() {
        assert!((shown_ms(steady_ms()) - env::unix_ms()).abs() < 60_000);
    }
}
