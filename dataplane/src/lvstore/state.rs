//! What an lvstore knows, and how records change it. Pure: the same [`State::apply`] runs live and when a journal is replayed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::LvolError;
use super::layout::Layout;

/// Longest name of an lvstore or lvol, in bytes (SPDK's `SPDK_LVOL_NAME_MAX` without its NUL).
pub(super) const NAME_MAX: usize = 63;

/// Number of an lvol within its lvstore; never used twice.
pub(super) type LvolId = u64;

/// Entry of a map for a cluster that is not there.
const UNMAPPED: u32 = u32::MAX;
/// Entries of a map that are allocated together.
const LEAF: usize = 512;

/// Which data cluster holds a cluster of an lvol. Leaves exist only where something is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterMap {
    leaves: Vec<Option<Box<[u32]>>>,
    mapped: u64,
}

impl ClusterMap {
    pub(super) fn get(&self, index: u64) -> Option<u32> {
        let at = usize::try_from(index).ok()?;
        let cluster = *self.leaves.get(at / LEAF)?.as_ref()?.get(at % LEAF)?;
        (cluster != UNMAPPED).then_some(cluster)
    }

    /// Number of mapped clusters.
    pub(super) fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Maps or (with `None`) unmaps, and gives what was there.
    pub(super) fn set(&mut self, index: u64, cluster: Option<u32>) -> Option<u32> {
        let at = usize::try_from(index).ok()?;
        if self.leaves.len() <= at / LEAF {
            cluster?;
            self.leaves.resize_with(at / LEAF + 1, || None);
        }
        let leaf = &mut self.leaves[at / LEAF];
        if leaf.is_none() {
            cluster?;
        }
        let leaf = leaf.get_or_insert_with(|| vec![UNMAPPED; LEAF].into_boxed_slice());
        let old = std::mem::replace(&mut leaf[at % LEAF], cluster.unwrap_or(UNMAPPED));
        self.mapped += u64::from(cluster.is_some());
        self.mapped -= u64::from(old != UNMAPPED);
        (old != UNMAPPED).then_some(old)
    }

    /// Unmaps a range and gives what was mapped there.
    pub(super) fn clear(&mut self, start: u64, count: u64) -> Vec<u32> {
        let end = start.saturating_add(count).min((self.leaves.len() * LEAF) as u64);
        let mut freed = Vec::new();
        let mut at = start;
        while at < end {
            let leaf = usize::try_from(at).unwrap_or(usize::MAX) / LEAF;
            let leaf_end = ((leaf + 1) * LEAF) as u64;
            if self.leaves[leaf].is_some() {
                freed.extend((at..end.min(leaf_end)).filter_map(|i| self.set(i, None)));
                if self.leaves[leaf].as_ref().is_some_and(|l| l.iter().all(|c| *c == UNMAPPED)) {
                    self.leaves[leaf] = None;
                }
            }
            at = leaf_end;
        }
        freed
    }

    /// Whether something is mapped from `start` to before `end`.
    pub(super) fn any(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            let leaf = usize::try_from(at).unwrap_or(usize::MAX) / LEAF;
            let Some(slot) = self.leaves.get(leaf) else { return false };
            let leaf_end = ((leaf + 1) * LEAF) as u64;
            if slot.is_some() && (at..end.min(leaf_end)).any(|i| self.get(i).is_some()) {
                return true;
            }
            at = leaf_end;
        }
        false
    }

    /// Index and cluster of everything mapped, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.leaves.iter().enumerate().filter_map(|(n, leaf)| Some((n, leaf.as_ref()?))).flat_map(
            |(n, leaf)| {
                leaf.iter()
                    .enumerate()
                    .filter(|(_, c)| **c != UNMAPPED)
                    .map(move |(i, c)| ((n * LEAF + i) as u64, *c))
            },
        )
    }
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lvol {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) thin: bool,
    pub(super) read_only: bool,
    /// Size in clusters.
    pub(super) clusters: u64,
    pub(super) map: ClusterMap,
}

impl Lvol {
    /// Clusters that are promised but not mapped: what a thick lvol has not written yet.
    pub(super) fn promised(&self) -> u64 {
        if self.thin { 0 } else { self.clusters.saturating_sub(self.map.mapped()) }
    }

    /// `num_allocated_clusters`: a thick lvol has all of its clusters.
    pub(super) fn allocated(&self) -> u64 {
        self.map.mapped() + self.promised()
    }
}

/// One atomic change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Create {
        id: LvolId,
        uuid: Uuid,
        name: String,
        thin: bool,
        clusters: u64,
    },
    Delete {
        id: LvolId,
    },
    Rename {
        id: LvolId,
        name: String,
    },
    /// Clusters beyond the new end are freed.
    Resize {
        id: LvolId,
        clusters: u64,
    },
    SetReadOnly {
        id: LvolId,
    },
    /// A cluster, all zeros, is put behind a part of an lvol.
    Map {
        id: LvolId,
        index: u64,
        cluster: u32,
    },
    /// What is mapped in the range is freed.
    Unmap {
        id: LvolId,
        start: u64,
        count: u64,
    },
    RenameStore {
        name: String,
    },
    Grow {
        clusters: u32,
    },
}

/// Everything an lvstore knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) name: String,
    /// Data clusters.
    pub(super) clusters: u32,
    pub(super) next_id: LvolId,
    pub(super) lvols: BTreeMap<LvolId, Lvol>,
}

/// A record that does not fit the state: a defect, or a damaged disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inconsistent(pub(super) &'static str);

/// Checks a name of an lvstore or lvol.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), LvolError> {
    if name.is_empty() || name.len() > NAME_MAX {
        let value = name.to_owned();
        return Err(LvolError::Invalid { field, value, allowed: "1 to 63 bytes" });
    }
    Ok(())
}

impl State {
    pub(super) fn new(name: String, clusters: u32) -> Self {
        Self { name, clusters, next_id: 1, lvols: BTreeMap::new() }
    }

    /// Clusters not mapped and not promised to a thick lvol.
    pub(super) fn free_clusters(&self) -> u64 {
        let taken: u64 = self.lvols.values().map(Lvol::allocated).sum();
        u64::from(self.clusters).saturating_sub(taken)
    }

    pub(super) fn find(&self, name: &str) -> Option<LvolId> {
        self.lvols.iter().find(|(_, l)| l.name == name).map(|(id, _)| *id)
    }

    /// The record that creates an lvol.
    ///
    /// # Errors
    /// A bad or taken name, no free clusters for a thick one, or no room in the checkpoint for one more.
    pub(super) fn plan_create(
        &self,
        layout: &Layout,
        uuid: Uuid,
        name: &str,
        thin: bool,
        clusters: u64,
    ) -> Result<Record, LvolError> {
        check_name("lvol_name", name)?;
        if self.find(name).is_some() {
            return Err(LvolError::Exists { what: "lvol", name: name.to_owned() });
        }
        check_size(layout, clusters)?;
        if !thin && clusters > self.free_clusters() {
            return Err(LvolError::NoSpace);
        }
        // With the longest name each, so that a rename always has room.
        if (self.lvols.len() + 1) * super::codec::LVOL_HEADER_MAX > layout.header_budget as usize {
            return Err(LvolError::NoSpace);
        }
        Ok(Record::Create { id: self.next_id, uuid, name: name.to_owned(), thin, clusters })
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
        let lvol = self.lvols.get(&id).ok_or_else(|| LvolError::VolumeNotFound { name: id.to_string() })?;
        if lvol.clusters == clusters {
            return Ok(None);
        }
        if lvol.read_only {
            return Err(LvolError::ReadOnly { name: lvol.name.clone() });
        }
        check_size(layout, clusters)?;
        if clusters < lvol.clusters && in_use {
            return Err(LvolError::Busy { name: lvol.name.clone() });
        }
        if !lvol.thin && clusters.saturating_sub(lvol.clusters) > self.free_clusters() {
            return Err(LvolError::NoSpace);
        }
        Ok(Some(Record::Resize { id, clusters }))
    }

    /// The record that renames an lvol.
    ///
    /// # Errors
    /// A bad or taken name.
    pub(super) fn plan_rename(&self, id: LvolId, name: &str) -> Result<Record, LvolError> {
        check_name("new_name", name)?;
        if self.find(name).is_some() {
            return Err(LvolError::Exists { what: "lvol", name: name.to_owned() });
        }
        Ok(Record::Rename { id, name: name.to_owned() })
    }

    fn lvol(&mut self, id: LvolId) -> Result<&mut Lvol, Inconsistent> {
        self.lvols.get_mut(&id).ok_or(Inconsistent("record of an lvol that does not exist"))
    }

    /// Makes a change; gives the clusters that nobody maps any more.
    ///
    /// # Errors
    /// If the record does not fit; then nothing was changed.
    pub(super) fn apply(&mut self, record: &Record) -> Result<Vec<u32>, Inconsistent> {
        match record {
            Record::Create { id, uuid, name, thin, clusters } => {
                if *id < self.next_id || self.find(name).is_some() {
                    return Err(Inconsistent("an lvol is created twice"));
                }
                let lvol = Lvol {
                    uuid: *uuid,
                    name: name.clone(),
                    thin: *thin,
                    read_only: false,
                    clusters: *clusters,
                    map: ClusterMap::default(),
                };
                self.lvols.insert(*id, lvol);
                self.next_id = id + 1;
            }
            Record::Delete { id } => {
                self.lvol(*id)?;
                let lvol = self.lvols.remove(id);
                return Ok(lvol.map_or_else(Vec::new, |l| l.map.iter().map(|(_, c)| c).collect()));
            }
            Record::Rename { id, name } => self.lvol(*id)?.name.clone_from(name),
            Record::Resize { id, clusters } => {
                let lvol = self.lvol(*id)?;
                lvol.clusters = *clusters;
                return Ok(lvol.map.clear(*clusters, u64::MAX));
            }
            Record::SetReadOnly { id } => self.lvol(*id)?.read_only = true,
            Record::Map { id, index, cluster } => self.map(*id, *index, *cluster)?,
            Record::Unmap { id, start, count } => return Ok(self.lvol(*id)?.map.clear(*start, *count)),
            Record::RenameStore { name } => self.name.clone_from(name),
            Record::Grow { clusters } => {
                if *clusters < self.clusters {
                    return Err(Inconsistent("the lvstore shrinks"));
                }
                self.clusters = *clusters;
            }
        }
        Ok(Vec::new())
    }

    fn map(&mut self, id: LvolId, index: u64, cluster: u32) -> Result<(), Inconsistent> {
        if cluster >= self.clusters {
            return Err(Inconsistent("a cluster beyond the end is mapped"));
        }
        let lvol = self.lvol(id)?;
        if index >= lvol.clusters {
            return Err(Inconsistent("a cluster beyond the end of an lvol is mapped"));
        }
        if lvol.map.get(index).is_some() {
            return Err(Inconsistent("a part of an lvol is mapped twice"));
        }
        lvol.map.set(index, Some(cluster));
        Ok(())
    }

    /// Which clusters are mapped, as a bit per cluster.
    ///
    /// # Errors
    /// If one is mapped twice or is beyond the end.
    pub(super) fn used(&self) -> Result<super::alloc::Bitmap, Inconsistent> {
        let mut used = super::alloc::Bitmap::new(self.clusters);
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
}

fn check_size(layout: &Layout, clusters: u64) -> Result<(), LvolError> {
    if clusters > u64::from(u32::MAX) || clusters.checked_mul(u64::from(layout.cluster_size)).is_none() {
        return Err(LvolError::Invalid {
            field: "size_in_mib",
            value: format!("{clusters} clusters"),
            allowed: "less than 2^32 clusters",
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
