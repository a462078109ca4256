//! The judge of the chaos runs finds what it is there to find.

#[path = "../../examples/chaos/history.rs"]
mod judged;

use judged::{History, Left, Side, Write, judge};
use serde_json::{Value, json};
use std::time::Duration;

fn write(pair: &str, side: Side, at_ms: u64, left: Option<&str>, replaced: Option<&str>) -> Write {
    let left = left.map_or(Left::Nothing, |value| Left::Value(value.to_owned()));
    let replaced = Some(replaced.map(str::to_owned));
    Write { pair: pair.to_owned(), side, left, replaced, at: Duration::from_millis(at_ms) }
}

fn held(pair: &str, value: Option<&str>) -> (String, (Option<String>, Option<String>)) {
    (pair.to_owned(), (value.map(str::to_owned), value.map(str::to_owned)))
}

fn row(pair: &str, fields: Value) -> Value {
    let mut row = json!({"pair": {"zk": judged::path(pair), "cache": judged::key(pair)}});
    row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    row
}

/// Redis held `r1`, ZooKeeper then wrote `z1` over nothing it knew, and `z1` is what is left.
fn clash() -> History {
    let writes = vec![write("s1", Side::Redis, 1, Some("r1"), None), write("s1", Side::Zookeeper, 2, Some("z1"), None)];
    History { writes, held: [held("s1", Some("z1"))].into(), ..History::default() }
}

#[test]
fn a_value_that_went_without_a_word_is_lost() {
    let found = judge(&clash());
    assert_eq!((found.checked, found.lost.len()), (2, 1), "{found:?}");
    assert!(found.lost[0].starts_with("s1: r1"), "{found:?}");
    assert!(!found.is_clean());
}

#[test]
fn a_value_in_the_conflict_log_a_replaced_one_and_the_last_one_are_accounted_for() {
    let logged = History { conflicts: vec![row("s1", json!({"zk": "z1", "cache": "r1"}))], ..clash() };
    assert!(judge(&logged).is_clean());
    let mut agreed = clash();
    agreed.writes[1] = write("s1", Side::Zookeeper, 2, Some("z1"), Some("r1"));
    assert!(judge(&agreed).is_clean());
    let mut superseded = clash();
    superseded.writes.push(write("s1", Side::Redis, 3, None, Some("r1")));
    assert!(judge(&superseded).is_clean());
    let elsewhere = History { conflicts: vec![row("s2", json!({"zk": "z1", "cache": "r1"}))], ..clash() };
    assert_eq!(judge(&elsewhere).lost.len(), 1, "the conflict of another pair is no account");
}

#[test]
fn an_overwriting_that_the_worker_counted_excuses_one_value_of_zookeeper() {
    let writes = vec![write("s1", Side::Zookeeper, 1, Some("z1"), None), write("s1", Side::Redis, 2, Some("r1"), None)];
    let history = History { writes, held: [held("s1", Some("r1"))].into(), ..History::default() };
    assert_eq!(judge(&history).lost.len(), 1);
    let mut counted = History { recreated: [("s1".to_owned(), 1)].into(), ..history };
    assert!(judge(&counted).is_clean());
    counted.writes.push(write("s1", Side::Zookeeper, 3, Some("z2"), None));
    assert_eq!(judge(&counted).lost.len(), 1, "one count excuses one value");
}

#[test]
fn a_write_without_an_answer_excuses_one_value_that_is_older_than_it() {
    let unanswered = |at_ms| Write { replaced: None, ..write("s1", Side::Redis, at_ms, Some("r2"), None) };
    let mut excused = clash();
    excused.writes.push(unanswered(3));
    assert!(judge(&excused).is_clean());
    excused.writes.insert(0, write("s1", Side::Redis, 0, Some("r0"), None));
    assert_eq!(judge(&excused).lost.len(), 1, "one write replaces one value");
    let mut earlier = clash();
    earlier.writes.push(unanswered(0));
    assert_eq!(judge(&earlier).lost.len(), 1, "what came before replaces nothing");
}

#[test]
fn a_loss_of_redis_excuses_what_was_not_carried_yet_and_nothing_else() {
    let losses = vec![Duration::from_millis(5)];
    let excused = History { redis_losses: losses.clone(), ..clash() };
    assert!(judge(&excused).is_clean());
    let carried = [("s1".to_owned(), vec![(Duration::from_millis(1), "r1".to_owned())])];
    let carried = History { redis_losses: losses, seen_in_zookeeper: carried.into(), ..clash() };
    assert_eq!(judge(&carried).lost.len(), 1, "what ZooKeeper had must outlive a loss of Redis");
    let earlier = History { redis_losses: vec![Duration::ZERO], ..clash() };
    assert_eq!(judge(&earlier).lost.len(), 1, "a loss before the write excuses nothing");
}

#[test]
fn sides_that_differ_invented_deletes_and_conflicts_and_old_values_that_come_back_are_found() {
    let mut differ = clash();
    differ.held = [("s1".to_owned(), (Some("z1".to_owned()), Some("r1".to_owned())))].into();
    assert_eq!(judge(&differ).diverged.len(), 1);

    let delete = row("s1", json!({"op": "d", "source": {"connector": "redis"}}));
    let invented = History { changes: vec![delete.clone()], ..clash() };
    assert_eq!(judge(&invented).deletes.len(), 1);
    let mut made = History { changes: vec![delete], ..clash() };
    made.writes.push(write("s1", Side::Redis, 3, None, Some("r1")));
    assert_eq!(judge(&made).deletes.len(), 0);

    let spurious = History { conflicts: vec![row("z1", json!({"zk": "a", "cache": "b"}))], ..History::default() };
    assert_eq!(judge(&spurious).spurious.len(), 1);

    let mut returned = clash();
    returned.writes.push(write("s1", Side::Redis, 3, Some("r2"), Some("r1")));
    let seen = [(20, "r1"), (21, "r2"), (22, "r1")].map(|(at, value)| (Duration::from_secs(at), value.to_owned()));
    returned.seen_in_zookeeper = [("s1".to_owned(), seen.to_vec())].into();
    assert_eq!(judge(&returned).returned.len(), 1);
    returned.bases_lost = vec![Duration::from_secs(2), Duration::from_secs(30)];
    assert_eq!(judge(&returned).returned.len(), 1, "neither long before nor afterwards was a base taken away");
    returned.bases_lost.push(Duration::from_secs(21));
    assert_eq!(judge(&returned).returned.len(), 0, "without a base what is left is copied");
}

#[test]
fn what_a_command_wrote_excuses_deletes_and_old_values_of_its_time_and_never_a_lost_value() {
    let delete = row("s1", json!({"op": "d", "ts_ms": 4_000, "source": {"connector": "redis"}}));
    let mut history = History { changes: vec![delete], ..clash() };
    assert_eq!(judge(&history).deletes.len(), 1);
    history.commands = vec![(Duration::from_secs(30), Duration::from_secs(31))];
    assert_eq!(judge(&history).deletes.len(), 1, "another time");
    history.commands = vec![(Duration::from_secs(3), Duration::from_secs(4))];
    let found = judge(&history);
    assert_eq!((found.deletes.len(), found.lost.len()), (0, 1), "what was replaced must be in the conflict log");
    history.complaints = vec!["a command did not end".to_owned()];
    assert_eq!(judge(&history).complaints.len(), 1);
}

#[test]
fn what_an_ensemble_that_came_back_older_forgot_is_excused_if_it_was_not_carried_or_is_on_the_stream() {
    let losses = vec![Duration::from_millis(10), Duration::from_millis(20)];
    let writes =
        vec![write("s1", Side::Zookeeper, 5, Some("z1"), None), write("s1", Side::Redis, 30, Some("r1"), None)];
    let gone = History { writes, held: [held("s1", Some("r1"))].into(), ..History::default() };
    assert_eq!(judge(&gone).lost.len(), 1);
    assert!(judge(&History { zookeeper_losses: losses.clone(), ..gone }).is_clean());
    let of_redis = History { zookeeper_losses: losses, ..clash() };
    assert_eq!(judge(&of_redis).lost.len(), 1, "Redis has lost nothing");
    let on_stream = History { changes: vec![row("s1", json!({"op": "c", "after": "r1"}))], ..of_redis };
    assert!(judge(&on_stream).is_clean());
}
