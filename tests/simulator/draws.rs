//! Numbers that follow from a seed. Each draw is keyed by its purpose and by what it is for, so that leaving one action out of a plan does
//! not shift the draws of the others.

use std::time::Duration;

/// Draws of one purpose.
#[derive(Debug, Clone, Copy)]
pub struct Draws(u64);

/// SplitMix64's finalizer: each bit of the result depends on each bit of the number.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Draws {
    #[must_use]
    pub fn of(seed: u64) -> Draws {
        Draws(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    /// Those for this.
    #[must_use]
    pub fn with(self, key: u64) -> Draws {
        Draws(mix(self.0 ^ mix(key.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// Those for what has this name.
    #[must_use]
    pub fn named(self, name: &str) -> Draws {
        name.bytes().fold(self, |draws, byte| Draws(mix(draws.0 ^ u64::from(byte))))
    }

    /// The n-th number.
    #[must_use]
    pub fn number(self, n: u64) -> u64 {
        self.with(n).0
    }

    /// The n-th number, below this one; 0 if that is 0.
    #[must_use]
    pub fn below(self, n: u64, limit: u64) -> u64 {
        self.number(n).checked_rem(limit).unwrap_or(0)
    }

    /// The n-th part of one.
    #[must_use]
    pub fn part(self, n: u64) -> f64 {
        (self.number(n) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The n-th answer to whether something happens that has this probability.
    #[must_use]
    pub fn happens(self, n: u64, probability: f64) -> bool {
        self.part(n) < probability
    }

    /// The n-th number between these, of which each order of magnitude is as likely as any other.
    #[must_use]
    pub fn log_uniform(self, n: u64, low: f64, high: f64) -> f64 {
        (low.ln() + (high.ln() - low.ln()) * self.part(n)).exp()
    }

    /// The n-th time between these, as [`Draws::log_uniform`].
    #[must_use]
    pub fn time(self, n: u64, low: Duration, high: Duration) -> Duration {
        Duration::from_secs_f64(self.log_uniform(n, low.as_secs_f64(), high.as_secs_f64()))
    }

    /// The n-th one of these.
    #[must_use]
    pub fn one<T: Copy>(self, n: u64, all: &[T]) -> T {
        all[self.below(n, all.len() as u64) as usize]
    }
}
