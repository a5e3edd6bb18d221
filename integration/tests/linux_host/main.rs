//! A real Linux kernel as the host: nothing it wrote is lost, and it never sees an error.
//!
//! Needs what `scripts/test.sh` installs, and root; says loudly when it is skipped. `VDA_LINUX_HOST=required` forbids skipping.
//! `VDA_LINUX_HOST_ROUNDS=n`: rounds of writing and verifying between two disturbances, 1 unless given.

#![allow(clippy::unwrap_used)]

mod array;
mod one_target;
mod paths;
mod two_controllers;
mod volume;

use vda_integration::linux_host::Load;

/// Lets the load go on after a disturbance, for as long as is wished.
async fn undisturbed(load: &Load<'_>) -> anyhow::Result<()> {
    let rounds = std::env::var("VDA_LINUX_HOST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    // One that was under way, and whole ones.
    load.more_rounds(1 + rounds).await
}
