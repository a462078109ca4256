//! The state behind all endpoints: the pipelines of this worker, its metrics, and who may control
//! it.

use crate::change::Digest;
use crate::pipeline::control::{Handle, PipelineState, PipelineStatus};
use crate::telemetry::Metrics;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What the endpoints show. The pipelines are added after the servers have started: a worker
/// answers `/live` before its pipelines start.
pub struct AppState {
    handles: OnceLock<Vec<Arc<dyn Handle>>>,
    /// The metrics that `/metrics` serves.
    pub metrics: Arc<Metrics>,
    /// `host:pid` of this worker.
    pub worker: String,
}

impl AppState {
    /// A worker without pipelines yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Arc<AppState> {
        Arc::new(AppState { handles: OnceLock::new(), metrics, worker: crate::worker::this().name.clone() })
    }

    /// Shows these pipelines from now on. A second call has no effect.
    pub fn show(&self, handles: Vec<Arc<dyn Handle>>) {
        let _ = self.handles.set(handles);
    }

    /// The pipelines; none before [`AppState::show`].
    #[must_use]
    pub fn handles(&self) -> &[Arc<dyn Handle>] {
        self.handles.get().map_or(&[], Vec::as_slice)
    }

    /// The status of each pipeline now.
    #[must_use]
    pub fn statuses(&self) -> Vec<PipelineStatus> {
        self.handles().iter().map(|handle| handle.status()).collect()
    }

    /// Whether another worker owns this pipeline.
    #[must_use]
    pub fn stands_by(&self, pipeline: &str) -> bool {
        let handle = self.handles().iter().find(|handle| handle.name() == pipeline);
        handle.is_some_and(|handle| handle.status().state == PipelineState::Standby)
    }

    /// Whether every pipeline is ready; `false` before there is one.
    #[must_use]
    pub fn ready(&self, statuses: &[PipelineStatus]) -> bool {
        !statuses.is_empty() && statuses.iter().all(|status| status.ready)
    }
}

/// Where a request came in, which decides who may control the worker.
#[derive(Debug, Clone)]
pub enum Listener {
    /// TCP: control endpoints require this token; without a token they do not exist.
    Tcp(Option<Token>),
    /// The Unix socket: any user who can open it may control the worker.
    Unix,
}

/// The bearer token. It has no `Display`, and its `Debug` is a mask.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    digest: Digest,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("the token file {path} cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// It holds no token, or one that cannot stand in a header.
    #[error("the token file {0} must hold one word of visible ASCII characters")]
    Unfit(String),
}

impl Token {
    /// A token of visible ASCII characters; `None` for any other text.
    #[must_use]
    pub fn new(text: &str) -> Option<Token> {
        let fit = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fit.then(|| Token { text: Arc::from(text), digest: Digest::of(text.as_bytes()) })
    }

    /// Reads the token from a file, without the whitespace around it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds no token. Its content is not quoted.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let shown = path.display().to_string();
        let text = crate::env::disk::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => TokenError::Unfit(shown.clone()),
            _ => TokenError::Unreadable { path: shown.clone(), error },
        })?;
        Token::new(text.trim()).ok_or(TokenError::Unfit(shown))
    }

    /// The token itself, for the header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether this is the token. The digests are compared in a time that does not depend on where
    /// they differ.
    #[must_use]
    pub fn admits(&self, offered: &[u8]) -> bool {
        let offered = Digest::of(offered);
        let difference = self.digest.0.iter().zip(offered.0).fold(0_u8, |sum, (ours, theirs)| sum | (ours ^ theirs));
        std::hint::black_box(difference) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_token_admits_itself_and_nothing_else() {
        let token = Token::new("s3cret");
        assert!(token.as_ref().is_some_and(|token| token.admits(b"s3cret")));
        for other in [&b""[..], b"s3cre", b"s3cret ", b"S3cret"] {
            assert!(token.as_ref().is_some_and(|token| !token.admits(other)));
        }
    }

    #[test]
    fn a_token_is_masked_when_printed() {
        assert_eq!(format!("{:?}", Token::new("s3cret")), "Some(***)");
    }

    #[test]
    #[expect(clippy::unwrap_used, reason = "a test may stop")]
    fn the_line_end_of_a_token_file_is_not_part_of_the_token() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret").unwrap();
        assert!(Token::read(file.path()).unwrap().admits(b"s3cret"));
    }

    #[test]
    #[expect(clippy::unwrap_used, reason = "a test may stop")]
    fn a_token_file_without_one_word_is_refused_and_not_quoted() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "two words").unwrap();
        let error = Token::read(file.path()).unwrap_err().to_string();
        assert!(!error.contains("two words"), "{error}");
        assert!(Token::read(Path::new("/nonexistent/token")).is_err());
    }
}
