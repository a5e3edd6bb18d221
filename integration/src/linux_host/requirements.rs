//! Whether a guest can be booted here, and the modules it needs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use super::script;
use crate::binaries;

/// Programs of the packages that `scripts/test.sh` installs.
const PROGRAMS: [&str; 15] = [
    "linux.uml",
    "nvme",
    "fio",
    "mkfs.ext4",
    "mkfs.xfs",
    "modprobe",
    "ip",
    "unshare",
    "gcc",
    "make",
    "bc",
    "bison",
    "flex",
    "xz",
    "dpkg-deb",
];

/// The directory with the modules, built now if it must be; `None`, said loudly, where that is impossible and not required.
pub(super) fn modules() -> anyhow::Result<Option<PathBuf>> {
    let wish = env::var("VDA_LINUX_HOST").unwrap_or_default();
    let found = match wish.as_str() {
        "off" => bail_out("VDA_LINUX_HOST=off"),
        "" | "required" => check().and_then(|()| build()),
        other => bail!("VDA_LINUX_HOST={other}: nothing, `required` and `off` are known"),
    };
    match found {
        Ok(modules) => Ok(Some(modules)),
        Err(why) if wish == "required" => Err(why.context("VDA_LINUX_HOST=required")),
        Err(why) => {
            eprintln!("===== SKIPPED: nothing was tested with a real Linux host: {why:#}");
            Ok(None)
        }
    }
}

fn bail_out(why: &str) -> anyhow::Result<PathBuf> {
    bail!("{why}")
}

fn check() -> anyhow::Result<()> {
    for program in PROGRAMS {
        binaries::of_system(program)?;
    }
    ensure!(rustix::process::geteuid().is_root(), "network namespaces and taps need root");
    ensure!(Path::new("/dev/net/tun").exists(), "/dev/net/tun is not there");
    ensure!(Path::new("/usr/lib/uml/modules").is_dir(), "/usr/lib/uml/modules is not there");
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let dir = binaries::beside_this_process()?.parent().context("a target directory")?.join("linux-host");
    let build = script("build-modules.sh");
    let output = Command::new("bash").arg(&build).arg(&dir).output().context("bash")?;
    ensure!(
        output.status.success(),
        "{}: {}\n{}",
        build.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(dir)
}
