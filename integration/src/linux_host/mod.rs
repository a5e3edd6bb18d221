//! A real Linux kernel as the host: Debian's user-mode-linux with the kernel's own NVMe/TCP initiator, connected by two network paths
//! to data planes on this machine, all in a network namespace of the test.

mod guest;
mod kernel_log;
mod load;
mod network;
mod requirements;
mod testbed;

pub use guest::Guest;
pub use kernel_log::Faults;
pub use load::Load;
pub use network::PATHS;
pub use testbed::Testbed;

use std::path::{Path, PathBuf};

/// A file of the folder `integration/linux-host`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("linux-host").join(name)
}
