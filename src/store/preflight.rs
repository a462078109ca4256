//! What `validate --connect` finds out about a store.

use crate::change::brief;
use std::time::Duration;

/// Which names a pipeline reads in a store.
pub struct Range<'a> {
    /// Whether a pair is at this path or may be below it.
    pub has_path: &'a (dyn Fn(&str) -> bool + Send + Sync),
    /// Whether a pair has this key.
    pub has_key: &'a (dyn Fn(&[u8]) -> bool + Send + Sync),
    /// How long the names are looked through; those that are left are reported as not checked.
    pub patience: Duration,
}

/// Bytes of a name or a reason that are shown: a name may have a megabyte.
const SHOWN_BYTES: usize = 300;

/// A text as it is shown: its beginning, if it is long.
#[must_use]
pub fn shown(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= SHOWN_BYTES) {
        Some((at, _)) => format!("{}… ({} bytes)", text.get(..at).unwrap_or_default(), text.len()),
        None => text.to_owned(),
    }
}

/// Names that cannot be read and are shown one by one; the others are counted.
const UNREADABLE_SHOWN: usize = 20;

/// What a look through the names of a range has found.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Names that were looked at.
    pub(super) looked: u64,
    /// Names that cannot be read, with the reason.
    unreadable: Vec<(String, String)>,
    /// Of those, the ones that are not listed.
    more: u64,
    /// Time was up before the last name.
    pub(super) is_cut: bool,
}

impl Names {
    /// This one cannot be read.
    pub(super) fn deny(&mut self, name: &str, reason: &str) {
        if self.unreadable.len() < UNREADABLE_SHOWN {
            self.unreadable.push((shown(name), shown(reason)));
        } else {
            self.more += 1;
        }
    }

    /// As findings. `what`: `znodes` or `keys`.
    pub(super) fn findings(self, store: &str, what: &str, help: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, reason) in &self.unreadable {
            findings.push(Finding::new(Level::Error, store, format!("{name} cannot be read: {reason}"), help));
        }
        if self.more > 0 {
            let text = format!("{} more {what} cannot be read", self.more);
            findings.push(Finding::new(Level::Error, store, text, help));
        }
        let looked = self.looked;
        if self.is_cut {
            let text =
                format!("only {looked} {what} of the routes were checked for permissions before the time was up");
            findings.push(Finding::new(Level::Warning, store, text, "give it more time with --timeout"));
        } else if findings.is_empty() {
            findings.push(Finding::new(Level::Ok, store, format!("all {looked} {what} of the routes can be read"), ""));
        }
        findings
    }
}

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

/// Bytes of what was found: what a server answered may be in it.
const TEXT_BYTES: usize = 1_000;

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(level: Level, store: &str, what: impl Into<String>, help: impl Into<String>) -> Finding {
        let what = brief::shortened(&what.into(), TEXT_BYTES).into_owned();
        Finding { level, store: store.to_owned(), what, help: help.into() }
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
