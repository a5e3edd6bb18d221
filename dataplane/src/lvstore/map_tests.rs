use proptest::prelude::*;

use super::*;

fn runs_of_holes(map: &ClusterMap, len: u64) -> u64 {
    let holes: Vec<_> = (0..len).map(|i| map.entry(i) == Entry::Hole).collect();
    holes.iter().enumerate().filter(|(i, h)| **h && (*i == 0 || !holes[i - 1])).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn counts_are_those_of_the_entries(changes in prop::collection::vec((0u64..1100, 0u8..6, 1u64..1500), 0..30)) {
        let mut map = ClusterMap::default();
        let mut plain = vec![Entry::Inherited; 2600];
        for (n, (at, kind, len)) in changes.into_iter().enumerate() {
            let range = at as usize..(at + len) as usize;
            let before: Vec<_> = plain[range.clone()].iter().filter_map(|e| if let Entry::Mapped(c) = e { Some(*c) } else { None }).collect();
            match kind {
                0..3 => {
                    let entry = [Entry::Mapped(n as u32), Entry::Hole, Entry::Inherited][kind as usize];
                    let old = plain[at as usize];
                    plain[at as usize] = entry;
                    let freed = map.set(at, entry);
                    prop_assert_eq!(freed.map_or(old, Entry::Mapped), old);
                }
                3 => {
                    plain[range].fill(Entry::Inherited);
                    prop_assert_eq!(map.clear(at, len), before);
                }
                4 => {
                    plain[range].fill(Entry::Hole);
                    prop_assert_eq!(map.punch(at, at + len), before);
                }
                _ => {
                    plain.iter_mut().filter(|e| **e == Entry::Hole).for_each(|e| *e = Entry::Inherited);
                    map.fill_holes();
                }
            }
            let mapped = plain.iter().filter(|e| matches!(e, Entry::Mapped(_))).count() as u64;
            prop_assert_eq!((map.mapped(), map.hole_runs()), (mapped, runs_of_holes(&map, 2600)));
            prop_assert!((0..2600).all(|i| map.entry(i) == plain[i as usize]));
            prop_assert_eq!(map.iter().count() as u64, mapped);
            let said = |i: &u64| plain[*i as usize] != Entry::Inherited;
            prop_assert!(map.iter_raw().map(|(i, _)| i).eq((0..2600).filter(said)));
            prop_assert!(map.iter_raw().all(|(i, raw)| Entry::decode(raw) == plain[i as usize]));
        }
    }
}

/// What a terabyte of 4 MiB clusters is, 1,000 times.
#[test]
fn holes_take_no_memory_and_no_time_by_their_number() {
    let mut map = ClusterMap::default();
    let end = 1 << 28;
    assert!(map.punch(3, end).is_empty());
    let stored =
        |map: &ClusterMap| map.leaves.iter().flatten().filter(|l| matches!(l, Leaf::Entries(_))).count();
    assert_eq!((map.hole_runs(), stored(&map)), (1, 1));
    map.set(1 << 20, Entry::Mapped(7));
    assert_eq!((map.hole_runs(), stored(&map)), (2, 2));
    assert_eq!(map.punch(0, end), [7]);
    assert_eq!((map.hole_runs(), map.mapped(), stored(&map)), (1, 0, 0));
    assert_eq!(map.iter().next(), None);
}
