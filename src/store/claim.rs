//! A claim: which names of a store a live pipeline reads and writes.

/// A range of names that a pipeline claims.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// The pipeline.
    pub pipeline: String,
    /// The worker (`host:pid`), for people.
    pub worker: String,
    /// The worker's identity; empty in a claim of a version that had none.
    #[serde(default)]
    pub identity: String,
    /// The lineage of the ensemble by which the pipeline is owned; 0 where that is not known.
    #[serde(default)]
    pub lineage: u32,
    /// The ensemble, for people.
    #[serde(default)]
    pub ensemble: String,
    /// Patterns of the side where the claim is laid.
    pub patterns: Vec<String>,
    /// Whether it writes there.
    pub writes: bool,
    /// Whether it only captures.
    pub captures: bool,
}

/// A claim as it lies in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldClaim {
    /// The claim.
    pub claim: Claim,
    /// When it is void, by the server's clock, milliseconds since the epoch. It rises whenever a
    /// worker keeps the claim alive.
    pub until_ms: i64,
}
