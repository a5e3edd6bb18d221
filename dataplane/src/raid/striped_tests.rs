//! The spread is a bijection, and the ranges of operations without data are those with data, put together.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn spreads() -> impl Strategy<Value = Spread> {
    prop_oneof![
        (1u64..9, 1usize..5).prop_map(|(strip, members)| Spread::Stripes { strip, members }),
        prop::collection::vec(1u64..40, 1..5).prop_map(|sizes| Spread::Concat { sizes }),
    ]
}

fn size(spread: &Spread) -> u64 {
    match spread {
        Spread::Stripes { strip, members } => strip * *members as u64 * 8,
        Spread::Concat { sizes } => sizes.iter().sum(),
    }
}

fn blocks(pieces: impl IntoIterator<Item = Piece>) -> Vec<(usize, u64)> {
    pieces.into_iter().flat_map(|p| (p.lba..p.lba + p.blocks).map(move |b| (p.member, b))).collect()
}

proptest! {
    #[test]
    fn every_block_has_one_place(spread in spreads()) {
        let all = blocks(spread.pieces(0, size(&spread)));
        prop_assert_eq!(all.len() as u64, size(&spread));
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn a_part_is_where_it_is_in_the_whole(spread in spreads(), at in any::<prop::sample::Index>(), len in 1u64..60) {
        let lba = at.index(size(&spread) as usize) as u64;
        let len = len.min(size(&spread) - lba);
        let all = blocks(spread.pieces(0, size(&spread)));
        let part = blocks(spread.pieces(lba, len));
        prop_assert_eq!(&part[..], &all[lba as usize..(lba + len) as usize]);
        let ranges = spread.ranges(lba, len);
        if let Spread::Stripes { members, .. } = &spread {
            prop_assert!(ranges.len() <= *members);
        }
        let mut got = blocks(ranges);
        let mut want = part;
        got.sort_unstable();
        want.sort_unstable();
        prop_assert_eq!(got, want);
    }
}
