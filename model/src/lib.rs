//! What VDA's objects are called, where they are kept, and how they may change.
//!
//! Everything here is a pure value or a pure function: no I/O, no clock, no randomness. Times, ids and seeds are arguments, so that
//! a retried transaction decides the same and a test can replay it.

pub mod ids;
pub mod keys;
pub mod names;
