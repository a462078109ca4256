//! The routes of a pipeline as one map: which route a path or a key belongs to, and the name on the other side.

use super::error::PatternError;
use super::name;
use super::pattern::{Pattern, Segment, cut, is_reserved_key, is_reserved_path, same_wildcards};
use super::separator::Separator;
use crate::change::Pair;
use std::borrow::Cow;

/// What the map needs to know of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Pattern of znodes; `None` in a capture of Redis.
    pub zookeeper: Option<String>,
    /// Pattern of keys; `None` in a capture of ZooKeeper.
    pub redis: Option<String>,
    /// Patterns of znodes that are not this route's.
    pub exclude_zookeeper: Vec<String>,
    /// Patterns of keys that are not this route's.
    pub exclude_redis: Vec<String>,
    /// What `/` becomes in a key.
    pub separator: String,
}

/// A pair and the route it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Place of the route in the list that [`RouteMap::new`] was given.
    pub route: usize,
    /// Both names; one where the route only captures.
    pub pair: Pair,
}

/// All routes of a pipeline. Asking it allocates nothing but the answer (and one scratch buffer for a separator of more
/// than one byte), and takes time linear in the name and in the number of routes.
#[derive(Debug, Clone)]
pub struct RouteMap {
    routes: Vec<Compiled>,
}

#[derive(Debug, Clone)]
pub(super) struct Compiled {
    zookeeper: Option<Pattern>,
    redis: Option<Pattern>,
    exclude_zookeeper: Vec<Pattern>,
    exclude_redis: Vec<Pattern>,
    separator: Separator,
}

impl RouteMap {
    /// Reads the patterns. The order is the order of precedence.
    ///
    /// # Errors
    /// The first pattern or separator that cannot be used.
    pub fn new(specs: &[RouteSpec]) -> Result<RouteMap, PatternError> {
        Ok(RouteMap { routes: specs.iter().map(Compiled::new).collect::<Result<_, _>>()? })
    }

    /// The pair of a znode. `None` if no route has it, if its key belongs to another route, if it is ZooKeeper's or
    /// Keepstep's own, or if no znode can have that path.
    #[must_use]
    pub fn of_path(&self, path: &str) -> Option<Mapped> {
        let names = legal_names(path)?;
        let (route, key) = self.first(|compiled| compiled.claim_path(names))?;
        if let Some(key) = &key
            && !self.is_first(route, |compiled| compiled.claim_key(key).is_some())
        {
            return None;
        }
        Some(Mapped { route, pair: Pair { zookeeper: Some(path.to_owned()), redis: key } })
    }

    /// The first route that has a pair at this path or may have one below it. `None`: nothing there is mapped.
    #[must_use]
    pub fn reaching(&self, path: &str) -> Option<usize> {
        if path == "/" {
            return self.routes.iter().position(|route| route.zookeeper.is_some());
        }
        let names = legal_names(path)?;
        let reaches = |route: &Compiled| {
            let is_excluded = || route.exclude_zookeeper.iter().any(|pattern| pattern.covers_below(names, b'/'));
            let pattern = route.zookeeper.as_ref();
            pattern.is_some_and(|pattern| pattern.reaches_below(names, b'/'))
                && !is_reserved_path(names)
                && !is_excluded()
        };
        self.of_path(path).map(|mapped| mapped.route).or_else(|| self.routes.iter().position(reaches))
    }

    /// The pair of a key. `None` if no route has it, if its znode belongs to another route, or if it is Keepstep's own.
    /// Every other key has a znode; ZooKeeper may still refuse a path for its length.
    #[must_use]
    pub fn of_key(&self, key: &[u8]) -> Option<Mapped> {
        let (route, path) = self.first(|compiled| compiled.claim_key(key))?;
        if let Some(path) = &path {
            let names = path.as_bytes().get(1..)?;
            if !self.is_first(route, |compiled| compiled.claim_path(names).is_some()) {
                return None;
            }
        }
        Some(Mapped { route, pair: Pair { zookeeper: path, redis: Some(key.to_vec()) } })
    }

    /// The znodes at or below which everything mapped lies, for watching and scanning: `/settings` for `/settings/**`,
    /// `/` for `/**`, the znode itself for a pattern without wildcards. None lies below another.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        let roots = self.routes.iter().filter_map(|route| Some(route.zookeeper.as_ref()?.root()));
        outermost(roots, |path, root| {
            root == "/" || path.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The bytes with which every mapped key begins, for tracking and scanning: `settings:` for `settings:**`, empty
    /// for `**`, the key itself for a pattern without wildcards. None begins with another.
    #[must_use]
    pub fn key_prefixes(&self) -> Vec<Vec<u8>> {
        let prefixes = self.routes.iter().filter_map(|route| Some(route.redis.as_ref()?.key_prefix(&route.separator)));
        outermost(prefixes, |key, prefix| key.starts_with(prefix))
    }

    fn first<T>(&self, claim: impl Fn(&Compiled) -> Option<T>) -> Option<(usize, T)> {
        self.routes.iter().enumerate().find_map(|(route, compiled)| Some((route, claim(compiled)?)))
    }

    /// Whether no route before `route` claims the name on the other side.
    fn is_first(&self, route: usize, claims: impl Fn(&Compiled) -> bool) -> bool {
        !self.routes.iter().take(route).any(claims)
    }
}

impl Compiled {
    pub(super) fn new(spec: &RouteSpec) -> Result<Compiled, PatternError> {
        let separator = Separator::new(&spec.separator)?;
        let zookeeper = spec.zookeeper.as_deref().map(Pattern::of_znodes).transpose()?;
        let redis = spec.redis.as_deref().map(|text| Pattern::of_keys_with(text, &separator)).transpose()?;
        match (&zookeeper, &redis) {
            (None, None) => return Err(PatternError::NoPattern),
            (Some(one), Some(other)) if !same_wildcards(one, other) => return Err(PatternError::Wildcards),
            _ => {}
        }
        for pattern in zookeeper.iter().chain(&redis) {
            pattern.check_reserved(&spec.separator)?;
        }
        let exclude_zookeeper = spec.exclude_zookeeper.iter().map(|text| Pattern::of_znodes(text));
        let exclude_redis = spec.exclude_redis.iter().map(|text| Pattern::of_keys_with(text, &separator));
        Ok(Compiled {
            zookeeper,
            redis,
            exclude_zookeeper: exclude_zookeeper.collect::<Result<_, _>>()?,
            exclude_redis: exclude_redis.collect::<Result<_, _>>()?,
            separator,
        })
    }

    /// `None` if the path is not this route's; else its key, where the route has keys.
    pub(super) fn claim_path(&self, names: &[u8]) -> Option<Option<Vec<u8>>> {
        let zookeeper = self.zookeeper.as_ref()?;
        if !zookeeper.matches(names, b'/') || !self.takes_path(names) {
            return None;
        }
        let Some(redis) = &self.redis else { return Some(None) };
        let key = self.key_of(zookeeper, redis, names);
        self.takes_key(&key).then_some(Some(key))
    }

    /// `None` if the key is not this route's; else its path, where the route has znodes.
    pub(super) fn claim_key(&self, key: &[u8]) -> Option<Option<String>> {
        let redis = self.redis.as_ref()?;
        let (text, delimiter) = self.readable(key);
        if !redis.matches(&text, delimiter) || !self.takes_key(key) {
            return None;
        }
        let Some(zookeeper) = &self.zookeeper else { return Some(None) };
        let path = self.path_of(redis, zookeeper, &text, delimiter)?;
        self.takes_path(path.as_bytes().get(1..)?).then_some(Some(path))
    }

    fn takes_path(&self, names: &[u8]) -> bool {
        !is_reserved_path(names) && !self.exclude_zookeeper.iter().any(|pattern| pattern.matches(names, b'/'))
    }

    fn takes_key(&self, key: &[u8]) -> bool {
        if is_reserved_key(key) {
            return false;
        }
        if self.exclude_redis.is_empty() {
            return true;
        }
        let (text, delimiter) = self.readable(key);
        !self.exclude_redis.iter().any(|pattern| pattern.matches(&text, delimiter))
    }

    /// The key with one byte between its segments: as it lies, or swapped if the separator is longer.
    fn readable<'k>(&self, key: &'k [u8]) -> (Cow<'k, [u8]>, u8) {
        match self.separator.single() {
            Some(separator) => (Cow::Borrowed(key), separator),
            None => (Cow::Owned(self.separator.swap(key.to_vec())), b'/'),
        }
    }

    /// The key of a path that `from` matches.
    fn key_of(&self, from: &Pattern, to: &Pattern, names: &[u8]) -> Vec<u8> {
        let mut captures = from.captures(names, b'/');
        let mut key = Vec::with_capacity(names.len() + 16);
        for (at, segment) in to.segments.iter().enumerate() {
            if at > 0 {
                key.push(b'/');
            }
            match segment {
                Segment::Literal { name, .. } => key.extend_from_slice(name),
                Segment::One | Segment::Rest => {
                    let captured = captures.next().unwrap_or_default();
                    if captured.contains(&b'%') {
                        push_decoded(&mut key, captured);
                    } else {
                        key.extend_from_slice(captured);
                    }
                }
            }
        }
        self.separator.swap(key)
    }

    /// The path of a key that `from` matches. Always `Some`: what is pushed is UTF-8.
    fn path_of(&self, from: &Pattern, to: &Pattern, text: &[u8], delimiter: u8) -> Option<String> {
        let mut captures = from.captures(text, delimiter);
        let mut path = Vec::with_capacity(text.len() + 16);
        for segment in &to.segments {
            match segment {
                Segment::Literal { text, .. } => {
                    path.push(b'/');
                    path.extend_from_slice(text);
                }
                Segment::One | Segment::Rest => {
                    for name in captures.next().unwrap_or_default().split(|byte| *byte == delimiter) {
                        path.push(b'/');
                        let start = path.len();
                        // Where the delimiter is the separator itself, a `/` inside the name becomes one.
                        path.extend(name.iter().map(|byte| if *byte == b'/' { delimiter } else { *byte }));
                        name::encode_tail(&mut path, start);
                    }
                }
            }
        }
        String::from_utf8(path).ok()
    }
}

/// Appends names with `/` between them, each decoded.
fn push_decoded(out: &mut Vec<u8>, names: &[u8]) {
    for (at, name) in names.split(|byte| *byte == b'/').enumerate() {
        if at > 0 {
            out.push(b'/');
        }
        name::decode_into(out, name);
    }
}

/// A path without its first `/`, if a znode other than the root can have it.
fn legal_names(path: &str) -> Option<&[u8]> {
    let names = path.strip_prefix('/')?.as_bytes();
    let mut rest = Some(names);
    while let Some(here) = rest {
        let (name, behind) = cut(here, b'/');
        if !name::legal(name) {
            return None;
        }
        rest = behind;
    }
    Some(names)
}

/// Those that lie in no other one, each once, in order.
fn outermost<T: PartialEq>(all: impl Iterator<Item = T>, within: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for candidate in all {
        if !kept.iter().any(|other| within(&candidate, other)) {
            kept.retain(|other| !within(other, &candidate));
            kept.push(candidate);
        }
    }
    kept
}
