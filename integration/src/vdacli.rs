//! `vdacli` against a cluster's portal.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::{Cluster, binaries};

/// What one run did.
#[derive(Debug)]
pub struct Run {
    /// Exit code; -1 if it was killed.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// All it said about it.
    pub stderr: String,
}

impl Cluster {
    /// `vdacli` with these words.
    pub async fn vdacli(&self, line: &str) -> anyhow::Result<Run> {
        self.vdacli_words(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    /// `vdacli` with arguments that may contain anything.
    pub async fn vdacli_words(&self, words: &[&str]) -> anyhow::Result<Run> {
        let output = Command::new(binaries::of_workspace("vdacli")?)
            .env("VDA_PORTAL", self.portal_address(0))
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("vdacli")?;
        Ok(Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// `vdacli` that must succeed; its stdout.
    pub async fn vdacli_ok(&self, line: &str) -> anyhow::Result<String> {
        let run = self.vdacli(line).await?;
        ensure!(run.code == 0, "vdacli {line}: exit code {}\n{}{}", run.code, run.stdout, run.stderr);
        Ok(run.stdout)
    }
}
