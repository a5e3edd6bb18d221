//! What both agents are made of: a planner over a graph of resources, an executor, a ledger, and the loop that drives them.
//!
//! [`plan()`] is pure and decides everything; [`execute()`] has no choices left. A node's agent supplies a [`Domain`] (its kinds of resources
//! and the rules of each) and a [`Driver`] (how they are observed and changed, and what is reported); [`Agent`] does the rest: which desired
//! state is accepted, when a component is worked on, what is streamed to monitors.
//!
//! A component is what is reconciled as one: a PD, a DA's share of a DN, a DA's controller.

mod agent;
mod execute;
mod graph;
mod ledger;
pub mod parts;
mod plan;
pub mod rpc;
pub mod settings;
pub mod status;
mod target;

pub use agent::{
    Accepted, Agent, AgentOptions, Batch, Depth, Driver, Feed, FeedEnd, NodeReport, Offer, Report, Settled,
    Wanted,
};
pub use execute::{Fault, FaultKind, Perform, execute};
pub use graph::{Actual, Desired, Domain, Observed, Refusal, Removal, Seen, Verdict, Want};
pub use ledger::{Ledger, LedgerError, Memory, Record};
pub use plan::{Blocker, Plan, Step, Why, plan};
pub use target::{Target, prepare};
