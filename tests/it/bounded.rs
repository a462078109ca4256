//! The properties of `properties/` on some thousand arbitrary inputs each, and on the seeds of the fuzz targets.

use crate::properties::{change_codec, names, notification, pipeline_file, planner};
use proptest::prelude::*;
use std::path::Path;

/// The inputs that the fuzz target of this name begins with.
fn seeds(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} has no seeds", folder.display());
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

/// So many inputs; all of them take a few seconds in a debug build on two cores.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn a_pipeline_file_is_read_or_refused_with_a_place(frame in any::<u8>(), text in "(\\PC|[ \n:{}\\[\\]\"',#$-]){0,60}") {
        pipeline_file::check(&[&[frame], text.as_bytes()].concat());
    }

    #[test]
    fn a_change_reads_back_from_every_writer(data in bytes(400)) {
        change_codec::check(&data);
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn names_are_mapped_one_to_one(data in bytes(80)) {
        names::check(&data);
    }

    #[test]
    fn a_notification_names_the_key_that_it_tells_of(data in bytes(60)) {
        notification::check(&data);
    }
}

proptest! {
    #![proptest_config(cases(100_000))]

    #[test]
    fn a_plan_keeps_its_promises_on_any_triple(data in bytes(48)) {
        planner::check(&data);
    }
}

#[test]
fn the_seeds_of_the_fuzz_targets_hold() {
    seeds("pipeline_file", pipeline_file::check);
    seeds("names", names::check);
    seeds("change_codec", change_codec::check);
    seeds("notification", notification::check);
    seeds("planner", planner::check);
}
