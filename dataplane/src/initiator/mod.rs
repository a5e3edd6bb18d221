//! The NVMe/TCP host: sessions, paths that reconnect, namespaces over several paths. Used by `bdev::nvme` and `vda_host`.
//!
//! [`session::Session`] is one connected controller. A [`group::Group`] holds the paths to one subsystem, each of which connects
//! again by itself, and the namespaces seen through them; a [`namespace::Namespace`] picks a path per command by its ANA state and
//! takes another one when a path fails.

mod error;
pub mod group;
pub mod namespace;
pub mod path;
mod queue;
pub mod session;

pub use error::{CommandError, ConnectError};
pub use group::{Group, GroupEvents};
pub use namespace::Namespace;
pub use path::{Path, PathState, Resilience};
pub use session::{HostOptions, Session};

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
