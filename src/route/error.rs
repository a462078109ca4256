//! Why a pattern or a separator cannot be used.

use thiserror::Error;

/// Why a pattern, or a separator, cannot be used. Its text is a sentence for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The pattern is empty.
    #[error("a pattern cannot be empty")]
    Empty,
    /// A pattern of znodes does not start at the root.
    #[error("a pattern of znodes starts with `/`")]
    NotAbsolute,
    /// A pattern of znodes names the root alone.
    #[error("`/` alone names no znode that a key could stand for; everything is `/**`")]
    Root,
    /// A wildcard is only a part of a segment.
    #[error("a wildcard is a whole segment, so `{0}` means nothing")]
    PartialWildcard(String),
    /// `**` with something behind it.
    #[error("`**` must be the last segment")]
    RestNotLast,
    /// A literal segment that no znode can be called.
    #[error("no znode can be called `{0}`")]
    IllegalName(String),
    /// The pattern lies in what is never mapped.
    #[error("`{0}` is never mapped")]
    Reserved(&'static str),
    /// The two patterns of a route differ in their wildcards.
    #[error("both patterns of a route must have the same wildcards in the same order")]
    Wildcards,
    /// A route without any pattern.
    #[error("a route needs a pattern")]
    NoPattern,
    /// The separator cannot be used.
    #[error("{0}")]
    Separator(&'static str),
}
