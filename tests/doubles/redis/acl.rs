//! Users: what each may do, as far as `ACL SETUSER` is understood here.

use super::data::Bytes;
use super::glob::matches;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User {
    pub name: String,
    /// `None`: any password, and none.
    pub password: Option<String>,
    pub is_on: bool,
    is_every_command: bool,
    /// Commands that differ from that, as `get` or `client|tracking`.
    others: Vec<String>,
    keys: Vec<Bytes>,
    channels: Vec<Bytes>,
}

impl User {
    /// May do everything.
    pub fn of_all(name: &str) -> User {
        let all = vec![b"*".to_vec()];
        User {
            name: name.to_owned(),
            is_on: true,
            is_every_command: true,
            keys: all.clone(),
            channels: all,
            ..User::default()
        }
    }

    pub fn new(name: &str) -> User {
        User { name: name.to_owned(), ..User::default() }
    }

    /// Applies one rule of `ACL SETUSER`; `false`: it is not known here.
    pub fn apply(&mut self, rule: &str) -> bool {
        match rule {
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => self.password = None,
            "allkeys" => self.keys = vec![b"*".to_vec()],
            "allchannels" => self.channels = vec![b"*".to_vec()],
            "resetkeys" => self.keys.clear(),
            "resetchannels" => self.channels.clear(),
            "+@all" | "allcommands" => (self.is_every_command, self.others) = (true, Vec::new()),
            "-@all" | "nocommands" => (self.is_every_command, self.others) = (false, Vec::new()),
            _ => {
                let Some(sign) = rule.chars().next() else { return false };
                let rest = &rule[sign.len_utf8()..];
                match sign {
                    '>' => self.password = Some(rest.to_owned()),
                    '~' => self.keys.push(rest.as_bytes().to_vec()),
                    '&' => self.channels.push(rest.as_bytes().to_vec()),
                    '+' | '-' if !rest.starts_with('@') => {
                        let name = rest.to_ascii_lowercase();
                        self.others.retain(|other| *other != name);
                        if (sign == '+') != self.is_every_command {
                            self.others.push(name);
                        }
                    }
                    _ => return false,
                }
            }
        }
        true
    }

    /// `name`: as `get` or `client|tracking`.
    pub fn may_run(&self, name: &str) -> bool {
        let whole = name.split('|').next().unwrap_or_default();
        let is_other = self.others.iter().any(|other| other == name || other == whole);
        is_other != self.is_every_command
    }

    pub fn may_touch(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|pattern| matches(pattern, key))
    }

    /// A pattern that is subscribed must be allowed as it is written.
    pub fn may_hear(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.channels
            .iter()
            .any(|pattern| pattern == b"*" || if is_pattern { pattern == channel } else { matches(pattern, channel) })
    }
}
