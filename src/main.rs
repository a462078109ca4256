//! The program: arguments, telemetry, exit code.

fn main() -> std::process::ExitCode {
    keepstep::cli::main()
}
