//! The order of changes to a raid1.
//!
//! Changes that overlap happen one after the other, in the order in which they came, so every member ends up with the same bytes
//! whatever the order in which its disk completes I/O. A rebuild copies window by window and is, in each, just another change: the
//! copy waits for the writes that came before it (they may not be on the new member), and those that come later wait for the copy
//! (it would put older bytes over theirs).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// First and after-last block.
type Range = (u64, u64);

/// Who is at a range, or waits for it.
struct Entry {
    range: Range,
    /// The order in which they came.
    seq: u64,
    /// Earlier entries that overlap and are still there; 0: it is this one's turn.
    before: usize,
    waker: Option<Waker>,
}

/// Ranges in use, and who waits for them, in the order of arrival.
#[derive(Default)]
pub(super) struct RangeLock {
    /// `None` is a free entry.
    entries: RefCell<Vec<Option<Entry>>>,
    free: RefCell<Vec<usize>>,
    next: Cell<u64>,
    waiting: Cell<usize>,
}

/// A range that is locked from its turn until this is dropped; its place in the order is the creation of this.
pub(super) struct Locked {
    lock: Rc<RangeLock>,
    entry: usize,
}

fn overlap(a: Range, b: Range) -> bool {
    a.0 < b.1 && b.0 < a.1
}

impl RangeLock {
    /// Locks from block `start` to before `end` when all that came before and overlap are done.
    pub(super) async fn lock(self: &Rc<Self>, start: u64, end: u64) -> Locked {
        let mut locked = self.enter((start, end));
        Turn(&mut locked).await;
        locked
    }

    fn enter(self: &Rc<Self>, range: Range) -> Locked {
        let mut entries = self.entries.borrow_mut();
        let before = entries.iter().flatten().filter(|e| overlap(e.range, range)).count();
        let seq = self.next.get();
        self.next.set(seq + 1);
        self.waiting.set(self.waiting.get() + usize::from(before > 0));
        let new = Some(Entry { range, seq, before, waker: None });
        let entry = match self.free.borrow_mut().pop() {
            Some(entry) => {
                entries[entry] = new;
                entry
            }
            None => {
                entries.push(new);
                entries.len() - 1
            }
        };
        Locked { lock: Rc::clone(self), entry }
    }
}

/// Resolves when it is the turn of a range.
struct Turn<'a>(&'a mut Locked);

impl Future for Turn<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.0.lock.entries.borrow_mut();
        match entries[self.0.entry].as_mut() {
            Some(entry) if entry.before > 0 => {
                // The one who polls may change: an I/O whose caller went away is driven by somebody else.
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let lock = &self.lock;
        let mut entries = lock.entries.borrow_mut();
        let Some(gone) = entries[self.entry].take() else { return };
        lock.free.borrow_mut().push(self.entry);
        lock.waiting.set(lock.waiting.get() - usize::from(gone.before > 0));
        if lock.waiting.get() == 0 {
            return;
        }
        let later = |e: &&mut Entry| e.seq > gone.seq && overlap(e.range, gone.range);
        for entry in entries.iter_mut().flatten().filter(later) {
            entry.before -= 1;
            if entry.before == 0 {
                lock.waiting.set(lock.waiting.get() - 1);
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "range_lock_tests.rs"]
mod tests;
