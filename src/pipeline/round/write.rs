//! What was decided about a pair, on its way through the stream and the stores.
//!
//! ```text
//!   Recording --recorded--> key:    written ----------------------------------> End
//!                    \----> znode:  milestone --> written --> sidecar, marks --> End
//! ```
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known.

use super::end::{Again, Delay, End, Reason};
use crate::pipeline::hint::News;
use crate::plan::guard::Milestone;
use crate::plan::{Base, Task};
use crate::store::LeftMilestone;
use std::ops::ControlFlow;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    /// For what the pair was read.
    pub news: News,
    /// A comparison found it.
    pub comparing: bool,
    /// What is done.
    pub task: Task,
    /// The incarnation of the data set in which the key was read; 0 if it was not.
    pub incarnation: u64,
    /// The pair had a base.
    pub had_base: bool,
    /// Redis lost the key. If the pair is quarantined, no comparison may conclude that absent keys were deleted.
    pub is_lost: bool,
    /// The milestone that was written to Redis after the pair was observed.
    pub milestone: Option<Milestone>,
}

/// What became of a write to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Done,
    /// The state was another one.
    Refused,
    /// It can never be done.
    Impossible,
    /// The server takes no writes now, or did not answer.
    NotNow,
}

/// What became of a write to ZooKeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZnodeWritten {
    /// Done, and this is what its sidecar is to say.
    Done(Option<Base>),
    /// The state was another one.
    Refused,
    /// It can never be done.
    Impossible,
    /// The ensemble did not answer.
    NotNow,
}

impl Write {
    /// The change is being recorded: until the write is done, the pair's newest record may not be in the stores.
    #[must_use]
    pub fn with_change(self) -> Write {
        Write { news: News { unwritten: true, ..self.news }, ..self }
    }

    /// The stream took nothing.
    #[must_use]
    pub fn not_recorded(self) -> End {
        self.again(Delay::Stream)
    }

    /// The stream never takes this change.
    #[must_use]
    pub fn too_large(self) -> End {
        self.quarantine(Reason::TooLarge)
    }

    /// Called after the attempt to write a milestone to Redis, before anything is written to ZooKeeper. Without a milestone, or with one
    /// in another data set than the one in which the key was read, the pair is read again: Redis was restarted or went away since, may
    /// have reverted what was read, and nobody could distinguish that from what an application writes next.
    pub fn milestone_written(self, milestone: Option<LeftMilestone>, delay: Delay) -> ControlFlow<End, Write> {
        let milestone = milestone.filter(|written| written.incarnation == self.incarnation);
        match milestone {
            None if self.incarnation != 0 => ControlFlow::Break(self.again(delay)),
            written => ControlFlow::Continue(Write { milestone: written.map(|written| written.milestone), ..self }),
        }
    }

    /// The key, or the sidecar alone, was written.
    #[must_use]
    pub fn key_written(self, outcome: Outcome) -> End {
        let base = match self.task {
            Task::Redis { base, .. } => base,
            Task::Znode { base, .. } => Some(base),
        };
        self.sidecar_written(base, outcome)
    }

    /// The znode was written; answers what its sidecar is to say.
    pub fn znode_written(self, written: ZnodeWritten) -> ControlFlow<End, Option<Base>> {
        match written {
            ZnodeWritten::Done(base) => ControlFlow::Continue(base),
            ZnodeWritten::Refused => ControlFlow::Break(self.refused()),
            ZnodeWritten::Impossible => ControlFlow::Break(self.quarantine(Reason::Impossible)),
            ZnodeWritten::NotNow => ControlFlow::Break(self.again(Delay::Zookeeper)),
        }
    }

    /// The sidecar of a write was written, and with one to ZooKeeper its journal slot is marked. Where it was refused the bucket was
    /// lost meanwhile: without a base the pair is looked at again.
    #[must_use]
    pub fn sidecar_written(self, base: Option<Base>, outcome: Outcome) -> End {
        match outcome {
            Outcome::Done => End::InStep { base, had_base: self.had_base, news: self.news },
            Outcome::Refused => self.refused(),
            Outcome::Impossible => self.quarantine(Reason::Impossible),
            Outcome::NotNow => self.again(Delay::Redis),
        }
    }

    fn refused(self) -> End {
        End::Refused(Again::both(self.news, self.comparing, Delay::None))
    }

    fn again(self, delay: Delay) -> End {
        End::Again(Again::both(self.news, self.comparing, delay))
    }

    fn quarantine(self, reason: Reason) -> End {
        End::Quarantine { news: self.news, reason, blocks_conclusion: self.is_lost }
    }
}
