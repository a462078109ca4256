//! Spans for developers, from `--log-level debug` on: every log line inside one shows which
//! ownership, comparison or round it belongs to. At the default level they are disabled and cost
//! one comparison each.

use tracing::Span;

/// One ownership of a pipeline, from the takeover to its end.
#[must_use]
pub fn ownership(pipeline: &str, epoch: u64) -> Span {
    tracing::debug_span!("ownership", pipeline, epoch)
}

/// One full comparison, with the reason for it.
#[must_use]
pub fn comparison(pipeline: &str, reason: &str) -> Span {
    tracing::debug_span!("comparison", pipeline, reason)
}

/// One round, with the number of its pairs.
#[must_use]
pub fn round(pipeline: &str, pairs: usize) -> Span {
    tracing::debug_span!("round", pipeline, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn a_span_has_its_fields_at_debug_and_is_disabled_at_info() {
        let at =
            |level| tracing_subscriber::registry().with(tracing_subscriber::filter::LevelFilter::from_level(level));
        tracing::subscriber::with_default(at(tracing::Level::DEBUG), || {
            let fields = |span: Span| span.metadata().map(|metadata| metadata.fields().iter().count());
            assert_eq!(fields(ownership("settings", 3)), Some(2));
            assert_eq!(fields(comparison("settings", "gap")), Some(2));
            assert_eq!(fields(round("settings", 500)), Some(2));
        });
        tracing::subscriber::with_default(at(tracing::Level::INFO), || assert!(round("settings", 500).is_disabled()));
    }
}
