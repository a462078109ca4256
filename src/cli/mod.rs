//! The command line: what can be asked, and who answers it. One file a command.

mod args;
mod conflicts;
mod diff;
mod echo;
mod exit;
mod guarantees;
mod keeper;
mod meter;
mod output;
mod place;
mod progress;
mod quarantine;
mod repair;
mod replay;
mod restore;
mod run;
mod schema;
mod settling;
mod status;
mod steer;
mod tail;
mod text;
mod top;
mod validate;
mod which;

use crate::telemetry::logs;
use args::Global;
use clap::{CommandFactory as _, FromArgMatches as _};
use exit::{Exit, Failure};
use std::process::ExitCode;

const ABOUT: &str = "\
Keeps Apache ZooKeeper and Redis in step.

A pipeline file (YAML) says which znodes belong to which keys and which way changes flow. `keepstep run` carries them \
over, in both directions if you like, and keeps a durable stream of every change it saw. Conflicts are settled by rule, \
and the value that loses is kept.";

const EXAMPLES: &str = "\
Examples:
  keepstep validate --connect settings.yaml      is the file right, and will the stores do?
  keepstep run settings.yaml                     keep them in step until Ctrl-C
  keepstep run --once settings.yaml              bring them in step once, then end
  keepstep tail settings.yaml                    follow what changes
  keepstep tail settings.yaml --from earliest --no-follow --key 'settings:db:*' --format json
  keepstep status                                how is it going?
  keepstep quarantine list settings.yaml         which pairs could not be brought in step, and why?
  keepstep diff settings.yaml                    what do the stores not have in common?
  keepstep replay settings.yaml --to cache --until 2026-11-22T14:03:00Z --dry-run

Exit codes:
  0 done    1 failed, or the stores differ    2 wrong usage
  75 a store or a worker does not answer      78 the pipeline file cannot be used

Every flag can be given as a variable: --data-dir is KEEPSTEP_DATA_DIR.";

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
    /// Print the pipeline as it is understood, with defaults, secrets masked
    Echo(echo::Echo),
    /// Follow the stream of changes
    Tail(tail::Tail),
    /// Make a store what the stream says, up to now or up to a moment
    Replay(replay::Replay),
    /// Compare both sides pair by pair
    Diff(diff::Diff),
    /// Make one side equal to the other, deletes included
    Repair(repair::Repair),
    /// Show the settled conflicts, with both values and the winner; bring back a value that lost
    Conflicts(conflicts::Conflicts),
    /// Show and steer the pairs that could not be brought in step
    Quarantine(quarantine::Quarantine),
    /// Carry out the deletes in mass that a worker holds back
    Approve(steer::Approve),
    /// Stop applying changes, also after a restart; what changes meanwhile is remembered, and recorded at `resume`
    Pause(steer::Pause),
    /// Go on after a pause
    Resume(steer::Steer),
    /// Compare both sides in full now
    Reconcile(steer::Steer),
    /// Show how running workers are doing, once
    Status(status::Status),
    /// Show how running workers are doing, live
    Top(top::Top),
    /// Print the JSON Schema of a pipeline file, or the Avro schema of a change
    Schema(schema::Schema),
    // Known already, so that nobody is sent to another command that is spelled alike.
    /// Read the files again (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Reload(Later),
    /// Show the pair of a key or path (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Map(Later),
    /// Print manual pages (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Man(Later),
    /// Print completions for a shell (not supported yet)
    #[command(hide = true, disable_help_flag = true)]
    Completions(Later),
}

/// Arguments of a command that is still to come.
#[derive(Debug, clap::Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

fn later(name: &str) -> Result<Exit, Failure> {
    Err(Failure::Usage(format!("`keepstep {name}` is not supported yet")))
}

/// Reads the arguments, does what they ask, and answers with the exit code.
#[must_use]
pub fn main() -> ExitCode {
    crate::env::private::close();
    let parsed = unset_empty(Cli::command()).try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, which may be closed; then there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    logs::install(cli.global.log_format, cli.global.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::Failed(format!("the program cannot start: {error}"));
            failure.tell();
            return failure.code();
        }
    };
    let ended = runtime.block_on(carry_out(cli));
    // Whatever still waits for a server or a disk is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.code(),
        Err(failure) => {
            failure.tell();
            failure.code()
        }
    }
}

/// The command line, on which a flag whose variable is empty does not look at it: empty counts as unset, as it does in a shell.
fn unset_empty(command: clap::Command) -> clap::Command {
    let without = |flag: clap::Arg| match flag.get_env().and_then(std::env::var_os) {
        // A variable cannot be taken away from a flag again, but it can be given another, which nobody can set.
        Some(value) if value.is_empty() => flag.env("(empty)"),
        _ => flag,
    };
    command.mut_args(without).mut_subcommands(unset_empty)
}

async fn carry_out(cli: Cli) -> Result<Exit, Failure> {
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
        Command::Approve(args) => steer::approve(&args, &global).await,
        Command::Pause(args) => steer::pause(&args, &global).await,
        Command::Resume(args) => steer::run("resume", &args, &global).await,
        Command::Reconcile(args) => steer::run("reconcile", &args, &global).await,
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
