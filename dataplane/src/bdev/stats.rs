//! I/O accounting of a bdev, as `bdev_get_iostat` reports it.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::IoError;
use super::histogram::Histogram;

/// Latencies are reported in ticks; a tick is a nanosecond here.
pub const TICK_RATE: u64 = 1_000_000_000;

/// Counters of one class of I/O (read, write, unmap).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    pub bytes: u64,
    pub ops: u64,
    /// Sum, largest and smallest latency, in ticks of [`TICK_RATE`]. The smallest is 0 while nothing was counted.
    pub latency_ticks: u64,
    pub max_latency_ticks: u64,
    pub min_latency_ticks: u64,
}

fn ticks(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl IoCounters {
    fn count(&mut self, bytes: u64, ticks: u64) {
        self.bytes += bytes;
        self.ops += 1;
        self.latency_ticks = self.latency_ticks.saturating_add(ticks);
        self.max_latency_ticks = self.max_latency_ticks.max(ticks);
        self.min_latency_ticks =
            if self.min_latency_ticks == 0 { ticks } else { self.min_latency_ticks.min(ticks) };
    }
}

/// What an I/O is accounted, throttled and measured as (SPDK's `spdk_bdev_io_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoClass {
    Read,
    Write,
    /// Not counted and not throttled, as in SPDK; nor are those below.
    WriteZeroes,
    /// Counted, but not throttled.
    Unmap,
    Flush,
    Compare,
}

/// How an I/O failed, as `io_error` of `bdev_get_iostat` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Aio,
    Aborted,
    Miscompare,
    Nvme,
    Failed,
}

impl Failure {
    /// In SPDK's order.
    const NAMES: [&str; 5] = ["aio_error", "aborted", "miscompare", "nvme_error", "failed"];

    fn of(e: IoError) -> Self {
        match e {
            IoError::Os { .. } => Self::Aio,
            IoError::Aborted => Self::Aborted,
            IoError::Miscompare => Self::Miscompare,
            IoError::Nvme { .. } | IoError::NoPath => Self::Nvme,
            IoError::InvalidRange
            | IoError::Unsupported
            | IoError::NoSpace
            | IoError::WriteProtected
            | IoError::Removed
            | IoError::Corrupt(_) => Self::Failed,
        }
    }
}

/// Snapshot of a bdev's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    pub read: IoCounters,
    pub write: IoCounters,
    pub unmap: IoCounters,
    errors: [u64; Failure::NAMES.len()],
}

impl IoStat {
    /// I/O that ended with an error, of any class: how SPDK calls the kind of error, and how often.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Failure::NAMES.into_iter().zip(self.errors).filter(|(_, n)| *n > 0)
    }
}

/// What `bdev_reset_iostat` forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoStatReset {
    All,
    /// The largest and smallest latencies.
    Extremes,
    Errors,
}

/// The live counters of a bdev.
#[derive(Default)]
pub(super) struct StatCells {
    read: Cell<IoCounters>,
    write: Cell<IoCounters>,
    unmap: Cell<IoCounters>,
    errors: Cell<[u64; Failure::NAMES.len()]>,
    histogram: RefCell<Option<Box<Histogram>>>,
    /// The histogram counts.
    measured: Cell<bool>,
}

impl StatCells {
    pub(super) fn completed(&self, class: IoClass, bytes: u64, begun: Instant) {
        let ticks = ticks(begun.elapsed());
        self.tally(class, ticks);
        let cell = match class {
            IoClass::Read => &self.read,
            IoClass::Write => &self.write,
            IoClass::Unmap => &self.unmap,
            IoClass::WriteZeroes | IoClass::Flush | IoClass::Compare => return,
        };
        let mut counters = cell.get();
        counters.count(bytes, ticks);
        cell.set(counters);
    }

    pub(super) fn failed(&self, class: IoClass, begun: Instant, e: IoError) {
        self.tally(class, ticks(begun.elapsed()));
        let mut errors = self.errors.get();
        errors[Failure::of(e) as usize] += 1;
        self.errors.set(errors);
    }

    fn tally(&self, class: IoClass, ticks: u64) {
        if self.measured.get()
            && let Some(histogram) = self.histogram.borrow_mut().as_mut()
        {
            histogram.tally(class, ticks);
        }
    }

    /// Starts a histogram, or empties and ends the one that is there.
    pub(super) fn set_histogram(&self, histogram: Option<Histogram>) {
        self.measured.set(histogram.is_some());
        let mut slot = self.histogram.borrow_mut();
        match histogram {
            Some(new) => *slot = Some(Box::new(new)),
            None => slot.iter_mut().for_each(|old| old.clear()),
        }
    }

    pub(super) fn is_measured(&self) -> bool {
        self.measured.get()
    }

    pub(super) fn histogram(&self) -> Option<Histogram> {
        self.histogram.borrow().as_deref().cloned()
    }

    pub(super) fn snapshot(&self) -> IoStat {
        IoStat {
            read: self.read.get(),
            write: self.write.get(),
            unmap: self.unmap.get(),
            errors: self.errors.get(),
        }
    }

    pub(super) fn reset(&self, what: IoStatReset) {
        if what != IoStatReset::Extremes {
            self.errors.take();
        }
        if what == IoStatReset::Errors {
            return;
        }
        for cell in [&self.read, &self.write, &self.unmap] {
            let mut counters = if what == IoStatReset::All { IoCounters::default() } else { cell.get() };
            counters.max_latency_ticks = 0;
            counters.min_latency_ticks = 0;
            cell.set(counters);
        }
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
