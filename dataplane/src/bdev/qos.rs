//! Rate limits of a bdev (`bdev_set_qos_limit`).
//!
//! Each limit is a virtual clock (GCRA): an I/O moves it forward by `cost / rate`, and an I/O may start when the clock is not
//! ahead of real time by more than the burst. Waiting I/O sleeps until exactly then, in order; nothing polls.
//!
//! There is no queue here: who waits is the caller, with what it holds, so a limited bdev slows its hosts down by their queue
//! depths. An I/O whose caller goes away while it waits is never begun.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::stats::IoClass;

/// I/O limits are kept in steps of a thousand a second, as SPDK does.
const IOPS_STEP: u64 = 1000;
/// A megabyte of the limits is 2^20 bytes.
const MIB: u64 = 1024 * 1024;
/// SPDK's value of a limit that is not given.
const NOT_GIVEN: u64 = u64::MAX;
/// How far a limit may be overdrawn by a burst: SPDK's time slice.
const BURST: Duration = Duration::from_millis(1);

/// `assigned_rate_limits` of a bdev; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosLimits {
    pub rw_ios_per_sec: u64,
    pub rw_mbytes_per_sec: u64,
    pub r_mbytes_per_sec: u64,
    pub w_mbytes_per_sec: u64,
}

/// The limits to change; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosUpdate {
    pub rw_ios_per_sec: Option<u64>,
    pub rw_mbytes_per_sec: Option<u64>,
    pub r_mbytes_per_sec: Option<u64>,
    pub w_mbytes_per_sec: Option<u64>,
}

impl QosLimits {
    /// The limits after `update`: I/O rates are rounded up to thousands, and what does not fit in 64 bits of bytes a second is the
    /// most that does. `None` if nothing is to change.
    pub fn updated(self, update: QosUpdate) -> Option<Self> {
        let given = |v: Option<u64>| v.filter(|v| *v != NOT_GIVEN);
        let ios = |v: u64| v.checked_next_multiple_of(IOPS_STEP).unwrap_or(u64::MAX / IOPS_STEP * IOPS_STEP);
        let mbytes = |new: Option<u64>, old| given(new).map_or(old, |v| v.min(u64::MAX / MIB));
        let all = [
            update.rw_ios_per_sec,
            update.rw_mbytes_per_sec,
            update.r_mbytes_per_sec,
            update.w_mbytes_per_sec,
        ];
        all.into_iter().any(|v| given(v).is_some()).then(|| Self {
            rw_ios_per_sec: given(update.rw_ios_per_sec).map_or(self.rw_ios_per_sec, ios),
            rw_mbytes_per_sec: mbytes(update.rw_mbytes_per_sec, self.rw_mbytes_per_sec),
            r_mbytes_per_sec: mbytes(update.r_mbytes_per_sec, self.r_mbytes_per_sec),
            w_mbytes_per_sec: mbytes(update.w_mbytes_per_sec, self.w_mbytes_per_sec),
        })
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Units a second; 0 is unlimited.
    rate: u64,
    /// When what was admitted so far is used up at that rate.
    clock: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, clock: now }
    }

    /// Books `cost` units and says when the I/O may start.
    fn admit(&mut self, cost: u64, now: Instant) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let start = self.clock.max(now);
        let nanos = u128::from(cost) * 1_000_000_000 / u128::from(self.rate);
        self.clock = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        start.checked_sub(BURST).map_or(now, |t| t.max(now))
    }
}

impl Bucket {
    /// Gives back what an I/O that never happened was booked for. Those that wait behind it keep their times.
    fn refund(&mut self, cost: u64) {
        if self.rate > 0 {
            let nanos = u128::from(cost) * 1_000_000_000 / u128::from(self.rate);
            let back = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
            self.clock = self.clock.checked_sub(back).unwrap_or(self.clock);
        }
    }
}

struct Buckets {
    ios: Bucket,
    both: Bucket,
    read: Bucket,
    write: Bucket,
}

/// The throttle of one bdev.
#[derive(Default)]
pub(super) struct Throttle {
    limits: Cell<QosLimits>,
    buckets: RefCell<Option<Box<Buckets>>>,
    /// How often the limits were set: what was booked before is of no account after.
    epoch: Cell<u64>,
    changed: Notify,
}

/// The place of an I/O that a limit holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// When it may start.
    pub(super) start: Instant,
    epoch: u64,
}

impl Throttle {
    pub(super) fn limits(&self) -> QosLimits {
        self.limits.get()
    }

    pub(super) fn set(&self, limits: QosLimits, now: Instant) {
        self.limits.set(limits);
        let buckets = (limits != QosLimits::default()).then(|| {
            Box::new(Buckets {
                ios: Bucket::new(limits.rw_ios_per_sec, now),
                both: Bucket::new(limits.rw_mbytes_per_sec * MIB, now),
                read: Bucket::new(limits.r_mbytes_per_sec * MIB, now),
                write: Bucket::new(limits.w_mbytes_per_sec * MIB, now),
            })
        });
        self.buckets.replace(buckets);
        self.epoch.set(self.epoch.get() + 1);
        self.changed.notify_waiters();
    }

    /// Waits for the start of the `place` that was given to an I/O; when the limits change it is given another.
    pub(super) async fn wait(&self, class: IoClass, bytes: u64, place: &mut Place) {
        loop {
            let changed = self.changed.notified();
            if place.epoch != self.epoch.get() {
                match self.admit(class, bytes, Instant::now()) {
                    Some(other) => *place = other,
                    None => return,
                }
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(place.start.into()) => return,
            }
        }
    }

    /// When an I/O of `bytes` may start that comes `now`; `None` means at once.
    pub(super) fn admit(&self, class: IoClass, bytes: u64, now: Instant) -> Option<Place> {
        let mut borrowed = self.buckets.borrow_mut();
        let b = borrowed.as_deref_mut()?;
        let own = match class {
            IoClass::Read => &mut b.read,
            IoClass::Write => &mut b.write,
            IoClass::WriteZeroes | IoClass::Unmap | IoClass::Flush | IoClass::Compare => return None,
        };
        let start = own.admit(bytes, now).max(b.ios.admit(1, now)).max(b.both.admit(bytes, now));
        (start > now).then(|| Place { start, epoch: self.epoch.get() })
    }

    /// Takes back the booking of an I/O that was held back and will never start.
    pub(super) fn refund(&self, class: IoClass, bytes: u64, place: Place) {
        let mut borrowed = self.buckets.borrow_mut();
        let Some(b) = borrowed.as_deref_mut().filter(|_| place.epoch == self.epoch.get()) else { return };
        let own = match class {
            IoClass::Read => &mut b.read,
            IoClass::Write => &mut b.write,
            IoClass::WriteZeroes | IoClass::Unmap | IoClass::Flush | IoClass::Compare => return,
        };
        own.refund(bytes);
        b.ios.refund(1);
        b.both.refund(bytes);
    }
}

#[cfg(test)]
#[path = "qos_tests.rs"]
mod tests;
