//! Lists what a cluster has left in etcd and in its targets; exit code 1 if there is anything.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::Parser;

/// Shows what is left in etcd and in data planes after everything was deleted
#[derive(Debug, Parser)]
struct Args {
    /// etcd, HOST:PORT
    #[arg(long)]
    etcd_endpoints: String,
    /// Prefix of all keys
    #[arg(long)]
    prefix: String,
    /// JSON-RPC socket of a data plane; repeat it
    #[arg(long = "target", value_name = "SOCKET")]
    targets: Vec<PathBuf>,
    /// Nodes and their disks are still wanted: only what disk arrays left counts
    #[arg(long)]
    nodes_stay: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let left = vda_integration::leftovers(&args.etcd_endpoints, &args.prefix, &args.targets, args.nodes_stay)
        .await?;
    let mut out = std::io::stdout().lock();
    if left.0.is_empty() {
        writeln!(
            out,
            "nothing is left in etcd, nor in {} data planes (bdevs, lvstores, lvols, raids, subsystems)",
            args.targets.len()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(out, "left:\n{left}")?;
    Ok(ExitCode::FAILURE)
}
