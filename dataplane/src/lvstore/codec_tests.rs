//! What is written is read back; what is torn, foreign or random is never taken for metadata and never panics.

use proptest::prelude::*;

use super::super::journal::{JOURNAL_MAGIC, decode_journal_page, encode_journal};
use super::super::state::Record;
use super::*;

fn clears() -> impl Strategy<Value = LvolClear> {
    prop_oneof![Just(LvolClear::Unmap), Just(LvolClear::WriteZeroes), Just(LvolClear::None)]
}

fn parents() -> impl Strategy<Value = Parent> {
    prop_oneof![
        Just(Parent::None),
        any::<u64>().prop_map(Parent::Lvol),
        any::<u128>().prop_map(|uuid| Parent::External(Uuid::from_u128(uuid))),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let name = "[a-z]{1,63}";
    prop_oneof![
        (any::<u64>(), any::<u128>(), name, any::<bool>(), clears(), any::<u64>()).prop_map(
            |(id, uuid, name, thin, clear, clusters)| {
                Record::Create { id, uuid: Uuid::from_u128(uuid), name, thin, clear, clusters }
            }
        ),
        (any::<u64>(), any::<u128>(), name, any::<u64>()).prop_map(|(id, uuid, name, of)| {
            Record::Snapshot { id, uuid: Uuid::from_u128(uuid), name, of }
        }),
        (any::<u64>(), any::<u128>(), name, any::<u64>(), parents()).prop_map(
            |(id, uuid, name, clusters, parent)| {
                Record::Clone { id, uuid: Uuid::from_u128(uuid), name, clusters, parent }
            }
        ),
        (any::<u64>(), parents()).prop_map(|(id, parent)| Record::SetParent { id, parent }),
        any::<u64>().prop_map(|id| Record::Inflated { id }),
        any::<u64>().prop_map(|id| Record::Delete { id }),
        (any::<u64>(), name).prop_map(|(id, name)| Record::Rename { id, name }),
        (any::<u64>(), any::<u64>()).prop_map(|(id, clusters)| Record::Resize { id, clusters }),
        any::<u64>().prop_map(|id| Record::SetReadOnly { id }),
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(id, index, cluster)| Record::Map {
            id,
            index,
            cluster
        }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(id, start, count)| Record::Unmap {
            id,
            start,
            count
        }),
        name.prop_map(|name| Record::RenameStore { name }),
        any::<u32>().prop_map(|clusters| Record::Grow { clusters }),
    ]
}

fn states() -> impl Strategy<Value = State> {
    let extents = prop::collection::vec((0u64..3000, 0u32..9000, 1u32..40, any::<bool>()), 0..30);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), clears());
    let lvol = ("[a-z]{1,63}", flags, parents(), extents);
    prop::collection::vec(lvol, 0..5).prop_map(|lvols| {
        let mut state = State::new("store".to_owned(), 9000);
        for (n, (name, (thin, read_only, snapshot, clear), parent, extents)) in lvols.into_iter().enumerate()
        {
            let mut lvol = Lvol::new(Uuid::from_u128(n as u128), &name, thin, 3100);
            for (index, cluster, count, hole) in extents {
                for n in 0..count {
                    let entry = if hole { Entry::Hole } else { Entry::Mapped(cluster + n) };
                    lvol.map.set(index + u64::from(n), entry);
                }
            }
            let reserved = !thin || n % 2 == 0;
            state.next_id = n as u64 + 1;
            state.lvols.insert(n as u64, Lvol { reserved, read_only, snapshot, clear, parent, ..lvol });
        }
        state
    })
}

proptest! {
    #[test]
    fn a_journal_is_read_back(all in prop::collection::vec(records(), 1..200), first in 0u32..50) {
        let uuid = Uuid::from_u128(1);
        let bytes = encode_journal(uuid, 9, first, &all);
        let mut got = Vec::new();
        for (n, page) in (first..).zip(bytes.chunks(PAGE_LEN)) {
            got.extend(decode_journal_page(page, uuid, 9, n).unwrap());
            prop_assert!(decode_journal_page(page, uuid, 8, n).is_err());
            prop_assert!(decode_journal_page(page, uuid, 9, n + 1).is_err());
            prop_assert!(decode_journal_page(page, Uuid::nil(), 9, n).is_err());
        }
        prop_assert_eq!(got, all);
    }

    #[test]
    fn a_torn_journal_page_is_the_end(all in prop::collection::vec(records(), 1..60), sector in 0usize..8, flip in 1u8..) {
        let uuid = Uuid::from_u128(1);
        let mut page = encode_journal(uuid, 9, 0, &all);
        page.truncate(PAGE_LEN);
        page[sector * 512 + 17] ^= flip;
        let torn = decode_journal_page(&page, uuid, 9, 0);
        prop_assert!(matches!(torn, Err(DecodeError::Checksum | DecodeError::NotOurs)));
    }

    #[test]
    fn a_checkpoint_is_read_back_and_a_damaged_one_is_not(state in states(), at in any::<prop::sample::Index>()) {
        let uuid = Uuid::from_u128(2);
        let mut bytes = encode_checkpoint(uuid, 5, &state);
        let header = decode_checkpoint_header(&bytes, uuid).unwrap();
        prop_assert_eq!(header.generation, 5);
        prop_assert_eq!(&decode_checkpoint_body(&header, &bytes[PAGE_LEN..], 9000).unwrap(), &state);
        prop_assert!(decode_checkpoint_header(&bytes, Uuid::nil()).is_err());
        let at = PAGE_LEN + at.index(header.body_len as usize);
        bytes[at] ^= 1;
        prop_assert!(decode_checkpoint_body(&header, &bytes[PAGE_LEN..], 9000).is_err());
    }

    #[test]
    fn random_bytes_are_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..PAGE_LEN), kind in 0..3) {
        bytes.resize(PAGE_LEN, 0);
        match kind {
            0 => bytes[..8].copy_from_slice(&SUPER_MAGIC),
            1 => bytes[..8].copy_from_slice(&CHECKPOINT_MAGIC),
            _ => bytes[..4].copy_from_slice(&JOURNAL_MAGIC),
        }
        prop_assert!(decode_super(&bytes).is_err());
        prop_assert!(decode_checkpoint_header(&bytes, Uuid::nil()).is_err());
        prop_assert!(decode_journal_page(&bytes, Uuid::nil(), 0, 0).is_err());
        // Even with the right checksum.
        seal(&mut bytes, if kind == 2 { 4 } else { 8 });
        let _ = (decode_super(&bytes), decode_journal_page(&bytes, Uuid::nil(), 0, 0));
    }
}

/// A body with an lvol of `clusters` clusters and these extents, and numbers that need not be true.
fn forged(store_clusters: u32, lvols: u32, clusters: u64, count: u32, extents: &[[u32; 3]]) -> Vec<u8> {
    let mut body = Vec::new();
    put_name(&mut body, "store");
    body.put_u32_le(store_clusters);
    body.put_u64_le(9);
    body.put_u32_le(lvols);
    body.put_u64_le(1);
    body.put_slice(&[7; 16]);
    put_name(&mut body, "v");
    body.put_u32_le(FLAG_THIN);
    body.put_u64_le(clusters);
    body.put_u8(PARENT_NONE);
    body.put_u32_le(count);
    extents.iter().flatten().for_each(|word| body.put_u32_le(*word));
    body
}

fn decode_forged(body: &[u8], max_clusters: u32) -> Result<State, DecodeError> {
    let body_crc = crc32c::crc32c(body);
    let header = CheckpointHeader { generation: 1, body_len: body.len() as u64, body_crc };
    decode_checkpoint_body(&header, body, max_clusters)
}

/// Some of these would take 16 GiB or minutes if a number were believed before it is checked.
#[test]
fn numbers_on_the_disk_are_bounded_by_what_is_there() {
    const MAX: u32 = u32::MAX;
    let refused = |body: &[u8], max| match decode_forged(body, max) {
        Err(DecodeError::Malformed(why)) => why,
        other => panic!("{other:?}"),
    };
    let good = forged(100, 1, 50, 2, &[[0, 10, 20], [20, HOLE, 30]]);
    let state = decode_forged(&good, 100).unwrap();
    assert_eq!((state.lvols[&1].map.mapped(), state.lvols[&1].map.hole_runs()), (20, 1));

    assert_eq!(refused(&good, 99), TOO_SMALL);
    let announced = "more is announced than there is";
    assert_eq!(refused(&forged(100, MAX, 50, 0, &[]), 100), announced);
    assert_eq!(refused(&forged(100, 1, 50, MAX, &[[0, 0, 1]]), 100), announced);
    let unowned = "more clusters are mapped than there are";
    assert_eq!(refused(&forged(100, 1, MAX.into(), 1, &[[0, 0, MAX - 1]]), 100), unowned);
    assert_eq!(refused(&forged(100, 1, 200, 2, &[[0, 0, 60], [60, 0, 60]]), 100), unowned);
    assert_eq!(
        refused(&forged(MAX, 1, MAX.into(), 1, &[[0, 2, MAX - 2]]), MAX),
        "an extent beyond the last cluster"
    );
    assert_eq!(refused(&forged(100, 1, 50, 1, &[[31, 0, 20]]), 100), "an extent beyond the end of its lvol");
    let overlap = forged(100, 1, 50, 2, &[[0, HOLE, 20], [19, HOLE, 1]]);
    assert_eq!(refused(&overlap, 100), "extents of an lvol overlap");
    // So large a hole is possible: an lvol of so many clusters that was unmapped.
    let hole = decode_forged(&forged(100, 1, MAX.into(), 1, &[[0, HOLE, 1 << 26]]), 100).unwrap();
    assert_eq!(hole.lvols[&1].map.hole_runs(), 1);
}

/// What code that computes with a layout relies on.
#[test]
fn a_superblock_that_says_the_impossible_is_refused() {
    let possible = Layout::new(512, 1 << 20, 65536, 100).unwrap();
    assert!(decode_super(&encode_super(Uuid::nil(), 0, &possible)).is_ok());
    let changes: [fn(&mut Layout); 10] = [
        |l| l.block_size = 0,
        |l| l.block_size = 8192,
        |l| l.block_size = 513,
        |l| l.cluster_size = 512,
        |l| l.cluster_size += 512,
        |l| l.md_clusters -= 1,
        |l| l.checkpoint_pages = u32::MAX,
        |l| l.checkpoint_pages = 1,
        |l| l.journal_pages = 0,
        |l| l.max_clusters = u32::MAX - 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut layout = possible;
        change(&mut layout);
        let decoded = decode_super(&encode_super(Uuid::nil(), 0, &layout));
        assert_eq!(decoded, Err(DecodeError::Malformed("impossible geometry")), "change {n}");
    }
}
