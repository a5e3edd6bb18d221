//! The memory for data of commands, shared by all connections of a target.
//!
//! A command whose data is not in its capsule takes a buffer before it begins: a read before it is given to the bdev, a write before its R2T is
//! sent. When there is none, the command waits where it was received, and so does what its connection receives after it; commands
//! without data, or with their data in the capsule, go on. Connections that wait get buffers in the order in which they began to wait, one
//! command at a time (ADR 0086).
//!
//! A connection that holds nothing always gets a buffer. So none ever starves, whatever the others hold, and no cycle of connections that wait
//! for each other is possible: a volume of this target may be reached through another subsystem of this target.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;

use vda_nvme::controller::Buffers;

#[cfg(test)]
#[path = "buffer_pool_tests.rs"]
mod tests;

/// SPDK's pools if nobody says otherwise (`iobuf_set_options`): how many buffers, and bytes of each.
pub const SMALL_POOL: (u64, u32) = (8192, 8 << 10);
pub const LARGE_POOL: (u64, u32) = (1024, 132 << 10);
/// Memory of the buffers of a target if nobody says otherwise, bytes: that of SPDK's pools.
pub const DEFAULT_CAPACITY: usize =
    SMALL_POOL.0 as usize * SMALL_POOL.1 as usize + LARGE_POOL.0 as usize * LARGE_POOL.1 as usize;

/// The buffers of a target.
#[derive(Default)]
pub(super) struct Pool {
    capacity: Cell<usize>,
    used: Cell<usize>,
    /// Connections that wait, by ticket.
    waiting: RefCell<BTreeMap<u64, Rc<Place>>>,
    tickets: Cell<u64>,
}

/// What the pool knows of a connection.
#[derive(Default)]
struct Place {
    /// Bytes that count as used because of it.
    held: Cell<usize>,
    /// Bytes wanted; it waits while it has a ticket.
    wanted: Cell<usize>,
    ticket: Cell<Option<u64>>,
    /// Of `held`: given when its turn came, and not used yet.
    granted: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// A connection's share of a pool. All that it holds is given back when it is dropped.
pub(super) struct Share {
    pool: Rc<Pool>,
    place: Rc<Place>,
}

impl Pool {
    /// A pool of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Rc<Self> {
        Rc::new(Self { capacity: Cell::new(capacity), ..Self::default() })
    }

    /// Changes its size, bytes. What is in use above it stays in use.
    pub(super) fn resize(&self, capacity: usize) {
        self.capacity.set(capacity);
        self.hand_out();
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// A share for a new connection.
    pub(super) fn join(self: &Rc<Self>) -> Share {
        Share { pool: Rc::clone(self), place: Rc::default() }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.used.get() + bytes <= self.capacity.get()
    }

    fn charge(&self, place: &Place, bytes: usize) {
        self.used.set(self.used.get() + bytes);
        place.held.set(place.held.get() + bytes);
    }

    /// Gives buffers to those who wait, in their order, as far as there are some.
    fn hand_out(&self) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let Some(first) = waiting.first_entry() else { return };
            if !self.fits(first.get().wanted.get()) {
                return;
            }
            let place = first.remove();
            drop(waiting);
            self.grant(&place);
        }
    }

    /// The turn of a place that does not wait any more has come.
    fn grant(&self, place: &Place) {
        let bytes = place.wanted.get();
        place.ticket.set(None);
        place.granted.set(bytes);
        self.charge(place, bytes);
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
    }

    fn leave(&self, place: &Place) {
        if let Some(ticket) = place.ticket.take() {
            self.waiting.borrow_mut().remove(&ticket);
        }
    }
}

impl Share {
    /// Gives `bytes` back.
    pub(super) fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let (pool, place) = (&self.pool, &self.place);
        debug_assert!(bytes <= place.held.get(), "{bytes} bytes given back, {} held", place.held.get());
        let bytes = bytes.min(place.held.get());
        place.held.set(place.held.get() - bytes);
        pool.used.set(pool.used.get() - bytes);
        // Who holds nothing does not wait.
        if place.held.get() == 0 && place.ticket.get().is_some() {
            pool.leave(place);
            pool.grant(place);
        }
        pool.hand_out();
    }

    /// Whether a command of this connection waits.
    pub(super) fn waits(&self) -> bool {
        self.place.ticket.get().is_some()
    }

    /// Wakes `waker` when the turn of this connection has come.
    pub(super) fn wake_later(&self, waker: &Waker) {
        let mut slot = self.place.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Nothing of this connection waits any more: gives back a turn that came too late.
    pub(super) fn settle(&self) {
        self.pool.leave(&self.place);
        self.release(self.place.granted.take());
    }
}

impl Buffers for &Share {
    fn take(&mut self, bytes: usize) -> bool {
        let (pool, place) = (&self.pool, &self.place);
        let granted = place.granted.take();
        if granted >= bytes && granted > 0 {
            self.release(granted - bytes);
            return true;
        }
        // The turn was another command's, which has gone.
        self.release(granted);
        if place.ticket.get().is_some() {
            place.wanted.set(bytes);
            return false;
        }
        if place.held.get() == 0 || pool.waiting.borrow().is_empty() && pool.fits(bytes) {
            pool.charge(place, bytes);
            return true;
        }
        let ticket = pool.tickets.get();
        pool.tickets.set(ticket + 1);
        place.wanted.set(bytes);
        place.ticket.set(Some(ticket));
        pool.waiting.borrow_mut().insert(ticket, Rc::clone(place));
        false
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.leave(&self.place);
        self.place.granted.set(0);
        self.release(self.place.held.get());
    }
}
