//! I/O accounting of a bdev, as `bdev_get_iostat` reports it.

use std::cell::Cell;
use std::time::{Duration, Instant};

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

impl IoCounters {
    fn count(&mut self, bytes: u64, latency: Duration) {
        let ticks = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.bytes += bytes;
        self.ops += 1;
        self.latency_ticks = self.latency_ticks.saturating_add(ticks);
        self.max_latency_ticks = self.max_latency_ticks.max(ticks);
        self.min_latency_ticks =
            if self.min_latency_ticks == 0 { ticks } else { self.min_latency_ticks.min(ticks) };
    }
}

/// What an I/O is accounted and throttled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoClass {
    Read,
    /// Write and write zeroes.
    Write,
    Unmap,
    /// Flush and compare: not counted, as in SPDK.
    Other,
}

/// Snapshot of a bdev's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    pub read: IoCounters,
    pub write: IoCounters,
    pub unmap: IoCounters,
    /// I/O that ended with an error, of any class.
    pub errors: u64,
}

/// The live counters of a bdev.
#[derive(Default)]
pub(super) struct StatCells {
    read: Cell<IoCounters>,
    write: Cell<IoCounters>,
    unmap: Cell<IoCounters>,
    errors: Cell<u64>,
}

impl StatCells {
    pub(super) fn completed(&self, class: IoClass, bytes: u64, begun: Instant) {
        let cell = match class {
            IoClass::Read => &self.read,
            IoClass::Write => &self.write,
            IoClass::Unmap => &self.unmap,
            IoClass::Other => return,
        };
        let mut counters = cell.get();
        counters.count(bytes, begun.elapsed());
        cell.set(counters);
    }

    pub(super) fn failed(&self) {
        self.errors.set(self.errors.get() + 1);
    }

    pub(super) fn snapshot(&self) -> IoStat {
        IoStat {
            read: self.read.get(),
            write: self.write.get(),
            unmap: self.unmap.get(),
            errors: self.errors.get(),
        }
    }

    /// `reset_mode` of `bdev_get_iostat`: `all` forgets everything, `maxmin` only the extremes.
    pub(super) fn reset(&self, only_extremes: bool) {
        for cell in [&self.read, &self.write, &self.unmap] {
            let mut counters = if only_extremes { cell.get() } else { IoCounters::default() };
            counters.max_latency_ticks = 0;
            counters.min_latency_ticks = 0;
            cell.set(counters);
        }
        if !only_extremes {
            self.errors.set(0);
        }
    }
}
