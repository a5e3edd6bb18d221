//! Black-box tests: real processes, real etcd, real I/O.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod capacity;
mod chaos;
mod etcd;
mod late_parts;
mod media;
mod power;
mod slice;
mod tutorial;

/// NQN of the host in these tests.
const HOST: &str = "nqn.2014-08.org.nvmexpress:host:test";

/// How long cleaning up may take.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(60);
