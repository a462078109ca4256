//! What `validate --connect` finds out about a Redis.

use super::Shared;
use super::calls::{bytes, glob, integer};
use super::info::{notifies, shortcoming, turn_on};
use crate::store::StoreError;
use crate::store::preflight::{Finding, Level, skew};
use redis::Value;

pub(super) async fn look(shared: &Shared) -> Result<Vec<Finding>, StoreError> {
    let commands = shared.connection().await?;
    let store = &shared.settings.name;
    let info = &commands.heard.info;
    let mut findings = vec![Finding::new(Level::Ok, store, info.server.clone(), "")];
    findings.push(notifications(shared).await);
    findings.push(eviction(shared).await);
    findings.extend(permissions(shared).await);
    if let Ok(Value::Array(time)) = shared.command(&redis::cmd("TIME")).await {
        let mut time = time.into_iter();
        let server_ms = integer(time.next()) * 1000 + integer(time.next()) / 1000;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        findings.push(skew(store, server_ms - i64::try_from(now.as_millis()).unwrap_or(0)));
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
        None => Finding::new(Level::Ok, store, "maxmemory-policy is unknown (CONFIG GET is not allowed)", ""),
    }
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
    let what = if may_ask {
        format!("user `{user}` has the permissions that are needed")
    } else {
        format!("the permissions of user `{user}` could not be asked for (ACL DRYRUN is not allowed)")
    };
    vec![Finding::new(Level::Ok, store, what, "")]
}
