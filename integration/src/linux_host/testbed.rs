//! Guests in a network of their own.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Guest, network, requirements};
use crate::reaper::Reaper;

/// A network of its own for a test, in which guests can be booted.
#[derive(Debug)]
pub struct Testbed {
    modules: PathBuf,
    guests: Cell<usize>,
    reaper: Arc<Reaper>,
}

impl Testbed {
    /// Moves this thread, and all that it starts from now on, into a new network. `None`, said loudly, where no guest can be booted.
    pub fn open() -> anyhow::Result<Option<Self>> {
        let Some(modules) = requirements::modules()? else { return Ok(None) };
        network::enter_new()?;
        Ok(Some(Self { modules, guests: Cell::new(0), reaper: Arc::new(Reaper::start()?) }))
    }

    /// Boots a guest, with its files in `dir`. It does not outlive the test.
    pub async fn boot(&self, dir: &Path) -> anyhow::Result<Guest> {
        let nth = self.guests.replace(self.guests.get() + 1);
        Guest::boot(dir, &format!("guest{nth}"), &self.modules, &self.reaper).await
    }
}
