//! `vda_host`: an NVMe/TCP host in user space, to check a volume without a kernel driver.

mod args;
mod bench;
mod connect;
mod data;
mod pattern;
mod show;

use std::process::ExitCode;

use clap::Parser;
use tokio::task::LocalSet;
use tracing_subscriber::EnvFilter;

use args::{Args, Command};

/// Exit codes, stable: scripts rely on them. 2 is a wrong command line.
const FAILED: u8 = 1;
const MISMATCH: u8 = 3;
const REFUSED: u8 = 4;

fn main() -> ExitCode {
    vda_dataplane::allocator::tune();
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("VDA_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if args.verbose { "info" } else { "error" }));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    vda_dataplane::open_files::raise_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match LocalSet::new().block_on(&runtime, interruptible(args.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn interruptible(command: Command) -> anyhow::Result<()> {
    tokio::select! {
        done = run(command) => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Discover(a) => show::discover(a).await,
        Command::Identify(a) => show::identify(a).await,
        Command::Read(a) => data::read(a).await,
        Command::Write(a) => data::write(a).await,
        Command::Verify(a) => data::verify(a).await,
        Command::Bench(a) => bench::bench(a).await,
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("vda_host: {error:#}");
    let code = if error.is::<data::Mismatch>() {
        MISMATCH
    } else if error.chain().any(|e| e.downcast_ref().is_some_and(connect::is_refusal)) {
        REFUSED
    } else {
        FAILED
    };
    ExitCode::from(code)
}
