//! Which server it is, and in what the supported ones differ, as far as the seam `Line` can see it. `scripts/matrix` runs the
//! conformance suite on a server of each kind.

/// The project that the server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    Redis,
    Valkey,
}

/// The name and the number of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub fork: Fork,
    pub number: (u32, u32, u32),
}

impl Default for Version {
    fn default() -> Version {
        Version { fork: Fork::Redis, number: (7, 0, 15) }
    }
}

impl Version {
    /// As a server says it in `INFO`; `None` if it does not.
    pub fn of_info(info: &str) -> Option<Version> {
        let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        let is_valkey = field("server_name") == Some("valkey");
        let (fork, name) = if is_valkey { (Fork::Valkey, "valkey_version") } else { (Fork::Redis, "redis_version") };
        let mut numbers = field(name)?.split('.').map(|number| number.parse().ok());
        Some(Version { fork, number: (numbers.next()??, numbers.next()??, numbers.next()??) })
    }

    fn is_valkey_from(self, number: (u32, u32, u32)) -> bool {
        self.fork == Fork::Valkey && self.number >= number
    }

    /// The lines of `INFO` that name the server. Valkey calls itself the Redis that it can replace, and the mode by another
    /// name.
    pub(super) fn info(self) -> String {
        let (major, minor, patch) = self.number;
        match self.fork {
            Fork::Redis => format!("redis_version:{major}.{minor}.{patch}\r\nredis_mode:standalone\r\n"),
            Fork::Valkey => {
                let mode = if self.is_valkey_from((8, 0, 0)) { "server_mode" } else { "redis_mode" };
                format!(
                    "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:{major}.{minor}.{patch}\r\n{mode}:standalone\r\n"
                )
            }
        }
    }

    /// `PUNSUBSCRIBE` on a connection that has subscribed to nothing is an error. Only the first releases of Valkey 8.0:
    /// <https://github.com/valkey-io/valkey/pull/1265> took it back.
    pub(super) fn refuses_needless_unsubscribe(self) -> bool {
        self.is_valkey_from((8, 0, 0)) && self.number < (8, 0, 2)
    }

    /// A key that is given a past expiry expires: an event `expired`, and it counts as such. It is deleted (`del`)
    /// elsewhere. <https://github.com/valkey-io/valkey/pull/1517>
    pub(super) fn expires_what_is_past(self) -> bool {
        self.is_valkey_from((8, 1, 0))
    }

    /// `SET` with a past expiry sets nothing and removes the key at once. Redis sets a key whose time has come. Measured on
    /// 8.0.1, 8.1.8 and 9.1.2; nobody has looked at 7.2.
    pub(super) fn sets_nothing_that_is_past(self) -> bool {
        self.is_valkey_from((8, 0, 0))
    }
}
