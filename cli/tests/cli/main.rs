//! `vdacli` as a user meets it: the real binary, against a portal inside the test that answers what the test tells it to.

#![allow(clippy::unwrap_used)]

mod errors;
mod fake_portal;
mod fixtures;
mod help;
mod output;
mod requests;
mod vdacli;
mod waiting;
