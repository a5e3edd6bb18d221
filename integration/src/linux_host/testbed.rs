//! Guests and bare data planes in a network of their own.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::{Guest, network, requirements};
use crate::{
    eventually,
    process::{Process, Spec, tail},
    reaper::Reaper,
    roles, rpc,
};

/// How long a target may take until it answers.
const START: Duration = Duration::from_secs(30);

/// Where a test with a real Linux host happens. All processes end when it is dropped; unless it was ended with [`Testbed::end`] the
/// ends of their logs are shown, and everything is kept.
#[derive(Debug)]
pub struct Testbed {
    dir: TempDir,
    modules: PathBuf,
    reaper: Arc<Reaper>,
    targets: BTreeMap<String, Process>,
    guests: Cell<usize>,
    ended: bool,
}

impl Testbed {
    /// Moves this thread, and all that it starts from now on, into a new network. `None`, said loudly, where no guest can be booted.
    pub fn open() -> anyhow::Result<Option<Self>> {
        let Some(modules) = requirements::modules()? else { return Ok(None) };
        // Before the reaper: it shall not keep the namespace alive, nor be in it.
        let reaper = Arc::new(Reaper::start()?);
        network::enter_new()?;
        let dir = tempfile::Builder::new().prefix("vda-").tempdir()?;
        Ok(Some(Self { dir, modules, reaper, targets: BTreeMap::new(), guests: Cell::new(0), ended: false }))
    }

    /// Where logs, sockets and disks are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Boots a guest.
    pub async fn boot(&self) -> anyhow::Result<Guest> {
        let nth = self.guests.replace(self.guests.get() + 1);
        Guest::boot(self.dir(), &format!("guest{nth}"), &self.modules, &self.reaper).await
    }

    /// Starts a data plane that is configured by nobody but the test, and waits until it answers.
    pub async fn start_target(&mut self, name: &str) -> anyhow::Result<()> {
        let nth = self.targets.len();
        let prefix = format!("vda-{}-{name}", std::process::id());
        let (program, args) = roles::data_plane(&self.socket(name), nth, &prefix)?;
        let spec = Spec { name: name.to_owned(), program, args, log: self.log(name) };
        let mut process = Process::spawn(&spec, &self.reaper)?;
        let answer = eventually(&format!("{name} answers"), START, || {
            let ended = process.ended();
            let socket = self.socket(name);
            async move {
                if let Some(status) = ended {
                    return Ok(Err(status));
                }
                UnixStream::connect(socket).await?;
                Ok(Ok(()))
            }
        })
        .await?;
        if let Err(status) = answer {
            bail!("{name} ended at once with {status}:\n{}", tail(&self.log(name), 30));
        }
        self.targets.insert(name.to_owned(), process);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill_target(&mut self, name: &str) -> anyhow::Result<()> {
        self.targets.remove(name).with_context(|| format!("{name} does not run"))?.kill().await
    }

    /// Calls a target over JSON-RPC.
    pub async fn rpc(&self, target: &str, method: &str, params: Value) -> anyhow::Result<Value> {
        rpc::call(&self.socket(target), method, params).await
    }

    /// The end of a test in which all went well: no target has ended, and each ends when it is asked to.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for (name, mut process) in std::mem::take(&mut self.targets) {
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

impl Drop for Testbed {
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
