//! What time it is, and waiting.
//!
//! Two clocks: [`Instant`] only goes on and is for what has passed; [`unix_time`] is what the machine's clock shows, which
//! people and NTP set, and is for what others read.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here the world's clock is asked, and nowhere else"
)]

use super::world;
use futures::future::{Either, select};
use std::ops::{Add, AddAssign, Sub};
use std::pin::pin;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// A moment of a clock that nobody sets, counted from when it was first asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// This moment.
    #[must_use]
    pub fn now() -> Instant {
        Instant(world::here().map_or_else(|| START.elapsed(), |world| world.now()))
    }

    /// What has passed since.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }

    /// The time from `earlier` to this moment; zero if it is the later one.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// The last moment that can be told where the sum is beyond it.
    fn add(self, time: Duration) -> Instant {
        Instant(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// As [`Instant::saturating_duration_since`].
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// What the machine's clock shows, since 1970 in UTC; zero if it is set to a time before.
#[must_use]
pub fn unix_time() -> Duration {
    match world::here() {
        Some(world) => world.unix_time(),
        None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

/// What both clocks showed when the process first asked: [`unix_ms`], and the moment.
#[must_use]
pub fn began() -> (i64, Instant) {
    static BEGAN: LazyLock<(i64, Instant)> = LazyLock::new(|| (unix_ms(), Instant::now()));
    match world::here() {
        Some(world) => {
            let (ms, moment) = world.began();
            (ms, Instant(moment))
        }
        None => *BEGAN,
    }
}

/// As [`unix_time`], in milliseconds.
#[must_use]
pub fn unix_ms() -> i64 {
    i64::try_from(unix_time().as_millis()).unwrap_or(i64::MAX)
}

/// Waits so long. May be dropped at any time.
pub fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
    match world::here() {
        Some(world) => Either::Right(world.sleep(time)),
        None => Either::Left(tokio::time::sleep(time)),
    }
}

/// Waits until then.
pub fn sleep_until(moment: Instant) -> impl Future<Output = ()> + Send {
    sleep(moment - Instant::now())
}

/// The time was over before the answer was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

/// Waits for an answer, at most so long; what gives it is dropped after that.
///
/// # Errors
/// There was none in time.
pub async fn timeout<F: Future>(time: Duration, answer: F) -> Result<F::Output, TimedOut> {
    // tokio's own also ends an answer that uses up its turn each time.
    let Some(world) = world::here() else { return tokio::time::timeout(time, answer).await.map_err(|_| TimedOut) };
    match select(pin!(answer), world.sleep(time)).await {
        Either::Left((answer, _)) => Ok(answer),
        Either::Right(_) => Err(TimedOut),
    }
}

/// As [`timeout`], until then.
///
/// # Errors
/// There was none in time.
pub async fn timeout_at<F: Future>(moment: Instant, answer: F) -> Result<F::Output, TimedOut> {
    timeout(moment - Instant::now(), answer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_waited_for_and_told() {
        let begun = Instant::now();
        sleep(Duration::from_millis(2)).await;
        assert!(begun.elapsed() >= Duration::from_millis(2) && Instant::now() > begun);
        assert_eq!(begun - Instant::now(), Duration::ZERO, "not less than nothing");
        assert_eq!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await, Err(TimedOut));
        assert_eq!(timeout_at(Instant::now() + Duration::from_secs(60), async { 1 }).await, Ok(1));
    }
}
