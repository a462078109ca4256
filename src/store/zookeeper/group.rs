//! Who should own what: workers share the pipelines that they were given, evenly, and move no more
//! than that needs.
//!
//! ```text
//!   lines of all pipelines --look--> who holds what --spread()--> who should
//! ```
//!
//! No worker decides for others. Each reads the same lines and computes the same answer: an owner
//! that should not be one gives the pipeline up, and a worker that becomes first in line and should
//! not be steps back to its end. A look that is out of date costs a needless move and nothing else,
//! because ownership itself is the place in line and the fence.

use super::fault::explain;
use super::place::Place;
use super::session::{Error, Session};
use crate::env::{Instant, Map};
use crate::store::StoreError;
use crate::worker::Worker;
use futures::stream::{self, StreamExt as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// A look serves all pipelines of a worker that come first in line within this time: far below the
/// time in which a take-over must be done.
pub(super) const FRESH: Duration = Duration::from_millis(200);

/// Lines that are read at the same time: enough to hide the way to the server, few enough not to
/// queue there.
const READS: usize = 16;

/// The name of a worker whose znode has none.
const NAMELESS: &str = "a worker without a name";

/// What all pipelines of a worker know of the others; one for each ensemble.
#[derive(Debug, Default)]
pub(super) struct Group {
    last: tokio::sync::Mutex<LastLook>,
}

/// What the last look found.
#[derive(Debug, Default)]
struct LastLook {
    at: Option<Instant>,
    /// By the path of a place in line: the worker that stands there.
    cards: Map<String, Card>,
    lines: Lines,
    /// By pipeline, the identity of the worker that should own it.
    wanted: BTreeMap<String, String>,
}

/// By pipeline, the identities of the workers in line; the first holds it.
type Lines = BTreeMap<String, Vec<String>>;

/// What a worker writes at its place in line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Card {
    /// `host:pid`.
    pub(super) name: String,
    /// Where that process number means something.
    pub(super) machine: String,
    /// Runs `--once`: it keeps what it holds and is given nothing.
    pub(super) once: bool,
    /// The worker's identity; its name where it is of a version that had none.
    pub(super) identity: String,
    /// Names its routes; empty: an older version of Keepstep, which does not write them.
    pub(super) routes: String,
}

impl Card {
    /// A line each. Versions before read the first three.
    pub(super) fn text(&self) -> String {
        let kind = if self.once { "once" } else { "stays" };
        [&self.name, &self.machine, kind, &self.identity, &self.routes].join("\n")
    }

    pub(super) fn read(text: &str) -> Card {
        let mut lines = text.lines().map(ToOwned::to_owned);
        // A znode that was written by hand, or in no form that we know.
        let name = lines.next().filter(|name| !name.is_empty()).unwrap_or_else(|| NAMELESS.to_owned());
        let (machine, kind) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let identity = lines.next().filter(|identity| !identity.is_empty()).unwrap_or_else(|| name.clone());
        Card { name, machine, once: kind == "once", identity, routes: lines.next().unwrap_or_default() }
    }

    /// Whether the pipeline may go from one to the other to spread the load: with other routes that
    /// would change what it does.
    fn has_routes_of(&self, other: &Card) -> bool {
        self.routes == other.routes || self.routes.is_empty() || other.routes.is_empty()
    }
}

/// The worker that should own a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    identity: String,
    /// For people to read.
    pub(super) name: String,
}

impl Wanted {
    /// Whether it is this worker.
    pub(super) fn is(&self, worker: &Worker) -> bool {
        self.identity == worker.identity
    }
}

/// The worker that should own our pipeline, `None` where that is unknown; by a look that is at most
/// `fresh` old.
pub(super) async fn wanted(
    group: &Group,
    place: &Place,
    session: &dyn Session,
    fresh: Duration,
) -> Result<Option<Wanted>, StoreError> {
    let mut last = group.last.lock().await;
    if last.at.is_none_or(|at| at.elapsed() >= fresh) {
        look(place, session, &mut last).await?;
    }
    let identity = last.wanted.get(&place.pipeline).cloned();
    Ok(identity.and_then(|identity| {
        let card = last.cards.values().find(|card| card.identity == identity)?;
        Some(Wanted { name: card.name.clone(), identity })
    }))
}

async fn look(place: &Place, session: &dyn Session, last: &mut LastLook) -> Result<(), StoreError> {
    let wrong = |error: &Error| explain(place, error);
    let names = session.children("/_keepstep").await.map_err(|error| wrong(&error))?;
    let pipelines: Vec<String> = names.into_iter().filter(|name| !name.starts_with('_')).collect();
    let lines = stream::iter(pipelines).map(|pipeline| async move {
        let line = format!("/_keepstep/{pipeline}/election");
        // Another user's line may be closed to us: then we share nothing with them.
        let mut places = session.children(&line).await.unwrap_or_default();
        places.sort();
        (pipeline, places.into_iter().map(|place| format!("{line}/{place}")).collect::<Vec<_>>())
    });
    let lines: Vec<(String, Vec<String>)> = lines.buffered(READS).collect().await;
    let places: Vec<&String> = lines.iter().flat_map(|(_, places)| places).collect();
    let unknown: Vec<String> = places.into_iter().filter(|place| !last.cards.contains_key(*place)).cloned().collect();
    let read = stream::iter(unknown).map(|place| async move {
        let data = session.data(&place).await.map(|(data, _)| data);
        (place, data)
    });
    for (place, data) in read.buffered(READS).collect::<Vec<_>>().await {
        if let Ok(data) = data {
            last.cards.insert(place, Card::read(&String::from_utf8_lossy(&data)));
        }
    }
    let mut cards = Map::default();
    let mut known = Lines::new();
    for (pipeline, places) in lines {
        let mut line: Vec<Card> = Vec::new();
        for place in places {
            let Some(card) = last.cards.remove(&place) else { continue };
            // Who runs `--once` keeps what it holds and is given nothing.
            if line.first().is_none_or(|holder| !card.once && card.has_routes_of(holder)) {
                line.push(card.clone());
            }
            cards.insert(place, card);
        }
        known.insert(pipeline, line.into_iter().map(|card| card.identity).collect());
    }
    last.cards = cards;
    if known != last.lines {
        last.wanted = spread(&known);
        last.lines = known;
    }
    last.at = Some(Instant::now());
    Ok(())
}

/// Who should own each pipeline: whoever holds it, unless a worker in its line has two fewer. The
/// same for all who see the same lines.
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
    // Each move brings two loads nearer to each other, so this ends; no pipeline is worth more
    // moves than there are.
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
    fn a_card_is_read_as_it_was_written_and_one_of_an_older_version_too() {
        let card = Card {
            name: "host:1".to_owned(),
            machine: "boot pid:[1]".to_owned(),
            once: true,
            identity: "abc".to_owned(),
            routes: "def".to_owned(),
        };
        assert_eq!(Card::read(&card.text()), card);
        let before = Card::read("host:1\nboot pid:[1]\nstays");
        assert_eq!((before.identity.as_str(), before.once), ("host:1", false));
        for nameless in ["", "\nboot pid:[1]\nstays", "\n\n\nabc"] {
            assert_eq!(Card::read(nameless).name, NAMELESS, "{nameless:?}");
        }
        assert!(before.has_routes_of(&card) && card.has_routes_of(&before));
        assert!(!card.has_routes_of(&Card { routes: "other".to_owned(), ..card.clone() }));
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
