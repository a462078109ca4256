//! Comparisons that are asked for: by whom, why, and how soon they follow.

use crate::change::Side;
use crate::env::{Instant, lock};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// The first pause after a comparison for nothing.
const RUMOUR: Duration = Duration::from_secs(1);

/// Why a comparison is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// The side whose source asks; `None`: somebody else.
    pub(super) side: Option<Side>,
    /// Its connection was lost: what happened in between was not told.
    pub(super) is_gap: bool,
    /// In words.
    pub(super) why: String,
}

impl Reason {
    pub(super) fn of(side: Option<Side>, why: &str) -> Reason {
        Reason { side, is_gap: false, why: why.to_owned() }
    }

    /// The source of this side was lost.
    pub(super) fn gap(side: Side, why: String) -> Reason {
        Reason { side: Some(side), is_gap: true, why }
    }

    /// The side in which there is a gap.
    pub(super) fn gap_in(&self) -> Option<Side> {
        self.side.filter(|_| self.is_gap)
    }
}

/// A comparison that is asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Empty if none is.
    pub(super) reasons: Vec<Reason>,
    /// Events may be missing, or somebody waits for it. Otherwise a source says that anything may have changed, which others can make
    /// it say as often as they like.
    pub(super) is_urgent: bool,
}

/// Where comparisons are asked for, and whoever compares looks.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: Mutex<Asked>,
    news: Notify,
}

impl Questions {
    /// Asks for a comparison of everything, at once.
    pub(super) fn ask(&self, side: Option<Side>, why: &str) {
        self.ask_for(Reason::of(side, why), true);
    }

    pub(super) fn ask_for(&self, reason: Reason, is_urgent: bool) {
        {
            let mut asked = lock(&self.asked);
            asked.is_urgent |= is_urgent;
            // Who asks many times a second asks for one.
            if !asked.reasons.contains(&reason) {
                asked.reasons.push(reason);
            }
        }
        self.news.notify_one();
    }

    /// What was asked for since the last call.
    pub(super) fn take(&self) -> Asked {
        std::mem::take(&mut *lock(&self.asked))
    }

    /// Resolves when something was asked for. Cancel-safe.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}

/// Comparisons that a source asks for because anything may have changed. One that finds nothing lets the next wait longer: a FLUSHDB in
/// another database, say, is told like one in ours.
#[derive(Debug, Default)]
pub(super) struct Rumours {
    pause: Duration,
    not_before: Option<Instant>,
}

impl Rumours {
    pub(super) fn is_due(&self) -> bool {
        self.not_before.is_none_or(|not_before| Instant::now() >= not_before)
    }

    /// A comparison has ended. `is_rumour`: a rumour alone had asked for it; `in_vain`: it found nothing that it could mend.
    pub(super) fn followed(&mut self, is_rumour: bool, in_vain: bool, longest: Duration) {
        let grown = (self.pause * 2).clamp(RUMOUR, longest.max(RUMOUR));
        self.pause = if is_rumour && in_vain { grown } else { Duration::ZERO };
        self.not_before = Some(Instant::now() + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rumours_that_are_false_are_followed_more_and_more_rarely_and_a_true_one_ends_that() {
        let mut rumours = Rumours::default();
        assert!(rumours.is_due(), "the first one is followed at once");
        let longest = Duration::from_secs(60);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            rumours.followed(true, true, longest);
            pauses.push(rumours.pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(!rumours.is_due());
        rumours.followed(true, false, longest);
        assert!(rumours.is_due());
    }
}
