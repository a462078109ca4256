//! The part of a pipeline that a command works on: a store, a route, a glob of keys.

use super::exit::Failure;
use super::text;
use crate::assembly;
use crate::change::Side;
use crate::config::Pipeline;
use crate::history::Scope;
use crate::route::glob::Glob;

/// Flags that select pairs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Pairs {
    /// Only pairs of this route
    #[arg(long, env = "KEEPSTEP_ROUTE", value_name = "NAME")]
    pub(super) route: Option<String>,
    /// Only keys that match this glob, as MATCH does in Redis: * ? [abc] [^a] [a-z] \x (paths, for
    /// a pair without a key)
    #[arg(long, env = "KEEPSTEP_KEY", value_name = "GLOB")]
    pub(super) key: Option<Glob>,
}

impl Pairs {
    /// The selected pairs of the pipeline.
    pub(super) fn scope(&self, pipeline: &Pipeline) -> Result<Scope, Failure> {
        let scope = assembly::scope(pipeline)?;
        warn_about_path(pipeline, self.key.as_ref());
        let route = match &self.route {
            Some(name) => {
                known_route(pipeline, Some(name))?;
                pipeline.routes.iter().position(|route| route.name == *name)
            }
            None => None,
        };
        Ok(Scope { route, key: self.key.clone(), ..scope })
    }
}

/// The side of the store of this name.
pub(super) fn side(pipeline: &Pipeline, store: &str) -> Result<Side, Failure> {
    let names = assembly::names(pipeline);
    match store {
        store if names.zookeeper.as_deref() == Some(store) => Ok(Side::Zookeeper),
        store if names.redis.as_deref() == Some(store) => Ok(Side::Redis),
        store => {
            let known: Vec<String> = [names.zookeeper, names.redis].into_iter().flatten().collect();
            let (file, known) = (pipeline.file.display(), known.join(", "));
            Err(Failure::Usage(format!("{file} has no store {store}; its stores are: {known}")))
        }
    }
}

/// Refuses a route that the file does not have.
pub(super) fn known_route(pipeline: &Pipeline, route: Option<&str>) -> Result<(), Failure> {
    match route {
        Some(route) if !pipeline.routes.iter().any(|known| known.name == route) => {
            let (file, names) = (pipeline.file.display(), route_names(pipeline));
            Err(Failure::Usage(format!("{file} has no route {}; its routes are: {names}", text::printable(route))))
        }
        _ => Ok(()),
    }
}

/// Warns if `--key` gives a path: no key would match it, and `tail` would wait for ever.
pub(super) fn warn_about_path(pipeline: &Pipeline, key: Option<&Glob>) {
    let Some(glob) = key.map(Glob::text).filter(|glob| glob.starts_with('/')) else { return };
    let patterns: Option<Vec<&str>> = pipeline.routes.iter().map(|route| route.match_redis.as_deref()).collect();
    if let Some(patterns) = patterns.filter(|patterns| patterns.iter().all(|pattern| !pattern.starts_with('/'))) {
        let keys = patterns.join(", ");
        tracing::warn!("--key {glob} matches Redis keys, not paths; the keys of this pipeline are {keys}");
    }
}

/// The names of the routes, for a message.
fn route_names(pipeline: &Pipeline) -> String {
    let names: Vec<&str> = pipeline.routes.iter().map(|route| route.name.as_str()).collect();
    names.join(", ")
}
