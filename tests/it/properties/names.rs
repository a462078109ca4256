//! The map between paths and keys: whatever is mapped is mapped back, one to one.

use super::draw::Draw;
use keepstep::route::{RouteMap, RouteSpec};

const SEPARATORS: [&str; 6] = [":", ".", "::", "/", "%", "ab"];
const MATCHES: [(&str, &[&str]); 5] = [
    ("/settings/**", &["settings", "**"]),
    ("/a/*/b", &["*", "x"]),
    ("/a/*/**", &["b", "*", "**"]),
    ("/**", &["**"]),
    ("/one", &["two"]),
];
/// What names are made of: what means something somewhere, and what does not.
const PIECES: [&str; 24] = [
    "a",
    "b",
    "x",
    "/",
    ":",
    ".",
    "..",
    "%",
    "%25",
    "%2E",
    "%FF",
    "%3A",
    "%2F",
    "\0",
    "\u{1}",
    "\u{7f}",
    "\u{f8ff}",
    "\u{ffff}",
    "🦀",
    "ß",
    "settings",
    "::",
    "{",
    "_keepstep",
];

pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let routes = 1 + draw.below(3);
    let specs: Vec<RouteSpec> = (0..routes).map(|_| spec(&mut draw)).collect();
    let Ok(map) = RouteMap::new(&specs) else { return };
    while !draw.0.is_empty() {
        let mut name = Vec::new();
        let start = draw.one_of(&["", "/settings/", "settings:", "/a/", "b::", "two"]);
        name.extend_from_slice(start.as_bytes());
        for _ in 0..draw.below(8) {
            if draw.below(6) == 0 {
                name.push(draw.byte());
            } else {
                name.extend_from_slice(draw.one_of(&PIECES).as_bytes());
            }
        }
        there_and_back(&map, &name, &specs);
    }
}

fn spec(draw: &mut Draw<'_>) -> RouteSpec {
    let separator = draw.one_of(&SEPARATORS);
    let (zookeeper, segments) = draw.one_of(&MATCHES);
    let exclude = draw.flag().then(|| "/settings/b/**".to_owned());
    RouteSpec {
        zookeeper: Some(zookeeper.to_owned()),
        redis: Some(segments.join(separator)),
        exclude_zookeeper: exclude.into_iter().collect(),
        exclude_redis: Vec::new(),
        separator: separator.to_owned(),
    }
}

fn there_and_back(map: &RouteMap, name: &[u8], specs: &[RouteSpec]) {
    if let Some(mapped) = map.of_key(name) {
        let path = mapped.pair.zookeeper.as_deref().expect("both have names");
        assert_eq!(mapped.pair.redis.as_deref(), Some(name));
        assert_eq!(map.of_path(path).as_ref(), Some(&mapped), "key {:?} by {specs:?}", name.escape_ascii().to_string());
        assert!(path.starts_with('/') && !path.contains('\0') && !path.contains("//"), "no znode has {path:?}");
    }
    if let Ok(path) = std::str::from_utf8(name)
        && let Some(mapped) = map.of_path(path)
    {
        let key = mapped.pair.redis.as_deref().expect("both have names");
        assert_eq!(mapped.pair.zookeeper.as_deref(), Some(path));
        assert_eq!(map.of_key(key).as_ref(), Some(&mapped), "path {path:?} by {specs:?}");
    }
}
