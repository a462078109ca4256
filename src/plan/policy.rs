//! What a route declares: the way of changes, and who wins.

use crate::change::Side;

/// Which way a route carries changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Both ways. The side is the store named first: it wins where a rule cannot decide.
    Both(Side),
    /// From this side to the other: this side decides.
    From(Side),
    /// Changes of this side go to the stream and nowhere else.
    Capture(Side),
}

impl Flow {
    /// Whether changes are carried to this side.
    #[must_use]
    pub fn leads_to(self, side: Side) -> bool {
        match self {
            Flow::Both(_) => true,
            Flow::From(source) => source != side,
            Flow::Capture(_) => false,
        }
    }
}

/// Who wins a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// This store.
    Prefer(Side),
    /// The later change.
    Latest,
    /// The side with more writes since the base.
    HigherVersion,
    /// Nobody: the pair is quarantined.
    Quarantine,
}

/// What a delete or an expiry of one side does to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoval {
    /// It is carried over.
    Propagate,
    /// The other side keeps its value.
    Keep,
}

/// How an ephemeral znode is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ephemeral {
    /// A plain key that goes with the znode.
    Mirror,
    /// Not at all.
    Skip,
}

/// The rules of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Which way changes go.
    pub flow: Flow,
    /// Who wins a conflict on a two-way route.
    pub on_conflict: OnConflict,
    /// What a delete does.
    pub on_delete: OnRemoval,
    /// What an expiry does.
    pub on_expire: OnRemoval,
    /// What an ephemeral znode is.
    pub ephemeral: Ephemeral,
}
