//! The errors of a store: what the caller does next, what failed, and the error below.

use crate::change::brief;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The failure of a call as a whole. The variant says what the caller does next; the [`Failure`] in
/// it says what failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// Not reachable now. The outcome of a call under way is unknown; wait, and observe again.
    Away(Failure),
    /// It answers, and does not do this now: no memory left, a disk that it cannot write, too few
    /// replicas. Wait, and observe again.
    NotNow(Failure),
    /// It will not serve us: a refused login, a server too old, a range that another pipeline owns.
    /// Exit 1.
    Refused(Failure),
    /// Another worker owns the pipeline now. Stop writing and stand by.
    Fenced(Failure),
}

/// What failed. Two failures are equal if their kinds and texts are; errors below cannot be
/// compared.
#[derive(Debug, Clone)]
pub struct Failure {
    kind: FailureKind,
    text: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What failed, whatever the caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The server was not reached, the connection broke, or there was no answer in time.
    Connection,
    /// The session with the ensemble has ended, or there is none.
    Session,
    /// The server answers and does not serve yet: it loads its data, or it is a replica.
    Unready,
    /// The server lacks memory, disk space, replicas or connections, or a script keeps it busy.
    Resources,
    /// The server refuses the user or the password.
    Login,
    /// The user lacks a permission.
    Permission,
    /// The server is too old, or of a kind that cannot do what is needed.
    Unsupported,
    /// A setting of the server or of the pipeline file does not fit.
    Settings,
    /// The server refuses a command, or its answer has another form than expected.
    Protocol,
    /// Something else changed or removed what Keepstep keeps in the store.
    Overwritten,
    /// Another worker or another pipeline owns what was asked for.
    Owner,
    /// The store is not the one that was there before: another one, an older copy, replaced data.
    Identity,
    /// Not the store: the worker's stream, disk or tasks, or its work makes no progress.
    Worker,
}

impl StoreError {
    /// [`StoreError::Away`] with this kind and text.
    #[must_use]
    pub fn away(kind: FailureKind, text: impl Into<String>) -> StoreError {
        StoreError::Away(Failure::new(kind, text))
    }

    /// [`StoreError::NotNow`] with this kind and text.
    #[must_use]
    pub fn not_now(kind: FailureKind, text: impl Into<String>) -> StoreError {
        StoreError::NotNow(Failure::new(kind, text))
    }

    /// [`StoreError::Refused`] with this kind and text.
    #[must_use]
    pub fn refused(kind: FailureKind, text: impl Into<String>) -> StoreError {
        StoreError::Refused(Failure::new(kind, text))
    }

    /// [`StoreError::Fenced`] with this kind and text.
    #[must_use]
    pub fn fenced(kind: FailureKind, text: impl Into<String>) -> StoreError {
        StoreError::Fenced(Failure::new(kind, text))
    }

    /// The same with the error that caused it. The text is to contain that error's text already:
    /// who prints an error prints no sources.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> StoreError {
        let (StoreError::Away(failure)
        | StoreError::NotNow(failure)
        | StoreError::Refused(failure)
        | StoreError::Fenced(failure)) = &mut self;
        failure.source = Some(Arc::new(source));
        self
    }

    /// What failed.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        match self {
            StoreError::Away(failure)
            | StoreError::NotNow(failure)
            | StoreError::Refused(failure)
            | StoreError::Fenced(failure) => failure,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NotNow(failure) => out.write_str(&failure.text),
            StoreError::Away(failure) | StoreError::Refused(failure) | StoreError::Fenced(failure) => {
                out.write_str(&brief::text(&failure.text))
            }
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure().source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl Failure {
    fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into(), source: None }
    }

    /// What failed.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The whole sentence, which may be long: [`StoreError`] displays most of them shortened.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// [`Failure::text`], owned.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl PartialEq for Failure {
    fn eq(&self, other: &Failure) -> bool {
        self.kind == other.kind && self.text == other.text
    }
}

impl Eq for Failure {}

/// Checks that there is one answer for each question. With fewer or more it is not known which
/// answer belongs to which question, and nobody must be left waiting for one: the whole call fails.
///
/// # Errors
/// [`StoreError::Away`].
pub fn one_for_one<A>(what: &str, questions: usize, answers: Vec<A>) -> Result<Vec<A>, StoreError> {
    if answers.len() == questions {
        return Ok(answers);
    }
    let text = format!("{what}: {} answers to {questions} questions", answers.len());
    Err(StoreError::away(FailureKind::Protocol, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_keeps_its_kind_and_its_source_when_it_is_cloned_and_shows_its_own_text_alone() {
        let below = io::Error::from(io::ErrorKind::ConnectionReset);
        let error = StoreError::away(FailureKind::Connection, format!("redis cache (h:1): {below}")).with_source(below);
        assert_eq!(error.to_string(), "redis cache (h:1): connection reset");
        let copy: Box<dyn Error> = Box::new(error.clone());
        let source = copy.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::ConnectionReset));
        assert_eq!(error.failure().kind(), FailureKind::Connection);
        let same = StoreError::away(FailureKind::Connection, error.failure().text());
        assert!(same.source().is_none() && same == error, "a source is not compared");
        assert_ne!(StoreError::away(FailureKind::Protocol, error.failure().text()), error);
    }

    #[test]
    fn a_long_text_is_shown_in_part_and_kept_as_a_whole() {
        let long = "x".repeat(5000);
        for error in [StoreError::away, StoreError::refused, StoreError::fenced] {
            let error = error(FailureKind::Protocol, long.as_str());
            assert!(error.to_string().len() <= brief::TEXT_BYTES, "{error}");
            assert_eq!(error.failure().text(), long);
        }
    }
}
