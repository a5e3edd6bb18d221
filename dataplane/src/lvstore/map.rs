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

/// Entries of [`LEAF`] neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leaf {
    /// All of them are holes. What was unmapped as a whole takes no memory, however large it is.
    Holes,
    Entries(Box<[u32]>),
}

impl Leaf {
    fn raw(&self, at: usize) -> u32 {
        match self {
            Self::Holes => HOLE,
            Self::Entries(entries) => entries[at],
        }
    }

    fn entries(&mut self) -> &mut [u32] {
        if matches!(self, Self::Holes) {
            *self = Self::Entries(vec![HOLE; LEAF].into_boxed_slice());
        }
        match self {
            Self::Entries(entries) => entries,
            Self::Holes => &mut [],
        }
    }
}

/// The map of an lvol. Leaves exist only where it says something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterMap {
    leaves: Vec<Option<Leaf>>,
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
        leaf.map_or(Entry::Inherited, |leaf| Entry::decode(leaf.raw(at % LEAF)))
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

    /// How many of the two entries just outside of a range are holes.
    fn holes_beside(&self, start: u64, end: u64) -> u64 {
        u64::from(start > 0 && self.is_hole(start - 1)) + u64::from(self.is_hole(end))
    }

    fn slot(&mut self, leaf: usize) -> &mut Option<Leaf> {
        if self.leaves.len() <= leaf {
            self.leaves.resize_with(leaf + 1, || None);
        }
        &mut self.leaves[leaf]
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
            let beside = self.holes_beside(index, index + 1);
            // Becoming a hole makes a run, lengthens one or joins two; the other way round it is undone.
            self.hole_runs = match entry {
                Entry::Hole => self.hole_runs + 1 - beside,
                Entry::Inherited | Entry::Mapped(_) => self.hole_runs + beside - 1,
            };
        }
        let slot = self.slot(at / LEAF);
        let leaf = slot.get_or_insert_with(|| Leaf::Entries(vec![UNMAPPED; LEAF].into_boxed_slice()));
        leaf.entries()[at % LEAF] = entry.encode();
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
                if self.says_all(leaf, UNMAPPED) {
                    self.leaves[leaf] = None;
                }
            }
            at = leaf_end;
        }
        freed
    }

    /// Makes a range read as zeros whatever the parent has there, and gives what was mapped.
    pub(super) fn punch(&mut self, start: u64, end: u64) -> Vec<u32> {
        let mut freed = Vec::new();
        let mut at = start;
        while at < end {
            let leaf = leaf_of(at);
            let leaf_end = ((leaf + 1) * LEAF) as u64;
            let is_whole = at.is_multiple_of(LEAF as u64) && leaf_end <= end;
            if is_whole && self.leaves.get(leaf).is_none_or(Option::is_none) {
                self.hole_runs = self.hole_runs + 1 - self.holes_beside(at, leaf_end);
                *self.slot(leaf) = Some(Leaf::Holes);
            } else if !self.is_leaf_of_holes(leaf) {
                freed.extend((at..end.min(leaf_end)).filter_map(|i| self.set(i, Entry::Hole)));
                if self.says_all(leaf, HOLE) {
                    self.leaves[leaf] = Some(Leaf::Holes);
                }
            }
            at = leaf_end;
        }
        freed
    }

    fn is_leaf_of_holes(&self, leaf: usize) -> bool {
        matches!(self.leaves.get(leaf), Some(Some(Leaf::Holes)))
    }

    /// Whether all entries of a leaf are the same, stored one by one.
    fn says_all(&self, leaf: usize, raw: u32) -> bool {
        matches!(self.leaves.get(leaf), Some(Some(Leaf::Entries(e))) if e.iter().all(|c| *c == raw))
    }

    /// Forgets all holes: there is no parent any more.
    pub(super) fn fill_holes(&mut self) {
        for slot in &mut self.leaves {
            if let Some(Leaf::Entries(entries)) = slot {
                entries.iter_mut().filter(|e| **e == HOLE).for_each(|e| *e = UNMAPPED);
                if entries.iter().any(|e| *e != UNMAPPED) {
                    continue;
                }
            }
            *slot = None;
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

    fn leaves(&self) -> impl Iterator<Item = (u64, &Leaf)> + '_ {
        let leaves = self.leaves.iter().enumerate();
        leaves.filter_map(|(n, leaf)| Some(((n * LEAF) as u64, leaf.as_ref()?)))
    }

    /// Index and raw entry of everything that the lvol says something about, by index.
    pub(super) fn iter_raw(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let raw = self.leaves().flat_map(|(n, leaf)| (0..LEAF).map(move |i| (n + i as u64, leaf.raw(i))));
        raw.filter(|(_, c)| *c != UNMAPPED)
    }

    /// Index and cluster of everything mapped, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let stored = self.leaves().filter_map(|(first, leaf)| match leaf {
            Leaf::Holes => None,
            Leaf::Entries(entries) => Some((first..).zip(entries.iter().copied())),
        });
        stored.flatten().filter(|(_, c)| *c < HOLE)
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
