//! Which ensemble and which part of it: what it is called in errors, who we are there, and where
//! the state of the pipeline lies.

use super::acl::{CREATOR, OPEN};
use super::session::{Access, Acl};
use std::fmt;

/// The ensemble as one pipeline uses it. Its text names the store in errors.
#[derive(Clone)]
pub(super) struct Place {
    /// The store's name in the pipeline file.
    pub(super) name: String,
    pub(super) access: Access,
    pub(super) pipeline: String,
}

impl fmt::Display for Place {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "zookeeper {} ({})", self.name, self.access.connect)
    }
}

impl Place {
    pub(super) fn user(&self) -> &str {
        self.access.digest.as_ref().and_then(|digest| digest.first().split(':').next()).unwrap_or("anyone")
    }

    /// The servers, and the chroot (`/` where there is none).
    pub(super) fn address(&self) -> (&str, &str) {
        let connect = self.access.connect.as_str();
        connect.find('/').and_then(|at| connect.split_at_checked(at)).unwrap_or((connect, "/"))
    }

    /// A znode of the pipeline's own.
    pub(super) fn under(&self, name: &str) -> String {
        format!("/_keepstep/{}/{name}", self.pipeline)
    }

    pub(super) fn slot_path(&self, slot: usize) -> String {
        self.under(&format!("journal/{slot:02}"))
    }

    pub(super) fn lineage_path(&self) -> String {
        self.under("lineage")
    }

    /// Who may touch what is ours alone.
    pub(super) fn private_acl(&self) -> &'static [Acl] {
        if self.access.digest.is_some() { &CREATOR } else { &OPEN }
    }
}
