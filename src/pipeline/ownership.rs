//! One ownership of a pipeline, made of its parts: what it is told, its doors, its books, and the drivers that work with them.
//!
//! ```text
//!   Scheduler --> Rounds --> Recorder --> Doors, Books
//!   Comparer  --> Rounds        ^
//!   Advance ----------------------------> Doors, Books
//!   Inbox  (what the sources tell) ----------> Books
//! ```
//!
//! Whoever steers the pipeline, or asks how it is, has this.

use super::advance::Advance;
use super::books::{Books, Kept};
use super::compare::Comparer;
use super::doors::Doors;
use super::inbox::Inbox;
use super::record::Recorder;
use super::rounds::Rounds;
use super::scheduler::Scheduler;
use super::spec::Spec;
use super::stream_lag::StreamLag;
use crate::change::Position;
use crate::store::{Hints, Remembered};
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub(super) struct Ownership {
    pub(super) doors: Arc<Doors>,
    pub(super) books: Arc<Books>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) rounds: Arc<Rounds>,
    pub(super) comparer: Arc<Comparer>,
    pub(super) scheduler: Scheduler,
    pub(super) advance: Arc<Advance>,
    spec: Arc<Spec>,
}

impl Ownership {
    /// Puts the parts together. `is_redis_blank`: it holds next to nothing, and no base.
    pub(super) fn new(spec: Arc<Spec>, doors: Doors, lag: StreamLag, kept: Kept, is_redis_blank: bool) -> Ownership {
        let books = Arc::new(Books::new(&spec, lag, kept));
        let doors = Arc::new(doors);
        let (to_spec, to_doors, to_books) = (|| Arc::clone(&spec), || Arc::clone(&doors), || Arc::clone(&books));
        let recorder = Arc::new(Recorder { spec: to_spec(), doors: to_doors(), books: to_books() });
        let advance = Arc::new(Advance::new(to_spec(), to_doors(), to_books()));
        let rounds = Arc::new(Rounds {
            spec: to_spec(),
            doors: to_doors(),
            books: to_books(),
            recorder: Arc::clone(&recorder),
            advance: Arc::clone(&advance),
        });
        let scheduler = Scheduler::new(Arc::clone(&rounds));
        let comparer = Arc::new(Comparer::new(Arc::clone(&rounds), is_redis_blank));
        Ownership { doors, books, recorder, rounds, comparer, scheduler, advance, spec }
    }

    /// Who is told what the sources tell.
    pub(super) fn inbox(&self) -> Arc<dyn Hints> {
        Arc::new(Inbox { spec: Arc::clone(&self.spec), books: Arc::clone(&self.books) })
    }

    /// How far both stores have come, and everything below which position of the stream is written.
    pub(super) fn so_far(&self) -> (Remembered, Position) {
        (self.doors.so_far(), self.advance.written())
    }

    /// Ends the rounds: those that are under way after this long are cut off.
    pub(super) async fn drain(&self, limit: Duration) {
        self.scheduler.drain(limit).await;
    }
}
