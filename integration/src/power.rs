//! A disk node without power.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{Cluster, Role};

/// What the disks of a node held when it was taken: what is left there if the power goes before anything else is flushed.
#[derive(Debug)]
pub struct Medium {
    dn: usize,
    /// Each disk, and the copy of it.
    disks: Vec<(PathBuf, PathBuf)>,
}

/// Another boot id, as a kernel makes it when it starts.
pub(crate) fn boot_anew(path: &Path) -> anyhow::Result<()> {
    fs::write(path, format!("{}\n", uuid::Uuid::new_v4())).with_context(|| path.display().to_string())
}

/// Copies a disk, and has it on stable storage before anybody opens it.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(File::open(to)?.sync_all()?)
}

impl Cluster {
    /// What the disks of a node hold now. Nothing may be on its way to them.
    pub fn medium(&self, dn: usize) -> anyhow::Result<Medium> {
        let mut disks = Vec::new();
        for pd in 0..self.pds_per_dn() {
            let disk = self.pd_path(dn, pd).to_owned();
            let kept = disk.with_extension("kept");
            copy(&disk, &kept)?;
            disks.push((disk, kept));
        }
        Ok(Medium { dn, disks })
    }

    /// The power of a node goes: its processes are gone, and what was not flushed is too.
    pub async fn cut_power(&mut self, medium: &Medium) -> anyhow::Result<()> {
        self.kill(Role::DnTarget(medium.dn)).await?;
        self.kill(Role::DnAgent(medium.dn)).await?;
        medium.disks.iter().try_for_each(|(disk, kept)| copy(kept, disk))
    }

    /// A node starts: it is another boot.
    pub async fn power_on(&mut self, dn: usize) -> anyhow::Result<()> {
        boot_anew(&self.layout.dns[dn].boot)?;
        self.start(Role::DnTarget(dn)).await?;
        self.start(Role::DnAgent(dn)).await
    }

    /// The boot of a disk node, as VDA names it.
    pub fn boot(&self, dn: usize) -> anyhow::Result<String> {
        let text = fs::read_to_string(&self.layout.dns[dn].boot)?;
        Ok(text.chars().filter(char::is_ascii_hexdigit).take(16).collect())
    }
}
