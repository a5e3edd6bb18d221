use super::*;

#[test]
fn iops_are_rounded_up_to_thousands_and_absent_limits_stay() {
    let old = QosLimits { r_mbytes_per_sec: 7, ..QosLimits::default() };
    let new = old.updated(QosUpdate { rw_ios_per_sec: Some(1234), ..QosUpdate::default() }).unwrap();
    assert_eq!(new, QosLimits { rw_ios_per_sec: 2000, r_mbytes_per_sec: 7, ..QosLimits::default() });
    assert_eq!(old.updated(QosUpdate::default()), Err(QosError::Nothing));
    assert!(old.updated(QosUpdate { rw_ios_per_sec: Some(u64::MAX), ..QosUpdate::default() }).is_err());
    assert!(old.updated(QosUpdate { w_mbytes_per_sec: Some(u64::MAX), ..QosUpdate::default() }).is_err());
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
