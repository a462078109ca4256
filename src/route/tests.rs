//! The map's laws: the contract's table, one to one both ways on every short name, and what overlapping routes do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say so at once")]

use super::name::{decode_into, encode_tail, legal};
use super::*;
use crate::change::Pair;
use proptest::prelude::*;

fn spec(zookeeper: &str, redis: &str, separator: &str) -> RouteSpec {
    let pattern = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    RouteSpec {
        zookeeper: pattern(zookeeper),
        redis: pattern(redis),
        exclude_zookeeper: Vec::new(),
        exclude_redis: Vec::new(),
        separator: separator.to_owned(),
    }
}

fn map(specs: &[RouteSpec]) -> RouteMap {
    RouteMap::new(specs).unwrap()
}

fn one(zookeeper: &str, redis: &str, separator: &str) -> RouteMap {
    map(&[spec(zookeeper, redis, separator)])
}

fn key_of(map: &RouteMap, path: &str) -> Option<String> {
    map.of_path(path)?.pair.redis.map(|key| String::from_utf8(key).unwrap())
}

fn path_of(map: &RouteMap, key: impl AsRef<[u8]>) -> Option<String> {
    map.of_key(key.as_ref())?.pair.zookeeper
}

/// Every string of at most `length` symbols, the empty one included.
fn words(alphabet: &[&'static [u8]], length: usize, mut visit: impl FnMut(&[u8])) {
    fn grow(word: &mut Vec<u8>, alphabet: &[&'static [u8]], left: usize, visit: &mut impl FnMut(&[u8])) {
        visit(word);
        if left > 0 {
            for symbol in alphabet {
                word.extend_from_slice(symbol);
                grow(word, alphabet, left - 1, visit);
                word.truncate(word.len() - symbol.len());
            }
        }
    }
    grow(&mut Vec::new(), alphabet, length, &mut visit);
}

fn assert_key_goes_round(map: &RouteMap, key: &[u8]) {
    let there = map.of_key(key).unwrap_or_else(|| panic!("{} has no path", key.escape_ascii()));
    let path = there.pair.zookeeper.clone().unwrap();
    assert!(path.split('/').skip(1).all(|name| legal(name.as_bytes())), "{} -> {path:?}", key.escape_ascii());
    assert_eq!(map.of_path(&path), Some(there), "{} -> {path:?}", key.escape_ascii());
}

fn assert_path_goes_round(map: &RouteMap, path: &str) {
    let there = map.of_path(path).unwrap_or_else(|| panic!("{path:?} has no key"));
    let key = there.pair.redis.clone().unwrap();
    assert_eq!(map.of_key(&key), Some(there), "{path:?} -> {}", key.escape_ascii());
}

fn assert_one_to_one(separator: &str, alphabet: &[&'static [u8]], length: usize) {
    let map = one("/**", "**", separator);
    let mut paths = 0;
    words(alphabet, length, |word| {
        assert_key_goes_round(&map, word);
        let Ok(path) = std::str::from_utf8(word) else { return };
        if path.starts_with('/') && path.split('/').skip(1).all(|name| legal(name.as_bytes())) {
            assert_path_goes_round(&map, path);
            paths += 1;
        }
    });
    assert!(paths > 0);
}

#[test]
fn the_contracts_table_holds_both_ways() {
    let map = one("/settings/**", "settings:**", ":");
    for (path, key) in [
        ("/settings/db/host", "settings:db:host"),
        ("/settings/a:b", "settings:a/b"),
        ("/settings/100%", "settings:100%"),
        ("/settings/a/%/b", "settings:a::b"),
        ("/settings/%2E", "settings:."),
        ("/settings/%252E", "settings:%2E"),
    ] {
        assert_eq!(key_of(&map, path).as_deref(), Some(key));
        assert_eq!(path_of(&map, key).as_deref(), Some(path));
    }
}

#[test]
fn names_that_no_znode_can_have_are_percent_encoded_and_what_reads_as_such_once_more() {
    let map = one("/s/**", "s:**", ":");
    for (key, path) in [
        (&b"s:"[..], "/s/%"),
        (b"s::", "/s/%/%"),
        (b"s:%", "/s/%25"),
        (b"s:%25", "/s/%2525"),
        (b"s:..", "/s/%2E%2E"),
        (b"s:...", "/s/..."),
        (b"s:%252E", "/s/%25252E"),
        (b"s:%2e", "/s/%2e"),
        (b"s:%41", "/s/%41"),
        (b"s:100%25", "/s/100%25"),
        (b"s:a\x01", "/s/a%01"),
        (b"s:a%01", "/s/a%2501"),
        (b"s:50%\n", "/s/50%25%0A"),
        (b"s:\xff", "/s/%FF"),
        (b"s:a\xc3", "/s/a%C3"),
        ("s:\u{85}".as_bytes(), "/s/%C2%85"),
        ("s:é".as_bytes(), "/s/é"),
        ("s:\u{1f600}".as_bytes(), "/s/%F0%9F%98%80"),
        (b"s:/", "/s/:"),
        (b"s:a b", "/s/a b"),
    ] {
        assert_eq!(path_of(&map, key).as_deref(), Some(path), "{}", key.escape_ascii());
        assert_eq!(map.of_path(path).unwrap().pair.redis.as_deref(), Some(key), "{path}");
    }
}

#[test]
fn every_short_key_and_every_short_path_goes_there_and_back() {
    assert_one_to_one(":", &[b":", b"/", b"%", b"2", b"5", b"E", b"."], 6);
    assert_one_to_one(":", &[b":", b"/", b"%", b"0", b"1", b"\x01", b"F", b"\xff"], 5);
}

#[test]
fn every_separator_goes_there_and_back() {
    for separator in [".", "-", "2", "E", "|", " ", "é", "::", "->", ":::", "aa", "a:a", "a::a", "::a::", "ab", "aab"]
    {
        assert_one_to_one(separator, &[b"a", b":", b"/", b"%", b"."], 5);
    }
    assert_one_to_one("::", &[b":", b"/", b"a"], 8);
    assert_one_to_one("::a::", &[b":", b"/", b"a"], 9);
    assert_one_to_one("é", &[b"\xc3", b"\xa9", b"/", b"%", "é".as_bytes()], 5);
    assert_one_to_one("2E", &[b"2", b"E", b"%", b"/", b"."], 5);
}

#[test]
fn a_separator_of_two_characters_reads_as_one_would_think() {
    let map = one("/app/**", "app::**", "::");
    for (path, key) in [
        ("/app/db/host", "app::db::host"),
        ("/app/a::b", "app::a/b"),
        ("/app/a:b", "app::a:b"),
        ("/app/a/:b", "app::a:::b"),
        ("/app/a:/b", "app::a:/b"),
    ] {
        assert_eq!(key_of(&map, path).as_deref(), Some(key));
        assert_eq!(path_of(&map, key).as_deref(), Some(path));
    }
}

#[test]
fn names_are_encoded_exactly_as_the_recursive_definition_says() {
    fn percent(name: &[u8]) -> Vec<u8> {
        let dots = name == b"." || name == b"..";
        let refused = |byte: &u8| dots || *byte == b'%' || *byte < 0x20 || *byte >= 0x80;
        if name.is_empty() {
            return b"%".to_vec();
        }
        name.iter()
            .flat_map(|byte| if refused(byte) { format!("%{byte:02X}").into_bytes() } else { vec![*byte] })
            .collect()
    }
    /// All names whose encoding could be `name`: at most one, found by decoding leniently and encoding again.
    fn reads(name: &[u8]) -> bool {
        let mut decoded = Vec::new();
        let mut rest = name;
        while let Some((byte, behind)) = rest.split_first() {
            let digits = behind.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                Some(value) if *byte == b'%' => {
                    decoded.push(value);
                    rest = behind.get(2..).unwrap();
                }
                _ => {
                    decoded.push(*byte);
                    rest = behind;
                }
            }
        }
        let decoded = if name == b"%" { Vec::new() } else { decoded };
        decoded.len() < name.len() + usize::from(name.is_empty())
            && percent(&decoded) == name
            && (!legal(&decoded) || reads(&decoded))
    }
    words(&[b"%", b"2", b"5", b"E", b".", b"\x01", b"0", b"1"], 6, |name| {
        let expected = if !legal(name) || reads(name) { percent(name) } else { name.to_vec() };
        let mut encoded = name.to_vec();
        encode_tail(&mut encoded, 0);
        assert_eq!(encoded, expected, "{}", name.escape_ascii());
        let mut decoded = Vec::new();
        decode_into(&mut decoded, &encoded);
        assert_eq!(decoded, name, "{}", name.escape_ascii());
    });
}

#[test]
fn a_hostile_name_is_mapped_in_linear_time() {
    let map = one("/**", "**", ":");
    let key = [b"%".to_vec(), b"25".repeat(500_000)].concat();
    assert_key_goes_round(&map, &key);
    assert_key_goes_round(&map, &b"%2525".repeat(100_000));
    assert_key_goes_round(&map, &b":".repeat(100_000));
}

#[test]
fn what_lies_above_a_pair_is_told_from_what_leads_to_none() {
    let limits =
        RouteSpec { exclude_zookeeper: vec!["/limits/tmp/**".to_owned()], ..spec("/limits/*/*", "limits:*:*", ":") };
    let map = map(&[limits, spec("/settings/**", "settings:**", ":")]);
    for (path, route) in [
        ("/", Some(0)),
        ("/limits", Some(0)),
        ("/limits/api", Some(0)),
        ("/limits/api/rate", Some(0)),
        ("/limits/api/rate/deeper", None),
        ("/limits/tmp", None),
        ("/limits/tmp/a", None),
        ("/settings", Some(1)),
        ("/settings/a/b", Some(1)),
        ("/other", None),
        ("/_keepstep/settings", None),
    ] {
        assert_eq!(map.reaching(path), route, "{path}");
    }
}

#[test]
fn the_refused_characters_are_those_of_zookeeper() {
    // Printed by PathUtils.validatePath of ZooKeeper 3.8.0 for every code point.
    let refused = [0..=0x1f, 0x7f..=0x9f, 0xe000..=0xf8ff, 0xfff0..=0x10_ffff_u32];
    for character in (0..=0x10_ffff).filter_map(char::from_u32).filter(|character| *character != '/') {
        let expected = !refused.iter().any(|range| range.contains(&u32::from(character)));
        assert_eq!(legal(format!("a{character}b").as_bytes()), expected, "{:x}", u32::from(character));
    }
}

#[test]
fn a_star_is_exactly_one_segment_and_two_stars_are_one_or_more() {
    let map = one("/users/*/profile", "user:*:data:profile", ":");
    assert_eq!(key_of(&map, "/users/7/profile").as_deref(), Some("user:7:data:profile"));
    assert_eq!(path_of(&map, "user:a/b:data:profile").as_deref(), Some("/users/a:b/profile"));
    assert_eq!(path_of(&map, "user::data:profile").as_deref(), Some("/users/%/profile"));
    for path in ["/users/profile", "/users/7", "/users/7/8/profile", "/users/7/profile/x", "/users"] {
        assert_eq!(map.of_path(path), None, "{path}");
    }
    for key in ["user:7:data", "user:7:8:data:profile", "user:7:data:profile:", "user"] {
        assert_eq!(map.of_key(key.as_bytes()), None, "{key}");
    }
    let map = one("/a/*/b/**", "x:*:**", ":");
    assert_eq!(key_of(&map, "/a/1/b/2/3").as_deref(), Some("x:1:2:3"));
    assert_eq!(path_of(&map, "x:1:2:3").as_deref(), Some("/a/1/b/2/3"));
    assert_eq!(map.of_path("/a/1/b"), None);
    assert_eq!(map.of_key(b"x:1"), None);
}

#[test]
fn a_route_of_one_pair_needs_no_wildcard() {
    let map = one("/feature/dark", "flag:dark/mode", ":");
    assert_eq!(key_of(&map, "/feature/dark").as_deref(), Some("flag:dark/mode"));
    assert_eq!(path_of(&map, "flag:dark/mode").as_deref(), Some("/feature/dark"));
    assert_eq!(map.of_path("/feature/dark/x"), None);
    assert_eq!((map.roots(), map.key_prefixes()), (vec!["/feature/dark".to_owned()], vec![b"flag:dark/mode".to_vec()]));
}

#[test]
fn what_is_zookeepers_or_keepsteps_own_is_never_mapped() {
    let map = map(&[spec("/mirror/**", "**", ":"), spec("/**", "all:**", ":")]);
    for path in [
        "/zookeeper",
        "/zookeeper/quota",
        "/_keepstep",
        "/_keepstep/settings",
        "/",
        "",
        "x",
        "//",
        "/a/",
        "/a//b",
        "/.",
        "/a/\u{1}",
    ] {
        assert_eq!(map.of_path(path), None, "{path}");
    }
    assert_eq!(map.of_key(b"_keepstep:settings"), None);
    assert_eq!(map.of_key(b"all:zookeeper:quota").unwrap().route, 0);
    assert_eq!(key_of(&one("/mirror/**", "**", ":"), "/mirror/_keepstep/settings"), None);
    assert_eq!(path_of(&one("/**", "all:**", ":"), "all:_keepstep:settings"), None);
    assert_eq!(key_of(&map, "/zookeeperish").as_deref(), None, "its key belongs to the first route");
    assert_eq!(key_of(&one("/**", "all:**", ":"), "/_keepstepper").as_deref(), Some("all:_keepstepper"));
}

#[test]
fn the_first_route_wins_and_a_pair_needs_it_on_both_sides() {
    let map = map(&[spec("/a/x/**", "ax:**", ":"), spec("/a/**", "a:**", ":"), spec("/b/**", "a:b:**", ":")]);
    assert_eq!(map.of_path("/a/x/1").unwrap().route, 0);
    assert_eq!(map.of_path("/a/y").unwrap().route, 1);
    assert_eq!(map.of_key(b"a:x:1"), None, "its znode belongs to the first route");
    assert_eq!(map.of_path("/b/1"), None, "its key belongs to the second route");
    assert_eq!(path_of(&map, "a:b:1").as_deref(), Some("/a/b/1"));
}

#[test]
fn an_exclude_on_either_side_excludes_the_pair_and_leaves_it_to_later_routes() {
    let mut first = spec("/s/**", "s:**", ":");
    first.exclude_zookeeper = vec!["/s/tmp/**".to_owned()];
    first.exclude_redis = vec!["s:*:lock".to_owned()];
    let map_of_first = map(&[first.clone()]);
    for path in ["/s/tmp/a", "/s/tmp/a/b", "/s/x/lock"] {
        assert_eq!(map_of_first.of_path(path), None, "{path}");
    }
    for key in ["s:tmp:a", "s:tmp:a:b", "s:x:lock"] {
        assert_eq!(map_of_first.of_key(key.as_bytes()), None, "{key}");
    }
    assert_eq!(key_of(&map_of_first, "/s/tmp").as_deref(), Some("s:tmp"));
    assert_eq!(key_of(&map_of_first, "/s/x/y/lock").as_deref(), Some("s:x:y:lock"));
    let both = map(&[first, spec("/s/tmp/**", "tmp:**", ":")]);
    assert_eq!(both.of_path("/s/tmp/a").map(|mapped| mapped.route), Some(1));
    assert_eq!(path_of(&both, "tmp:a").as_deref(), Some("/s/tmp/a"));
}

#[test]
fn a_capture_has_one_name() {
    let map = map(&[spec("/a/**", "", ":"), spec("", "a:**", ":"), spec("/**", "**", ":")]);
    let zookeeper_only = Pair { zookeeper: Some("/a/1".to_owned()), redis: None };
    assert_eq!(map.of_path("/a/1"), Some(Mapped { route: 0, pair: zookeeper_only }));
    let redis_only = Pair { zookeeper: None, redis: Some(b"a:1".to_vec()) };
    assert_eq!(map.of_key(b"a:1"), Some(Mapped { route: 1, pair: redis_only }));
    assert_eq!(map.of_path("/b").map(|mapped| mapped.route), Some(2));
}

#[test]
fn roots_and_prefixes_are_the_literal_beginnings_and_none_lies_in_another() {
    let map = map(&[
        spec("/settings/app/**", "settings:app:**", ":"),
        spec("/settings/**", "settings:**", ":"),
        spec("/settings2/*/x", "s2.*.x", "."),
        spec("", "stream/a::**", "::"),
    ]);
    assert_eq!(map.roots(), ["/settings", "/settings2"]);
    assert_eq!(map.key_prefixes(), [b"settings:".to_vec(), b"s2.".to_vec(), b"stream/a::".to_vec()]);
    let all = one("/**", "**", ":");
    assert_eq!((all.roots(), all.key_prefixes()), (vec!["/".to_owned()], vec![Vec::new()]));
}

#[test]
fn a_bad_pattern_says_what_is_wrong_with_it() {
    let znodes = |text: &str| Pattern::of_znodes(text).map(|_| ()).unwrap_err();
    assert_eq!(znodes("settings/**"), PatternError::NotAbsolute);
    assert_eq!(znodes("/"), PatternError::Root);
    assert_eq!(znodes(""), PatternError::Empty);
    assert_eq!(znodes("/a*/b"), PatternError::PartialWildcard("a*".to_owned()));
    assert_eq!(znodes("/**/b"), PatternError::RestNotLast);
    for path in ["/a//b", "/a/", "/a/./b", "/../b", "/a\u{7f}"] {
        assert!(matches!(znodes(path), PatternError::IllegalName(_)), "{path}");
    }
    let keys = |text: &str, separator: &str| Pattern::of_keys(text, separator).map(|_| ()).unwrap_err();
    assert_eq!(keys("settings/**", ":"), PatternError::PartialWildcard("settings/**".to_owned()));
    assert_eq!(keys("a:**:b", ":"), PatternError::RestNotLast);
    for separator in ["", "/", "a/b", "*", "%", "\t", "123456789"] {
        assert!(matches!(keys("a", separator), PatternError::Separator(_)), "{separator:?}");
    }
    let wildcards = |one: &str, other: &str| RouteMap::new(&[spec(one, other, ":")]).map(|_| ()).unwrap_err();
    assert_eq!(wildcards("/a/**", "a:*"), PatternError::Wildcards);
    assert_eq!(wildcards("/a/*/**", "a:**"), PatternError::Wildcards);
    assert_eq!(wildcards("/_keepstep/**", "a:**"), PatternError::Reserved("/_keepstep"));
    assert_eq!(wildcards("/zookeeper/**", "a:**"), PatternError::Reserved("/zookeeper"));
    assert_eq!(wildcards("/a/**", "_keepstep:**"), PatternError::Reserved("_keepstep:"));
    assert_eq!(wildcards("", ""), PatternError::NoPattern);
}

fn legal_name() -> impl Strategy<Value = String> {
    "([ -.0-~]|[%25E.:]|[¡-\u{d7ff}]){1,12}".prop_filter("no znode can have it", |name| legal(name.as_bytes()))
}

fn routes() -> impl Strategy<Value = Vec<RouteSpec>> {
    let patterns = prop::sample::select(vec![
        ("/**", "**"),
        ("/a/**", "a:**"),
        ("/a/**", "b:**"),
        ("/b/*", "a:*"),
        ("/*/b", "b:*"),
        ("/a/*/**", "*:a:**"),
        ("/%2E/*", ".:*"),
        ("/a", "b"),
        ("/b/**", ""),
        ("", "a:**"),
    ]);
    let exclude_zookeeper = prop::sample::select(vec!["", "/a/b/**", "/*/a", "/b"]);
    let exclude_redis = prop::sample::select(vec!["", "a:b:**", "*:a", "b"]);
    let route = (patterns, exclude_zookeeper, exclude_redis).prop_map(|((zookeeper, redis), path, key)| {
        let mut route = spec(zookeeper, redis, ":");
        route.exclude_zookeeper.extend((!path.is_empty()).then(|| path.to_owned()));
        route.exclude_redis.extend((!key.is_empty()).then(|| key.to_owned()));
        route
    });
    prop::collection::vec(route, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_key_goes_there_and_back(key in prop::collection::vec(any::<u8>(), 0..40), separator in "[ -$&-)+-.0-~]{1,3}") {
        let map = one("/x/**", "**", &separator);
        if !key.starts_with(b"_keepstep:") {
            assert_key_goes_round(&map, &key);
        }
    }

    #[test]
    fn any_legal_path_goes_there_and_back(names in prop::collection::vec(legal_name(), 1..6), separator in "[ -$&-)+-.0-~]{1,3}") {
        assert_path_goes_round(&one("/**", "**", &separator), &format!("/{}", names.join("/")));
    }

    #[test]
    fn with_any_routes_both_names_of_a_pair_lead_to_it(
        routes in routes(),
        key in prop::collection::vec(prop::sample::select(vec!["a", "b", ":", "/", ".", "%"]), 0..7),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "%", "%2E", ":"]), 1..5),
    ) {
        let map = map(&routes);
        let of_key = map.of_key(key.concat().as_bytes());
        let of_path = map.of_path(&format!("/{}", path.join("/")));
        for mapped in of_key.into_iter().chain(of_path) {
            if let Some(key) = &mapped.pair.redis {
                prop_assert_eq!(map.of_key(key), Some(mapped.clone()));
            }
            if let Some(path) = &mapped.pair.zookeeper {
                prop_assert_eq!(map.of_path(path), Some(mapped.clone()));
            }
        }
    }
}

#[test]
fn what_is_called_keepstep_is_never_mapped_at_any_depth() {
    let map = one("/a/**", "a:**", ":");
    for path in ["/a/_keepstep", "/a/_keepstep/p/epoch", "/a/b/_keepstep/x"] {
        assert_eq!(map.of_path(path), None, "{path}");
    }
    for key in ["a:_keepstep", "a:_keepstep:p:epoch", "a:b:_keepstep:x"] {
        assert_eq!(map.of_key(key.as_bytes()), None, "{key}");
    }
    for (path, key) in [("/a/_keepstep2", "a:_keepstep2"), ("/a/x_keepstep/b", "a:x_keepstep:b")] {
        assert_eq!(key_of(&map, path).as_deref(), Some(key));
        assert_eq!(path_of(&map, key).as_deref(), Some(path));
    }
    // The key of another name, which only begins like ours, and the name in a key whose znode is called otherwise.
    assert_eq!(path_of(&one("/x/*/y", "x:_keepstep:*", ":"), "x:_keepstep:b").as_deref(), Some("/x/b/y"));
    for zookeeper in ["/_keepstep/**", "/a/_keepstep/*", "/a/*/_keepstep"] {
        let redis = zookeeper.replace("_keepstep", "k").replace('/', ":");
        assert!(
            matches!(RouteMap::new(&[spec(zookeeper, &redis, ":")]), Err(PatternError::Reserved(_))),
            "{zookeeper}"
        );
    }
}
