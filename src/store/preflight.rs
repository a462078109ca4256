//! What `validate --connect` finds out about a store.

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, with a drawback that the text names.
    Warning,
    /// It will not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is to be taken.
    pub level: Level,
    /// The store's name in the pipeline file.
    pub store: String,
    /// What was found, one sentence.
    pub what: String,
    /// What to do; empty if nothing.
    pub help: String,
}

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(level: Level, store: &str, what: impl Into<String>, help: impl Into<String>) -> Finding {
        Finding { level, store: store.to_owned(), what: what.into(), help: help.into() }
    }
}

/// Clocks further apart than this make `latest` decide by luck, milliseconds.
const SKEW_MAX_MS: i64 = 1_000;

/// What a difference of clocks means.
#[must_use]
pub fn skew(store: &str, ahead_ms: i64) -> Finding {
    let what = format!("its clock is {ahead_ms} ms ahead of this machine's");
    if ahead_ms.abs() > SKEW_MAX_MS {
        Finding::new(Level::Warning, store, what, "synchronize the clocks: `latest` compares times")
    } else {
        Finding::new(Level::Ok, store, what, "")
    }
}
