//! Taking a pipeline over: what each answer of the stores is for, in the order in which they are asked. Pure; each step is a value
//! that the next answer consumes, so none can be left out or exchanged.
//!
//! ```text
//!   remembered in Redis -> Owning --lease--> Owned --journal, marks--> Completing --completed--> Marking
//! ```
//!
//! What Redis remembers is read before the ensemble is owned: afterwards this owner overwrites it, and it can no longer show that the
//! ensemble came back older. The journal is read once the fence is raised, so nobody else writes it; it is completed before its slots are marked,
//! and whether the data set is an older one is asked before that as well: once they are marked nothing shows it any more.

use crate::env::Set;
use crate::plan::guard::{Remembered, Taken};
use crate::store::{Lease, Slot};

/// The ensemble is to be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owning {
    in_redis: Remembered,
    remembered: Remembered,
    taken: Taken,
}

/// The ensemble is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    in_redis: Remembered,
    lease: Lease,
    /// Both stores are still those of the last owner. An owner of a later epoch than Redis remembers has written the stream: then the stores
    /// are not as that one left them, or the stream is of others, and what is missing in them says nothing of the pairs of this stream.
    pub are_stores_unchanged: bool,
}

/// The journal of the owner before is to be completed.
#[derive(Debug)]
pub struct Completing<J> {
    in_redis: Remembered,
    /// What is not marked: its sidecars may not be written.
    pub left: Vec<J>,
    slots: Vec<Slot>,
    lacks_marks: bool,
}

/// The slots of the journal are to be marked.
#[derive(Debug, PartialEq, Eq)]
pub struct Marking {
    /// Redis came back with an older data set since they were written.
    pub is_older: bool,
    /// All of them.
    pub slots: Vec<Slot>,
}

impl Owning {
    /// `in_redis`: what Redis remembers; `known`: what this process knows of the ensemble from an ownership before; `taken`: the epochs that
    /// the stream has.
    #[must_use]
    pub fn new(in_redis: Remembered, known: Remembered, taken: Taken) -> Owning {
        let mut remembered = in_redis;
        if remembered.ensemble == 0 || remembered.ensemble == known.ensemble {
            remembered.ensemble = remembered.ensemble.max(known.ensemble);
            remembered.zxid = remembered.zxid.max(known.zxid);
            remembered.watermark = remembered.watermark.max(known.watermark);
        }
        Owning { in_redis, remembered, taken }
    }

    /// What the ensemble is to be compared with.
    #[must_use]
    pub fn remembered(&self) -> Remembered {
        self.remembered
    }

    /// The epochs above which this owner begins.
    #[must_use]
    pub fn taken(&self) -> Taken {
        self.taken
    }

    /// The ensemble is owned; without an ensemble, the epoch is [`Taken::next`].
    #[must_use]
    pub fn owned(self, lease: Lease) -> Owned {
        let are_stores_unchanged = self.in_redis.ensemble == lease.ensemble.id && self.taken.is_known(self.in_redis);
        Owned { in_redis: self.in_redis, lease, are_stores_unchanged }
    }
}

impl Owned {
    /// What this owner has.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Whether Redis remembers no owner at all.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.in_redis == Remembered::default()
    }

    /// The journal, and the slots of it that Redis has marked.
    #[must_use]
    pub fn journal<J>(self, entries: Vec<J>, slot_of: impl Fn(&J) -> Slot, marked: &[Slot]) -> Completing<J> {
        let marked: Set<Slot> = marked.iter().copied().collect();
        let mut slots: Vec<Slot> = entries.iter().map(&slot_of).collect();
        slots.sort_unstable_by_key(|slot| (slot.number, slot.version));
        slots.dedup();
        let lacks_marks = lacks_marks(&slots, &marked);
        let left = entries.into_iter().filter(|entry| !marked.contains(&slot_of(entry))).collect();
        Completing { in_redis: self.in_redis, left, slots, lacks_marks }
    }
}

/// Whether Redis lost marks of journal slots. A slot is reused only after Redis has its mark, so a mark can be one version behind; more
/// means that Redis lost data.
fn lacks_marks(slots: &[Slot], marked: &Set<Slot>) -> bool {
    let mark = |number: usize| marked.iter().find(|slot| slot.number == number).map_or(0, |slot| slot.version);
    slots.iter().any(|slot| slot.version.wrapping_sub(mark(slot.number)) > 1)
}

impl<J> Completing<J> {
    /// What is left of the journal is completed. `has_fallen_back`: some key was back at an older state; `watermark`: that of the ensemble
    /// now, which Redis may be one behind.
    #[must_use]
    pub fn completed(self, has_fallen_back: bool, watermark: i32) -> Marking {
        let is_older = has_fallen_back || self.lacks_marks || self.in_redis.watermark + 1 < watermark;
        Marking { is_older, slots: self.slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ensemble;

    fn remembered(epoch: u64, ensemble: u32, zxid: i64, watermark: i32) -> Remembered {
        Remembered { epoch, ensemble, zxid, watermark }
    }

    fn lease(ensemble: u32) -> Lease {
        Lease { epoch: 9, ensemble: Ensemble { id: ensemble, since_zxid: 0 }, lost: None }
    }

    fn owned(in_redis: Remembered) -> Owned {
        Owning::new(in_redis, Remembered::default(), Taken::on_stream(3)).owned(lease(7))
    }

    #[test]
    fn what_this_process_knows_counts_only_for_the_same_lineage() {
        let of = |known| Owning::new(remembered(3, 7, 50, 2), known, Taken::default()).remembered();
        assert_eq!(of(remembered(3, 7, 60, 4)), remembered(3, 7, 60, 4));
        assert_eq!(of(remembered(3, 8, 60, 4)), remembered(3, 7, 50, 2));
        let lost = Owning::new(Remembered::default(), remembered(3, 7, 60, 4), Taken::default()).remembered();
        assert_eq!(lost, remembered(0, 7, 60, 4), "Redis lost it, and this process was the owner");
    }

    #[test]
    fn stores_are_kept_if_redis_remembers_this_lineage_and_every_epoch_of_the_stream() {
        assert!(owned(remembered(3, 7, 0, 0)).are_stores_unchanged);
        assert!(!owned(remembered(2, 7, 0, 0)).are_stores_unchanged, "a later owner has written the stream");
        assert!(!owned(remembered(3, 6, 0, 0)).are_stores_unchanged);
        assert!(owned(Remembered::default()).is_first());
    }

    #[test]
    fn only_what_is_not_marked_is_completed_and_every_slot_is_marked_then() {
        let slot = |number, version| Slot { number, version };
        let entries = vec![(slot(1, 4), 'a'), (slot(0, 2), 'b'), (slot(1, 4), 'c')];
        let marks = [slot(0, 2), slot(1, 3)];
        let completing = owned(remembered(3, 7, 0, 5)).journal(entries, |(slot, _)| *slot, &marks);
        assert_eq!(completing.left, [(slot(1, 4), 'a'), (slot(1, 4), 'c')]);
        assert_eq!(completing.completed(false, 6), Marking { is_older: false, slots: vec![slot(0, 2), slot(1, 4)] });
    }

    #[test]
    fn a_data_set_that_lacks_marks_or_is_two_marks_behind_the_ensemble_is_an_older_one() {
        let slot = |version| Slot { number: 0, version };
        let is_older = |mark, watermark, has_fallen_back| {
            let completing = owned(remembered(3, 7, 0, 5)).journal(vec![slot(4)], |slot| *slot, &[slot(mark)]);
            completing.completed(has_fallen_back, watermark).is_older
        };
        assert!(!is_older(4, 6, false) && !is_older(3, 6, false));
        assert!(is_older(2, 6, false) && is_older(4, 7, false) && is_older(4, 6, true));
    }
}
