//! Whether two claims may live beside each other.

use super::claim::Claim;
use super::error::{FailureKind, StoreError};

/// Whether the ranges of two claims on one store overlap in a way that two pipelines must not
/// share: both write there, or one writes what the other carries on. A capture only reads, and many
/// pipelines may read one source.
#[must_use]
pub fn overlaps(one: &Claim, other: &Claim) -> bool {
    let harmless = one.captures || other.captures || !(one.writes || other.writes);
    !harmless && one.patterns.iter().any(|left| other.patterns.iter().any(|right| intersect(left, right)))
}

/// The refusal of a claim that overlaps with another pipeline's.
#[must_use]
pub fn owned_by_another(place: &str, ours: &Claim, other: &Claim) -> StoreError {
    StoreError::refused(
        FailureKind::Owner,
        format!(
            "{place}: pipeline `{}` (worker {}) owns {}, which overlaps {} of pipeline `{}`; give each range to one pipeline",
            other.pipeline,
            other.worker,
            other.patterns.join(", "),
            ours.patterns.join(", "),
            ours.pipeline
        ),
    )
}

/// Whether some name matches both patterns. Patterns of keys with other separators than `/` and `:`
/// are compared character by character up to the first wildcard.
fn intersect(left: &str, right: &str) -> bool {
    let split = |pattern: &str| -> Vec<String> {
        pattern.trim_start_matches('/').split(['/', ':']).map(ToOwned::to_owned).collect()
    };
    let (left, right) = (split(left), split(right));
    let mut at = 0;
    loop {
        match (left.get(at).map(String::as_str), right.get(at).map(String::as_str)) {
            (None, None) | (Some("**"), Some(_)) | (Some(_), Some("**")) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(l), Some(r)) if l != "*" && r != "*" && l != r => return false,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_intersect_where_one_name_matches_both() {
        assert!(intersect("/settings/**", "/settings/db/*"));
        assert!(intersect("/settings/*", "/settings/**"));
        assert!(intersect("/*/a", "/b/*"));
        assert!(!intersect("/settings/**", "/other/**"));
        assert!(!intersect("/a/*", "/a/b/c"));
        assert!(intersect("a:**", "a:b:*"));
    }
}
