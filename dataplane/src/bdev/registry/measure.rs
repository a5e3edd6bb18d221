//! Counting and limiting the I/O of a bdev.

use std::time::Instant;

use super::Registry;
use crate::bdev::BdevError;
use crate::bdev::histogram::Histogram;
use crate::bdev::qos::QosUpdate;
use crate::bdev::stats::{IoStat, IoStatReset};

impl Registry {
    /// The I/O counters of a bdev.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn iostat(&self, name: &str) -> Result<(String, IoStat), BdevError> {
        self.find(name).map(|e| (e.name.clone(), e.stats.snapshot()))
    }

    /// Forgets counters.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn reset_iostat(&self, name: &str, what: IoStatReset) -> Result<(), BdevError> {
        self.find(name).map(|e| e.stats.reset(what))
    }

    /// Starts a latency histogram, in place of one that is there, or with `None` ends and empties it.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn set_histogram(&self, name: &str, histogram: Option<Histogram>) -> Result<(), BdevError> {
        self.find(name).map(|e| e.stats.set_histogram(histogram))
    }

    /// The latency histogram of a bdev, if it ever had one; and whether it counts.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn histogram(&self, name: &str) -> Result<(Option<Histogram>, bool), BdevError> {
        self.find(name).map(|e| (e.stats.histogram(), e.stats.is_measured()))
    }

    /// Changes the rate limits of a bdev; `false` if `update` has none.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn set_qos(&self, name: &str, update: QosUpdate) -> Result<bool, BdevError> {
        let entry = self.find(name)?;
        let new = entry.throttle.limits().updated(update);
        new.inspect(|limits| entry.throttle.set(*limits, Instant::now()));
        Ok(new.is_some())
    }
}
