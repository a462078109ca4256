//! The 68 named cases: interleavings, losses and values that break naive designs, each a test of its own name.
//!
//! Here is where each is tested, or why it cannot be run now; a test sees that none is missing. They are tested against real
//! servers; those that need none to themselves share one pair of servers, each with its own worker and range.

mod case;
mod concurrency;
mod crash;
mod deletes;
mod echo;
mod losses;
mod raw;
mod values;

use std::path::Path;

/// Where a case is.
enum Where {
    /// A test of its name in this file.
    In(&'static str),
    /// It cannot be run now, for this reason.
    Not(&'static str),
}
use Where::{In, Not};

const ECHO: Where = In("tests/it/named/echo.rs");
const CRASH: Where = In("tests/it/named/crash.rs");
const CONCURRENCY: Where = In("tests/it/named/concurrency.rs");
const DELETES: Where = In("tests/it/named/deletes.rs");
const LOSSES: Where = In("tests/it/named/losses.rs");
const VALUES: Where = In("tests/it/named/values.rs");
const SILENT: Where = In("tests/it/silent_loss.rs");

/// All of them, by number.
const CASES: [(&str, Where); 68] = [
    ("echo_basic", ECHO),
    ("echo_same_value_rewrite", ECHO),
    ("echo_after_ttl_cache_expiry", ECHO),
    ("echo_count_mismatch", ECHO),
    ("echo_then_app_same_connection_pool", ECHO),
    ("echo_multi_subops", ECHO),
    ("echo_codec_nonroundtrip", ECHO),
    ("echo_sidecar_feedback", ECHO),
    ("two_pipelines_opposite_policy", ECHO),
    ("ring_of_three_concurrent", ECHO),
    ("crash_after_zk_write_then_new_redis_write", CRASH),
    ("crash_after_zk_write_then_new_zk_write", CRASH),
    ("reply_lost_applied", CRASH),
    ("reply_lost_not_applied", CRASH),
    ("crash_between_lua_and_offset_commit", CRASH),
    ("crash_in_merge_half", Not("`on_conflict: merge` is not there yet; a pipeline that asks for it is refused")),
    ("crash_between_conflict_record_and_write", CRASH),
    ("crash_during_takeover", CRASH),
    ("restart_with_pending_intent_and_deleted_znode", CRASH),
    ("replay_old_segment_over_new_state", CRASH),
    ("duplicate_delivery_reordered", CRASH),
    ("write_between_read_and_write_redis", CONCURRENCY),
    ("write_between_read_and_write_zk", CONCURRENCY),
    ("stale_read_after_failover_to_lagging_follower", CONCURRENCY),
    ("redis_read_first_with_zk_sidecar", CONCURRENCY),
    ("concurrent_same_value", CONCURRENCY),
    ("value_aba_redis", CONCURRENCY),
    ("version_aba_recreate", CONCURRENCY),
    ("version_wrap", VALUES),
    ("mzxid_shared_by_multi", CONCURRENCY),
    ("conflict_while_conflict", CONCURRENCY),
    ("hot_key_starvation", CONCURRENCY),
    ("policy_flip_midway", CONCURRENCY),
    ("lww_ambiguous_after_downtime", CONCURRENCY),
    ("delete_vs_update", DELETES),
    ("delete_both", DELETES),
    ("delete_recreate_same_value", DELETES),
    ("delete_recreate_coalesced", DELETES),
    ("resurrect_from_old_snapshot_scan", DELETES),
    ("resurrect_after_tombstone_purge", DELETES),
    ("delete_nonleaf", In("tests/it/two_way.rs")),
    ("create_child_before_parent", DELETES),
    ("child_under_ephemeral", DELETES),
    ("ephemeral_mass_expiry", DELETES),
    ("unseen_create_delete_vs_set", DELETES),
    ("watch_gap_same_session", SILENT),
    ("pubsub_gap", LOSSES),
    ("notify_off", SILENT),
    ("flushall", SILENT),
    ("swapdb", SILENT),
    ("full_resync_swap", SILENT),
    ("rdb_restart_rollback", SILENT),
    ("failover_lost_write", LOSSES),
    ("evicted_key", In("tests/it/losses.rs")),
    ("expired_key_missed_event", LOSSES),
    ("zk_snapshot_restore", SILENT),
    ("ensemble_rebuilt_reused_zxids", LOSSES),
    ("rollback_between_read_and_lua", LOSSES),
    ("flush_then_app_writes", LOSSES),
    ("empty_container", Not("`value` other than `string` is not there yet: `{}` and `[]` are texts like any other")),
    ("null_vs_empty_data", VALUES),
    ("binary_and_invalid_utf8", VALUES),
    ("exactly_limit_and_plus_one", VALUES),
    ("wrongtype", In("tests/it/limits.rs")),
    ("cluster_slot_odd_keys", VALUES),
    ("path_key_collision", VALUES),
    ("reserved_paths", VALUES),
    ("mapping_changed_between_runs", VALUES),
];

#[test]
fn each_of_the_68_named_cases_is_a_test_or_says_why_not() {
    let mut left_out = Vec::new();
    for (name, place) in &CASES {
        match place {
            In(file) => {
                let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
                let is_a_test = ["#[tokio::test]\nasync fn", "#[test]\nfn"].map(|head| format!("{head} {name}() {{"));
                assert!(is_a_test.iter().any(|head| text.contains(head)), "{name} is no test of {file}");
            }
            Not(reason) => {
                assert!(reason.len() > 20, "{name}: why?");
                left_out.push(name);
            }
        }
    }
    let names: std::collections::BTreeSet<_> = CASES.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), CASES.len(), "a name stands for one case");
    assert!(left_out.len() <= 3, "the list is short, and stays so: {left_out:?}");
}
