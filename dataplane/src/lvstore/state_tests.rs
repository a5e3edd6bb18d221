use super::super::LvolError;
use super::super::layout::Layout;
use super::super::plan::NewLvol;
use super::*;

fn layout() -> Layout {
    Layout::new(4096, 1 << 28, 4 << 20, 100).unwrap()
}

fn create(state: &mut State, name: &str, thin: bool, clusters: u64) -> LvolId {
    let new = NewLvol { uuid: Uuid::new_v4(), name };
    let record = state.plan_create(&layout(), new, thin, LvolClear::Unmap, clusters).unwrap();
    let id = state.next_id;
    state.apply(&record).unwrap();
    id
}

fn made(id: LvolId, name: &str) -> Record {
    let (uuid, name) = (Uuid::nil(), name.to_owned());
    Record::Create { id, uuid, name, thin: true, clear: LvolClear::Unmap, clusters: 1 }
}

fn cloned(id: LvolId, name: &str, parent: Parent) -> Record {
    Record::Clone { id, uuid: Uuid::nil(), name: name.to_owned(), clusters: 5, parent }
}

fn snapshot(state: &mut State, of: LvolId, name: &str) -> LvolId {
    let id = state.next_id;
    state.apply(&Record::Snapshot { id, uuid: Uuid::nil(), name: name.to_owned(), of }).unwrap();
    id
}

fn clone_of(state: &mut State, of: LvolId, name: &str) -> LvolId {
    let id = state.next_id;
    state.apply(&cloned(id, name, Parent::Lvol(of))).unwrap();
    id
}

fn map(state: &mut State, id: LvolId, index: u64, cluster: u32) {
    state.apply(&Record::Map { id, index, cluster }).unwrap();
}

fn places(state: &State, id: LvolId) -> Vec<Place> {
    (0..state.lvols[&id].clusters).map(|i| state.place(id, i).unwrap()).collect()
}

use Place::{Inherited as In, Own, Zeros};

#[test]
fn a_clone_shows_its_ancestors_except_where_it_was_unmapped() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    map(&mut s, a, 0, 10);
    map(&mut s, a, 1, 11);
    let s1 = snapshot(&mut s, a, "s1");
    assert_eq!(places(&s, a), [In(10), In(11), Zeros, Zeros, Zeros]);
    map(&mut s, a, 2, 12);
    map(&mut s, a, 0, 13);
    let s2 = snapshot(&mut s, a, "s2");
    assert!(s.apply(&Record::Unmap { id: a, start: 1, count: 9 }).unwrap().clusters.is_empty());
    assert_eq!(places(&s, a), [In(13), Zeros, Zeros, Zeros, Zeros]);
    assert_eq!(places(&s, s2), [Own(13), In(11), Own(12), Zeros, Zeros]);
    assert_eq!(places(&s, s1), [Own(10), Own(11), Zeros, Zeros, Zeros]);
    map(&mut s, a, 1, 14);
    assert_eq!(s.place(a, 1), Some(Own(14)));
    assert_eq!(s.apply(&Record::Unmap { id: a, start: 1, count: 1 }).unwrap().clusters, [14]);
    assert_eq!(s.place(a, 1), Some(Zeros));
    assert!(s.used().is_ok());
    assert_eq!(s.free_clusters(), 96);
}

#[test]
fn the_only_clone_inherits_from_a_deleted_snapshot() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    (0..4).for_each(|i| map(&mut s, a, i, i as u32));
    let s1 = snapshot(&mut s, a, "s1");
    map(&mut s, a, 1, 21);
    s.apply(&Record::Unmap { id: a, start: 2, count: 1 }).unwrap();
    let s2 = snapshot(&mut s, a, "s2");
    s.apply(&Record::Unmap { id: a, start: 3, count: 1 }).unwrap();
    let before = places(&s, a);
    assert!(s.apply(&Record::Delete { id: s2 }).unwrap().clusters.is_empty(), "nothing was hidden");
    assert_eq!(s.lvols[&a].parent, Parent::Lvol(s1));
    assert_eq!(before, [In(0), In(21), Zeros, Zeros, Zeros]);
    assert_eq!(places(&s, a), [In(0), Own(21), Zeros, Zeros, Zeros]);
    let mut freed = s.apply(&Record::Delete { id: s1 }).unwrap().clusters;
    freed.sort_unstable();
    assert_eq!(freed, [1, 2, 3]);
    assert_eq!(places(&s, a), [Own(0), Own(21), Zeros, Zeros, Zeros]);
    assert_eq!((s.lvols[&a].parent, s.lvols[&a].map.hole_runs()), (Parent::None, 0));
    assert_eq!(s.free_clusters(), 98);
}

#[test]
fn a_snapshot_with_several_clones_stays() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    let s1 = snapshot(&mut s, a, "s1");
    let b = clone_of(&mut s, s1, "b");
    let before = s.clone();
    assert!(s.apply(&Record::Delete { id: s1 }).is_err());
    assert_eq!(s, before);
    s.apply(&Record::Delete { id: b }).unwrap();
    s.apply(&Record::Delete { id: s1 }).unwrap();
    assert!(s.used().is_ok());
}

#[test]
fn what_was_cut_off_never_shows_the_parent_again() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    (0..5).for_each(|i| map(&mut s, a, i, i as u32));
    snapshot(&mut s, a, "s1");
    s.apply(&Record::Resize { id: a, clusters: 2 }).unwrap();
    // A snapshot of the shrunk one is smaller than its parent, and its clone larger again.
    let s2 = snapshot(&mut s, a, "s2");
    s.apply(&Record::Resize { id: a, clusters: 8 }).unwrap();
    assert_eq!(places(&s, a)[..3], [In(0), In(1), Zeros]);
    assert!(places(&s, a)[2..].iter().all(|p| *p == Zeros));
    s.apply(&Record::Delete { id: s2 }).unwrap();
    assert_eq!(places(&s, a)[..2], [In(0), In(1)]);
    assert!(places(&s, a)[2..].iter().all(|p| *p == Zeros), "{:?}", places(&s, a));
    s.apply(&Record::Resize { id: a, clusters: 1 }).unwrap();
    s.apply(&Record::Resize { id: a, clusters: 5 }).unwrap();
    assert_eq!(places(&s, a), [In(0), Zeros, Zeros, Zeros, Zeros]);
}

#[test]
fn damaged_families_are_noticed() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    let s1 = snapshot(&mut s, a, "s1");
    let b = clone_of(&mut s, s1, "b");
    assert!(s.used().is_ok());
    let damage = |f: &dyn Fn(&mut State)| {
        let mut damaged = s.clone();
        f(&mut damaged);
        assert!(damaged.used().is_err());
    };
    damage(&|s| s.lvols.get_mut(&b).unwrap().parent = Parent::Lvol(99));
    damage(&|s| s.lvols.get_mut(&b).unwrap().parent = Parent::Lvol(a));
    damage(&|s| s.lvols.get_mut(&s1).unwrap().read_only = false);
    damage(&|s| s.lvols.get_mut(&s1).unwrap().parent = Parent::Lvol(s1));
    damage(&|s| {
        let b = s.lvols.get_mut(&b).unwrap();
        b.map.set(1, Entry::Hole);
        b.parent = Parent::None;
    });
}

#[test]
fn an_lvol_is_not_hung_below_its_own_clones() {
    let mut s = State::new("s".to_owned(), 100);
    let a = create(&mut s, "a", true, 5);
    let s1 = snapshot(&mut s, a, "s1");
    let s2 = snapshot(&mut s, a, "s2");
    assert!(matches!(s.plan_set_parent(s1, s2), Err(LvolError::Invalid { .. })));
    assert!(matches!(s.plan_set_parent(a, a), Err(LvolError::Invalid { .. })));
    assert!(matches!(s.plan_set_parent(a, s2), Err(LvolError::Exists { .. })));
    let thick = create(&mut s, "thick", false, 5);
    assert!(matches!(s.plan_set_parent(thick, s2), Err(LvolError::Invalid { .. })));
    let large = create(&mut s, "large", true, 6);
    assert!(matches!(s.plan_set_parent(large, s2), Err(LvolError::Invalid { .. })));
    let b = create(&mut s, "b", true, 5);
    assert!(matches!(s.plan_set_parent(b, thick), Err(LvolError::Invalid { .. })));
    let record = s.plan_set_parent(b, s1).unwrap();
    s.apply(&record).unwrap();
    assert_eq!(s.lineage(b).collect::<Vec<_>>(), [b, s1]);
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
    assert_eq!(s.apply(&Record::Unmap { id: thin, start: 0, count: 1000 }).unwrap().clusters, [10]);
    assert_eq!(s.apply(&Record::Resize { id: thick, clusters: 2 }).unwrap().clusters, [9]);
    assert_eq!(s.free_clusters(), 98);
    assert!(s.apply(&Record::Delete { id: thick }).unwrap().clusters.is_empty());
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
        made(id, "b"),
        made(50, "a"),
        Record::Snapshot { id: 50, uuid: Uuid::nil(), name: "a".to_owned(), of: id },
        Record::Snapshot { id: 50, uuid: Uuid::nil(), name: "b".to_owned(), of: 99 },
        cloned(50, "b", Parent::Lvol(id)),
        cloned(50, "b", Parent::Lvol(99)),
        Record::SetParent { id, parent: Parent::Lvol(99) },
        Record::SetParent { id: 99, parent: Parent::None },
        Record::Inflated { id: 99 },
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
        let parent = Parent::External(Uuid::from_u128(u128::from(id)));
        let lvol = Lvol::new(Uuid::nil(), &format!("{id:0>63}"), true, clusters);
        s.lvols.insert(id, Lvol { parent, ..lvol });
    }
    s.next_id = n;
    create(&mut s, &"x".repeat(NAME_MAX), true, clusters);
    let new = NewLvol { uuid: Uuid::nil(), name: "y" };
    assert_eq!(s.plan_create(&layout, new, true, LvolClear::Unmap, 1), Err(LvolError::NoSpace));
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

/// What this thread has computed so far; others who want the processor do not count.
fn cpu_time() -> std::time::Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    std::time::Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// Maps all clusters of a store in the middle of holes of an lvol that has `holes` of them, and says whether a checkpoint of that fits,
/// with as many lvols as there may be, each with the longest header.
fn fits_with(layout: &Layout, clusters: u32, holes: u64) -> bool {
    let mut s = State::new("s".repeat(NAME_MAX), clusters);
    let n = u64::from(layout.header_budget) / super::super::codec::LVOL_HEADER_MAX as u64;
    for id in 1..=n {
        let parent = Parent::External(Uuid::from_u128(u128::from(id)));
        let lvol = Lvol::new(Uuid::nil(), &format!("{id:0>63}"), true, 1 << 20);
        s.lvols.insert(id, Lvol { parent, ..lvol });
    }
    s.next_id = n + 1;
    for hole in 0..holes {
        s.apply(&Record::Unmap { id: 1, start: 4 * hole, count: 3 }).unwrap();
    }
    assert_eq!(s.hole_runs(), holes);
    for cluster in 0..clusters {
        s.apply(&Record::Map { id: 1, index: 4 * u64::from(cluster) + 1, cluster }).unwrap();
    }
    let bytes = super::super::codec::encode_checkpoint(Uuid::nil(), 1, &s);
    bytes.len() as u64 <= u64::from(layout.checkpoint_pages) * super::super::layout::PAGE
}

#[test]
fn a_store_that_has_holes_grows_as_far_as_its_checkpoint_can_tell() {
    let blocks = 1 << 20;
    let layout = Layout::new(4096, blocks, 1 << 20, 2).unwrap();
    let clusters = layout.data_clusters(blocks);
    let room = layout.max_extents() - 2 * u64::from(clusters);
    assert!(fits_with(&layout, clusters, room), "what unmaps may take");
    assert!(!fits_with(&layout, clusters * 2, room), "what no growth may lead to");
    let grown = |holes: u64| {
        let mut s = State::new("s".to_owned(), clusters);
        let id = create(&mut s, "v", true, 1 << 20);
        s.lvols.get_mut(&id).unwrap().parent = Parent::External(Uuid::nil());
        for hole in 0..holes {
            s.apply(&Record::Unmap { id, start: 4 * hole, count: 3 }).unwrap();
        }
        match s.plan_grow(&layout, blocks * 64) {
            Some(Record::Grow { clusters }) => clusters,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(grown(0), layout.max_clusters);
    for holes in [1, room / 2, room - 10] {
        let most = grown(holes);
        assert!(most > clusters && fits_with(&layout, most, holes), "{holes} holes, grown to {most}");
    }
}

#[test]
fn a_change_of_size_that_makes_holes_is_known() {
    let mut s = State::new("s".to_owned(), 100);
    let origin = create(&mut s, "origin", true, 10);
    let snapshot = s.next_id;
    s.apply(&Record::Snapshot { id: snapshot, uuid: Uuid::nil(), name: "s1".to_owned(), of: origin })
        .unwrap();
    let resize = |clusters| Record::Resize { id: origin, clusters };
    assert!(!s.adds_holes(&resize(20)), "the parent does not reach so far");
    s.apply(&resize(5)).unwrap();
    assert!(s.adds_holes(&resize(6)) && !s.adds_holes(&resize(4)));
    s.apply(&resize(6)).unwrap();
    assert!(!s.adds_holes(&resize(10)), "they join the one that is there");
    // A snapshot over a snapshot: what was beyond the end of the first must not show the second.
    let upper = s.next_id;
    s.apply(&Record::Snapshot { id: upper, uuid: Uuid::nil(), name: "s2".to_owned(), of: origin }).unwrap();
    assert!(!s.adds_holes(&Record::Delete { id: upper }));
    s.apply(&resize(12)).unwrap();
    assert!(s.adds_holes(&Record::Delete { id: upper }));
    assert!(!s.adds_holes(&Record::Delete { id: snapshot }), "nothing is below it");
    let before = s.hole_runs();
    s.apply(&Record::Delete { id: upper }).unwrap();
    assert!(s.hole_runs() >= before);
}

/// The worst that 1 TiB at 4 MiB can be: every cluster an extent of its own.
#[tokio::test(flavor = "local")]
async fn a_full_fragmented_tebibyte_loads_within_a_second() {
    use crate::bdev::{ClaimType, Registry, malloc};
    use crate::lvstore::{codec, load, store};
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
    let mut s = load::format(&base, uuid, layout, "s").await.unwrap();
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
    let begun = cpu_time();
    let loaded = store::Store::load(base, load::Super { uuid, features: 0, layout }).await.unwrap();
    let took = cpu_time() - begun;
    assert!(loaded.state.borrow().lvols[&id].map.mapped() >= 262_000);
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    println!("loaded in {took:?}");
}
