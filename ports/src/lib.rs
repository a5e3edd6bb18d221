//! TCP ports for servers that tests start, kill and start again on the same one. Only tests and the benchmark use it.

use std::{
    env,
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, FlockOperation, access, flock};

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
        let dir = lock_dir(&env::temp_dir())?;
        for _ in 0..ATTEMPTS {
            let number = rand::random_range(RANGE);
            let lock = match File::create(dir.join(number.to_string())) {
                Ok(lock) => lock,
                // Somebody else's.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            };
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

/// Where the locks are: shared by all users of the machine, or, where somebody else has made that directory for himself, one's own.
fn lock_dir(base: &Path) -> io::Result<PathBuf> {
    let shared = base.join("vda-ports");
    if fs::create_dir_all(&shared).is_ok() && access(&shared, Access::WRITE_OK).is_ok() {
        return Ok(shared);
    }
    let own = base.join(format!("vda-ports-{}", fs::metadata("/proc/self")?.uid()));
    fs::create_dir_all(&own)?;
    Ok(own)
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
