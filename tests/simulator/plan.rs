//! What a run does: settings, and a list of actions with their times. A seed becomes a plan first. A plan is text, so that a shortened
//! one is kept as a test: its settings in the first line, and each action in a line of its own.

use crate::draws::Draws;
use crate::settings::{Flow, Settings};
use crate::special::special;
use crate::what::{Action, Kind, Side, What};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub settings: Settings,
    pub actions: Vec<Action>,
}

impl Plan {
    /// What this seed does.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        let draws = Draws::of(seed).named("plan");
        let mut settings = Settings::draw(seed, draws.named("settings"));
        let mut actions = Vec::new();
        let begin = Duration::from_secs(2);
        load(draws.named("load"), &settings, begin, &mut actions);
        let faults = draws.named("faults");
        let calm = seed % 8 == 0;
        let single = (seed % 8 == 1).then(|| faults.one(0, &Kind::ALL));
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            let of = faults.with(number as u64);
            let is_on = match single {
                Some(single) => single == kind,
                None => of.happens(0, kind.odds()),
            };
            if calm || !is_on || !kind.is_possible(&settings) {
                continue;
            }
            let (low, high) = kind.rate();
            let rate = of.log_uniform(1, low, high);
            let mut at = begin;
            for n in 0.. {
                let each = of.with(n + 1);
                at += Duration::from_secs_f64(-(1.0 - each.part(100)).ln() * 60.0 / rate);
                if at > begin + settings.length {
                    break;
                }
                actions.push(Action { at, what: kind.one(each, &settings) });
            }
        }
        if actions.iter().any(|action| action.what.takes_rights()) {
            settings.compare_every(Duration::from_secs(faults.named("reconcile").one(0, &[5, 10, 20])));
        }
        special(draws.named("special"), &settings, begin, &mut actions);
        actions.sort_by_key(|action| action.at);
        Plan { settings, actions }
    }
}

fn load(draws: Draws, settings: &Settings, begin: Duration, actions: &mut Vec<Action>) {
    let rate = draws.log_uniform(0, 1.0, 30.0);
    let one_sided = draws.happens(1, 0.2);
    let deletes = draws.part(2) * 0.3;
    let pairs = (settings.pairs * settings.routes.len()) as u64;
    // A pair that is written again shows nothing of a change that was missed before: in these seeds each has its last one early or late.
    let sparse = draws.named("sparse");
    let is_sparse = sparse.happens(0, 0.4);
    let mut at = begin;
    for n in 0.. {
        let each = draws.with(n + 1);
        at += Duration::from_secs_f64(-(1.0 - each.part(0)).ln() / rate);
        if at > begin + settings.length {
            return;
        }
        let pair = each.below(1, pairs) as usize;
        if is_sparse && at > begin + settings.length.mul_f64(sparse.part(1 + pair as u64)) {
            continue;
        }
        let route = &settings.routes[pair / settings.pairs];
        let side = match route.flow {
            // What is written at a destination is reverted.
            Flow::ToRedis if each.happens(2, 0.9) => Side::Zookeeper,
            Flow::ToZookeeper if each.happens(2, 0.9) => Side::Redis,
            _ if one_sided => [Side::Zookeeper, Side::Redis][pair % 2],
            _ => each.one(3, &[Side::Zookeeper, Side::Redis]),
        };
        let what = if each.happens(4, deletes) {
            What::Delete { side, pair }
        } else if side == Side::Redis && each.happens(5, 0.05) {
            What::Expire { pair, ms: each.log_uniform(6, 50.0, 8000.0) as u64 }
        } else {
            What::Set { side, pair, value: n + 1 }
        };
        actions.push(Action { at, what });
    }
}

impl Display for Plan {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let line = |json: serde_json::Result<String>| json.map_err(|_| fmt::Error);
        writeln!(out, "{}", line(serde_json::to_string(&self.settings))?)?;
        self.actions.iter().try_for_each(|action| writeln!(out, "{}", line(serde_json::to_string(action))?))
    }
}

impl FromStr for Plan {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Plan, serde_json::Error> {
        let mut lines = text.lines();
        let settings = serde_json::from_str(lines.next().unwrap_or_default())?;
        let actions = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Plan { settings, actions })
    }
}
