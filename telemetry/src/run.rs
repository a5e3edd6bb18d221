//! Start and end of a process.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::{LogArgs, Shutdown};

/// How long tasks get to end after shutdown was triggered.
const GRACE: Duration = Duration::from_secs(5);

/// What `main` of every daemon does: start logging, a multi-thread runtime and the signal handlers, run `work` until it ends or a
/// signal arrives and `work` returns because of it, wait for the tasks spawned on the [`Shutdown`], turn the outcome into an exit
/// status (0 or 1). An error is logged once, here, with its causes.
pub fn run<F, Fut>(role: &'static str, log: &LogArgs, work: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    if let Err(error) = log.init(role) {
        // Logging itself failed, so this is the only place left.
        eprintln!("vda_{role}: {error:#}");
        return ExitCode::from(2);
    }
    match try_run(work) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_run<F, Fut>(work: F) -> anyhow::Result<()>
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot install signal handlers")?;
        let outcome = work(shutdown.clone()).await;
        if !shutdown.finish(GRACE).await {
            tracing::warn!(grace = %humantime::format_duration(GRACE), "some tasks did not end in time");
        }
        outcome
    })
}
