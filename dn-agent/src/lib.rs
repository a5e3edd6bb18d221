//! The agent of a disk node: turns desired PDs and shares into calls to the node's data plane.
//!
//! A PD is `bdev -> lvstore`; a share holds, per VD, `lvol -> subsystem` with one namespace, one allowed host (the VD's owner) and one
//! listener. Rules of the resources are in `resources`, the words of the reports in `report`; everything else is `vda_reconcile`.

pub mod args;
mod backend;
mod boot;
mod driver;
mod identity;
mod layout;
mod medium;
mod observe;
mod perform;
mod report;
mod resources;
mod service;
mod want;

pub use driver::{DiskNode, DnAgentHandle, Status};
pub use resources::{Action, Disk, Id, Key, Spec, State};
pub use service::{Service, serve};
pub use want::{BadSpec, Want};
