//! The round by itself: what is read, in which order, and what each end changes.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::change::{Digest, Side, ZkVersion};
use crate::pipeline::hint::News;
use crate::plan::guard::Milestone;
use crate::plan::{
    Base, Ensemble, Ephemeral, Flow, Key, KeyOp, Known, OnConflict, OnRemoval, Policy, Record, Removal, Reported, Seen,
    Task, Znode, ZnodeOp,
};
use crate::store::{LeftMilestone, ReadContext};
use std::ops::ControlFlow;

/// What a worker knows of its pair; each test changes what it is about.
struct Knows {
    policy: Policy,
    known: Known,
    is_watched: bool,
    is_quarantined: bool,
    is_compared: bool,
    gone_zxid: i64,
    newest_event: Option<(&'static str, Removal)>,
    reported: Reported,
    newest_record: Option<NewestRecord>,
    hindrance: Option<Hindrance>,
    may_be_lost: bool,
}

const TWO_WAY: Policy = Policy {
    flow: Flow::Both(Side::Zookeeper),
    on_conflict: OnConflict::Prefer(Side::Zookeeper),
    on_delete: OnRemoval::Propagate,
    on_expire: OnRemoval::Propagate,
    ephemeral: Ephemeral::Mirror,
};

fn knows() -> Knows {
    Knows {
        policy: TWO_WAY,
        known: Known::Base(base(1)),
        is_watched: true,
        is_quarantined: false,
        is_compared: true,
        gone_zxid: 0,
        newest_event: None,
        reported: Reported { znode: true, key: true },
        newest_record: None,
        hindrance: None,
        may_be_lost: false,
    }
}

impl Facts for Knows {
    fn policy(&self) -> &Policy {
        &self.policy
    }
    fn path_id(&self) -> u32 {
        7
    }
    fn ensemble(&self) -> Ensemble {
        Ensemble { id: 1, since_zxid: 0 }
    }
    fn guards_deletes(&self) -> bool {
        true
    }
    fn is_watched(&self) -> bool {
        self.is_watched
    }
    fn is_compared(&self, _incarnation: u64) -> bool {
        self.is_compared
    }
    fn is_route_compared(&self, _incarnation: u64) -> bool {
        self.is_compared
    }
    fn hears_redis(&self) -> bool {
        true
    }
    fn is_quarantined(&self) -> bool {
        self.is_quarantined
    }
    fn known(&self) -> Known {
        self.known
    }
    fn gone_zxid(&self) -> i64 {
        self.gone_zxid
    }
    fn newest_event(&self, news: News) -> News {
        let (event, removal) = self.newest_event.unzip();
        News { event: event.or(news.event), removal: removal.or(news.removal), ..news }
    }
    fn reported(&self, _news: News) -> Reported {
        self.reported
    }
    fn newest_record(&self) -> Option<NewestRecord> {
        self.newest_record
    }
    fn is_delete_unwritten(&self) -> bool {
        false
    }
    fn may_be_lost(&self) -> bool {
        self.may_be_lost
    }
    fn times(&self, _news: News, _comparing: bool) -> Seen {
        Seen::default()
    }
    fn hindrance(&self, _task: &Task, _is_restore: bool) -> Option<Hindrance> {
        self.hindrance
    }
}

/// What was changed in the books, in order.
#[derive(Default)]
struct Log(Vec<String>);

impl PairBooks for Log {
    fn remember(&mut self, base: Option<Base>) {
        self.0.push(format!("remember {}", base.map_or(0, |base| base.sequence)));
    }
    fn refused(&mut self) {
        self.0.push("refused".to_owned());
    }
    fn count(&mut self, had_base: bool, has_base: bool) {
        self.0.push(format!("count {had_base} {has_base}"));
    }
    fn release(&mut self) {
        self.0.push("release".to_owned());
    }
    fn quarantine(&mut self, reason: Reason, is_news: bool) {
        self.0.push(format!("quarantine {reason:?} {is_news}"));
    }
    fn quarantine_lost(&mut self, side: Side) {
        self.0.push(format!("lost {side:?}"));
    }
    fn found(&mut self) {
        self.0.push("found".to_owned());
    }
    fn miss(&mut self) {
        self.0.push("miss".to_owned());
    }
    fn block_conclusion(&mut self) {
        self.0.push("block conclusion".to_owned());
    }
    fn infer(&mut self) {
        self.0.push("infer".to_owned());
    }
    fn not_inferred(&mut self) {
        self.0.push("not inferred".to_owned());
    }
    fn mark_written(&mut self) {
        self.0.push("written".to_owned());
    }
    fn finish_gone(&mut self, news: News) {
        self.0.push(format!("finish gone {}", news.zxid));
    }
    fn finish(&mut self) {
        self.0.push("finish".to_owned());
    }
    fn finish_again(&mut self, again: Again) {
        self.0.push(format!("finish again {:?} slow {} owed {}", again.delay, again.news.slow, again.news.owed));
    }
}

fn settled(end: End) -> Vec<String> {
    let mut log = Log::default();
    end.settle(&mut log);
    log.0
}

fn digest(of: u8) -> Digest {
    Digest([of; 20])
}

/// Both sides were agreed on at this value, whose number is that of its zxid as well.
fn base(value: u8) -> Base {
    Base {
        sequence: 1,
        zookeeper: Some(version(value)),
        redis: Some(digest(value)),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        left: false,
        lost: false,
        path_id: 7,
        ensemble: 1,
    }
}

fn version(value: u8) -> ZkVersion {
    ZkVersion { czxid: 1, mzxid: i64::from(value), version: i32::from(value) }
}

fn znode(value: u8) -> FoundZnode {
    let znode = Znode::Present { version: version(value), digest: digest(value), ephemeral: false, mtime_ms: 0 };
    FoundZnode { znode, fits: true }
}

const ABSENT: FoundZnode = FoundZnode { znode: Znode::Absent(9), fits: true };
const UNREADABLE: FoundZnode = FoundZnode { znode: Znode::AsBase, fits: false };

fn value(value: u8) -> FoundKey {
    FoundKey::Value { digest: digest(value), expires_ms: None, has_bytes: true }
}

fn answer(key: FoundKey, base: Option<Base>) -> KeyAnswer {
    let context = ReadContext { now_ms: 0, intact: true, compared: true, older: false, events_delivered: true };
    KeyAnswer { key, base, has_sidecar: base.is_some(), incarnation: 4, context }
}

fn named_znode(zxid: i64) -> News {
    News { znode: true, zxid, ..News::default() }
}

fn named_key() -> News {
    News { key: true, event: Some("set"), ..News::default() }
}

fn reads(next: Next) -> Reading {
    match next {
        Next::Read(reading) => reading,
        next => panic!("more is to be read: {next:?}"),
    }
}

fn observed(next: Next) -> Observed {
    match next {
        Next::Observed(observed) => observed,
        next => panic!("enough is known: {next:?}"),
    }
}

fn decided(observed: Observed, facts: &Knows) -> Decision {
    observed.decide(observed.plan(&facts.policy), facts)
}

fn writes(decision: Decision) -> (Record, Write) {
    match decision {
        Decision::Write(record, write) => (record, write),
        other => panic!("something is to be written: {other:?}"),
    }
}

#[test]
fn an_event_that_is_not_newer_than_the_base_is_an_echo_and_needs_no_read() {
    assert_eq!(Reading::begin(named_znode(1), &knows()), Next::End(End::Echo));
    assert_eq!(reads(Reading::begin(named_znode(2), &knows())).ask(), Ask::Znode);
    let known = Known::Unknown;
    assert_eq!(reads(Reading::begin(named_znode(1), &Knows { known, ..knows() })).ask(), Ask::Znode);
}

#[test]
fn only_one_side_is_read_where_the_other_may_be_assumed() {
    let ask = |news, facts: Knows| reads(Reading::begin(news, &facts)).ask();
    assert_eq!(ask(named_key(), knows()), Ask::Key);
    assert_eq!(ask(named_key(), Knows { is_watched: false, ..knows() }), Ask::SyncedZnode);
    assert_eq!(ask(named_key(), Knows { is_quarantined: true, ..knows() }), Ask::SyncedZnode);
    assert_eq!(ask(News { slow: true, ..named_key() }, knows()), Ask::SyncedZnode);
}

#[test]
fn a_changed_znode_is_written_over_the_key_as_the_base_has_it() {
    let facts = knows();
    let reading = reads(Reading::begin(named_znode(2), &facts));
    let seen = observed(reading.znode(znode(2), &facts));
    let (record, write) = writes(decided(seen, &facts));
    assert_eq!(record, Record::Change(Side::Zookeeper, None));
    assert!(
        matches!(write.task, Task::Redis { op: KeyOp::Set, expect, base: Some(_) } if expect == Some(digest(1))),
        "{write:?}"
    );
    assert!(write.with_change().news.unwritten && !write.news.unwritten);
}

#[test]
fn what_may_be_older_or_gone_is_read_on_both_sides_and_believed_only_the_second_time() {
    let facts = knows();
    for found in [ABSENT, znode(0)] {
        let mut reading = reads(Reading::begin(named_znode(2), &facts));
        reading = reads(reading.znode(found, &facts));
        for again in [false, true] {
            assert_eq!(reading.stage, Stage::SyncedZnode { again });
            reading = reads(reading.znode(found, &facts));
            assert_eq!(reading.ask(), Ask::Key);
            match reading.key(answer(value(1), Some(base(1))), &facts) {
                Next::Read(once_more) => reading = once_more,
                Next::Observed(seen) => assert!(again && seen.observation.znode == found.znode),
                end @ Next::End(_) => panic!("{end:?}"),
            }
        }
    }
}

#[test]
fn a_znode_of_a_comparisons_walk_that_may_be_old_is_left_to_a_round_for_which_the_comparison_waits() {
    let facts = knows();
    let key = |znode, may_be_old, base| {
        Reading::walked(News::default(), znode, may_be_old).key(answer(value(1), base), &facts)
    };
    assert!(observed(key(znode(1), true, Some(base(1)))).comparing);
    observed(key(znode(1), false, None));
    for next in [key(znode(1), true, None), key(znode(0), false, Some(base(1)))] {
        let Next::End(end) = next else { panic!("{next:?}") };
        assert_eq!(settled(end), ["finish again None slow true owed true"]);
    }
}

#[test]
fn the_newest_event_of_a_key_that_is_gone_decides_and_without_one_the_delete_is_counted_first() {
    let facts = Knows { newest_event: Some(("del", Removal::Deleted)), ..knows() };
    let news = News { event: None, ..named_key() };
    let read = |facts: &Knows| {
        observed(reads(Reading::begin(news, facts)).key(answer(FoundKey::Absent, Some(base(1))), facts))
    };
    let seen = read(&facts);
    let Key::Absent(vanished) = seen.observation.key else { panic!("{seen:?}") };
    assert_eq!(vanished.seen, Some(Removal::Deleted));
    let (_, write) = writes(decided(seen, &facts));
    assert!(matches!(write.task, Task::Znode { op: ZnodeOp::Delete(1), .. }));
    let unseen = Knows { reported: Reported::default(), ..knows() };
    let Decision::End(end) = decided(read(&unseen), &unseen) else { panic!("it is only inferred") };
    assert_eq!(settled(end), ["infer", "finish"]);
}

#[test]
fn a_key_that_may_be_older_is_one_only_where_redis_alone_is_written_from() {
    let newest_record = Some(NewestRecord { is_key: false, is_znode: true });
    let one_way = Policy { flow: Flow::From(Side::Redis), ..TWO_WAY };
    for (policy, is_older) in [(TWO_WAY, false), (one_way, true)] {
        let facts = Knows { policy, newest_record, ..knows() };
        let reading = reads(Reading::both(News::default(), false).znode(znode(2), &facts));
        let seen = observed(reading.key(answer(value(1), Some(base(1))), &facts));
        assert!(matches!(seen.observation.key, Key::Present { may_be_older, .. } if may_be_older == is_older));
    }
}

#[test]
fn what_cannot_be_mirrored_goes_into_quarantine_and_a_loss_there_is_not_forgotten() {
    let facts = knows();
    let Next::End(end) = reads(Reading::begin(named_znode(2), &facts)).znode(UNREADABLE, &facts) else { panic!() };
    assert_eq!(settled(end), ["quarantine Unfit true", "finish"]);
    let behind = reads(Reading::both(News::default(), true).znode(UNREADABLE, &facts));
    let mut key = answer(FoundKey::Absent, Some(base(1)));
    key.context.intact = false;
    let Next::End(end) = behind.key(key, &facts) else { panic!() };
    assert_eq!(settled(end), ["block conclusion", "quarantine Unfit false", "finish"]);
}

#[test]
fn nothing_is_written_to_zookeeper_without_a_milestone_in_the_data_set_that_was_read() {
    let facts = knows();
    let seen = observed(reads(Reading::begin(named_key(), &facts)).key(answer(value(2), Some(base(1))), &facts));
    let (_, write) = writes(decided(seen, &facts));
    let milestone = Milestone { branch: 3, number: 5 };
    let left = |incarnation| Some(LeftMilestone { milestone, incarnation });
    for none in [None, left(5)] {
        let ControlFlow::Break(end) = write.milestone_written(none, Delay::Redis) else { panic!("{none:?}") };
        assert_eq!(settled(end), ["finish again Redis slow true owed false"]);
    }
    let ControlFlow::Continue(write) = write.milestone_written(left(4), Delay::None) else { panic!("it is there") };
    assert_eq!(write.milestone, Some(milestone));
    assert_eq!(write.znode_written(ZnodeWritten::Done(Some(base(2)))), ControlFlow::Continue(Some(base(2))));
}

#[test]
fn an_end_changes_the_books_in_one_order_and_gives_the_pair_back_last() {
    let facts = knows();
    let reading = reads(Reading::begin(named_znode(2), &facts));
    let (_, write) = writes(decided(observed(reading.znode(znode(2), &facts)), &facts));
    let ends = |outcome| settled(write.key_written(outcome));
    let in_step = ["remember 2", "written", "release", "not inferred", "count true true", "finish"];
    assert_eq!(ends(Outcome::Done), in_step);
    assert_eq!(ends(Outcome::Refused), ["refused", "finish again None slow true owed false"]);
    assert_eq!(ends(Outcome::NotNow), ["finish again Redis slow true owed false"]);
    assert_eq!(ends(Outcome::Impossible), ["quarantine Impossible false", "finish"]);
    let gone = settled(write.sidecar_written(None, Outcome::Done));
    let all = ["remember 0", "written", "release", "not inferred", "count true false", "finish gone 2"];
    assert_eq!(gone, all);
    let lost = settled(write.sidecar_written(Some(Base { lost: true, ..base(1) }), Outcome::Done));
    assert_eq!(lost, ["remember 1", "lost Redis", "not inferred", "count true true", "finish"]);
    assert_eq!(settled(write.not_recorded()), ["finish again Stream slow true owed false"]);
}

#[test]
fn what_no_request_holds_is_quarantined_and_what_redis_has_no_room_for_waits() {
    for (hindrance, expected) in [
        (Hindrance::TooLarge, "quarantine TooLarge false"),
        (Hindrance::NoRoom(std::time::Duration::from_secs(1)), "finish again Room(1s) slow true owed false"),
    ] {
        let facts = Knows { hindrance: Some(hindrance), ..knows() };
        let reading = reads(Reading::begin(named_znode(2), &facts));
        let Decision::End(end) = decided(observed(reading.znode(znode(2), &facts)), &facts) else { panic!() };
        assert_eq!(settled(end).first().map(String::as_str), Some(expected));
    }
}

fn captures(side: Side) -> Knows {
    Knows { policy: Policy { flow: Flow::Capture(side), ..TWO_WAY }, known: Known::Unknown, ..knows() }
}

#[test]
fn a_capture_reads_its_side_alone_and_records_what_is_there() {
    let facts = captures(Side::Zookeeper);
    let reading = reads(Reading::begin(named_znode(2), &facts));
    assert_eq!(reading.ask(), Ask::Znode);
    for found in [znode(2), ABSENT] {
        assert_eq!(decided(observed(reading.znode(found, &facts)), &facts), Decision::Capture(Side::Zookeeper));
    }
    let facts = captures(Side::Redis);
    let reading = reads(Reading::begin(named_key(), &facts));
    assert_eq!(reading.ask(), Ask::Key);
    assert_eq!(decided(observed(reading.key(answer(value(2), None), &facts)), &facts), Decision::Capture(Side::Redis));
}

#[test]
fn what_a_capture_cannot_read_is_quarantined_and_an_ephemeral_znode_that_is_skipped_is_left_alone() {
    let mut facts = captures(Side::Zookeeper);
    let reading = reads(Reading::begin(named_znode(2), &facts));
    assert!(matches!(reading.znode(UNREADABLE, &facts), Next::End(End::Quarantine { reason: Reason::Unfit, .. })));
    facts.policy.ephemeral = Ephemeral::Skip;
    let mut found = znode(2);
    if let Znode::Present { ephemeral, .. } = &mut found.znode {
        *ephemeral = true;
    }
    let decision = decided(observed(reading.znode(found, &facts)), &facts);
    assert!(matches!(decision, Decision::End(End::AsItIs { .. })), "{decision:?}");
    let facts = captures(Side::Redis);
    let denied = answer(FoundKey::Unfit { is_denied: true }, None);
    let end = Reading::captured(News::default(), true, Side::Redis).key(denied, &facts);
    assert!(matches!(end, Next::End(End::Quarantine { blocks_conclusion: false, .. })), "{end:?}");
}

#[test]
fn a_key_of_a_capture_that_nobody_saw_being_deleted_stays_on_the_stream_where_redis_may_have_lost_it() {
    let decision = |news: News, comparing, intact, facts: &Knows| {
        let mut gone = answer(FoundKey::Absent, None);
        gone.context.intact = intact;
        decided(observed(Reading::captured(news, comparing, Side::Redis).key(gone, facts)), facts)
    };
    let (facts, recorded, missing) =
        (captures(Side::Redis), Decision::Capture(Side::Redis), Decision::End(End::Missing));
    let told = |event, removal| News { event: Some(event), removal, ..named_key() };
    assert_eq!(decision(told("del", Some(Removal::Deleted)), false, false, &facts), recorded, "it was seen");
    assert_eq!(decision(told("evicted", Some(Removal::Lost)), false, true, &facts), missing);
    assert_eq!(decision(News::default(), true, true, &facts), recorded, "Redis has lost nothing");
    assert_eq!(decision(News::default(), true, false, &facts), missing);
    assert_eq!(decision(told("set", None), true, false, &facts), missing, "a comparison finds it");
    assert_eq!(
        decision(told("set", None), false, false, &facts),
        recorded,
        "an event names it, and its next one follows"
    );
    let lost = Knows { may_be_lost: true, ..captures(Side::Redis) };
    assert_eq!(decision(News::default(), false, true, &lost), missing);
    assert_eq!(settled(End::Missing), ["miss", "finish"]);
    let on_record = End::OnRecord { had_value: true, has_value: false };
    assert_eq!(settled(on_record), ["found", "release", "count true false", "finish"]);
}
