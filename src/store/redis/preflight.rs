//! What `validate --connect` finds out about a Redis.

use super::database::Database;
use super::fault::{is_broken, is_denied};
use super::info::{notifies, shortcoming, turn_on};
use super::line::{Value, cmd};
use super::reply::{self, glob, integer, keys_of};
use super::{claim, needs, own, state, ties};
use crate::env::{self, Instant};
use crate::store::preflight::{Finding, Level, Names, Range, skew};
use crate::store::{StoreError, VALUE_BYTES_MAX};

pub(super) async fn look(database: &Database, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let commands = database.connection().await?;
    let store = &database.settings.name;
    let info = &commands.server.info;
    let mut findings = vec![Finding::new(Level::Ok, store, info.server.clone(), "")];
    findings.push(eviction(database).await);
    findings.extend(answers(database).await);
    if let Some(why) = info.why_losses_look_like_deletes() {
        let what = format!("{why}; a key that vanishes while no worker is connected counts as lost, not as deleted");
        findings.push(Finding::new(Level::Warning, store, what, ""));
    }
    let missing = needs::missing(database).await?;
    if missing.is_empty() {
        findings.push(Finding::new(Level::Ok, store, "the commands that are needed are there", ""));
        findings.extend(detection(database).await?);
        findings.push(permissions(database).await?);
        findings.extend(overwritten(database).await);
        findings.extend(readable(database, range).await?);
    } else {
        findings.push(Finding::new(Level::Error, store, needs::sentence(database, &missing), ""));
    }
    if let Ok(Value::Array(time)) = database.command(&cmd("TIME")).await {
        let mut time = time.into_iter();
        let server_ms = integer(time.next()) * 1000 + integer(time.next()) / 1000;
        findings.push(skew(store, server_ms - env::unix_ms()));
    }
    Ok(findings)
}

async fn setting(database: &Database, name: &str) -> Option<String> {
    let mut command = cmd("CONFIG");
    command.arg("GET").arg(name);
    reply::setting(database.command(&command).await.ok()?)
}

/// How changes are found: by notifications, by tracking, or by comparisons alone.
async fn detection(database: &Database) -> Result<Vec<Finding>, StoreError> {
    let store = &database.settings.name;
    let tracking = [needs::Wanted::plain("CLIENT TRACKING", &[b"ON", b"BCAST"])];
    let may = needs::ask(database, &tracking).await?;
    let untracked = tracking.iter().zip(may).find_map(|(wanted, may)| wanted.against(may));
    let flags = setting(database, "notify-keyspace-events").await;
    Ok(by_what(store, flags.as_deref(), untracked.as_deref()))
}

/// `untracked`: why nothing is tracked.
fn by_what(store: &str, flags: Option<&str>, untracked: Option<&str>) -> Vec<Finding> {
    let warning = |what: String, help: String| Finding::new(Level::Warning, store, what, help);
    let allow = "allow +client|tracking, under this name";
    let carried = match untracked {
        None => "tracking alone carries the changes".to_owned(),
        Some(why) => format!("only comparisons find changes, since there is no {why}"),
    };
    match flags {
        Some(flags) if notifies(flags) => {
            let mut findings = vec![Finding::new(Level::Ok, store, format!("notify-keyspace-events is `{flags}`"), "")];
            let without = |why: &str| format!("without {why} a FLUSHDB is noticed later");
            findings.extend(untracked.map(|why| warning(without(why), allow.to_owned())));
            findings
        }
        Some(flags) => {
            vec![warning(
                format!("{}: {carried}", shortcoming(flags)),
                format!("turn them on with: {}", turn_on(flags)),
            )]
        }
        None => {
            let what = "CONFIG GET is not allowed, so notify-keyspace-events is unknown";
            let what = untracked.map_or_else(|| what.to_owned(), |_| format!("{what}; where it is off, {carried}"));
            vec![warning(what, "allow +config|get, or make sure it contains 'Kg$xe'".to_owned())]
        }
    }
}

async fn eviction(database: &Database) -> Finding {
    let store = &database.settings.name;
    match setting(database, "maxmemory-policy").await {
        Some(policy) if policy.starts_with("allkeys") => {
            let what = format!("maxmemory-policy is `{policy}`: any key may be evicted, and Keepstep puts it back");
            Finding::new(Level::Warning, store, what, "use noeviction or volatile-* for data that must stay")
        }
        Some(policy) => Finding::new(Level::Ok, store, format!("maxmemory-policy is `{policy}`"), ""),
        None => {
            let what = "CONFIG GET is not allowed, so maxmemory-policy is unknown";
            Finding::new(
                Level::Warning,
                store,
                what,
                "allow +config|get, or make sure that it is noeviction or volatile-*",
            )
        }
    }
}

/// What the server closes our connection by before it answers the largest value. It is off by
/// default; who may not ask finds it out.
async fn answers(database: &Database) -> Option<Finding> {
    let bytes = answer_limit(&setting(database, "client-output-buffer-limit").await?)?;
    let what = format!(
        "client-output-buffer-limit closes a normal connection with {bytes} bytes to be read: a value of that size is quarantined as \
         too_large, and each look at it costs some connections"
    );
    let help = format!("raise the limit of the class normal above {VALUE_BYTES_MAX}, or turn it off (0)");
    (bytes < VALUE_BYTES_MAX).then(|| Finding::new(Level::Warning, &database.settings.name, what, help))
}

/// The hard limit of the class `normal`, if it is on: the setting is four words for each class.
fn answer_limit(setting: &str) -> Option<usize> {
    let mut words = setting.split_whitespace();
    words.find(|word| *word == "normal")?;
    words.next()?.parse().ok().filter(|bytes| *bytes > 0)
}

/// The keys of our own that have one name each, with the type of each as `TYPE` answers it.
fn own_keys(database: &Database) -> [(String, &'static str); 5] {
    [
        (state::key(database), "hash"),
        (claim::CLAIMS.to_owned(), "set"),
        (claim::key(&database.settings.pipeline), "string"),
        (ties::IDENTITY.to_owned(), "string"),
        (ties::key(database), "string"),
    ]
}

/// Keys of our own that something else has written.
async fn overwritten(database: &Database) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !database.settings.sidecars {
        return findings;
    }
    for (key, kind) in own_keys(database) {
        let mut command = cmd("TYPE");
        command.arg(&key);
        // What may not be asked is found out at the start.
        if let Ok(Value::SimpleString(found)) = database.command(&command).await
            && found != kind
            && found != "none"
        {
            let what = own::overwritten(&database.target, &key);
            findings.push(Finding::new(Level::Error, &database.settings.name, what, ""));
        }
    }
    findings
}

/// What is done with the keys and channels of users.
async fn permissions(database: &Database) -> Result<Finding, StoreError> {
    let store = &database.settings.name;
    let user = database.target.user();
    let wanted = needs::on_users(database);
    let may = needs::ask(database, &wanted).await?;
    let denied: Vec<String> = wanted.iter().zip(may).filter_map(|(wanted, may)| wanted.against(may)).collect();
    Ok(if denied.is_empty() {
        Finding::new(Level::Ok, store, format!("user `{user}` has the permissions that are needed"), "")
    } else {
        let what = format!("user `{user}` lacks permissions: {}", denied.join("; "));
        Finding::new(Level::Error, store, what, "see the ACL in docs/operations.md")
    })
}

/// Keys of one step of the look through the names.
const STEP: usize = 500;

/// Looks which keys of the routes may be read, by the cheapest command that reads one.
async fn readable(database: &Database, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let begun = Instant::now();
    let mut names = Names::default();
    for prefix in &database.settings.prefixes {
        let mut cursor = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(glob(prefix)).arg("COUNT").arg(1000);
            let Value::Array(mut answer) = database.command(&scan).await? else { break };
            let mut keys = answer.pop().map(keys_of).unwrap_or_default();
            cursor = u64::try_from(integer(answer.pop())).unwrap_or(0);
            keys.retain(|key| (range.has_key)(key));
            for step in keys.chunks(STEP) {
                look_at(database, step, &mut names).await?;
            }
            if cursor == 0 {
                break;
            }
            if begun.elapsed() >= range.patience {
                names.is_cut = true;
                break;
            }
        }
    }
    let help = format!("let user `{}` read and write it, or exclude it from the route", database.target.user());
    Ok(names.findings(&database.settings.name, "keys", &help))
}

async fn look_at(database: &Database, keys: &[Vec<u8>], names: &mut Names) -> Result<(), StoreError> {
    let commands = database.connection().await?;
    let look = |key: &Vec<u8>| {
        let mut length = cmd("STRLEN");
        length.arg(key);
        length
    };
    let answers = commands.line.pipeline(keys.iter().map(look).collect()).await;
    let answers = answers.map_err(|error| database.failed(&commands, &error))?;
    for (key, answer) in keys.iter().zip(answers) {
        names.looked += 1;
        if let Err(error) = answer {
            if is_broken(&error) {
                return Err(database.failed(&commands, &error));
            }
            // One of another type is read well enough.
            if is_denied(&error) {
                names.deny(&String::from_utf8_lossy(key), &error.to_string());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracking_carries_the_changes_only_where_it_is_there() {
        let said = |flags, untracked| {
            let findings = by_what("cache", flags, untracked);
            findings
                .iter()
                .map(|finding| format!("{:?} {}", finding.level, finding.what))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let missing = Some("CLIENT TRACKING (the server does not know it)");
        assert!(said(Some(""), None).contains("tracking alone carries the changes"));
        let neither = said(Some(""), missing);
        assert!(neither.contains("only comparisons") && !neither.contains("carries the changes"), "{neither}");
        assert!(!said(Some("AKE"), None).contains("Warning"));
        assert!(said(Some("AKE"), missing).contains("Warning without CLIENT TRACKING"));
        assert!(said(None, missing).contains("only comparisons"));
    }

    #[test]
    fn the_limit_of_answers_is_that_of_the_class_normal() {
        let rest = "slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(answer_limit(&format!("normal 614400 0 0 {rest}")), Some(614_400));
        assert_eq!(answer_limit(&format!("normal 0 0 0 {rest}")), None);
        assert_eq!(answer_limit(rest), None);
    }
}
