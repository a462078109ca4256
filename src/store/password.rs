//! A password that may change while a worker runs: it is asked for at each login.

use crate::telemetry::LogThrottle;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// Two are the same if they began as the same text. It has no `Display` and no `Debug`.
#[derive(Clone)]
pub struct Password {
    first: String,
    read: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
    last: Arc<Mutex<LastRead>>,
}

/// The last text that could be read.
struct LastRead {
    text: String,
    throttle: LogThrottle,
}

impl Password {
    /// It was `first`; `read` returns what it is now, and may read a file.
    #[must_use]
    pub fn new(first: String, read: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Password {
        let last = LastRead { text: first.clone(), throttle: LogThrottle::new() };
        Password { first, read: Arc::new(read), last: Arc::new(Mutex::new(last)) }
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(text) => {
                last.throttle.clear();
                last.text = text;
            }
            // A server that is away is tried many times a minute.
            Err(reason) if last.throttle.is_due(&reason) => {
                tracing::warn!("{reason}; what was read from it last is used");
            }
            Err(_) => {}
        }
        last.text.clone()
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
    fn the_last_text_counts_while_none_can_be_read_and_that_is_logged_once() {
        let text = Arc::new(Mutex::new(Ok("second".to_owned())));
        let read = Arc::clone(&text);
        let read = move || read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let password = Password::new("first".to_owned(), read);
        assert_eq!(password.now(), "second");
        *text.lock().unwrap_or_else(PoisonError::into_inner) = Err("is gone".to_owned());
        assert_eq!([password.now(), password.now()], ["second", "second"]);
        let is_due = password.last.lock().unwrap_or_else(PoisonError::into_inner).throttle.is_due("is gone");
        assert!(!is_due, "it was said already");
    }
}
