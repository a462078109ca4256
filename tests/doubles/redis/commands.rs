//! What stands before each command (is it known, may the user, does the server take it now), and the commands on the server itself.

use super::acl::User;
use super::data::{Bytes, Keys};
use super::glob::matches;
use super::reply::{Push, Reply};
use super::scripts;
use super::server::{DATABASES, Kindness, Role, Server};
use sha1::{Digest as _, Sha1};

pub(super) type Answer = Result<Reply, String>;

/// Who gives a command, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) connection: usize,
    pub(super) user: usize,
    pub(super) database: usize,
    /// It is a call of a script.
    pub(super) script: Option<Flags>,
}

/// What the first line of a script says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags {
    /// It has such a line. Without one, each command of the script is looked at by itself.
    pub(super) is_said: bool,
    pub(super) writes: bool,
    pub(super) allows_oom: bool,
}

/// Which words of a command are keys.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    Nowhere,
    First,
    Two,
    All,
    EveryOther,
    Counted,
}

struct Rule {
    /// Words, the name included, at least.
    least: usize,
    keys: Where,
    writes: bool,
    needs_memory: bool,
    /// It is answered while data is loaded, or while a script runs.
    is_always: bool,
}

fn rule(name: &str) -> Option<Rule> {
    use Where::{All, Counted, EveryOther, First, Nowhere, Two};
    let (least, keys, writes, needs_memory) = match name {
        "get" | "strlen" | "type" | "pexpiretime" | "pttl" | "hkeys" | "hgetall" | "smembers" => {
            (2, First, false, false)
        }
        "hmget" => (3, First, false, false),
        "exists" => (2, All, false, false),
        "set" | "append" | "sadd" | "rpush" => (3, First, true, true),
        "incr" => (2, First, true, true),
        "hset" => (4, First, true, true),
        "mset" => (3, EveryOther, true, true),
        "del" | "unlink" => (2, All, true, false),
        "hdel" | "srem" | "expire" | "pexpire" | "pexpireat" => (3, First, true, false),
        "persist" => (2, First, true, false),
        "rename" => (3, Two, true, false),
        "flushdb" | "flushall" => (1, Nowhere, true, false),
        "swapdb" => (3, Nowhere, true, false),
        "evalsha" => (3, Counted, false, false),
        "ping" | "time" | "dbsize" | "info" => (1, Nowhere, false, false),
        "scan" | "config" | "client" | "script" | "acl" | "psubscribe" | "punsubscribe" => (2, Nowhere, false, false),
        "publish" | "replicaof" | "debug" => (3, Nowhere, false, false),
        _ => return None,
    };
    let is_always = matches!(name, "info" | "config" | "client" | "psubscribe" | "punsubscribe" | "acl");
    Some(Rule { least, keys, writes, needs_memory, is_always })
}

pub(super) fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

pub(super) fn number(word: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(word).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "ERR value is not an integer or out of range".to_owned())
}

impl Server {
    pub(super) fn run(&mut self, at: At, words: &[Bytes]) -> Answer {
        let name = words.first().map(|word| lower(word)).unwrap_or_default();
        let Some(rule) = rule(&name) else {
            return Err(if at.script.is_some() {
                "ERR Unknown Redis command called from script".to_owned()
            } else {
                format!("ERR unknown command '{name}', with args beginning with: ")
            });
        };
        if words.len() < rule.least {
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
        self.permitted(at, &name, words, rule.keys)?;
        self.accepted(at, &rule)?;
        let arguments = &words[1..];
        match name.as_str() {
            "ping" => Ok(Reply::Status("PONG")),
            "time" => {
                let (seconds, millis) = (self.now_ms / 1000, self.now_ms % 1000);
                Ok(Reply::Array(vec![Reply::text(seconds.to_string()), Reply::text((millis * 1000).to_string())]))
            }
            "dbsize" => Ok(Reply::Int(self.databases[at.database].len() as i64)),
            "info" => Ok(Reply::Verbatim(self.info())),
            "scan" => self.scan(at.database, arguments),
            "config" => self.config(arguments),
            "client" => self.client(at, arguments),
            "script" => self.script(arguments),
            "acl" => self.set_user(arguments),
            "debug" => Ok(Reply::Status("OK")),
            "psubscribe" => Ok(self.subscribe(at.connection, &arguments[0])),
            "punsubscribe" if self.version.refuses_needless_unsubscribe() && !self.subscribes(at.connection) => {
                Err("NOSUB 'punsubscribe' command executed not in subscribed mode".to_owned())
            }
            "punsubscribe" => Ok(self.unsubscribe(at.connection, &arguments[0])),
            "publish" => Ok(Reply::Int(self.publish(&arguments[0], &arguments[1]))),
            "evalsha" => self.evaluate(at, arguments),
            "flushdb" | "flushall" => {
                let all = if name == "flushall" { 0..DATABASES } else { at.database..at.database + 1 };
                for database in all {
                    let held = std::mem::take(&mut self.databases[database]);
                    if self.kindness == Some(Kindness::TellsOfFlush) {
                        held.iter().for_each(|(key, _)| self.notify('g', "del", key, database));
                    }
                }
                self.flushed();
                Ok(Reply::Status("OK"))
            }
            "swapdb" => {
                let (one, other) = (number(&arguments[0])? as usize, number(&arguments[1])? as usize);
                if one >= DATABASES || other >= DATABASES {
                    return Err("ERR DB index is out of range".to_owned());
                }
                self.databases.swap(one, other);
                if self.kindness == Some(Kindness::TellsOfSwap) {
                    self.flushed();
                }
                Ok(Reply::Status("OK"))
            }
            "replicaof" => {
                let is_primary = lower(&arguments[0]) == "no";
                self.set_role(if is_primary { Role::Primary } else { Role::Replica });
                Ok(Reply::Status("OK"))
            }
            _ => self.keyed(at.database, &name, arguments),
        }
    }

    /// `redis.acl_check_cmd`: `None` where the command is not known, else whether the user may run it.
    pub(super) fn may_run(&self, at: At, words: &[Bytes]) -> Option<bool> {
        let name = lower(words.first()?);
        let rule = rule(&name)?;
        Some(self.permitted(at, &name, words, rule.keys).is_ok())
    }

    /// Whether the user may.
    fn permitted(&self, at: At, name: &str, words: &[Bytes], keys: Where) -> Result<(), String> {
        let user = &self.users[at.user];
        let in_script = at.script.is_some();
        let full = match name {
            "config" | "client" | "script" | "acl" if words.len() > 1 => format!("{name}|{}", lower(&words[1])),
            _ => name.to_owned(),
        };
        let refused = |in_scripts: &str, elsewhere: String| {
            Err(if in_script { format!("ERR The user executing the script {in_scripts}") } else { elsewhere })
        };
        if !user.may_run(&full) {
            let elsewhere = format!("NOPERM this user has no permissions to run the '{full}' command");
            return refused("can't run this command or subcommand", elsewhere);
        }
        if !keys_of(keys, words).all(|key| user.may_touch(key)) {
            let elsewhere =
                "NOPERM this user has no permissions to access one of the keys used as arguments".to_owned();
            return refused("can't access at least one of the keys mentioned in the command arguments", elsewhere);
        }
        let is_heard = match name {
            "publish" => user.may_hear(&words[1], false),
            "psubscribe" => user.may_hear(&words[1], true),
            _ => true,
        };
        if !is_heard {
            let elsewhere = "NOPERM this user has no permissions to access one of the channels used as arguments";
            return refused("can't publish to the channel mentioned in the command", elsewhere.to_owned());
        }
        Ok(())
    }

    /// Whether the server takes such a command now.
    fn accepted(&self, at: At, rule: &Rule) -> Result<(), String> {
        let is_full = self.is_full() && self.kindness != Some(Kindness::WritesWhenFull);
        if let Some(flags) = at.script {
            return if rule.needs_memory && is_full && !flags.is_said {
                Err("OOM command not allowed when used memory > 'maxmemory'.".to_owned())
            } else {
                Ok(())
            };
        }
        if rule.needs_memory && is_full {
            return Err("OOM command not allowed when used memory > 'maxmemory'.".to_owned());
        }
        if rule.writes {
            self.takes_writes()?;
        }
        if self.is_loading && !rule.is_always {
            return Err("LOADING Redis is loading the dataset in memory".to_owned());
        }
        if self.is_busy && !rule.is_always {
            return Err(
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.".to_owned()
            );
        }
        Ok(())
    }

    fn takes_writes(&self) -> Result<(), String> {
        if self.is_unsaved {
            return Err(
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk."
                    .to_owned(),
            );
        }
        if self.setting("min-replicas-to-write") != "0" && self.role == Role::Primary {
            return Err("NOREPLICAS Not enough good replicas to write.".to_owned());
        }
        if self.role == Role::Replica {
            return Err("READONLY You can't write against a read only replica.".to_owned());
        }
        Ok(())
    }

    fn evaluate(&mut self, at: At, arguments: &[Bytes]) -> Answer {
        let sha = lower(&arguments[0]);
        let is_loaded = self.scripts.contains(&sha) || self.kindness == Some(Kindness::KnowsEveryScript);
        let found = scripts::ALL.iter().find(|script| script.sha == sha).filter(|_| is_loaded);
        let Some(script) = found else { return Err("NOSCRIPT No matching script. Please use EVAL.".to_owned()) };
        let count = number(&arguments[1])? as usize;
        let (keys, rest) =
            arguments[2..].split_at_checked(count).ok_or("ERR Number of keys can't be greater than number of args")?;
        if script.flags.is_said {
            let is_full = self.is_full() && self.kindness != Some(Kindness::WritesWhenFull);
            if is_full && !script.flags.allows_oom {
                return Err(
                    "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'"
                        .to_owned(),
                );
            }
            if script.flags.writes {
                self.takes_writes()?;
            }
        }
        (script.run)(self, At { script: Some(script.flags), ..at }, keys, rest)
    }

    fn info(&self) -> String {
        let role = if self.role == Role::Primary { "master" } else { "slave" };
        let mut text = format!(
            "# Server\r\n{}run_id:{}\r\n\r\n# Persistence\r\nloading:{}\r\n\r\n\
             # Stats\r\nexpired_keys:{}\r\nevicted_keys:{}\r\n\r\n# Replication\r\nrole:{role}\r\nmaster_replid:{}\r\n\
             master_replid2:{}\r\nmaster_repl_offset:{}\r\n\r\n# Commandstats\r\n",
            self.version.info(),
            self.run_id(),
            u8::from(self.is_loading),
            self.expired,
            self.evicted,
            self.replication_id(),
            self.former_replication_id(),
            self.offset,
        );
        if self.is_reset {
            text += "cmdstat_config|resetstat:calls=1,usec=35,usec_per_call=35.00,rejected_calls=0,failed_calls=0\r\n";
        }
        text
    }

    fn config(&mut self, arguments: &[Bytes]) -> Answer {
        match lower(&arguments[0]).as_str() {
            "get" => {
                let wanted = |name: &str| arguments[1..].iter().any(|pattern| matches(pattern, name.as_bytes()));
                let found = self.settings.iter().filter(|(name, _)| wanted(name));
                let pair = |(name, value): &(String, String)| (Reply::text(name.as_str()), Reply::text(value.as_str()));
                Ok(Reply::Map(found.map(pair).collect()))
            }
            "set" => {
                for pair in arguments[1..].chunks(2) {
                    let [name, value] = pair else { return Err("ERR wrong number of arguments".to_owned()) };
                    let (name, value) = (lower(name), String::from_utf8_lossy(value).into_owned());
                    let value = if name == "notify-keyspace-events" { flags(&value) } else { value };
                    match self.settings.iter_mut().find(|(own, _)| *own == name) {
                        Some((_, own)) => *own = value,
                        None => {
                            return Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"));
                        }
                    }
                }
                Ok(Reply::Status("OK"))
            }
            "resetstat" => {
                (self.expired, self.evicted, self.is_reset) = (0, 0, true);
                Ok(Reply::Status("OK"))
            }
            other => Err(format!("ERR unknown subcommand '{other}'. Try CONFIG HELP.")),
        }
    }

    fn client(&mut self, at: At, arguments: &[Bytes]) -> Answer {
        let words: Vec<String> = arguments.iter().map(|word| lower(word)).collect();
        let connection = &mut self.connections[at.connection];
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["tracking", "off"] => connection.tracked = None,
            ["tracking", "on", "bcast", rest @ ..] => {
                if rest.len() % 2 != 0 || rest.chunks(2).any(|pair| pair[0] != "prefix") {
                    return Err("ERR syntax error".to_owned());
                }
                let new: Vec<&Bytes> = arguments[3..].chunks(2).map(|pair| &pair[1]).collect();
                let meet = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
                for (index, prefix) in new.iter().enumerate() {
                    let name = String::from_utf8_lossy(prefix);
                    if connection.tracked.iter().flatten().any(|old| meet(old, prefix)) {
                        return Err(format!("ERR Prefix '{name}' overlaps with an existing prefix"));
                    }
                    if new[index + 1..].iter().any(|other| meet(other, prefix)) {
                        return Err(format!("ERR Prefix '{name}' overlaps with another provided prefix"));
                    }
                }
                let tracked = connection.tracked.get_or_insert_default();
                if new.is_empty() && !tracked.contains(&Vec::new()) {
                    tracked.push(Vec::new());
                }
                tracked.extend(new.into_iter().cloned());
            }
            ["tracking", ..] => return Err("ERR this double tracks by BCAST only".to_owned()),
            _ => return Err(format!("ERR unknown subcommand '{}'. Try CLIENT HELP.", words[0])),
        }
        Ok(Reply::Status("OK"))
    }

    fn script(&mut self, arguments: &[Bytes]) -> Answer {
        match (lower(&arguments[0]).as_str(), &arguments[1..]) {
            ("load", [text]) => {
                let sha: String = Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
                if !self.scripts.contains(&sha) {
                    self.scripts.push(sha.clone());
                }
                Ok(Reply::text(sha))
            }
            ("flush", _) => {
                self.scripts.clear();
                Ok(Reply::Status("OK"))
            }
            (other, _) => Err(format!("ERR unknown subcommand '{other}'. Try SCRIPT HELP.")),
        }
    }

    fn set_user(&mut self, arguments: &[Bytes]) -> Answer {
        let ("setuser", [name, rules @ ..]) = (lower(&arguments[0]).as_str(), &arguments[1..]) else {
            return Err("ERR this double knows ACL SETUSER only".to_owned());
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let at = self.users.iter().position(|user| user.name == name).unwrap_or_else(|| {
            self.users.push(User::new(&name));
            self.users.len() - 1
        });
        for rule in rules {
            let rule = String::from_utf8_lossy(rule);
            if !self.users[at].apply(&rule) {
                return Err(format!("ERR Error in ACL SETUSER modifier '{rule}': Syntax error"));
            }
        }
        Ok(Reply::Status("OK"))
    }

    fn subscribe(&mut self, connection: usize, pattern: &Bytes) -> Reply {
        let patterns = &mut self.connections[connection].patterns;
        if !patterns.contains(pattern) {
            patterns.push(pattern.clone());
        }
        Reply::Confirmed(Push::Subscribed(pattern.clone(), patterns.len() as i64))
    }

    fn unsubscribe(&mut self, connection: usize, pattern: &Bytes) -> Reply {
        let patterns = &mut self.connections[connection].patterns;
        patterns.retain(|own| own != pattern);
        Reply::Confirmed(Push::Unsubscribed(pattern.clone(), patterns.len() as i64))
    }

    /// Goes through the keys in the order of a number that their names give, so that a key which is there throughout comes.
    fn scan(&mut self, database: usize, arguments: &[Bytes]) -> Answer {
        let cursor = number(&arguments[0]).map_err(|_| "ERR invalid cursor")? as u64;
        let (mut pattern, mut count, mut kind) = (None, 10, None);
        for option in arguments[1..].chunks(2) {
            let [name, value] = option else { return Err("ERR syntax error".to_owned()) };
            match lower(name).as_str() {
                "match" => pattern = Some(value),
                "count" => count = number(value)? as usize,
                "type" => kind = Some(lower(value)),
                _ => return Err("ERR syntax error".to_owned()),
            }
        }
        let mut order: Vec<(u64, Bytes)> = in_order(&self.databases[database]);
        let first = order.iter().position(|(place, _)| *place >= cursor).unwrap_or(order.len());
        let again = if self.scan_repeats { first.saturating_sub(1) } else { first };
        let mut end = (first + count).min(order.len());
        // Those that share a place come together.
        while end > 0 && end < order.len() && order[end].0 == order[end - 1].0 {
            end += 1;
        }
        let next = order.get(end).map_or(0, |(place, _)| *place);
        let mut found = Vec::new();
        for (_, key) in order.drain(again..end) {
            if pattern.is_some_and(|pattern| !matches(pattern, &key)) {
                continue;
            }
            let is_wanted = |name: &str| kind.as_deref().is_none_or(|kind| kind == name);
            if self.live(database, &key).is_some_and(|entry| is_wanted(entry.kind.name())) {
                found.push(Reply::Text(key));
            }
        }
        Ok(Reply::Array(vec![Reply::text(next.to_string()), Reply::Array(found)]))
    }
}

/// The keys by a number from their names that is never 0.
fn in_order(keys: &Keys) -> Vec<(u64, Bytes)> {
    let place = |key: &[u8]| {
        let hash = key
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        (hash >> 2) | 1
    };
    let mut order: Vec<(u64, Bytes)> = keys.iter().map(|(key, _)| (place(key), key.clone())).collect();
    order.sort_unstable();
    order
}

/// The flags of notifications as the server writes them.
fn flags(said: &str) -> String {
    const CLASSES: &str = "g$lshzxet";
    let has = |flag: char| said.contains(flag);
    let mut flags = String::new();
    if has('A') || CLASSES.chars().all(has) {
        flags.push('A');
    } else {
        flags.extend(CLASSES.chars().filter(|flag| has(*flag)));
    }
    flags.extend("KEmn".chars().filter(|flag| has(*flag)));
    flags
}

fn keys_of(keys: Where, words: &[Bytes]) -> impl Iterator<Item = &Bytes> {
    let range = match keys {
        Where::Nowhere => 0..0,
        Where::First => 1..2,
        Where::Two => 1..3,
        Where::All | Where::EveryOther => 1..words.len(),
        Where::Counted => {
            let count = words.get(2).and_then(|count| number(count).ok()).unwrap_or(0) as usize;
            3..(3 + count).min(words.len()).max(3)
        }
    };
    let step = if keys == Where::EveryOther { 2 } else { 1 };
    words.get(range).unwrap_or_default().iter().step_by(step)
}
