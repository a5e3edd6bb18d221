//! Which boot of its node this is.
//!
//! Mirrored VDs have it in the name of their subsystem. A node that lost its power has lost what it had acknowledged and not flushed; under the old
//! name nobody finds it any more, so its members leave their mirrors and are rebuilt (ADR 0091). The boot id of Linux is made once, when the
//! kernel starts: it stays when the agent or the data plane is restarted, which lose nothing.

use std::path::{Path, PathBuf};

use uuid::Uuid;
use vda_model::ids::BootId;

/// The node's boot cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot read the boot id of this node from {}: a file with a UUID is expected there", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds {found:?}, not the boot id of this node: a UUID is expected, such as 6c1b4a3e-0b6f-4c55-9d5c-3f1f1c6e2a10", path.display())]
    NotAUuid { path: PathBuf, found: String },
}

/// Reads it from `path`. (A short file of procfs: this does not block.)
///
/// # Errors
/// [`BootError`].
pub(crate) fn read(path: &Path) -> Result<BootId, BootError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| BootError::Unreadable { path: path.to_owned(), source })?;
    parse(text.trim_end()).ok_or_else(|| {
        let found = text.chars().take(64).collect();
        BootError::NotAUuid { path: path.to_owned(), found }
    })
}

/// The first half of the UUID: 60 of its random bits.
fn parse(text: &str) -> Option<BootId> {
    let uuid: Uuid = text.parse().ok().filter(|uuid: &Uuid| !uuid.is_nil())?;
    Some(BootId::new(uuid.as_u64_pair().0))
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
