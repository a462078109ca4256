//! The doors of a running worker: HTTP over TCP, the same over a Unix socket, and the client of both.
//!
//! ```text
//!   prometheus, curl, browser --TCP---> router(Door::Tcp) --\
//!                                                           +--> Site --> Handle of each pipeline
//!   keepstep status, pause … --Unix---> router(Door::Unix) -/
//! ```
//!
//! Over TCP anybody who can connect may look; what steers needs the bearer token, and does not exist without one.
//! Over the Unix socket the file's mode (0600) is the guard. No handler waits for a store: a handle answers from
//! memory, so a worker whose stores are away still tells so.

pub mod client;
#[cfg(test)]
pub(crate) mod fake;
mod host;
pub mod keep;
mod page;
mod patience;
mod router;
pub mod rows;
mod serve;
mod site;
mod steer;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests;
mod unix;

pub use host::guard_host;
pub use router::router;
pub use serve::{local_address, serve_tcp};
pub use site::{Door, Site, Token, TokenError};
pub use steer::duration;
pub use unix::{serve_unix, socket_path};
