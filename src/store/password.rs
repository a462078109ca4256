//! A password that may change while a worker runs: it is asked for at each login.

use crate::telemetry::LogThrottle;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// Two are the same if they began as the same text. It has no `Display` and no `Debug`.
#[derive(Clone)]
pub struct Password {
    first: String,
    read: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    /// What was read last.
    last: String,
    said: LogThrottle,
}

impl Password {
    /// It was `first`; `read` tells what it is, and may read a file.
    #[must_use]
    pub fn new(first: String, read: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Password {
        let kept = Kept { last: first.clone(), said: LogThrottle::new() };
        Password { first, read: Arc::new(read), kept: Arc::new(Mutex::new(kept)) }
    }

    /// What it was when the pipeline file was read.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.first
    }

    /// What it is now; what was read last, where it cannot be read.
    #[must_use]
    pub fn now(&self) -> String {
        let read = (self.read)();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(text) => {
                kept.said.clear();
                kept.last = text;
            }
            // A server that is away is tried many times a minute.
            Err(reason) if kept.said.is_due(&reason) => {
                tracing::warn!("{reason}; what was read from it last is used");
            }
            Err(_) => {}
        }
        kept.last.clone()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Password) -> bool {
        self.first == other.first
    }
}

impl Eq for Password {}

impl Hash for Password {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.first.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_last_holds_while_nothing_can_be_read_and_that_is_said_once() {
        let text = Arc::new(Mutex::new(Ok("second".to_owned())));
        let read = Arc::clone(&text);
        let read = move || read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let password = Password::new("first".to_owned(), read);
        assert_eq!(password.now(), "second");
        *text.lock().unwrap_or_else(PoisonError::into_inner) = Err("is gone".to_owned());
        assert_eq!([password.now(), password.now()], ["second", "second"]);
        let is_due = password.kept.lock().unwrap_or_else(PoisonError::into_inner).said.is_due("is gone");
        assert!(!is_due, "it was said already");
    }
}
