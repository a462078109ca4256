//! Reads the answers to `INFO` and `CONFIG GET`: product, version, lineage, evictions,
//! notifications.

use crate::failpoint::planted;
use crate::store::{FailureKind, StoreError};

/// The parts of `INFO` that are asked for.
pub(super) const SECTIONS: [&str; 5] = ["server", "replication", "stats", "persistence", "commandstats"];

/// What matters of [`SECTIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Info {
    /// `Redis 7.0.15`, `Valkey 8.0.1`.
    pub(super) server: String,
    /// Changes with a restart.
    run_id: Option<String>,
    /// Changes with a restart, a failover and a full resynchronization.
    replication_id: Option<String>,
    pub(super) replication_offset: i64,
    /// Keys evicted since the start, or since the statistics were set back.
    pub(super) evicted_keys: Option<u64>,
    resets: Resets,
    /// Calls of commands that empty or exchange databases, since the start: of whichever database.
    pub(super) flushes: u64,
    pub(super) is_replica: bool,
    /// `standalone`, `cluster` or `sentinel`.
    mode: String,
    is_loading: bool,
    version: (u32, u32),
    is_valkey: bool,
}

/// Whether the statistics were ever set back since the server started (`CONFIG RESETSTAT`). That
/// command counts itself, after it has set the counts back, so once it was called its count is 1
/// for ever, and another call does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Resets {
    /// Never.
    None,
    Some,
    /// The server does not count its commands, or not each form of one.
    #[default]
    Unknown,
}

impl Resets {
    fn parse(text: &str) -> Resets {
        let mut is_reported = false;
        for line in text.lines() {
            is_reported |= line.trim_end().eq_ignore_ascii_case("# commandstats");
            let Some((name, counts)) = line.split_once(':') else { continue };
            let was_called = || counts.strip_prefix("calls=").is_none_or(|calls| !calls.starts_with("0,"));
            match name.to_ascii_lowercase().as_str() {
                "cmdstat_config|resetstat" if was_called() => return Resets::Some,
                // All forms of CONFIG in one.
                "cmdstat_config" if was_called() => return Resets::Unknown,
                _ => {}
            }
        }
        if is_reported { Resets::None } else { Resets::Unknown }
    }
}

/// Calls of the commands that take a data set away without an event for its keys.
fn flushes(text: &str) -> u64 {
    let calls = text.lines().filter_map(|line| {
        let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let is_flush = ["flushall", "flushdb", "swapdb"].iter().any(|flush| name.eq_ignore_ascii_case(flush));
        let calls = counts.strip_prefix("calls=")?.split(',').next()?;
        is_flush.then(|| calls.parse::<u64>().ok())?
    });
    calls.fold(0, u64::saturating_add)
}

/// Which data set a server holds and how much of it was evicted, as far as the server reports it.
/// What is not reported proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Evidence {
    /// Names the incarnation of the data set: another name means that Redis was restarted or its data
    /// replaced.
    pub(super) incarnation: Option<String>,
    /// Keys that were evicted in this incarnation.
    pub(super) evicted_keys: Option<u64>,
}

impl Evidence {
    /// Whether it is the data set that it was then, without a restart in between.
    pub(super) fn is_life_of(&self, then: &Evidence) -> bool {
        let is_same = self.incarnation == then.incarnation || planted!("another data set is not noticed");
        self.incarnation.is_some() && is_same
    }

    /// Whether nothing was lost since then: nothing was replaced, and nothing evicted.
    pub(super) fn proves_no_loss_since(&self, then: &Evidence) -> bool {
        let is_same = self.evicted_keys == then.evicted_keys || planted!("evictions are not noticed");
        self.is_life_of(then) && self.evicted_keys.is_some() && is_same
    }
}

impl Info {
    pub(super) fn parse(text: &str) -> Info {
        let reported = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end);
            value.filter(|value| !value.is_empty())
        };
        let field = |name: &str| reported(name).unwrap_or_default();
        // Valkey reports `redis_version:7.2.4` for compatibility, and its own name and version
        // beside it.
        let is_valkey = field("server_name") == "valkey";
        let version = field(if is_valkey { "valkey_version" } else { "redis_version" });
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        Info {
            server: format!("{} {version}", if is_valkey { "Valkey" } else { "Redis" }),
            run_id: reported("run_id").map(str::to_owned),
            replication_id: reported("master_replid").map(str::to_owned),
            replication_offset: field("master_repl_offset").parse().unwrap_or(0),
            evicted_keys: reported("evicted_keys").and_then(|count| count.parse().ok()),
            resets: Resets::parse(text),
            flushes: flushes(text),
            is_replica: field("role") == "slave",
            // Valkey 9.1 calls it `server_mode`.
            mode: reported("redis_mode").or_else(|| reported("server_mode")).unwrap_or_default().to_owned(),
            is_loading: field("loading") == "1",
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            is_valkey,
        }
    }

    /// What the answer proves.
    pub(super) fn evidence(&self) -> Evidence {
        let incarnation =
            self.run_id.as_ref().zip(self.replication_id.as_ref()).map(|(run, data)| format!("{run}:{data}"));
        Evidence { incarnation, evicted_keys: self.evicted_keys.filter(|_| self.resets == Resets::None) }
    }

    /// Why a key that was deleted unseen cannot be distinguished from a lost one; `None` where it
    /// can.
    pub(super) fn why_losses_look_like_deletes(&self) -> Option<&'static str> {
        Some(match (&self.run_id, &self.replication_id, self.evicted_keys, self.resets) {
            (Some(_), Some(_), Some(_), Resets::None) => return None,
            (Some(_), Some(_), Some(_), Resets::Some) => {
                "its statistics were set back (CONFIG RESETSTAT), so nothing shows how many keys were evicted until it is restarted"
            }
            (Some(_), Some(_), Some(_), Resets::Unknown) => {
                "INFO commandstats does not tell whether its statistics were set back (CONFIG RESETSTAT)"
            }
            (Some(_), Some(_), None, _) => "INFO does not tell `evicted_keys`",
            (None, _, _, _) | (_, None, _, _) => "INFO does not tell `run_id` and `master_replid`",
        })
    }

    /// `master_replid`; empty where it is not reported.
    pub(super) fn replication_id(&self) -> &str {
        self.replication_id.as_deref().unwrap_or_default()
    }

    /// Refuses what is too old or another kind of server, waits for what is loading.
    pub(super) fn check(&self, place: &str) -> Result<(), StoreError> {
        let other_kind = match self.mode.as_str() {
            "sentinel" => Some("a Sentinel, which holds no keys: give the address of the Redis itself"),
            "cluster" => {
                Some("a node of a Redis Cluster, which holds a part of the keys: a single Redis is needed here")
            }
            _ => None,
        };
        if let Some(kind) = other_kind {
            return Err(StoreError::refused(FailureKind::Unsupported, format!("{place} is {kind}")));
        }
        let oldest = if self.is_valkey { (7, 2) } else { (7, 0) };
        if self.version < oldest {
            let needed = if self.is_valkey { "Valkey 7.2" } else { "Redis 7.0" };
            return Err(StoreError::refused(
                FailureKind::Unsupported,
                format!("{place} is {}, and {needed} or later is needed", self.server),
            ));
        }
        if self.is_replica {
            return Err(StoreError::away(
                FailureKind::Unready,
                format!("{place} is a replica; waiting for it to be the master"),
            ));
        }
        if self.is_loading {
            return Err(StoreError::away(FailureKind::Unready, format!("{place} is loading its data")));
        }
        Ok(())
    }
}

/// The flags that the source needs: keyspace channel, and generic, string, expired and evicted
/// events.
const FLAGS_NEEDED: &str = "Kg$xe";

/// The classes that are missing, with spaces between: `$ x e`. Empty if none is.
pub(super) fn missing(flags: &str) -> String {
    let is_missing = |flag: &char| !(flags.contains(*flag) || (*flag != 'K' && flags.contains('A')));
    let missing: Vec<String> = FLAGS_NEEDED.chars().filter(is_missing).map(String::from).collect();
    missing.join(" ")
}

/// One sentence on flags that are not enough.
pub(super) fn shortcoming(flags: &str) -> String {
    match flags {
        "" => "notifications are off".to_owned(),
        flags => format!("notifications are incomplete: missing {} (there are `{flags}`)", missing(flags)),
    }
}

/// Whether these flags announce everything the source needs. `A` stands for all classes.
pub(super) fn notifies(flags: &str) -> bool {
    missing(flags).is_empty()
}

/// The command that turns them on, keeping what is there. Quoted, since a shell would replace
/// `$xe`.
pub(super) fn turn_on(flags: &str) -> String {
    format!("CONFIG SET notify-keyspace-events '{flags}{}'", missing(flags).replace(' ', ""))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn flags_are_compared_as_sets() {
        assert!(notifies("AKE"));
        assert!(notifies("g$xeK"));
        assert!(!notifies("AE"));
        assert!(!notifies(""));
        assert!(notifies("KEA"));
        assert_eq!(turn_on(""), "CONFIG SET notify-keyspace-events 'Kg$xe'");
        assert_eq!(turn_on("AE"), "CONFIG SET notify-keyspace-events 'AEK'");
        // What a shell makes of an unquoted Kg$xe.
        assert_eq!(turn_on("gK"), "CONFIG SET notify-keyspace-events 'gK$xe'");
        assert_eq!(shortcoming("gK"), "notifications are incomplete: missing $ x e (there are `gK`)");
        assert_eq!(shortcoming(""), "notifications are off");
    }

    #[test]
    fn valkey_is_recognized_by_its_own_name_and_version() {
        let info = Info::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\nrole:master\r\n");
        assert_eq!(info.server, "Valkey 8.0.1");
        assert!(info.check("x").is_ok());
        assert!(Info::parse("redis_version:6.2.6\r\n").check("x").is_err());
        for mode in ["redis_mode:cluster", "redis_mode:sentinel", "server_mode:cluster", "server_mode:sentinel"] {
            let info = Info::parse(&format!("redis_version:7.2.4\r\n{mode}\r\nrole:master\r\n"));
            assert!(matches!(info.check("x"), Err(StoreError::Refused(_))), "{mode}");
        }
    }

    /// The answer of a server that holds this data set and has evicted three keys of it.
    pub(crate) const INTACT: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:a1\r\n# Replication\r\nrole:master\r\nmaster_replid:b2\r\n\
        # Stats\r\nevicted_keys:3\r\n# Commandstats\r\ncmdstat_config|get:calls=1,usec=4,usec_per_call=4.00,rejected_calls=0,failed_calls=0\r\n";

    fn evidence(text: &str) -> Evidence {
        Info::parse(text).evidence()
    }

    #[test]
    fn what_is_missing_proves_nothing() {
        let then = evidence(INTACT);
        assert!(then.proves_no_loss_since(&then));
        for missing in ["run_id:a1", "master_replid:b2", "evicted_keys:3", "# Commandstats"] {
            let now = Info::parse(&INTACT.replace(missing, ""));
            assert!(!now.evidence().proves_no_loss_since(&now.evidence()), "{missing}");
            assert!(now.why_losses_look_like_deletes().is_some(), "{missing}");
        }
        let restarted = evidence(&INTACT.replace("run_id:a1", "run_id:a2"));
        assert!(!restarted.is_life_of(&then));
        assert!(!evidence("").is_life_of(&evidence("")));
    }

    #[test]
    fn statistics_that_were_set_back_prove_nothing() {
        let reset = |counts: &str| evidence(&format!("{INTACT}cmdstat_config|resetstat:{counts}\r\n"));
        let then = evidence(INTACT);
        assert!(
            !reset("calls=1,usec=35,usec_per_call=35.00,rejected_calls=0,failed_calls=0").proves_no_loss_since(&then)
        );
        // Not permitted, so not done.
        assert!(reset("calls=0,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0").proves_no_loss_since(&then));
        // A product that does not count the forms of a command one by one.
        assert!(!evidence(&format!("{INTACT}cmdstat_config:calls=9,usec=1\r\n")).proves_no_loss_since(&then));
        let reset = Info::parse(&format!("{INTACT}cmdstat_config|resetstat:calls=1,usec=1\r\n"));
        assert!(reset.evidence().is_life_of(&then));
        assert!(reset.why_losses_look_like_deletes().is_some_and(|why| why.contains("RESETSTAT")));
    }
}
