//! fio in a guest, writing and verifying without end.

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};

use super::{Guest, script};
use crate::eventually;

/// A whole round on a busy machine, with a path coming back in it.
const ROUND: Duration = Duration::from_secs(120);

/// Rounds of random writes, each read back with `--verify=crc32c`. Any I/O error and any wrong byte ends it with an error.
#[derive(Debug)]
pub struct Load<'a> {
    guest: &'a Guest,
    dir: PathBuf,
}

impl<'a> Load<'a> {
    /// Starts it on the first `mib` MiB of `device`. One at a time in a guest.
    pub async fn start(guest: &'a Guest, device: &str, mib: u32) -> anyhow::Result<Self> {
        let dir = guest.share().join("load");
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir(&dir)?,
        }
        let program = script("verify-load.sh").canonicalize()?;
        let program = program.display();
        guest
            .sh(&format!("{program} {device} {mib} /mnt/share/load >/mnt/share/load/out 2>&1 & load=$!"))
            .await?;
        let load = Self { guest, dir };
        load.more_rounds(1).await?;
        Ok(load)
    }

    /// Complete rounds.
    pub fn rounds(&self) -> anyhow::Result<u64> {
        match fs::read_to_string(self.dir.join("rounds")) {
            Ok(text) => text.trim().parse().context("a number of rounds"),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until that many more rounds are complete: the first of them may have been under way, others begin from now on.
    pub async fn more_rounds(&self, count: u64) -> anyhow::Result<()> {
        let end = self.rounds()? + count;
        let failed = self.dir.join("failed");
        let ended = eventually("fio completes a round", ROUND, || async {
            match self.rounds()? {
                rounds if rounds >= end => Ok(true),
                _ if failed.exists() => Ok(false),
                rounds => bail!("{rounds} rounds, not {end}"),
            }
        })
        .await?;
        ensure!(ended, "fio failed:\n{}", self.said());
        Ok(())
    }

    /// Lets the round in progress end, and makes sure that there was no error ever.
    pub async fn stop(self) -> anyhow::Result<u64> {
        fs::write(self.dir.join("stop"), "")?;
        let run = self.guest.run("wait $load", ROUND).await?;
        ensure!(run.code == 0, "fio failed: exit code {}\n{}", run.code, self.said());
        self.rounds()
    }

    fn said(&self) -> String {
        ["out", "fio.txt"].map(|file| fs::read_to_string(self.dir.join(file)).unwrap_or_default()).join("\n")
    }
}
