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

fn freed(clusters: &[u32], clear: LvolClear) -> Freed {
    Freed { clusters: clusters.to_vec(), clear }
}

#[test]
fn a_freed_cluster_waits_for_durability_and_for_what_was_in_flight_when_it_was_freed() {
    let mut alloc = Allocator::new(Bitmap::new(4));
    assert_eq!(alloc.take_free(10), vec![0, 1, 2, 3]);
    let before = alloc.begin_io();
    alloc.free_after(7, freed(&[0], LvolClear::None));
    let after = alloc.begin_io();
    alloc.free_after(8, freed(&[1], LvolClear::None));
    alloc.promote(8);
    assert!(alloc.take_free(1).is_empty(), "I/O is on both");
    assert!(alloc.end_io(before));
    alloc.promote(6);
    assert!(alloc.take_free(1).is_empty(), "not durable");
    alloc.promote(7);
    assert_eq!(alloc.take_free(2), vec![0], "what began later does not matter");
    alloc.promote(8);
    assert!(alloc.take_free(2).is_empty());
    assert!(alloc.end_io(after));
    alloc.promote(8);
    assert_eq!(alloc.take_free(2), vec![1]);
    assert!(!alloc.has_freed());
    alloc.free_after(9, freed(&[2], LvolClear::None));
    alloc.promote(9);
    assert_eq!(alloc.take_free(2), vec![2], "nothing is in flight");
}

#[test]
fn a_freed_cluster_is_cleared_before_it_is_free() {
    let mut alloc = Allocator::new(Bitmap::new(3));
    assert_eq!(alloc.take_free(10), vec![0, 1, 2]);
    alloc.free_after(1, freed(&[2, 0], LvolClear::Unmap));
    assert!(!alloc.promote(0));
    assert!(alloc.promote(1));
    assert!(alloc.has_freed());
    let unclear = alloc.take_unclear();
    assert_eq!(unclear, [(0, LvolClear::Unmap), (2, LvolClear::Unmap)]);
    assert!(alloc.has_freed());
    assert!(alloc.take_free(1).is_empty());
    alloc.cleared(&unclear);
    assert!(!alloc.has_freed());
    assert_eq!(alloc.take_free(3), vec![0, 2]);
}
