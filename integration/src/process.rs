//! One process of the cluster, in a process group of its own, logging to a file.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::reaper::Reaper;

/// How a process is started, each time.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) log: PathBuf,
}

impl Spec {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let log = File::options().create(true).append(true).open(&self.log);
        log.with_context(|| format!("opening {}", self.log.display()))
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: u32,
    name: String,
    reaper: Arc<Reaper>,
}

/// How long a process may take to end when asked to.
const STOP: Duration = Duration::from_secs(60);

impl Process {
    pub(crate) fn spawn(spec: &Spec, reaper: &Arc<Reaper>) -> anyhow::Result<Self> {
        let log = spec.open_log()?;
        Self::start(spec.command().stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log), spec, reaper)
    }

    /// Only its stderr goes to the log; the other end of its stdin and stdout is returned.
    pub(crate) fn spawn_interactive(
        spec: &Spec,
        reaper: &Arc<Reaper>,
    ) -> anyhow::Result<(Self, ChildStdin, ChildStdout)> {
        let mut command = spec.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(spec.open_log()?);
        let mut process = Self::start(&mut command, spec, reaper)?;
        let stdin = process.child.stdin.take().context("a pipe")?;
        let stdout = process.child.stdout.take().context("a pipe")?;
        Ok((process, stdin, stdout))
    }

    fn start(command: &mut Command, spec: &Spec, reaper: &Arc<Reaper>) -> anyhow::Result<Self> {
        let child = command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", spec.program.display()))?;
        let group = child.id().context("just started")?;
        reaper.add(group)?;
        Ok(Self { child, group, name: spec.name.clone(), reaper: Arc::clone(reaper) })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.group
    }

    /// `kill -9`, and gone when this returns.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        self.child.wait().await?;
        self.reaper.forget(self.group)
    }

    /// SIGTERM; not ending in time, or ending with an error, is one here.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        let Ok(status) = timeout(STOP, self.child.wait()).await else {
            bail!("{} did not end {} s after SIGTERM", self.name, STOP.as_secs());
        };
        let status = status?;
        self.reaper.forget(self.group)?;
        match status.success() {
            true => Ok(()),
            false => bail!("{} ended with {status} after SIGTERM", self.name),
        }
    }

    /// SIGSTOP or SIGCONT, to the whole group.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.group).ok().and_then(Pid::from_raw) {
            // The group may have ended by itself; then there is nothing to do.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The last lines of a log, for a failure message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    const MOST: u64 = 64 << 10;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = fs::metadata(log)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| error.to_string());
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
