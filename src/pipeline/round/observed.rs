//! A pair of which enough was read, and what is decided about it.

use super::end::{Again, Delay, End, Reason};
use super::facts::{Facts, Hindrance};
use super::write::Write;
use crate::change::{Digest, Side};
use crate::failpoint::planted;
use crate::pipeline::hint::News;
use crate::plan::{
    Action, Base, Circumstances, Key, KeyOp, Observation, Policy, Record, Removal, Reported, Step, Task, Wait, Znode,
    agreed, lost, note, plan, step,
};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// For what it was read, with the newest event of the key.
    pub news: News,
    /// A comparison found it.
    pub comparing: bool,
    /// What was read.
    pub observation: Observation,
    /// The key's bytes were read.
    pub has_value: bool,
    /// The incarnation of the data set in which the key was read; 0 if it was not.
    pub incarnation: u64,
}

/// What is decided about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is written: the pair's round ends.
    End(End),
    /// The state of the side that is captured goes on the stream, unless it is the newest there. Nothing is written.
    Capture(Side),
    /// This goes on the stream, then the write is made.
    Write(Record, Write),
}

impl Observed {
    /// What is to be done with the pair.
    #[must_use]
    pub fn plan(&self, policy: &Policy) -> Action {
        plan(policy, &self.observation)
    }

    /// Turns the action that was planned for the pair into what is done.
    #[must_use]
    pub fn decide(self, action: Action, facts: &impl Facts) -> Decision {
        let policy = facts.policy();
        let about = Circumstances {
            has_value: self.has_value,
            was_evicted: self.news.event == Some("evicted"),
            has_waited: self.news.waited,
            comparing: self.comparing,
            reported: if self.is_gone() { facts.reported(self.news) } else { Reported::default() },
            guards_deletes: facts.guards_deletes()
                && !self.news.approved
                && (self.comparing || !planted!("deletes that rounds find are not guarded")),
            key_named: self.news.key,
            hears_redis: facts.hears_redis(),
            path_id: facts.path_id(),
        };
        let end = match step(action, policy, &self.observation, &about) {
            Step::Nothing => End::AsItIs {
                base: self.observation.base,
                is_whole: self.observation.znode != Znode::AsBase && self.observation.key != Key::AsBase,
                is_gone: self.observation.base.is_none() && matches!(self.observation.znode, Znode::Absent(_)),
                news: self.news,
            },
            Step::Lost(side) => End::Lost(side),
            Step::Quarantine => self.quarantine(Reason::Conflict),
            Step::NotOurs => self.quarantine(Reason::Ephemeral),
            Step::Again(Wait::Read) => self.again(Delay::None),
            Step::Again(Wait::Event) => self.again(Delay::Event),
            Step::Again(Wait::Evicted) => self.again(Delay::Evicted),
            Step::Guarded => End::Guarded,
            Step::Record(Side::Redis) if self.is_missing(facts) => End::Missing,
            // Nothing is recorded from a digest.
            Step::Record(Side::Redis) if matches!(self.observation.key, Key::Present { .. }) && !self.has_value => {
                self.again(Delay::None)
            }
            Step::Record(side) => return Decision::Capture(side),
            // Checked before the change is recorded: the stream must not have a change that can never be written.
            Step::Do(record, task) => match facts.hindrance(&task, self.is_restore(&task)) {
                Some(Hindrance::TooLarge) => self.quarantine(Reason::TooLarge),
                Some(Hindrance::NoRoom(wait)) => self.again(Delay::Room(wait)),
                None => return Decision::Write(record, self.write(task)),
            },
        };
        Decision::End(end)
    }

    /// Not recorded: what to do with the state of a capture that the stream does not take now, or never.
    #[must_use]
    pub fn not_recorded(&self) -> End {
        self.again(Delay::Stream)
    }

    /// The stream never takes the state of a capture.
    #[must_use]
    pub fn too_large(&self) -> End {
        self.quarantine(Reason::TooLarge)
    }

    /// Whether the key of a capture is gone although nobody saw it being deleted: then it may have been lost. An event that reports
    /// what happened to the key decides; a comparison finds what no event reported.
    fn is_missing(&self, facts: &impl Facts) -> bool {
        let Key::Absent(vanished) = self.observation.key else { return false };
        let has_event = self.news.event.is_some();
        match self.news.removal.filter(|_| has_event) {
            Some(removal) => removal == Removal::Lost,
            None => (self.comparing || !has_event) && (!vanished.intact || facts.may_be_lost()),
        }
    }

    /// Leaves the pair as it is until either side changes: both states become its base.
    #[must_use]
    pub fn keep_apart(&self, path_id: u32) -> Write {
        let base = Base { left: true, ..agreed(&self.observation, path_id, true) };
        self.write(note(Some(base)))
    }

    /// Whether this puts a key back that no application changed. Its sidecar may have been evicted with it, so it has a base or none.
    fn is_restore(&self, task: &Task) -> bool {
        matches!(task, Task::Redis { op: KeyOp::Set, .. })
            && matches!(self.observation.key, Key::Absent(_))
            && !self.news.znode
    }

    /// Whether either side's value is gone.
    fn is_gone(&self) -> bool {
        let is_gone = match self.observation.znode {
            Znode::Absent(_) => true,
            Znode::Present { digest, .. } => digest == Digest::EMPTY,
            Znode::AsBase => false,
        };
        is_gone || matches!(self.observation.key, Key::Absent(_))
    }

    fn write(&self, task: Task) -> Write {
        Write {
            news: self.news,
            comparing: self.comparing,
            task,
            incarnation: self.incarnation,
            had_base: self.observation.base.is_some(),
            is_lost: lost(&self.observation) == Some(Side::Redis),
            milestone: None,
        }
    }

    fn quarantine(&self, reason: Reason) -> End {
        End::Quarantine { news: self.news, reason, blocks_conclusion: false }
    }

    fn again(&self, delay: Delay) -> End {
        End::Again(Again::both(self.news, self.comparing, delay))
    }
}
