//! A password that may change while a worker runs: it is asked for at each login.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Two are the same if they began as the same text. It has no `Display` and no `Debug`.
#[derive(Clone)]
pub struct Password {
    first: String,
    now: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Password {
    /// It was `first`; `now` tells what it is, and may read a file.
    #[must_use]
    pub fn new(first: String, now: impl Fn() -> String + Send + Sync + 'static) -> Password {
        Password { first, now: Arc::new(now) }
    }

    /// What it was when the pipeline file was read.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.first
    }

    /// What it is now.
    #[must_use]
    pub fn now(&self) -> String {
        (self.now)()
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
