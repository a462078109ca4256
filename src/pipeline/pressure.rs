//! How many evicted keys are restored: fewer and fewer while Redis evicts again, so that data which does not fit into it does not push
//! out the keys of applications for ever.
//!
//! ```text
//!   a restore takes a place of the window; a window of many restores in which keys were evicted again halves the places and
//!   doubles its length, any other gives both back. What finds no place waits for the next window.
//! ```
//!
//! Rather than a pause for each pair: what fits is a matter of the whole server, and a hundred thousand pairs with a pause each are
//! still a stream of writes without an end.

use crate::env::{Instant, lock};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Restores in a window at first. Half as many in each, 50 a second, are what a cache that lives with evictions may cost.
const PLACES_MAX: u32 = 200;
/// Restores in a window while everything is: enough to notice when there is room.
const PLACES_MIN: u32 = 8;
/// Length of a window at first: an eviction comes within moments of the write that causes it.
const WINDOW: Duration = Duration::from_secs(2);
/// The longest: what fits again is restored at full speed after this window, a quarter of it and three of the first length, 26 s.
const WINDOW_MAX: Duration = Duration::from_secs(16);

#[derive(Debug)]
struct Inner {
    begun: Option<Instant>,
    window: Duration,
    places: u32,
    used: u32,
    evicted: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pressure {
    inner: Mutex<Inner>,
}

impl Default for Pressure {
    fn default() -> Pressure {
        let inner = Inner { begun: None, window: WINDOW, places: PLACES_MAX, used: 0, evicted: 0 };
        Pressure { inner: Mutex::new(inner) }
    }
}

impl Inner {
    fn roll(&mut self, now: Instant) {
        let Some(begun) = self.begun else { return };
        if now.saturating_duration_since(begun) < self.window {
            return;
        }
        let causes = self.used >= self.places / 2 && self.evicted > 0;
        if causes {
            self.places = (self.places / 2).max(PLACES_MIN);
            self.window = (self.window * 2).min(WINDOW_MAX);
        } else {
            self.places = (self.places * 4).min(PLACES_MAX);
            self.window = (self.window / 4).max(WINDOW);
        }
        let is_calm = !causes && self.places == PLACES_MAX && self.window == WINDOW;
        (self.used, self.evicted) = (0, 0);
        self.begun = (!is_calm).then_some(now);
    }
}

impl Pressure {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// A key of the pipeline was evicted.
    pub(super) fn evicted(&self) {
        self.evicted_at(Instant::now());
    }

    fn evicted_at(&self, now: Instant) {
        let mut inner = self.inner();
        inner.roll(now);
        inner.begun.get_or_insert(now);
        inner.evicted = inner.evicted.saturating_add(1);
    }

    /// Whether keys were evicted lately.
    pub(super) fn is_felt(&self) -> bool {
        let mut inner = self.inner();
        inner.roll(Instant::now());
        inner.begun.is_some()
    }

    /// Whether restored keys are evicted again, so that restores are fewer than could be.
    pub(super) fn is_tight(&self) -> bool {
        let mut inner = self.inner();
        inner.roll(Instant::now());
        inner.places < PLACES_MAX
    }

    /// Takes a place to restore a key; otherwise how long it waits for the next window.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let mut inner = self.inner();
        inner.roll(now);
        let Some(begun) = inner.begun else { return Ok(()) };
        if inner.used < inner.places {
            inner.used += 1;
            return Ok(());
        }
        Err(inner.window.saturating_sub(now.saturating_duration_since(begun)).max(Duration::from_millis(50)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Restores and evictions of so many keys, each evicted again at once, for so long.
    fn restored(pressure: &Pressure, start: Instant, seconds: std::ops::Range<u32>, evicts: bool) -> u32 {
        let mut restored = 0;
        for second in seconds {
            for part in 0..100 {
                let now = start + Duration::from_millis(u64::from(second) * 1_000 + part * 10);
                for _ in 0..50 {
                    if pressure.take_at(now).is_ok() {
                        restored += 1;
                        if evicts {
                            pressure.evicted_at(now);
                        }
                    }
                }
            }
        }
        restored
    }

    #[test]
    fn restores_that_evict_become_few_and_all_come_back_when_there_is_room() {
        let (pressure, start) = (Pressure::default(), Instant::now());
        pressure.evicted_at(start);
        let first = restored(&pressure, start, 0..10, true);
        assert!(first <= 600, "{first}");
        restored(&pressure, start, 10..600, true);
        let late = restored(&pressure, start, 600..1_200, true);
        assert!((PLACES_MIN..=310).contains(&late), "{late} in ten minutes");
        let room = restored(&pressure, start, 1_200..1_320, false);
        assert!(room > 50_000, "{room}");
        assert!(pressure.inner().begun.is_none());
    }

    #[test]
    fn without_an_eviction_nothing_is_counted() {
        let (pressure, start) = (Pressure::default(), Instant::now());
        assert_eq!(restored(&pressure, start, 0..10, false), 50_000);
    }
}
