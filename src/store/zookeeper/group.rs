//! Who should own what: workers share the pipelines that they were given, evenly, and move no more than that needs.
//!
//! ```text
//!   lines of all pipelines --look--> who holds what --spread()--> who should
//! ```
//!
//! No worker decides for others. Each reads the same lines and computes the same answer: an owner that should not be
//! one gives the pipeline up, and a worker that becomes first in line and should not be steps back to its end. A look
//! that is out of date costs a needless move and nothing else, because ownership itself is the place in line and the
//! fence.

use super::{Shared, explain};
use crate::store::StoreError;
use futures::stream::{self, StreamExt as _};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use zookeeper_client::{Client, Error};

/// A look serves all pipelines of a worker that come first in line within this time: far below the time in which a
/// take-over must be done.
pub(super) const FRESH: Duration = Duration::from_millis(200);

/// Lines that are read at the same time: enough to hide the way to the server, few enough not to queue there.
const READS: usize = 16;

/// What all pipelines of a worker know of the others; one for each ensemble.
#[derive(Debug, Default)]
pub(super) struct Group {
    seen: tokio::sync::Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    /// By the path of a place in line: the worker that stands there, and whether it may be given more.
    cards: HashMap<String, Card>,
    lines: Lines,
    wanted: BTreeMap<String, String>,
}

/// By pipeline, the workers in line; the first holds it.
type Lines = BTreeMap<String, Vec<String>>;

#[derive(Debug, Clone)]
struct Card {
    worker: String,
    stays: bool,
}

/// What a worker writes at its place in line.
pub(super) fn card(shared: &Shared, machine: &str) -> String {
    let kind = if shared.settings.once { "once" } else { "stays" };
    format!("{}\n{machine}\n{kind}", shared.settings.worker)
}

/// The worker that should own our pipeline, `None` where that cannot be told; by a look that is at most so old.
pub(super) async fn wanted(shared: &Shared, client: &Client, fresh: Duration) -> Result<Option<String>, StoreError> {
    let mut seen = shared.settings.sessions.group.seen.lock().await;
    if seen.at.is_none_or(|at| at.elapsed() >= fresh) {
        look(shared, client, &mut seen).await?;
    }
    Ok(seen.wanted.get(&shared.settings.pipeline).cloned())
}

async fn look(shared: &Shared, client: &Client, seen: &mut Seen) -> Result<(), StoreError> {
    let wrong = |error: &Error| explain(shared, error);
    let names = client.list_children("/_keepstep").await.map_err(|error| wrong(&error))?;
    let pipelines: Vec<String> = names.into_iter().filter(|name| !name.starts_with('_')).collect();
    let lines = stream::iter(pipelines).map(|pipeline| async move {
        let line = format!("/_keepstep/{pipeline}/election");
        // Another user's line may be closed to us: then we share nothing with them.
        let mut places = client.list_children(&line).await.unwrap_or_default();
        places.sort();
        (pipeline, places.into_iter().map(|place| format!("{line}/{place}")).collect::<Vec<_>>())
    });
    let lines: Vec<(String, Vec<String>)> = lines.buffered(READS).collect().await;
    let places: Vec<&String> = lines.iter().flat_map(|(_, places)| places).collect();
    let unknown: Vec<String> = places.into_iter().filter(|place| !seen.cards.contains_key(*place)).cloned().collect();
    let read = stream::iter(unknown).map(|place| async move {
        let data = client.get_data(&place).await.map(|(data, _)| data);
        (place, data)
    });
    for (place, data) in read.buffered(READS).collect::<Vec<_>>().await {
        if let Ok(data) = data {
            let text = String::from_utf8_lossy(&data).into_owned();
            let worker = text.lines().next().unwrap_or_default().to_owned();
            seen.cards.insert(place, Card { worker, stays: text.lines().nth(2) != Some("once") });
        }
    }
    let mut cards = HashMap::new();
    let mut known = Lines::new();
    for (pipeline, places) in lines {
        let mut line = Vec::new();
        for place in places {
            let Some(card) = seen.cards.remove(&place) else { continue };
            // Who runs `--once` keeps what it holds and is given nothing.
            if card.stays || line.is_empty() {
                line.push(card.worker.clone());
            }
            cards.insert(place, card);
        }
        known.insert(pipeline, line);
    }
    seen.cards = cards;
    if known != seen.lines {
        seen.wanted = spread(&known);
        seen.lines = known;
    }
    seen.at = Some(Instant::now());
    Ok(())
}

/// Who should own each pipeline: whoever holds it, unless a worker in its line has two fewer. The same for all who see
/// the same lines.
fn spread(lines: &Lines) -> BTreeMap<String, String> {
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    for (pipeline, line) in lines {
        for worker in line {
            loads.entry(worker).or_default();
        }
        if let Some(first) = line.first() {
            *loads.entry(first).or_default() += 1;
            holders.insert(pipeline, first);
        }
    }
    let load = |loads: &BTreeMap<&str, usize>, worker: &str| loads.get(worker).copied().unwrap_or(0);
    // Each move brings two loads nearer to each other, so this ends; no pipeline is worth more moves than there are.
    for _ in 0..lines.len() * 2 {
        let mut best: Option<(usize, &str, &str)> = None;
        for (pipeline, line) in lines {
            let Some(holder) = holders.get(pipeline.as_str()) else { continue };
            for worker in line {
                let difference = load(&loads, holder).saturating_sub(load(&loads, worker));
                if difference >= 2 && best.is_none_or(|(most, _, _)| difference > most) {
                    best = Some((difference, pipeline, worker));
                }
            }
        }
        let Some((_, pipeline, worker)) = best else { break };
        if let Some(holder) = holders.insert(pipeline, worker)
            && let Some(count) = loads.get_mut(holder)
        {
            *count -= 1;
        }
        *loads.entry(worker).or_default() += 1;
    }
    holders.into_iter().map(|(pipeline, worker)| (pipeline.to_owned(), worker.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(all: &[(&str, &[&str])]) -> Lines {
        let owned = |line: &[&str]| line.iter().map(ToString::to_string).collect();
        all.iter().map(|(pipeline, line)| ((*pipeline).to_owned(), owned(line))).collect()
    }

    fn owned(wanted: &BTreeMap<String, String>, worker: &str) -> usize {
        wanted.values().filter(|owner| *owner == worker).count()
    }

    #[test]
    fn one_pipeline_stays_where_it_is() {
        let wanted = spread(&lines(&[("p", &["a", "b", "c"])]));
        assert_eq!(wanted.get("p").map(String::as_str), Some("a"));
    }

    #[test]
    fn a_worker_that_joins_is_given_its_share_and_no_more_moves() {
        let wanted = spread(&lines(&[("p1", &["a", "b"]), ("p2", &["a", "b"]), ("p3", &["a", "b"])]));
        assert_eq!((owned(&wanted, "a"), owned(&wanted, "b")), (2, 1));
    }

    #[test]
    fn the_pipelines_of_a_worker_that_died_go_to_all_that_are_left() {
        let line: &[&str] = &["b", "c"];
        let wanted = spread(&lines(&[("p1", line), ("p2", line), ("p3", line), ("p4", line)]));
        assert_eq!((owned(&wanted, "b"), owned(&wanted, "c")), (2, 2));
    }

    #[test]
    fn a_worker_gets_nothing_that_it_was_not_given() {
        let wanted = spread(&lines(&[("p1", &["a"]), ("p2", &["a"]), ("p3", &["a", "b"])]));
        assert_eq!(wanted.get("p3").map(String::as_str), Some("b"));
        assert_eq!(owned(&wanted, "a"), 2);
    }

    proptest! {
        #[test]
        fn where_all_workers_have_all_pipelines_none_has_two_more_than_another(
            holders in proptest::collection::vec(0_usize..5, 1..40),
            workers in 1_usize..6,
        ) {
            let all: Lines = holders.iter().enumerate().map(|(number, first)| {
                let line = (0..workers).map(|at| format!("w{}", (first + at) % workers)).collect();
                (format!("p{number:02}"), line)
            }).collect();
            let wanted = spread(&all);
            let loads: Vec<usize> = (0..workers).map(|number| owned(&wanted, &format!("w{number}"))).collect();
            let (least, most) = (loads.iter().min().copied(), loads.iter().max().copied());
            prop_assert!(most <= least.map(|least| least + 1), "{loads:?}");
            // Who looks at the result finds nothing more to do.
            let moved: Lines = all.iter().map(|(pipeline, line)| {
                let mut line = line.clone();
                let owner = wanted.get(pipeline).cloned().unwrap_or_default();
                line.retain(|worker| *worker != owner);
                line.insert(0, owner);
                (pipeline.clone(), line)
            }).collect();
            prop_assert_eq!(spread(&moved), wanted);
        }
    }
}
