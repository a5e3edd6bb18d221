//! The `vdacli` process: arguments in, an exit code out. All else is in the library.

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    vda_cli::main(vda_cli::Cli::parse()).await
}
