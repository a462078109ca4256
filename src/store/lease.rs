//! The ownership of a pipeline, and why it ends.

use super::error::StoreError;
use crate::change::LossCause;
use crate::plan::Ensemble;

/// The ownership of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Higher than that of every owner before.
    pub epoch: u64,
    /// The lineage of the ensemble.
    pub ensemble: Ensemble,
    /// The ensemble has lost data since the last owner, in this way.
    pub lost: Option<LossCause>,
}

/// Why an ownership ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// It is gone, or cannot be relied on.
    Gone(StoreError),
    /// This worker has more pipelines than that one, which stands by for it: give it up in order.
    HandsOver(String),
}
