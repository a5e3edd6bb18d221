use super::*;

#[test]
fn the_next_unset_bit_is_found_wherever_the_search_starts() {
    let mut bits = Bitmap::new(130);
    for i in (0..130).filter(|i| *i != 5 && *i != 129) {
        assert!(!bits.set(i));
    }
    assert!(bits.set(4));
    for from in 0..=130 {
        let want = if (6..=129).contains(&from) { 129 } else { 5 };
        assert_eq!(bits.next_unset(from), Some(want), "from {from}");
    }
    bits.set(5);
    bits.set(129);
    assert_eq!(bits.next_unset(7), None, "the rest of the last word is not there");
    bits.grow(131);
    assert_eq!(bits.next_unset(7), Some(130));
}

#[test]
fn a_freed_cluster_waits_for_durability_and_for_its_io() {
    let mut alloc = Allocator::new(Bitmap::new(3));
    let all = alloc.take_free(10);
    assert_eq!(all, [0, 1, 2]);
    alloc.begin_io(1);
    alloc.free_after(7, vec![0, 1]);
    assert_eq!((alloc.promote(6), alloc.take_free(1)), (0, vec![]));
    assert_eq!((alloc.promote(7), alloc.take_free(2)), (1, vec![0]));
    assert!(alloc.end_io(1));
    assert_eq!((alloc.promote(7), alloc.take_free(2)), (1, vec![1]));
    assert!(!alloc.has_freed());
}
