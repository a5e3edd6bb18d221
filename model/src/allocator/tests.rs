use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    defaults::{GIB, MIB},
    transitions::model_tests::{cluster, new_da},
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

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
        let dns: Vec<_> = (1..).zip(&rooms).map(|(n, (room, location))| {
            let location = if *location == 0 { String::new() } else { format!("rack{location}") };
            dn(n, &location, vec![pd(n, 8 * vd, (8 - room) * vd)])
        }).collect();
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
