//! What a Redis must be able to do for a pipeline: each command that a worker cannot do without, tried in a form that changes
//! nothing. A command that was renamed away, or that the user may not run, fails now instead of in the middle of a comparison.

use super::calls::answer;
use super::fault::{explain, is_broken, remedy};
use super::{Shared, source};
use crate::store::StoreError;
use crate::store::preflight::shown;
use crate::store::remedy::Remedy;
use redis::{Cmd, RedisError};
use std::collections::BTreeSet;

/// Nothing has this name: no pipeline can be named with a colon.
const NOBODY: &str = "_keepstep::probe";

/// No script has this name.
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

/// One command, in the forms of which one must be allowed.
struct Need {
    name: &'static str,
    forms: Vec<Cmd>,
}

fn command(name: &str, arguments: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

/// `SET … XX` sets nothing where there is no key, and there is none.
fn needs(shared: &Shared) -> Vec<Need> {
    let ours = NOBODY.as_bytes();
    let of_users = shared.settings.prefixes.first().map(|prefix| [prefix.as_slice(), b"keepstep-validate"].concat());
    let plain = |name: &'static str, arguments: &[&[u8]]| Need { name, forms: vec![command(name, arguments)] };
    // The keys of users are read by these alone: a user may be allowed them there and not on our own keys.
    let reads = |name: &'static str| {
        let keys = [Some(ours), of_users.as_deref()];
        Need { name, forms: keys.into_iter().flatten().map(|key| command(name, &[key])).collect() }
    };
    let mut all = vec![
        plain("SCAN", &[b"0", b"COUNT", b"1"]),
        plain("SCRIPT", &[b"LOAD", shared.observe.text.as_bytes()]),
        plain("EVALSHA", &[NO_SCRIPT.as_bytes(), b"0"]),
        plain("TIME", &[]),
        plain("HMGET", &[ours, b"f"]),
    ];
    all.extend(["GET", "STRLEN", "TYPE", "PEXPIRETIME"].map(reads));
    if shared.settings.sidecars {
        all.extend([
            plain("HKEYS", &[ours]),
            plain("SMEMBERS", &[ours]),
            plain("HDEL", &[ours, b"f"]),
            plain("DEL", &[ours]),
            plain("SET", &[ours, b"", b"XX"]),
        ]);
    }
    all
}

/// What this answer says against the command: it is unknown to the server, or the user may not run it. Whatever else the server
/// answers, it knows the command.
fn objection(error: &RedisError) -> Option<&'static str> {
    match remedy(error) {
        Remedy::Quarantine("no_permission") => Some("the user may not run it"),
        Remedy::Quarantine("refused") | Remedy::Halt => Some("the server does not know it"),
        _ => None,
    }
}

/// The commands that are missing, with the reason; the channels that may not be subscribed to are among them.
pub(super) async fn missing(shared: &Shared) -> Result<Vec<String>, StoreError> {
    let commands = shared.connection().await?;
    let mut connection = commands.connection.clone();
    let mut missing = Vec::new();
    for need in needs(shared) {
        let mut against = None;
        for form in &need.forms {
            against = match answer(connection.send_packed_command(form).await) {
                Err(error) if is_broken(&error) => return Err(shared.failed(&commands, &error)),
                Err(error) => objection(&error).map(|why| format!("{} ({why}: {error})", need.name)),
                Ok(_) => None,
            };
            if against.is_none() {
                break;
            }
        }
        missing.extend(against);
    }
    missing.extend(unheard(shared).await?);
    Ok(missing)
}

/// The channels that may not be subscribed to. On a connection of its own: what it subscribes ends with it.
async fn unheard(shared: &Shared) -> Result<Vec<String>, StoreError> {
    let server = &shared.settings.server;
    let opened = server.open(Some(Box::new(|_| {}))).await;
    let mut connection = opened.map_err(|error| explain(&shared.settings, &error))?;
    let mut refused = BTreeSet::new();
    for prefix in &shared.settings.prefixes {
        let pattern = source::pattern(server.access.database, prefix);
        match connection.psubscribe(&pattern).await {
            Err(error) if is_broken(&error) => return Err(explain(&shared.settings, &error)),
            Err(error) if objection(&error).is_some() => {
                refused.insert(format!("PSUBSCRIBE {} ({error})", String::from_utf8_lossy(&pattern)));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(refused.into_iter().collect())
}

/// See [`crate::store::Keyspace::check`].
pub(super) async fn check(shared: &Shared) -> Result<(), StoreError> {
    let missing = missing(shared).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!("{}: {}", shared.place(), sentence(shared, &missing))))
}

/// Commands that a sentence names; the others are counted.
const NAMED: usize = 2;

/// What is missing, and what to do.
pub(super) fn sentence(shared: &Shared, missing: &[String]) -> String {
    let named: Vec<String> = missing.iter().take(NAMED).map(|one| shown(one)).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "Keepstep cannot work for user `{}` without {}{more}; see the ACL in docs/operations.md, and rename none of these commands",
        shared.settings.user(),
        named.join(", ")
    )
}
