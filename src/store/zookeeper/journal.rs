//! The journal: what a multi did, written in the same multi, and needed until the sidecars in Redis
//! hold the same.
//!
//! A slot is one znode. Its data names every pair of the multi with the base that its sidecar must
//! get; the zxid of the transaction, which nobody knows beforehand, is the slot's own mzxid.

use crate::plan::Base;
use crate::plan::guard::{Milestone, landed};
use crate::store::{JournalEntry, Slot, ZnodeOp, ZnodeWrite};

pub(super) use crate::store::JOURNAL_SLOTS as SLOTS;

const GONE: u8 = 0;
const CREATED: u8 = 1;
const SET: u8 = 2;

/// At most the bytes of the entry of a write whose key has so many: length, key, nonce, kind,
/// length of the base, base.
pub(super) fn entry_bytes(key: usize) -> usize {
    4 + key + 8 + 1 + 1 + Base::ENCODED_MAX
}

/// Appends the entry of one write. Of a base that is removed (`gone`) only the sequence is needed.
pub(super) fn append(bytes: &mut Vec<u8>, write: &ZnodeWrite<'_>, gone: bool) {
    let kind = match write.op {
        _ if gone => GONE,
        ZnodeOp::Create => CREATED,
        ZnodeOp::Set(_) | ZnodeOp::Delete(_) => SET,
    };
    let base = write.base.encode();
    bytes.extend_from_slice(&u32::try_from(write.key.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(write.key);
    bytes.extend_from_slice(&write.nonce.to_be_bytes());
    bytes.push(kind);
    bytes.push(u8::try_from(base.len()).unwrap_or(0));
    bytes.extend_from_slice(&base);
}

/// What stands before the milestone, where an entry has the length of its key: no key is so long,
/// so a version that knows no milestones reads the slot to here.
const MILESTONE: [u8; 4] = u32::MAX.to_be_bytes();
pub(super) const MILESTONE_BYTES: usize = 4 + 8 + 8;

/// Appends the milestone of these writes, after their entries, if it is that of all of them.
pub(super) fn append_milestone<'a>(bytes: &mut Vec<u8>, writes: impl Iterator<Item = &'a ZnodeWrite<'a>> + Clone) {
    let first = writes.clone().next().and_then(|write| write.milestone);
    if let Some(Milestone { branch, number }) = first.filter(|_| writes.clone().all(|write| write.milestone == first)) {
        bytes.extend_from_slice(&MILESTONE);
        bytes.extend_from_slice(&branch.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
    }
}

/// Reads a slot; what cannot be read ends it (a slot is written whole or not at all).
pub(super) fn read(slot: Slot, mut bytes: &[u8], mzxid: i64) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    while let Some(entry) = next(slot, &mut bytes, mzxid) {
        entries.push(entry);
    }
    let milestone = milestone(bytes);
    entries.iter_mut().for_each(|entry| entry.milestone = milestone);
    entries
}

fn milestone(bytes: &[u8]) -> Option<Milestone> {
    let (branch, rest) = bytes.strip_prefix(&MILESTONE)?.split_first_chunk::<8>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    Some(Milestone { branch: u64::from_be_bytes(*branch), number: u64::from_be_bytes(*number) })
}

fn next(slot: Slot, bytes: &mut &[u8], mzxid: i64) -> Option<JournalEntry> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (nonce, rest) = rest.split_first_chunk::<8>()?;
    let ([kind, length], rest) = rest.split_first_chunk::<2>()?;
    let (base, rest) = rest.split_at_checked(usize::from(*length))?;
    let base = Base::decode(base)?;
    *bytes = rest;
    Some(JournalEntry {
        slot,
        key: key.to_vec(),
        nonce: u64::from_be_bytes(*nonce),
        base: (*kind != GONE).then(|| landed(base, *kind == CREATED, mzxid)),
        sequence: base.sequence,
        milestone: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Digest, ZkVersion};
    use crate::store::ZnodeAcl;

    fn write(op: ZnodeOp, key: &[u8]) -> ZnodeWrite<'_> {
        let version = ZkVersion { czxid: 5, mzxid: 0, version: 3 };
        let base = Base {
            sequence: 9,
            zookeeper: Some(version),
            redis: Some(Digest::EMPTY),
            expires_ms: None,
            ephemeral: false,
            apart: false,
            unverified: false,
            left: false,
            lost: false,
            path_id: 1,
            ensemble: 2,
        };
        ZnodeWrite { path: "/a", op, data: b"", key, base, nonce: 77, acl: ZnodeAcl::Open, milestone: None }
    }

    #[test]
    fn a_slot_reads_back_with_the_zxid_of_its_transaction() {
        let mut bytes = Vec::new();
        append(&mut bytes, &write(ZnodeOp::Create, b"created"), false);
        append(&mut bytes, &write(ZnodeOp::Set(2), b"set"), false);
        append(&mut bytes, &write(ZnodeOp::Delete(2), b""), true);
        let slot = Slot { number: 3, version: 8 };
        let entries = read(slot, &bytes, 40);
        let versions: Vec<_> = entries.iter().map(|entry| entry.base.and_then(|base| base.zookeeper)).collect();
        let expected =
            [Some(ZkVersion { czxid: 40, mzxid: 40, version: 3 }), Some(ZkVersion { czxid: 5, mzxid: 40, version: 3 })];
        assert_eq!(versions.get(..2), Some(&expected[..]));
        assert_eq!(versions.get(2), Some(&None));
        assert!(entries.iter().all(|entry| entry.nonce == 77 && entry.sequence == 9));
        assert_eq!(read(slot, bytes.get(..bytes.len() - 1).unwrap_or_default(), 40).len(), 2);
    }

    #[test]
    fn a_milestone_follows_the_entries_and_is_that_of_all_of_them() {
        let milestone = Some(Milestone { branch: u64::MAX, number: 7 });
        let with = ZnodeWrite { milestone, ..write(ZnodeOp::Create, b"with") };
        let without = write(ZnodeOp::Create, b"without");
        let slot = Slot { number: 3, version: 8 };
        for (writes, expected) in [
            (vec![with.clone(), with.clone()], milestone),
            (vec![with.clone(), without.clone()], None),
            (vec![without.clone(), with.clone()], None),
            (vec![without.clone()], None),
        ] {
            let mut bytes = Vec::new();
            writes.iter().for_each(|write| append(&mut bytes, write, false));
            let entries_end = bytes.len();
            append_milestone(&mut bytes, writes.iter());
            assert!(bytes.len() - entries_end <= MILESTONE_BYTES);
            let entries = read(slot, &bytes, 40);
            assert!(entries.len() == writes.len() && entries.iter().all(|entry| entry.milestone == expected));
            // As a version before reads it: what is no entry ends them.
            let mut rest = bytes.get(entries_end..).unwrap_or_default();
            assert_eq!(next(slot, &mut rest, 40), None);
        }
    }
}
