//! The question before a command rewrites or deletes in bulk.

use super::exit::Failure;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// The flag of every command that rewrites or deletes in bulk.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Confirmation {
    /// Do not ask for confirmation
    #[arg(long, env = "KEEPSTEP_YES", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) yes: bool,
}

/// The error where nobody can be asked.
const NEEDS_YES: &str = "without a terminal to ask on, this needs --yes";

impl Confirmation {
    /// Refuses at once if the question cannot be asked later.
    pub(super) fn check(self, what: &str) -> Result<(), Failure> {
        if self.yes || can_ask() { Ok(()) } else { Err(Failure::Usage(format!("{what}: {NEEDS_YES}"))) }
    }

    /// Asks on a terminal. Elsewhere, `--yes` is needed.
    pub(super) fn ask(self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !can_ask() {
            return Err(Failure::Usage(format!("{question} No: {NEEDS_YES}")));
        }
        let mut screen = std::io::stderr();
        let _ = write!(screen, "{question} [y/N] ").and_then(|()| screen.flush());
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::Failed(format!("stdin: {error}")))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::Failed("nothing was changed".to_owned())),
        }
    }
}

fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}
