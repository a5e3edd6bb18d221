use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    defaults::{GIB, MIB},
    transitions::world::{cluster, new_da},
};

fn pd(id: u64, total: u64, used: u64) -> v1::PdCapacity {
    v1::PdCapacity {
        pd_id: PdId::new(id).to_string(),
        pd_name: format!("pd{id}"),
        cluster_bytes: 4 * MIB,
        total_bytes: total,
        used_bytes: used,
        ..Default::default()
    }
}

fn dn(id: u64, location: &str, pds: Vec<v1::PdCapacity>) -> (DnId, v1::DnCapacity) {
    let books =
        v1::DnCapacity { address: format!("dn{id}:1"), location: location.into(), pds, ..Default::default() };
    (DnId::new(id), books)
}

fn cn(max_cntlrs: u32, live_cntlrs: u32) -> v1::CnCapacity {
    v1::CnCapacity { address: "cn0:1".into(), max_cntlrs, live_cntlrs, ..Default::default() }
}

fn place_on(da: &NewDa, dns: &[(DnId, v1::DnCapacity)], seed: u64) -> Result<Placement, Box<Refusal>> {
    let dns: Vec<_> =
        dns.iter().map(|(dn, capacity)| DnCandidate { dn: *dn, capacity, status: None }).collect();
    let books = cn(1, 0);
    place(da, &dns, &[CnCandidate { cn: CnId::new(1), capacity: &books, status: None }], seed)
}

#[test]
fn the_least_loaded_share_wins_then_the_lowest_id() {
    let dns = [
        dn(1, "", vec![pd(1, 10 * GIB, 5 * GIB), pd(2, 100 * GIB, 30 * GIB)]),
        dn(2, "", vec![pd(3, 10 * GIB, 2 * GIB), pd(4, 10 * GIB, 2 * GIB)]),
    ];
    let placed = place_on(&new_da("da0", GIB, 1, 1), &dns, 0).unwrap();
    assert_eq!(placed.sets, [[Slot { dn: DnId::new(2), pd: PdId::new(3) }]]);
}

#[test]
fn stripes_spread_before_load_counts() {
    let dns = [
        dn(1, "", vec![pd(1, 10 * GIB, 0), pd(2, 10 * GIB, 0)]),
        dn(2, "", vec![pd(3, 10 * GIB, 4 * GIB), pd(4, 10 * GIB, 0)]),
    ];
    let placed = place_on(&new_da("da0", GIB, 2, 2), &dns, 0).unwrap();
    let used: BTreeSet<_> = placed.sets.iter().flatten().map(|s| s.pd).collect();
    assert_eq!(used.len(), 4, "{placed:?}");
}

#[test]
fn a_refusal_lists_each_candidate_and_its_rules() {
    let mut offline = pd(1, 10 * GIB, 0);
    offline.offline = true;
    let dns =
        [dn(1, "rack1", vec![offline, pd(2, 10 * GIB, 10 * GIB - MIB)]), dn(2, "rack1", vec![pd(3, 0, 0)])];
    let mut dns = dns;
    dns[1].1.pds[0].cluster_bytes = 0;
    let refusal = place_on(&new_da("da0", GIB, 1, 1), &dns, 0).unwrap_err();
    let said: Vec<String> = refusal.candidates.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "PD dn1:1/pd1: offline",
            "PD dn1:1/pd2: free 1MiB < needed 1.01GiB",
            "PD dn2:1/pd3: its disk node has not reported its lvstore yet",
        ]
        .map(|s| s.replace(
            "1.01GiB",
            &crate::sizes::format(round_up(new_da("x", GIB, 1, 1).leg_size().vd_bytes, 4 * MIB))
        ))
    );
}

#[test]
fn replicas_need_locations() {
    let dns = [dn(1, "rack1", vec![pd(1, 10 * GIB, 0)]), dn(2, "rack1", vec![pd(2, 10 * GIB, 0)])];
    let refusal = place_on(&new_da("da0", GIB, 1, 2), &dns, 0).unwrap_err();
    assert!(refusal.to_string().contains("location rack1 already holds a replica"), "{refusal}");
    let alone =
        place_on(&new_da("da0", GIB, 1, 2), &[dn(1, "", vec![pd(1, 10 * GIB, 0), pd(2, 10 * GIB, 0)])], 0)
            .unwrap_err();
    assert!(alone.to_string().contains("DN dn1:1 already holds a replica"), "{alone}");
    assert!(
        place_on(&new_da("da0", GIB, 1, 2), &[dns[0].clone(), dn(3, "", vec![pd(3, 10 * GIB, 0)])], 0)
            .is_ok()
    );
}

#[test]
fn nodes_in_error_are_the_last_resort_and_failed_disks_none() {
    let books = [dn(1, "", vec![pd(1, 10 * GIB, 0)]), dn(2, "", vec![pd(2, 10 * GIB, 9 * GIB - 100 * MIB)])];
    let ready = view::plain(v1::Condition::Ready);
    let up = v1::DnStatus { agent: Some(ready.clone()), target: Some(ready), ..Default::default() };
    let failed = v1::ResourceStatus {
        op: "bdev_aio_create".into(),
        message: "No such file".into(),
        ..view::plain(v1::Condition::Failed)
    };
    let broken = v1::DnStatus {
        pds: vec![v1::PdStatus {
            pd_id: PdId::new(1).to_string(),
            status: Some(failed),
            ..Default::default()
        }],
        ..up.clone()
    };
    let cn_books = cn(1, 0);
    let cns = [CnCandidate { cn: CnId::new(1), capacity: &cn_books, status: None }];
    let with = |first: Option<&v1::DnStatus>, second, replicas| {
        let dns = [
            DnCandidate { dn: books[0].0, capacity: &books[0].1, status: first },
            DnCandidate { dn: books[1].0, capacity: &books[1].1, status: second },
        ];
        place(&new_da("da0", GIB, 1, replicas), &dns, &cns, 0)
    };
    assert_eq!(
        with(None, Some(&up), 1).unwrap().sets[0][0].pd,
        PdId::new(2),
        "the emptier one does not answer"
    );
    assert!(with(None, Some(&up), 2).is_ok(), "taken rather than refused: the array waits for it");
    let refusal = with(Some(&broken), Some(&up), 2).unwrap_err();
    assert!(refusal.to_string().contains("failed: bdev_aio_create: No such file"), "{refusal}");
}

#[test]
fn controllers_go_to_the_emptiest_node_that_has_room() {
    let (full, busy, idle) = (cn(2, 2), cn(10, 5), cn(10, 4));
    let place = |books: &[&v1::CnCapacity]| {
        let cns: Vec<_> = (1..)
            .zip(books)
            .map(|(n, c)| CnCandidate { cn: CnId::new(n), capacity: c, status: None })
            .collect();
        place_cntlr(&cns, 0)
    };
    assert_eq!(place(&[&full, &busy, &idle]), Ok(CnId::new(3)));
    assert_eq!(place(&[&full]).unwrap_err().candidates[0].to_string(), "CN cn0:1: has 2 of 2 controllers");
    assert!(place(&[]).unwrap_err().to_string().contains("there are no candidates"));
}

#[test]
fn budgets_of_promised_io_count() {
    let mut books = pd(1, 10 * GIB, 0);
    books.qos_budget = Some(v1::Qos { rw_ios_per_sec: 1000, ..Default::default() });
    books.qos_used = Some(v1::Qos { rw_ios_per_sec: 600, ..Default::default() });
    let dns = [dn(1, "", vec![books])];
    let limited = |rw_ios_per_sec, stripes| NewDa {
        qos: v1::Qos { rw_ios_per_sec, ..Default::default() },
        ..new_da("da0", GIB, stripes, 1)
    };
    assert!(place_on(&limited(400, 1), &dns, 0).is_ok());
    let refusal = place_on(&limited(401, 1), &dns, 0).unwrap_err();
    assert!(refusal.to_string().contains("rw_ios_per_sec: free 400 < needed 401"), "{refusal}");
    assert!(place_on(&limited(402, 2), &dns, 0).is_err(), "two stripes of 201 on one disk");
}

/// By policy the two disks of rack1 would be taken together with rack2's only one first; room decides then.
#[test]
fn a_corner_is_avoided() {
    let needed = round_up(new_da("x", GIB, 2, 2).leg_size().vd_bytes, 4 * MIB);
    let dns = [
        dn(1, "", vec![pd(1, 100 * needed, 98 * needed)]),
        dn(2, "", vec![pd(2, 2 * needed, needed)]),
        dn(3, "", vec![pd(3, 2 * needed, needed)]),
    ];
    let placed = place_on(&new_da("da0", GIB, 2, 2), &dns, 0).unwrap();
    assert!(placed.sets.iter().flatten().filter(|s| s.dn == DnId::new(1)).count() == 2, "{placed:?}");
}

#[test]
fn equal_arrays_stay_balanced_whatever_the_seeds() {
    let mut world = cluster(4, 10);
    for n in 0..40 {
        world.create_da(&new_da(&format!("da{n}"), 256 * MIB, 1, 1), n * 7919 + 1).unwrap();
    }
    let used: Vec<u32> = world
        .snapshot
        .all::<crate::keys::DnCapacityKey>()
        .map(|(_, books)| books.value.pds[0].live_vds)
        .collect();
    assert_eq!(used, [10; 4]);
}

#[test]
fn seeds_spread_over_the_best_few() {
    let dns: Vec<_> = (1..=10).map(|n| dn(n, "", vec![pd(n, 10 * GIB, 0)])).collect();
    let taken: BTreeSet<_> =
        (1..50).map(|seed| place_on(&new_da("da0", GIB, 1, 1), &dns, seed).unwrap().sets[0][0].pd).collect();
    assert_eq!(taken.len(), SPREAD);
}

/// Disk nodes with room for so many disks of `da` each, all of eight; location 0 is none.
fn nodes(da: &NewDa, rooms: &[(u64, u8)]) -> Vec<(DnId, v1::DnCapacity)> {
    let vd = round_up(da.leg_size().vd_bytes, 4 * MIB);
    let node = |(n, (room, location)): (u64, &(u64, u8))| {
        let location = if *location == 0 { String::new() } else { format!("rack{location}") };
        dn(n, &location, vec![pd(n, 8 * vd, (8 - room) * vd)])
    };
    (1..).zip(rooms).map(node).collect()
}

/// The most mirrors that fit, one by one into the emptiest locations.
fn most(rooms: &[(u64, u8)], replicas: usize) -> usize {
    let (alone, placed): (Vec<_>, Vec<_>) = rooms.iter().partition(|(_, location)| *location == 0);
    let mut left: Vec<u64> = alone.into_iter().map(|(room, _)| room).collect();
    left.extend(
        (1..=u8::MAX).map(|l| placed.iter().filter(|(_, at)| *at == l).map(|(room, _)| room).sum::<u64>()),
    );
    let mut sets = 0;
    loop {
        left.sort_unstable_by_key(|room| Reverse(*room));
        if left.len() < replicas || left[replicas - 1] == 0 {
            return sets;
        }
        left[..replicas].iter_mut().for_each(|room| *room -= 1);
        sets += 1;
    }
}

/// What a transaction does: the places are taken if they are free.
fn take(da: &NewDa, dns: &mut [(DnId, v1::DnCapacity)], placement: &Placement) -> bool {
    let before = dns.to_vec();
    for slot in placement.sets.iter().flatten() {
        let books =
            dns.iter_mut().find(|(dn, _)| *dn == slot.dn).map(|(_, books)| &mut books.pds[0]).unwrap();
        books.used_bytes += round_up(da.leg_size().vd_bytes, books.cluster_bytes);
        if books.used_bytes > books.total_bytes {
            dns.clone_from_slice(&before);
            return false;
        }
    }
    true
}

fn cost_on(da: &NewDa, dns: &[(DnId, v1::DnCapacity)], placement: &Placement) -> Cost {
    let dns: Vec<_> =
        dns.iter().map(|(dn, capacity)| DnCandidate { dn: *dn, capacity, status: None }).collect();
    cost(da, &dns, placement)
}

/// By free share the two small disks come first; each mirror needs the large one.
#[test]
fn a_mirror_leaves_the_others_their_places() {
    let da = new_da("da0", GIB, 1, 2);
    let vd = round_up(da.leg_size().vd_bytes, 4 * MIB);
    let dns = [
        dn(1, "", vec![pd(1, 100 * vd, 90 * vd)]),
        dn(2, "", vec![pd(2, 8 * vd, 3 * vd)]),
        dn(3, "", vec![pd(3, 8 * vd, 3 * vd)]),
    ];
    let placed = place_on(&da, &dns, 0).unwrap();
    assert_eq!(placed.sets[0].iter().map(|s| s.dn.bits()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(cost_on(&da, &dns, &placed), Cost { sets_before: 10, wasted: 0 });
    let small = |n| Slot { dn: DnId::new(n), pd: PdId::new(n) };
    let wasteful = Placement { sets: vec![vec![small(2), small(3)]], ..placed };
    assert_eq!(cost_on(&da, &dns, &wasteful), Cost { sets_before: 10, wasted: 1 });
}

/// A node that does not answer is not taken to save places of others.
#[test]
fn a_mirror_waits_for_no_node_to_save_places() {
    let da = new_da("da0", GIB, 1, 2);
    let books = nodes(&da, &[(8, 0), (2, 0), (2, 0)]);
    let ready = view::plain(v1::Condition::Ready);
    let up = v1::DnStatus { agent: Some(ready.clone()), target: Some(ready), ..Default::default() };
    let dns: Vec<_> = [None, Some(&up), Some(&up)]
        .into_iter()
        .zip(&books)
        .map(|(status, (dn, capacity))| DnCandidate { dn: *dn, capacity, status })
        .collect();
    let cn_books = cn(1, 0);
    let cns = [CnCandidate { cn: CnId::new(1), capacity: &cn_books, status: None }];
    let placed = place(&da, &dns, &cns, 0).unwrap();
    assert_eq!(placed.sets[0].iter().map(|s| s.dn.bits()).collect::<Vec<_>>(), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Mirrors are created until one is refused: as many as fit in any way at all.
    #[test]
    fn as_many_mirrors_fit_as_can(
        rooms in prop::collection::vec((0..8_u64, 0..4_u8), 1..9),
        replicas in 1..4_u32,
        seed: u64,
    ) {
        let da = new_da("da0", GIB, 1, replicas);
        let mut dns = nodes(&da, &rooms);
        let mut fit = 0;
        while let Ok(placement) = place_on(&da, &dns, seed.wrapping_mul(fit as u64 + 1)) {
            prop_assert_eq!(cost_on(&da, &dns, &placement).wasted, 0);
            prop_assert!(take(&da, &mut dns, &placement));
            fit += 1;
        }
        prop_assert_eq!(fit, most(&rooms, replicas as usize));
    }

    /// The same with portals that know the books as they were some time ago, and find out when they commit.
    #[test]
    fn as_many_mirrors_fit_whoever_places_them(
        rooms in prop::collection::vec((0..8_u64, 0..4_u8), 1..9),
        replicas in 1..4_u32,
        turns in prop::collection::vec((0..3_usize, any::<bool>(), any::<u64>()), 1..80),
    ) {
        let da = new_da("da0", GIB, 1, replicas);
        let mut dns = nodes(&da, &rooms);
        let mut known = vec![dns.clone(); 3];
        let mut fit = 0;
        let mut create = |known: &[(DnId, v1::DnCapacity)], dns: &mut [(DnId, v1::DnCapacity)], seed| {
            let Ok(placement) = place_on(&da, known, seed) else { return false };
            let taken = cost_on(&da, dns, &placement).wasted == 0 && take(&da, dns, &placement);
            fit += usize::from(taken);
            taken
        };
        for (portal, learns, seed) in turns {
            if learns {
                known[portal].clone_from(&dns);
            }
            create(&known[portal], &mut dns, seed);
        }
        // In the end somebody who knows all finds what is left.
        while create(&dns.clone(), &mut dns, 0) {}
        prop_assert_eq!(fit, most(&rooms, replicas as usize));
    }

    /// Placements obey every hard rule; and where the hard rules leave a place for equal disks, one is found.
    #[test]
    fn placements_obey_the_rules(
        rooms in prop::collection::vec((0..4_u64, 0..3_u8), 1..12),
        stripes in 1..5_u32,
        replicas in 1..4_u32,
        seed: u64,
    ) {
        let da = new_da("da0", GIB, stripes, replicas);
        let vd = round_up(da.leg_size().vd_bytes, 4 * MIB);
        let dns = nodes(&da, &rooms);
        let location = |id: DnId| dns.iter().find(|(d, _)| *d == id)
            .map(|(d, b)| if b.location.is_empty() { d.to_string() } else { b.location.clone() }).unwrap();
        let mut by_location: BTreeMap<String, u64> = BTreeMap::new();
        for (id, books) in &dns {
            *by_location.entry(location(*id)).or_default() += (books.pds[0].total_bytes - books.pds[0].used_bytes) / vd;
        }
        // `stripes` sets of `replicas` distinct locations exist iff this holds (each location serves a set once).
        let possible = by_location.values().map(|room| (*room).min(stripes.into())).sum::<u64>() >= u64::from(stripes * replicas);
        match place_on(&da, &dns, seed) {
            Ok(placement) => {
                prop_assert!(possible);
                let mut taken: BTreeMap<DnId, u64> = BTreeMap::new();
                for set in &placement.sets {
                    let locations: BTreeSet<_> = set.iter().map(|s| location(s.dn)).collect();
                    prop_assert_eq!(locations.len(), replicas as usize);
                    for slot in set {
                        *taken.entry(slot.dn).or_default() += 1;
                    }
                }
                for ((id, _), (room, _)) in dns.iter().zip(&rooms) {
                    prop_assert!(taken.get(id).copied().unwrap_or(0) <= *room);
                }
            }
            Err(refusal) => prop_assert!(!possible, "{refusal}"),
        }
    }
}
