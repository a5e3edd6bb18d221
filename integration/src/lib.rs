//! Runs the real binaries on loopback: a [`Cluster`] of etcd, portals, monitors and nodes whose processes can be killed and
//! restarted one by one. Tests, the benchmark and nothing else use it.

mod api;
mod binaries;
mod cluster;
mod data_plane;
mod host;
pub mod linux_host;
mod power;
mod process;
mod ready;
mod reaper;
mod roles;
mod rpc;
mod state;
mod target;
mod targets;
pub mod usage;
mod vdacli;

pub use api::{da_request, exp_request};
pub use binaries::of_workspace as program;
pub use cluster::{Builder, Cluster};
pub use data_plane::Make;
pub use host::Host;
pub use power::Medium;
pub use ready::eventually;
pub use roles::Role;
pub use state::{Leftovers, Tombstones, leftovers};
pub use target::Target;
pub use targets::Targets;
pub use vdacli::Run;
