//! The engine: what a worker does for one pipeline, from hints to written pairs, and the life of an ownership. It knows the stores and
//! the stream by their contracts only.
//!
//! | files | what |
//! | --- | --- |
//! | `round/`, `hint`, `event`, `pair`, `observe`, `settle`, `settled`, `record`, `apply` | a round: the machine of a pair, and its driver |
//! | `engine` | what the rounds, the comparisons and the status of an ownership share; starts rounds |
//! | `compare`, `comparison`, `conclusion`, `denied`, `asked`, `sources` | a comparison, and what it concludes |
//! | `owner`, `takeover`, `schedule`, `advance`, `watermark`, `once`, `stillness` | an ownership, from candidacy to its end |
//! | `dirty`, `cache`, `quarantine`, `inferred`, `census`, `counts`, `unwritten`, `blockers`, `losses`, `pressure`, `unheard`, `unreadable` | what is kept of pairs, and of what is not seen |
//! | `stream_lag`, `lagging` | a stream that lacks what another owner recorded |
//! | `identity`, `own_stores`, `captured_store` | which stores the pipeline has |
//! | `control`, `status`, `signals`, `pause`, `pauses`, `keep`, `loss` | what operators see and ask for |
//! | `capture`, `known` | pipelines that only record |
//! | `retry` | growing pauses |

mod advance;
mod apply;
mod asked;
mod blockers;
mod cache;
mod capture;
pub mod captured_store;
mod census;
mod compare;
pub mod comparison;
mod conclusion;
pub mod control;
mod counts;
mod denied;
mod dirty;
mod engine;
mod event;
pub mod hint;
pub mod identity;
mod inferred;
mod keep;
mod known;
mod lagging;
mod loss;
mod losses;
mod observe;
mod once;
mod own_stores;
mod owner;
mod pair;
mod pause;
mod pauses;
mod pressure;
mod quarantine;
mod record;
pub mod retry;
pub mod round;
mod schedule;
mod settle;
mod settled;
mod signals;
pub mod sources;
mod status;
mod stillness;
mod stream_lag;
pub mod takeover;
mod unheard;
mod unreadable;
mod unwritten;
mod watermark;

pub use engine::{Parts, Route, Settings};
pub use owner::{Claims, Ended, Pipeline, Stores, StreamOpener};
