//! TCP ports for servers that tests start, kill and start again on the same one. Only tests and the benchmark use it.

use std::{
    env,
    fs::{self, File},
    io,
    net::TcpListener,
};

use rustix::fs::{FlockOperation, flock};

/// Ports to choose from. The kernel hands out 32768 and up to outgoing connections and to whoever asks for port 0: such a port could
/// be taken by anybody between being found free and being listened on, or while its server is down.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// How many are tried.
const ATTEMPTS: usize = 1000;

/// A port of 127.0.0.1 that no other test process on this machine reserves while this value lives: a lock on a file says so.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that nobody has reserved and nobody listens on.
    ///
    /// # Errors
    /// If the directory of the locks cannot be written, or no port is free.
    pub fn reserve() -> io::Result<Self> {
        let dir = env::temp_dir().join("vda-ports");
        fs::create_dir_all(&dir)?;
        for _ in 0..ATTEMPTS {
            let number = rand::random_range(RANGE);
            let lock = File::create(dir.join(number.to_string()))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && TcpListener::bind(("127.0.0.1", number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        let message =
            format!("no free port between {} and {} in {ATTEMPTS} attempts", RANGE.start, RANGE.end);
        Err(io::Error::new(io::ErrorKind::AddrInUse, message))
    }

    /// The port.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
