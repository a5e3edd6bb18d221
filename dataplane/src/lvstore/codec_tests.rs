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
        prop_assert_eq!(&decode_checkpoint_body(&header, &bytes[PAGE_LEN..]).unwrap(), &state);
        prop_assert!(decode_checkpoint_header(&bytes, Uuid::nil()).is_err());
        let at = PAGE_LEN + at.index(header.body_len as usize);
        bytes[at] ^= 1;
        prop_assert!(decode_checkpoint_body(&header, &bytes[PAGE_LEN..]).is_err());
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
