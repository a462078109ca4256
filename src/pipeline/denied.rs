//! What a comparison may not read: into quarantine if it is a pair, and on the list of its route if pairs may be below it.

use super::compare::Comparer;
use super::control::Unreadable;
use super::hint::PairName;
use super::unreadable::Denied;
use crate::env::Set;
use crate::plan::Flow;

impl Comparer {
    /// Takes in a znode that may not be read: one that is a pair is quarantined, and its name is the answer; of another one it is
    /// noted if pairs may be below it.
    pub(super) fn deny(&self, path: &str, reason: &str, denied: &mut Denied) -> Option<PairName> {
        let Some(mapped) = self.spec.map.of_path(path) else {
            denied.note(self.spec.map.reaching(path)?, path.to_owned(), reason.to_owned());
            return None;
        };
        let is_captured =
            self.spec.route(mapped.route).is_some_and(|route| matches!(route.policy.flow, Flow::Capture(_)));
        let name = match &mapped.pair.redis {
            Some(key) if !is_captured => key.as_slice(),
            _ => path.as_bytes(),
        };
        self.rounds.quarantine(name, mapped.route, &mapped.pair, "no_permission", reason);
        Some(name.into())
    }

    /// Replaces what is known by what a comparison that came to its end has found, and logs what is new and what is over.
    pub(super) fn set_unreadable(&self, denied: Denied) {
        let before = self.books.health.set_unreadable(denied.clone());
        let pipeline = &self.spec.settings.pipeline;
        let known: Set<&str> = before.listed().map(|(_, one)| one.name.as_str()).collect();
        for (route, Unreadable { name, reason }) in
            denied.listed().filter(|(_, one)| !known.contains(one.name.as_str()))
        {
            let route = self.spec.route(route).map(|route| route.name.as_str()).unwrap_or_default();
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
