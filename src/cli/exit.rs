//! How a command ends, and its exit code.

use crate::change::brief;
use crate::config::Problems;
use crate::history::{HistoryError, StartError};
use crate::http::client::ClientError;
use crate::stream::StreamError;

/// How a command ended that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It is done.
    Done,
    /// It compared, and found differences.
    Differs,
    /// A second signal stopped it at once.
    Interrupted,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The pipeline file cannot be used. The text has file, line and column, like a compiler's.
    #[error("{0}")]
    File(Problems),
    /// The work failed.
    #[error("{0}")]
    Failed(String),
    /// A store or a worker does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The reader of stdout has closed it, so there is nothing left to do. This is not an error.
    #[error("stdout is closed")]
    Closed,
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Differs | Exit::Interrupted => 1,
        }
    }
}

impl Failure {
    pub(super) fn code(&self) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 75,
            Failure::File(_) => 78,
        }
    }

    /// Prints the error on stderr.
    pub(super) fn print(&self) {
        match self {
            Failure::Closed => {}
            // Several lines, each already safe for a terminal.
            Failure::File(problems) => eprintln!("{}", problems.to_string().trim_end()),
            // It may contain the answer of a server or of a worker.
            other => eprintln!("error: {}", brief::line(other.to_string().trim_end())),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::File(problems)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        match error {
            StartError::Refused(text) | StartError::Stuck(text) => Failure::Failed(text),
            StartError::Unreachable(text) => Failure::Unreachable(text),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Failure {
        match error {
            HistoryError::Away(text) => Failure::Unreachable(text),
            HistoryError::Failed(text) => Failure::Failed(text),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::NoWorker(text) => Failure::Unreachable(text),
            ClientError::Failed(text) => Failure::Failed(text),
        }
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Failed(format!("stdout: {error}")),
        }
    }
}
