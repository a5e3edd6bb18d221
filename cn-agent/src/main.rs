//! `vda_cn_agent`.

use std::process::ExitCode;

use clap::Parser;
use vda_cn_agent::{args::Args, serve};

fn main() -> ExitCode {
    let args = Args::parse();
    let log = args.log.clone();
    vda_telemetry::run("cn_agent", &log, |shutdown| serve(args, shutdown))
}
