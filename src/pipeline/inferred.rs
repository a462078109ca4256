//! Deletes that nobody saw happen: gathered while a comparison, and the rounds to which it left pairs, find them; then let through,
//! or held until an operator approves them.
//!
//! ```text
//!   infer(pair) --> found --decide--> through   few of the route
//!                     |         +---> held      many: until `approve`, or the pair is settled otherwise
//!                     +--settled: an event told after all, or either side changed
//! ```
//!
//! Nothing of a route goes through before a comparison of it has ended whole: only then is it known how many there are. What was
//! let through goes on counting until the next comparison begins, so many do not slip through as several few.

use super::hint::PairName;
use crate::env::{Set, lock};
use crate::plan::{Bulk, bulk};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
struct Route {
    found: Set<PairName>,
    through: u64,
    held: Set<PairName>,
    /// Pairs of the route; `None` until a comparison of it has ended.
    pairs: Option<u64>,
}

/// What [`Inferred::decide`] came to.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Deletes that go through now.
    pub(super) through: Vec<PairName>,
    /// How many are held, if that is new, and the pairs of the route.
    pub(super) newly_held: Option<(usize, u64)>,
}

/// See the module. Memory grows with the pairs in it.
#[derive(Debug)]
pub(super) struct Inferred {
    routes: Mutex<Vec<Route>>,
    /// Pairs in all sets, so that those who have nothing to take out need no lock.
    count: AtomicUsize,
    is_guarded: bool,
}

impl Inferred {
    /// For so many routes. `is_guarded`: many are held.
    pub(super) fn new(routes: usize, is_guarded: bool) -> Inferred {
        let routes = Mutex::new((0..routes).map(|_| Route::default()).collect());
        Inferred { routes, count: AtomicUsize::new(0), is_guarded }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Vec<Route>) -> T) -> T {
        let mut routes: MutexGuard<'_, Vec<Route>> = lock(&self.routes);
        let answer = what(&mut routes);
        let count = routes.iter().map(|route| route.found.len() + route.held.len()).sum();
        self.count.store(count, Ordering::Release);
        answer
    }

    /// A comparison begins, which finds again what the one before had found of the routes that it looks at.
    pub(super) fn begin(&self, is_compared: impl Fn(usize) -> bool) {
        self.with(|routes| {
            for (_, route) in routes.iter_mut().enumerate().filter(|(at, _)| is_compared(*at)) {
                route.found.clear();
                (route.through, route.pairs) = (0, None);
            }
        });
    }

    /// Nobody saw this pair being deleted. Answers whether that is known to be held already.
    pub(super) fn infer(&self, name: PairName, at: usize) -> bool {
        self.with(|routes| {
            let Some(route) = routes.get_mut(at) else { return false };
            let is_held = route.held.contains(&name);
            if !is_held {
                route.found.insert(name);
            }
            is_held
        })
    }

    /// There is nothing to be deleted of this pair any more.
    pub(super) fn settled(&self, name: &[u8], at: usize) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.with(|routes| {
                if let Some(route) = routes.get_mut(at) {
                    route.found.remove(name);
                    route.held.remove(name);
                }
            });
        }
    }

    /// A comparison of this route has ended, in which no event was lost: it has so many pairs.
    pub(super) fn ended(&self, at: usize, pairs: u64) {
        self.with(|routes| {
            if let Some(route) = routes.get_mut(at) {
                route.pairs = Some(pairs);
            }
        });
    }

    /// Decides about the deletes of this route as far as that can be said while so many of its pairs are still open.
    pub(super) fn decide(&self, at: usize, open: u64) -> Decided {
        if self.count.load(Ordering::Acquire) == 0 {
            return Decided::default();
        }
        self.with(|routes| {
            let Some(route) = routes.get_mut(at).filter(|route| !route.found.is_empty()) else {
                return Decided::default();
            };
            let Some(pairs) = route.pairs else { return Decided::default() };
            let inferred = route.through + count(route.found.len() + route.held.len());
            match bulk(inferred, open, pairs) {
                Bulk::Held if self.is_guarded => {
                    route.held.extend(route.found.drain());
                    Decided { through: Vec::new(), newly_held: Some((route.held.len(), pairs)) }
                }
                Bulk::Open if self.is_guarded => Decided::default(),
                Bulk::Through | Bulk::Held | Bulk::Open => {
                    route.through += count(route.found.len());
                    Decided { through: route.found.drain().collect(), newly_held: None }
                }
            }
        })
    }

    /// Gives out what is held of this route: an operator approved it.
    pub(super) fn approve(&self, at: usize) -> Vec<PairName> {
        self.with(|routes| routes.get_mut(at).map(|route| route.held.drain().collect()).unwrap_or_default())
    }

    /// How many are held, by route.
    pub(super) fn held(&self) -> Vec<usize> {
        self.with(|routes| routes.iter().map(|route| route.held.len()).collect())
    }

    /// Whether some are held.
    pub(super) fn any_held(&self) -> bool {
        self.held().iter().any(|held| *held > 0)
    }

    /// Whether some are not decided about.
    pub(super) fn is_open(&self) -> bool {
        self.with(|routes| routes.iter().any(|route| !route.found.is_empty()))
    }

    /// Those that the last comparison found and that are not held: let through, or not decided about.
    pub(super) fn not_held(&self) -> u64 {
        self.with(|routes| routes.iter().map(|route| route.through + count(route.found.len())).sum())
    }
}

fn count(pairs: usize) -> u64 {
    u64::try_from(pairs).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> PairName {
        number.to_string().into_bytes().into()
    }

    fn found(numbers: std::ops::Range<usize>) -> Inferred {
        let inferred = Inferred::new(1, true);
        numbers.for_each(|number| assert!(!inferred.infer(name(number), 0)));
        inferred
    }

    #[test]
    fn nothing_goes_through_before_the_comparison_has_ended_and_what_it_left_is_known() {
        let inferred = found(0..50);
        assert!(inferred.decide(0, 0).through.is_empty(), "it may be under way");
        inferred.ended(0, 400);
        assert!(inferred.decide(0, 350).through.is_empty(), "the others may be gone as well");
        (50..400).for_each(|number| assert!(!inferred.infer(name(number), 0)));
        assert_eq!(inferred.decide(0, 0).newly_held, Some((400, 400)));
        assert_eq!((inferred.held(), inferred.is_open()), (vec![400], false));
    }

    #[test]
    fn many_do_not_slip_through_as_several_few() {
        let inferred = found(0..80);
        inferred.ended(0, 200);
        assert_eq!(inferred.decide(0, 0).through.len(), 80);
        (80..160).for_each(|number| assert!(!inferred.infer(name(number), 0)));
        assert_eq!(inferred.decide(0, 0).newly_held, Some((80, 200)));
    }

    #[test]
    fn what_is_held_stays_so_when_some_of_it_is_settled_and_the_next_comparison_finds_fewer() {
        let inferred = found(0..150);
        inferred.ended(0, 200);
        assert_eq!(inferred.decide(0, 0).newly_held, Some((150, 200)));
        (0..70).for_each(|number| inferred.settled(&name(number), 0));
        inferred.begin(|_| true);
        assert!(inferred.infer(name(149), 0), "it is held");
        assert!(!inferred.infer(name(1_000), 0), "it is not");
        inferred.ended(0, 200);
        assert_eq!(inferred.decide(0, 0).through, [name(1_000)]);
        assert_eq!(inferred.held(), [80]);
        assert_eq!(inferred.approve(0).len(), 80);
        assert!(!inferred.any_held());
    }

    #[test]
    fn a_route_that_was_not_looked_at_keeps_what_was_found_of_it() {
        let inferred = found(0..150);
        inferred.ended(0, 150);
        assert!(inferred.decide(0, 0).newly_held.is_some());
        inferred.begin(|_| false);
        assert_eq!(inferred.held(), [150]);
    }

    #[test]
    fn without_the_guard_all_go_through_once_the_comparison_has_ended() {
        let inferred = Inferred::new(1, false);
        (0..150).for_each(|number| assert!(!inferred.infer(name(number), 0)));
        assert!(inferred.decide(0, 0).through.is_empty());
        inferred.ended(0, 150);
        assert_eq!(inferred.decide(0, 10).through.len(), 150);
    }
}
