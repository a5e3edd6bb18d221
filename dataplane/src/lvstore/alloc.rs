//! Which clusters can be handed out. Pure.
//!
//! A cluster that was freed may be used again only when the record that freed it is durable (else, after a power cut, its old
//! owner would see the new one's data) and when no I/O of the old owner is on it any more. I/O is not counted per cluster but per
//! epoch: a freed cluster is at rest when all I/O has ended that began before it was freed.

use std::collections::VecDeque;

use super::state::{Freed, LvolClear};

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

/// I/O in flight, by the epoch in which it began.
#[derive(Debug)]
struct Epochs {
    oldest: u64,
    /// From `oldest` on; never empty.
    inflight: VecDeque<u32>,
}

impl Epochs {
    fn begin(&mut self) -> u64 {
        let newest = self.oldest + self.inflight.len() as u64 - 1;
        if let Some(n) = self.inflight.back_mut() {
            *n += 1;
        }
        newest
    }

    /// Says whether older I/O than before is in flight now.
    fn end(&mut self, epoch: u64) -> bool {
        if let Some(n) = self.inflight.get_mut((epoch - self.oldest) as usize) {
            *n -= 1;
        }
        let before = self.oldest;
        while self.inflight.len() > 1 && self.inflight.front() == Some(&0) {
            self.inflight.pop_front();
            self.oldest += 1;
        }
        self.oldest > before
    }

    /// The epoch that has to be the oldest for all I/O of now to have ended.
    fn after_now(&mut self) -> u64 {
        let newest = self.oldest + self.inflight.len() as u64 - 1;
        match self.inflight.back() {
            Some(0) => newest,
            _ => {
                self.inflight.push_back(0);
                newest + 1
            }
        }
    }
}

/// A cluster that nobody maps any more.
#[derive(Debug)]
struct Waiting {
    /// Number of the write with the record that freed it.
    seq: u64,
    epoch: u64,
    cluster: u32,
    clear: LvolClear,
}

/// Hands clusters out and takes them back.
#[derive(Debug)]
pub(super) struct Allocator {
    /// Mapped, being zeroed, zeroed, or waiting to be free.
    taken: Bitmap,
    next: u32,
    /// Durably zeroed and not yet handed out.
    zeroed: VecDeque<u32>,
    /// Freed, oldest first.
    freed: VecDeque<Waiting>,
    /// At rest, to be cleared before they are free.
    unclear: Vec<(u32, LvolClear)>,
    /// Given out by [`Self::take_unclear`].
    clearing: usize,
    epochs: Epochs,
}

impl Allocator {
    pub(super) fn new(taken: Bitmap) -> Self {
        Self {
            taken,
            next: 0,
            zeroed: VecDeque::new(),
            freed: VecDeque::new(),
            unclear: Vec::new(),
            clearing: 0,
            epochs: Epochs { oldest: 0, inflight: VecDeque::from([0]) },
        }
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

    /// Takes up to `n` free clusters, whatever they hold.
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

    /// Puts clusters from [`Self::take_free`] back: they are not needed, or zeroing failed.
    pub(super) fn untake(&mut self, clusters: &[u32]) {
        for cluster in clusters {
            self.taken.unset(*cluster);
        }
    }

    /// Clusters were freed by the record with number `seq`.
    pub(super) fn free_after(&mut self, seq: u64, freed: Freed) {
        if freed.clusters.is_empty() {
            return;
        }
        let (epoch, clear) = (self.epochs.after_now(), freed.clear);
        let waiting = freed.clusters.into_iter().map(|cluster| Waiting { seq, epoch, cluster, clear });
        self.freed.extend(waiting);
    }

    /// Whether freed clusters wait for durability, for I/O, or to be cleared.
    pub(super) fn has_freed(&self) -> bool {
        !self.freed.is_empty() || !self.unclear.is_empty() || self.clearing > 0
    }

    /// Records up to `durable` are durable: what they freed, and is at rest, is free or can be cleared. Says whether there is
    /// something to clear.
    pub(super) fn promote(&mut self, durable: u64) -> bool {
        // Both numbers only grow along the queue.
        let oldest = self.epochs.oldest;
        let at_rest = self.freed.iter().take_while(|w| w.seq <= durable && w.epoch <= oldest).count();
        for waiting in self.freed.drain(..at_rest) {
            match waiting.clear {
                LvolClear::None => self.taken.unset(waiting.cluster),
                clear => self.unclear.push((waiting.cluster, clear)),
            }
        }
        !self.unclear.is_empty()
    }

    /// What is to be cleared, by cluster.
    pub(super) fn take_unclear(&mut self) -> Vec<(u32, LvolClear)> {
        let mut unclear = std::mem::take(&mut self.unclear);
        unclear.sort_unstable_by_key(|(cluster, _)| *cluster);
        self.clearing += unclear.len();
        unclear
    }

    /// Clusters from [`Self::take_unclear`] are free.
    pub(super) fn cleared(&mut self, clusters: &[(u32, LvolClear)]) {
        self.clearing -= clusters.len();
        for (cluster, _) in clusters {
            self.taken.unset(*cluster);
        }
    }

    /// An I/O on data clusters begins.
    pub(super) fn begin_io(&mut self) -> u64 {
        self.epochs.begin()
    }

    /// An I/O that began in `epoch` has ended. Says whether a freed cluster may have come to rest by it.
    pub(super) fn end_io(&mut self, epoch: u64) -> bool {
        self.epochs.end(epoch) && !self.freed.is_empty()
    }
}

#[cfg(test)]
#[path = "alloc_tests.rs"]
mod tests;
