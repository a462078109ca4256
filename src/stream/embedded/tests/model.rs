//! The stream against a model of itself: any sequence of appends, compactions, restarts and time.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    Append(Vec<(u64, bool)>),
    Wait(i64),
    Compact,
    Restart,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => proptest::collection::vec((0..12_u64, proptest::bool::weighted(0.1)), 1..12).prop_map(Act::Append),
        2 => (1..400_i64).prop_map(Act::Wait),
        2 => Just(Act::Compact),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_of_a_stream_hold(
        acts in proptest::collection::vec(any_act(), 1..40), age in 50..1_000_u64, size in 2_000..20_000_u64,
    ) {
        let mut bench = Bench::new(900);
        bench.options.retention = Retention { age: Duration::from_millis(age), size };
        let mut stream = bench.open();
        let mut all: Vec<(Position, Change)> = Vec::new();
        for act in acts {
            let now = bench.now_ms.load(Ordering::SeqCst);
            match act {
                Act::Append(pairs) => {
                    let changes: Vec<Change> = pairs.into_iter().enumerate().map(|(i, (pair, settled))| {
                        let value = format!("{}.{i}", all.len());
                        if settled { conflict(pair, now, &value) } else { change(pair, now, &value) }
                    }).collect();
                    let first = all.len() as Position + 1;
                    prop_assert_eq!(append(&stream, changes.clone()), Ok(first));
                    all.extend((first..).zip(changes));
                }
                Act::Wait(ms) => bench.advance(ms),
                Act::Compact => prop_assert_eq!(stream.compact_now(), Ok(())),
                Act::Restart => {
                    drop(stream);
                    stream = bench.open();
                }
            }
            let now = bench.now_ms.load(Ordering::SeqCst);
            // Full history before the read, because compaction may go on beside it.
            let found = everything(&stream);
            let extent = stream.extent();
            prop_assert_eq!(extent.last, all.len() as Position);
            let mut rest = found.iter().peekable();
            for (position, change) in &all {
                let there = rest.next_if(|(found, _)| found == position);
                if let Some((_, found)) = there {
                    prop_assert_eq!(found, change);
                } else {
                    let superseded = all.iter().any(|(later, other)| later > position && other.pair == change.pair);
                    let young = change.ts_ms + age as i64 >= now;
                    prop_assert!(superseded && !(change.conflict.is_some() && young), "{} is gone", position);
                    prop_assert!(*position < extent.full_from);
                }
            }
            prop_assert!(rest.peek().is_none());
            for pair in 0..12 {
                let last = all.iter().rfind(|(_, change)| change.pair == pair_of(pair)).cloned();
                let newest = stream.newest_record(&pair_of(pair)).unwrap().map(|record| (record.position, record.change));
                prop_assert_eq!(newest, last);
            }
        }
        prop_assert_eq!(stream.damage(), Vec::<String>::new());
    }
}
