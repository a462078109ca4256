//! What a worker does for one pipeline, from hints to written pairs, and the life of an ownership. It knows the stores and the stream by
//! their contracts only.
//!
//! Where a row has a semicolon, the files before it decide, and those after it read, write and wait.
//!
//! | group | files |
//! | --- | --- |
//! | a round | `round/` (a machine), `hint`, `event`, `pair`, `settled`; `inbox`, `scheduler`, `rounds`, `observe`, `facts`, `settle`, `apply`, `retry` |
//! | a comparison | `comparison` (a machine), `sources`; `compare`, `denied` |
//! | an ownership | `spec`, `takeover` (a machine), `stillness`; `ownership` (the parts, put together), `owner`, `schedule`, `advance`, `once` |
//! | stores and stream | `remedy` (from an error to what follows); `doors` (in an ownership), `stores` (before it, and the taking over): only these wait for them |
//! | what is kept in memory: `books` has one of each, with one lock, and none knows another | `dirty`, `cache`, `quarantine`, `missing`, `recorded_states`, `inferred` (the delete guard), `census`, `counts`, `sizes`, `unwritten`, `losses`, `pressure`, `conclusion`, `blockers`, `health`, `halt`, `asked`, `counters`, `unheard`, `unreadable`, `watermark` |
//! | what is put on the stream | `stream_lag` (a machine); `record`, `lagging`, `loss`, `keep` |
//! | identity of the stores | `identity`; `own_stores`, `captured_store` |
//! | status and control | `control`, `pauses`; `status`, `pause` |
//! | small files in the pipeline's folder | `folder` |

mod advance;
mod apply;
mod asked;
mod blockers;
mod books;
mod cache;
pub mod captured_store;
mod census;
mod compare;
pub mod comparison;
mod conclusion;
pub mod control;
mod counters;
mod counts;
mod denied;
mod dirty;
mod doors;
mod event;
mod facts;
mod folder;
mod halt;
mod health;
pub mod hint;
pub mod identity;
mod inbox;
mod inferred;
mod keep;
mod lagging;
mod loss;
mod losses;
mod missing;
mod observe;
mod once;
mod own_stores;
mod owner;
mod ownership;
mod pair;
mod pause;
mod pauses;
mod pressure;
mod quarantine;
mod record;
mod recorded_states;
mod remedy;
pub mod retry;
pub mod round;
mod rounds;
mod schedule;
mod scheduler;
mod settle;
mod settled;
mod sizes;
pub mod sources;
mod spec;
mod status;
mod stillness;
mod stores;
mod stream_lag;
pub mod takeover;
mod unheard;
mod unreadable;
mod unwritten;
mod watermark;

pub use owner::{Claims, Ended, Pipeline, StreamOpener};
pub use spec::{Route, Settings};
pub use stores::Stores;
