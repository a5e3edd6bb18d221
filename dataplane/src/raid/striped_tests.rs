//! The spread is a bijection, the ranges of operations without data are those with data, put together, and raids keep to it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{NewBdev, Registry};
use crate::raid::{CreateRaid, RaidModule};

const BLOCK: usize = 512;

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

fn filled(tag: u8, blocks: usize) -> Bytes {
    Bytes::from(vec![tag; blocks * BLOCK])
}

/// Block by block: which member has it, and where. Members are used up to whole strips of four blocks.
fn places(level: RaidLevel, sizes: &[u64]) -> Vec<(usize, u64)> {
    let strips: Vec<u64> = sizes.iter().map(|s| s / 4).collect();
    let strip = |member, n: u64| (n * 4..n * 4 + 4).map(move |lba| (member, lba));
    let in_turn = |n: u64| (0..sizes.len()).flat_map(move |member| strip(member, n));
    match level {
        RaidLevel::Concat => {
            strips.iter().enumerate().flat_map(|(m, n)| (0..*n).flat_map(move |n| strip(m, n))).collect()
        }
        _ => (0..strips.iter().copied().min().unwrap_or(0)).flat_map(in_turn).collect(),
    }
}

#[test]
fn every_range_is_where_it_belongs_on_members_of_all_sizes() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        for (level, sizes) in [(RaidLevel::Raid0, [10, 7, 13]), (RaidLevel::Concat, [10, 7, 13])] {
            let registry = Registry::new();
            let module = RaidModule::new(registry.clone());
            let disks = sizes.map(|blocks| SimDisk::new(blocks, BLOCK as u32, blocks));
            let base_bdevs: Vec<_> = disks.iter().enumerate().map(|(n, _)| format!("m{n}")).collect();
            for (disk, name) in disks.iter().zip(&base_bdevs) {
                let bdev = Rc::new(SimBdev(Rc::clone(disk)));
                registry.register(NewBdev { name: name.clone(), aliases: vec![], bdev }).unwrap();
            }
            let (name, strip_size_kb) = ("r".to_owned(), Some(2));
            module
                .create(CreateRaid { name, level, strip_size_kb, base_bdevs, uuid: None, superblock: false })
                .unwrap();
            let (d, _events) = registry.open("r", true).unwrap();
            let places = places(level, &sizes);
            assert_eq!(d.num_blocks(), places.len() as u64, "{level:?}");
            let mut model = vec![0; places.len()];
            d.write(0, filled(0, places.len()), false).await.unwrap();
            let ranges = (0..places.len()).flat_map(|at| (at + 1..=places.len()).map(move |end| (at, end)));
            for (n, (at, end)) in ranges.enumerate() {
                let tag = (n % 255) as u8 + 1;
                d.write(at as u64, filled(tag, end - at), false).await.unwrap();
                model[at..end].fill(tag);
                for (block, (member, lba)) in places.iter().enumerate() {
                    let is = disks[*member].contents(*lba, 1);
                    assert!(is.iter().all(|b| *b == model[block]), "{level:?}: {at}..{end}, block {block}");
                }
                let read = d.read(at as u64, BytesMut::zeroed((end - at) * BLOCK)).await.unwrap();
                assert!(read.iter().all(|b| *b == tag), "{level:?}: {at}..{end} is read from elsewhere");
            }
        }
    });
}
