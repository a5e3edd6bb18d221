//! A data plane by itself, without agents and cluster, bound to a core: for measuring.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use vda_ports::Port;

use crate::{
    data_plane::{self, Make},
    process::{Process, Spec, tail},
    reaper::Reaper,
    rpc,
};

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
        let prefix = format!("vda-bench-{}", port.number());
        let (program, args) = data_plane::command(make, core, &socket, &prefix)?;
        let core = core.to_string();
        let mut words: Vec<OsString> = ["-c", &core].map(Into::into).to_vec();
        words.push(program.into());
        words.extend(args);
        if make == Make::Embedded {
            words.extend(["--log-level", "warn"].map(Into::into));
        }
        let log = dir.path().join("log");
        let spec = Spec { name: make.to_string(), program: "taskset".into(), args: words, log };
        let process = data_plane::start(&spec, &Arc::new(Reaper::start()?), &socket).await?;
        let ready = rpc::call(&socket, "framework_wait_init", Value::Null).await;
        ready.with_context(|| format!("{make}: end of its log:\n{}", tail(&spec.log, 30)))?;
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
