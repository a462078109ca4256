//! What a round or a batch of a comparison has come to.

/// What a comparison learns from what was settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Pairs that were not in step.
    pub(super) acted: u64,
    /// Deletes that nobody saw: not carried out, and in [`super::inferred::Inferred`]. By route.
    pub(super) inferred: Vec<u64>,
}

impl Settled {
    /// Nothing yet, of so many routes.
    pub(super) fn of(routes: usize) -> Settled {
        Settled { acted: 0, inferred: vec![0; routes] }
    }
}
