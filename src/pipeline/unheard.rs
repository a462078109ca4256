//! For how long a source has not been heard: changes there may be missed that nobody has found yet.

use crate::change::Side;
use crate::env::Instant;
use std::time::Duration;

/// Since when; `None`: it is heard, and a comparison has ended since.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unheard {
    zookeeper: Option<Instant>,
    redis: Option<Instant>,
}

impl Unheard {
    /// Neither is heard yet.
    pub(super) fn both() -> Unheard {
        let now = Some(Instant::now());
        Unheard { zookeeper: now, redis: now }
    }

    fn since(&mut self, side: Side) -> &mut Option<Instant> {
        match side {
            Side::Zookeeper => &mut self.zookeeper,
            Side::Redis => &mut self.redis,
        }
    }

    /// This source is not heard any more.
    pub(super) fn lost(&mut self, side: Side) {
        self.since(side).get_or_insert_with(Instant::now);
    }

    /// For how long one of these sources has not been heard; zero if all are.
    pub(super) fn longest(mut self, sides: &[Side]) -> Duration {
        let all = sides.iter().filter_map(|side| *self.since(*side));
        all.map(|since| since.elapsed()).max().unwrap_or_default()
    }
}
