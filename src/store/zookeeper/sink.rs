//! The sink: multis with a fence, the writes, and a journal slot.
//!
//! ```text
//!   multi = check(epoch) + creates of missing ancestors + writes + set_data(journal slot)
//! ```
//!
//! A multi is all or nothing. A member that is refused is taken out and the rest is sent again, a few times; then the
//! rest is handed back to be observed. When the connection is lost before the answer, the journal slot tells: requests
//! of one session are served in order, so once the slot can be read, after `sync`, the multi has been applied or never will
//! be.

use super::journal::{self, SLOTS};
use super::parents::{above, look_up};
use super::tenure::Tenure;
use super::{Shared, explain, lineage};
use crate::change::ZkVersion;
use crate::failpoint::crash_in_flight;
use crate::plan::guard::{self, Fate, fate};
use crate::store::{Slot, StoreError, ZnodeBatch, ZnodeOp, ZnodeOutcome, ZnodeWrite};
use std::collections::HashSet;
use std::sync::Arc;
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

/// Bytes of one multi. The server's limit for the whole request is 1,048,575; half of it leaves room for paths.
const MULTI_BYTES: usize = 512 * 1024;

/// Writes in one multi. Beyond a hundred the rate does not grow, and a refused member costs more.
const MULTI_WRITES: usize = 100;

/// Multis of one call; what does not fit is handed back. Half of the slots, so that two calls go at the same time.
const MULTIS: usize = SLOTS / 2;

/// Which operation of a multi checks that the lineage is as the owner left it. The one before is the fence.
const LINEAGE: usize = 1;

/// Refused members that are taken out of one multi before the rest is handed back: each try costs a transaction on all
/// servers.
const TRIES: usize = 8;

/// Times that a large write may cost the connection while it is the only one under suspicion, before it is taken as too
/// large for this ensemble. All pipelines of a worker write on one session, so one loss may be another's doing.
const LOSSES: usize = 2;

/// A write from this size on is suspected when the connection breaks under it.
const LARGE: usize = 64 * 1024;

/// One write on its way, with its place in the call.
struct Member<'a> {
    index: usize,
    write: ZnodeWrite<'a>,
    /// A delete of a znode with children: emptied instead.
    empties: bool,
    acl: Arc<Vec<Acl>>,
    missing: Vec<String>,
}

pub(super) async fn write(shared: &Shared, writes: &[ZnodeWrite<'_>]) -> Result<ZnodeBatch, StoreError> {
    let tenure = shared.tenure()?;
    let client: &Client = &tenure.session;
    let mut outcomes = vec![ZnodeOutcome::Refused; writes.len()];
    let mut order: Vec<usize> = (0..writes.len()).collect();
    // Parents are created before children, and children are deleted before parents.
    order.sort_by_key(|index| {
        writes.get(*index).map_or(0, |write| {
            let depth = i64::try_from(write.path.bytes().filter(|byte| *byte == b'/').count()).unwrap_or(0);
            if matches!(write.op, ZnodeOp::Delete(_)) { -depth } else { depth }
        })
    });
    let created: Vec<&str> =
        writes.iter().filter(|write| write.op == ZnodeOp::Create).map(|write| write.path).collect();
    let looked = look_up(shared, client, &created).await?;
    let mut multis: Vec<Vec<Member<'_>>> = Vec::new();
    let (mut count, mut bytes) = (0, MULTI_BYTES);
    let mut assumed: HashSet<String> = HashSet::new();
    for index in order {
        let Some(write) = writes.get(index) else { continue };
        let (acl, mut missing) = match write.op {
            ZnodeOp::Create => above(shared, &looked, write.path, write.acl),
            ZnodeOp::Set(_) | ZnodeOp::Delete(_) => (Some(Arc::default()), Vec::new()),
        };
        let Some(acl) = acl else {
            if let Some(place) = outcomes.get_mut(index) {
                *place = no_acl(shared, write.path);
            }
            continue;
        };
        missing.retain(|path| assumed.insert(path.clone()));
        if matches!(write.op, ZnodeOp::Create) {
            assumed.insert(write.path.to_owned());
        }
        // Path twice (operation, acl and headers) and the journal entry.
        let size = write.data.len() + 2 * write.path.len() + write.key.len() + 200 + 100 * missing.len();
        if bytes + size > MULTI_BYTES || count >= MULTI_WRITES {
            if multis.len() == MULTIS {
                break;
            }
            multis.push(Vec::new());
            (count, bytes) = (0, 0);
        }
        (count, bytes) = (count + 1, bytes + size);
        if let Some(multi) = multis.last_mut() {
            multi.push(Member { index, write: write.clone(), empties: false, acl, missing });
        }
    }
    let Some(slots) = tenure.take_slots(multis.len()).await else {
        return Err(StoreError::Fenced(format!("{}: the ownership has ended", shared.place())));
    };
    let runs = multis.into_iter().zip(&slots).map(|(multi, slot)| run(shared, &tenure, multi, *slot));
    // Every run is seen to its end: one that fails must not cut off another whose outcome is not yet known.
    let mut failure = None;
    for result in futures::future::join_all(runs).await {
        match result {
            Ok(done) => {
                for (index, outcome) in done {
                    if let Some(place) = outcomes.get_mut(index) {
                        *place = outcome;
                    }
                }
            }
            // Not applied, that much is known: its members stay refused and are observed again.
            Err(StoreError::Away(why)) => tracing::debug!(why, "a multi was not sent"),
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
    let client: &Client = &tenure.session;
    let mut done = Vec::with_capacity(members.len());
    let mut lost = false;
    let mut losses_alone = 0;
    for _ in 0..TRIES {
        if members.is_empty() {
            break;
        }
        let is_suspect = lost && matches!(members.as_slice(), [only] if only.write.data.len() >= LARGE);
        let _alone = if is_suspect { Some(shared.settings.sessions.suspect.lock().await) } else { None };
        let sent = Sent::build(shared, tenure, &members, slot)?;
        match crash_in_flight!("c6-sent-to-zookeeper", sent.commit) {
            Ok(results) => {
                let mzxid = applied(shared, tenure, slot, &results);
                for member in &members {
                    for path in &member.missing {
                        shared.parents().insert(path.clone(), Arc::clone(&member.acl));
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
            // The tide was raised meanwhile, or this is an older copy of the ensemble, in which a version says nothing.
            Err(MultiWriteError::OperationFailed { index: LINEAGE, .. }) => lineage::check(shared, client).await?,
            Err(MultiWriteError::OperationFailed { index, source }) => {
                let Some(at) = sent.owners.get(index).copied().flatten() else {
                    return Err(StoreError::Fenced(format!(
                        "{}: another worker owns the pipeline ({source})",
                        shared.place()
                    )));
                };
                refuse(shared, client, &mut members, at, source, &mut done).await?;
            }
            Err(MultiWriteError::RequestFailed { source }) => {
                match resolve(shared, tenure, slot, &sent.journal, source).await? {
                    Some(mzxid) => {
                        for member in &members {
                            done.push((member.index, recovered(client, member, mzxid).await));
                        }
                        return Ok(done);
                    }
                    None => {
                        lost = true;
                        losses_alone += usize::from(is_suspect);
                        if let [member] = members.as_slice()
                            && losses_alone >= LOSSES
                        {
                            let detail = format!(
                                "{}: the connection breaks whenever these {} bytes are written; the ensemble's \
                                 jute.maxbuffer is smaller",
                                shared.place(),
                                member.write.data.len()
                            );
                            done.push((member.index, ZnodeOutcome::Impossible("too_large", detail)));
                            return Ok(done);
                        }
                        // Not applied. A large member may be the cause: only the first of them stays, the others are
                        // handed back.
                        if members.iter().any(|member| member.write.data.len() >= LARGE) {
                            members.sort_by_key(|member| std::cmp::Reverse(member.write.data.len()));
                            members.truncate(1);
                        }
                    }
                }
            }
        }
    }
    Ok(done)
}

/// A multi that was sent. Building it sends nothing; its future is created, and so queued, in the order of the calls.
struct Sent<F> {
    commit: F,
    journal: Vec<u8>,
    /// Which member each operation belongs to; none for fence, lineage and journal.
    owners: Vec<Option<usize>>,
    /// Which operation is each member's own.
    places: Vec<usize>,
}

impl Sent<()> {
    fn build<'a>(
        shared: &Shared,
        tenure: &'a Tenure,
        members: &[Member<'_>],
        slot: usize,
    ) -> Result<Sent<impl Future<Output = Result<Vec<MultiWriteResult>, MultiWriteError>> + Send + 'a>, StoreError>
    {
        let mut multi = tenure.session.new_multi_writer();
        let mut owners = vec![None, None];
        let mut places = Vec::with_capacity(members.len());
        let mut entries = Vec::new();
        let wrong = |error: Error| explain(shared, &error);
        let (epoch_path, epoch_version) = tenure.fence();
        multi.add_check_version(&epoch_path, epoch_version).map_err(wrong)?;
        let (lineage_path, tide) = lineage::mark(shared);
        multi.add_check_version(&lineage_path, tide).map_err(wrong)?;
        for (at, member) in members.iter().enumerate() {
            let options = CreateMode::Persistent.with_acls(Acls::new(&member.acl));
            for path in &member.missing {
                multi.add_create(path, b"", &options).map_err(wrong)?;
                owners.push(Some(at));
            }
            let write = &member.write;
            let gone = member.empties || matches!(write.op, ZnodeOp::Delete(_));
            match write.op {
                ZnodeOp::Create => multi.add_create(write.path, write.data, &options),
                ZnodeOp::Set(version) => multi.add_set_data(write.path, write.data, Some(version)),
                ZnodeOp::Delete(version) if member.empties => multi.add_set_data(write.path, b"", Some(version)),
                ZnodeOp::Delete(version) => multi.add_delete(write.path, Some(version)),
            }
            .map_err(wrong)?;
            places.push(owners.len());
            owners.push(Some(at));
            journal::append(&mut entries, write, gone);
        }
        multi.add_set_data(&shared.slot_path(slot), &entries, Some(tenure.slot_version(slot))).map_err(wrong)?;
        Ok(Sent { commit: multi.commit(), journal: entries, owners, places })
    }
}

/// Notes the slot's new version and answers the transaction's zxid: the slot's mzxid.
fn applied(shared: &Shared, tenure: &Tenure, slot: usize, results: &[MultiWriteResult]) -> i64 {
    match results.last() {
        Some(MultiWriteResult::SetData { stat }) => {
            tenure.note_slot(slot, stat.version);
            shared.note_zxid(stat.mzxid);
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

/// As [`outcome`], from the journal. Whether it met another incarnation only the znode can tell, if it is still as we left
/// it.
async fn recovered(client: &Client, member: &Member<'_>, mzxid: i64) -> ZnodeOutcome {
    let found = match member.write.op {
        ZnodeOp::Set(_) => client.check_stat(member.write.path).await.ok().flatten(),
        ZnodeOp::Create | ZnodeOp::Delete(_) => None,
    };
    let found = found.filter(|stat| stat.mzxid == mzxid);
    done(member, found.map(|stat| ZkVersion { czxid: stat.czxid, mzxid, version: stat.version }), mzxid)
}

/// Takes the refused member out, or changes it so that it can be sent again.
async fn refuse(
    shared: &Shared,
    client: &Client,
    members: &mut Vec<Member<'_>>,
    at: usize,
    error: Error,
    done: &mut Vec<(usize, ZnodeOutcome)>,
) -> Result<(), StoreError> {
    let Some(member) = members.get_mut(at) else { return Ok(()) };
    let path = member.write.path;
    let impossible =
        |reason, what: &str| ZnodeOutcome::Impossible(reason, format!("{}: {path}: {what}", shared.place()));
    let outcome = match (error, member.write.op) {
        (Error::NotEmpty, ZnodeOp::Delete(_)) => {
            member.empties = true;
            return Ok(());
        }
        // An ancestor is missing that was thought to exist, or exists that was thought missing.
        (Error::NoNode, ZnodeOp::Create) => {
            shared.parents().forget_above(path);
            let (acl, missing) = above(shared, &look_up(shared, client, &[path]).await?, path, member.write.acl);
            match acl {
                Some(acl) => {
                    (member.acl, member.missing) = (acl, missing);
                    return Ok(());
                }
                None => no_acl(shared, path),
            }
        }
        (Error::NodeExists, ZnodeOp::Create) if !member.missing.is_empty() => {
            if let (Some(acl), missing) =
                above(shared, &look_up(shared, client, &[path]).await?, path, member.write.acl)
                && missing.is_empty()
            {
                (member.acl, member.missing) = (acl, missing);
                return Ok(());
            }
            ZnodeOutcome::Refused
        }
        (Error::NodeExists | Error::BadVersion | Error::NoNode, _) => ZnodeOutcome::Refused,
        (Error::NoAuth, _) => {
            impossible("no_permission", "the session may not write here; see the ACLs of it and its parent")
        }
        (Error::NoChildrenForEphemerals, _) => {
            impossible("ephemeral_parent", "an ephemeral znode can have no children")
        }
        (Error::QuotaExceeded, _) => impossible("quota", "the quota of this subtree is exceeded"),
        (Error::InvalidAcl, _) => impossible("no_permission", "the ACL is refused; is the session authenticated?"),
        (error, _) => impossible("refused", &error.to_string()),
    };
    let member = members.remove(at);
    done.push((member.index, outcome));
    // What this member was to create for others is theirs to create again.
    if !member.missing.is_empty() {
        let created: Vec<&str> =
            members.iter().filter(|other| other.write.op == ZnodeOp::Create).map(|other| other.write.path).collect();
        let looked = look_up(shared, client, &created).await?;
        for other in members.iter_mut().filter(|other| matches!(other.write.op, ZnodeOp::Create)) {
            if let (Some(acl), missing) = above(shared, &looked, other.write.path, other.write.acl) {
                (other.acl, other.missing) = (acl, missing);
            }
        }
        let mut assumed = HashSet::new();
        for other in members.iter_mut() {
            other.missing.retain(|path| assumed.insert(path.clone()));
        }
    }
    Ok(())
}

/// The outcome of a create whose parent's ACL cannot be copied.
fn no_acl(shared: &Shared, path: &str) -> ZnodeOutcome {
    let detail = format!(
        "{}: {path}: the parent's ACL cannot be copied, since user `{}` has no ADMIN there; give it ADMIN, or set `acl:` \
         of the route to `creator` or `open`",
        shared.place(),
        shared.user()
    );
    ZnodeOutcome::Impossible("no_permission", detail)
}

/// Finds out whether a multi whose answer was lost has been applied: its zxid if so.
async fn resolve(
    shared: &Shared,
    tenure: &Tenure,
    slot: usize,
    journal: &[u8],
    error: Error,
) -> Result<Option<i64>, StoreError> {
    let client = &tenure.session;
    tracing::debug!(store = shared.settings.name, %error, "the answer to a multi was lost; asking the journal");
    loop {
        // The session may be with another server by now, which may lag behind the one that took the multi.
        let read = match client.sync("/").await {
            Ok(_) => client.get_data(&shared.slot_path(slot)).await,
            Err(error) => Err(error),
        };
        match read {
            Ok((data, stat)) => match fate(tenure.slot_version(slot), stat.version, data == journal) {
                Fate::NotApplied => return Ok(None),
                Fate::Applied => {
                    tenure.note_slot(slot, stat.version);
                    shared.note_zxid(stat.mzxid);
                    return Ok(Some(stat.mzxid));
                }
                Fate::Fenced => return Err(another_wrote(shared)),
            },
            Err(Error::NoNode) => return Err(another_wrote(shared)),
            Err(error @ (Error::SessionExpired | Error::ClientClosed | Error::AuthFailed)) => {
                return Err(StoreError::Fenced(format!("{}: the session ended ({error})", shared.place())));
            }
            // Until it is known whether the multi was applied, nothing else may be done with its pairs.
            Err(_) => tokio::time::sleep(super::RETRY_PAUSE).await,
        }
    }
}

fn another_wrote(shared: &Shared) -> StoreError {
    StoreError::Fenced(format!("{}: another worker wrote the journal", shared.place()))
}
