//! Whether what was loaded can be: every cluster has one owner, and the lvols fit each other. Pure.

use super::alloc::Bitmap;
use super::state::{Inconsistent, Parent, State};

impl State {
    /// Which clusters are mapped, as a bit per cluster.
    ///
    /// # Errors
    /// If one is mapped twice or is beyond the end, or the lvols do not fit each other.
    pub(super) fn used(&self) -> Result<Bitmap, Inconsistent> {
        self.check_parents()?;
        let mut used = Bitmap::new(self.clusters);
        for (_, cluster) in self.lvols.values().flat_map(|l| l.map.iter()) {
            if cluster >= self.clusters {
                return Err(Inconsistent("a cluster beyond the end is mapped"));
            }
            if used.set(cluster) {
                return Err(Inconsistent("a cluster has two owners"));
            }
        }
        Ok(used)
    }

    fn check_parents(&self) -> Result<(), Inconsistent> {
        for (id, lvol) in &self.lvols {
            if let Parent::Lvol(parent) = lvol.parent {
                let parent =
                    self.lvols.get(&parent).ok_or(Inconsistent("the parent of an lvol is missing"))?;
                if !parent.read_only || !parent.snapshot {
                    return Err(Inconsistent("the parent of an lvol is no snapshot"));
                }
            }
            if lvol.parent == Parent::None && lvol.map.hole_runs() > 0 {
                return Err(Inconsistent("an lvol without a parent has holes"));
            }
            if self.lineage(*id).count() > self.lvols.len() {
                return Err(Inconsistent("an lvol is its own parent"));
            }
        }
        Ok(())
    }
}
