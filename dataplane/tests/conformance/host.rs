//! The program `vda_host`: I/O of a host.

use std::io::Read;
use std::process::{Child, Command, Stdio};

/// A running host. Dropping it kills it.
pub(crate) struct Host(Child);

impl Host {
    pub(crate) fn start(arguments: Vec<String>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vda_host"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Its exit code and what it said, when it has ended. Its own time limits end it.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        self.0.try_wait().unwrap().map(|status| status.to_string())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
