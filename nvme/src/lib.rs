//! Sans-IO NVMe over Fabrics / TCP: codec and state machines of host and controller.
//!
//! No sockets, no clock, no randomness: a shell reads bytes into a queue's receive buffer, drains its
//! [`codec::Outbox`] to the wire and passes `now` where time matters.
//!
//! Sources: *NVM Express Base Specification 2.0* ("Base"), *NVM Express NVM Command Set Specification 1.0* ("NVM") and
//! *NVM Express TCP Transport Specification 1.0* ("TCP"). Sections are cited where a rule comes from.
//!
//! - [`pdu`], [`codec`], [`digest`]: bytes <-> PDUs; bulk data is never copied, it travels as `Bytes`
//! - [`cmd`], [`fabrics`], [`identify`], [`log`], [`status`]: commands, completions and data structures
//! - [`reservation`]: reservations of a namespace
//! - [`limits`]: what a peer may ask for, and what it gets when it asks for more
//! - [`controller`], [`host`]: state machines of the two ends of a queue

pub mod cmd;
pub mod codec;
pub mod controller;
pub mod digest;
pub mod fabrics;
mod field;
pub mod host;
pub mod identify;
pub mod limits;
pub mod log;
mod outbox;
pub mod pdu;
pub mod reservation;
pub mod status;

#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod virtual_time_tests;

/// NQN of every discovery subsystem (Base 4.5).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

pub use limits::NQN_MAX_LEN;
