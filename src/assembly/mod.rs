//! The composition root: from a pipeline file to stores, streams and pipelines. Only wiring, no
//! rules: what is decided with these parts is decided in [`crate::pipeline`] and
//! [`crate::history`].
//!
//! ```text
//!   config::Pipeline --parts------> map, routes, settings, claims, stores (not connected)
//!                    --streams----> the stream, for an owner or for a reader
//!                    --stores-----> the stores of a command
//!                    --checks-----> what `validate --connect` looks at
//!                    --pipelines--> pipelines that are ready to run
//! ```

mod checks;
mod parts;
mod pipelines;
mod stores;
mod streams;

pub use checks::check_connections;
pub use parts::{Network, folder, names, scope};
pub use pipelines::pipelines;
pub use stores::{open_scratch, open_stores};
pub use streams::{open_stream, open_stream_with_pairs, open_to_archive};
