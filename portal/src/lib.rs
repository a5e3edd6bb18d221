//! The API server of VDA. It validates requests, picks places, and writes desired state; it never talks to nodes.
//!
//! Stateless: any number of portals may run beside each other. What is kept in memory is a copy of the nodes' books and statuses (to pick
//! places from), a few newer values of its own making, and who follows what.

mod cluster;
mod cn;
mod config;
mod da;
mod dn;
mod exp;
mod health;
mod hub;
mod lease;
mod mutate;
mod page;
mod pd;
mod placement;
mod random;
mod server;
mod service;
mod status;
mod summary;
mod users;
mod watch;

pub use config::Config;
pub use server::{Portal, serve};
