//! What VDA's objects are called, where they are kept, and how they may change.
//!
//! Everything here is a pure value or a pure function: no I/O, no clock, no randomness. Times, ids and seeds are arguments, so that
//! a retried transaction decides the same and a test can replay it.
//!
//! A change of state is made in four steps: [`requests`] validates what a user sent, [`allocator`] picks places from what is known,
//! one of [`transitions`] turns a view of the stored records into a [`Delta`], and `vda-store` commits that. [`view`]
//! derives what users are shown, [`check`] says whether a whole [`Snapshot`](snapshot::Snapshot) is consistent.

pub mod allocator;
pub mod check;
pub mod defaults;
pub mod delta;
pub mod error;
pub mod ids;
pub mod keys;
pub mod names;
pub mod requests;
pub mod sizes;
pub mod sizing;
pub mod snapshot;
pub mod transitions;
pub mod view;

pub use delta::{Delta, Versioned};
pub use error::{Code, Error, Kind, Resource, Violation};
