//! Making a data plane usable, and noticing when it has to be done again.

use std::time::Duration;

use tokio::sync::watch;
use vda_spdk::{
    BdevExamine, BdevSetOptions, Client, Errno, Error, FrameworkStartInit, Link, NvmfCreateTransport,
    NvmfGetTransports, Rpc, SpdkGetVersion,
};

use crate::execute::Fault;

/// A data plane that can be called, and whose connection can be watched.
pub trait Target: Rpc + Clone + Send + Sync + 'static {
    /// Follows the connection.
    fn link(&self) -> watch::Receiver<Link>;
}

impl Target for Client {
    fn link(&self) -> watch::Receiver<Link> {
        Self::link(self)
    }
}

/// Brings a data plane that was just (re)connected into the state VDA works in: automatic examine off, framework started, transport there.
///
/// # Errors
/// When it cannot be reached, or runs with automatic examine on: then a bdev that holds a controller's lvstore would be claimed on the
/// disk node, and the data plane must be restarted with `--wait-for-rpc`.
pub async fn prepare(rpc: &impl Rpc, transport: &NvmfCreateTransport) -> Result<(), Fault> {
    let options = BdevSetOptions { bdev_auto_examine: Some(false), ..BdevSetOptions::default() };
    match rpc.call(options).await {
        Ok(_) => {
            rpc.call(FrameworkStartInit {}).await?;
            tracing::info!("data plane started, automatic examine is off");
        }
        Err(error) if error.is_invalid_state() => check_running(rpc).await?,
        Err(error) => return Err(error.into()),
    }
    ensure_transport(rpc, transport).await
}

/// A name no bdev has.
const PROBE: &str = "vda-probe";

/// The data plane was started before: by this agent in an earlier life, or by somebody else. What it was started with cannot be asked for
/// everywhere, but an examine on request is refused (-22) exactly while automatic examine is on.
async fn check_running(rpc: &impl Rpc) -> Result<(), Fault> {
    match rpc.call(BdevExamine::new(PROBE)).await {
        Err(error) if error.errno() == Some(Errno::EINVAL) => Err(Fault::refused(
            "bdev_set_options",
            "the data plane runs with automatic examine on: it would claim disks that hold data of others. Restart it with \
             --wait-for-rpc and leave its start to the agent",
        )),
        Err(error) if error.is_answer() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

async fn ensure_transport(rpc: &impl Rpc, transport: &NvmfCreateTransport) -> Result<(), Fault> {
    let there = rpc.call(NvmfGetTransports::default()).await?;
    if there.iter().any(|t| t.trtype.eq_ignore_ascii_case(&transport.trtype)) {
        return Ok(());
    }
    rpc.call(transport.clone()).await?;
    Ok(())
}

/// Whether the data plane answers at all.
pub(crate) async fn ping(rpc: &impl Rpc) -> Result<(), Error> {
    match rpc.call(SpdkGetVersion {}).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_answer() => Ok(()),
        Err(error) => Err(error),
    }
}

/// How often a data plane that is down is tried, and one that is up is asked whether it still answers.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
pub(crate) const PING: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
