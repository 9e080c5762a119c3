//! The command line of the bridge: flags in, logs and signals on, exit code out.

mod cli;
mod logging;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
