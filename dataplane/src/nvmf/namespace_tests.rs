//! Waiting for the I/O of a namespace.

use futures::poll;

use super::*;
use crate::bdev::Registry;
use crate::bdev::malloc::{self, MallocParams};

fn namespace(registry: &Registry, masked: bool) -> Rc<Namespace> {
    let params = MallocParams { name: Some("m0".to_owned()), num_blocks: 16, block_size: 4096, uuid: None };
    malloc::create(registry, params).expect("a disk");
    let (bdev, _events) = registry.open("m0", true).expect("opened");
    let reservations = Reserved::load(None, bdev.uuid()).expect("no file");
    Rc::new(Namespace::new(1, 1, Ids::default(), bdev, reservations, masked))
}

/// Preempt and Abort gives up after a while: the next wait has to see the I/O that the last one waited for.
#[tokio::test(flavor = "local")]
async fn a_wait_that_was_given_up_leaves_its_io_to_the_next() {
    let ns = namespace(&Registry::new(), false);
    let (_bdev, stuck) = ns.begin().expect("there");
    let mut given_up = Box::pin(ns.drain_begun());
    assert!(poll!(&mut given_up).is_pending());
    drop(given_up);
    for _ in 0..3 {
        let mut wait = Box::pin(ns.drain_begun());
        assert!(poll!(&mut wait).is_pending(), "an I/O from before has not ended");
    }
    let (_bdev, later) = ns.begin().expect("there");
    let mut wait = Box::pin(ns.drain_begun());
    assert!(poll!(&mut wait).is_pending());
    drop((stuck, later));
    wait.await;
}

/// What begins after a wait has begun is not waited for.
#[tokio::test(flavor = "local")]
async fn a_wait_is_not_for_what_begins_later() {
    let ns = namespace(&Registry::new(), false);
    let (_bdev, first) = ns.begin().expect("there");
    let mut wait = Box::pin(ns.drain_begun());
    assert!(poll!(&mut wait).is_pending());
    let (_bdev, _later) = ns.begin().expect("there");
    drop(first);
    wait.await;
}

#[tokio::test(flavor = "local")]
async fn a_masked_namespace_is_seen_by_those_it_is_shown_to() {
    let registry = Registry::new();
    let ns = namespace(&registry, true);
    assert_eq!((ns.is_visible_to("a"), ns.set_visible("a", false)), (false, Some(false)));
    assert_eq!((ns.set_visible("a", true), ns.set_visible("a", true)), (Some(true), Some(false)));
    assert_eq!(ns.set_visible("b", true), Some(true));
    assert_eq!(ns.seen_by(), Some(vec!["b".to_owned(), "a".to_owned()]));
    assert_eq!(
        (ns.set_visible("a", false), ns.is_visible_to("a"), ns.is_visible_to("b")),
        (Some(true), false, true)
    );
}
