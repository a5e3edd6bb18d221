//! The bandwidth of a rebuild, on a clock of the test's.

use super::*;

/// When the last of so many MiB is copied, if each takes no time.
fn copied(pace: &mut Pace, mut now: Instant, mib: u32) -> Instant {
    for _ in 0..mib {
        now = pace.next(MIB, now).unwrap_or(now);
    }
    now
}

#[test]
fn a_rebuild_keeps_to_its_bandwidth_and_saves_nothing_up() {
    let begun = Instant::now();
    let options = RaidOptions { process_max_bandwidth_mb_sec: 8, ..RaidOptions::default() };
    let mut pace = Pace::new(options, begun);
    let end = copied(&mut pace, begun, 17);
    assert_eq!(end - begun, Duration::from_secs(2));
    // Held up for a minute: it goes on at its rate.
    let later = end + Duration::from_secs(60);
    let end = copied(&mut pace, later, 9);
    assert_eq!(end - later, Duration::from_secs(1) - CREDIT);
    let mut unlimited = Pace::new(RaidOptions::default(), begun);
    assert_eq!(copied(&mut unlimited, begun, 1000), begun);
}
