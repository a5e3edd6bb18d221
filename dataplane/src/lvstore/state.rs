//! What an lvstore knows, and how records change it. Pure: the same [`State::apply`] runs live and when a journal is replayed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::map::{ClusterMap, Entry};

/// Longest name of an lvstore or lvol, in bytes (SPDK's `SPDK_LVOL_NAME_MAX` without its NUL).
pub(super) const NAME_MAX: usize = 63;

/// The most clusters of an lvol.
pub(super) const MAX_CLUSTERS: u64 = u32::MAX as u64;

/// Number of an lvol within its lvstore; never used twice.
pub(super) type LvolId = u64;

/// What is done with the clusters of an lvol when they are given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LvolClear {
    /// The base bdev may forget them.
    #[default]
    Unmap,
    /// They are overwritten with zeros.
    WriteZeroes,
    /// Nothing, until they are used again.
    None,
}

/// What an lvol shows where it has nothing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// Zeros.
    None,
    /// A snapshot of the same lvstore.
    Lvol(LvolId),
    /// A bdev outside (an external snapshot), by its uuid.
    External(Uuid),
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lvol {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    /// How it is shown; whether it takes what is free is [`Self::reserved`].
    pub(super) thin: bool,
    /// All of its clusters are its own, mapped or not. A thick lvol, its snapshot, and who inherits that.
    pub(super) reserved: bool,
    pub(super) read_only: bool,
    /// Others were made from it.
    pub(super) snapshot: bool,
    pub(super) clear: LvolClear,
    /// Size in clusters.
    pub(super) clusters: u64,
    pub(super) parent: Parent,
    pub(super) map: ClusterMap,
}

impl Lvol {
    /// An empty one.
    pub(super) fn new(uuid: Uuid, name: &str, thin: bool, clusters: u64) -> Self {
        Self {
            uuid,
            name: name.to_owned(),
            thin,
            reserved: !thin,
            read_only: false,
            snapshot: false,
            clear: LvolClear::default(),
            clusters,
            parent: Parent::None,
            map: ClusterMap::default(),
        }
    }

    /// Clusters that are promised but not mapped: what a thick lvol has not written yet.
    pub(super) fn promised(&self) -> u64 {
        if self.reserved { self.clusters.saturating_sub(self.map.mapped()) } else { 0 }
    }

    /// `num_allocated_clusters`: a thick lvol has all of its clusters.
    pub(super) fn allocated(&self) -> u64 {
        self.map.mapped() + self.promised()
    }

    /// Takes a range away: with a parent it has to say so, not to show what the parent has.
    fn unmap(&mut self, start: u64, count: u64) -> Vec<u32> {
        if self.parent == Parent::None {
            return self.map.clear(start, count);
        }
        self.map.punch(start, start.saturating_add(count).min(self.clusters))
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
        clear: LvolClear,
        clusters: u64,
    },
    /// If it has one clone, that inherits what it does not have itself.
    Delete {
        id: LvolId,
    },
    Rename {
        id: LvolId,
        name: String,
    },
    /// Clusters beyond the new end are freed; what is added reads as zeros.
    Resize {
        id: LvolId,
        clusters: u64,
    },
    SetReadOnly {
        id: LvolId,
    },
    /// A cluster is put behind a part of an lvol that had none of its own.
    Map {
        id: LvolId,
        index: u64,
        cluster: u32,
    },
    /// What is mapped in the range is freed, and it reads as zeros.
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
    /// A new read-only lvol takes everything that `of` has, and becomes its parent.
    Snapshot {
        id: LvolId,
        uuid: Uuid,
        name: String,
        of: LvolId,
    },
    /// A new thin lvol that shows `parent`.
    Clone {
        id: LvolId,
        uuid: Uuid,
        name: String,
        clusters: u64,
        parent: Parent,
    },
    /// Another parent. A parent that is an lvol is a snapshot from then on.
    SetParent {
        id: LvolId,
        parent: Parent,
    },
    /// It needs no parent any more and is thick.
    Inflated {
        id: LvolId,
    },
}

impl Record {
    /// Whether it only says where data is: such records are checked one by one, and may share a write.
    pub(super) fn is_mapping(&self) -> bool {
        matches!(self, Self::Map { .. } | Self::Unmap { .. })
    }

    /// Whether versions of the format without snapshots do not know it.
    pub(super) fn needs_clones(&self) -> bool {
        match self {
            Self::Snapshot { .. } | Self::Clone { .. } | Self::SetParent { .. } | Self::Inflated { .. } => {
                true
            }
            Self::Create { clear, .. } => *clear != LvolClear::default(),
            _ => false,
        }
    }
}

/// Clusters that became free, and what is to be done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) clusters: Vec<u32>,
    pub(super) clear: LvolClear,
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

/// Where the content of a part of an lvol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a cluster of its own.
    Own(u32),
    /// In a cluster of a snapshot it descends from.
    Inherited(u32),
    /// In an external snapshot, at the same offset.
    External(Uuid),
    Zeros,
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

    /// The lvols whose parent is `id`.
    pub(super) fn clones(&self, id: LvolId) -> impl Iterator<Item = LvolId> + '_ {
        self.lvols.iter().filter(move |(_, l)| l.parent == Parent::Lvol(id)).map(|(id, _)| *id)
    }

    /// `id` and the snapshots it descends from, nearest first.
    pub(super) fn lineage(&self, id: LvolId) -> impl Iterator<Item = LvolId> + '_ {
        std::iter::successors(Some(id), |id| match self.lvols.get(id)?.parent {
            Parent::Lvol(parent) => Some(parent),
            Parent::None | Parent::External(_) => None,
        })
        // A damaged disk may hold a circle; `check` refuses it.
        .take(self.lvols.len() + 1)
    }

    /// The external snapshot that an lvol, or a snapshot it descends from, stands on.
    pub(super) fn external(&self, id: LvolId) -> Option<Uuid> {
        self.lineage(id).find_map(|id| match self.lvols.get(&id)?.parent {
            Parent::External(uuid) => Some(uuid),
            Parent::None | Parent::Lvol(_) => None,
        })
    }

    /// Where the content of cluster `index` of an lvol is; `None` if there is no such lvol.
    pub(super) fn place(&self, id: LvolId, index: u64) -> Option<Place> {
        let mut lvol = self.lvols.get(&id)?;
        let mut own = true;
        loop {
            match lvol.map.entry(index) {
                Entry::Mapped(cluster) if own => return Some(Place::Own(cluster)),
                Entry::Mapped(cluster) => return Some(Place::Inherited(cluster)),
                Entry::Hole => return Some(Place::Zeros),
                Entry::Inherited => {}
            }
            match lvol.parent {
                Parent::None => return Some(Place::Zeros),
                Parent::External(uuid) => return Some(Place::External(uuid)),
                Parent::Lvol(parent) => lvol = self.lvols.get(&parent)?,
            }
            // An lvol may be larger than its parent, and that smaller than its own.
            if index >= lvol.clusters {
                return Some(Place::Zeros);
            }
            own = false;
        }
    }

    /// Whether a part of an lvol would show something of its parents if the lvol itself said nothing about it.
    pub(super) fn has_parent(&self, id: LvolId) -> bool {
        self.lvols.get(&id).is_some_and(|l| l.parent != Parent::None)
    }

    /// Runs of holes in all maps.
    pub(super) fn hole_runs(&self) -> u64 {
        self.lvols.values().map(|l| l.map.hole_runs()).sum()
    }

    fn lvol(&mut self, id: LvolId) -> Result<&mut Lvol, Inconsistent> {
        self.lvols.get_mut(&id).ok_or(Inconsistent("record of an lvol that does not exist"))
    }

    fn insert(&mut self, id: LvolId, lvol: Lvol) -> Result<(), Inconsistent> {
        if lvol.clusters > MAX_CLUSTERS {
            return Err(Inconsistent("an lvol is too large"));
        }
        if id < self.next_id || self.find(&lvol.name).is_some() {
            return Err(Inconsistent("an lvol is created twice"));
        }
        self.next_id = id.checked_add(1).ok_or(Inconsistent("there is no number left for an lvol"))?;
        self.lvols.insert(id, lvol);
        Ok(())
    }

    /// Makes a change; gives the clusters that nobody maps any more.
    ///
    /// # Errors
    /// If the record does not fit; then nothing was changed.
    pub(super) fn apply(&mut self, record: &Record) -> Result<Freed, Inconsistent> {
        match record {
            Record::Create { id, uuid, name, thin, clear, clusters } => {
                let lvol = Lvol { clear: *clear, ..Lvol::new(*uuid, name, *thin, *clusters) };
                self.insert(*id, lvol)?;
            }
            Record::Delete { id } => return self.delete(*id),
            Record::Rename { id, name } => self.lvol(*id)?.name.clone_from(name),
            Record::Resize { id, clusters } => return self.resize(*id, *clusters),
            Record::SetReadOnly { id } => self.lvol(*id)?.read_only = true,
            Record::Map { id, index, cluster } => self.map(*id, *index, *cluster)?,
            Record::Unmap { id, start, count } => {
                let lvol = self.lvol(*id)?;
                return Ok(Freed { clusters: lvol.unmap(*start, *count), clear: lvol.clear });
            }
            Record::RenameStore { name } => self.name.clone_from(name),
            Record::Grow { clusters } => {
                if *clusters < self.clusters {
                    return Err(Inconsistent("the lvstore shrinks"));
                }
                self.clusters = *clusters;
            }
            Record::Snapshot { id, uuid, name, of } => self.snapshot(*id, *uuid, name, *of)?,
            Record::Clone { id, uuid, name, clusters, parent } => {
                self.adopt(*parent)?;
                let clear = match parent {
                    Parent::Lvol(parent) => self.lvol(*parent)?.clear,
                    Parent::None | Parent::External(_) => LvolClear::default(),
                };
                let lvol = Lvol { parent: *parent, clear, ..Lvol::new(*uuid, name, true, *clusters) };
                self.insert(*id, lvol)?;
            }
            Record::SetParent { id, parent } => {
                self.lvol(*id)?;
                self.adopt(*parent)?;
                let lvol = self.lvol(*id)?;
                lvol.parent = *parent;
                if *parent == Parent::None {
                    lvol.map.fill_holes();
                }
            }
            Record::Inflated { id } => {
                let lvol = self.lvol(*id)?;
                lvol.parent = Parent::None;
                lvol.map.fill_holes();
                lvol.thin = false;
                lvol.reserved = true;
            }
        }
        Ok(Freed::default())
    }

    /// An lvol that gets a child is a snapshot from then on, and is never written again.
    fn adopt(&mut self, parent: Parent) -> Result<(), Inconsistent> {
        if let Parent::Lvol(id) = parent {
            let parent = self.lvol(id)?;
            if !parent.read_only {
                return Err(Inconsistent("the parent of a clone can be written"));
            }
            parent.snapshot = true;
        }
        Ok(())
    }

    fn snapshot(&mut self, id: LvolId, uuid: Uuid, name: &str, of: LvolId) -> Result<(), Inconsistent> {
        let origin = self.lvol(of)?;
        let snapshot = Lvol {
            read_only: true,
            snapshot: true,
            clear: origin.clear,
            parent: origin.parent,
            reserved: origin.reserved,
            ..Lvol::new(uuid, name, origin.thin, origin.clusters)
        };
        self.insert(id, snapshot)?;
        let origin = self.lvol(of)?;
        let map = std::mem::take(&mut origin.map);
        origin.thin = true;
        origin.reserved = false;
        origin.parent = Parent::Lvol(id);
        self.lvol(id)?.map = map;
        Ok(())
    }

    fn delete(&mut self, id: LvolId) -> Result<Freed, Inconsistent> {
        let heirs: Vec<_> = self.clones(id).take(2).collect();
        if heirs.len() > 1 {
            return Err(Inconsistent("a snapshot with several clones is deleted"));
        }
        let lvol = self.lvols.remove(&id).ok_or(Inconsistent("record of an lvol that does not exist"))?;
        let Some(heir) = heirs.first() else {
            return Ok(Freed { clusters: lvol.map.iter().map(|(_, c)| c).collect(), clear: lvol.clear });
        };
        let heir = self.lvol(*heir)?;
        let mut clusters = Vec::new();
        for (index, raw) in lvol.map.iter_raw() {
            let is_wanted = index < heir.clusters && heir.map.entry(index) == Entry::Inherited;
            if is_wanted {
                heir.map.set(index, lvol.map.entry(index));
            } else if lvol.map.get(index).is_some() {
                clusters.push(raw);
            }
        }
        // What was promised stays promised, unless the heir has become larger and that could not be kept.
        heir.reserved |= lvol.reserved && heir.clusters <= lvol.clusters;
        heir.parent = lvol.parent;
        if heir.parent == Parent::None {
            heir.map.fill_holes();
        } else {
            // Beyond the end of the deleted one there were zeros, whatever its own parent has there.
            for index in lvol.clusters..heir.clusters {
                if heir.map.entry(index) == Entry::Inherited {
                    heir.map.set(index, Entry::Hole);
                }
            }
        }
        Ok(Freed { clusters, clear: lvol.clear })
    }

    fn resize(&mut self, id: LvolId, clusters: u64) -> Result<Freed, Inconsistent> {
        if clusters > MAX_CLUSTERS {
            return Err(Inconsistent("an lvol is too large"));
        }
        let parent_clusters = match self.lvol(id)?.parent {
            Parent::None => 0,
            Parent::External(_) => u64::MAX,
            Parent::Lvol(parent) => self.lvol(parent)?.clusters,
        };
        let lvol = self.lvol(id)?;
        let before = std::mem::replace(&mut lvol.clusters, clusters);
        let freed = lvol.map.clear(clusters, u64::MAX);
        // What comes back after a shrink does not show the parent.
        lvol.map.punch(before, clusters.min(parent_clusters));
        Ok(Freed { clusters: freed, clear: lvol.clear })
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
        lvol.map.set(index, Entry::Mapped(cluster));
        Ok(())
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
