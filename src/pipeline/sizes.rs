//! How large values are, so that a round takes no more bytes than it may.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of the larger values seen lately, in bytes.
#[derive(Debug, Default)]
pub(super) struct Sizes(AtomicUsize);

impl Sizes {
    /// Takes in the size of a value: a rise at once, a fall over some values.
    pub(super) fn note(&self, bytes: usize) {
        let known = self.0.load(Ordering::Relaxed);
        let next = if bytes >= known { bytes } else { known - (known - bytes).div_ceil(16) };
        self.0.store(next, Ordering::Relaxed);
    }

    /// So many values of that size are this many bytes; at least one.
    pub(super) fn count_in(&self, bytes: usize) -> usize {
        (bytes / self.0.load(Ordering::Relaxed).max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_counts_at_once_and_is_forgotten_slowly() {
        let sizes = Sizes::default();
        assert_eq!(sizes.count_in(1000), 1000, "nothing is known yet");
        sizes.note(100);
        sizes.note(10);
        assert_eq!(sizes.count_in(1000), 10);
        for _ in 0..100 {
            sizes.note(10);
        }
        assert_eq!(sizes.count_in(1000), 100);
        sizes.note(5000);
        assert_eq!(sizes.count_in(1000), 1, "one value may be larger than a round");
    }
}
