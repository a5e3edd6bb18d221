//! A booted guest, driven over its console.

use std::{
    fs::{File, create_dir_all},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStdin, ChildStdout},
    sync::Mutex,
    time::timeout,
};

use super::{Faults, kernel_log, script};
use crate::{
    Run, binaries, eventually,
    process::{Process, Spec, tail},
    reaper::Reaper,
};

/// From the start of the kernel to its first command; some seconds unless the machine is busy.
const BOOT: Duration = Duration::from_secs(120);

/// How long a command may take unless it says otherwise.
const COMMAND: Duration = Duration::from_secs(120);

/// A Linux kernel with its own memory and the outer machine's files, read-only.
///
/// Dropping it is a power cut.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    console: Mutex<Console>,
    log: PathBuf,
    share: PathBuf,
}

#[derive(Debug)]
struct Console {
    input: ChildStdin,
    output: ChildStdout,
    unread: Vec<u8>,
    log: File,
}

impl Guest {
    /// Boots a kernel that is called `name` in `dir`; `modules` is what `build-modules.sh` built.
    pub(super) async fn boot(
        dir: &Path,
        name: &str,
        modules: &Path,
        reaper: &Arc<Reaper>,
    ) -> anyhow::Result<Self> {
        let share = dir.join(format!("{name}-share"));
        create_dir_all(&share)?;
        let log = dir.join(format!("{name}.log"));
        let mut args: Vec<String> = ["mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]
            .map(str::to_owned)
            .to_vec();
        args.extend(["con=null", "con0=fd:0,fd:1", "quiet", "loglevel=1"].map(str::to_owned));
        args.push(format!("init={}", script("guest-init.sh").canonicalize()?.display()));
        args.push(format!("uml_dir={}", dir.join(format!("{name}-uml")).display()));
        args.push(format!("vda_share={}", share.display()));
        args.push(format!("vda_modules={}", modules.canonicalize()?.display()));
        for path in 0..super::PATHS.len() {
            args.push(format!("vec{path}:transport=tap,ifname=tap{path},depth=64,gro=1"));
        }
        let spec = Spec {
            name: name.to_owned(),
            program: binaries::of_system("linux.uml")?,
            args: args.into_iter().map(Into::into).collect(),
            log: log.clone(),
        };
        let (process, input, output) = Process::spawn_interactive(&spec, reaper)?;
        let console =
            Console { input, output, unread: Vec::new(), log: File::options().append(true).open(&log)? };
        let guest = Self { process, console: Mutex::new(console), log, share };
        let ready = async { guest.console.lock().await.until(b"READY\n").await };
        let noise = guest.limited("boot", BOOT, ready).await?;
        ensure!(!noise.contains("insmod"), "the guest's modules: {noise}");
        Ok(guest)
    }

    /// A shell command in the guest that must succeed; what it printed.
    pub async fn sh(&self, command: &str) -> anyhow::Result<String> {
        let run = self.run(command, COMMAND).await?;
        ensure!(run.code == 0, "in the guest: {command}: exit code {}\n{}", run.code, run.stdout);
        Ok(run.stdout)
    }

    /// A shell command and its end, whatever it is, within `limit`. stdout has both of its outputs.
    pub async fn run(&self, command: &str, limit: Duration) -> anyhow::Result<Run> {
        debug_assert!(!command.contains('\n'), "a line is a command");
        let exchange = async {
            let mut console = self.console.lock().await;
            console.input.write_all(format!("{command}\n").as_bytes()).await?;
            console.input.flush().await?;
            let stdout = console.until(b"<<<RC ").await?;
            let code = console.until(b">>>\n").await?.parse().context("an exit code")?;
            Ok(Run { code, stdout, stderr: String::new() })
        };
        self.limited(command, limit, exchange).await
    }

    /// Waits until a shell command succeeds.
    pub async fn until(&self, what: &str, limit: Duration, command: &str) -> anyhow::Result<String> {
        eventually(what, limit, || self.sh(command)).await
    }

    /// Fails if the kernel has complained since the last call, or since it booted, about more than `faults` excuse.
    pub async fn kernel_is_content(&self, faults: Faults) -> anyhow::Result<()> {
        let log = self.sh("dmesg --color=never --decode --read-clear").await?;
        let complaints = kernel_log::complaints(&log, faults);
        ensure!(complaints.is_empty(), "the guest's kernel complains:\n{}\nin\n{log}", complaints.join("\n"));
        Ok(())
    }

    /// A directory that the guest sees as `/mnt/share`.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// A power cut: what the guest had only in memory is lost.
    pub async fn power_cut(self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    async fn limited<T>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        match timeout(limit, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(why.context(format!("in the guest: {what}\n{}", tail(&self.log, 40)))),
            Err(_) => bail!("in the guest: {what}: not in {limit:?}\n{}", tail(&self.log, 40)),
        }
    }
}

impl Console {
    /// What comes before `mark`, which is dropped.
    async fn until(&mut self, mark: &[u8]) -> anyhow::Result<String> {
        let mut from = 0;
        loop {
            if let Some(at) = self.unread[from..].windows(mark.len()).position(|window| window == mark) {
                let rest = self.unread.split_off(from + at + mark.len());
                let before = std::mem::replace(&mut self.unread, rest);
                return Ok(String::from_utf8_lossy(&before[..from + at]).into_owned());
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            let old = self.unread.len();
            ensure!(self.output.read_buf(&mut self.unread).await? > 0, "the guest has ended");
            self.log.write_all(&self.unread[old..])?;
        }
    }
}
