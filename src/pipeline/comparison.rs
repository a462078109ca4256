//! What a comparison decides as a whole: which pairs it leaves to the rounds, and what may be said of the stores once it has ended.
//! Pure: [`super::compare`] walks and reads.
//!
//! ```text
//!   begin --busy(pair)--> again, or left as it is
//!         --ended-------> Found --everything that it left is settled--> Concluded
//! ```

use super::sources::{Begun, Sources};

/// A comparison that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comparison {
    begun: Begun,
    is_routine: bool,
    mark: u64,
}

/// What a comparison does with a pair that waits or is in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Busy {
    /// Its round may look at one side only, or may have looked before what a gap hides: both sides are looked at once more, and the
    /// comparison waits for that.
    Again,
    /// Its round sees what there is.
    Left,
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Found {
    /// The mark of Redis' data set with which it began; `None`: it says nothing of the stores as a whole.
    mark: Option<u64>,
    /// So many pairs of the stream were gone from both stores.
    gone: usize,
}

/// What follows once every pair that a comparison left to the rounds is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Concluded {
    /// Another comparison is needed.
    pub asks_again: bool,
    /// The stream lacks nothing from here on.
    pub is_stream_complete: bool,
    /// From now on, a key that is missing in Redis' data set of this mark was deleted, not lost.
    pub mark: Option<u64>,
}

impl Comparison {
    /// A comparison begins. `is_asked_for`: an event or an operator asked for it, not only `worker.reconcile`; `is_settled`: the
    /// conclusion of the last comparison is still valid. `mark` identifies Redis' data set and everything that happened to it so far; it
    /// is taken before `is_settled`, so that what happens in between makes the mark an old one. `begun` is how the sources stood before
    /// anything was read.
    #[must_use]
    pub fn begin(is_asked_for: bool, is_settled: bool, mark: u64, begun: Begun) -> Comparison {
        Comparison { begun, is_routine: !is_asked_for && is_settled, mark }
    }

    /// Whether the clock alone asked for it, and nothing is to be concluded: bases of pairs that are gone on both sides are not
    /// looked for.
    #[must_use]
    pub fn is_routine(&self) -> bool {
        self.is_routine
    }

    /// How the sources stood when it began.
    #[must_use]
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// The comparison meets a pair that waits or is in a round.
    #[must_use]
    pub fn busy(&self, sources: &Sources) -> Busy {
        if self.is_routine && sources.is_watched() { Busy::Left } else { Busy::Again }
    }

    /// It has looked at everything. `has_missed`: some pairs could not be recorded, and are left to nobody; `gone`: so many
    /// pairs of the stream were gone from both stores.
    #[must_use]
    pub fn ended(self, sources: &mut Sources, has_missed: bool, gone: usize) -> Found {
        sources.compared(&self.begun);
        let is_whole = sources.covers_every_route(&self.begun) && !has_missed;
        Found { mark: is_whole.then_some(self.mark), gone }
    }
}

impl Found {
    /// How many pairs of the stream were gone from both stores.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.gone
    }

    /// Every pair that the comparison left to the rounds is settled. `is_held`: deletes wait for approval; `is_stranded`: the keys of
    /// some pairs are lost, and nothing can be done about them now; `gone_before`: how many pairs of the stream the comparison before found
    /// gone. Another one is asked for at once only while they become fewer: what cannot be recorded now is found again at the next interval.
    #[must_use]
    pub fn conclude(self, is_held: bool, is_stranded: bool, gone_before: usize) -> Concluded {
        let mark = self.mark.filter(|_| !is_held);
        let become_fewer = gone_before == 0 || self.gone < gone_before;
        Concluded {
            asks_again: self.gone > 0 && !is_held && become_fewer,
            is_stream_complete: mark.is_some() && self.gone == 0,
            mark: mark.filter(|_| !is_stranded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Side;

    fn watched() -> Sources {
        let mut sources = Sources::default();
        sources.link(Side::Zookeeper, true);
        let begun = sources.begin(1, true);
        let _ = Comparison::begin(true, false, 7, begun).ended(&mut sources, false, 0);
        sources
    }

    #[test]
    fn a_pair_in_a_round_is_left_only_by_a_routine_comparison_while_the_watch_stands() {
        let sources = watched();
        let begun = sources.begin(1, true);
        for (is_asked_for, is_settled, busy) in
            [(false, true, Busy::Left), (true, true, Busy::Again), (false, false, Busy::Again)]
        {
            assert_eq!(Comparison::begin(is_asked_for, is_settled, 7, begun).busy(&sources), busy);
        }
        let unwatched = Sources::default();
        assert_eq!(Comparison::begin(false, true, 7, begun).busy(&unwatched), Busy::Again);
    }

    #[test]
    fn a_comparison_that_missed_pairs_or_a_route_says_nothing_of_the_stores_as_a_whole() {
        let mut sources = watched();
        let every = sources.begin(1, true);
        let some = sources.begin(1, false);
        let mark = |sources: &mut Sources, begun, has_missed| {
            Comparison::begin(true, false, 7, begun).ended(sources, has_missed, 0).conclude(false, false, 0).mark
        };
        assert_eq!(mark(&mut sources, every, false), Some(7));
        assert_eq!(mark(&mut sources, every, true), None);
        assert_eq!(mark(&mut sources, some, false), None);
        sources.pause();
        assert_eq!(mark(&mut sources, every, false), None, "a route was paused meanwhile");
    }

    #[test]
    fn what_is_held_stranded_or_gone_keeps_back_what_it_concerns() {
        let found = |gone| Found { mark: Some(7), gone };
        let concluded = |asks_again, is_stream_complete, mark| Concluded { asks_again, is_stream_complete, mark };
        assert_eq!(found(0).conclude(false, false, 0), concluded(false, true, Some(7)));
        assert_eq!(found(0).conclude(false, true, 0), concluded(false, true, None));
        assert_eq!(found(2).conclude(false, false, 0), concluded(true, false, Some(7)));
        assert_eq!(found(2).conclude(true, false, 0), concluded(false, false, None));
        assert_eq!(Found { mark: None, gone: 2 }.conclude(false, false, 0), concluded(true, false, None));
        assert_eq!(found(2).conclude(false, false, 3), concluded(true, false, Some(7)));
        assert_eq!(found(2).conclude(false, false, 2), concluded(false, false, Some(7)), "the next at its interval");
    }
}
