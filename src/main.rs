//! The program: arguments, telemetry, exit code.

/// A fifth of the worker's time went into the system's allocator: small values, many of them, freed on another thread than
/// the one that made them (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    keepstep::cli::main()
}
