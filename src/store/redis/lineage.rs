//! What decides whether a key that vanished unseen was deleted or lost.

use super::info::{Evidence, Info};
use crate::change::LossCause;
use crate::failpoint::planted;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// As last reported; `None` before the first answer.
    current: Option<Evidence>,
    evicted_keys: Option<u64>,
    /// As it was before the last comparison that ended in step.
    pub(super) compared: Option<Evidence>,
    /// Moves when the evidence does, or when the canary is gone.
    pub(super) generation: u64,
    /// Moves when the data set may be another one, or an older state of itself.
    pub(super) incarnation: u64,
    pub(super) canary: String,
    /// The number of the newest answer to INFO that was noted.
    pub(super) newest_info: u64,
    /// How often something was received that may mean another data set, and how many of these were
    /// looked into. In between nothing is proven.
    doubts: u64,
    settled: u64,
    /// The data set holds less than an owner had written to it.
    pub(super) older: bool,
    /// The record of the last comparison does not name the routes that it holds for: an older
    /// version of Keepstep wrote it.
    pub(super) is_unnamed: bool,
    /// A canary that was sent, and of which nobody knows whether it arrived.
    pub(super) next_canary: String,
    /// The data set was found to be another one where no hint could be given.
    pub(super) is_unreported: bool,
    /// No canary is kept, since nothing is written: databases that were emptied or exchanged are
    /// counted instead. One of another database counts as well.
    has_no_canary: bool,
    flushes: u64,
}

/// What an answer to INFO shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shown {
    /// The data set may be another one: what became of the one before.
    pub(super) replaced: Option<LossCause>,
    /// Something may have been evicted.
    pub(super) evicted: bool,
}

impl Lineage {
    /// `has_canary`: one is left in the data set, so that another one shows by its absence.
    pub(super) fn new(has_canary: bool) -> Lineage {
        Lineage { has_no_canary: !has_canary, ..Lineage::default() }
    }

    /// A database was flushed or swapped, perhaps this one.
    pub(super) fn doubt(&mut self) {
        self.doubts += 1;
    }

    pub(super) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// The first so many doubts were looked into.
    pub(super) fn settle(&mut self, doubts: u64) {
        self.settled = self.settled.max(doubts);
    }

    /// Whether the first so many doubts were looked into.
    pub(super) fn is_settled(&self, doubts: u64) -> bool {
        self.settled >= doubts
    }

    pub(super) fn is_intact(&self) -> bool {
        self.current.as_ref().zip(self.compared.as_ref()).is_some_and(|(now, then)| now.proves_no_loss_since(then))
    }

    /// As [`Lineage::is_intact`], by this answer to INFO, which is not noted.
    pub(super) fn is_intact_as(&self, info: &Info) -> bool {
        self.is_intact()
            && !(self.has_no_canary && self.flushes != info.flushes)
            && self.compared.as_ref().is_some_and(|then| info.evidence().proves_no_loss_since(then))
    }

    /// How data may have been lost since the last comparison that ended in step; `None` as well
    /// where there was none.
    pub(super) fn lost(&self) -> Option<LossCause> {
        let (now, then) = self.current.as_ref().zip(self.compared.as_ref())?;
        if now.incarnation != then.incarnation {
            return Some(LossCause::Replaced);
        }
        (now.evicted_keys != then.evicted_keys).then_some(LossCause::Evicted)
    }

    /// Whether the data set is the one that was last compared, without a restart in between.
    pub(super) fn is_incarnation_compared(&self) -> bool {
        self.current.as_ref().zip(self.compared.as_ref()).is_some_and(|(now, then)| now.is_life_of(then))
    }

    /// Names this run of the server; empty where the server does not report it.
    pub(super) fn run(&self) -> String {
        let incarnation = self.current.as_ref().and_then(|now| now.incarnation.as_deref()).unwrap_or_default();
        incarnation.split(':').next().unwrap_or_default().to_owned()
    }

    /// Notes an answer to INFO. `is_new`: on a connection that was just made. A server that does not
    /// report whose data it holds may be another one then.
    pub(super) fn note(&mut self, info: &Info, is_new: bool) -> Shown {
        let now = info.evidence();
        let (is_known, replaced) = match &self.current {
            None => (false, false),
            Some(then) => (true, then.incarnation != now.incarnation || now.incarnation.is_none() && is_new),
        };
        let replaced = replaced && !planted!("another data set is not noticed");
        let flushed = is_known && !replaced && self.has_no_canary && self.flushes != info.flushes;
        if flushed {
            self.compared = None;
        }
        let evicted_differs = self.current.as_ref().is_some_and(|then| then.evicted_keys != now.evicted_keys);
        let evicted_differs = evicted_differs && !planted!("evictions are not noticed");
        let evicted = is_known
            && !replaced
            && (evicted_differs || self.evicted_keys != info.evicted_keys && !planted!("evictions are not noticed"));
        if replaced || flushed || evicted || !is_known {
            self.generation += 1;
        }
        if replaced || flushed || !is_known {
            self.incarnation += 1;
        }
        self.current = Some(now);
        self.evicted_keys = info.evicted_keys;
        self.flushes = info.flushes;
        let replaced = match (replaced, flushed) {
            (true, _) => Some(LossCause::Replaced),
            (false, true) => Some(LossCause::Flushed),
            (false, false) => None,
        };
        Shown { replaced, evicted }
    }

    /// A comparison that began at this generation ended in step: what holds from here on, if that
    /// is news.
    pub(super) fn conclude(&mut self, begun: u64) -> Option<Evidence> {
        let now = self.current.clone().filter(|_| self.generation == begun)?;
        self.older = false;
        if self.compared.as_ref() == Some(&now) && !std::mem::take(&mut self.is_unnamed) {
            return None;
        }
        self.compared = Some(now.clone());
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::tests::INTACT;
    use super::*;

    fn compared(text: &str) -> Lineage {
        let mut lineage = Lineage::default();
        lineage.note(&Info::parse(text), true);
        let begun = lineage.generation;
        assert!(lineage.conclude(begun).is_some());
        lineage
    }

    #[test]
    fn as_many_evictions_as_before_after_a_reset_are_no_proof() {
        let mut lineage = compared(INTACT);
        assert!(lineage.is_intact());
        let after = Info::parse(&format!("{INTACT}cmdstat_config|resetstat:calls=1,usec=1\r\n"));
        assert!(!lineage.is_intact_as(&after));
        assert_eq!(lineage.note(&after, false), Shown { replaced: None, evicted: true });
        assert!(!lineage.is_intact());
        // Nor are they after the next comparison: another reset would look the same.
        let begun = lineage.generation;
        lineage.conclude(begun);
        assert!(!lineage.is_intact() && lineage.is_incarnation_compared());
    }

    #[test]
    fn a_server_that_does_not_report_its_life_may_be_another_one_on_each_connection() {
        let unnamed = Info::parse(&INTACT.replace("run_id:a1", ""));
        let mut lineage = compared(&INTACT.replace("run_id:a1", ""));
        assert!(!lineage.is_intact() && !lineage.is_incarnation_compared());
        let incarnation = lineage.incarnation;
        assert_eq!(lineage.note(&unnamed, false), Shown::default());
        assert_eq!(lineage.incarnation, incarnation);
        assert_eq!(lineage.note(&unnamed, true).replaced, Some(LossCause::Replaced));
        assert_eq!(lineage.incarnation, incarnation + 1);
    }

    #[test]
    fn a_restart_and_an_eviction_are_distinguished() {
        let mut lineage = compared(INTACT);
        let evicted = Info::parse(&INTACT.replace("evicted_keys:3", "evicted_keys:4"));
        assert_eq!(lineage.note(&evicted, false), Shown { replaced: None, evicted: true });
        let restarted = Info::parse(&INTACT.replace("run_id:a1", "run_id:a9"));
        let shown = Shown { replaced: Some(LossCause::Replaced), evicted: false };
        assert_eq!(lineage.note(&restarted, true), shown);
    }

    #[test]
    fn without_a_canary_a_database_that_was_flushed_or_swapped_may_be_ours() {
        for flush in ["flushall", "flushdb", "swapdb"] {
            let after = Info::parse(&format!("{INTACT}cmdstat_{flush}:calls=1,usec=9,usec_per_call=9.00\r\n"));
            let mut lineage = compared(INTACT);
            assert!(lineage.is_intact_as(&after), "the canary shows it");
            lineage.has_no_canary = true;
            assert!(!lineage.is_intact_as(&after), "{flush}");
            let incarnation = lineage.incarnation;
            assert_eq!(lineage.note(&after, false).replaced, Some(LossCause::Flushed));
            assert!(!lineage.is_intact() && lineage.incarnation > incarnation);
            let begun = lineage.generation;
            assert!(lineage.conclude(begun).is_some(), "a comparison has looked at every pair since");
            assert!(lineage.is_intact_as(&after));
            assert_eq!(lineage.note(&after, false), Shown::default());
        }
    }
}
