//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The program `name` of this workspace: in `VDA_BIN_DIR` if that is set, else beside the running test (`target/debug`).
pub fn of_workspace(name: &str) -> anyhow::Result<PathBuf> {
    let dir = match env::var_os("VDA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => beside_this_process()?,
    };
    let path = dir.join(name);
    match path.is_file() {
        true => Ok(path),
        false => bail!("{} is not there: run `cargo build --workspace --bins` first", path.display()),
    }
}

/// A test is `target/debug/deps/x-hash`, a binary `target/debug/x`.
pub(crate) fn beside_this_process() -> anyhow::Result<PathBuf> {
    let exe = env::current_exe()?;
    let dir = exe.parent().context("the executable is in a directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// The first program of that name in `PATH`, or in Debian's `/usr/sbin`.
pub(crate) fn of_system(name: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not installed; scripts/test.sh installs what is missing"))
}

/// Real SPDK, if `VDA_SPDK_TGT` names it.
pub(crate) fn spdk_tgt() -> Option<PathBuf> {
    env::var_os("VDA_SPDK_TGT").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A file of the `scripts` folder.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name)
}
