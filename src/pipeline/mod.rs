//! What a worker does for one pipeline, from hints to written pairs, and the life of an ownership. It knows the stores and the stream by
//! their contracts only.
//!
//! | files | what |
//! | --- | --- |
//! | `spec`, `hint`, `event`, `pair`, `sources`, `remedy` | plain data and rules |
//! | `round/`, `comparison`, `takeover`, `stream_lag` | machines: what is asked next, and what each answer means; no I/O |
//! | `books` and its parts: `dirty`, `cache`, `quarantine`, `missing`, `recorded_states`, `inferred`, `census`, `counts`, `sizes`, `unwritten`, `losses`, `pressure`, `conclusion`, `blockers`, `health`, `halt`, `asked`, `counters`, `unheard`, `unreadable`, `watermark` | what is kept in memory of pairs, sources and the stream: one lock each |
//! | `doors`, `stores` | the only files that wait for a store or for the stream |
//! | `inbox` | what the sources tell, as hints |
//! | `scheduler`, `rounds`, `observe`, `facts`, `settle`, `settled`, `apply` | rounds: which pairs, what is read, decided, written |
//! | `record`, `lagging`, `loss`, `keep` | what is put on the stream |
//! | `compare`, `denied` | a comparison |
//! | `advance` | remembering how far both stores have come |
//! | `ownership`, `owner`, `schedule`, `once`, `stillness` | an ownership, from candidacy to its end |
//! | `identity`, `own_stores`, `captured_store` | which stores the pipeline has |
//! | `control`, `status`, `pause`, `pauses` | what operators see and ask for |
//! | `retry`, `folder` | growing pauses; small files in the pipeline's folder |

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
