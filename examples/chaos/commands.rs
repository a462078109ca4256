//! Commands that rewrite values, as an operator runs them: each must end, and with a code that the manual names.

use crate::support::Keepstep;
use crate::world::Shared;
use fastrand::Rng;
use std::time::Duration;

/// A store that is away is waited for no longer than this (`--timeout`), and nothing here is large.
const TIMEOUT: &str = "5s";
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Runs one of them at this place: by its worker if that runs, else on what lies in its data folder.
pub async fn run(shared: &Shared, place: &Keepstep, rng: &mut Rng) {
    let begun = shared.now();
    let common = ["--yes", "--timeout", TIMEOUT];
    let restored;
    let (verb, flags): (&str, Vec<&str>) = match rng.u32(..6) {
        0 | 1 => ("replay", vec!["--to", "cache"]),
        2 => ("replay", vec!["--to", "zk"]),
        3 => ("repair", vec!["--prefer", "zk"]),
        4 => ("repair", vec!["--prefer", "cache"]),
        _ => {
            let listed = place.command("conflicts", &["--format", "json", "--limit", "50"]).await;
            let rows = if listed.code == Some(0) { listed.objects() } else { Vec::new() };
            let Some(row) = rng.choice(&rows) else { return };
            restored = row["position"].to_string();
            ("conflicts restore", vec![restored.as_str()])
        }
    };
    let mut all = flags;
    all.extend(if verb == "conflicts restore" { &common[..1] } else { &common[..] });
    let ended = tokio::time::timeout(ENDS_WITHIN, place.command(verb, &all)).await;
    // A store away, a pair that changed meanwhile, a stream in use: each is told and none is a fault.
    match ended {
        Ok(outcome) if matches!(outcome.code, Some(0 | 1 | 75)) => {}
        Ok(outcome) => shared.complain(format!("`{verb} {all:?}` ended with {outcome:?}")),
        Err(_) => shared.complain(format!("`{verb} {all:?}` did not end within {ENDS_WITHIN:?}")),
    }
    let ended = shared.now();
    shared.history().commands.push((begun, ended));
}

/// Runs one of them beside the workers, in a data folder of its own: what it replaces is on a stream there, unless that is in Kafka.
pub async fn run_beside(shared: &Shared, place: &Keepstep, rng: &mut Rng) {
    run(shared, place, rng).await;
    let kept = place.command("conflicts", &["--format", "json"]).await;
    if kept.code == Some(0) {
        shared.history().conflicts.extend(kept.objects());
    }
}
