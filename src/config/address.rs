//! Addresses: a Redis URL, a ZooKeeper connect string, brokers, a schema registry. Errors never
//! quote them, since a URL may hold a password.

/// A Redis URL, parsed and percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub host: String,
    pub port: u16,
    pub database: u32,
    pub username: Option<String>,
    pub password: Option<String>,
}

/// Why a URL is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UrlFault {
    /// The scheme of a later version, such as `rediss://` (TLS).
    Later(&'static str),
    /// The reason, one sentence.
    Bad(&'static str),
}

/// Redis' own port.
const REDIS_PORT: u16 = 6379;

/// Reads `redis://[[user]:password@]host[:port][/database]`.
pub(super) fn redis_url(text: &str) -> Result<RedisUrl, UrlFault> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlFault::Bad("it must begin with `redis://`"))?;
    match scheme {
        "redis" => {}
        "rediss" => return Err(UrlFault::Later("rediss://")),
        "redis+sentinel" => return Err(UrlFault::Later("redis+sentinel://")),
        _ => return Err(UrlFault::Bad("it must begin with `redis://`")),
    }
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    if place.contains(['?', '#']) {
        return Err(UrlFault::Bad("`?` and `#` are not allowed; in a password, write `%3F` and `%23`"));
    }
    let (host, port) = host_and_port(authority).map_err(UrlFault::Bad)?;
    let database = match database {
        "" => 0,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| UrlFault::Bad("the database number is too large"))?
        }
        _ => return Err(UrlFault::Bad("after the host, only `/` and a database number may follow")),
    };
    let (mut username, mut password) = (None, None);
    if let Some(login) = login {
        let (user, secret) = login.split_once(':').map_or((login, None), |(user, secret)| (user, Some(secret)));
        if secret == Some("") || user.is_empty() && secret.is_none() {
            return Err(UrlFault::Bad("it has an `@` without a password before it"));
        }
        let bad = UrlFault::Bad("in a user or a password, two hexadecimal digits must follow `%`");
        let Some(user) = percent_decode(user) else { return Err(bad) };
        let Some(secret) = secret.map(percent_decode).map_or(Some(None), |decoded| decoded.map(Some)) else {
            return Err(bad);
        };
        username = Some(user).filter(|user| !user.is_empty());
        password = secret;
    }
    Ok(RedisUrl { host, port: port.unwrap_or(REDIS_PORT), database, username, password })
}

/// Checks `host:port[,host:port…][/chroot]` and returns it without a `/` at its end.
pub(super) fn connect(text: &str) -> Result<String, &'static str> {
    let (hosts, chroot) = match text.find('/').and_then(|at| text.split_at_checked(at)) {
        Some((hosts, chroot)) => (hosts, chroot.strip_suffix('/').unwrap_or(chroot)),
        None => (text, ""),
    };
    let is_host =
        |part: &str| host_and_port(part.split('/').next().unwrap_or(part)).is_ok_and(|(_, port)| port.is_some());
    if chroot.split(',').skip(1).any(is_host) {
        return Err("the chroot is written once, after the last host, and applies to all of them");
    }
    for host in hosts.split(',') {
        if host_and_port(host)?.1.is_none() {
            return Err("every host needs a port");
        }
    }
    if !chroot.is_empty() && (chroot.contains('*') || crate::route::Pattern::of_znodes(chroot).is_err()) {
        return Err("the chroot is not a valid znode path");
    }
    if chroot.split('/').any(|name| name == "_keepstep") {
        return Err("the chroot is inside `_keepstep`, which is reserved for Keepstep");
    }
    Ok(format!("{hosts}{chroot}"))
}

/// A schema registry's URL, parsed and percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryUrl {
    pub host: String,
    pub port: u16,
    pub prefix: String,
    pub username: Option<String>,
    pub password: Option<String>,
}

/// A schema registry's own port.
const REGISTRY_PORT: u16 = 8081;

/// Reads `http://[user:password@]host[:port][/path]`.
pub(super) fn registry(text: &str) -> Result<RegistryUrl, &'static str> {
    let rest = text.strip_prefix("http://").ok_or("it must begin with `http://`")?;
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    if place.contains(['?', '#']) || place.chars().any(|character| !character.is_ascii_graphic()) {
        return Err("`?`, `#` and spaces are not allowed");
    }
    let (authority, path) = place.split_once('/').map_or((place, ""), |(authority, path)| (authority, path));
    let (host, port) = host_and_port(authority)?;
    let path = path.trim_end_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
    let (mut username, mut password) = (None, None);
    if let Some(login) = login {
        let (user, secret) = login.split_once(':').ok_or("before `@`, give a user, `:` and a password")?;
        let bad = "in a user or a password, two hexadecimal digits must follow `%`";
        username = Some(percent_decode(user).ok_or(bad)?);
        password = Some(percent_decode(secret).ok_or(bad)?);
    }
    Ok(RegistryUrl { host, port: port.unwrap_or(REGISTRY_PORT), prefix, username, password })
}

/// Checks `host[:port][,host[:port]…]`.
pub(super) fn brokers(text: &str) -> Result<(), &'static str> {
    text.split(',').try_for_each(|broker| host_and_port(broker).map(|_| ()))
}

/// `host[:port]` or `[address][:port]`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, behind) = bracketed.split_once(']').ok_or("a `[` has no `]`")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("between `[` and `]`, give an IPv6 address");
            }
            let port = behind.strip_prefix(':');
            if port.is_none() && !behind.is_empty() {
                return Err("after `]`, give `:` and a port");
            }
            (host, port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if host.is_empty() {
                return Err("a host is missing");
            }
            if !host.bytes().all(named) {
                return Err("a host may have letters, digits, `.`, `-` and `_`");
            }
            (host, port)
        }
    };
    let port = match port {
        None => None,
        Some(digits) => {
            let number = digits.parse::<u16>().ok().filter(|port| *port > 0 && !digits.starts_with('+'));
            Some(number.ok_or("a port is a number from 1 to 65535")?)
        }
    };
    Ok((host.to_owned(), port))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'%' {
            let (digits, behind) = rest.split_first_chunk::<2>()?;
            let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
            out.push(u8::try_from(high? * 16 + low?).ok()?);
            rest = behind;
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, port: u16, database: u32, username: Option<&str>, password: Option<&str>) -> RedisUrl {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        RedisUrl { host: host.to_owned(), port, database, username: owned(username), password: owned(password) }
    }

    #[test]
    fn a_redis_url_is_taken_apart() {
        for (text, expected) in [
            ("redis://127.0.0.1:6379/0", url("127.0.0.1", 6379, 0, None, None)),
            ("redis://cache", url("cache", 6379, 0, None, None)),
            ("redis://cache/", url("cache", 6379, 0, None, None)),
            ("redis://cache:7000/3", url("cache", 7000, 3, None, None)),
            ("redis://[::1]:7000/3", url("::1", 7000, 3, None, None)),
            ("redis://:p%40ss@cache", url("cache", 6379, 0, None, Some("p@ss"))),
            ("redis://me:a/b:c@d@cache:1", url("cache", 1, 0, Some("me"), Some("a/b:c@d"))),
            ("redis://me@cache", url("cache", 6379, 0, Some("me"), None)),
        ] {
            assert_eq!(redis_url(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_redis_url_is_refused() {
        assert_eq!(redis_url("rediss://cache"), Err(UrlFault::Later("rediss://")));
        assert_eq!(redis_url("redis+sentinel://a:26379,b:26379"), Err(UrlFault::Later("redis+sentinel://")));
        for text in [
            "cache:6379",
            "http://cache",
            "REDIS://cache",
            "unix:///tmp/redis",
            "redis://",
            "redis://:6379",
            "redis://cache:0",
            "redis://cache:65536",
            "redis://cache:+1",
            "redis://cache:",
            "redis://cache/x",
            "redis://cache/99999999999",
            "redis://cache/0?protocol=3",
            "redis://:@cache",
            "redis://@cache",
            "redis://:%zz@cache",
            "redis://:%ff@cache",
            "redis://a b",
            "redis://a,b",
            "redis://[::1",
            "redis://[x]:1",
            "redis://[::1]1",
        ] {
            assert!(matches!(redis_url(text), Err(UrlFault::Bad(_))), "{text}");
        }
    }

    #[test]
    fn a_registry_url_is_taken_apart() {
        let url = |host: &str, port, prefix: &str, login: Option<(&str, &str)>| RegistryUrl {
            host: host.to_owned(),
            port,
            prefix: prefix.to_owned(),
            username: login.map(|(user, _)| user.to_owned()),
            password: login.map(|(_, password)| password.to_owned()),
        };
        for (text, expected) in [
            ("http://127.0.0.1:8081", url("127.0.0.1", 8081, "", None)),
            ("http://registry/", url("registry", 8081, "", None)),
            ("http://me:p%40ss@registry:80/api/v1/", url("registry", 80, "/api/v1", Some(("me", "p@ss")))),
        ] {
            assert_eq!(registry(text), Ok(expected), "{text}");
        }
        for text in ["registry:8081", "http://", "http://me@registry", "http://registry?x=1", "http://registry:x"] {
            assert!(registry(text).is_err(), "{text}");
        }
    }

    #[test]
    fn brokers_are_hosts() {
        for text in ["127.0.0.1:9092", "kafka", "a:1,b:2,c", "[::1]:9092"] {
            assert_eq!(brokers(text), Ok(()), "{text}");
        }
        for text in ["", "a:1,", "a:x", "PLAINTEXT://a:1", "a b"] {
            assert!(brokers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_connect_string_is_hosts_with_ports_and_a_chroot() {
        for (text, expected) in [
            ("127.0.0.1:2181", "127.0.0.1:2181"),
            ("a:1,b:2,c:3/app/x", "a:1,b:2,c:3/app/x"),
            ("a:1/", "a:1"),
            ("[::1]:2181", "[::1]:2181"),
            ("a:1/x,y", "a:1/x,y"),
        ] {
            assert_eq!(connect(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "a",
            "a:1,",
            "a:1,,b:2",
            "a:1, b:2",
            "a:x",
            "a:0",
            "tcp://a:1",
            "a:1/x//y",
            "a:1/../x",
            "a:1/x/*",
            "u:p@a:1",
            "a:1/x,b:2/x",
            "a:1/x,b:2",
        ] {
            assert!(connect(text).is_err(), "{text}");
        }
    }
}
