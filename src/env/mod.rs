//! The world outside the stores: time, tasks, randomness, this process, the disk, dialling. The only way to it.
//!
//! ```text
//!   clock     what time it is, and waiting         random    numbers that nobody can foretell, and tables keyed with them
//!   tasks     what runs beside what                process   who this process is, and whether another one lives
//!   disk      files and folders                    dial      connections to servers, and the sockets that are listened on
//!   world     the world of a simulator, in place of this machine's
//! ```
//!
//! Free functions instead of a handle that everybody passes on: whoever needs the time is often ten calls below whoever could
//! decide what time it is, and none of the functions in between has to know. A simulator puts its own world behind
//! these functions, for the thread on which it runs (`docs/decisions/0009-the-world-behind-free-functions.md`). `clippy.toml` forbids the
//! ways around them.

pub mod clock;
pub mod dial;
pub mod disk;
mod locked;
pub(crate) mod private;
pub mod process;
pub mod random;
pub mod tasks;
pub mod world;

pub use clock::{Instant, sleep, sleep_until, timeout, timeout_at, unix_ms, unix_time};
pub use locked::lock;
pub use random::{Map, Set};
pub use tasks::{Task, Tasks, spawn};
