//! Which part of a pipeline a command is about: a store, a route, a glob of keys; and what is asked before it acts.

use super::exit::Failure;
use super::place;
use crate::assembly;
use crate::change::Side;
use crate::config::Pipeline;
use crate::history::Scope;
use crate::route::glob::Glob;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Flags that choose pairs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Pairs {
    /// Only pairs of this route
    #[arg(long, env = "KEEPSTEP_ROUTE", value_name = "NAME")]
    pub(super) route: Option<String>,
    /// Only keys that match, as Redis' MATCH does: * ? [abc] [^a] [a-z] \x (paths, where a pair has no key)
    #[arg(long, env = "KEEPSTEP_KEY", value_name = "GLOB")]
    pub(super) key: Option<Glob>,
}

impl Pairs {
    /// The pairs of the pipeline that are meant.
    pub(super) fn scope(&self, pipeline: &Pipeline) -> Result<Scope, Failure> {
        let scope = assembly::scope(pipeline)?;
        place::warn_of_a_path(pipeline, self.key.as_ref());
        let route = match &self.route {
            Some(name) => {
                place::known_route(pipeline, Some(name))?;
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
            Err(Failure::Usage(format!("{file} has no store {store}; it has: {known}")))
        }
    }
}

/// The flag of every command that rewrites or deletes in bulk.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Confirmation {
    /// Do not ask
    #[arg(long, env = "KEEPSTEP_YES", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) yes: bool,
}

impl Confirmation {
    /// Refuses at once what could not be confirmed later: there is no terminal to ask on.
    pub(super) fn check(self, what: &str) -> Result<(), Failure> {
        if self.yes || can_ask() { Ok(()) } else { Err(Failure::Usage(format!("{what}: {NEEDS_YES}"))) }
    }

    /// Asks on a terminal; elsewhere only `--yes` will do.
    pub(super) fn ask(self, question: &str) -> Result<(), Failure> {
        if confirmed(self.yes, question)? {
            return Ok(());
        }
        Err(Failure::Failed("nothing was changed".to_owned()))
    }
}

/// What is said where nobody can be asked.
const NEEDS_YES: &str = "without a terminal to ask on this needs --yes";

/// Whether somebody can be asked.
fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

fn confirmed(yes: bool, question: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !can_ask() {
        return Err(Failure::Usage(format!("{question} No: {NEEDS_YES}")));
    }
    let mut screen = std::io::stderr();
    let _ = write!(screen, "{question} [y/N] ").and_then(|()| screen.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::Failed(format!("stdin: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
