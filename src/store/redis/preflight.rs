//! What `validate --connect` finds out about a Redis.

use super::calls::{bytes, glob, integer, keys_of};
use super::fault::{is_broken, is_denied};
use super::info::{notifies, shortcoming, turn_on};
use super::{Shared, needs, own};
use crate::env::{self, Instant};
use crate::store::preflight::{Finding, Level, Names, Range, skew};
use crate::store::{StoreError, VALUE_BYTES_MAX};
use redis::Value;

pub(super) async fn look(shared: &Shared, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let commands = shared.connection().await?;
    let store = &shared.settings.name;
    let info = &commands.heard.info;
    let mut findings = vec![Finding::new(Level::Ok, store, info.server.clone(), "")];
    findings.push(notifications(shared).await);
    findings.push(eviction(shared).await);
    findings.extend(answers(shared).await);
    if let Some(why) = info.unproven() {
        let what = format!("{why}; a key that vanishes while no worker is connected counts as lost, not as deleted");
        findings.push(Finding::new(Level::Warning, store, what, ""));
    }
    let missing = needs::missing(shared).await?;
    if missing.is_empty() {
        findings.push(Finding::new(Level::Ok, store, "the commands that are needed are there", ""));
        findings.extend(permissions(shared).await);
        findings.extend(overwritten(shared).await);
        findings.extend(readable(shared, range).await?);
    } else {
        findings.push(Finding::new(Level::Error, store, needs::sentence(shared, &missing), ""));
    }
    if let Ok(Value::Array(time)) = shared.command(&redis::cmd("TIME")).await {
        let mut time = time.into_iter();
        let server_ms = integer(time.next()) * 1000 + integer(time.next()) / 1000;
        findings.push(skew(store, server_ms - env::unix_ms()));
    }
    Ok(findings)
}

async fn setting(shared: &Shared, name: &str) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match shared.command(&command).await.ok()? {
        Value::Map(pairs) => pairs.into_iter().next().map(|(_, value)| text(value)),
        Value::Array(items) => items.into_iter().nth(1).map(text),
        _ => None,
    }
}

fn text(value: Value) -> String {
    String::from_utf8_lossy(&bytes(Some(value))).into_owned()
}

async fn notifications(shared: &Shared) -> Finding {
    let store = &shared.settings.name;
    match setting(shared, "notify-keyspace-events").await {
        Some(flags) if notifies(&flags) => {
            Finding::new(Level::Ok, store, format!("notify-keyspace-events is `{flags}`"), "")
        }
        Some(flags) => {
            let what = format!("{}: tracking alone carries the changes", shortcoming(&flags));
            Finding::new(Level::Warning, store, what, format!("turn them on with: {}", turn_on(&flags)))
        }
        None => {
            let what = "CONFIG GET is not allowed, so notify-keyspace-events is unknown";
            Finding::new(Level::Warning, store, what, "allow +config|get, or make sure it contains 'Kg$xe'")
        }
    }
}

async fn eviction(shared: &Shared) -> Finding {
    let store = &shared.settings.name;
    match setting(shared, "maxmemory-policy").await {
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

/// What the server closes our connection by before it answers the largest value. It is off by default; who may not ask finds it out.
async fn answers(shared: &Shared) -> Option<Finding> {
    let bytes = answer_limit(&setting(shared, "client-output-buffer-limit").await?)?;
    let what = format!(
        "client-output-buffer-limit closes a normal connection with {bytes} bytes to be read: a value of that size is quarantined as \
         too_large, and each look at it costs some connections"
    );
    let help = format!("raise the limit of the class normal above {VALUE_BYTES_MAX}, or turn it off (0)");
    (bytes < VALUE_BYTES_MAX).then(|| Finding::new(Level::Warning, &shared.settings.name, what, help))
}

/// The hard limit of the class `normal`, if it is on: the setting is four words for each class.
fn answer_limit(setting: &str) -> Option<usize> {
    let mut words = setting.split_whitespace();
    words.find(|word| *word == "normal")?;
    words.next()?.parse().ok().filter(|bytes| *bytes > 0)
}

/// Keys of our own that something else has written.
async fn overwritten(shared: &Shared) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !shared.settings.sidecars {
        return findings;
    }
    for (key, kind) in own::all(shared) {
        let mut command = redis::cmd("TYPE");
        command.arg(&key);
        // What may not be asked is found out at the start.
        if let Ok(Value::SimpleString(found)) = shared.command(&command).await
            && found != kind
            && found != "none"
        {
            let what = own::overwritten(&shared.settings, &key);
            findings.push(Finding::new(Level::Error, &shared.settings.name, what, ""));
        }
    }
    findings
}

/// What the scripts need, asked without doing it.
async fn permissions(shared: &Shared) -> Vec<Finding> {
    let store = &shared.settings.name;
    let user = shared.settings.user();
    let mut denied = Vec::new();
    let mut may_ask = true;
    for prefix in &shared.settings.prefixes {
        let probe = [prefix.as_slice(), b"keepstep-validate"].concat();
        let channel =
            [format!("__keyspace@{}__:", shared.settings.server.access.database).as_bytes(), &glob(prefix)].concat();
        let bucket: &[u8] = b"_keepstep:probe";
        let mut needed: Vec<(&str, Vec<&[u8]>)> = vec![
            ("GET", vec![&probe]),
            ("STRLEN", vec![&probe]),
            ("TYPE", vec![&probe]),
            ("PEXPIRETIME", vec![&probe]),
            ("HMGET", vec![bucket, b"f"]),
            ("SCAN", vec![b"0"]),
            ("TIME", vec![]),
            ("INFO", vec![]),
            ("EVALSHA", vec![b"x", b"1", &probe]),
            ("SCRIPT", vec![b"LOAD", b"return 1"]),
            ("PSUBSCRIBE", vec![&channel]),
        ];
        if shared.settings.sidecars {
            needed.extend([
                ("SET", vec![probe.as_slice(), b"v"]),
                ("DEL", vec![probe.as_slice()]),
                ("HSET", vec![bucket, b"f", b"v"]),
                ("HDEL", vec![bucket, b"f"]),
                ("HKEYS", vec![bucket]),
                ("SADD", vec![bucket, b"m"]),
                ("SMEMBERS", vec![bucket]),
            ]);
        }
        needed.extend(shared.settings.channels.iter().map(|channel| ("PUBLISH", vec![channel.as_bytes(), b"m"])));
        for (name, arguments) in needed {
            let mut command = redis::cmd("ACL");
            command.arg("DRYRUN").arg(user).arg(name).arg(&arguments);
            match shared.command(&command).await {
                Ok(Value::Okay) => {}
                Ok(answer) => denied.push(format!("{name} on {}: {}", String::from_utf8_lossy(prefix), text(answer))),
                Err(_) => may_ask = false,
            }
        }
    }
    if !denied.is_empty() {
        let what = format!("user `{user}` lacks permissions: {}", denied.join("; "));
        return vec![Finding::new(Level::Error, store, what, "see the ACL in docs/operations.md")];
    }
    if may_ask {
        let what = format!("user `{user}` has the permissions that are needed");
        vec![Finding::new(Level::Ok, store, what, "")]
    } else {
        let what =
            format!("whether user `{user}` may write is unknown: ACL DRYRUN is not allowed, or not under this name");
        vec![Finding::new(Level::Warning, store, what, "allow +acl|dryrun to have it checked")]
    }
}

/// Keys of one step of the look through the names.
const STEP: usize = 500;

/// Looks which keys of the routes may be read, by the cheapest command that reads one.
async fn readable(shared: &Shared, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let begun = Instant::now();
    let mut names = Names::default();
    for prefix in &shared.settings.prefixes {
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(glob(prefix)).arg("COUNT").arg(1000);
            let Value::Array(mut answer) = shared.command(&scan).await? else { break };
            let mut keys = answer.pop().map(keys_of).unwrap_or_default();
            cursor = u64::try_from(integer(answer.pop())).unwrap_or(0);
            keys.retain(|key| (range.has_key)(key));
            for step in keys.chunks(STEP) {
                look_at(shared, step, &mut names).await?;
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
    let help = format!("let user `{}` read and write it, or exclude it from the route", shared.settings.user());
    Ok(names.findings(&shared.settings.name, "keys", &help))
}

async fn look_at(shared: &Shared, keys: &[Vec<u8>], names: &mut Names) -> Result<(), StoreError> {
    let commands = shared.connection().await?;
    let mut looks = redis::pipe();
    for key in keys {
        looks.cmd("STRLEN").arg(key);
    }
    let answers = commands.connection.clone().send_packed_commands(&looks, 0, keys.len()).await;
    let answers = answers.map_err(|error| shared.failed(&commands, &error))?;
    for (key, answer) in keys.iter().zip(answers) {
        names.looked += 1;
        if let Value::ServerError(error) = answer {
            let error = redis::RedisError::from(error);
            if is_broken(&error) {
                return Err(shared.failed(&commands, &error));
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
    fn the_limit_of_answers_is_that_of_the_class_normal() {
        let rest = "slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(answer_limit(&format!("normal 614400 0 0 {rest}")), Some(614_400));
        assert_eq!(answer_limit(&format!("normal 0 0 0 {rest}")), None);
        assert_eq!(answer_limit(rest), None);
    }
}
