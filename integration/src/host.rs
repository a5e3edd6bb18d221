//! A host: `vda_host`, the userspace NVMe/TCP initiator.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::{Run, binaries};

/// A host with its NQN, and the paths to one subsystem.
#[derive(Clone, Debug)]
pub struct Host {
    nqn: String,
    subsystem: String,
    paths: Vec<String>,
}

impl Host {
    /// `paths`: `IP:PORT` of each controller.
    pub fn new(nqn: &str, subsystem: &str, paths: &[String]) -> Self {
        Self { nqn: nqn.to_owned(), subsystem: subsystem.to_owned(), paths: paths.to_vec() }
    }

    /// Another host that tries the same.
    #[must_use]
    pub fn with_nqn(self, nqn: &str) -> Self {
        Self { nqn: nqn.to_owned(), ..self }
    }

    /// Writes all of the first `mib` MiB with data that `seed` determines.
    pub async fn fill(&self, seed: u64, mib: u64) -> anyhow::Result<()> {
        self.ok("write", &format!("--random --length {mib}MiB --seed {seed}")).await.map(drop)
    }

    /// As [`Self::fill`], without a flush at the end.
    pub async fn fill_unflushed(&self, seed: u64, mib: u64) -> anyhow::Result<()> {
        self.ok("write", &format!("--random --no-flush --length {mib}MiB --seed {seed}")).await.map(drop)
    }

    /// Reads them and compares with what [`Self::fill`] wrote with that seed.
    pub async fn check(&self, seed: u64, mib: u64) -> anyhow::Result<()> {
        self.ok("verify", &format!("--length {mib}MiB --seed {seed}")).await.map(drop)
    }

    /// `vda_host VERB` with more arguments.
    pub async fn run(&self, verb: &str, more: &str) -> anyhow::Result<Run> {
        let mut command = self.command(verb, more)?;
        let output = command.output().await.context("vda_host")?;
        Ok(Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// The same, to be started and followed.
    pub fn command(&self, verb: &str, more: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(binaries::of_workspace("vda_host")?);
        command.arg(verb).args(["--nqn", &self.subsystem, "--hostnqn", &self.nqn]);
        for path in &self.paths {
            command.args(["--path", &format!("tcp://{path}")]);
        }
        command.args(more.split_whitespace()).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// [`Self::run`] that must succeed; its stdout.
    pub async fn ok(&self, verb: &str, more: &str) -> anyhow::Result<String> {
        let run = self.run(verb, more).await?;
        ensure!(
            run.code == 0,
            "vda_host {verb} {more}: exit code {}\n{}{}",
            run.code,
            run.stdout,
            run.stderr
        );
        Ok(run.stdout)
    }
}
