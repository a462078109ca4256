//! The endpoints of a running worker, over TCP and over a Unix socket, and the client of both.
//!
//! ```text
//!   prometheus, curl, browser --TCP---> router(Listener::Tcp) --\
//!                                                               +--> AppState --> Handle of each pipeline
//!   keepstep status, pause … --Unix---> router(Listener::Unix) -/
//! ```
//!
//! Over TCP, everybody who can connect may read; endpoints that control the worker require the
//! bearer token, and do not exist without one. The Unix socket is protected by the mode of its file
//! (0600). No handler waits for a store: a handle answers from memory, so a worker whose stores are
//! away still shows its state.

pub mod client;
mod control;
mod exposition;
#[cfg(test)]
pub(crate) mod fake;
mod gauges;
mod host;
mod page;
pub mod replaced;
mod router;
pub mod rows;
mod serve;
mod state;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests;
mod timeout;
mod unix;

pub use control::duration;
pub use host::guard_host;
pub use router::router;
pub use serve::{answer, local_address, serve_tcp};
pub use state::{AppState, Listener, Token, TokenError};
pub use unix::{serve_unix, socket_path};
