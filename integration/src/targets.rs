//! Several data planes, configured by nobody but the test.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    data_plane,
    process::{Process, Spec, tail},
    reaper::Reaper,
    rpc,
};

/// Targets without agents, by name, and the directory of all that belongs to the test. All processes end when it is dropped; unless it was ended
/// with [`Targets::end`] the ends of all logs are shown, and everything is kept.
#[derive(Debug)]
pub struct Targets {
    dir: TempDir,
    reaper: Arc<Reaper>,
    processes: BTreeMap<String, Process>,
    ended: bool,
}

impl Targets {
    /// None yet.
    pub fn new() -> anyhow::Result<Self> {
        let reaper = Arc::new(Reaper::start()?);
        // Short: a Unix socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("vda-").tempdir()?;
        Ok(Self { dir, reaper, processes: BTreeMap::new(), ended: false })
    }

    /// Where logs, sockets and disks are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a data plane and waits until it listens.
    pub async fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let nth = self.processes.len();
        let prefix = format!("vda-{}-{name}", std::process::id());
        let socket = self.socket(name);
        let (program, args) = data_plane::nth_command(nth, &socket, &prefix)?;
        let spec = Spec { name: name.to_owned(), program, args, log: self.log(name) };
        let process = data_plane::start(&spec, &self.reaper, &socket).await?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.processes.remove(name).with_context(|| format!("{name} does not run"))?.kill().await
    }

    /// Calls a target over JSON-RPC.
    pub async fn rpc(&self, target: &str, method: &str, params: Value) -> anyhow::Result<Value> {
        rpc::call(&self.socket(target), method, params).await
    }

    /// The end of a test in which all went well: no target has ended, and each ends when it is asked to.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for (name, mut process) in std::mem::take(&mut self.processes) {
            if let Some(status) = process.ended() {
                bail!("{name} has ended with {status}");
            }
            process.stop().await?;
            if let Some(line) = self.said(&name).lines().find(|line| line.contains("panicked at")) {
                bail!("{name}: {line}");
            }
        }
        self.ended = true;
        Ok(())
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.sock"))
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        if self.ended && std::env::var_os("VDA_KEEP").is_none() {
            return;
        }
        let logs = std::fs::read_dir(self.dir()).into_iter().flatten().flatten().map(|entry| entry.path());
        for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
            eprintln!("===== end of {}\n{}", log.display(), tail(&log, 25));
        }
        self.dir.disable_cleanup(true);
        eprintln!("===== logs and disks are kept in {}", self.dir().display());
    }
}
