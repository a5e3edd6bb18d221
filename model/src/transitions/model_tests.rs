//! Transitions against a snapshot: whatever sequence of requests and reports, the invariants hold.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vda_proto::v1;

use super::world::{World, cluster, listener, new_da};
use super::{da, derived, dn};
use crate::{
    Code, Error, allocator,
    check::check,
    defaults::{GIB, MIB},
    ids::{CnId, CntlrId, DaId, DnId, VdId},
    keys::*,
    names::OwnedName,
    requests::NewDa,
};

#[derive(Debug, Clone)]
enum Op {
    AddDn { n: u8, location: u8 },
    AddPd { dn: u8, pd: u8, gib: u8, budget: u64 },
    AddCn { n: u8, max: u32 },
    CreateDa { n: u8, units: u64, stripes: u32, replicas: u32, ios: u64, seed: u64 },
    DeleteDa { n: u8 },
    SetQos { n: u8, ios: u64 },
    AddExp { da: u8, exp: u8, host: u8 },
    DeleteExp { da: u8, exp: u8 },
    ToggleDn { n: u8 },
    DeletePd { n: u8 },
    DeleteDn { n: u8 },
    DeleteCn { n: u8 },
    SettleDns,
    SettleCns,
    Assemble,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..5_u8, 0..4_u8).prop_map(|(n, location)| Op::AddDn { n, location }),
        4 => (0..5_u8, 0..3_u8, 0..4_u8, 0..3000_u64).prop_map(|(dn, pd, gib, budget)| Op::AddPd { dn, pd, gib, budget }),
        2 => (0..3_u8, 1..5_u32).prop_map(|(n, max)| Op::AddCn { n, max }),
        8 => (0..8_u8, 1..300_u64, 1..4_u32, 1..4_u32, 0..2000_u64, 0..3_u64)
            .prop_map(|(n, units, stripes, replicas, ios, seed)| Op::CreateDa { n, units, stripes, replicas, ios, seed }),
        4 => (0..8_u8).prop_map(|n| Op::DeleteDa { n }),
        1 => (0..8_u8, 0..3000_u64).prop_map(|(n, ios)| Op::SetQos { n, ios }),
        3 => (0..8_u8, 0..2_u8, 0..2_u8).prop_map(|(da, exp, host)| Op::AddExp { da, exp, host }),
        2 => (0..8_u8, 0..2_u8).prop_map(|(da, exp)| Op::DeleteExp { da, exp }),
        1 => (0..5_u8).prop_map(|n| Op::ToggleDn { n }),
        1 => (0..8_u8).prop_map(|n| Op::DeletePd { n }),
        1 => (0..5_u8).prop_map(|n| Op::DeleteDn { n }),
        1 => (0..3_u8).prop_map(|n| Op::DeleteCn { n }),
        2 => Just(Op::SettleDns),
        2 => Just(Op::SettleCns),
        2 => Just(Op::Assemble),
    ]
}

impl World {
    fn dn(&self, n: u8) -> Option<DnId> {
        self.snapshot.get(&DnNameKey(format!("dn{n}:1"))).map(|i| i.value.id.parse().unwrap())
    }

    fn cn(&self, n: u8) -> Option<CnId> {
        self.snapshot.get(&CnNameKey(format!("cn{n}:1"))).map(|i| i.value.id.parse().unwrap())
    }

    /// `None`: there is nothing to do it to.
    fn apply(&mut self, op: &Op) -> Option<Result<(), Error>> {
        let has_da = |w: &Self, n: u8| w.snapshot.get(&DaKey(format!("da{n}"))).map(|_| format!("da{n}"));
        let ios = |rw_ios_per_sec| v1::Qos { rw_ios_per_sec, ..Default::default() };
        Some(match *op {
            Op::AddDn { n, location } => {
                let location = if location == 0 { String::new() } else { format!("rack{location}") };
                self.add_dn(&format!("dn{n}:1"), &location).map(|_| ())
            }
            Op::AddPd { dn, pd, gib, budget } => {
                self.add_pd(self.dn(dn)?, &format!("pd{pd}"), u64::from(gib) * GIB, ios(budget)).map(|_| ())
            }
            Op::AddCn { n, max } => self.add_cn(&format!("cn{n}:1"), max).map(|_| ()),
            Op::CreateDa { n, units, stripes, replicas, ios: limit, seed } => {
                let new = NewDa {
                    qos: ios(limit),
                    ..new_da(&format!("da{n}"), units * 4 * MIB, stripes, replicas)
                };
                self.create_da(&new, seed).map(|_| ())
            }
            Op::DeleteDa { n } => self.delete_da(&has_da(self, n)?).map(|_| ()),
            Op::SetQos { n, ios: limit } => self.set_qos(&has_da(self, n)?, ios(limit)),
            Op::AddExp { da, exp, host } => self.add_exp(
                &has_da(self, da)?,
                &format!("exp{exp}"),
                &format!("nqn.2024-01.com.example:{host}"),
            ),
            Op::DeleteExp { da, exp } => self.delete_exp(&has_da(self, da)?, &format!("exp{exp}")),
            Op::ToggleDn { n } => {
                let dn = self.dn(n)?;
                let (spec, capacity) = (self.load(DnSpecKey(dn)), self.load(DnCapacityKey(dn)).value);
                let change = dn::Change { offline: Some(!spec.value.offline), ..Default::default() };
                dn::modify(dn::View { dn, spec: &spec, capacity: &capacity }, &change)
                    .map(|delta| _ = self.commit(&delta))
            }
            Op::DeletePd { n } => {
                let key = self.snapshot.all::<PdSpecKey>().nth(n.into())?.0;
                self.delete_pd(key.0, key.1)
            }
            Op::DeleteDn { n } => self.delete_dn(self.dn(n)?),
            Op::DeleteCn { n } => self.delete_cn(self.cn(n)?),
            Op::SettleDns => {
                self.settle_dns();
                Ok(())
            }
            Op::SettleCns => {
                self.settle_cns();
                Ok(())
            }
            Op::Assemble => {
                self.assemble();
                Ok(())
            }
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_sequence_keeps_the_invariants(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::default();
        for op in &ops {
            if let Some(Err(error)) = world.apply(op) {
                prop_assert!(error.code() != Code::Internal, "{op:?}: {error}");
                prop_assert!(!matches!(error, Error::PlacementStale { .. }), "{op:?}: nobody else takes places");
            }
            let violations = check(&world.snapshot);
            prop_assert!(violations.is_empty(), "after {op:?}: {violations:#?}");
        }
        // Everything can be deleted, and then nothing is left.
        for n in 0..8 {
            for exp in 0..2 {
                world.apply(&Op::DeleteExp { da: n, exp });
            }
            world.apply(&Op::DeleteDa { n });
        }
        world.settle_dns();
        world.settle_cns();
        let pds: Vec<_> = world.snapshot.all::<PdSpecKey>().filter(|(_, s)| !s.value.deleting).map(|(key, _)| key).collect();
        for key in pds {
            world.delete_pd(key.0, key.1).unwrap();
        }
        for n in 0..5 {
            if let Some(result) = world.apply(&Op::DeleteDn { n }) { result.unwrap() }
            if let Some(result) = world.apply(&Op::DeleteCn { n }) { result.unwrap() }
        }
        world.settle_dns();
        world.settle_cns();
        world.settle_dns();
        prop_assert_eq!(world.snapshot.keys().collect::<Vec<_>>(), Vec::<&AnyKey>::new());
    }
}

#[test]
fn an_array_of_64_virtual_disks_fits_into_a_transaction_whatever_the_number_of_nodes() {
    for dns in [2, 8, 40, 41, 64, 100] {
        let mut world = cluster(dns, 10);
        let record = world.create_da(&new_da("da0", 64 * GIB / 10 / (4 * MIB) * 4 * MIB, 32, 2), 7).unwrap();
        assert_eq!(derived::members(&record).count(), 64);
        world.assert_clean();
        world.set_qos("da0", v1::Qos { rw_ios_per_sec: 1000, ..Default::default() }).unwrap();
        world.assert_clean();
        world.delete_da("da0").unwrap();
        world.assert_clean();
        world.settle_dns();
        world.settle_cns();
        world.assert_clean();
        let used: u64 =
            world.snapshot.all::<DnCapacityKey>().flat_map(|(_, c)| c.value.pds).map(|p| p.used_bytes).sum();
        assert_eq!(used, 0, "all space is back");
    }
}

#[test]
fn an_array_in_use_stays() {
    let mut world = cluster(2, 1);
    world.create_da(&new_da("da0", 64 * MIB, 1, 2), 0).unwrap();
    world.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").unwrap();
    assert_eq!(world.delete_da("da0").unwrap_err().to_string(), "DA da0 is in use by EXP da0/exp0");
    let same_host = world.add_exp("da0", "exp1", "nqn.2024-01.com.example:h").unwrap_err();
    assert_eq!(same_host.code(), Code::InvalidArgument);
    let duplicate = world.add_exp("da0", "exp0", "nqn.2024-01.com.example:i").unwrap_err();
    assert_eq!(duplicate.code(), Code::AlreadyExists);
}

#[test]
fn a_revision_that_is_not_current_is_refused() {
    let mut world = cluster(1, 1);
    world.create_da(&new_da("da0", 64 * MIB, 1, 1), 0).unwrap();
    let record = world.load(DaKey("da0".into()));
    let (dns, cns) = world.books(&record.value);
    let view = da::View { record: &record, dns: &dns, cns: &cns };
    let error = da::delete(view, record.revision - 1, 0).unwrap_err();
    assert_eq!(error.code(), Code::Aborted);
    assert!(da::delete(view, record.revision, 0).is_ok());
}

#[test]
fn a_place_that_was_taken_meanwhile_is_stale() {
    let world = cluster(1, 1);
    let dn = world.dn(0).unwrap();
    let pd = world.pd_specs(dn)[0].pd_id.parse().unwrap();
    let cn = world.cn(0).unwrap();
    let mut books = world.load(DnCapacityKey(dn)).value;
    books.pds[0].used_bytes = GIB - MIB;
    let places = BTreeMap::from([(dn, da::Place { capacity: Some(books), listener: listener() })]);
    let cn_place = da::Place { capacity: Some(world.load(CnCapacityKey(cn)).value), listener: listener() };
    let placement = allocator::Placement { sets: vec![vec![allocator::Slot { dn, pd }]], cn };
    let ids = da::Ids {
        da: DaId::new(9),
        cntlr: CntlrId::new(9),
        vds: vec![VdId::new(9)],
        volume_uuid: String::new(),
    };
    let view = da::CreateView { taken: None, dns: &places, cn: &cn_place };
    let error = da::create(view, &new_da("da0", 64 * MIB, 1, 1), &placement, &ids, 0).unwrap_err();
    assert_eq!(error, Error::PlacementStale { dns: vec![dn], cns: vec![] });
}

#[test]
fn names_in_records_are_those_of_the_naming_scheme() {
    use crate::names::Namespace;
    let mut world = cluster(2, 1);
    let record = world.create_da(&new_da("da0", 64 * MIB, 1, 2), 0).unwrap();
    let owner = OwnedName::parse(Namespace::Nqn, &record.legs[0].owner_nqn);
    assert_eq!(
        owner,
        Some(OwnedName::Owner { cntlr: record.cntlrs[0].cntlr_id.parse().unwrap(), leg: 0, epoch: 1 })
    );
    world.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").unwrap();
    let (_, exp) = world.snapshot.all::<ExpSpecKey>().next().unwrap();
    assert_eq!(exp.value.nqn, format!("nqn.2016-06.io.vda:exp:da0:exp0:{}", exp.value.exp_id));
    assert!(exp.value.serial_number.len() <= 20 && exp.value.model_number.len() <= 40);
    assert_eq!(exp.value.ns_nguid.len(), 32);
    assert_eq!((exp.value.min_cntlid, exp.value.max_cntlid), (1, 4000));
}
