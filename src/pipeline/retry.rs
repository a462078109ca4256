//! How long to wait before trying again. The only place that knows `backoff` (RUSTSEC-2025-0012, see `deny.toml`).

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::time::Duration;

/// The first pause: about what a restart of a connection takes.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause: an operator who repairs something sees the effect within it.
const LONGEST: Duration = Duration::from_secs(3);

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
            ..ExponentialBackoff::default()
        })
    }
}

impl Pauses {
    /// How long to wait now; longer each time.
    pub fn pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }

    /// Something worked: begin again with the shortest.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}
