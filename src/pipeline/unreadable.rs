//! What the session of a store may not read in the ranges of the routes. It is found by comparisons: a change of an ACL is no
//! event. A znode that may not be read hides everything below it, whether it is a pair itself or not.

use super::control::Unreadable;
use super::dirty::PairName;
use super::engine::{Engine, lock};
use crate::env::Set;
use crate::plan::Flow;
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

    fn listed(&self) -> impl Iterator<Item = (usize, &Unreadable)> {
        self.routes.iter().enumerate().flat_map(|(route, of_route)| of_route.listed.iter().map(move |one| (route, one)))
    }
}

impl Engine {
    /// Takes in a znode that may not be read: one that is a pair is quarantined, and its name is the answer; of another one it is
    /// noted if pairs may be below it.
    pub(super) fn deny(&self, path: &str, reason: &str, denied: &mut Denied) -> Option<PairName> {
        let Some(mapped) = self.map.of_path(path) else {
            denied.note(self.map.reaching(path)?, path.to_owned(), reason.to_owned());
            return None;
        };
        let is_captured = self.route(mapped.route).is_some_and(|route| matches!(route.policy.flow, Flow::Capture(_)));
        let name = match &mapped.pair.redis {
            Some(key) if !is_captured => key.as_slice(),
            _ => path.as_bytes(),
        };
        self.quarantine(name, mapped.route, &mapped.pair, "no_permission", reason);
        Some(name.into())
    }

    /// Replaces what is known by what a comparison that came to its end has found, and logs what is new and what is over.
    pub(super) fn set_unreadable(&self, denied: Denied) {
        let before = std::mem::replace(&mut lock(&self.live).unreadable, denied.clone());
        let pipeline = &self.settings.pipeline;
        let known: Set<&str> = before.listed().map(|(_, one)| one.name.as_str()).collect();
        for (route, Unreadable { name, reason }) in
            denied.listed().filter(|(_, one)| !known.contains(one.name.as_str()))
        {
            let route = self.route(route).map(|route| route.name.as_str()).unwrap_or_default();
            tracing::warn!(
                pipeline,
                route,
                path = name,
                reason,
                "a znode cannot be read: nothing below it is mirrored"
            );
        }
        let now: Set<&str> = denied.listed().map(|(_, one)| one.name.as_str()).collect();
        for (_, Unreadable { name, .. }) in before.listed().filter(|(_, one)| !now.contains(one.name.as_str())) {
            tracing::info!(pipeline, path = name, "the znode is not among those that cannot be read any more");
        }
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
