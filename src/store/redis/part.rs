//! Everything of one pipeline that its calls and the source of its hints both need.

use super::claim::Claims;
use super::database::Database;
use super::state::State;

/// See the module.
pub(super) struct Part {
    pub(super) database: Database,
    pub(super) state: State,
    pub(super) claims: Claims,
}
