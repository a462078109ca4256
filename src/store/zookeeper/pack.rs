//! Packing: which writes go into one transaction, by the bytes of the request, and which ancestors
//! are created before.
//!
//! ```text
//!   what fits together       ancestors and writes in one multi
//!   many levels, long ACLs   the ancestors first, some transactions in each call and after all others; then the write
//!   what does not fit alone  is not sent: too large
//! ```
//!
//! Ancestors that are created so carry the fence, and no journal: an empty znode is no state of a
//! pair, and it remains.

use super::fault::{explain, is_broken};
use super::parents::{Creation, look_up};
use super::session::{Acl, CreateMode, Error, MultiWriteError, Session, WriteOp};
use super::shared::Shared;
use super::tenure::Tenure;
use super::{lineage, size};
use crate::change::brief;
use crate::env::Set;
use crate::failpoint::planted;
use crate::store::request::Verdict;
use crate::store::{FailureKind, StoreError, ZnodeAcl, ZnodeOp, ZnodeOutcome, ZnodeWrite, is_creatable};
use std::sync::Arc;

/// Writes in one multi, and ancestors of them. Beyond a hundred the rate does not grow, and a
/// refused member costs more. For each znode that is created the server looks at every ancestor for
/// a recursive watch: hundreds of them, one below the other, in one transaction keep it from
/// answering anybody.
const MULTI_WRITES: usize = 100;
const MULTI_ANCESTORS: usize = 100;

/// Transactions of one call that only create ancestors. The rest of the round waits for them before
/// it ends, so they are few: what is missing then comes with the next round, which other pairs
/// share.
const ANCESTOR_MULTIS: usize = 2;

/// Times that ancestors which came or went meanwhile are looked up again.
const TRIES: usize = 8;

/// One write on its way, with its place in the call.
pub(super) struct Member<'a> {
    pub(super) index: usize,
    pub(super) write: ZnodeWrite<'a>,
    /// A delete of a znode with children: emptied instead.
    pub(super) empties: bool,
    pub(super) acl: Arc<Vec<Acl>>,
    /// Bytes of the paths of the ancestors that it creates, top first.
    pub(super) missing: Vec<usize>,
}

impl<'a> Member<'a> {
    /// The ancestors that it creates.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        self.missing.iter().filter_map(|end| self.write.path.get(..*end))
    }

    /// Leaves ancestors to whoever creates them before.
    pub(super) fn leave(&mut self, created: &Set<&str>) {
        let path = self.write.path;
        self.missing.retain(|end| path.get(..*end).is_none_or(|ancestor| !created.contains(ancestor)));
    }

    fn ancestor_bytes(&self, shared: &Shared) -> usize {
        let acl = size::acl(&self.acl);
        self.missing.iter().map(|end| shared.sizes.create(*end, 0, acl)).sum()
    }

    /// What it adds to a multi.
    fn bytes(&self, shared: &Shared) -> usize {
        shared.sizes.member(&self.write, &self.acl) + self.ancestor_bytes(shared)
    }
}

/// Bytes of the request that writes these.
pub(super) fn request_bytes(shared: &Shared, members: &[Member<'_>]) -> usize {
    shared.sizes.multi() + members.iter().map(|member| member.bytes(shared)).sum::<usize>()
}

/// The writes of one call.
pub(super) struct Packed<'a> {
    /// As transactions.
    pub(super) multis: Vec<Vec<Member<'a>>>,
    /// The outcomes of those that are in none.
    pub(super) settled: Vec<(usize, ZnodeOutcome)>,
    /// Those whose ancestors are to be created first, by [`create_ancestors`].
    pub(super) deep: Vec<Member<'a>>,
}

/// Packs writes. What does not fit into so many transactions is left out.
pub(super) async fn pack<'a>(
    shared: &Shared,
    tenure: &Tenure,
    writes: &[ZnodeWrite<'a>],
    multis_max: usize,
) -> Result<Packed<'a>, StoreError> {
    let mut order: Vec<(usize, &ZnodeWrite<'a>)> = writes.iter().enumerate().collect();
    // Parents are created before children, and children are deleted before parents.
    order.sort_by_key(|(_, write)| {
        let depth = i64::try_from(write.path.bytes().filter(|byte| *byte == b'/').count()).unwrap_or(0);
        if matches!(write.op, ZnodeOp::Delete(_)) { -depth } else { depth }
    });
    let is_created = |write: &ZnodeWrite<'_>| write.op == ZnodeOp::Create && is_creatable(write.path).is_ok();
    let creates: Vec<(&str, ZnodeAcl)> =
        order.iter().filter(|(_, write)| is_created(write)).map(|(_, write)| (write.path, write.acl)).collect();
    let mut places = look_up(&shared.place, &shared.parents, tenure.session.handle(), &creates).await?.into_iter();
    let limit = &shared.settings.sessions.limit;
    let fixed = shared.sizes.multi();
    let mut multis: Vec<Vec<Member<'_>>> = Vec::new();
    let (mut settled, mut deep) = (Vec::new(), Vec::new());
    let (mut count, mut ancestors, mut bytes) = (0, 0, usize::MAX);
    let mut created: Set<&str> = Set::default();
    for (index, write) in order {
        let place = if is_created(write) { places.next() } else { None };
        if let (ZnodeOp::Create, None, Err(why)) = (write.op, &place, is_creatable(write.path)) {
            settled.push((index, too_large(shared, write.path, &why)));
            continue;
        }
        let Creation { acl, missing } = place.unwrap_or(Creation { acl: Some(Arc::default()), missing: Vec::new() });
        let Some(acl) = acl else {
            settled.push((index, no_acl(shared, write.path)));
            continue;
        };
        let mut member = Member { index, write: write.clone(), empties: false, acl, missing };
        let own = shared.sizes.member(&member.write, &member.acl);
        if !limit.takes(fixed + own) {
            settled.push((index, too_large(shared, write.path, &limit.why(fixed + own, "jute.maxbuffer"))));
            continue;
        }
        let needed = member.missing.len();
        member.leave(&created);
        let size = member.bytes(shared);
        let is_too_much = fixed + size > limit.together() || member.missing.len() > MULTI_ANCESTORS;
        if is_too_much && !member.missing.is_empty() {
            // Where some of them are created by a write of this very call, it comes again after
            // that.
            if member.missing.len() == needed {
                deep.push(member);
            }
            continue;
        }
        let is_full = count >= MULTI_WRITES || ancestors + member.missing.len() > MULTI_ANCESTORS;
        if bytes.saturating_add(size) > limit.together() || is_full {
            if multis.len() == multis_max {
                break;
            }
            multis.push(Vec::new());
            (count, ancestors, bytes) = (0, 0, fixed);
        }
        (count, ancestors, bytes) = (count + 1, ancestors + member.missing.len(), bytes + size);
        created.extend(member.ancestors());
        if write.op == ZnodeOp::Create {
            created.insert(write.path);
        }
        if let Some(multi) = multis.last_mut() {
            multi.push(member);
        }
    }
    Ok(Packed { multis, settled, deep })
}

/// Creates ancestors of writes that do not fit into one transaction with them: some, the nearest to
/// the root first. The outcomes of those of which none can be created; the others are handed back,
/// and find in the next call what is there by then.
pub(super) async fn create_ancestors(
    shared: &Shared,
    tenure: &Tenure,
    deep: &[Member<'_>],
) -> Result<Vec<(usize, ZnodeOutcome)>, StoreError> {
    let mut settled = Vec::new();
    let mut left = ANCESTOR_MULTIS;
    for member in deep {
        if left == 0 {
            break;
        }
        if let Some(outcome) = create_ancestors_of(shared, tenure, member, &mut left).await? {
            settled.push((member.index, outcome));
        }
    }
    Ok(settled)
}

/// Creates ancestors of a write, in at most so many transactions; an outcome if that cannot be
/// done.
async fn create_ancestors_of(
    shared: &Shared,
    tenure: &Tenure,
    member: &Member<'_>,
    left: &mut usize,
) -> Result<Option<ZnodeOutcome>, StoreError> {
    let (session, path) = (tenure.session.handle(), member.write.path);
    let limit = &shared.settings.sessions.limit;
    let acl = size::acl(&member.acl);
    let mut trial = limit.trial();
    let mut missing = member.missing.clone();
    let mut half = MULTI_ANCESTORS;
    let mut tries = 0;
    while !missing.is_empty() && tries < TRIES && *left > 0 {
        let mut bytes = shared.sizes.multi();
        let fits = missing.iter().take(half).take_while(|end| {
            bytes += shared.sizes.create(**end, 0, acl);
            bytes <= limit.together()
        });
        let part = missing.get(..fits.count().max(1)).unwrap_or_default();
        let bytes: usize =
            shared.sizes.multi() + part.iter().map(|end| shared.sizes.create(*end, 0, acl)).sum::<usize>();
        if !limit.takes(bytes) {
            return Ok(Some(too_large(shared, path, &limit.why(bytes, "jute.maxbuffer"))));
        }
        let (epoch_path, mut epoch_version) = tenure.fence();
        if planted!("the epoch is not checked in ZooKeeper") {
            epoch_version = -1;
        }
        let (lineage_path, watermark) = shared.watermark.mark(&shared.place);
        let mut writes = vec![
            WriteOp::Check { path: &epoch_path, version: epoch_version },
            WriteOp::Check { path: &lineage_path, version: watermark },
        ];
        let ancestors = part.iter().filter_map(|end| path.get(..*end));
        writes.extend(ancestors.map(|ancestor| create_empty(ancestor, &member.acl)));
        match session.write_all(&writes).await {
            Ok(_) => {
                trial.passed(bytes);
                for ancestor in part.iter().filter_map(|end| path.get(..*end)) {
                    shared.parents.insert(ancestor, Arc::clone(&member.acl));
                }
                missing.drain(..part.len());
                *left -= 1;
                continue;
            }
            Err(MultiWriteError::OperationFailed { index: 0, source }) => return Err(another_owns(shared, &source)),
            Err(MultiWriteError::OperationFailed { index: 1, .. }) => {
                tries += 1;
                lineage::check(shared, session).await?;
            }
            // Somebody was quicker, or removes what is above.
            Err(MultiWriteError::OperationFailed { source: Error::NodeExists | Error::NoNode, .. }) => tries += 1,
            Err(MultiWriteError::OperationFailed { source, .. }) => {
                return Ok(Some(refusal(shared, path, &source)));
            }
            Err(MultiWriteError::RequestFailed { source }) if is_broken(&source) => {
                match trial.broke(part.len(), bytes).await {
                    Verdict::Again => {}
                    Verdict::Split => half = part.len().div_ceil(2),
                    Verdict::TooLarge => {
                        return Ok(Some(too_large(shared, path, &limit.why(bytes, "jute.maxbuffer"))));
                    }
                    Verdict::Away => return Err(explain(&shared.place, &source)),
                }
            }
            Err(MultiWriteError::RequestFailed { source }) => return Err(explain(&shared.place, &source)),
        }
        // Carried out or not: a look at what is there now shows it.
        shared.parents.forget_above(path);
        let places = look_up(&shared.place, &shared.parents, session, &[(path, member.write.acl)]).await?;
        missing = places.into_iter().next().map(|place| place.missing).unwrap_or_default();
    }
    Ok(None)
}

/// Creates an ancestor.
pub(super) fn create_empty<'a>(path: &'a str, acl: &'a [Acl]) -> WriteOp<'a> {
    WriteOp::Create { path, data: b"", mode: CreateMode::Persistent, acl }
}

/// Leaves the larger ones of these, at least one and about half of the bytes; the others are handed
/// back.
pub(super) fn halve(shared: &Shared, members: &mut Vec<Member<'_>>) {
    let mut by_size: Vec<(usize, usize)> = members.iter().map(|member| (member.bytes(shared), member.index)).collect();
    by_size.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let all: usize = by_size.iter().map(|(bytes, _)| bytes).sum();
    let mut sum = 0;
    let kept = by_size.iter().take(members.len().saturating_sub(1)).take_while(|(bytes, _)| {
        let is_half = sum * 2 >= all;
        sum += bytes;
        !is_half
    });
    let kept: Set<usize> = kept.map(|(_, index)| *index).collect();
    members.retain(|member| kept.contains(&member.index));
}

/// Looks up anew what these create above themselves, each ancestor once.
pub(super) async fn look_up_again(
    shared: &Shared,
    session: &dyn Session,
    members: &mut [Member<'_>],
) -> Result<(), StoreError> {
    let is_create = |member: &Member<'_>| member.write.op == ZnodeOp::Create;
    let creates: Vec<(&str, ZnodeAcl)> =
        members.iter().filter(|member| is_create(member)).map(|member| (member.write.path, member.write.acl)).collect();
    let mut places = look_up(&shared.place, &shared.parents, session, &creates).await?.into_iter();
    let mut created: Set<&str> = Set::default();
    for member in members {
        let place = if is_create(member) { places.next() } else { None };
        if let Some(Creation { acl: Some(acl), missing }) = place {
            (member.acl, member.missing) = (acl, missing);
        }
        member.leave(&created);
        created.extend(member.ancestors());
        if is_create(member) {
            created.insert(member.write.path);
        }
    }
    Ok(())
}

/// The outcome of what one request cannot hold.
pub(super) fn too_large(shared: &Shared, path: &str, why: &str) -> ZnodeOutcome {
    ZnodeOutcome::Impossible("too_large", format!("{}: {}: {why}", shared.place, brief::name(path)))
}

/// The outcome of an error that another try would not mend.
pub(super) fn refusal(shared: &Shared, path: &str, error: &Error) -> ZnodeOutcome {
    let (reason, what) = match error {
        Error::NoAuth => {
            ("no_permission", "the session may not write here; see the ACLs of it and its parent".to_owned())
        }
        Error::NoChildrenForEphemerals => ("ephemeral_parent", "an ephemeral znode can have no children".to_owned()),
        Error::QuotaExceeded => ("quota", "the quota of this subtree is exceeded".to_owned()),
        Error::InvalidAcl => ("no_permission", "the ACL is refused; is the session authenticated?".to_owned()),
        error => ("refused", error.to_string()),
    };
    ZnodeOutcome::Impossible(reason, format!("{}: {}: {what}", shared.place, brief::name(path)))
}

/// The outcome of a create whose parent's ACL cannot be copied.
pub(super) fn no_acl(shared: &Shared, path: &str) -> ZnodeOutcome {
    let detail = format!(
        "{}: {}: the parent's ACL cannot be copied, since user `{}` has no ADMIN there; give it ADMIN, or set `acl:` \
         of the route to `creator` or `open`",
        shared.place,
        brief::name(path),
        shared.place.user()
    );
    ZnodeOutcome::Impossible("no_permission", detail)
}

pub(super) fn another_owns(shared: &Shared, error: &Error) -> StoreError {
    StoreError::fenced(FailureKind::Owner, format!("{}: another worker owns the pipeline ({error})", shared.place))
        .with_source(error.clone())
}
