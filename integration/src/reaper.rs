//! Nothing outlives the test, even when the test itself is killed.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

use anyhow::Context as _;

use crate::binaries;

/// A shell that knows the process groups, and kills them when the pipe from this process ends, whatever ended it.
#[derive(Debug)]
pub(crate) struct Reaper {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Reaper {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let script = binaries::script("reaper.sh");
        let mut shell = Command::new("sh")
            .arg(&script)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting sh {}", script.display()))?;
        let pipe = Mutex::new(shell.stdin.take());
        Ok(Self { shell, pipe })
    }

    pub(crate) fn add(&self, group: u32) -> anyhow::Result<()> {
        self.say("add", group)
    }

    /// The group has ended: its number may soon be somebody else's.
    pub(crate) fn forget(&self, group: u32) -> anyhow::Result<()> {
        self.say("forget", group)
    }

    fn say(&self, verb: &str, group: u32) -> anyhow::Result<()> {
        let mut pipe = self.pipe.lock().expect("nobody panics while holding it");
        let pipe = pipe.as_mut().context("the reaper has ended")?;
        writeln!(pipe, "{verb} {group}").context("the reaper has ended")
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.pipe.lock().expect("nobody panics while holding it").take();
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
#[path = "reaper_tests.rs"]
mod tests;
