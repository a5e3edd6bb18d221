use proptest::prelude::*;

use super::*;

/// Where a bucket ends: SPDK's `__spdk_histogram_data_get_bucket_start`.
fn bucket_end(granularity: u32, range: u32, index: u64) -> u64 {
    let index = index + 1;
    if range > 0 { (1 << (range + granularity - 1)) + (index << (range - 1)) } else { index }
}

#[test]
fn the_ranges_are_those_of_spdk() {
    // 1 us to 120 s, in nanoseconds: what bdev_enable_histogram takes without parameters.
    let h = Histogram::new(Counted::All, 7, 1000, 120_000_000_000).unwrap();
    assert_eq!(h.ranges(), (3, 30));
    assert_eq!(h.buckets.len(), 28 * 128);
    assert_eq!(Histogram::new(Counted::All, 7, 5, 5), None);
    assert_eq!(Histogram::new(Counted::All, 17, 0, 5), None);
    assert_eq!(Histogram::new(Counted::All, 7, 0, u64::MAX).unwrap().ranges(), (0, 57));
}

#[test]
fn other_classes_and_extremes() {
    let mut h = Histogram::new(Counted::Only(IoClass::Read), 2, 16, 64).unwrap();
    h.tally(IoClass::Write, 20);
    assert_eq!(h.total(), 0);
    h.tally(IoClass::Read, 0);
    h.tally(IoClass::Read, u64::MAX);
    let mut nothing = Histogram::new(Counted::Nothing, 2, 16, 64).unwrap();
    nothing.tally(IoClass::Read, 20);
    assert_eq!(nothing.total(), 0);
    assert_eq!((h.buckets[0], *h.buckets.last().unwrap(), h.total()), (1, 1, 2));
}

#[test]
fn base64_is_that_of_the_rfc() {
    for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(plain.as_bytes()), text);
    }
    assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
}

proptest! {
    /// A latency is in the one bucket whose borders it is between.
    #[test]
    fn a_latency_is_in_its_bucket(granularity in 1u32..10, bits in 0u32..40, fill in any::<u64>()) {
        let ticks = fill >> (63 - bits);
        let mut h = Histogram::new(Counted::All, granularity, 0, u64::MAX).unwrap();
        h.tally(IoClass::Flush, ticks);
        let bucket = h.buckets.iter().position(|n| *n == 1).unwrap() as u64;
        let (range, index) = (bucket >> granularity, bucket & ((1 << granularity) - 1));
        let end = bucket_end(granularity, range as u32, index);
        let start = if range > 0 { end - (1 << (range - 1)) } else { end - 1 };
        prop_assert!((start..end).contains(&ticks), "{} not in {}..{}", ticks, start, end);
    }
}
