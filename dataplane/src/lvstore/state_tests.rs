use super::*;

fn layout() -> Layout {
    Layout::new(4096, 1 << 28, 4 << 20, 100).unwrap()
}

fn create(state: &mut State, name: &str, thin: bool, clusters: u64) -> LvolId {
    let record = state.plan_create(&layout(), Uuid::new_v4(), name, thin, clusters).unwrap();
    let id = state.next_id;
    state.apply(&record).unwrap();
    id
}

#[test]
fn free_clusters_are_those_neither_mapped_nor_promised() {
    let mut s = State::new("s".to_owned(), 100);
    let thick = create(&mut s, "thick", false, 30);
    let thin = create(&mut s, "thin", true, 1000);
    assert_eq!(s.free_clusters(), 70);
    s.apply(&Record::Map { id: thick, index: 3, cluster: 9 }).unwrap();
    s.apply(&Record::Map { id: thin, index: 900, cluster: 10 }).unwrap();
    assert_eq!(s.free_clusters(), 69);
    assert_eq!(s.apply(&Record::Unmap { id: thin, start: 0, count: 1000 }), Ok(vec![10]));
    assert_eq!(s.apply(&Record::Resize { id: thick, clusters: 2 }), Ok(vec![9]));
    assert_eq!(s.free_clusters(), 98);
    assert_eq!(s.apply(&Record::Delete { id: thick }), Ok(vec![]));
    assert_eq!(s.free_clusters(), 100);
}

#[test]
fn records_that_do_not_fit_change_nothing() {
    let mut s = State::new("s".to_owned(), 10);
    let id = create(&mut s, "a", true, 5);
    s.apply(&Record::Map { id, index: 1, cluster: 1 }).unwrap();
    let before = s.clone();
    for record in [
        Record::Map { id, index: 1, cluster: 2 },
        Record::Map { id, index: 5, cluster: 2 },
        Record::Map { id, index: 2, cluster: 10 },
        Record::Map { id: 99, index: 2, cluster: 2 },
        Record::Delete { id: 99 },
        Record::Create { id, uuid: Uuid::nil(), name: "b".to_owned(), thin: true, clusters: 1 },
        Record::Create { id: 50, uuid: Uuid::nil(), name: "a".to_owned(), thin: true, clusters: 1 },
        Record::Grow { clusters: 9 },
    ] {
        assert!(s.apply(&record).is_err(), "{record:?}");
        assert_eq!(s, before);
    }
}

#[test]
fn a_cluster_with_two_owners_is_noticed() {
    let mut s = State::new("s".to_owned(), 10);
    let (a, b) = (create(&mut s, "a", true, 5), create(&mut s, "b", true, 5));
    s.apply(&Record::Map { id: a, index: 1, cluster: 1 }).unwrap();
    assert!(s.used().is_ok());
    s.apply(&Record::Map { id: b, index: 1, cluster: 1 }).unwrap();
    assert!(s.used().is_err());
}

#[test]
fn a_checkpoint_of_a_full_store_fits_its_slot() {
    let layout = Layout::new(4096, 1 << 28, 4 << 20, 5).unwrap();
    let mut s = State::new("s".repeat(NAME_MAX), layout.max_clusters);
    let n = u64::from(layout.header_budget) / super::super::codec::LVOL_HEADER_MAX as u64;
    assert!(n >= 1000, "{n} lvols in 1 TiB");
    let clusters = u64::from(u32::MAX);
    for id in 1..n {
        let map = ClusterMap::default();
        let name = format!("{id:0>63}");
        s.lvols.insert(id, Lvol { uuid: Uuid::nil(), name, thin: true, read_only: false, clusters, map });
    }
    s.next_id = n;
    create(&mut s, &"x".repeat(NAME_MAX), true, clusters);
    assert_eq!(s.plan_create(&layout, Uuid::nil(), "y", true, 1), Err(LvolError::NoSpace));
    // Every cluster an extent of its own.
    for cluster in 0..layout.max_clusters {
        let record = Record::Map { id: 1, index: u64::from(cluster) * 2, cluster };
        s.apply(&record).unwrap();
    }
    let bytes = super::super::codec::encode_checkpoint(Uuid::nil(), 1, &s);
    assert!(bytes.len() as u64 <= u64::from(layout.checkpoint_pages) * super::super::layout::PAGE);
    let per_gib = s.lvols[&1].map.iter().count() as u64 * 4 / 1024;
    assert!(per_gib <= 4096 * 4, "memory for the map: {per_gib} bytes a GiB");
}

/// The worst that 1 TiB at 4 MiB can be: every cluster an extent of its own.
#[tokio::test(flavor = "local")]
async fn a_full_fragmented_tebibyte_loads_within_a_second() {
    use crate::bdev::{ClaimType, Registry, malloc};
    use crate::lvstore::{codec, store};
    let registry = Registry::new();
    let params = malloc::MallocParams {
        name: Some("m".to_owned()),
        num_blocks: 1 << 28,
        block_size: 4096,
        uuid: None,
    };
    malloc::create(&registry, params).unwrap();
    let (mut base, _events) = registry.open("m", false).unwrap();
    base.claim(ClaimType::ReadManyWriteOne, "lvol").unwrap();
    let (uuid, layout) = (Uuid::new_v4(), layout());
    let mut s = store::format(&base, uuid, layout, "s").await.unwrap();
    let clusters = u64::from(s.clusters);
    let id = create(&mut s, "a", true, clusters);
    for index in 0..u64::from(s.clusters) {
        let cluster = (index ^ 1).min(u64::from(s.clusters) - 1) as u32;
        if s.lvols[&id].map.get(index).is_none() && index ^ 1 < u64::from(s.clusters) {
            s.apply(&Record::Map { id, index, cluster }).unwrap();
        }
    }
    let checkpoint = codec::encode_checkpoint(uuid, 2, &s);
    let lba = layout.page_lba(layout.checkpoint_page(2));
    base.write(lba, bytes::Bytes::from(checkpoint), true).await.unwrap();
    let begun = std::time::Instant::now();
    let loaded = store::Store::load(base, uuid, layout).await.unwrap();
    let took = begun.elapsed();
    assert!(loaded.state.borrow().lvols[&id].map.mapped() >= 262_000);
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    println!("loaded in {took:?}");
}
