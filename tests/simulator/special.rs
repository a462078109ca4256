//! What some seeds have beside load and faults: deletes in mass that nobody sees, and pairs that cannot be mirrored.

use crate::draws::Draws;
use crate::settings::{Flow, Settings, TOO_LARGE};
use crate::what::{Action, Name, Side, What};
use std::time::Duration;

/// Adds it to a plan.
pub(crate) fn special(draws: Draws, settings: &Settings, begin: Duration, actions: &mut Vec<Action>) {
    bulk(draws.named("bulk"), settings, begin, actions);
    if draws.named("rest").happens(0, 0.08) {
        let at = begin + settings.length.mul_f64(draws.named("rest").part(1));
        actions.push(Action { at, what: What::Rest });
    }
    if draws.named("odd").happens(0, 0.06) {
        odd(draws.named("odd"), settings, begin, actions);
    }
}

/// Times between the beginning and the end, so many a minute on average.
fn times(draws: Draws, rate: f64, begin: Duration, settings: &Settings) -> Vec<(Duration, Draws)> {
    let mut times = Vec::new();
    let mut at = begin;
    for n in 0.. {
        let each = draws.with(n);
        at += Duration::from_secs_f64(-(1.0 - each.part(0)).ln() * 60.0 / rate);
        if at > begin + settings.length {
            break;
        }
        times.push((at, each));
    }
    times
}

/// The side from which a route's changes come, a drawn one where they come from both.
fn source(settings: &Settings, route: usize, draws: Draws) -> Side {
    match settings.routes[route].flow {
        Flow::ToRedis => Side::Zookeeper,
        Flow::ToZookeeper => Side::Redis,
        Flow::Both => draws.one(50, &[Side::Zookeeper, Side::Redis]),
    }
}

/// One route is filled; then, once or more often, many of its pairs are deleted while no worker is there.
fn bulk(draws: Draws, settings: &Settings, begin: Duration, actions: &mut Vec<Action>) {
    if !settings.is_bulk {
        return;
    }
    let route = draws.below(0, settings.routes.len() as u64) as usize;
    let fill = |at, side| Action { at, what: What::Fill { side, route, value: 1_000_000 } };
    actions.push(fill(begin, source(settings, route, draws)));
    for n in 0..1 + draws.below(1, 3) {
        let each = draws.with(n);
        let at = begin + settings.length.mul_f64(0.2 + 0.75 * each.part(0));
        let count = if each.happens(1, 0.5) {
            settings.pairs - each.below(2, settings.pairs as u64 / 4) as usize
        } else {
            each.log_uniform(2, 10.0, settings.pairs as f64) as usize
        };
        let first = each.below(3, (settings.pairs - count) as u64 + 1) as usize;
        let side = source(settings, route, each);
        actions.push(Action { at, what: What::DeleteUnseen { side, route, first, count } });
    }
}

/// Of what cannot be mirrored, most goes away before the end.
fn odd(draws: Draws, settings: &Settings, begin: Duration, actions: &mut Vec<Action>) {
    let pairs = (settings.pairs * settings.routes.len()) as u64;
    for (number, (at, each)) in times(draws.with(1), 8.0, begin, settings).into_iter().enumerate() {
        let pair = each.below(1, pairs) as usize;
        let route = pair / settings.pairs;
        let later = at + each.time(2, Duration::from_millis(50), Duration::from_secs(20));
        let goes_away = each.happens(3, 0.7);
        let value = 3_000_000 + number as u64;
        let side = each.one(4, &[Side::Zookeeper, Side::Redis]);
        let name = each.one(5, &[Name::Long, Name::Deep, Name::Deeper]);
        let (there, away) = match each.below(6, 3) {
            0 => (What::Set { side, pair, value: TOO_LARGE + number as u64 }, What::Set { side, pair, value }),
            1 => (
                What::SetHash { pair, value },
                match each.happens(7, 0.5) {
                    true => What::Delete { side: Side::Redis, pair },
                    false => What::Set { side: Side::Redis, pair, value: value + 1000 },
                },
            ),
            _ => (What::Name { route, name, is_there: true }, What::Name { route, name, is_there: false }),
        };
        actions.push(Action { at, what: there });
        if goes_away && later < begin + settings.length {
            actions.push(Action { at: later, what: away });
        }
    }
}
