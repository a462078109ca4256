//! The sink: multis with a fence, the writes, and a journal slot.
//!
//! ```text
//!   multi = check(epoch) + creates of missing ancestors + writes + set_data(journal slot)
//! ```
//!
//! A multi is all or nothing. A member that is refused is taken out and the rest is sent again, a
//! few times; then the rest is handed back to be observed. When the connection is lost before the
//! answer, the journal slot shows the outcome: requests of one session are served in order, so once
//! the slot can be read, after `sync`, the multi has been applied or never will be.

use super::fault::explain;
use super::journal::{self, SLOTS};
use super::lineage;
use super::pack::{
    Member, Packed, another_owns, create_ancestors, create_empty, halve, look_up_again, no_acl, pack, refusal,
    request_bytes, too_large,
};
use super::parents::look_up;
use super::session::{CreateMode, Error, MultiWriteError, MultiWriteResult, Session, WriteOp};
use super::shared::{RETRY_PAUSE, Shared};
use super::size::REQUEST_BYTES_MAX;
use super::tenure::Tenure;
use crate::change::ZkVersion;
use crate::env;
use crate::failpoint::{crash_in_flight, planted};
use crate::plan::guard::{self, Fate, fate};
use crate::store::request::Verdict;
use crate::store::{FailureKind, Slot, StoreError, ZnodeBatch, ZnodeOp, ZnodeOutcome, ZnodeWrite};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Multis of one call; what does not fit is handed back. Half of the slots, so that two calls go at
/// the same time.
const MULTIS: usize = SLOTS / 2;

/// Which operation of a multi checks that the lineage is as the owner left it. The one before is
/// the fence.
const LINEAGE: usize = 1;

/// Refused members that are taken out of one multi before the rest is handed back: each try costs a
/// transaction on all servers.
const TRIES: usize = 8;

/// Pauses between reads of the journal after a lost connection grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(super) async fn write(shared: &Shared, writes: &[ZnodeWrite<'_>]) -> Result<ZnodeBatch, StoreError> {
    let tenure = shared.tenure()?;
    let mut outcomes = vec![ZnodeOutcome::Refused; writes.len()];
    let Packed { multis, settled, deep } = pack(shared, &tenure, writes, MULTIS).await?;
    for (index, outcome) in settled {
        if let Some(place) = outcomes.get_mut(index) {
            *place = outcome;
        }
    }
    let Some(slots) = tenure.take_slots(multis.len()).await else {
        return Err(StoreError::fenced(FailureKind::Session, format!("{}: the ownership has ended", shared.place)));
    };
    let runs = multis.into_iter().zip(&slots).map(|(multi, slot)| run(shared, &tenure, multi, *slot));
    // Every run is seen to its end: one that fails must not cut off another whose outcome is not
    // yet known.
    let mut failure = None;
    // In the session's queue after them, so that ancestors hold up nobody else's write.
    let ancestors = create_ancestors(shared, &tenure, &deep);
    let (results, created) = futures::future::join(futures::future::join_all(runs), ancestors).await;
    for result in results.into_iter().chain([created]) {
        match result {
            Ok(done) => {
                for (index, outcome) in done {
                    if let Some(place) = outcomes.get_mut(index) {
                        *place = outcome;
                    }
                }
            }
            // Not applied, that much is known: its members stay refused and are observed again.
            Err(StoreError::Away(why)) => tracing::debug!(why = why.text(), "a multi was not sent"),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => {
            let slots = slots.into_iter().map(|number| Slot { number, version: tenure.slot_version(number) });
            Ok(ZnodeBatch { outcomes, slots: slots.collect() })
        }
    }
}

/// Sends one multi until its outcome is known.
async fn run(
    shared: &Shared,
    tenure: &Tenure,
    mut members: Vec<Member<'_>>,
    slot: usize,
) -> Result<Vec<(usize, ZnodeOutcome)>, StoreError> {
    let session = tenure.session.handle();
    let limit = &shared.settings.sessions.limit;
    let mut done = Vec::with_capacity(members.len());
    let mut trial = limit.trial();
    let mut refused = 0;
    while !members.is_empty() && refused < TRIES {
        let bytes = request_bytes(shared, &members);
        // Ancestors that went meanwhile have made it too large: what is left is handed back.
        if bytes > REQUEST_BYTES_MAX {
            break;
        }
        let sent = Sent::send(shared, tenure, &members, slot);
        match crash_in_flight!("c6-sent-to-zookeeper", sent.commit) {
            Ok(results) => {
                trial.passed(bytes);
                let mzxid = applied(shared, tenure, slot, &results);
                for member in &members {
                    for path in member.ancestors() {
                        shared.parents.insert(path, Arc::clone(&member.acl));
                    }
                }
                done.extend(
                    members
                        .iter()
                        .zip(&sent.places)
                        .map(|(member, place)| (member.index, outcome(member, results.get(*place), mzxid))),
                );
                return Ok(done);
            }
            // The watermark was advanced meanwhile, or this is an older copy of the ensemble, in which a
            // version proves nothing.
            Err(MultiWriteError::OperationFailed { index: LINEAGE, .. }) => {
                refused += 1;
                lineage::check(shared, session).await?;
            }
            Err(MultiWriteError::OperationFailed { index, source }) => {
                refused += 1;
                let Some(at) = sent.owners.get(index).copied().flatten() else {
                    return Err(another_owns(shared, &source));
                };
                refuse(shared, session, &mut members, at, source, &mut done).await?;
            }
            // A path that no server takes: it was not sent.
            Err(MultiWriteError::RequestFailed { source: source @ (Error::BadArguments(_) | Error::InvalidAcl) }) => {
                return Err(explain(&shared.place, &source));
            }
            Err(MultiWriteError::RequestFailed { source }) => {
                match resolve(shared, tenure, slot, &sent.journal, source).await? {
                    Some(mzxid) => {
                        for member in &members {
                            done.push((member.index, recovered(session, member, mzxid).await));
                        }
                        return Ok(done);
                    }
                    // Not applied. What is not sent again is handed back.
                    None => match (trial.broke(members.len(), bytes).await, members.as_slice()) {
                        (Verdict::Again, _) => {}
                        (Verdict::Split, _) => {
                            halve(shared, &mut members);
                            look_up_again(shared, session, &mut members).await?;
                        }
                        (Verdict::TooLarge, [member]) => {
                            let why = limit.why(bytes, "jute.maxbuffer");
                            done.push((member.index, too_large(shared, member.write.path, &why)));
                            return Ok(done);
                        }
                        (Verdict::TooLarge | Verdict::Away, _) => return Ok(done),
                    },
                }
            }
        }
    }
    Ok(done)
}

/// A multi that was sent: it was queued in the order of the calls, whenever its future is polled.
struct Sent<'a> {
    commit: BoxFuture<'a, Result<Vec<MultiWriteResult>, MultiWriteError>>,
    journal: Vec<u8>,
    /// Which member each operation belongs to; none for fence, lineage and journal.
    owners: Vec<Option<usize>>,
    /// Which operation is each member's own.
    places: Vec<usize>,
}

impl<'a> Sent<'a> {
    fn send(shared: &Shared, tenure: &'a Tenure, members: &[Member<'_>], slot: usize) -> Sent<'a> {
        let mut owners = vec![None, None];
        let mut places = Vec::with_capacity(members.len());
        let mut entries = Vec::new();
        let (epoch_path, version) = tenure.fence();
        let version = if planted!("the epoch is not checked in ZooKeeper") { -1 } else { version };
        let (lineage_path, watermark) = shared.watermark.mark(&shared.place);
        // What is around the members, and each of them with one ancestor: more is seldom.
        let mut writes = Vec::with_capacity(3 + 2 * members.len());
        writes.push(WriteOp::Check { path: &epoch_path, version });
        writes.push(WriteOp::Check { path: &lineage_path, version: watermark });
        for (at, member) in members.iter().enumerate() {
            for path in member.ancestors() {
                writes.push(create_empty(path, &member.acl));
                owners.push(Some(at));
            }
            let write = &member.write;
            let gone = member.empties || matches!(write.op, ZnodeOp::Delete(_));
            let (path, data) = (write.path, write.data);
            writes.push(match write.op {
                ZnodeOp::Create => WriteOp::Create { path, data, mode: CreateMode::Persistent, acl: &member.acl },
                ZnodeOp::Set(version) => WriteOp::Set { path, data, version: Some(version) },
                ZnodeOp::Delete(version) if member.empties => WriteOp::Set { path, data: b"", version: Some(version) },
                ZnodeOp::Delete(version) => WriteOp::Delete { path, version: Some(version) },
            });
            places.push(owners.len());
            owners.push(Some(at));
            journal::append(&mut entries, write, gone);
        }
        journal::append_milestone(&mut entries, members.iter().map(|member| &member.write));
        let (slot_path, version) = (shared.place.slot_path(slot), Some(tenure.slot_version(slot)));
        writes.push(WriteOp::Set { path: &slot_path, data: &entries, version });
        Sent { commit: tenure.session.write_all(&writes), journal: entries, owners, places }
    }
}

/// Notes the slot's new version and answers the transaction's zxid: the slot's mzxid.
fn applied(shared: &Shared, tenure: &Tenure, slot: usize, results: &[MultiWriteResult]) -> i64 {
    match results.last() {
        Some(MultiWriteResult::SetData { stat }) => {
            tenure.note_slot(slot, stat.version);
            shared.watermark.note_zxid(stat.mzxid);
            stat.mzxid
        }
        _ => 0,
    }
}

fn outcome(member: &Member<'_>, result: Option<&MultiWriteResult>, mzxid: i64) -> ZnodeOutcome {
    let found = match result {
        Some(MultiWriteResult::SetData { stat }) => {
            Some(ZkVersion { czxid: stat.czxid, mzxid: stat.mzxid, version: stat.version })
        }
        _ => None,
    };
    done(member, found, mzxid)
}

fn done(member: &Member<'_>, found: Option<ZkVersion>, mzxid: i64) -> ZnodeOutcome {
    let (base, recreated) = guard::outcome(member.write.op, member.write.base, found, mzxid);
    ZnodeOutcome::Done { base, recreated }
}

/// As [`outcome`], from the journal. Whether it met another incarnation only the znode can show, if
/// it is still as we left it.
async fn recovered(session: &dyn Session, member: &Member<'_>, mzxid: i64) -> ZnodeOutcome {
    let found = match member.write.op {
        ZnodeOp::Set(_) => session.stat(member.write.path).await.ok().flatten(),
        ZnodeOp::Create | ZnodeOp::Delete(_) => None,
    };
    let found = found.filter(|stat| stat.mzxid == mzxid);
    done(member, found.map(|stat| ZkVersion { czxid: stat.czxid, mzxid, version: stat.version }), mzxid)
}

/// Takes the refused member out, or changes it so that it can be sent again.
async fn refuse(
    shared: &Shared,
    session: &dyn Session,
    members: &mut Vec<Member<'_>>,
    at: usize,
    error: Error,
    done: &mut Vec<(usize, ZnodeOutcome)>,
) -> Result<(), StoreError> {
    let Some(member) = members.get_mut(at) else { return Ok(()) };
    let path = member.write.path;
    let outcome = match (error, member.write.op) {
        (Error::NotEmpty, ZnodeOp::Delete(_)) => {
            member.empties = true;
            return Ok(());
        }
        // An ancestor is missing that was thought to exist, or exists that was thought missing.
        (Error::NoNode, ZnodeOp::Create) => {
            shared.parents.forget_above(path);
            let places = look_up(&shared.place, &shared.parents, session, &[(path, member.write.acl)]).await?;
            if places.iter().any(|place| place.acl.is_some()) {
                return look_up_again(shared, session, members).await;
            }
            no_acl(shared, path)
        }
        (Error::NodeExists, ZnodeOp::Create) if !member.missing.is_empty() => {
            let missing = member.missing.len();
            look_up_again(shared, session, members).await?;
            if members.get(at).is_some_and(|member| member.missing.len() < missing) {
                return Ok(());
            }
            ZnodeOutcome::Refused
        }
        (Error::NodeExists | Error::BadVersion | Error::NoNode, _) => ZnodeOutcome::Refused,
        (error, _) => refusal(shared, path, &error),
    };
    let member = members.remove(at);
    done.push((member.index, outcome));
    // What this member was to create for others is theirs to create again.
    if !member.missing.is_empty() {
        look_up_again(shared, session, members).await?;
    }
    Ok(())
}

/// Finds out whether a multi whose answer was lost has been applied: its zxid if so.
async fn resolve(
    shared: &Shared,
    tenure: &Tenure,
    slot: usize,
    journal: &[u8],
    error: Error,
) -> Result<Option<i64>, StoreError> {
    let session = &tenure.session;
    tracing::debug!(store = shared.settings.name, %error, "the answer to a multi was lost; asking the journal");
    let mut pause = RETRY_PAUSE;
    loop {
        // The session may be with another server by now, which may lag behind the one that took the
        // multi.
        let read = match session.sync().await {
            Ok(()) => session.data(&shared.place.slot_path(slot)).await,
            Err(error) => Err(error),
        };
        match read {
            Ok((data, stat)) => match fate(tenure.slot_version(slot), stat.version, data == journal) {
                Fate::NotApplied => return Ok(None),
                Fate::Applied if planted!("a lost answer counts as a refusal") => return Ok(None),
                Fate::Applied => {
                    tenure.note_slot(slot, stat.version);
                    shared.watermark.note_zxid(stat.mzxid);
                    return Ok(Some(stat.mzxid));
                }
                Fate::Fenced => return Err(another_wrote(shared)),
            },
            Err(Error::NoNode) => return Err(another_wrote(shared)),
            Err(error @ (Error::SessionExpired | Error::ClientClosed | Error::AuthFailed)) => {
                let text = format!("{}: the session ended ({error})", shared.place);
                return Err(StoreError::fenced(FailureKind::Session, text).with_source(error));
            }
            // No waiting mends that: another ownership begins with a look at what this one needs.
            Err(Error::NoAuth) => {
                return Err(StoreError::fenced(
                    FailureKind::Permission,
                    format!(
                        "{}: user `{}` may not read {} any more, so it cannot be told what was written; give it READ",
                        shared.place,
                        shared.place.user(),
                        shared.place.slot_path(slot)
                    ),
                ));
            }
            // Until it is known whether the multi was applied, nothing else may be done with its
            // pairs.
            Err(_) => {
                env::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn another_wrote(shared: &Shared) -> StoreError {
    StoreError::fenced(FailureKind::Owner, format!("{}: another worker wrote the journal", shared.place))
}
