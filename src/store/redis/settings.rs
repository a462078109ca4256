//! What a pipeline uses of a Redis: plain data.

use std::time::Duration;

/// Which part of a Redis a pipeline uses.
#[derive(Clone)]
pub struct Settings {
    /// The store's name in the pipeline file.
    pub name: String,
    /// The pipeline.
    pub pipeline: String,
    /// Literal beginnings of the keys that routes can match.
    pub prefixes: Vec<Vec<u8>>,
    /// Whether bases are kept beside the values; a pipeline that only captures leaves no trace.
    pub sidecars: bool,
    /// Channels on which routes publish.
    pub channels: Vec<String>,
    /// A claim that is not renewed for this long is void.
    pub claim_ttl: Duration,
    /// Names which keys belong to which znodes, and which way they flow: what is proven of the
    /// pairs of some routes is not proven of those of others.
    pub ranges: String,
}
