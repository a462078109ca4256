//! `store::zookeeper` on the double of its servers.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use futures::FutureExt as _;
use keepstep::change::{Digest, LossCause, Side, ZkVersion};
use keepstep::plan::Base;
use keepstep::plan::guard::{Remembered, Taken};
use keepstep::store::contract::*;
use keepstep::store::zookeeper::session::{Access, Acl, AuthId, CreateMode, Ensemble as _, Permission, Session};
use keepstep::store::zookeeper::{Sessions, Settings, ZookeeperStore};
use keepstep::store::{
    Claim, FailureKind, Hints, Lease, Link, Look, Lost, Password, StoreError, ZnodeAcl, ZnodeBatch, ZnodeEdit, ZnodeOp,
    ZnodeOutcome, ZnodeReading, ZnodeWrite,
};
use keepstep::worker::Worker;
use keepstep_doubles::zookeeper::{self, DoubleEnsemble, Fault, Lag, Request, Right};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What should come comes at once; this only ends a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

fn ensemble() -> DoubleEnsemble {
    DoubleEnsemble::new(zookeeper::Settings::default())
}

fn access() -> Access {
    let password = Password::new("keepstep:secret".to_owned(), || Ok("keepstep:secret".to_owned()));
    let session_timeout = Duration::from_secs(10);
    Access { connect: "double:2181".to_owned(), session_timeout, digest: Some(password) }
}

/// A store of this worker, with sessions of its own.
fn store_of(ensemble: &DoubleEnsemble, worker: &str, pipeline: &str) -> ZookeeperStore {
    ZookeeperStore::new(settings_of(ensemble, worker, pipeline))
}

fn settings_of(ensemble: &DoubleEnsemble, worker: &str, pipeline: &str) -> Settings {
    Settings {
        name: "main".to_owned(),
        sessions: Arc::new(Sessions::new(access(), Arc::new(ensemble.clone()))),
        pipeline: pipeline.to_owned(),
        worker: Worker { name: format!("{worker}:1"), identity: worker.to_owned() },
        routes_digest: "routes".to_owned(),
        once: false,
        roots: vec!["/app".to_owned()],
    }
}

async fn take_over(store: &ZookeeperStore, remembered: Remembered) -> Lease {
    store.connect().await.unwrap();
    store.stand(&|_, _| {}).await.unwrap();
    let lease = store.own(remembered, Taken::default()).await.unwrap();
    store.journal().await.unwrap();
    lease
}

async fn owner(ensemble: &DoubleEnsemble) -> ZookeeperStore {
    let store = store_of(ensemble, "a", "p");
    take_over(&store, Remembered::default()).await;
    store
}

/// An application: a session of its own.
async fn application(ensemble: &DoubleEnsemble) -> Arc<dyn Session> {
    let access = Access { digest: None, ..access() };
    ensemble.open(&access).await.unwrap()
}

fn open_acl() -> Vec<Acl> {
    vec![Acl::new(Permission::ALL, AuthId::anyone())]
}

async fn put(session: &dyn Session, path: &str, data: &[u8]) {
    session.create(path, data, CreateMode::Persistent, &open_acl()).await.unwrap();
}

fn write<'a>(path: &'a str, op: ZnodeOp, data: &'a [u8]) -> ZnodeWrite<'a> {
    let version = match op {
        ZnodeOp::Create => 0,
        ZnodeOp::Set(version) | ZnodeOp::Delete(version) => version + 1,
    };
    let base = Base {
        sequence: 1,
        zookeeper: Some(ZkVersion { czxid: 0, mzxid: 0, version }),
        redis: Some(Digest::EMPTY),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        lost: false,
        left: false,
        path_id: 1,
        ensemble: 1,
    };
    ZnodeWrite { path, op, data, key: path.as_bytes(), base, nonce: 7, acl: ZnodeAcl::Parent, milestone: None }
}

/// The mzxid of what was done.
fn done(outcome: &ZnodeOutcome) -> i64 {
    match outcome {
        ZnodeOutcome::Done { base: Some(base), .. } => base.zookeeper.unwrap().mzxid,
        other => panic!("not done: {other:?}"),
    }
}

/// Writes, and gives the journal slots back.
async fn write_all(store: &ZookeeperStore, writes: &[ZnodeWrite<'_>]) -> ZnodeBatch {
    let batch = store.write(writes).await.unwrap();
    assert_eq!(batch.outcomes.len(), writes.len());
    store.release(&batch.slots);
    batch
}

/// The session that owns the pipeline.
fn owning_session(ensemble: &DoubleEnsemble, pipeline: &str) -> i64 {
    let line = format!("/_keepstep/{pipeline}/election");
    let first = ensemble.act(|ensemble| ensemble.tree().children(&line)).into_iter().min().unwrap();
    ensemble.stat(&format!("{line}/{first}")).unwrap().ephemeral_owner
}

fn is_multi(request: &Request) -> bool {
    matches!(request, Request::Multi(_))
}

#[tokio::test]
async fn writes_go_in_as_few_transactions_as_the_limit_allows_each_with_its_zxid() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let paths: Vec<String> = (0..150).map(|number| format!("/app/{number}")).collect();
    let writes: Vec<ZnodeWrite<'_>> = paths.iter().map(|path| write(path, ZnodeOp::Create, b"value")).collect();
    let before = ensemble.act(|ensemble| ensemble.transactions());
    let batch = write_all(&store, &writes).await;
    assert_eq!(ensemble.act(|ensemble| ensemble.transactions()) - before, 2);
    for (path, outcome) in paths.iter().zip(&batch.outcomes) {
        assert_eq!(ensemble.stat(path).unwrap().mzxid, done(outcome), "{path}");
    }
    assert_eq!(batch.slots.len(), 2);
}

#[tokio::test]
async fn missing_ancestors_are_created_with_the_acl_of_the_nearest_that_is_there() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    put(&*application(&ensemble).await, "/app", b"").await;
    let reader = Right { permissions: 1, scheme: "world".to_owned(), id: "anyone".to_owned() };
    let hash = {
        use base64::Engine as _;
        use sha1::Digest as _;
        base64::engine::general_purpose::STANDARD.encode(sha1::Sha1::digest(b"keepstep:secret"))
    };
    let us = Right { permissions: 31, scheme: "digest".to_owned(), id: format!("keepstep:{hash}") };
    ensemble.give("/app", vec![reader, us]);
    let batch = write_all(&store, &[write("/app/deep/er/znode", ZnodeOp::Create, b"1")]).await;
    done(&batch.outcomes[0]);
    let acl = |path: &str| ensemble.act(|ensemble| ensemble.tree().get(path).unwrap().acl.to_vec());
    assert_eq!((acl("/app/deep"), acl("/app/deep/er/znode")), (acl("/app"), acl("/app")));
    assert_eq!(ensemble.data("/app/deep/er"), Some(Vec::new()));
}

#[tokio::test]
async fn a_compare_and_set_that_is_refused_leaves_the_others_of_its_transaction() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    put(&*app, "/app/set", b"1").await;
    app.set("/app/set", b"2", None).await.unwrap();
    let writes = [
        write("/app/new", ZnodeOp::Create, b"new"),
        write("/app/set", ZnodeOp::Set(0), b"older"),
        write("/app/gone", ZnodeOp::Delete(0), b""),
        write("/app/other", ZnodeOp::Create, b"other"),
    ];
    let batch = write_all(&store, &writes).await;
    let refused: Vec<bool> = batch.outcomes.iter().map(|outcome| *outcome == ZnodeOutcome::Refused).collect();
    assert_eq!(refused, [false, true, true, false]);
    assert_eq!(ensemble.data("/app/set").as_deref(), Some(&b"2"[..]));
    assert_eq!(ensemble.data("/app/other").as_deref(), Some(&b"other"[..]));
}

#[tokio::test]
async fn a_znode_with_children_is_emptied_where_it_was_to_be_deleted() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    put(&*app, "/app/parent", b"1").await;
    put(&*app, "/app/parent/child", b"1").await;
    let batch = write_all(&store, &[write("/app/parent", ZnodeOp::Delete(0), b"")]).await;
    assert_eq!(batch.outcomes[0], ZnodeOutcome::Done { base: None, recreated: false });
    assert_eq!(ensemble.data("/app/parent"), Some(Vec::new()));
    assert!(ensemble.data("/app/parent/child").is_some());
}

#[tokio::test]
async fn a_write_whose_answer_or_request_was_lost_is_carried_out_once() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let ensemble = ensemble();
        let store = owner(&ensemble).await;
        let app = application(&ensemble).await;
        put(&*app, "/app", b"").await;
        put(&*app, "/app/set", b"1").await;
        ensemble.fail(fault, 1, is_multi);
        let writes = [write("/app/set", ZnodeOp::Set(0), b"2"), write("/app/new", ZnodeOp::Create, b"2")];
        let batch = write_all(&store, &writes).await;
        assert_eq!(ensemble.faults_left(), 0);
        let stat = ensemble.stat("/app/set").unwrap();
        assert_eq!((stat.version, stat.mzxid), (1, done(&batch.outcomes[0])), "{fault:?}");
        assert_eq!(ensemble.stat("/app/new").unwrap().mzxid, done(&batch.outcomes[1]), "{fault:?}");
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_written_over_what_came_behind_it() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    put(&*app, "/app/set", b"1").await;
    ensemble.fail_and_refuse(Fault::LoseAnswer, is_multi);
    let writes = [write("/app/set", ZnodeOp::Set(0), b"ours")];
    let written = store.write(&writes);
    let behind = async {
        app.set("/app/set", b"theirs", Some(1)).await.unwrap();
        ensemble.accept_connections();
    };
    let (batch, ()) = tokio::join!(written, behind);
    let mzxid = done(&batch.unwrap().outcomes[0]);
    let stat = ensemble.stat("/app/set").unwrap();
    assert_eq!(ensemble.data("/app/set").as_deref(), Some(&b"theirs"[..]));
    assert!(stat.version == 2 && mzxid < stat.mzxid, "{mzxid} {stat:?}");
}

#[tokio::test]
async fn what_no_request_can_hold_is_not_sent() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let session = owning_session(&ensemble, "p");
    put(&*application(&ensemble).await, "/app", b"").await;
    let (large, small) = (vec![7; 1_100_000], b"small");
    let writes = [write("/app/large", ZnodeOp::Create, &large), write("/app/small", ZnodeOp::Create, small)];
    ensemble.fail(Fault::LoseRequest, 1, |request| request.bytes() > 1_048_575);
    let batch = write_all(&store, &writes).await;
    assert!(matches!(&batch.outcomes[0], ZnodeOutcome::Impossible("too_large", _)), "{:?}", batch.outcomes);
    done(&batch.outcomes[1]);
    assert_eq!((ensemble.faults_left(), owning_session(&ensemble, "p")), (1, session));
}

#[tokio::test]
async fn where_servers_take_less_than_is_known_the_one_that_is_too_large_is_found() {
    let ensemble = DoubleEnsemble::new(zookeeper::Settings { request_bytes_max: 300_000, ..Default::default() });
    let store = owner(&ensemble).await;
    put(&*application(&ensemble).await, "/app", b"").await;
    let (large, fits) = (vec![7; 350_000], vec![7; 40_000]);
    let paths: Vec<String> = (0..6).map(|number| format!("/app/{number}")).collect();
    let mut wanted: Vec<ZnodeWrite<'_>> = paths.iter().map(|path| write(path, ZnodeOp::Create, &fits)).collect();
    wanted.push(write("/app/large", ZnodeOp::Create, &large));
    let mut too_large = None;
    // What one call hands back comes with the next.
    for _ in 0..10 {
        let batch = write_all(&store, &wanted).await;
        let mut outcomes = batch.outcomes.into_iter();
        wanted.retain(|write| match outcomes.next() {
            Some(ZnodeOutcome::Refused) => true,
            Some(ZnodeOutcome::Impossible(reason, _)) => {
                too_large = Some((write.path, reason));
                false
            }
            _ => false,
        });
        if wanted.is_empty() {
            break;
        }
    }
    assert!(wanted.is_empty());
    assert_eq!(too_large, Some(("/app/large", "too_large")));
    assert!(paths.iter().all(|path| ensemble.data(path).as_ref() == Some(&fits)));
}

#[tokio::test]
async fn a_standby_is_told_who_owns_and_takes_over_when_the_owner_closes() {
    let ensemble = ensemble();
    let (first, second) = (owner(&ensemble).await, store_of(&ensemble, "b", "p"));
    second.connect().await.unwrap();
    let (told, mut waits) = mpsc::channel(1_000);
    let waiting = move |name: String, standbys: u64| drop(told.try_send((name, standbys)));
    let hand_over = async {
        assert_eq!(waits.recv().await, Some(("a:1".to_owned(), 1)));
        first.close().await;
    };
    let (stood, ()) = tokio::join!(second.stand(&waiting), hand_over);
    stood.unwrap();
    let lease = second.own(Remembered::default(), Taken::default()).await.unwrap();
    assert_eq!((lease.epoch, lease.lost), (2, None));
    assert_eq!(second.owner().await.unwrap().as_deref(), Some("b:1"));
}

#[tokio::test]
async fn a_standby_takes_over_when_the_owners_session_expires_and_the_owner_learns_of_it() {
    let ensemble = ensemble();
    let (first, second) = (owner(&ensemble).await, store_of(&ensemble, "b", "p"));
    second.connect().await.unwrap();
    let expires = async {
        tokio::task::yield_now().await;
        ensemble.expire(owning_session(&ensemble, "p"));
    };
    let (stood, lost, ()) = tokio::join!(second.stand(&|_, _| {}), first.lost(), expires);
    stood.unwrap();
    assert!(matches!(lost, Lost::Gone(StoreError::Fenced(_))), "{lost:?}");
}

#[tokio::test]
async fn a_former_owner_writes_nothing() {
    let ensemble = ensemble();
    let former = owner(&ensemble).await;
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    // Its place in line is deleted, and it has not noticed yet.
    let line = "/_keepstep/p/election";
    let name = ensemble.act(|ensemble| ensemble.tree().children(line)).remove(0);
    let path = format!("{line}/{name}");
    ensemble.give(&path, vec![Right::open()]);
    ensemble.give(line, vec![Right::open()]);
    app.delete(&path, None).await.unwrap();
    let next = store_of(&ensemble, "b", "p");
    assert_eq!(take_over(&next, Remembered::default()).await.epoch, 2);
    let written = former.write(&[write("/app/late", ZnodeOp::Create, b"late")]).await;
    assert!(matches!(written, Err(StoreError::Fenced(_))), "{written:?}");
    assert_eq!(ensemble.data("/app/late"), None);
    done(&write_all(&next, &[write("/app/next", ZnodeOp::Create, b"next")]).await.outcomes[0]);
}

#[tokio::test]
async fn the_next_owner_finds_in_the_journal_what_the_last_one_wrote() {
    let ensemble = ensemble();
    let first = owner(&ensemble).await;
    put(&*application(&ensemble).await, "/app", b"").await;
    let batch = first.write(&[write("/app/a", ZnodeOp::Create, b"1")]).await.unwrap();
    let mzxid = done(&batch.outcomes[0]);
    ensemble.expire(owning_session(&ensemble, "p"));
    let second = store_of(&ensemble, "b", "p");
    second.connect().await.unwrap();
    second.stand(&|_, _| {}).await.unwrap();
    second.own(Remembered::default(), Taken::default()).await.unwrap();
    let entries = second.journal().await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].key.as_slice(), entries[0].nonce), (&b"/app/a"[..], 7));
    assert_eq!(entries[0].base.unwrap().zookeeper.unwrap().mzxid, mzxid);
}

#[tokio::test]
async fn an_ensemble_that_comes_back_older_or_empty_is_another_lineage() {
    for (keeps, expected) in [(true, LossCause::Older), (false, LossCause::Emptied)] {
        let ensemble = ensemble();
        let store = owner(&ensemble).await;
        let older = ensemble.copy();
        store.advance_watermark().await.unwrap();
        store.close().await;
        let lease = take_over(&store, Remembered::default()).await;
        let remembered = so_far(&lease, Some(&store));
        assert_eq!(lease.lost, None);
        drop(store);
        // With a new epoch zxids do not tell.
        ensemble.restore(keeps.then_some(older), true);
        let next = store_of(&ensemble, "b", "p");
        if keeps {
            // The copy has the session of the owner before.
            ensemble.expire(owning_session(&ensemble, "p"));
        }
        let lease_then = take_over(&next, remembered).await;
        assert_eq!(lease_then.lost, Some(expected));
        assert!(lease_then.epoch > lease.epoch && lease_then.ensemble.id != lease.ensemble.id);
    }
}

#[tokio::test]
async fn an_owner_writes_nothing_to_an_ensemble_that_came_back_older() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    put(&*application(&ensemble).await, "/app", b"").await;
    let older = ensemble.copy();
    store.advance_watermark().await.unwrap();
    ensemble.restore(Some(older), true);
    let written = store.write(&[write("/app/a", ZnodeOp::Create, b"1")]).await;
    assert!(matches!(written, Err(StoreError::Fenced(_))), "{written:?}");
    assert_eq!(ensemble.data("/app/a"), None);
}

#[tokio::test]
async fn an_owner_that_no_older_server_takes_back_asks_and_steps_down() {
    let ensemble = ensemble();
    let store = owner(&ensemble).await;
    let older = ensemble.copy();
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    // A server alone: zxids go on where the copy ends, far below what the owner has seen.
    store.advance_watermark().await.unwrap();
    for number in 0_u8..50 {
        app.set("/app", &[number], None).await.unwrap();
    }
    let readings = store.read(&["/app".to_owned()], Look::Synced).await.unwrap();
    assert!(matches!(readings[0], ZnodeReading::Present { .. }));
    ensemble.restore(Some(older), false);
    let lost = keepstep::env::timeout(PATIENCE, store.lost()).await.unwrap();
    match lost {
        Lost::Gone(StoreError::Fenced(why)) => assert_eq!(why.kind(), FailureKind::Identity, "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_synced_read_is_not_that_of_a_server_that_lags() {
    let ensemble = DoubleEnsemble::new(zookeeper::Settings { servers: 2, ..Default::default() });
    let app = application(&ensemble).await;
    put(&*app, "/app", b"").await;
    put(&*app, "/app/a", b"1").await;
    ensemble.connect_to(1);
    let store = owner(&ensemble).await;
    let follower = application(&ensemble).await;
    ensemble.lag(1, Lag::UntilAsked);
    app.set("/app/a", b"2", None).await.unwrap();
    assert_eq!(follower.data("/app/a").await.unwrap().0, b"1", "the double lags");
    let readings = store.read(&["/app/a".to_owned(), "/app/none".to_owned()], Look::Synced).await.unwrap();
    assert!(matches!(&readings[0], ZnodeReading::Present { data, .. } if data == b"2"), "{readings:?}");
    let pzxid = ensemble.stat("/app").unwrap().pzxid;
    assert_eq!(readings[1], ZnodeReading::Absent(pzxid));
}

#[tokio::test]
async fn a_walk_meets_each_znode_once_and_tells_what_it_may_not_see() {
    let ensemble = ensemble();
    let app = application(&ensemble).await;
    let mut all = BTreeSet::new();
    for path in ["/app", "/app/a", "/app/b", "/app/b/closed"] {
        put(&*app, path, b"").await;
        all.insert(path.to_owned());
    }
    for number in 0..300 {
        let path = format!("/app/a/{number}");
        put(&*app, &path, path.as_bytes()).await;
        all.insert(path);
    }
    all.remove("/app/b/closed");
    let nobody = Right { permissions: 31, scheme: "digest".to_owned(), id: "somebody:else".to_owned() };
    ensemble.give("/app/b/closed", vec![nobody]);
    let store = owner(&ensemble).await;
    for reads_ahead in [false, true] {
        let mut walk = store.walk(vec!["/app".to_owned()], reads_ahead);
        let mut met = Vec::new();
        while let Some(walked) = walk.next().await.unwrap() {
            met.extend(walked.into_iter().map(|(path, _, _)| path));
        }
        assert_eq!(met.len(), all.len());
        assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), all);
        let denied: Vec<String> = walk.denied().into_iter().map(|(path, _)| path).collect();
        assert_eq!(denied, ["/app/b/closed"]);
    }
}

/// What a source tells.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Znode(String, Option<i64>, bool),
    Link(bool),
}

struct Ear(mpsc::Sender<Told>);

impl Hints for Ear {
    fn znode(&self, path: &str, zxid: Option<i64>, deleted: bool) {
        let _ = self.0.try_send(Told::Znode(path.to_owned(), zxid, deleted));
    }

    fn key(&self, _: &[u8], _: Option<&str>) {}

    fn everything(&self, _: Side, _: &str) {}

    fn lost(&self, _: Side, _: LossCause, _: &str, _: bool) {}

    fn link(&self, _: Side, link: Link) {
        let _ = self.0.try_send(Told::Link(link == Link::Up));
    }

    fn end(&self, _: StoreError) {}
}

#[tokio::test]
async fn a_source_tells_each_change_and_after_a_reconnect_that_it_missed_some() {
    let ensemble = ensemble();
    let app = application(&ensemble).await;
    let store = owner(&ensemble).await;
    let (sender, mut told) = mpsc::channel(1_000);
    store.watch(Arc::new(Ear(sender)));
    let mut next = async || keepstep::env::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, Told::Link(true));
    put(&*app, "/app", b"").await;
    put(&*app, "/elsewhere", b"").await;
    app.set("/app", b"1", None).await.unwrap();
    app.delete("/app", None).await.unwrap();
    for deleted in [false, false, true] {
        match next().await {
            Told::Znode(path, Some(_), is_deleted) => assert_eq!((path.as_str(), is_deleted), ("/app", deleted)),
            other => panic!("{other:?}"),
        }
    }
    // The source has a session of its own: all but the owner's and the application's.
    let owning = owning_session(&ensemble, "p");
    let source = ensemble.sessions().into_iter().find(|session| *session != owning && *session != app.id()).unwrap();
    ensemble.refuse_connections();
    ensemble.cut(source);
    assert_eq!(next().await, Told::Link(false));
    put(&*app, "/app", b"missed").await;
    ensemble.accept_connections();
    // It may tell once more why there is no connection. Then it is up again, and what came in between is not told.
    let mut link = next().await;
    while link == Told::Link(false) {
        link = next().await;
    }
    assert_eq!(link, Told::Link(true));
    app.set("/app", b"seen", None).await.unwrap();
    assert!(matches!(next().await, Told::Znode(path, Some(_), false) if path == "/app"));
    store.unwatch().await;
}

#[tokio::test]
async fn a_claim_that_overlaps_that_of_a_live_pipeline_is_refused_until_it_goes() {
    let ensemble = ensemble();
    let (first, second) = (store_of(&ensemble, "a", "p"), store_of(&ensemble, "b", "q"));
    first.connect().await.unwrap();
    second.connect().await.unwrap();
    let claim = |pipeline: &str| Claim {
        pipeline: pipeline.to_owned(),
        worker: "w:1".to_owned(),
        identity: String::new(),
        lineage: 0,
        ensemble: String::new(),
        patterns: vec!["/app/**".to_owned()],
        writes: true,
        captures: false,
    };
    first.claim(claim("p")).await.unwrap();
    let refused = second.claim(claim("q")).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    first.close().await;
    second.claim(claim("q")).await.unwrap();
}

#[tokio::test]
async fn a_command_changes_znodes_without_an_owner() {
    let ensemble = ensemble();
    let store = store_of(&ensemble, "a", "p");
    store.connect().await.unwrap();
    let edit = |path: &'static str, op, data| ZnodeEdit { path, op, data, acl: ZnodeAcl::Open };
    let edits = [
        edit("/app/x/y", ZnodeOp::Create, &b"1"[..]),
        edit("/app/x/y", ZnodeOp::Set(0), b"2"),
        edit("/app/x/y", ZnodeOp::Set(0), b"3"),
        edit("/app/x/y", ZnodeOp::Delete(1), b""),
    ];
    let outcomes = store.edit(&edits).await.unwrap();
    let refused: Vec<bool> = outcomes.iter().map(|outcome| *outcome == ZnodeOutcome::Refused).collect();
    assert_eq!(refused, [false, false, true, false]);
    assert_eq!((ensemble.data("/app/x/y"), ensemble.data("/app/x")), (None, Some(Vec::new())));
}

#[tokio::test]
async fn a_worker_that_finds_no_server_says_what_each_server_said() {
    let ensemble = ensemble();
    ensemble.refuse_connections();
    let store = store_of(&ensemble, "a", "p");
    match store.connect().await {
        Err(StoreError::Away(why)) => assert!(why.text().contains("no session: double:2181: "), "{why}"),
        other => panic!("{other:?}"),
    }
    ensemble.accept_connections();
    store.connect().await.unwrap();
    assert_eq!(store.server(), "ZooKeeper 3.9.4");
}

#[tokio::test]
async fn what_an_ownership_could_not_give_back_goes_when_the_pipeline_connects_again() {
    let ensemble = ensemble();
    let settings = settings_of(&ensemble, "a", "p");
    let store = ZookeeperStore::new(settings.clone());
    take_over(&store, Remembered::default()).await;
    // Another pipeline of the same worker holds the session.
    let other = ZookeeperStore::new(Settings { pipeline: "q".to_owned(), ..settings });
    other.connect().await.unwrap();
    let places = || ensemble.act(|ensemble| ensemble.tree().children("/_keepstep/p/election"));
    ensemble.refuse_connections();
    ensemble.cut(owning_session(&ensemble, "p"));
    assert!(store.close().now_or_never().is_some());
    assert_eq!(places().len(), 1);
    ensemble.accept_connections();
    store.connect().await.unwrap();
    assert_eq!(places(), Vec::<String>::new());
}
