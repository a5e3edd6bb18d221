//! The order of arrival is kept, among those that overlap.

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

#[test]
fn what_does_not_overlap_does_not_wait() {
    let lock = Rc::<RangeLock>::default();
    let a = lock.lock(0, 8).now_or_never();
    let b = lock.lock(8, 16).now_or_never();
    assert!(a.is_some() && b.is_some());
    assert!(lock.lock(7, 9).now_or_never().is_none(), "it overlaps both");
    assert_eq!(lock.waiting.get(), 0, "who goes away waits no more");
    drop(a);
    assert!(lock.lock(0, 8).now_or_never().is_some());
    assert!(lock.lock(7, 9).now_or_never().is_none());
    drop(b);
    assert!(lock.lock(7, 9).now_or_never().is_some());
}

proptest! {
    /// Whoever comes and goes in whatever order: each gets its turn exactly when nobody before it that overlaps is left.
    #[test]
    fn turns_are_in_the_order_of_arrival(
        steps in prop::collection::vec((0u64..32, 1u64..8, any::<prop::sample::Index>(), any::<bool>()), 1..200)
    ) {
        let lock = Rc::<RangeLock>::default();
        let mut present: Vec<(Range, Locked)> = Vec::new();
        for (start, len, index, leave) in steps {
            if leave && !present.is_empty() {
                present.remove(index.index(present.len()));
            } else {
                let range = (start, start + len);
                present.push((range, lock.enter(range)));
            }
            for n in 0..present.len() {
                let mine = present[n].0;
                let want = !present[..n].iter().any(|(r, _)| overlap(*r, mine));
                let got = Turn(&mut present[n].1).now_or_never().is_some();
                prop_assert_eq!(got, want);
            }
        }
        drop(present);
        prop_assert_eq!(lock.waiting.get(), 0);
        prop_assert!(lock.entries.borrow().iter().all(Option::is_none));
    }
}
