//! What one ownership of a pipeline holds: its place in line, its fence, its journal slots. Each
//! ownership has its own, so whatever is left of an earlier one can neither use nor free what
//! belongs to a later one.

use super::journal::SLOTS;
use super::session::Stat;
use super::sessions::OpenSession;
use crate::env::lock;
use crate::store::Slot;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// See the module.
pub(super) struct Tenure {
    pub(super) session: Arc<OpenSession>,
    pub(super) place_in_line: Mutex<Option<String>>,
    pub(super) claim: Mutex<Option<String>>,
    /// Path and version of the epoch znode.
    pub(super) fence: Mutex<(String, i32)>,
    slots: Mutex<Slots>,
    slots_free: Semaphore,
}

/// The journal slots: versions of all, and which are free.
struct Slots {
    versions: [i32; SLOTS],
    free: Vec<usize>,
}

impl Tenure {
    pub(super) fn new(session: Arc<OpenSession>) -> Tenure {
        Tenure {
            session,
            place_in_line: Mutex::new(None),
            claim: Mutex::new(None),
            fence: Mutex::new((String::new(), 0)),
            slots: Mutex::new(Slots { versions: [0; SLOTS], free: Vec::new() }),
            slots_free: Semaphore::new(0),
        }
    }

    pub(super) fn slot_version(&self, slot: usize) -> i32 {
        lock(&self.slots).versions.get(slot).copied().unwrap_or(0)
    }

    pub(super) fn note_slot(&self, slot: usize, version: i32) {
        if let Some(known) = lock(&self.slots).versions.get_mut(slot) {
            *known = version;
        }
    }

    /// Takes as many free slots, all at once, so that two calls cannot wait for each other's.
    /// `None` once it has ended: slots whose sidecars were never written are not given back, so
    /// nobody may wait for them then.
    pub(super) async fn take_slots(&self, count: usize) -> Option<Vec<usize>> {
        self.slots_free.acquire_many(u32::try_from(count).unwrap_or(1)).await.ok()?.forget();
        let mut slots = lock(&self.slots);
        let keep = slots.free.len().saturating_sub(count);
        Some(slots.free.split_off(keep))
    }

    pub(super) fn release(&self, given: &[Slot]) {
        let mut slots = lock(&self.slots);
        for slot in given {
            // One in another state was taken in another ownership.
            let is_ours = slots.versions.get(slot.number) == Some(&slot.version);
            if is_ours && !slots.free.contains(&slot.number) {
                slots.free.push(slot.number);
                self.slots_free.add_permits(1);
            }
        }
    }

    /// Those that are free, as they were written last.
    pub(super) fn settled_slots(&self) -> Vec<Slot> {
        let slots = lock(&self.slots);
        let version =
            |number: &usize| slots.versions.get(*number).map(|version| Slot { number: *number, version: *version });
        slots.free.iter().filter_map(version).collect()
    }

    /// Nobody waits for a slot any more.
    pub(super) fn close_slots(&self) {
        self.slots_free.close();
    }

    pub(super) fn free_all_slots(&self) {
        let mut slots = lock(&self.slots);
        let missing: Vec<usize> = (0..SLOTS).filter(|slot| !slots.free.contains(slot)).collect();
        slots.free.extend_from_slice(&missing);
        self.slots_free.add_permits(missing.len());
    }

    /// Whether this ephemeral znode is our session's. Its name does not show it: sequence numbers
    /// begin anew once the znode above was deleted.
    pub(super) fn holds(&self, stat: &Stat) -> bool {
        stat.ephemeral_owner == self.session.id()
    }

    pub(super) fn fence(&self) -> (String, i32) {
        lock(&self.fence).clone()
    }
}
