//! Ports for servers that are killed and started again on the same one.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

/// A port that no other cluster on this machine uses while this value lives.
///
/// The kernel hands out 32768 and up to outgoing connections, which would take a server's port while it is down: these are below.
/// A lock on a file keeps clusters of other test processes away from it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let dir = env::temp_dir().join("vda-ports");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        for _ in 0..1000 {
            let number = rand::random_range(15_000..32_000);
            let path = dir.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && TcpListener::bind(("127.0.0.1", number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between 15000 and 32000 in 1000 attempts")
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
