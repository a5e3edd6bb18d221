//! `vda_monitor`.

use std::process::ExitCode;

use clap::Parser;
use vda_monitor::{Args, Config};

fn main() -> ExitCode {
    let args = Args::parse();
    vda_telemetry::run("monitor", &args.log.clone(), |shutdown| async move {
        let config = Config::try_from(args)?;
        vda_monitor::run(config, shutdown).await
    })
}
