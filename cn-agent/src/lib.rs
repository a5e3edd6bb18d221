//! The agent of a controller node: turns desired controllers and their exports into calls to the node's data plane.
//!
//! Per DA: one attached NVMe controller per VD, a raid1 per mirror set, a raid0 per group of several stripes, a concat of several groups,
//! an lvstore, the volume lvol, and one subsystem per EXP. A controller never destroys data: a DA goes when its VDs do.
//! Rules of the resources are in `resources`, the words of the reports in `report`; everything else is `vda_reconcile`.

pub mod args;
mod driver;
mod mirror;
mod observe;
mod perform;
mod proof;
mod report;
mod resources;
mod service;
mod stack;
#[cfg(test)]
mod stack_tests;
mod want;
#[cfg(test)]
mod world_tests;

pub use driver::{CnAgentHandle, ControllerNode};
pub use resources::{Action, Array, Id, Key, Spec, State};
pub use service::{Service, serve};
pub use want::{BadSpec, Want};
