use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

fn admit(throttle: &Throttle, class: IoClass, bytes: u64) -> Option<Place> {
    throttle.admit(class, bytes, Instant::now())
}

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
    assert_eq!(admit(&throttle, IoClass::Read, 1 << 30), None);
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
    assert_eq!(admit(&throttle, IoClass::Read, hour), None);
    let mut place = admit(&throttle, IoClass::Write, MIB).unwrap();
    assert!(place.start > Instant::now() + Duration::from_secs(3000));
    let mut late = place;
    let mut waiting = Box::pin(throttle.wait(IoClass::Write, MIB, &mut place));
    assert!(futures::poll!(&mut waiting).is_pending());
    throttle.set(limited(2), Instant::now());
    // The first of the new limit.
    waiting.await;
    let mut place = admit(&throttle, IoClass::Read, MIB).unwrap();
    let mut next = Box::pin(throttle.wait(IoClass::Read, MIB, &mut place));
    assert!(futures::poll!(&mut next).is_pending(), "what was let go counts");
    throttle.set(QosLimits::default(), Instant::now());
    next.await;
    // The limits have changed before it began to wait.
    throttle.wait(IoClass::Write, MIB, &mut late).await;
}

#[test]
fn zeroes_flushes_and_unmaps_are_not_limited() {
    let throttle = Throttle::default();
    throttle.set(limited(1), Instant::now());
    admit(&throttle, IoClass::Read, 3600 * MIB);
    for class in [IoClass::WriteZeroes, IoClass::Unmap, IoClass::Flush, IoClass::Compare] {
        assert_eq!(admit(&throttle, class, MIB), None);
    }
}

#[test]
fn each_limit_holds_back_what_it_is_for() {
    let full = |limits: QosLimits, class: IoClass| {
        let throttle = Throttle::default();
        throttle.set(limits, Instant::now());
        // The first is let through and uses up an hour.
        assert_eq!(admit(&throttle, class, 3600 * MIB), None);
        [IoClass::Read, IoClass::Write].map(|class| admit(&throttle, class, 512).is_some())
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
        assert_eq!(admit(&throttle, IoClass::Read, 3600 * MIB), None);
        let ios = if limits.rw_ios_per_sec > 0 { 100_000 } else { 1 };
        let next = |count: u32| (0..count).filter_map(|_| admit(&throttle, IoClass::Read, 3600 * MIB)).last();
        let place = next(ios).unwrap();
        for _ in 0..ios {
            throttle.refund(IoClass::Read, 3600 * MIB, place);
        }
        let (first, again) = (place.start, next(ios).unwrap().start);
        let apart = again.max(first) - again.min(first);
        assert!(apart < Duration::from_secs(60), "{limits:?}: {apart:?} later than without it");
    }
}

/// What was booked under other limits is not given back under these.
#[test]
fn what_was_booked_before_a_change_is_not_given_back_after_it() {
    let throttle = Throttle::default();
    throttle.set(limited(1), Instant::now());
    assert_eq!(admit(&throttle, IoClass::Read, 3600 * MIB), None);
    let old = admit(&throttle, IoClass::Read, 3600 * MIB).unwrap();
    let now = Instant::now();
    throttle.set(limited(1), now);
    assert_eq!(throttle.admit(IoClass::Read, 3600 * MIB, now), None);
    throttle.refund(IoClass::Read, 3600 * MIB, old);
    assert!(throttle.admit(IoClass::Read, MIB, now).unwrap().start > now + Duration::from_secs(3000));
}

/// SPDK's way (`bdev_channel_poll_qos`): every slice of a millisecond has its quota. An I/O may overdraw it, which the next slices lack; what a
/// slice leaves is lost.
struct Slices {
    /// A slice's quota and what is left of it: I/Os, bytes, read bytes, written bytes.
    limits: [Option<(i64, i64)>; 4],
}

impl Slices {
    fn new(l: QosLimits) -> Self {
        let quota = |rate: u64| (rate > 0).then_some((rate / 1000) as i64).map(|quota| (quota, quota));
        let mib = |rate: u64| quota(rate * MIB);
        Self {
            limits: [
                quota(l.rw_ios_per_sec),
                mib(l.rw_mbytes_per_sec),
                mib(l.r_mbytes_per_sec),
                mib(l.w_mbytes_per_sec),
            ],
        }
    }

    fn next_slice(&mut self) {
        for (quota, left) in self.limits.iter_mut().flatten() {
            *left = (*left).min(0) + *quota;
        }
    }

    fn admit(&mut self, class: IoClass, bytes: u64) -> bool {
        let bytes = bytes as i64;
        let [read, write] = [IoClass::Read, IoClass::Write].map(|c| if c == class { bytes } else { 0 });
        let costs = [1, bytes, read, write];
        let mut all = self.limits.iter_mut().zip(costs).filter(|(_, cost)| *cost > 0);
        let admits = all.all(|(limit, _)| limit.is_none_or(|(_, left)| left > 0));
        if admits {
            for (limit, cost) in self.limits.iter_mut().zip(costs) {
                limit.iter_mut().for_each(|(_, left)| *left -= cost);
            }
        }
        admits
    }
}

/// Hosts that keep so many I/Os of a kind and size under way, on a disk that needs no time.
#[derive(Clone, Copy, Debug)]
struct Host {
    class: IoClass,
    bytes: u64,
    depth: usize,
}

/// I/Os and bytes of each host that SPDK's slices let begin within so many milliseconds.
fn begun_by_slices(limits: QosLimits, hosts: &[Host], millis: u64) -> Vec<u64> {
    let (mut slices, mut begun) = (Slices::new(limits), vec![0; hosts.len()]);
    // In order of their coming: who waits longest is asked first, and those that have begun come again, behind.
    let mut queue: VecDeque<usize> = (0..hosts.len()).flat_map(|h| [h].repeat(hosts[h].depth)).collect();
    for _ in 0..millis {
        let mut waits = VecDeque::new();
        while let Some(h) = queue.pop_front() {
            if slices.admit(hosts[h].class, hosts[h].bytes) {
                begun[h] += 1;
                queue.push_back(h);
            } else {
                waits.push_back(h);
            }
        }
        queue = waits;
        slices.next_slice();
    }
    begun
}

/// The same for the throttle, in virtual time.
fn begun_by_throttle(limits: QosLimits, hosts: &[Host], millis: u64) -> Vec<u64> {
    let (throttle, t0) = (Throttle::default(), Instant::now());
    throttle.set(limits, t0);
    let end = t0 + Duration::from_millis(millis);
    let mut begun = vec![0; hosts.len()];
    let mut places: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let come = |h: usize, now: Instant, places: &mut BinaryHeap<_>| {
        let place = throttle.admit(hosts[h].class, hosts[h].bytes, now);
        places.push(Reverse((place.map_or(now, |p| p.start), h)));
    };
    for (h, host) in hosts.iter().enumerate() {
        (0..host.depth).for_each(|_| come(h, t0, &mut places));
    }
    while let Some(Reverse((now, h))) = places.pop().filter(|Reverse((now, _))| *now < end) {
        begun[h] += 1;
        come(h, now, &mut places);
    }
    begun
}

/// Under every limit and combination of limits, hosts get what SPDK's time slices give them, within two hundredths and a millisecond's worth.
#[test]
fn hosts_get_what_the_time_slices_of_spdk_give_them() {
    let (read, write) = (IoClass::Read, IoClass::Write);
    let host = |class, kib: u64, depth| Host { class, bytes: kib << 10, depth };
    let limits = |ios, rw, r, w| QosLimits {
        rw_ios_per_sec: ios,
        rw_mbytes_per_sec: rw,
        r_mbytes_per_sec: r,
        w_mbytes_per_sec: w,
    };
    let alone = [
        (limits(1000, 0, 0, 0), host(read, 4, 1)),
        (limits(20_000, 0, 0, 0), host(write, 4, 64)),
        (limits(0, 1, 0, 0), host(read, 4, 8)),
        (limits(0, 100, 0, 0), host(write, 128, 1)),
        // An I/O that is larger than the quota of many slices.
        (limits(0, 10, 0, 0), host(write, 1024, 4)),
        (limits(0, 0, 30, 0), host(read, 64, 8)),
        (limits(0, 0, 0, 30), host(write, 64, 8)),
        (limits(5000, 10, 0, 0), host(read, 4, 32)),
        (limits(2000, 10, 0, 0), host(read, 4, 32)),
        (limits(10_000, 100, 20, 5), host(read, 8, 32)),
        (limits(10_000, 100, 20, 5), host(write, 8, 32)),
    ];
    let millis = 20_000;
    let compare = |limits: QosLimits, hosts: &[Host]| {
        let (ours, spdk) = (begun_by_throttle(limits, hosts, millis), begun_by_slices(limits, hosts, millis));
        for (h, (ours, spdk)) in hosts.iter().zip(ours.iter().zip(&spdk)) {
            let near = spdk / 50 + 8;
            assert!(ours.abs_diff(*spdk) <= near, "{limits:?} {h:?}: {ours} I/Os, in SPDK {spdk}");
        }
    };
    for (limits, host) in alone {
        compare(limits, &[host]);
    }
    // Reads and writes have limits of their own; one does not take what the other may have.
    compare(limits(0, 0, 20, 40), &[host(read, 16, 16), host(write, 16, 16)]);
    compare(limits(0, 30, 0, 0), &[host(read, 16, 8), host(write, 16, 8)]);
    compare(limits(4000, 0, 0, 0), &[host(read, 4, 8), host(write, 4, 8)]);
}
