//! The monitor: between what etcd says is wanted and what the agents of the nodes do.
//!
//! ```text
//!            watch                    inbox                 Sync                  Observe
//!   etcd ----------> WatchCache ---> Supervisor ---> Driver ------> agent ---------------> Driver
//!    ^                               (ownership,     (one per                                |
//!    |                                routing)        node)                                  |
//!    +------------------- statuses, ends of deletions, books, leg states (group commit) <----+
//! ```
//!
//! It keeps nothing of its own: whatever it knows is in etcd or with the agents, so it may be killed at any time and any number may run. The
//! pure decisions are in `desired` (what to tell an agent), `sync` (full or delta, and when), `liveness`, `record` (what a report changes
//! in etcd; the transitions are `vda_model`'s).

mod agent;
mod args;
mod boot;
mod context;
mod desired;
mod driver;
mod inbox;
mod liveness;
mod monitor;
mod record;
mod report;
mod routing;
mod supervisor;
mod sync;

pub use args::{Args, Config};
pub use monitor::run;

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod monitor_tests;
