use super::*;

#[test]
fn what_is_counted_and_what_is_forgotten_is_what_spdk_counts_and_forgets() {
    let cells = StatCells::default();
    let begun = Instant::now();
    for class in [IoClass::Read, IoClass::Write, IoClass::Unmap, IoClass::WriteZeroes, IoClass::Flush] {
        cells.completed(class, 512, begun);
    }
    cells.failed(IoClass::Read, begun, IoError::Miscompare);
    cells.failed(IoClass::Flush, begun, IoError::Os { errno: libc::EIO });
    let all = cells.snapshot();
    assert_eq!((all.read.ops, all.write.bytes, all.unmap.ops), (1, 512, 1), "zeroes are no write");
    assert_eq!(all.errors().collect::<Vec<_>>(), [("aio_error", 1), ("miscompare", 1)]);

    cells.reset(IoStatReset::Errors);
    let no_errors = cells.snapshot();
    assert_eq!(no_errors.errors().count(), 0);
    assert_eq!(no_errors.read, all.read);
    cells.failed(IoClass::Write, begun, IoError::Removed);
    cells.reset(IoStatReset::Extremes);
    let no_extremes = cells.snapshot();
    assert_eq!((no_extremes.read.max_latency_ticks, no_extremes.read.min_latency_ticks), (0, 0));
    assert_eq!(no_extremes.read.latency_ticks, all.read.latency_ticks);
    assert_eq!(no_extremes.errors().collect::<Vec<_>>(), [("failed", 1)]);
    cells.reset(IoStatReset::All);
    assert_eq!(cells.snapshot(), IoStat::default());
}
