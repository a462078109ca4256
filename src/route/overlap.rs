//! What routes take from each other, for a warning: a name belongs to the first route that matches it, on both sides, and a pair whose
//! two names belong to different routes is none. Each question is answered by an example, a name that both routes match.

use super::error::PatternError;
use super::map::{Compiled, RouteSpec};

/// Warnings that are given; the others are counted.
const SHOWN_MAX: usize = 20;

/// What is probably not meant, a sentence each: pairs that no route mirrors, since an earlier route has one of their names; a route
/// behind one that matches all that it matches; an `exclude` that matches nothing. `names` are those of the routes.
///
/// # Errors
/// As [`super::RouteMap::new`].
pub fn doubts(specs: &[RouteSpec], names: &[&str]) -> Result<Vec<String>, PatternError> {
    let routes = specs.iter().zip(names).map(|(spec, name)| Route::new(spec, name));
    let routes = routes.collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<String> = routes.iter().flat_map(Route::idle_excludes).collect();
    for (at, later) in routes.iter().enumerate() {
        found.extend(routes.iter().take(at).filter_map(|earlier| later.behind(earlier)));
    }
    if found.len() > SHOWN_MAX {
        let more = found.len() - SHOWN_MAX;
        found.truncate(SHOWN_MAX);
        found.push(format!("{more} more of the kind"));
    }
    Ok(found)
}

struct Route<'a> {
    name: &'a str,
    spec: &'a RouteSpec,
    compiled: Compiled,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Paths,
    Keys,
}

impl<'a> Route<'a> {
    fn new(spec: &'a RouteSpec, name: &'a str) -> Result<Route<'a>, PatternError> {
        Ok(Route { name, spec, compiled: Compiled::new(spec)? })
    }

    /// The segments of its pattern on this side.
    fn segments(&self, of: Names) -> Option<Vec<&'a str>> {
        Some(match of {
            Names::Paths => cut(self.spec.zookeeper.as_deref()?, "/"),
            Names::Keys => cut(self.spec.redis.as_deref()?, &self.spec.separator),
        })
    }

    fn joined(&self, of: Names, segments: &[String]) -> String {
        segments.join(if of == Names::Paths { "/" } else { &self.spec.separator })
    }

    /// The name on the other side; `None` if it does not match this one, or there is no other side.
    fn partner(&self, of: Names, name: &str) -> Option<String> {
        match of {
            Names::Paths => {
                let key = self.compiled.claim_path(name.strip_prefix('/')?.as_bytes())??;
                Some(String::from_utf8_lossy(&key).into_owned())
            }
            Names::Keys => self.compiled.claim_key(name.as_bytes())?,
        }
    }

    fn idle_excludes(&self) -> Vec<String> {
        let Some(filler) = filler([&self.spec.separator, &self.spec.separator]) else { return Vec::new() };
        let mut idle = Vec::new();
        for (of, excludes) in [(Names::Paths, &self.spec.exclude_zookeeper), (Names::Keys, &self.spec.exclude_redis)] {
            let delimiter = if of == Names::Paths { "/" } else { &self.spec.separator };
            let Some(pattern) = self.segments(of) else { continue };
            let meets = |exclude: &&String| both(&pattern, &cut(exclude, delimiter), filler).is_some();
            let sentence = |exclude: &String| {
                format!("route `{}`: `exclude` `{exclude}` matches nothing that the route matches", self.name)
            };
            idle.extend(excludes.iter().filter(|exclude| !meets(exclude)).map(sentence));
        }
        idle
    }

    /// What this route loses to an earlier one.
    fn behind(&self, earlier: &Route<'_>) -> Option<String> {
        let separators = [self.spec.separator.as_str(), &earlier.spec.separator];
        let filler = filler(separators)?;
        for of in [Names::Paths, Names::Keys] {
            let (Some(mine), Some(theirs)) = (self.segments(of), earlier.segments(of)) else { continue };
            let is_alike = of == Names::Paths || separators[0] == separators[1];
            let met = if is_alike { both(&mine, &theirs, filler) } else { None };
            let examples = [
                met.map(|met| self.joined(of, &met)),
                Some(self.joined(of, &instance(&mine, filler, 1))),
                Some(earlier.joined(of, &instance(&theirs, filler, 1))),
            ];
            for name in examples.into_iter().flatten() {
                let (Some(here), Some(there)) = (self.partner(of, &name), earlier.partner(of, &name)) else { continue };
                if here != there {
                    let kind = if of == Names::Paths { ["path", "key"] } else { ["key", "path"] };
                    return Some(format!(
                        "route `{}` overlaps with the earlier route `{}`: both match the {} `{name}`, which belongs to the earlier one, \
                         so the {} `{here}` has no partner and is not mirrored",
                        self.name, earlier.name, kind[0], kind[1],
                    ));
                }
            }
        }
        self.is_covered(earlier, filler).then(|| {
            format!(
                "route `{}` has no pair: the earlier route `{}` matches all that it matches",
                self.name, earlier.name
            )
        })
    }

    /// Whether the earlier route has every pair of this one. Names that stand for any others show it.
    fn is_covered(&self, earlier: &Route<'_>, filler: &str) -> bool {
        let excludes = |spec: &RouteSpec| (spec.exclude_zookeeper.clone(), spec.exclude_redis.clone());
        let excludes_nothing = earlier.spec.exclude_zookeeper.is_empty() && earlier.spec.exclude_redis.is_empty();
        if !excludes_nothing && excludes(earlier.spec) != excludes(self.spec) {
            return false;
        }
        [1, 2].iter().all(|depth| {
            [Names::Paths, Names::Keys].iter().any(|of| {
                self.segments(*of).is_some_and(|mine| {
                    let name = self.joined(*of, &instance(&mine, filler, *depth));
                    let (here, there) = (self.partner(*of, &name), earlier.partner(*of, &name));
                    here.is_some() && here == there
                })
            })
        })
    }
}

fn cut<'a>(text: &'a str, delimiter: &str) -> Vec<&'a str> {
    text.split(delimiter).collect()
}

/// What names are made of that stand for any: nothing of a separator.
fn filler(separators: [&str; 2]) -> Option<&'static str> {
    let is_free = |text: &&&str| !separators.iter().any(|separator| separator.contains(|letter| text.contains(letter)));
    ["any", "xx", "00"].iter().find(is_free).copied()
}

/// A name that the pattern matches; `**` stands for so many.
fn instance(pattern: &[&str], filler: &str, depth: usize) -> Vec<String> {
    let mut made = Vec::new();
    for segment in pattern {
        let count = match *segment {
            "*" => 1,
            "**" => depth,
            literal => {
                made.push(literal.to_owned());
                continue;
            }
        };
        for _ in 0..count {
            // Each another, and none a literal by chance.
            made.push(filler.repeat(made.len() + 1));
        }
    }
    made
}

/// A name that both patterns match.
fn both(one: &[&str], other: &[&str], filler: &str) -> Option<Vec<String>> {
    let mut met: Vec<&str> = Vec::new();
    let (mut one, mut other) = (one, other);
    loop {
        match (one.split_first(), other.split_first()) {
            (None, None) => return Some(instance(&met, filler, 1)),
            (Some((&"**", _)), Some(_)) => {
                met.extend(other);
                return Some(instance(&met, filler, 1));
            }
            (Some(_), Some((&"**", _))) => {
                met.extend(one);
                return Some(instance(&met, filler, 1));
            }
            (Some((a, one_behind)), Some((b, other_behind))) => {
                met.push(match (*a, *b) {
                    ("*", name) | (name, "*") => name,
                    (a, b) if a == b => a,
                    _ => return None,
                });
                (one, other) = (one_behind, other_behind);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each route as its patterns, with what it excludes of the paths.
    fn found(routes: &[(&str, &str, &[&str])]) -> Vec<String> {
        let spec = |(zookeeper, redis, exclude): &(&str, &str, &[&str])| RouteSpec {
            zookeeper: Some((*zookeeper).to_owned()),
            redis: Some((*redis).to_owned()),
            exclude_zookeeper: exclude.iter().map(|text| (*text).to_owned()).collect(),
            exclude_redis: Vec::new(),
            separator: ":".to_owned(),
        };
        let specs: Vec<RouteSpec> = routes.iter().map(spec).collect();
        let names: Vec<String> = (0..routes.len()).map(|at| format!("r{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        doubts(&specs, &names).unwrap_or_else(|error| vec![error.to_string()])
    }

    #[test]
    fn routes_that_overlap_on_one_side_lose_pairs() {
        let found = found(&[("/s/**", "s:**", &[]), ("/t/**", "s:x:**", &[]), ("/s/**", "u:**", &[])]);
        let [keys, paths] = [0, 1].map(|at: usize| found.get(at).cloned().unwrap_or_default());
        assert!(found.len() == 2 && keys.contains("`r1`") && keys.contains("`/t/") && keys.contains("s:x:"), "{keys}");
        assert!(paths.contains("`r2`") && paths.contains("`r0`") && paths.contains("`u:"), "{paths}");
        assert_eq!(self::found(&[("/*/x", "*:x", &[]), ("/a/*", "b:*", &[])]).len(), 1);
    }

    #[test]
    fn a_special_route_before_a_general_one_is_meant() {
        assert!(found(&[("/s/x/**", "s:x:**", &[]), ("/s/**", "s:**", &[])]).is_empty());
        assert!(found(&[("/s/*", "s:*", &[]), ("/s/**", "s:**", &[])]).is_empty());
        assert!(found(&[("/a/**", "a:**", &[]), ("/b/**", "b:**", &[])]).is_empty());
        // What the first leaves is for the second.
        assert!(found(&[("/s/**", "s:**", &["/s/x/**"]), ("/s/x/**", "u:**", &[])]).is_empty());
        assert!(found(&[("/s/**", "s:**", &["/s/x/**"]), ("/s/**", "s:**", &[])]).is_empty());
    }

    #[test]
    fn a_route_without_a_pair_and_an_exclude_without_a_name_are_told() {
        for later in [("/s/**", "s:**"), ("/s/x/*", "s:x:*")] {
            let found = found(&[("/s/**", "s:**", &[]), (later.0, later.1, &[])]);
            assert!(found.len() == 1 && found.iter().all(|one| one.contains("`r1` has no pair")), "{found:?}");
        }
        let found = found(&[("/s/**", "s:**", &["/t/**", "/s/x"])]);
        assert!(found.len() == 1 && found.iter().all(|one| one.contains("`/t/**` matches nothing")), "{found:?}");
    }

    #[test]
    fn many_are_counted() {
        let many = vec![("/s/**", "s:**", [].as_slice()); 10];
        assert_eq!(found(&many).len(), SHOWN_MAX + 1);
    }
}
