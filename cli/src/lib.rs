//! `vdacli <dn|pd|cn|da|exp> <create|get|list|modify|delete>`: the command line of VDA.
//!
//! One file per noun: its arguments, the requests they become, and the columns its objects are shown in. What the portal says is
//! shown as it is: JSON and YAML are the portal's own messages.

mod args;
mod cell;
mod cluster;
mod cn;
mod da;
mod dn;
mod exp;
mod failure;
mod node;
mod output;
mod pd;
mod session;
mod size;
mod table;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use crate::failure::Failure;
use crate::{args::Global, output::Output, session::Session};

const AFTER_HELP: &str = "\
Commands that create or delete wait up to 10 seconds for the result and show what it waits for; \
--wait insists, --no-wait returns as soon as the portal has accepted the request.

Exit codes: 0 done, 1 failed, 2 bad usage or arguments, 3 not found, 4 conflict or busy, 5 portal unavailable, 6 --wait timed out.

The flags of the Go VDA (--sock-addr, --tr-addr, --da-name, --size-mb, ...) are accepted as well.";

/// Command line of VDA: disk arrays out of the disks of many nodes, over NVMe/TCP
#[derive(Debug, Parser)]
#[command(name = "vdacli", version, max_term_width = 110, after_help = AFTER_HELP)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Disk nodes: servers with disks
    #[command(subcommand)]
    Dn(dn::Command),
    /// Physical disks of disk nodes
    #[command(subcommand)]
    Pd(pd::Command),
    /// Controller nodes: servers that aggregate virtual disks and export disk arrays
    #[command(subcommand)]
    Cn(cn::Command),
    /// Disk arrays: the volumes
    #[command(subcommand)]
    Da(da::Command),
    /// Exporters: through which hosts see a disk array
    #[command(subcommand)]
    Exp(exp::Command),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

/// Runs one command; errors go to stderr, and become the exit code of [`Failure::exit_code`].
pub async fn main(cli: Cli) -> ExitCode {
    let verbose = cli.global.verbose;
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.render(verbose));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(&cli.global);
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vdacli", &mut script);
        return output.raw(&script);
    }
    let session = Session::open(&cli.global, output).await?;
    match cli.command {
        Command::Dn(command) => command.run(&session).await,
        Command::Pd(command) => command.run(&session).await,
        Command::Cn(command) => command.run(&session).await,
        Command::Da(command) => command.run(&session).await,
        Command::Exp(command) => command.run(&session).await,
        Command::Cluster(command) => command.run(&session).await,
        Command::Completions { .. } => Ok(()),
    }
}
