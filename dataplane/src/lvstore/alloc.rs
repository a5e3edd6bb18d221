//! Which clusters can be handed out. Pure.
//!
//! A cluster that was freed may be used again only when the record that freed it is durable (else, after a power cut, its old
//! owner would see the new one's data) and when no I/O of the old owner is on it any more.

use std::collections::{HashMap, VecDeque};

/// A bit per cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    len: u32,
}

impl Bitmap {
    pub(super) fn new(len: u32) -> Self {
        Self { words: vec![0; (len as usize).div_ceil(64)], len }
    }

    pub(super) fn grow(&mut self, len: u32) {
        self.len = self.len.max(len);
        self.words.resize((self.len as usize).div_ceil(64), 0);
    }

    /// Sets a bit and says whether it was set.
    pub(super) fn set(&mut self, i: u32) -> bool {
        let (word, bit) = (i as usize / 64, 1 << (i % 64));
        let was = self.words[word] & bit != 0;
        self.words[word] |= bit;
        was
    }

    pub(super) fn unset(&mut self, i: u32) {
        self.words[i as usize / 64] &= !(1 << (i % 64));
    }

    /// The first unset bit from `from` on, wrapping round.
    pub(super) fn next_unset(&self, from: u32) -> Option<u32> {
        let start = from as usize / 64;
        let below = (1u64 << (from % 64)) - 1;
        let masked = |n: usize, w: u64| if n == start { w | below } else { w };
        (start..self.words.len())
            .map(|n| (n, masked(n, self.words[n])))
            .chain((0..=start.min(self.words.len().saturating_sub(1))).map(|n| (n, self.words[n])))
            .filter(|(_, w)| *w != u64::MAX)
            .map(|(n, w)| (n * 64) as u32 + w.trailing_ones())
            .find(|i| *i < self.len)
    }
}

/// Hands clusters out and takes them back.
#[derive(Debug)]
pub(super) struct Allocator {
    /// Mapped, being zeroed, zeroed, or waiting to be free.
    taken: Bitmap,
    next: u32,
    /// Durably zeroed and not yet handed out.
    zeroed: VecDeque<u32>,
    /// Freed by a record of that sequence number, oldest first.
    freed: VecDeque<(u64, u32)>,
    /// I/O in flight per data cluster.
    inflight: HashMap<u32, u32>,
}

impl Allocator {
    pub(super) fn new(taken: Bitmap) -> Self {
        Self { taken, next: 0, zeroed: VecDeque::new(), freed: VecDeque::new(), inflight: HashMap::new() }
    }

    pub(super) fn grow(&mut self, clusters: u32) {
        self.taken.grow(clusters);
    }

    /// Takes a cluster that reads as zeros.
    pub(super) fn pop_zeroed(&mut self) -> Option<u32> {
        self.zeroed.pop_front()
    }

    /// Clusters that are zeroed and waiting.
    pub(super) fn zeroed(&self) -> usize {
        self.zeroed.len()
    }

    /// Takes up to `n` free clusters, to be zeroed.
    pub(super) fn take_free(&mut self, n: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < n {
            let Some(cluster) = self.taken.next_unset(self.next) else { break };
            self.taken.set(cluster);
            self.next = cluster + 1;
            taken.push(cluster);
        }
        taken
    }

    /// Puts clusters from [`Self::take_free`] where they are handed out from: they are durably zeroed now.
    pub(super) fn push_zeroed(&mut self, clusters: Vec<u32>) {
        self.zeroed.extend(clusters);
    }

    /// Puts clusters from [`Self::take_free`] back: zeroing failed.
    pub(super) fn untake(&mut self, clusters: &[u32]) {
        for cluster in clusters {
            self.taken.unset(*cluster);
        }
    }

    /// Clusters were freed by the record with number `seq`.
    pub(super) fn free_after(&mut self, seq: u64, clusters: Vec<u32>) {
        self.freed.extend(clusters.into_iter().map(|c| (seq, c)));
    }

    /// Whether freed clusters wait for durability or for I/O.
    pub(super) fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    /// Records up to `durable` are durable: what they freed, and is at rest, is free. Gives how many became so.
    pub(super) fn promote(&mut self, durable: u64) -> usize {
        let before = self.freed.len();
        let (inflight, taken) = (&self.inflight, &mut self.taken);
        self.freed.retain(|(seq, cluster)| {
            let keep = *seq > durable || inflight.contains_key(cluster);
            if !keep {
                taken.unset(*cluster);
            }
            keep
        });
        before - self.freed.len()
    }

    pub(super) fn begin_io(&mut self, cluster: u32) {
        *self.inflight.entry(cluster).or_default() += 1;
    }

    /// Says whether a freed cluster may have come to rest by it.
    pub(super) fn end_io(&mut self, cluster: u32) -> bool {
        if let Some(n) = self.inflight.get_mut(&cluster) {
            *n -= 1;
            if *n == 0 {
                self.inflight.remove(&cluster);
                return !self.freed.is_empty();
            }
        }
        false
    }
}

#[cfg(test)]
#[path = "alloc_tests.rs"]
mod tests;
