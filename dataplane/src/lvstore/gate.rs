//! Holds the changes of an lvol back while what it stands on is exchanged.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Counts the changes under way on an lvol, and stops new ones while somebody holds it frozen.
#[derive(Default)]
pub(super) struct Gate {
    changes: Cell<usize>,
    frozen: Cell<bool>,
    /// The last change has ended, or it is not frozen any more.
    moved: Notify,
}

/// A change under way.
pub(super) struct Change(Rc<Gate>);

/// No change is under way and none begins while this lives.
pub(super) struct Frozen(Rc<Gate>);

impl Gate {
    /// Begins a change, unless it is frozen.
    pub(super) fn try_enter(self: &Rc<Self>) -> Option<Change> {
        if self.frozen.get() {
            return None;
        }
        self.changes.set(self.changes.get() + 1);
        Some(Change(Rc::clone(self)))
    }

    /// Begins a change as soon as it is not frozen.
    pub(super) async fn enter(self: &Rc<Self>) -> Change {
        loop {
            let moved = self.moved.notified();
            if let Some(change) = self.try_enter() {
                return change;
            }
            moved.await;
        }
    }

    /// Waits until all changes have ended, and lets no new one begin.
    pub(super) async fn freeze(self: &Rc<Self>) -> Frozen {
        loop {
            let moved = self.moved.notified();
            if !self.frozen.get() {
                break;
            }
            moved.await;
        }
        self.frozen.set(true);
        let frozen = Frozen(Rc::clone(self));
        loop {
            let moved = self.moved.notified();
            if self.changes.get() == 0 {
                return frozen;
            }
            moved.await;
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let left = self.0.changes.get() - 1;
        self.0.changes.set(left);
        if left == 0 && self.0.frozen.get() {
            self.0.moved.notify_waiters();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.frozen.set(false);
        self.0.moved.notify_waiters();
    }
}
