//! A data plane by itself, without agents and cluster: the embedded one, or SPDK's.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use vda_ports::Port;

use crate::{
    binaries,
    process::{Process, Spec, tail},
    ready::eventually,
    reaper::Reaper,
    rpc,
};

/// How long a data plane may take until it answers.
const START: Duration = Duration::from_secs(30);

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
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "vda",
            Self::Spdk => "spdk",
        })
    }
}

/// A running data plane on one core, with a port of its own to listen on. It ends when this is dropped.
#[derive(Debug)]
pub struct Target {
    process: Process,
    socket: PathBuf,
    port: Port,
    _dir: TempDir,
}

impl Target {
    /// Starts one, bound to `core`. It is initialised when this returns.
    pub async fn start(make: Make, core: usize) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vda-target-").tempdir()?;
        let port = Port::reserve()?;
        let socket = dir.path().join("rpc.sock");
        let (program, args) = command(make, core, &socket, &port)?;
        let core = core.to_string();
        let mut words: Vec<OsString> = ["-c", &core].map(Into::into).to_vec();
        words.push(program.into());
        words.extend(args);
        let log = dir.path().join("log");
        let spec = Spec { name: make.to_string(), program: "taskset".into(), args: words, log };
        let reaper = Arc::new(Reaper::start()?);
        let mut process = Process::spawn(&spec, &reaper)?;
        let ready = eventually("the data plane answers", START, || {
            let ended = process.ended();
            let socket = socket.clone();
            async move {
                anyhow::ensure!(ended.is_none(), "ended with {ended:?}");
                UnixStream::connect(&socket).await?;
                rpc::call(&socket, "framework_wait_init", Value::Null).await
            }
        });
        ready.await.with_context(|| format!("{make}: end of its log:\n{}", tail(&spec.log, 30)))?;
        Ok(Self { process, socket, port, _dir: dir })
    }

    /// Calls it over JSON-RPC.
    pub async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        rpc::call(&self.socket, method, params).await
    }

    /// The port that is its own, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGSTOP (`true`) or SIGCONT.
    pub fn freeze(&self, frozen: bool) {
        self.process.freeze(frozen);
    }
}

fn command(make: Make, core: usize, socket: &Path, port: &Port) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let words = |words: &[&str]| words.iter().map(Into::into).collect();
    let socket = socket.display().to_string();
    match make {
        Make::Embedded => {
            Ok((binaries::of_workspace("vda_dataplane")?, words(&["--log-level", "warn", "-r", &socket])))
        }
        Make::Spdk => {
            let program = binaries::spdk_tgt().context("VDA_SPDK_TGT is not set")?;
            let mask = format!("0x{:x}", 1_u64 << core.min(63));
            let prefix = format!("--file-prefix=vda-bench-{}", port.number());
            let memory = ["--no-huge", "-s", "2048", "--no-pci", "--iova-mode=va"];
            let place = ["-r", &socket, "-m", &mask, "--disable-cpumask-locks", "--env-context", &prefix];
            Ok((program, words(&[&memory[..], &place[..]].concat())))
        }
    }
}
