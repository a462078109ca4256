//! What a store can fail with, by what the caller does next.

use crate::change::brief;

/// What a store can fail with as a whole, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not reachable now. Nothing is known of what was under way; wait, and observe again.
    #[error("{}", brief::text(.0))]
    Away(String),
    /// It answers, and does not do this now: no memory left, a disk that it cannot write, too few replicas. Wait, and observe
    /// again.
    #[error("{0}")]
    NotNow(String),
    /// It will not serve us: a refused login, a server too old, a range that another pipeline owns. Exit 1.
    #[error("{}", brief::text(.0))]
    Refused(String),
    /// Another worker owns the pipeline now. Stop writing and stand by.
    #[error("{}", brief::text(.0))]
    Fenced(String),
}

/// The answers to so many questions. Fewer or more than that are an error of the whole call: which of them answers what is not known,
/// and nobody must be left waiting for one.
///
/// # Errors
/// [`StoreError::Away`].
pub fn one_for_one<A>(what: &str, questions: usize, answers: Vec<A>) -> Result<Vec<A>, StoreError> {
    if answers.len() == questions {
        return Ok(answers);
    }
    Err(StoreError::Away(format!("{what}: {} answers to {questions} questions", answers.len())))
}
