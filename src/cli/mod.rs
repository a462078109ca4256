//! The command line: one file for each command, and the files that commands share.

mod archive;
mod args;
mod confirmation;
mod conflicts;
mod control;
mod diff;
mod echo;
mod exit;
mod guarantees;
mod in_flight;
mod output;
mod progress;
mod quarantine;
mod repair;
mod replay;
mod restore;
mod run;
mod running;
mod schema;
mod selection;
mod status;
mod stream_position;
mod tail;
mod text;
mod top;
mod validate;

use crate::assembly::Network;
use crate::telemetry::logs;
use args::Global;
use clap::{CommandFactory as _, FromArgMatches as _};
use exit::{Exit, Failure};
use std::process::ExitCode;

const ABOUT: &str = "\
Keeps Apache ZooKeeper and Redis in step.

A pipeline file (YAML) maps znodes to keys and defines the direction in which changes flow. `keepstep run` synchronizes them, in one \
direction or in both, and records every change it sees on a durable stream. Conflicts are resolved by rule, and the value that loses \
is kept.";

const EXAMPLES: &str = "\
Examples:
  keepstep validate --connect settings.yaml      check the file and the stores
  keepstep run settings.yaml                     synchronize until Ctrl-C
  keepstep run --once settings.yaml              synchronize once, then end
  keepstep tail settings.yaml                    follow the changes
  keepstep tail settings.yaml --from 10m --key 'settings:db:*' --format json
  keepstep status                                show the running workers
  keepstep quarantine list settings.yaml         list the quarantined pairs
  keepstep diff settings.yaml                    show how the stores differ
  keepstep replay settings.yaml --to cache --until 10m --dry-run

Exit codes:
  0 done    1 failed, or the stores differ    2 wrong usage
  75 a store or a worker does not answer      78 bad pipeline file

Every flag except `replay --url` has an environment variable: --data-dir is KEEPSTEP_DATA_DIR.";

#[derive(Debug, clap::Parser)]
#[command(name = "keepstep", version, about = ABOUT, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run pipelines as a worker until SIGINT or SIGTERM
    Run(run::Run),
    /// Check pipeline files, and with --connect the stores as well
    Validate(validate::Validate),
    /// Print the resolved pipeline with defaults, secrets masked
    Echo(echo::Echo),
    /// Follow the stream of changes
    Tail(tail::Tail),
    /// Restore a store from the stream, to the latest state or a point in time
    Replay(replay::Replay),
    /// Compare both sides pair by pair
    Diff(diff::Diff),
    /// Make one side equal to the other, deletes included
    Repair(repair::Repair),
    /// List the resolved conflicts with both values and the winner; restore a value that lost
    Conflicts(conflicts::Conflicts),
    /// Show and handle the pairs that cannot be synchronized
    Quarantine(quarantine::Quarantine),
    /// Apply bulk deletes held by the delete guard
    Approve(control::Approve),
    /// Stop recording and applying changes, also after a restart; `resume` records and applies the
    /// latest state of each pair that changed meanwhile
    Pause(control::Pause),
    /// Resume after a pause
    Resume(control::Selected),
    /// Compare both sides in full now
    Reconcile(control::Selected),
    /// Show the state of running workers once
    Status(status::Status),
    /// Show the state of running workers, live
    Top(top::Top),
    /// Print the JSON Schema of a pipeline file, or the Avro schema of a change
    Schema(schema::Schema),
    // Listed already, so that clap does not suggest another command with a similar name.
    /// Re-read the pipeline files (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Reload(Later),
    /// Show the pair of a key or a path (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Map(Later),
    /// Print manual pages (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Man(Later),
    /// Print completions for a shell (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Completions(Later),
}

/// Arguments of a command that is not supported yet.
#[derive(Debug, clap::Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

fn later(name: &str) -> Result<Exit, Failure> {
    Err(Failure::Usage(format!("`keepstep {name}` is not supported yet")))
}

/// Reads the arguments, runs the command, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    crate::env::private::close();
    let parsed = unset_empty(Cli::command()).try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout. If that is closed, nobody can read the error either.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    logs::install(cli.global.log_format, cli.global.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::Failed(format!("cannot start the runtime: {error}"));
            failure.print();
            return ExitCode::from(failure.code());
        }
    };
    let ended = runtime.block_on(execute(cli));
    // Tasks that still wait for a server or a disk are cut off.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// How a command line has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: u8,
    /// What went wrong, if anything.
    pub error: String,
}

/// Runs this command line in the world that the thread has entered ([`crate::env::world`]), with these ways to the stores.
pub async fn run_in<'a>(words: impl IntoIterator<Item = &'a str>, network: Network) -> Ended {
    let parsed = Cli::command().try_get_matches_from(words).and_then(|found| Cli::from_arg_matches(&found));
    let mut cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return Ended { code: 2, error: error.to_string() },
    };
    cli.global.network = network;
    match execute(cli).await {
        Ok(exit) => Ended { code: exit.code(), error: String::new() },
        Err(failure) => Ended { code: failure.code(), error: failure.to_string() },
    }
}

/// Makes each flag ignore its environment variable if that is empty: empty counts as unset, as in a
/// shell.
fn unset_empty(command: clap::Command) -> clap::Command {
    let without = |flag: clap::Arg| match flag.get_env().and_then(std::env::var_os) {
        // clap cannot remove a flag's variable, but can replace it by one that nobody can set.
        Some(value) if value.is_empty() => flag.env("(empty)"),
        _ => flag,
    };
    command.mut_args(without).mut_subcommands(unset_empty)
}

async fn execute(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => run::run(args, &global).await,
        Command::Validate(args) => validate::run(&args, &global).await,
        Command::Echo(args) => echo::run(&args, &global),
        Command::Tail(args) => tail::run(args, &global).await,
        Command::Replay(args) => replay::run(args, &global).await,
        Command::Diff(args) => diff::run(args, &global).await,
        Command::Repair(args) => repair::run(args, &global).await,
        Command::Conflicts(args) => conflicts::run(args, &global).await,
        Command::Quarantine(args) => quarantine::run(args, &global).await,
        Command::Approve(args) => control::approve(&args, &global).await,
        Command::Pause(args) => control::pause(&args, &global).await,
        Command::Resume(args) => control::run("resume", &args, &global).await,
        Command::Reconcile(args) => control::run("reconcile", &args, &global).await,
        Command::Status(args) => status::run(&args, &global).await,
        Command::Top(args) => top::run(&args, &global).await,
        Command::Schema(args) => schema::run(&args, &global),
        Command::Reload(_) => later("reload"),
        Command::Map(_) => later("map"),
        Command::Man(_) => later("man"),
        Command::Completions(_) => later("completions"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use args::Format;
    use clap::Parser as _;
    use std::path::Path;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_variable() {
        fn check(command: &clap::Command) {
            for flag in
                command.get_arguments().filter(|flag| flag.get_long().is_some_and(|it| it != "help" && it != "version"))
            {
                if (command.get_name(), flag.get_long()) == ("replay", Some("url")) {
                    assert_eq!(flag.get_env(), None, "KEEPSTEP_URL is a worker's address");
                    continue;
                }
                let expected = format!("KEEPSTEP_{}", flag.get_long().unwrap().to_uppercase().replace('-', "_"));
                assert_eq!(
                    flag.get_env().and_then(|it| it.to_str()),
                    Some(expected.as_str()),
                    "{}",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_example_fits_into_a_line_of_80_columns() {
        fn check(command: &clap::Command) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter(|line| line.starts_with("  keepstep")) {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "keepstep --format json --data-dir /d echo p.yaml",
            "keepstep echo --format json p.yaml --data-dir /d",
            "keepstep quarantine list p.yaml --format json --data-dir=/d",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.format, Format::Json, "{line}");
            assert_eq!(cli.global.data_dir, Path::new("/d"), "{line}");
        }
    }

    #[test]
    fn wrong_usage_exits_2_and_help_0() {
        for line in
            ["keepstep", "keepstep run", "keepstep nope", "keepstep tail p --from never", "keepstep run p --timeout x"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in
            ["keepstep reload p.yaml", "keepstep map p.yaml a:b", "keepstep completions bash", "keepstep man -h"]
        {
            assert!(parse(line).is_ok(), "it says that it is not supported yet: {line}");
        }
        for line in ["keepstep --help", "keepstep --version", "keepstep run --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn replay_needs_a_store_and_repair_a_preferred_one() {
        for line in [
            "keepstep replay p.yaml --to cache --until 5 --key a* --dry-run",
            "keepstep replay p.yaml --to cache --until 10m --yes",
            "keepstep diff p.yaml",
            "keepstep repair --prefer zk p.yaml --yes",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in
            ["keepstep replay p.yaml", "keepstep repair p.yaml", "keepstep replay p.yaml --to a --until earliest"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn conflicts_takes_a_file_or_restore() {
        assert!(parse("keepstep conflicts p.yaml --key a*").is_ok());
        assert!(parse("keepstep conflicts restore p.yaml 42 --yes").is_ok());
        assert!(parse("keepstep conflicts").is_err());
    }
}
