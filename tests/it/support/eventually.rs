//! Waiting for a condition, with a deadline and with what was last seen when it passes.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How many times its deadline anything is waited for. A deadline says when to give up, not how fast the program must be: a
/// machine with other work on it takes longer for everything.
pub const PATIENCE: u32 = 4;

/// Asks again and again until the probe gives `Ok`. `Err` says what it saw instead; when `within` has passed [`PATIENCE`]
/// times the test fails with `what` was waited for and with what was last seen.
#[track_caller]
pub fn eventually<T>(
    what: impl Display,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let within = within * PATIENCE;
        let start = Instant::now();
        let mut pause = Duration::from_millis(5);
        let mut seen = String::from("nothing: the first look did not come back");
        loop {
            let left = within.saturating_sub(start.elapsed());
            match tokio::time::timeout(left.max(pause), probe()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(other)) => seen = other,
                Err(_) => {}
            }
            assert!(start.elapsed() < within, "{caller}: after {within:?} still not: {what}\n  last seen: {seen}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// [`eventually`] for a value that shall become `wanted`.
#[track_caller]
pub fn eventually_is<T: PartialEq + Debug>(
    what: impl Display,
    within: Duration,
    wanted: T,
    mut probe: impl AsyncFnMut() -> T,
) -> impl Future<Output = ()> {
    let what = format!("{what} is {wanted:?}");
    // The caller's place is taken here, in the synchronous part: inside the future it would be the executor's.
    eventually(what, within, async move || {
        let seen = probe().await;
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
}

/// Looks for the whole of `during` and fails as soon as the probe sees the forbidden thing (`Err` says what).
#[track_caller]
pub fn never(
    what: impl Display,
    during: Duration,
    mut probe: impl AsyncFnMut() -> Result<(), String>,
) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        while start.elapsed() < during {
            if let Err(seen) = probe().await {
                panic!("{caller}: after {:?}, though never expected, {what}: {seen}", start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
