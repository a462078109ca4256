//! How long to wait before trying again. The only place that knows `backoff` (RUSTSEC-2025-0012, see `deny.toml`).

use crate::env::{self, Instant, lock};
use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The first pause: about what a restart of a connection takes.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause: an operator who repairs something sees the effect within it.
const LONGEST: Duration = Duration::from_secs(3);

/// By this part of it a pause is shorter or longer, so that those who were refused together do not come again together.
const JITTER: f64 = 0.5;

/// Growing pauses with jitter, without an end: a worker waits for its stores for as long as it lives.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses(ExponentialBackoff {
            current_interval: FIRST,
            initial_interval: FIRST,
            max_interval: LONGEST,
            max_elapsed_time: None,
            // Its own randomness is that of a thread, which nobody can set.
            randomization_factor: 0.0,
            ..ExponentialBackoff::default()
        })
    }
}

impl Pauses {
    /// How long to wait now; longer each time.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0.next_backoff().unwrap_or(LONGEST);
        pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * env::random::fraction())
    }

    /// Something worked: begin again with the shortest.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// The pauses of all who wait for one thing together, each of whom tries by itself: they grow with the time for which it refuses,
/// not with the number of those whom it refuses.
#[derive(Debug, Default)]
pub struct SharedPauses(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    pauses: Pauses,
    /// When the next try is due.
    until: Option<Instant>,
}

impl SharedPauses {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.0)
    }

    /// It refused: how long to wait now. Whoever is refused before that is over waits for the same moment.
    pub fn refused(&self) -> Duration {
        self.refused_at(Instant::now())
    }

    fn refused_at(&self, now: Instant) -> Duration {
        let mut waiting = self.waiting();
        match waiting.until {
            Some(until) if now < until => return until - now,
            // Nobody has tried for so long: whatever it was is over.
            Some(until) if now > until + LONGEST => waiting.pauses.reset(),
            _ => {}
        }
        let pause = waiting.pauses.pause();
        waiting.until = Some(now + pause);
        pause
    }

    /// It works: the next pause is the shortest.
    pub fn worked(&self) {
        let mut waiting = self.waiting();
        waiting.pauses.reset();
        waiting.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_of_all_who_wait_for_one_thing_grow_with_the_time_and_not_with_their_number() {
        let pauses = SharedPauses::default();
        let mut now = Instant::now();
        let first = pauses.refused_at(now);
        for _ in 0..1000 {
            assert_eq!(pauses.refused_at(now), first);
        }
        let mut longest = first;
        for _ in 0..30 {
            now += pauses.refused_at(now);
            longest = longest.max(pauses.refused_at(now));
        }
        assert!(first <= FIRST * 2 && longest > FIRST * 10 && longest <= LONGEST * 2, "{first:?} {longest:?}");
        pauses.worked();
        assert!(pauses.refused_at(now) <= FIRST * 2);
    }
}
