//! A network of the test's own: whatever the test starts is in it, and nothing outside sees it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::script;

/// Addresses on this side of the two paths to a guest: targets listen on them.
pub const PATHS: [&str; 2] = ["10.231.0.1", "10.231.1.1"];

/// Moves this thread into a new network namespace with a tap for each path.
///
/// The namespace belongs to no file: it ends with the last process in it, also when the test is killed. Processes started by this
/// thread, and the sockets it opens, are in it too; the tests' runtime has no other thread.
pub(super) fn enter_new() -> anyhow::Result<()> {
    let mut child = Command::new("unshare")
        .args(["--net", "sh"])
        .arg(script("network.sh"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("unshare")?;
    let entered = (|| {
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("its stdout is a pipe")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "network.sh could not make the network");
        let namespace = File::open(format!("/proc/{}/ns/net", child.id()))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("entering the namespace")
    })();
    // It waits for the end of its stdin, which also comes when this process dies.
    drop(child.stdin.take());
    child.wait()?;
    entered
}
