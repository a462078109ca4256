//! How a command ends, and the number that says so to a shell.

use crate::assembly::StartError;
use crate::change::brief;
use crate::config::Problems;
use crate::http::client::ClientError;
use crate::stream::StreamError;
use std::process::ExitCode;

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It is done.
    Done,
    /// It looked, and what it looked at is not in step.
    Differs,
    /// It was told to stop at once.
    Cut,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It was asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The pipeline file cannot be used. The text is a compiler's, with file, line and column.
    #[error("{0}")]
    File(Problems),
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
    /// A store or a worker does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// Whoever read stdout has gone: there is nothing left to do, and nothing to complain about.
    #[error("stdout is closed")]
    Closed,
}

impl Exit {
    pub(super) fn code(self) -> ExitCode {
        match self {
            Exit::Done => ExitCode::SUCCESS,
            Exit::Differs | Exit::Cut => ExitCode::from(1),
        }
    }
}

impl Failure {
    pub(super) fn code(&self) -> ExitCode {
        match self {
            Failure::Closed => ExitCode::SUCCESS,
            Failure::Failed(_) => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Unreachable(_) => ExitCode::from(75),
            Failure::File(_) => ExitCode::from(78),
        }
    }

    /// Says on stderr what went wrong.
    pub(super) fn tell(&self) {
        match self {
            Failure::Closed => {}
            // Several lines, of which each is made for a terminal.
            Failure::File(problems) => eprintln!("{}", problems.to_string().trim_end()),
            // What a server or a worker answered may be in it.
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
