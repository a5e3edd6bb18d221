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
