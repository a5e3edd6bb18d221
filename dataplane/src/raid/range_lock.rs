//! Keeps the copying of a rebuild and the writes of hosts apart.
//!
//! A rebuild copies window by window. A write that overlaps the window would be undone on the target by the older copy, and a
//! write that began before the target was a member has to be on the source before it is read: so the window waits for the
//! writes in it that are in flight, and new ones wait for the window.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

/// Writes in flight, and at most one window.
#[derive(Default)]
pub(super) struct RangeLock {
    /// First and after-last block of writes in flight; `None` is a free entry.
    writes: RefCell<Vec<Option<(u64, u64)>>>,
    free: RefCell<Vec<usize>>,
    window: Cell<Option<(u64, u64)>>,
    changed: Notify,
}

/// A write in flight.
pub(super) struct Write {
    lock: Rc<RangeLock>,
    entry: usize,
}

/// A window that no write is in.
pub(super) struct Window(Rc<RangeLock>);

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

impl RangeLock {
    /// Enters a write from block `start` to before `end`, after the window if that overlaps.
    pub(super) async fn write(self: &Rc<Self>, start: u64, end: u64) -> Write {
        loop {
            let changed = self.changed.notified();
            if !self.window.get().is_some_and(|w| overlap(w, (start, end))) {
                break;
            }
            changed.await;
        }
        let mut writes = self.writes.borrow_mut();
        let entry = self.free.borrow_mut().pop().unwrap_or_else(|| {
            writes.push(None);
            writes.len() - 1
        });
        writes[entry] = Some((start, end));
        Write { lock: Rc::clone(self), entry }
    }

    /// Closes a window for writes and waits for those in it to end.
    pub(super) async fn window(self: &Rc<Self>, start: u64, end: u64) -> Window {
        debug_assert!(self.window.get().is_none(), "one rebuild at a time");
        self.window.set(Some((start, end)));
        let window = Window(Rc::clone(self));
        loop {
            let changed = self.changed.notified();
            if !self.writes.borrow().iter().flatten().any(|w| overlap(*w, (start, end))) {
                return window;
            }
            changed.await;
        }
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.lock.writes.borrow_mut()[self.entry] = None;
        self.lock.free.borrow_mut().push(self.entry);
        if self.lock.window.get().is_some() {
            self.lock.changed.notify_waiters();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.0.window.set(None);
        self.0.changed.notify_waiters();
    }
}
