//! I/O whose caller goes away.

use super::super::Registry;
use super::super::held_disk::HeldDisk;
use super::*;

#[tokio::test(flavor = "local")]
async fn callers_that_give_up_and_try_again_do_not_pile_up_io() {
    let registry = Registry::new();
    let disk = HeldDisk::register(&registry, "s");
    let (descriptor, _events) = registry.open("s", true).expect("opened");
    let try_once = || {
        let mut io = Box::pin(descriptor.flush());
        assert!(io.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    };
    (0..MAX_ORPHANS).for_each(|_| try_once());
    assert_eq!(disk.begun(), MAX_ORPHANS);
    (0..3 * MAX_ORPHANS).for_each(|_| try_once());
    assert_eq!((disk.begun(), descriptor.entry.orphaned.get()), (MAX_ORPHANS, MAX_ORPHANS));
    // One that stays is begun as soon as one of those that were given up has ended, and is no orphan.
    let stays = tokio::task::spawn_local(descriptor.flush());
    tokio::task::yield_now().await;
    assert_eq!(disk.begun(), MAX_ORPHANS);
    disk.let_end(MAX_ORPHANS + 1);
    assert_eq!(stays.await.expect("ran"), Ok(()));
    while descriptor.entry.orphaned.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((disk.begun(), descriptor.entry.inflight.get()), (MAX_ORPHANS + 1, 0));
}

/// A bdev that lets 1 MiB a second be written, and who has it open.
fn limited() -> (HeldDisk, Descriptor) {
    let registry = Registry::new();
    let disk = HeldDisk::register(&registry, "s");
    let (descriptor, _events) = registry.open("s", true).expect("opened");
    let update = crate::bdev::QosUpdate { w_mbytes_per_sec: Some(1), ..Default::default() };
    assert!(registry.set_qos("s", update).expect("there"));
    (disk, descriptor)
}

/// The place of a write of so many MiB, if it has to wait.
fn turn(descriptor: &Descriptor, mib: u64) -> Option<Turn> {
    Turn::of(&descriptor.entry, IoClass::Write, mib << 20)
}

/// I/O that a limit holds back and whose caller goes away, polled or not, costs those that come later nothing.
#[tokio::test(flavor = "local")]
async fn io_dropped_before_its_turn_gives_its_place_back() {
    let (disk, descriptor) = limited();
    assert!(turn(&descriptor, 3600).is_none(), "the first overdraws");
    let first = turn(&descriptor, 1).expect("it has to wait").place.start;
    let data = Bytes::from(vec![0; 64 << 10]);
    for polled in [false, true] {
        // Together they would book half an hour.
        for _ in 0..1800 * 16 {
            let mut io = Box::pin(descriptor.write(0, data.clone(), false));
            if polled {
                assert!(io.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
            }
        }
        let later = turn(&descriptor, 1).expect("it has to wait").place.start.duration_since(first);
        assert!(later < std::time::Duration::from_secs(600), "polled {polled}: {later:?} later");
    }
    assert_eq!(disk.begun(), 0);
}

/// What has waited for its turn and begins stays booked.
#[tokio::test(flavor = "local")]
async fn io_that_had_its_turn_keeps_its_place() {
    let (_disk, descriptor) = limited();
    let write = descriptor.write(0, Bytes::from(vec![0; 64 << 10]), false);
    let long = turn(&descriptor, 3600).expect("it has to wait for the first");
    let start = long.place.start;
    drop(write);
    long.comes().await;
    let next = turn(&descriptor, 1).expect("it has to wait for both").place.start;
    assert!(next > start + std::time::Duration::from_secs(3500));
}
