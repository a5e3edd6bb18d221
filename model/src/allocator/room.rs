//! How many mirror sets still fit, and which choices leave one less of them rather than two.
//!
//! `n` sets of `replicas` different failure domains each exist exactly if the domains have `replicas * n` places together, where one
//! domain counts for at most `n` of them (it serves a set once). Let `n` be the most sets that fit, and call a domain full if it has `n`
//! places or more. Then `n - 1` sets are left after the next one exactly if that takes no more members from the other domains than there
//! are places to spare: so many of its members must be in full domains.

use std::collections::{BTreeMap, BTreeSet};

use super::{Domain, Pd};

/// Places for disks of one array's kind, by failure domain.
pub(super) struct Rooms<'a> {
    places: BTreeMap<Domain<'a>, u64>,
    replicas: u64,
    /// Only nodes that answer are counted.
    answering: bool,
}

impl<'a> Rooms<'a> {
    /// Of the nodes that answer; of all if those cannot take a single set.
    pub(super) fn of(pds: &[Pd<'a>], replicas: u32) -> Self {
        let answering = Self::among(pds, replicas, true);
        if answering.sets() > 0 { answering } else { Self::among(pds, replicas, false) }
    }

    /// The same nodes, as full as they are in `pds`.
    pub(super) fn again(&self, pds: &[Pd<'a>], replicas: u32) -> Self {
        Self::among(pds, replicas, self.answering)
    }

    fn among(pds: &[Pd<'a>], replicas: u32, answering: bool) -> Self {
        let mut places: BTreeMap<Domain<'a>, u64> = BTreeMap::new();
        for pd in pds.iter().filter(|pd| !answering || !pd.not_ready) {
            let of_domain = places.entry(pd.domain.clone()).or_default();
            *of_domain = of_domain.saturating_add(pd.room());
        }
        Self { places, replicas: u64::from(replicas.max(1)), answering }
    }

    pub(super) fn in_domain(&self, domain: &Domain<'a>) -> u64 {
        self.places.get(domain).copied().unwrap_or(0)
    }

    /// Places that count if `sets` sets are wanted.
    fn counted(&self, sets: u64) -> u128 {
        self.places.values().map(|places| u128::from((*places).min(sets))).sum()
    }

    /// The most mirror sets that fit.
    pub(super) fn sets(&self) -> u64 {
        let fit = |sets: u64| self.counted(sets) >= u128::from(self.replicas) * u128::from(sets);
        let all = self.counted(u64::MAX) / u128::from(self.replicas);
        // Fewer sets fit whenever more do.
        let (mut fits, mut too_many) = (0, u64::try_from(all).unwrap_or(u64::MAX - 1) + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if fit(middle) { fits = middle } else { too_many = middle }
        }
        fits
    }

    /// What the next set has to be made of.
    pub(super) fn next_set(&self) -> NextSet<'a> {
        let sets = self.sets();
        let full: BTreeSet<_> =
            self.places.iter().filter(|(_, p)| **p >= sets).map(|(d, _)| d.clone()).collect();
        let spare = self.counted(sets) - u128::from(self.replicas) * u128::from(sets);
        let spare = usize::try_from(spare).unwrap_or(usize::MAX);
        NextSet { from_full: if sets == 0 { 0 } else { full.len().saturating_sub(spare) }, full }
    }
}

/// How a set may be chosen that costs no other set than itself.
pub(super) struct NextSet<'a> {
    full: BTreeSet<Domain<'a>>,
    /// As many of its members as must be in full domains.
    from_full: usize,
}

impl<'a> NextSet<'a> {
    /// Whether a member in `domain`, on top of those chosen, with `more` to choose after it, costs another set its place.
    pub(super) fn wastes<'b>(
        &self,
        chosen: impl Iterator<Item = &'b Domain<'a>>,
        domain: &Domain<'a>,
        more: usize,
    ) -> bool
    where
        'a: 'b,
    {
        let in_full = chosen.filter(|d| self.full.contains(*d)).count();
        !self.full.contains(domain) && in_full + more < self.from_full
    }
}
