//! What the session of a store may not read in the ranges of the routes. It is found by comparisons: a change of an ACL is no
//! event. A znode that may not be read hides everything below it, whether it is a pair itself or not.

use super::control::Unreadable;
use crate::store::preflight::shown;

/// Names that are listed for each route. The others are counted.
pub(super) const LISTED_MAX: usize = 20;

/// What one comparison could not read, by route; pairs, which are quarantined, are not among it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Denied {
    routes: Vec<OfRoute>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfRoute {
    count: u64,
    listed: Vec<Unreadable>,
}

impl Denied {
    pub(super) fn note(&mut self, route: usize, name: String, reason: String) {
        if self.routes.len() <= route {
            self.routes.resize_with(route + 1, OfRoute::default);
        }
        let Some(of_route) = self.routes.get_mut(route) else { return };
        of_route.count += 1;
        if of_route.listed.len() < LISTED_MAX {
            of_route.listed.push(Unreadable { name: shown(&name), reason: shown(&reason) });
        }
    }

    /// How many there are in this route, and the first of them.
    pub(super) fn of_route(&self, route: usize) -> (u64, Vec<Unreadable>) {
        self.routes.get(route).map_or((0, Vec::new()), |of_route| (of_route.count, of_route.listed.clone()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.iter().all(|of_route| of_route.count == 0)
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = (usize, &Unreadable)> {
        self.routes.iter().enumerate().flat_map(|(route, of_route)| of_route.listed.iter().map(move |one| (route, one)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_listed_and_all_are_counted() {
        let mut denied = Denied::default();
        assert!(denied.is_empty());
        for number in 0..LISTED_MAX + 5 {
            denied.note(1, format!("/{number}"), "no".to_owned());
        }
        assert!(!denied.is_empty());
        assert_eq!(denied.of_route(0), (0, Vec::new()));
        let (count, listed) = denied.of_route(1);
        assert_eq!((count, listed.len()), (25, LISTED_MAX));
        assert_eq!(listed.first().map(|one| one.name.as_str()), Some("/0"));
    }
}
