//! A secret of a pipeline file: masked wherever it is printed, and read again where a file holds
//! it.

use std::path::{Path, PathBuf};

/// Longest secret that is read from a file, in bytes. A wrong path may lead to anything.
const SECRET_BYTES_MAX: usize = 65_536;

/// A secret. It has no `Display`, and its `Debug` is a mask, so that it cannot end in a log by
/// accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    /// The file from which it is read again.
    file: Option<PathBuf>,
}

impl Secret {
    /// Wraps the secret.
    #[must_use]
    pub fn new(text: String) -> Secret {
        Secret { text, file: None }
    }

    /// A secret from a file, which may hold another one later.
    #[must_use]
    pub(super) fn from_file(text: String, file: PathBuf) -> Secret {
        Secret { text, file: Some(file) }
    }

    /// The secret itself, as it was when the pipeline file was read. Empty if the command needs
    /// none.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The secret as it is now, for the client that logs in.
    ///
    /// # Errors
    /// The file cannot be read now, perhaps because it is being replaced; with the reason.
    pub fn now(&self) -> Result<String, String> {
        let Some(file) = &self.file else { return Ok(self.text.clone()) };
        in_file(file).map_err(|reason| format!("the secret file {} {reason}", file.display()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// The secret in a file, without its line end; or the fault of the file.
pub(super) fn in_file(file: &Path) -> Result<String, String> {
    // It is read again at each login, so it must not be a pipe; and reading a pipe without a writer
    // would wait for ever.
    if crate::env::disk::facts(file).is_ok_and(|facts| !facts.is_file) {
        return Err("is no regular file".to_owned());
    }
    let bytes = crate::env::disk::read_at_most(file, SECRET_BYTES_MAX + 1)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(format!("has more than {SECRET_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(secret.to_owned()) }
}
