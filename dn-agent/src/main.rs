//! `vda_dn_agent`.

use std::process::ExitCode;

use clap::Parser;
use vda_dn_agent::{args::Args, serve};

fn main() -> ExitCode {
    let args = Args::parse();
    let log = args.log.clone();
    vda_telemetry::run("dn_agent", &log, |shutdown| serve(args, shutdown))
}
