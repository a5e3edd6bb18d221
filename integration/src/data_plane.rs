//! How a data plane is started: the embedded one, or SPDK's.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;

use crate::{
    binaries,
    process::{Process, Spec, tail},
    ready::eventually,
    reaper::Reaper,
};

/// How long one may take until it listens.
const START: Duration = Duration::from_secs(90);

/// Whose data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// `vda_dataplane`.
    Embedded,
    /// The `spdk_tgt` that `VDA_SPDK_TGT` names.
    Spdk,
}

impl Make {
    /// Those that can be started here.
    pub fn available() -> Vec<Self> {
        let spdk = binaries::spdk_tgt().map(|_| Self::Spdk);
        std::iter::once(Self::Embedded).chain(spdk).collect()
    }

    /// What tests run on: SPDK, if it is given.
    fn of_environment() -> Self {
        if binaries::spdk_tgt().is_some() { Self::Spdk } else { Self::Embedded }
    }
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "vda",
            Self::Spdk => "spdk",
        })
    }
}

/// Program and arguments of one that is reached at `socket`. SPDK takes `core`; the embedded one runs where it is put. `prefix`: of SPDK's
/// shared files.
pub(crate) fn command(
    make: Make,
    core: usize,
    socket: &Path,
    prefix: &str,
) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let words = |words: &[&str]| words.iter().map(Into::into).collect();
    let socket = socket.display().to_string();
    match make {
        Make::Embedded => Ok((binaries::of_workspace("vda_dataplane")?, words(&["-r", &socket]))),
        Make::Spdk => {
            let program = binaries::spdk_tgt().context("VDA_SPDK_TGT is not set")?;
            let mask = format!("0x{:x}", 1_u64 << core.min(63));
            let prefix = format!("--file-prefix={prefix}");
            let memory = ["--no-huge", "-s", "2048", "--no-pci", "--iova-mode=va"];
            let place = ["-r", &socket, "-m", &mask, "--disable-cpumask-locks", "--env-context", &prefix];
            Ok((program, words(&[&memory[..], &place[..]].concat())))
        }
    }
}

/// The same for the `nth` of a test, of the make that the environment asks for: SPDK on a core of its own as far as there are cores.
pub(crate) fn nth_command(
    nth: usize,
    socket: &Path,
    prefix: &str,
) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    command(Make::of_environment(), nth % cores.min(64), socket, prefix)
}

/// Starts one and waits until it listens on `socket`.
pub(crate) async fn start(spec: &Spec, reaper: &Arc<Reaper>, socket: &Path) -> anyhow::Result<Process> {
    let mut process = Process::spawn(spec, reaper)?;
    let listening = eventually(&format!("{} listens", spec.name), START, || {
        let ended = process.ended();
        async move {
            if let Some(status) = ended {
                return Ok(Err(status));
            }
            UnixStream::connect(socket).await?;
            Ok(Ok(()))
        }
    })
    .await?;
    if let Err(status) = listening {
        bail!("{} ended at once with {status}:\n{}", spec.name, tail(&spec.log, 30));
    }
    Ok(process)
}
