use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn owner(item: u64, members: &BTreeSet<u64>) -> Option<u64> {
    owner_of(item, members.iter().copied(), |m| m)
}

proptest! {
    #[test]
    fn everything_has_exactly_one_owner_among_the_members(item: u64, members in prop::collection::btree_set(any::<u64>(), 1..8)) {
        let found = owner(item, &members).unwrap();
        prop_assert!(members.contains(&found));
        // The order in which members are listed does not matter.
        prop_assert_eq!(owner_of(item, members.iter().rev().copied(), |m| m), Some(found));
    }

    #[test]
    fn only_what_the_leaver_owned_moves(item: u64, members in prop::collection::btree_set(any::<u64>(), 2..8), leaver: prop::sample::Index) {
        let leaver = *members.iter().nth(leaver.index(members.len())).unwrap();
        let mut rest = members.clone();
        rest.remove(&leaver);
        let before = owner(item, &members).unwrap();
        let after = owner(item, &rest).unwrap();
        prop_assert!(before == after || before == leaver);
    }

    #[test]
    fn what_moves_at_a_join_moves_to_the_joiner(item: u64, members in prop::collection::btree_set(any::<u64>(), 1..8), joiner: u64) {
        let mut more = members.clone();
        more.insert(joiner);
        let before = owner(item, &members).unwrap();
        let after = owner(item, &more).unwrap();
        prop_assert!(before == after || after == joiner);
    }
}

#[test]
fn nobody_owns_without_members() {
    assert_eq!(owner(7, &BTreeSet::new()), None);
}

#[test]
fn the_load_is_even() {
    let members: BTreeSet<u64> = (0..4).collect();
    let mut counts = [0_u32; 4];
    for item in 0..4000 {
        counts[owner(item, &members).unwrap() as usize] += 1;
    }
    assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
}
