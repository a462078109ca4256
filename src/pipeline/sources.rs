//! What is known of both sources: which are heard, and which of their gaps a comparison has looked over since.
//!
//! ```text
//!   link up or down, pause --> Sources --view()--> rounds: may the other side be assumed to be as the base has it?
//!   comparison begins --begin()--> Begun ----compared()----> what it has looked over is known
//! ```
//!
//! A comparison vouches for what was so when it began: a gap, a pause or another incarnation of the data set that comes while it runs is not
//! covered by it. So everything is read at the beginning, in one step, and handed back at the end.

use crate::change::Side;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sources {
    hears_znodes: bool,
    hears_keys: bool,
    /// Ends of the watch on the znodes so far.
    watch_gaps: u64,
    /// Of these, how many a comparison that has ended had behind it when it began.
    watch_compared: Option<u64>,
    /// The incarnation of Redis' data set when the last comparison that ended began.
    incarnation_compared: Option<u64>,
    /// The same of a comparison that ended with a route paused.
    incarnation_looked: Option<u64>,
    /// Pauses of routes so far.
    pauses: u64,
}

/// How things stood when a comparison began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Begun {
    hears_znodes: bool,
    watch_gaps: u64,
    pauses: u64,
    incarnation: u64,
    every_route: bool,
}

impl Sources {
    /// The source of this side is heard from now on, or is not; answers whether it was before.
    pub fn link(&mut self, side: Side, is_up: bool) -> bool {
        let heard = match side {
            Side::Zookeeper => &mut self.hears_znodes,
            Side::Redis => &mut self.hears_keys,
        };
        let was_up = std::mem::replace(heard, is_up);
        if side == Side::Zookeeper && !is_up {
            self.watch_gaps += 1;
        }
        was_up
    }

    /// A route was paused.
    pub fn pause(&mut self) {
        self.pauses += 1;
    }

    /// Whether this source is heard.
    #[must_use]
    pub fn hears(&self, side: Side) -> bool {
        match side {
            Side::Zookeeper => self.hears_znodes,
            Side::Redis => self.hears_keys,
        }
    }

    /// Whether every change of a znode since its base has been told of: the watch stands, and a comparison has ended since it was
    /// laid. Before that a znode may have been deleted and recreated at the very version that the base has.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.hears_znodes && self.watch_compared == Some(self.watch_gaps)
    }

    /// Whether a comparison has ended that began in this incarnation of the data set.
    #[must_use]
    pub fn is_compared(&self, incarnation: u64) -> bool {
        self.incarnation_compared == Some(incarnation)
    }

    /// Whether a comparison of whatever is not paused has ended that began in this incarnation of the data set.
    #[must_use]
    pub fn is_looked_at(&self, incarnation: u64) -> bool {
        self.incarnation_looked == Some(incarnation)
    }

    /// Whether a comparison of every route has ended in this ownership.
    #[must_use]
    pub fn has_compared(&self) -> bool {
        self.incarnation_compared.is_some()
    }

    /// A comparison begins, in this incarnation of the data set. `every_route`: none is paused.
    #[must_use]
    pub fn begin(&self, incarnation: u64, every_route: bool) -> Begun {
        let Sources { hears_znodes, watch_gaps, pauses, .. } = *self;
        Begun { hears_znodes, watch_gaps, pauses, incarnation, every_route }
    }

    /// Whether no route was paused since it began.
    #[must_use]
    pub fn is_unpaused_since(&self, begun: &Begun) -> bool {
        self.pauses == begun.pauses
    }

    /// Whether the comparison looks at every route: none is paused, or was since it began.
    #[must_use]
    pub fn covers_every_route(&self, begun: &Begun) -> bool {
        begun.every_route && self.is_unpaused_since(begun)
    }

    /// The comparison has looked at everything. Without every route it vouches for nothing.
    pub fn compared(&mut self, begun: &Begun) {
        self.incarnation_looked = Some(begun.incarnation);
        if !self.covers_every_route(begun) {
            return;
        }
        if begun.hears_znodes {
            self.watch_compared = Some(begun.watch_gaps);
        }
        self.incarnation_compared = Some(begun.incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(sources: &mut Sources) {
        let begun = sources.begin(1, true);
        sources.compared(&begun);
    }

    #[test]
    fn a_watch_counts_once_a_comparison_has_ended_that_began_while_it_stood() {
        let mut sources = Sources::default();
        compared(&mut sources);
        assert!(!sources.is_watched(), "nobody listens");
        assert!(!sources.link(Side::Zookeeper, true));
        assert!(!sources.is_watched(), "what happened before it was laid is not known");
        compared(&mut sources);
        assert!(sources.is_watched());
        assert!(sources.link(Side::Zookeeper, false));
        assert!(!sources.is_watched());
    }

    #[test]
    fn a_comparison_does_not_vouch_for_a_gap_that_came_while_it_ran() {
        let mut sources = Sources::default();
        sources.link(Side::Zookeeper, true);
        let begun = sources.begin(1, true);
        sources.link(Side::Zookeeper, false);
        sources.link(Side::Zookeeper, true);
        sources.compared(&begun);
        assert!(!sources.is_watched());
        compared(&mut sources);
        assert!(sources.is_watched());
    }

    #[test]
    fn a_comparison_that_began_without_a_watch_covers_no_gap() {
        let mut sources = Sources::default();
        let begun = sources.begin(1, true);
        sources.link(Side::Zookeeper, true);
        sources.compared(&begun);
        assert!(!sources.is_watched());
        assert!(sources.is_compared(1), "of Redis it has seen all");
    }

    #[test]
    fn another_life_of_the_data_set_is_not_compared() {
        let mut sources = Sources::default();
        assert!(!sources.has_compared() && !sources.is_compared(0));
        compared(&mut sources);
        assert!(sources.has_compared() && sources.is_compared(1) && !sources.is_compared(2));
    }

    #[test]
    fn with_a_route_paused_before_or_meanwhile_nothing_is_concluded() {
        let mut sources = Sources::default();
        sources.link(Side::Zookeeper, true);
        let begun = sources.begin(1, false);
        sources.compared(&begun);
        assert!(!sources.has_compared() && !sources.is_watched());
        assert!(sources.is_looked_at(1) && !sources.is_looked_at(2));
        let begun = sources.begin(1, true);
        sources.pause();
        assert!(!sources.is_unpaused_since(&begun));
        sources.compared(&begun);
        assert!(!sources.has_compared() && !sources.is_watched());
    }

    #[test]
    fn each_source_is_heard_for_itself() {
        let mut sources = Sources::default();
        sources.link(Side::Redis, true);
        assert!(sources.hears(Side::Redis) && !sources.hears(Side::Zookeeper));
        assert!(sources.link(Side::Redis, true), "it was up already");
    }
}
