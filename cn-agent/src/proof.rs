//! Which members of a raid1 hold all of its data. Pure.
//!
//! SPDK does not say. A member counts as configured from the moment it is added; that it is being rebuilt shows some ms later, and does not
//! show any more in the moments after a rebuild that *failed*, until the member is taken out again (`raid_bdev_process_finish_done`). So a
//! member that joined is believed only when two looks, [`SETTLES`] apart, both found it without a rebuild.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::mirror::MirrorState;

/// A member that joined shows without a rebuild for so long before it is believed to have all the data.
pub(crate) const SETTLES: Duration = Duration::from_secs(1);

/// What is known of a member since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The raid1 was created from it.
    Original,
    /// It was added, or seen to be rebuilt.
    Joined,
    /// It joined, and shows without a rebuild since then.
    Clean(Instant),
    /// It joined and was rebuilt.
    Rebuilt,
    /// How it came in is not known: it was there when the agent came.
    Found,
}

/// Members by bdev, as long as the data plane lives.
#[derive(Debug, Default)]
pub(crate) struct Proofs(BTreeMap<String, Standing>);

impl Proofs {
    /// A raid1 was created from these.
    pub(crate) fn created(&mut self, bases: impl IntoIterator<Item = String>) {
        self.0.extend(bases.into_iter().map(|bdev| (bdev, Standing::Original)));
    }

    /// A member is about to be added.
    pub(crate) fn adding(&mut self, bdev: &str) {
        self.0.insert(bdev.to_owned(), Standing::Joined);
    }

    /// The data plane is another one now.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// Says of the members of a raid1 that was just looked at what is certain.
    pub(crate) fn judge(&mut self, mirror: &mut MirrorState, now: Instant) {
        let target = mirror.rebuild.as_ref().map(|(target, _)| target.as_str());
        for bdev in mirror.slots.iter().flatten() {
            let before = self.0.get(bdev).copied().unwrap_or(Standing::Found);
            let standing = match before {
                _ if target == Some(bdev) => Standing::Joined,
                Standing::Joined => Standing::Clean(now),
                Standing::Clean(since) if now.duration_since(since) >= SETTLES => Standing::Rebuilt,
                as_before => as_before,
            };
            match standing {
                Standing::Joined | Standing::Clean(_) => drop(mirror.unproven.insert(bdev.clone())),
                Standing::Rebuilt => drop(mirror.rebuilt.insert(bdev.clone())),
                Standing::Original | Standing::Found => {}
            }
            self.0.insert(bdev.clone(), standing);
        }
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
