//! Every change of stored state, as a pure function from a view of the records it depends on to the writes it wants.
//!
//! A view must hold the records as the transaction read them: what a decision rests on is what the commit verifies.

pub mod cn;
pub mod da;
pub mod derived;
pub mod dn;
pub mod exp;
pub mod finish;
pub mod leg;
pub mod pd;
pub mod qos;
pub mod reported;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(crate) mod world;
