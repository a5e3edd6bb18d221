//! What may be asked of an lvstore: checks a request against the state and gives the record that does it. Pure.

use uuid::Uuid;

use super::LvolError;
use super::layout::Layout;
use super::map::Entry;
use super::state::{Lvol, LvolClear, LvolId, MAX_CLUSTERS, NAME_MAX, Parent, Record, State};

/// Checks a name of an lvstore or lvol.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), LvolError> {
    if name.is_empty() || name.len() > NAME_MAX {
        let value = name.to_owned();
        return Err(LvolError::Invalid { field, value, allowed: "1 to 63 bytes" });
    }
    Ok(())
}

fn check_size(layout: &Layout, clusters: u64) -> Result<(), LvolError> {
    if clusters > MAX_CLUSTERS || clusters.checked_mul(u64::from(layout.cluster_size)).is_none() {
        return Err(LvolError::Invalid {
            field: "size_in_mib",
            value: format!("{clusters} clusters"),
            allowed: "less than 2^32 clusters",
        });
    }
    Ok(())
}

/// An lvol to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewLvol<'a> {
    pub(super) uuid: Uuid,
    pub(super) name: &'a str,
}

impl State {
    fn get(&self, id: LvolId) -> Result<&Lvol, LvolError> {
        self.lvols.get(&id).ok_or_else(|| LvolError::VolumeNotFound { name: id.to_string() })
    }

    /// Whether there may be one more lvol, of that name.
    fn check_new(&self, layout: &Layout, field: &'static str, name: &str) -> Result<(), LvolError> {
        check_name(field, name)?;
        if self.find(name).is_some() {
            return Err(LvolError::Exists { what: "lvol", name: name.to_owned() });
        }
        // With the longest name each, so that a rename always has room.
        if (self.lvols.len() + 1) * super::codec::LVOL_HEADER_MAX > layout.header_budget as usize {
            return Err(LvolError::NoSpace);
        }
        Ok(())
    }

    /// The record that creates an lvol.
    ///
    /// # Errors
    /// A bad or taken name, no free clusters for a thick one, or no room in the checkpoint for one more.
    pub(super) fn plan_create(
        &self,
        layout: &Layout,
        new: NewLvol<'_>,
        thin: bool,
        clear: LvolClear,
        clusters: u64,
    ) -> Result<Record, LvolError> {
        self.check_new(layout, "lvol_name", new.name)?;
        check_size(layout, clusters)?;
        if !thin && clusters > self.free_clusters() {
            return Err(LvolError::NoSpace);
        }
        let name = new.name.to_owned();
        Ok(Record::Create { id: self.next_id, uuid: new.uuid, name, thin, clear, clusters })
    }

    /// The record that resizes an lvol; `None` if it has that size.
    ///
    /// # Errors
    /// No free clusters for a thick one; a shrink while `in_use`.
    pub(super) fn plan_resize(
        &self,
        layout: &Layout,
        id: LvolId,
        clusters: u64,
        in_use: bool,
    ) -> Result<Option<Record>, LvolError> {
        let lvol = self.get(id)?;
        if lvol.read_only {
            return Err(LvolError::ReadOnly { name: lvol.name.clone() });
        }
        if lvol.clusters == clusters {
            return Ok(None);
        }
        check_size(layout, clusters)?;
        if clusters < lvol.clusters && in_use {
            return Err(LvolError::Busy { name: lvol.name.clone() });
        }
        if lvol.reserved && clusters.saturating_sub(lvol.clusters) > self.free_clusters() {
            return Err(LvolError::NoSpace);
        }
        Ok(Some(Record::Resize { id, clusters }))
    }

    /// The record that renames an lvol.
    ///
    /// # Errors
    /// A bad or taken name (its own is taken), or a read-only lvol.
    pub(super) fn plan_rename(&self, id: LvolId, name: &str) -> Result<Record, LvolError> {
        let lvol = self.get(id)?;
        check_name("new_name", name)?;
        if self.find(name).is_some() {
            return Err(LvolError::Exists { what: "lvol", name: name.to_owned() });
        }
        if lvol.read_only {
            return Err(LvolError::ReadOnly { name: lvol.name.clone() });
        }
        Ok(Record::Rename { id, name: name.to_owned() })
    }

    /// The record that takes a snapshot.
    ///
    /// # Errors
    /// As [`Self::plan_create`], and a read-only lvol.
    pub(super) fn plan_snapshot(
        &self,
        layout: &Layout,
        of: LvolId,
        new: NewLvol<'_>,
    ) -> Result<Record, LvolError> {
        self.check_new(layout, "snapshot_name", new.name)?;
        let origin = self.get(of)?;
        if origin.read_only {
            let value = origin.name.clone();
            return Err(LvolError::Invalid {
                field: "lvol_name",
                value,
                allowed: "an lvol that is not read-only",
            });
        }
        Ok(Record::Snapshot { id: self.next_id, uuid: new.uuid, name: new.name.to_owned(), of })
    }

    /// The record that makes a clone of a read-only lvol.
    ///
    /// # Errors
    /// As [`Self::plan_create`], and an lvol that can be written.
    pub(super) fn plan_clone(
        &self,
        layout: &Layout,
        snapshot: LvolId,
        new: NewLvol<'_>,
    ) -> Result<Record, LvolError> {
        self.check_new(layout, "clone_name", new.name)?;
        let origin = self.get(snapshot)?;
        if !origin.read_only {
            let value = origin.name.clone();
            return Err(LvolError::Invalid { field: "snapshot_name", value, allowed: "a read-only lvol" });
        }
        let (name, clusters) = (new.name.to_owned(), origin.clusters);
        let parent = Parent::Lvol(snapshot);
        Ok(Record::Clone { id: self.next_id, uuid: new.uuid, name, clusters, parent })
    }

    /// The record that makes a clone of an external snapshot of `bytes` bytes.
    ///
    /// # Errors
    /// As [`Self::plan_create`], and a size that is not a multiple of the cluster size.
    pub(super) fn plan_clone_external(
        &self,
        layout: &Layout,
        (external, bytes): (Uuid, u64),
        new: NewLvol<'_>,
    ) -> Result<Record, LvolError> {
        self.check_new(layout, "clone_name", new.name)?;
        check_external(layout, bytes)?;
        let clusters = bytes / u64::from(layout.cluster_size);
        check_size(layout, clusters)?;
        let (name, parent) = (new.name.to_owned(), Parent::External(external));
        Ok(Record::Clone { id: self.next_id, uuid: new.uuid, name, clusters, parent })
    }

    /// The record that hangs a thin lvol below a snapshot of its size.
    ///
    /// # Errors
    /// -17 it is there already, -22 the lvols do not fit.
    pub(super) fn plan_set_parent(&self, id: LvolId, parent: LvolId) -> Result<Record, LvolError> {
        let (lvol, snapshot) = (self.get(id)?, self.get(parent)?);
        let invalid = |allowed| {
            let value = snapshot.name.clone();
            Err(LvolError::Invalid { field: "parent_name", value, allowed })
        };
        if self.lineage(parent).any(|ancestor| ancestor == id) {
            return invalid("an lvol that does not descend from the other");
        }
        if lvol.parent == Parent::Lvol(parent) {
            return Err(LvolError::Exists { what: "parent", name: snapshot.name.clone() });
        }
        if !lvol.thin {
            return invalid("the parent of a thin lvol");
        }
        if !snapshot.snapshot || lvol.clusters != snapshot.clusters {
            return invalid("a snapshot of the same size");
        }
        Ok(Record::SetParent { id, parent: Parent::Lvol(parent) })
    }

    /// The record that hangs a thin lvol below an external snapshot of `bytes` bytes.
    ///
    /// # Errors
    /// -17 it is there already, -22 they do not fit.
    pub(super) fn plan_set_external(
        &self,
        layout: &Layout,
        id: LvolId,
        (external, bytes): (Uuid, u64),
    ) -> Result<Record, LvolError> {
        let lvol = self.get(id)?;
        check_external(layout, bytes)?;
        if lvol.parent == Parent::External(external) {
            return Err(LvolError::Exists { what: "parent", name: external.to_string() });
        }
        if !lvol.thin {
            let (value, allowed) = (lvol.name.clone(), "a thin lvol");
            return Err(LvolError::Invalid { field: "lvol_name", value, allowed });
        }
        Ok(Record::SetParent { id, parent: Parent::External(external) })
    }

    /// The record that lets the lvstore use a base bdev of `num_blocks`; `None` if it does. It grows as far as its metadata can say where
    /// everything is: a hole, and what splits one, takes as much room there as a cluster that is mapped.
    pub(super) fn plan_grow(&self, layout: &Layout, num_blocks: u64) -> Option<Record> {
        let most = match self.hole_runs() {
            0 => layout.max_extents(),
            holes => layout.max_extents().saturating_sub(holes) / 2,
        };
        let clusters = layout.data_clusters(num_blocks).min(u32::try_from(most).unwrap_or(u32::MAX));
        (clusters > self.clusters).then_some(Record::Grow { clusters })
    }

    /// Whether a record about the size or the end of an lvol makes holes where there are none beside.
    pub(super) fn adds_holes(&self, record: &Record) -> bool {
        let get = |id: &LvolId| self.lvols.get(id);
        match record {
            Record::Resize { id, clusters } => get(id).is_some_and(|lvol| {
                let reach = match lvol.parent {
                    Parent::None => 0,
                    Parent::External(_) => u64::MAX,
                    Parent::Lvol(parent) => get(&parent).map_or(0, |p| p.clusters),
                };
                let joins = lvol.clusters > 0 && lvol.map.entry(lvol.clusters - 1) == Entry::Hole;
                lvol.clusters < reach.min(*clusters) && !joins
            }),
            Record::Delete { id } => {
                let heir = self.clones(*id).next().and_then(|heir| get(&heir));
                get(id).zip(heir).is_some_and(|(lvol, heir)| {
                    let beyond = lvol.clusters..heir.clusters;
                    lvol.parent != Parent::None
                        && beyond.into_iter().any(|i| heir.map.entry(i) == Entry::Inherited)
                })
            }
            _ => false,
        }
    }

    /// Clusters that an inflation takes.
    pub(super) fn missing(&self, id: LvolId) -> u64 {
        self.lvols.get(&id).map_or(0, |l| l.clusters.saturating_sub(l.map.mapped()))
    }
}

fn check_external(layout: &Layout, bytes: u64) -> Result<(), LvolError> {
    if !bytes.is_multiple_of(u64::from(layout.cluster_size)) {
        return Err(LvolError::Invalid {
            field: "bdev",
            value: format!("{bytes} bytes"),
            allowed: "a multiple of the cluster size",
        });
    }
    Ok(())
}
