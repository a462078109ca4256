//! What `INFO` and `CONFIG GET` tell: product, version, lineage, evictions, notifications.

use crate::store::StoreError;

/// What matters of `INFO server replication stats`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Info {
    /// `Redis 7.0.15`, `Valkey 8.0.1`.
    pub(super) server: String,
    /// Changes with a restart.
    pub(super) run_id: String,
    /// Changes with a restart, a failover and a full resynchronization.
    pub(super) replication_id: String,
    pub(super) replication_offset: i64,
    pub(super) evicted_keys: u64,
    pub(super) is_replica: bool,
    is_loading: bool,
    version: (u32, u32),
    is_valkey: bool,
}

impl Info {
    pub(super) fn parse(text: &str) -> Info {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim_end)
        };
        // Valkey says `redis_version:7.2.4` for compatibility; its own name and version tell.
        let is_valkey = field("server_name") == "valkey";
        let version = field(if is_valkey { "valkey_version" } else { "redis_version" });
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        Info {
            server: format!("{} {version}", if is_valkey { "Valkey" } else { "Redis" }),
            run_id: field("run_id").to_owned(),
            replication_id: field("master_replid").to_owned(),
            replication_offset: field("master_repl_offset").parse().unwrap_or(0),
            evicted_keys: field("evicted_keys").parse().unwrap_or(0),
            is_replica: field("role") == "slave",
            is_loading: field("loading") == "1",
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            is_valkey,
        }
    }

    /// Refuses what is too old, waits for what is loading.
    pub(super) fn check(&self, place: &str) -> Result<(), StoreError> {
        let oldest = if self.is_valkey { (7, 2) } else { (7, 0) };
        if self.version < oldest {
            let needed = if self.is_valkey { "Valkey 7.2" } else { "Redis 7.0" };
            return Err(StoreError::Refused(format!("{place} is {}, and {needed} or later is needed", self.server)));
        }
        if self.is_replica {
            return Err(StoreError::Away(format!("{place} is a replica; waiting for it to be the master")));
        }
        if self.is_loading {
            return Err(StoreError::Away(format!("{place} is loading its data")));
        }
        Ok(())
    }

    /// Names the life of the data set: another name means that Redis was restarted or its data replaced.
    pub(super) fn lineage(&self) -> String {
        format!("{}:{}", self.run_id, self.replication_id)
    }
}

/// The flags that the source needs: keyspace channel, and generic, string, expired and evicted events.
const FLAGS_NEEDED: &str = "Kg$xe";

/// The classes that are missing, with spaces between: `$ x e`. Empty if none is.
pub(super) fn missing(flags: &str) -> String {
    let is_missing = |flag: &char| !(flags.contains(*flag) || (*flag != 'K' && flags.contains('A')));
    let missing: Vec<String> = FLAGS_NEEDED.chars().filter(is_missing).map(String::from).collect();
    missing.join(" ")
}

/// What is to be said of these flags where they are not enough.
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

/// The command that turns them on, keeping what is there. Quoted, since a shell would replace `$xe`.
pub(super) fn turn_on(flags: &str) -> String {
    format!("CONFIG SET notify-keyspace-events '{flags}{}'", missing(flags).replace(' ', ""))
}

#[cfg(test)]
mod tests {
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
    fn valkey_is_told_by_its_own_version() {
        let info = Info::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\nrole:master\r\n");
        assert_eq!(info.server, "Valkey 8.0.1");
        assert!(info.check("x").is_ok());
        assert!(Info::parse("redis_version:6.2.6\r\n").check("x").is_err());
    }
}
