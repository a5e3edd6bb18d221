//! Latency histograms of a bdev, in SPDK's form (`include/spdk/histogram_data.h`): ranges that double, each of
//! `2^granularity` buckets; `bdev_get_histogram` gives the buckets in base64.

use super::stats::IoClass;

/// Finest granularity: half a megabyte for each range.
const GRANULARITY_MAX: u32 = 16;

/// Which I/O a histogram counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    All,
    Only(IoClass),
    /// I/O of a kind that there is none of here.
    Nothing,
}

/// Counts of latencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    granularity: u32,
    min_range: u32,
    max_range: u32,
    buckets: Vec<u64>,
    counted: Counted,
}

/// The range of a latency.
fn range(granularity: u32, ticks: u64) -> u32 {
    // SPDK: SPDK_HISTOGRAM_BUCKET_LSB less the leading zeros.
    (64 - granularity).saturating_sub(ticks.leading_zeros())
}

impl Histogram {
    /// An empty one for latencies from `min` to `max` ticks; what is beyond is counted in the first or last bucket. `None` if there is
    /// nothing between them, or the granularity is too fine.
    pub fn new(counted: Counted, granularity: u32, min: u64, max: u64) -> Option<Self> {
        if min >= max || granularity > GRANULARITY_MAX {
            return None;
        }
        let (min_range, max_range) = (range(granularity, min), range(granularity, max - 1));
        let buckets = vec![0; ((max_range - min_range + 1) as usize) << granularity];
        Some(Self { granularity, min_range, max_range, buckets, counted })
    }

    pub(super) fn tally(&mut self, class: IoClass, ticks: u64) {
        if self.counted != Counted::All && self.counted != Counted::Only(class) {
            return;
        }
        let last = self.buckets.len() - 1;
        let range = range(self.granularity, ticks);
        let bucket = if range < self.min_range {
            0
        } else if range > self.max_range {
            last
        } else {
            let within = (ticks >> range.saturating_sub(1)) & ((1 << self.granularity) - 1);
            (((range - self.min_range) as usize) << self.granularity) + within as usize
        };
        self.buckets[bucket] += 1;
    }

    pub(super) fn clear(&mut self) {
        self.buckets.fill(0);
    }

    pub fn granularity(&self) -> u32 {
        self.granularity
    }

    /// The first and the last range that have buckets.
    pub fn ranges(&self) -> (u32, u32) {
        (self.min_range, self.max_range)
    }

    /// How many latencies were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The counters as little-endian 64-bit numbers, in base64 (RFC 4648, section 4).
    pub fn encoded(&self) -> String {
        let bytes: Vec<u8> = self.buckets.iter().flat_map(|count| count.to_le_bytes()).collect();
        base64(&bytes)
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
#[path = "histogram_tests.rs"]
mod tests;
