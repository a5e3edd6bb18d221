//! Compare-and-write: nothing changes the blocks between the comparison and the write (NVMe's fused operation; SPDK's
//! `spdk_bdev_comparev_and_writev_blocks`, which locks a range of blocks).
//!
//! One at a time on a bdev. Changes of its blocks that come while it is under way wait for it; changes that began before it are waited for, wherever
//! they are: who tracked their ranges would slow every write down for the sake of an operation that cluster file systems use for their locks.

use std::cell::Cell;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// First and after-last block.
pub(super) type Range = (u64, u64);

/// What orders the compare-and-writes of a bdev with its changes.
#[derive(Default)]
pub(super) struct Atomic {
    /// Held by the one that is under way. First come, first served, so nobody waits for ever.
    turn: Mutex<()>,
    /// The blocks that nobody else may change now.
    closed: Cell<Option<Range>>,
    /// Changes that have begun and not ended. A compare-and-write lets those that come later be counted elsewhere, and waits for the rest.
    changes: [Cell<usize>; 2],
    counted: Cell<usize>,
    drained: Notify,
}

impl Atomic {
    /// Counts a change that begins; what [`Self::end`] is to be called with.
    pub(super) fn begin(&self) -> usize {
        let counted = self.counted.get();
        self.changes[counted].set(self.changes[counted].get() + 1);
        counted
    }

    /// A change has ended.
    pub(super) fn end(&self, counted: usize) {
        let left = self.changes[counted].get() - 1;
        self.changes[counted].set(left);
        if left == 0 && !self.is_open() {
            self.drained.notify_waiters();
        }
    }

    /// Waits until blocks may be changed. The change must have [begun](Self::begin) when the guard is dropped.
    pub(super) async fn open(&self, range: Range) -> Option<MutexGuard<'_, ()>> {
        let closed = self.closed.get()?;
        if closed.0 < range.1 && range.0 < closed.1 { Some(self.turn.lock().await) } else { None }
    }

    /// Whether anything is closed: most of the time nobody has to wait.
    pub(super) fn is_open(&self) -> bool {
        self.closed.get().is_none()
    }

    /// Waits until nobody else changes the blocks, and sees to it that nobody does until the guard is dropped.
    pub(super) async fn close(&self, range: Range) -> Closed<'_> {
        let turn = self.turn.lock().await;
        self.closed.set(Some(range));
        let closed = Closed { atomic: self, _turn: turn };
        let before = self.counted.get();
        self.counted.set(1 - before);
        loop {
            let drained = self.drained.notified();
            if self.changes[before].get() == 0 {
                return closed;
            }
            drained.await;
        }
    }
}

/// Blocks that only the holder changes, until this is dropped.
pub(super) struct Closed<'a> {
    atomic: &'a Atomic,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.atomic.closed.set(None);
    }
}

#[cfg(test)]
#[path = "atomic_tests.rs"]
mod tests;
