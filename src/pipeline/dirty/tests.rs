//! The dirty set by itself.

use super::*;

fn about(news: News) -> Hint {
    Hint::new(0).with(news)
}

fn named(hint: &mut Hint) -> Hint {
    hint.news.key = true;
    hint.hints = 1;
    *hint
}

#[test]
fn a_pair_is_held_once_and_is_in_one_round_at_a_time() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    for _ in 0..3 {
        dirty.note(b"a", named(&mut Hint::new(0)));
    }
    let taken = dirty.take(&turn, 10);
    assert_eq!(taken.len(), 1);
    assert_eq!(taken.first().map(|(_, hint)| hint.hints), Some(3));
    dirty.note(b"a", named(&mut Hint::new(0)));
    assert!(dirty.take(&turn, 10).is_empty(), "busy");
    dirty.finish(b"a".as_slice().into(), None);
    assert_eq!(dirty.take(&turn, 10).len(), 1);
    dirty.finish(b"a".as_slice().into(), None);
    assert!(dirty.is_empty());
}

#[test]
fn what_is_under_way_is_pending_until_it_is_finished() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    dirty.note(b"a", named(&mut Hint::new(0)));
    assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(1));
    assert_eq!(dirty.take(&turn, 10).len(), 1);
    assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(1), "in its round");
    dirty.finish(b"a".as_slice().into(), None);
    assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(0));
    assert_eq!(dirty.try_take(&turn, &mut std::iter::once((&b"b".as_slice().into(), Hint::new(0)))), [true]);
    assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(0), "a comparison is no change");
}

#[test]
fn a_hot_pair_is_held_back_and_not_lost() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    dirty.note(b"a", named(&mut Hint::new(0)));
    assert_eq!(dirty.take(&turn, 10).len(), 1);
    for _ in 0..HOT_HINTS {
        dirty.note(b"a", named(&mut Hint::new(0)));
    }
    dirty.finish(b"a".as_slice().into(), None);
    assert!(dirty.take(&turn, 10).is_empty());
    let (due, next) = dirty.due();
    assert_eq!(due, 0);
    assert!(next.is_some_and(|next| next <= HOT_HOLD));
    let asked = Instant::now();
    while dirty.take(&turn, 10).is_empty() {
        assert!(asked.elapsed() < HOT_HOLD * 10, "it comes back");
        std::thread::yield_now();
    }
}

#[test]
fn a_paused_route_keeps_its_hints() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    dirty.pause(0, true);
    dirty.note(b"a", named(&mut Hint::new(0)));
    dirty.note(b"b", named(&mut Hint::new(1)));
    assert_eq!(dirty.take(&turn, 10).len(), 1);
    dirty.pause(0, false);
    assert_eq!(dirty.take(&turn, 10).len(), 1);
}

#[test]
fn an_event_without_a_name_does_not_hide_what_was_said_before() {
    let mut hint = Hint::new(0);
    hint.merge(about(News { key: true, removal: Some(Removal::Expired), event: Some("expired"), ..News::default() }));
    hint.merge(about(News { key: true, ..News::default() }));
    assert_eq!(hint.news.removal, Some(Removal::Expired));
}

#[test]
fn a_pair_is_owed_until_the_round_that_was_asked_for_has_settled_it() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    let owed = Hint::new(0).owed().slow();
    dirty.note(b"a", Hint::new(0));
    let first = dirty.take(&turn, 1).remove(0);
    dirty.note(b"a", owed);
    dirty.finish(first.0, None);
    assert!(dirty.owes(), "the round that was under way was not the one that was asked for");
    let (name, hint) = dirty.take(&turn, 1).remove(0);
    assert!(hint.news.owed);
    dirty.note(b"a", Hint::new(0));
    dirty.finish(name, Some((hint, Duration::ZERO)));
    assert!(dirty.owes(), "it is to be looked at again");
    let (name, _) = dirty.take(&turn, 1).remove(0);
    dirty.note(b"a", Hint::new(0));
    dirty.finish(name, None);
    assert!(!dirty.owes(), "what came later is another matter");
}

#[test]
fn a_removal_explains_nothing_once_a_later_event_is_known_or_events_were_lost() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    let told = |event, removal| about(News { key: true, event: Some(event), removal, ..News::default() });
    dirty.note(b"a", told("del", Some(Removal::Deleted)));
    let (name, hint) = dirty.take(&turn, 1).remove(0);
    assert_eq!(dirty.with_newest_event(&name, hint).news.removal, Some(Removal::Deleted));
    dirty.note(b"a", told("evicted", Some(Removal::Lost)));
    assert_eq!(dirty.with_newest_event(&name, hint).news.removal, Some(Removal::Lost));
    dirty.lost_events(Side::Redis);
    let blind = dirty.with_newest_event(&name, hint);
    assert_eq!((blind.news.event, blind.news.removal), (None, None));
    dirty.note(b"a", told("del", Some(Removal::Deleted)));
    assert_eq!(dirty.with_newest_event(&name, hint).news.removal, Some(Removal::Deleted));
}

#[test]
fn what_a_turn_has_not_finished_goes_back_and_after_a_panic_each_pair_alone() {
    let dirty = Arc::new(DirtySet::default());
    for name in [b"a", b"b", b"c"] {
        dirty.note(name, named(&mut Hint::new(0)));
    }
    let turn = dirty.turn();
    let taken = dirty.take(&turn, 10);
    assert_eq!(taken.len(), 3);
    dirty.finish(b"a".as_slice().into(), None);
    dirty.put_back(turn.number, true);
    drop(turn);
    let next = dirty.turn();
    let mut alone = Vec::new();
    while alone.len() < 2 {
        let some = dirty.take(&next, 10);
        assert!(some.len() <= 1 && some.iter().all(|(_, hint)| hint.news.slow && hint.news.key), "{some:?}");
        alone.extend(some);
        std::thread::yield_now();
    }
    for (name, _) in alone {
        dirty.finish(name, None);
    }
    drop(next);
    assert!(dirty.is_empty());
}

#[test]
fn a_turn_that_is_cut_off_gives_back_its_pairs_and_no_pair_of_another() {
    let dirty = Arc::new(DirtySet::default());
    let (first, second) = (dirty.turn(), dirty.turn());
    dirty.note(b"a", named(&mut Hint::new(0)));
    assert_eq!(dirty.take(&first, 10).len(), 1);
    dirty.finish(b"a".as_slice().into(), None);
    dirty.note(b"a", named(&mut Hint::new(0)));
    assert_eq!(dirty.take(&second, 10).len(), 1);
    assert_eq!(dirty.try_take(&first, &mut std::iter::once((&b"b".as_slice().into(), Hint::new(0)))), [true]);
    drop(first);
    assert!(dirty.owes(), "a comparison had it");
    let third = dirty.turn();
    let mut names: Vec<PairName> = Vec::new();
    while names.is_empty() {
        names.extend(dirty.take(&third, 10).into_iter().map(|(name, _)| name));
        std::thread::yield_now();
    }
    assert_eq!(names, [b"b".as_slice().into()], "the other one is in its second round");
}

#[test]
fn a_removal_was_told_where_an_event_named_the_pair_since_the_last_gap_or_said_so() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    let told = |name: &[u8], hint| dirty.reported(name, hint);
    let znode = |znode_deleted| about(News { znode: true, znode_deleted, ..News::default() });
    let key = |removal| about(News { key: true, event: Some("an event"), removal, ..News::default() });
    dirty.note(b"changed", znode(false));
    dirty.note(b"deleted", znode(true));
    dirty.note(b"set", key(None));
    dirty.note(b"del", key(Some(Removal::Deleted)));
    dirty.note(b"owed", Hint::new(0).owed().slow());
    let taken = dirty.take(&turn, 10);
    let all = |znode: [bool; 5], key: [bool; 5]| {
        for ((name, hint), (znode, key)) in taken.iter().zip(znode.into_iter().zip(key)) {
            assert_eq!(told(name, *hint), Reported { znode, key }, "{}", String::from_utf8_lossy(name));
        }
    };
    all([true, true, false, false, false], [false, false, true, true, false]);
    dirty.lost_events(Side::Zookeeper);
    all([false, true, false, false, false], [false, false, true, true, false]);
    dirty.lost_events(Side::Redis);
    all([false, true, false, false, false], [false, false, false, true, false]);
    dirty.note(b"owed", znode(true));
    all([false, true, false, false, true], [false, false, false, true, false]);
}

#[test]
fn what_a_comparison_left_is_counted_once_whether_or_not_it_is_settled() {
    let dirty = Arc::new(DirtySet::default());
    let turn = dirty.turn();
    let owed = Hint::new(1).owed().slow();
    dirty.note(b"before", owed);
    dirty.begin_comparison();
    dirty.note(b"before", owed);
    dirty.leave(b"before", 1);
    dirty.note(b"a", owed);
    dirty.leave(b"busy", 0);
    assert_eq!(dirty.left(2), [(1, 0), (2, 2)]);
    for (name, _) in dirty.take(&turn, 10) {
        dirty.finish(name, None);
    }
    assert_eq!(dirty.left(2), [(1, 0), (2, 0)]);
}
