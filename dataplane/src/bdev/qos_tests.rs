use super::*;

#[test]
fn iops_are_rounded_up_to_thousands_and_absent_limits_stay() {
    let old = QosLimits { r_mbytes_per_sec: 7, ..QosLimits::default() };
    let new = old.updated(QosUpdate { rw_ios_per_sec: Some(1234), ..QosUpdate::default() }).unwrap();
    assert_eq!(new, QosLimits { rw_ios_per_sec: 2000, r_mbytes_per_sec: 7, ..QosLimits::default() });
    assert_eq!(old.updated(QosUpdate::default()), None);
    let nothing = QosUpdate { r_mbytes_per_sec: Some(u64::MAX), ..QosUpdate::default() };
    assert_eq!(old.updated(nothing), None, "SPDK takes that for a limit that is not given");
    let large = QosUpdate { w_mbytes_per_sec: Some(1 << 60), ..QosUpdate::default() };
    assert_eq!(old.updated(large).unwrap().w_mbytes_per_sec, u64::MAX >> 20);
}

#[test]
fn an_unlimited_bdev_never_waits() {
    let throttle = Throttle::default();
    assert_eq!(throttle.admit(IoClass::Read, 1 << 30), None);
}

#[test]
fn a_bucket_admits_at_its_rate_and_forgets_idle_time() {
    let t0 = Instant::now();
    let mut bucket = Bucket::new(1000, t0);
    let starts: Vec<_> = (0..1001).map(|_| bucket.admit(1, t0)).collect();
    assert_eq!(starts[0], t0);
    assert_eq!(*starts.last().unwrap(), t0 + Duration::from_secs(1) - BURST);
    assert!(starts.is_sorted());
    let later = t0 + Duration::from_secs(100);
    assert_eq!(bucket.admit(1, later), later);
    assert_eq!(bucket.admit(1000, later), later, "a burst of one slice is let through");
    assert_eq!(bucket.admit(1, later), later + Duration::from_millis(1001) - BURST);
}

fn limited(rw_mbytes_per_sec: u64) -> QosLimits {
    QosLimits { rw_mbytes_per_sec, ..QosLimits::default() }
}

#[tokio::test]
async fn who_waits_is_let_go_when_the_limit_is_lifted_and_waits_anew_when_it_is_changed() {
    let throttle = Throttle::default();
    throttle.set(limited(1), Instant::now());
    let hour = 3600 * MIB;
    assert_eq!(throttle.admit(IoClass::Read, hour), None);
    let start = throttle.admit(IoClass::Write, MIB).unwrap();
    assert!(start > Instant::now() + Duration::from_secs(3000));
    let mut waiting = Box::pin(throttle.wait(IoClass::Write, MIB, start));
    assert!(futures::poll!(&mut waiting).is_pending());
    throttle.set(limited(2), Instant::now());
    // The first of the new limit.
    waiting.await;
    let mut next = Box::pin(throttle.wait(IoClass::Read, MIB, throttle.admit(IoClass::Read, MIB).unwrap()));
    assert!(futures::poll!(&mut next).is_pending(), "what was let go counts");
    throttle.set(QosLimits::default(), Instant::now());
    next.await;
}

#[test]
fn zeroes_flushes_and_unmaps_are_not_limited() {
    let throttle = Throttle::default();
    throttle.set(limited(1), Instant::now());
    throttle.admit(IoClass::Read, 3600 * MIB);
    for class in [IoClass::WriteZeroes, IoClass::Unmap, IoClass::Flush, IoClass::Compare] {
        assert_eq!(throttle.admit(class, MIB), None);
    }
}

#[test]
fn each_limit_holds_back_what_it_is_for() {
    let full = |limits: QosLimits, class: IoClass| {
        let throttle = Throttle::default();
        throttle.set(limits, Instant::now());
        // The first is let through and uses up an hour.
        assert_eq!(throttle.admit(class, 3600 * MIB), None);
        [IoClass::Read, IoClass::Write].map(|class| throttle.admit(class, 512).is_some())
    };
    let reads = QosLimits { r_mbytes_per_sec: 1, ..QosLimits::default() };
    let writes = QosLimits { w_mbytes_per_sec: 1, ..QosLimits::default() };
    assert_eq!(full(reads, IoClass::Read), [true, false]);
    assert_eq!(full(reads, IoClass::Write), [false, false]);
    assert_eq!(full(writes, IoClass::Write), [false, true]);
    assert_eq!(full(writes, IoClass::Read), [false, false]);
    assert_eq!(full(limited(1), IoClass::Read), [true, true]);
}

/// An I/O whose host went away while it waited costs those that come later nothing.
#[test]
fn what_never_happened_is_given_back() {
    for limits in [
        limited(1),
        QosLimits { r_mbytes_per_sec: 1, ..QosLimits::default() },
        QosLimits { rw_ios_per_sec: 1000, ..QosLimits::default() },
    ] {
        let throttle = Throttle::default();
        throttle.set(limits, Instant::now());
        assert_eq!(throttle.admit(IoClass::Read, 3600 * MIB), None);
        let ios = if limits.rw_ios_per_sec > 0 { 100_000 } else { 1 };
        let next = |count: u32| (0..count).filter_map(|_| throttle.admit(IoClass::Read, 3600 * MIB)).last();
        let first = next(ios).unwrap();
        for _ in 0..ios {
            throttle.refund(IoClass::Read, 3600 * MIB);
        }
        let again = next(ios).unwrap();
        let apart = again.max(first) - again.min(first);
        assert!(apart < Duration::from_secs(60), "{limits:?}: {apart:?} later than without it");
    }
}
