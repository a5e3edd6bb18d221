//! Which data cluster holds a cluster of an lvol. Pure.

/// Entry for a cluster that the lvol itself says nothing about: what its parent has there, or zeros.
const UNMAPPED: u32 = u32::MAX;
/// Entry for a cluster that reads as zeros, whatever the parent has there. On the disk as well.
pub(super) const HOLE: u32 = u32::MAX - 1;
/// Entries that are allocated together.
const LEAF: usize = 512;

/// What an lvol itself says about one of its clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: the parent decides.
    Inherited,
    /// Zeros.
    Hole,
    Mapped(u32),
}

impl Entry {
    fn decode(raw: u32) -> Self {
        match raw {
            UNMAPPED => Self::Inherited,
            HOLE => Self::Hole,
            cluster => Self::Mapped(cluster),
        }
    }

    fn encode(self) -> u32 {
        match self {
            Self::Inherited => UNMAPPED,
            Self::Hole => HOLE,
            Self::Mapped(cluster) => cluster,
        }
    }
}

/// The map of an lvol. Leaves exist only where it says something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterMap {
    leaves: Vec<Option<Box<[u32]>>>,
    mapped: u64,
    /// Runs of neighbouring holes: what holes cost in a checkpoint.
    hole_runs: u64,
}

fn leaf_of(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX) / LEAF
}

impl ClusterMap {
    pub(super) fn entry(&self, index: u64) -> Entry {
        let Ok(at) = usize::try_from(index) else { return Entry::Inherited };
        let leaf = self.leaves.get(at / LEAF).and_then(Option::as_ref);
        leaf.map_or(Entry::Inherited, |leaf| Entry::decode(leaf[at % LEAF]))
    }

    /// The data cluster, if there is one.
    pub(super) fn get(&self, index: u64) -> Option<u32> {
        match self.entry(index) {
            Entry::Mapped(cluster) => Some(cluster),
            Entry::Inherited | Entry::Hole => None,
        }
    }

    /// Number of mapped clusters.
    pub(super) fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Number of runs of holes.
    pub(super) fn hole_runs(&self) -> u64 {
        self.hole_runs
    }

    fn is_hole(&self, index: u64) -> bool {
        self.entry(index) == Entry::Hole
    }

    /// Changes an entry and gives the cluster that was there.
    pub(super) fn set(&mut self, index: u64, entry: Entry) -> Option<u32> {
        let at = usize::try_from(index).ok()?;
        let old = self.entry(index);
        if old == entry {
            return match old {
                Entry::Mapped(cluster) => Some(cluster),
                Entry::Inherited | Entry::Hole => None,
            };
        }
        if (old == Entry::Hole) != (entry == Entry::Hole) {
            let beside = u64::from(index > 0 && self.is_hole(index - 1)) + u64::from(self.is_hole(index + 1));
            // Becoming a hole makes a run, lengthens one or joins two; the other way round it is undone.
            self.hole_runs = match entry {
                Entry::Hole => self.hole_runs + 1 - beside,
                Entry::Inherited | Entry::Mapped(_) => self.hole_runs + beside - 1,
            };
        }
        if self.leaves.len() <= at / LEAF {
            self.leaves.resize_with(at / LEAF + 1, || None);
        }
        let leaf = self.leaves[at / LEAF].get_or_insert_with(|| vec![UNMAPPED; LEAF].into_boxed_slice());
        leaf[at % LEAF] = entry.encode();
        self.mapped += u64::from(matches!(entry, Entry::Mapped(_)));
        match old {
            Entry::Mapped(cluster) => {
                self.mapped -= 1;
                Some(cluster)
            }
            Entry::Inherited | Entry::Hole => None,
        }
    }

    /// Forgets a range and gives what was mapped there.
    pub(super) fn clear(&mut self, start: u64, count: u64) -> Vec<u32> {
        let end = start.saturating_add(count).min((self.leaves.len() * LEAF) as u64);
        let mut freed = Vec::new();
        let mut at = start;
        while at < end {
            let leaf = leaf_of(at);
            let leaf_end = ((leaf + 1) * LEAF) as u64;
            if self.leaves[leaf].is_some() {
                freed.extend((at..end.min(leaf_end)).filter_map(|i| self.set(i, Entry::Inherited)));
                if self.leaves[leaf].as_ref().is_some_and(|l| l.iter().all(|c| *c == UNMAPPED)) {
                    self.leaves[leaf] = None;
                }
            }
            at = leaf_end;
        }
        freed
    }

    /// Makes a range read as zeros whatever the parent has there, and gives what was mapped.
    pub(super) fn punch(&mut self, start: u64, end: u64) -> Vec<u32> {
        (start..end).filter_map(|i| self.set(i, Entry::Hole)).collect()
    }

    /// Forgets all holes: there is no parent any more.
    pub(super) fn fill_holes(&mut self) {
        for leaf in &mut self.leaves {
            let Some(entries) = leaf else { continue };
            entries.iter_mut().filter(|e| **e == HOLE).for_each(|e| *e = UNMAPPED);
            if entries.iter().all(|e| *e == UNMAPPED) {
                *leaf = None;
            }
        }
        self.hole_runs = 0;
    }

    /// Whether `is` holds for an entry from `start` to before `end` about which the lvol says something.
    pub(super) fn any(&self, start: u64, end: u64, is: impl Fn(Entry) -> bool) -> bool {
        let mut at = start;
        while at < end {
            let leaf = leaf_of(at);
            let Some(slot) = self.leaves.get(leaf) else { return false };
            let leaf_end = ((leaf + 1) * LEAF) as u64;
            if slot.is_some() && (at..end.min(leaf_end)).any(|i| is(self.entry(i))) {
                return true;
            }
            at = leaf_end;
        }
        false
    }

    /// Index and raw entry of everything that the lvol says something about, by index.
    pub(super) fn iter_raw(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.leaves.iter().enumerate().filter_map(|(n, leaf)| Some((n, leaf.as_ref()?))).flat_map(
            |(n, leaf)| {
                leaf.iter()
                    .enumerate()
                    .filter(|(_, c)| **c != UNMAPPED)
                    .map(move |(i, c)| ((n * LEAF + i) as u64, *c))
            },
        )
    }

    /// Index and cluster of everything mapped, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.iter_raw().filter(|(_, c)| *c != HOLE)
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
