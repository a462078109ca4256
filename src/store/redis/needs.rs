//! What a Redis must be able to do for a pipeline: each command that a worker cannot do without.
//! One that was renamed away, or that the user may not run, fails now instead of in the middle of a
//! comparison.
//!
//! The server itself is asked (`redis.acl_check_cmd`, in a script that writes nothing): it knows
//! its commands and what the user may do with these keys, and runs nothing. So a command that no
//! harmless form exists of is checked like the others.

use super::database::Database;
use super::fault::{is_broken, remedy};
use super::line::{RedisError, Value, cmd};
use super::notification::pattern;
use super::reply::integer;
use super::script::Script;
use crate::store::preflight::shown;
use crate::store::remedy::Remedy;
use crate::store::{FailureKind, StoreError};
use std::sync::LazyLock;

/// Nothing has this name: no pipeline can be named with a colon.
const NOBODY: &str = "_keepstep::probe";
/// How an ACL names all keys of our own.
const OURS: &str = "~_keepstep:*";
/// No script has this name.
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

/// `ARGV`: for each command the number of its words, and these. Answers for each: `0` allowed, `1`
/// unknown, `2` not allowed. A command is asked for with all that it takes: a server may look for a
/// key where it expects one without looking how many words there are.
const MAY_TEXT: &str = r"#!lua flags=no-writes,allow-oom
local out = {}
local a = 1
while a < #ARGV do
  local last = a + tonumber(ARGV[a])
  local known, may = pcall(redis.acl_check_cmd, unpack(ARGV, a + 1, last))
  out[#out + 1] = known and (may and 0 or 2) or 1
  a = last + 1
end
return out
";

static MAY: LazyLock<Script> = LazyLock::new(|| Script::new(MAY_TEXT));

/// What a server answers of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// It is there, and the user may do this with it.
    Yes,
    /// The server does not know it.
    Unknown,
    /// The user may not run it, or not on this key or channel.
    Forbidden,
    /// The user may run it, and not on this key.
    Elsewhere,
}

/// A command as it will be given.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// One word, or two: `CLIENT TRACKING`.
    pub(super) name: &'static str,
    arguments: Vec<Vec<u8>>,
    /// The rule of an ACL that allows the key or channel.
    rule: String,
}

impl Wanted {
    /// One that touches no key.
    pub(super) fn plain(name: &'static str, arguments: &[&[u8]]) -> Wanted {
        Wanted::new(name, arguments, "")
    }

    fn new(name: &'static str, arguments: &[&[u8]], rule: impl Into<String>) -> Wanted {
        Wanted { name, arguments: arguments.iter().map(|argument| argument.to_vec()).collect(), rule: rule.into() }
    }

    /// Why it cannot be had, and what to do.
    pub(super) fn against(&self, may: May) -> Option<String> {
        let Wanted { name, rule, .. } = self;
        Some(match may {
            May::Yes => return None,
            May::Unknown => format!("{name} (the server does not know it: it was renamed or is not there)"),
            May::Forbidden if rule.starts_with('&') => {
                format!("{name} (the user may not run it, or not there: `{}` is missing)", shown(rule))
            }
            May::Forbidden => format!("{name} (the user may not run it)"),
            May::Elsewhere => format!("{name} (the user may run it, but not there: `{}` is missing)", shown(rule)),
        })
    }
}

/// All that reads the keys of users.
const READS: [&str; 4] = ["GET", "STRLEN", "TYPE", "PEXPIRETIME"];

/// What is done with our own keys, with what stands behind the key.
fn on_our_own(database: &Database) -> Vec<Wanted> {
    let key = NOBODY.as_bytes();
    let mut all = vec![("HMGET", vec![key, b"f"])];
    if database.settings.sidecars {
        all.extend([
            ("GET", vec![key]),
            ("PEXPIRETIME", vec![key]),
            ("HKEYS", vec![key]),
            ("SMEMBERS", vec![key]),
            ("SADD", vec![key, b"m"]),
            ("HSET", vec![key, b"f", b"v"]),
            ("HDEL", vec![key, b"f"]),
            ("SET", vec![key, b"v"]),
            ("DEL", vec![key]),
        ]);
    }
    all.into_iter().map(|(name, arguments)| Wanted::new(name, &arguments, OURS)).collect()
}

/// What no worker can do without, wherever it may be done: what is forbidden on a user's key
/// concerns the pair of that key.
fn needs(database: &Database) -> Vec<Wanted> {
    let number = database.target.access.database;
    let mut all = vec![Wanted::plain("SCAN", &[b"0"]), Wanted::plain("TIME", &[]), Wanted::plain("INFO", &[])];
    all.extend(on_our_own(database));
    for prefix in &database.settings.prefixes {
        let pattern = pattern(number, prefix);
        let rule = format!("&{}", String::from_utf8_lossy(&pattern));
        all.push(Wanted::new("PSUBSCRIBE", &[&pattern], rule));
    }
    all
}

/// What is done with the keys and channels of users. Where it is forbidden, the pairs of these keys
/// are quarantined, and nothing is published.
pub(super) fn on_users(database: &Database) -> Vec<Wanted> {
    let mut all = Vec::new();
    for prefix in &database.settings.prefixes {
        let key = probe(prefix);
        let rule = format!("~{}*", String::from_utf8_lossy(prefix));
        all.extend(READS.map(|name| Wanted::new(name, &[&key], &rule)));
        if database.settings.sidecars {
            all.extend([Wanted::new("SET", &[&key, b"v"], &rule), Wanted::new("DEL", &[&key], &rule)]);
        }
    }
    let publish = |channel: &String| Wanted::new("PUBLISH", &[channel.as_bytes(), b"m"], format!("&{channel}"));
    all.extend(database.settings.channels.iter().map(publish));
    all
}

/// Asks of each of these whether it can be had.
pub(super) async fn ask(database: &Database, wanted: &[Wanted]) -> Result<Vec<May>, StoreError> {
    let mut all = ask_once(database, wanted).await?;
    // Whether it is the command or the key that is not allowed shows with another key.
    let of_user = database.settings.prefixes.first().map(|prefix| probe(prefix)).unwrap_or_default();
    let elsewhere = |wanted: &Wanted| {
        let key = if wanted.rule == OURS { of_user.clone() } else { NOBODY.as_bytes().to_vec() };
        Wanted {
            arguments: std::iter::once(key).chain(wanted.arguments.iter().skip(1).cloned()).collect(),
            ..wanted.clone()
        }
    };
    let denied = |(may, wanted): &(&mut May, &Wanted)| **may == May::Forbidden && wanted.rule.starts_with('~');
    let (denied, again): (Vec<_>, Vec<_>) =
        all.iter_mut().zip(wanted).filter(denied).map(|(may, wanted)| (may, elsewhere(wanted))).unzip();
    for (may, there) in denied.into_iter().zip(ask_once(database, &again).await?) {
        if there == May::Yes {
            *may = May::Elsewhere;
        }
    }
    Ok(all)
}

async fn ask_once(database: &Database, wanted: &[Wanted]) -> Result<Vec<May>, StoreError> {
    let mut command = MAY.command(0);
    for Wanted { name, arguments, .. } in wanted {
        let words: Vec<&str> = name.split(' ').collect();
        command.arg(words.len() + arguments.len()).arg(words).arg(arguments);
    }
    let answer = database.script(&MAY, &command).await?.map_err(|error| database.explain(&error))?;
    let codes: Vec<i64> = match answer {
        Value::Array(codes) => codes.into_iter().map(|code| integer(Some(code))).collect(),
        _ => Vec::new(),
    };
    if codes.len() != wanted.len() {
        return Err(StoreError::away(
            FailureKind::Protocol,
            format!("{}: a script answered for {} commands", database.place(), codes.len()),
        ));
    }
    let may = |code: i64| match code {
        0 => May::Yes,
        1 => May::Unknown,
        _ => May::Forbidden,
    };
    Ok(codes.into_iter().map(may).collect())
}

/// A key of a user, as far as an ACL goes.
fn probe(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"keepstep-validate"].concat()
}

/// What this answer means for the command: it is unknown to the server, or the user may not run it.
/// Whatever else the server answers, it knows the command.
fn objection(error: &RedisError) -> Option<May> {
    match remedy(error) {
        Remedy::Quarantine("no_permission") => Some(May::Forbidden),
        Remedy::Quarantine("refused") | Remedy::Halt => Some(May::Unknown),
        _ => None,
    }
}

/// The commands that are missing, with the reason; the channels that may not be subscribed to are
/// among them.
pub(super) async fn missing(database: &Database) -> Result<Vec<String>, StoreError> {
    let commands = database.connection().await?;
    let mut missing = Vec::new();
    // Without these two nothing can be asked.
    for name in ["SCRIPT", "EVALSHA"] {
        let mut form = cmd(name);
        form.arg(&if name == "SCRIPT" { ["LOAD", MAY_TEXT] } else { [NO_SCRIPT, "0"] });
        match commands.line.call(&form).await {
            Err(error) if is_broken(&error) => return Err(database.failed(&commands, &error)),
            Err(error) => {
                let against = objection(&error).and_then(|may| Wanted::plain(name, &[]).against(may));
                missing.extend(against);
            }
            Ok(_) => {}
        }
    }
    if !missing.is_empty() {
        return Ok(missing);
    }
    let mut wanted = needs(database);
    let needed = wanted.len();
    wanted.extend(on_users(database));
    let may = ask(database, &wanted).await?;
    let is_had = |name: &str| {
        wanted.iter().zip(&may).any(|(it, may)| it.name == name && matches!(may, May::Yes | May::Elsewhere))
    };
    for (index, (wanted, may)) in wanted.iter().zip(&may).enumerate() {
        // What is forbidden on the keys of some users concerns their pairs; what can be read
        // nowhere, all.
        let is_missing = match may {
            May::Unknown => true,
            May::Forbidden => index < needed || (READS.contains(&wanted.name) && !is_had(wanted.name)),
            May::Elsewhere | May::Yes => index < needed,
        };
        if is_missing {
            missing.extend(wanted.against(*may).filter(|against| !missing.contains(against)));
        }
    }
    Ok(missing)
}

/// See [`crate::store::contract::Connection::check`].
pub(super) async fn check(database: &Database) -> Result<(), StoreError> {
    let missing = missing(database).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::refused(FailureKind::Permission, format!("{}: {}", database.place(), sentence(database, &missing))))
}

/// Commands that a sentence names; the others are counted.
const NAMED: usize = 2;

/// What is missing, and what to do.
pub(super) fn sentence(database: &Database, missing: &[String]) -> String {
    let named: Vec<String> = missing.iter().take(NAMED).map(|one| shown(one)).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "Keepstep cannot work for user `{}` without {}{more}; see the ACL in docs/operations.md, and rename none of these commands",
        database.target.user(),
        named.join(", ")
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::env::disk;
    use crate::store::redis::access::Access;
    use crate::store::redis::client::Client;
    use crate::store::redis::connections::Connections;
    use crate::store::redis::settings::Settings;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    fn database(sidecars: bool) -> Database {
        let access = Access { host: "h".to_owned(), port: 1, database: 0, username: None, password: None };
        let settings = Settings {
            name: "cache".to_owned(),
            pipeline: "p".to_owned(),
            prefixes: vec![b"s:".to_vec()],
            sidecars,
            channels: vec!["changes".to_owned()],
            claim_ttl: Duration::from_secs(30),
            ranges: String::new(),
        };
        Database::new(settings, Arc::new(Connections::new(access, Arc::new(Client))))
    }

    /// Every word that stands behind this.
    fn words_behind(text: &str, mark: &str) -> BTreeSet<String> {
        let word = |rest: &str| rest.chars().take_while(char::is_ascii_uppercase).collect::<String>();
        text.split(mark).skip(1).map(word).filter(|word| !word.is_empty()).collect()
    }

    /// What works without, or is tried by itself.
    const NOT_NEEDED: [&str; 6] = ["EVALSHA", "SCRIPT", "DBSIZE", "CONFIG", "CLIENT", "PUNSUBSCRIBE"];

    #[test]
    fn every_command_that_is_given_anywhere_is_asked_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis");
        let mut given = BTreeSet::new();
        for file in disk::list(&folder).unwrap() {
            let text = disk::read_to_string(&file).unwrap();
            for mark in ["redis.call('", "redis.pcall('", " cmd(\"", "(cmd(\""] {
                given.extend(words_behind(&text, mark));
            }
        }
        assert!(given.contains("SADD") && given.contains("HSET") && given.contains("PUBLISH"), "{given:?}");
        let database = database(true);
        let asked: Vec<&str> = needs(&database).iter().chain(&on_users(&database)).map(|wanted| wanted.name).collect();
        for command in given {
            let is_known = asked.contains(&command.as_str()) || NOT_NEEDED.contains(&command.as_str());
            assert!(is_known, "{command} is given, and no start asks for it");
        }
    }

    #[test]
    fn a_capture_asks_for_nothing_that_writes() {
        let asked: Vec<&str> = needs(&database(false)).iter().map(|wanted| wanted.name).collect();
        for writes in ["SET", "DEL", "HSET", "HDEL", "SADD"] {
            assert!(!asked.contains(&writes), "{writes}");
        }
    }

    #[test]
    fn a_missing_key_pattern_is_distinguished_from_a_forbidden_command() {
        let wanted = Wanted::new("HMGET", &[b"_keepstep:x"], OURS);
        assert_eq!(wanted.against(May::Yes), None);
        assert!(wanted.against(May::Forbidden).is_some_and(|why| why == "HMGET (the user may not run it)"));
        assert!(wanted.against(May::Elsewhere).is_some_and(|why| why.contains("may run it") && why.contains(OURS)));
    }
}
