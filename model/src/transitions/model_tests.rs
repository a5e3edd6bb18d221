//! Transitions against a snapshot: whatever sequence of requests and reports, the invariants hold.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vda_proto::v1;

use super::{cn, da, derived, dn, exp, finish, leg, pd, reported};
use crate::{
    Code, Error,
    allocator::{self, CnCandidate, DnCandidate},
    check::check,
    defaults::{GIB, MAX_TXN_OPS, MIB},
    delta::{Delta, Versioned},
    ids::{CnId, CntlrId, DaId, DnId, ExpId, PdId, VdId},
    keys::*,
    names::OwnedName,
    requests::{NewDa, NewExp, NewNode, NewPd},
    snapshot::Snapshot,
};

/// A cluster in memory whose agents obey at once when asked to.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    ids: u64,
}

fn listener() -> v1::NvmfListener {
    v1::NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: "127.0.0.1".into(),
        trsvcid: "4420".into(),
    }
}

fn node(address: &str, location: &str, max_cntlrs: u32) -> NewNode {
    NewNode {
        address: address.into(),
        listener: listener(),
        location: location.into(),
        offline: false,
        max_cntlrs,
    }
}

pub(crate) fn new_da(name: &str, size_bytes: u64, stripes: u32, replicas: u32) -> NewDa {
    NewDa {
        da_name: name.into(),
        size_bytes,
        physical_min_bytes: 0,
        stripes,
        strip_size_kib: 64,
        replicas,
        qos: v1::Qos::default(),
    }
}

fn ready() -> v1::ResourceStatus {
    crate::view::plain(v1::Condition::Ready)
}

impl World {
    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn commit(&mut self, delta: &Delta) -> u64 {
        assert!(delta.ops() < MAX_TXN_OPS, "{} operations", delta.ops());
        self.snapshot.commit(delta)
    }

    pub(crate) fn load<K: Key>(&self, key: K) -> Versioned<K::Value> {
        self.snapshot.get(&key).unwrap_or_else(|| panic!("no {key:?}"))
    }

    pub(crate) fn add_dn(&mut self, address: &str, location: &str) -> Result<DnId, Error> {
        let dn = DnId::new(self.id());
        let taken = self
            .snapshot
            .get(&DnNameKey(address.into()))
            .map(|i| self.load(DnSpecKey(i.value.id.parse().unwrap())).value);
        self.commit(&dn::create(taken.as_ref(), &node(address, location, 0), dn, 1)?);
        Ok(dn)
    }

    pub(crate) fn add_cn(&mut self, address: &str, max_cntlrs: u32) -> Result<CnId, Error> {
        let cn = CnId::new(self.id());
        let taken = self
            .snapshot
            .get(&CnNameKey(address.into()))
            .map(|i| self.load(CnSpecKey(i.value.id.parse().unwrap())).value);
        self.commit(&cn::create(taken.as_ref(), &node(address, "", max_cntlrs), cn, 1)?);
        Ok(cn)
    }

    fn pd_specs(&self, dn: DnId) -> Vec<v1::PdSpec> {
        let books = self.load(DnCapacityKey(dn)).value;
        books.pds.iter().map(|p| self.load(PdSpecKey(dn, p.pd_id.parse().unwrap())).value).collect()
    }

    /// Adds a PD whose lvstore is reported at once, if `total` is not 0.
    pub(crate) fn add_pd(
        &mut self,
        dn: DnId,
        name: &str,
        total: u64,
        qos_budget: v1::Qos,
    ) -> Result<PdId, Error> {
        let pd = PdId::new(self.id());
        let spec = self.load(DnSpecKey(dn)).value;
        let backend = v1::PdBackend {
            kind: Some(v1::pd_backend::Kind::Malloc(v1::MallocBackend { size_bytes: total })),
        };
        let new = NewPd {
            dn_address: spec.address.clone(),
            pd_name: name.into(),
            backend,
            offline: false,
            qos_budget,
        };
        let (capacity, pds) = (self.load(DnCapacityKey(dn)).value, self.pd_specs(dn));
        let view = pd::CreateView { dn, spec: &spec, capacity: &capacity, pds: &pds };
        let revision = self.commit(&pd::create(view, &new, pd, 1)?);
        if total > 0 {
            let mut status = self.dn_status(dn);
            status.pds.push(v1::PdStatus {
                pd_id: pd.to_string(),
                status: Some(ready()),
                initialised: true,
                cluster_bytes: 4 * MIB,
                total_bytes: total,
                observed_revision: revision,
                ..Default::default()
            });
            self.put_status(dn, status);
        }
        Ok(pd)
    }

    fn dn_status(&self, dn: DnId) -> v1::DnStatus {
        self.snapshot.get(&DnStatusKey(dn)).map(|s| s.value).unwrap_or_default()
    }

    fn put_status(&mut self, dn: DnId, status: v1::DnStatus) {
        let generation = self.snapshot.get(&DnGenKey(dn)).map_or(0, |g| g.revision);
        let status = v1::DnStatus {
            observed_generation: generation,
            agent: Some(ready()),
            target: Some(ready()),
            ..status
        };
        let books = self.load(DnCapacityKey(dn)).value;
        let mut delta = reported::capacity(dn, &books, &status).unwrap_or_default();
        delta.put(DnStatusKey(dn), status);
        self.commit(&delta);
    }

    pub(crate) fn create_da(&mut self, new: &NewDa, seed: u64) -> Result<v1::DaRecord, Error> {
        let dns: Vec<_> = self.snapshot.all::<DnCapacityKey>().map(|(k, v)| (k.0, v.value)).collect();
        let statuses: BTreeMap<_, _> =
            self.snapshot.all::<DnStatusKey>().map(|(k, v)| (k.0, v.value)).collect();
        let cns: Vec<_> = self.snapshot.all::<CnCapacityKey>().map(|(k, v)| (k.0, v.value)).collect();
        let candidates: Vec<_> = dns
            .iter()
            .map(|(dn, capacity)| DnCandidate { dn: *dn, capacity, status: statuses.get(dn) })
            .collect();
        let cn_candidates: Vec<_> =
            cns.iter().map(|(cn, capacity)| CnCandidate { cn: *cn, capacity, status: None }).collect();
        let placement = allocator::place(new, &candidates, &cn_candidates, seed).map_err(Error::NoPlace)?;
        let places = dns
            .into_iter()
            .map(|(dn, c)| (dn, da::Place { capacity: Some(c), listener: listener() }))
            .collect();
        let capacity = cns.into_iter().find(|(cn, _)| *cn == placement.cn).map(|(_, c)| c);
        let taken = self.snapshot.get(&DaKey(new.da_name.clone())).map(|r| r.value);
        let view = da::CreateView {
            taken: taken.as_ref(),
            dns: &places,
            cn: &da::Place { capacity, listener: listener() },
        };
        let ids = da::Ids {
            da: DaId::new(self.id()),
            cntlr: CntlrId::new(self.id()),
            vds: (0..new.stripes * new.replicas).map(|_| VdId::new(self.id())).collect(),
            volume_uuid: "6f1e3f5e-0000-4000-8000-000000000001".into(),
        };
        let (delta, record) = da::create(view, new, &placement, &ids, 1)?;
        self.commit(&delta);
        Ok(record)
    }

    fn books(
        &self,
        record: &v1::DaRecord,
    ) -> (BTreeMap<DnId, v1::DnCapacity>, BTreeMap<CnId, v1::CnCapacity>) {
        let dns = derived::shares(record)
            .unwrap()
            .into_keys()
            .map(|dn| (dn, self.load(DnCapacityKey(dn)).value))
            .collect();
        let cns = derived::cns(record)
            .unwrap()
            .into_iter()
            .map(|(cn, _)| (cn, self.load(CnCapacityKey(cn)).value))
            .collect();
        (dns, cns)
    }

    pub(crate) fn delete_da(&mut self, name: &str) -> Result<DaId, Error> {
        let record = self.load(DaKey(name.into()));
        let (dns, cns) = self.books(&record.value);
        let delta = da::delete(da::View { record: &record, dns: &dns, cns: &cns }, 0, 2)?;
        self.commit(&delta);
        derived::da_id(&record.value)
    }

    fn set_qos(&mut self, name: &str, qos: v1::Qos) -> Result<(), Error> {
        let record = self.load(DaKey(name.into()));
        let (dns, cns) = self.books(&record.value);
        let (delta, _) = da::modify(da::View { record: &record, dns: &dns, cns: &cns }, 0, Some(qos))?;
        self.commit(&delta);
        Ok(())
    }

    fn add_exp(&mut self, da_name: &str, exp_name: &str, host: &str) -> Result<(), Error> {
        let record = self.load(DaKey(da_name.into()));
        let new =
            NewExp { da_name: da_name.into(), exp_name: exp_name.into(), initiator_nqns: vec![host.into()] };
        let (delta, _) = exp::create(&record, &new, ExpId::new(self.id()), 1)?;
        self.commit(&delta);
        Ok(())
    }

    fn delete_exp(&mut self, da_name: &str, exp_name: &str) -> Result<(), Error> {
        let record = self.load(DaKey(da_name.into()));
        let (delta, _) = exp::delete(&record, exp_name, 0)?;
        self.commit(&delta);
        Ok(())
    }

    fn delete_pd(&mut self, dn: DnId, pd: PdId) -> Result<(), Error> {
        let (spec, capacity) = (self.load(PdSpecKey(dn, pd)), self.load(DnCapacityKey(dn)).value);
        let delta = pd::delete(pd::View { dn, pd, spec: &spec, capacity: &capacity }, 0)?;
        self.commit(&delta);
        Ok(())
    }

    fn delete_dn(&mut self, dn: DnId) -> Result<(), Error> {
        let (spec, capacity, pds) =
            (self.load(DnSpecKey(dn)), self.load(DnCapacityKey(dn)).value, self.pd_specs(dn));
        let status = self.snapshot.get(&DnStatusKey(dn)).map(|s| s.value);
        let delta = dn::delete(dn::View { dn, spec: &spec, capacity: &capacity }, &pds, status.as_ref(), 0)?;
        self.commit(&delta);
        Ok(())
    }

    fn delete_cn(&mut self, cn: CnId) -> Result<(), Error> {
        let (spec, capacity) = (self.load(CnSpecKey(cn)), self.load(CnCapacityKey(cn)).value);
        let delta = cn::delete(cn::View { cn, spec: &spec, capacity: &capacity }, None, 0)?;
        self.commit(&delta);
        Ok(())
    }

    fn tombstone(&self, da: DaId) -> Option<v1::DaTombstone> {
        self.snapshot.get(&DaTombstoneKey(da)).map(|t| t.value)
    }

    /// Every DN confirms its tombstones, as its agent would after a sync.
    pub(crate) fn settle_dns(&mut self) {
        let shares: Vec<_> = self.snapshot.all::<DnShareKey>().collect();
        for (DnShareKey(dn, da), share) in shares {
            let status =
                v1::ShareStatus { observed_revision: share.revision, gone: true, ..Default::default() };
            let (capacity, tombstone) = (self.load(DnCapacityKey(dn)).value, self.tombstone(da));
            let early = finish::ShareView {
                dn,
                da,
                share: &share,
                status: None,
                capacity: &capacity,
                tombstone: tombstone.as_ref(),
                forced: false,
            };
            assert_eq!(finish::share(early), Ok(None), "nothing is finished unconfirmed");
            let view = finish::ShareView { status: Some(&status), ..early };
            if let Some(delta) = finish::share(view).unwrap() {
                self.commit(&delta);
            }
        }
        let pds: Vec<_> = self.snapshot.all::<PdSpecKey>().collect();
        for (PdSpecKey(dn, pd), spec) in pds.into_iter().filter(|(_, s)| s.value.deleting) {
            let mut status = self.dn_status(dn);
            let unconfirmed =
                finish::pd(dn, pd, &spec, &self.load(DnCapacityKey(dn)).value, Some(&status), false);
            assert_eq!(unconfirmed, Ok(None), "nothing is finished unconfirmed");
            status.pds.retain(|p| p.pd_id != pd.to_string());
            status.pds.push(v1::PdStatus {
                pd_id: pd.to_string(),
                gone: true,
                observed_revision: spec.revision,
                ..Default::default()
            });
            self.put_status(dn, status);
            let (capacity, status) = (self.load(DnCapacityKey(dn)).value, self.dn_status(dn));
            if let Some(delta) = finish::pd(dn, pd, &spec, &capacity, Some(&status), false).unwrap() {
                self.commit(&delta);
            }
        }
        let dns: Vec<_> = self.snapshot.all::<DnSpecKey>().collect();
        for (DnSpecKey(dn), spec) in dns {
            self.put_status(dn, self.dn_status(dn));
            let (capacity, status) = (self.load(DnCapacityKey(dn)).value, self.dn_status(dn));
            if let Some(delta) = finish::dn(dn, &spec, &capacity, Some(&status), false) {
                self.commit(&delta);
            }
        }
    }

    pub(crate) fn settle_cns(&mut self) {
        let exps: Vec<_> = self.snapshot.all::<ExpSpecKey>().collect();
        for (ExpSpecKey(cn, da, id), spec) in &exps {
            let exps = vec![v1::ExpStatus { exp_id: id.to_string(), gone: true, ..Default::default() }];
            let early = v1::CntlrStatus { observed_revision: spec.revision, ..Default::default() };
            assert_eq!(finish::exp(*cn, *da, *id, spec, Some(&early), false), None, "unknown is not gone");
            let status = v1::CntlrStatus { exps, ..early };
            if let Some(delta) = finish::exp(*cn, *da, *id, spec, Some(&status), false) {
                self.commit(&delta);
            }
        }
        let cntlrs: Vec<_> = self.snapshot.all::<CntlrSpecKey>().collect();
        for (CntlrSpecKey(cn, da), spec) in cntlrs {
            let status =
                v1::CntlrStatus { observed_revision: spec.revision, gone: true, ..Default::default() };
            let (capacity, tombstone) = (self.load(CnCapacityKey(cn)).value, self.tombstone(da));
            let view = finish::CntlrView {
                cn,
                da,
                spec: &spec,
                exps: &[],
                status: Some(&status),
                capacity: &capacity,
                tombstone: tombstone.as_ref(),
                forced: false,
            };
            if let Some(delta) = finish::cntlr(view).unwrap() {
                self.commit(&delta);
            }
        }
        let cns: Vec<_> = self.snapshot.all::<CnSpecKey>().collect();
        for (CnSpecKey(cn), spec) in cns {
            let status = v1::CnStatus { observed_generation: self.snapshot.revision(), ..Default::default() };
            let capacity = self.load(CnCapacityKey(cn)).value;
            if let Some(delta) = finish::cn(cn, &spec, &capacity, Some(&status), false) {
                self.commit(&delta);
            }
        }
    }

    /// The first report of every assembled leg.
    fn assemble(&mut self) {
        let cntlrs: Vec<_> = self.snapshot.all::<CntlrSpecKey>().filter(|(_, s)| !s.value.deleting).collect();
        for (CntlrSpecKey(cn, da), spec) in cntlrs {
            for spec in &spec.value.legs {
                let old = self.snapshot.get(&LegStateKey(da, spec.leg)).map(|s| s.value);
                let observed = observation(spec, |_| (true, true), false);
                if let Some(new) = leg::observe(old.as_ref(), &da.to_string(), spec, &observed) {
                    self.commit(&leg::store(cn, da, old.as_ref(), new).unwrap());
                }
            }
        }
    }

    pub(crate) fn assert_clean(&self) {
        let violations = check(&self.snapshot);
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// A report on a leg in which each member is (reachable, in sync).
fn observation(
    spec: &v1::LegSpec,
    member: impl Fn(&str) -> (bool, bool),
    needs_election: bool,
) -> v1::LegObserved {
    let members = spec.groups.iter().flat_map(|g| &g.sets).flat_map(|s| &s.members);
    v1::LegObserved {
        leg: spec.leg,
        initialised: true,
        needs_election,
        members: members
            .map(|m| {
                let (reachable, in_sync) = member(&m.vd_id);
                let condition = if reachable { v1::Condition::Ready } else { v1::Condition::Blocked };
                v1::MemberStatus {
                    vd_id: m.vd_id.clone(),
                    status: Some(crate::view::plain(condition)),
                    in_sync,
                    rebuilt: false,
                    rebuild_percent: 0,
                    boot: String::new(),
                }
            })
            .collect(),
    }
}

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

/// A cluster of `dns` DNs with one PD of `gib` GiB each, and one CN.
pub(crate) fn cluster(dns: u32, gib: u64) -> World {
    let mut world = World::default();
    for n in 0..dns {
        let dn = world.add_dn(&format!("dn{n}:1"), "").unwrap();
        world.add_pd(dn, "pd0", gib * GIB, v1::Qos::default()).unwrap();
    }
    world.add_cn("cn0:1", 100).unwrap();
    world
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

mod legs {
    use super::*;

    fn spec(stripes: u32, replicas: u32) -> v1::LegSpec {
        let mut world = cluster(replicas, 4);
        world.create_da(&new_da("da0", 64 * MIB, stripes, replicas), 0).unwrap().legs.remove(0)
    }

    fn vds(spec: &v1::LegSpec) -> Vec<String> {
        spec.groups[0].sets.iter().flat_map(|s| &s.members).map(|m| m.vd_id.clone()).collect()
    }

    fn state(spec: &v1::LegSpec, in_sync: &[&String]) -> v1::LegState {
        v1::LegState {
            schema_version: 1,
            da_id: "d".into(),
            leg: spec.leg,
            initialised: true,
            epoch: spec.epoch,
            in_sync: in_sync.iter().map(ToString::to_string).collect(),
            boots: Vec::new(),
        }
    }

    #[test]
    fn the_first_assembly_makes_all_members_equal() {
        let spec = spec(2, 2);
        let new = leg::observe(None, "d", &spec, &observation(&spec, |_| (true, true), false)).unwrap();
        assert!(new.initialised);
        assert_eq!(new.in_sync, vds(&spec));
        let again = leg::observe(Some(&new), "d", &spec, &observation(&spec, |_| (true, true), false));
        assert_eq!(again, None, "nothing new");
    }

    #[test]
    fn a_lost_member_leaves_and_comes_back_by_rebuild() {
        let spec = spec(1, 2);
        let vds = vds(&spec);
        let both = state(&spec, &[&vds[0], &vds[1]]);
        let lost = observation(&spec, |vd| (vd == vds[0], vd == vds[0]), false);
        let one = leg::observe(Some(&both), "d", &spec, &lost).unwrap();
        assert_eq!(one.in_sync, [vds[0].clone()]);
        let back =
            leg::observe(Some(&one), "d", &spec, &observation(&spec, |_| (true, true), false)).unwrap();
        assert_eq!(back.in_sync, vds);
    }

    #[test]
    fn a_leg_that_is_not_assembled_tells_nothing() {
        let spec = spec(2, 2);
        let vds = vds(&spec);
        let all = state(&spec, &vds.iter().collect::<Vec<_>>());
        assert_eq!(leg::observe(Some(&all), "d", &spec, &observation(&spec, |_| (true, false), false)), None);
    }

    #[test]
    fn a_stale_member_alone_is_not_believed() {
        let spec = spec(1, 2);
        let vds = vds(&spec);
        let survivor = state(&spec, &[&vds[1]]);
        let stale_only = observation(&spec, |vd| (vd == vds[0], vd == vds[0]), false);
        assert_eq!(leg::observe(Some(&survivor), "d", &spec, &stale_only), None);
    }

    #[test]
    fn a_rebuilt_member_that_outlived_its_source_is_believed() {
        let spec = spec(1, 3);
        let vds = vds(&spec);
        let source = state(&spec, &[&vds[1]]);
        let mut report = observation(&spec, |vd| (vd != vds[1], vd != vds[1]), false);
        assert_eq!(leg::observe(Some(&source), "d", &spec, &report), None);
        report.members[0].rebuilt = true;
        let new = leg::observe(Some(&source), "d", &spec, &report).unwrap();
        assert_eq!(new.in_sync, [vds[0].clone(), vds[2].clone()], "and those that are full beside it");
        report.members[0].in_sync = false;
        assert_eq!(leg::observe(Some(&source), "d", &spec, &report), None, "not when it is a member no more");
    }

    #[test]
    fn an_election_takes_one_reachable_member_of_each_set() {
        let spec = spec(2, 2);
        let vds = vds(&spec);
        let all = state(&spec, &vds.iter().collect::<Vec<_>>());
        let reachable = |vd: &str| (vd != vds[0], false);
        let new = leg::observe(Some(&all), "d", &spec, &observation(&spec, reachable, true)).unwrap();
        assert_eq!(new.in_sync, [vds[1].clone(), vds[2].clone()]);
        let none_of_the_second = |vd: &str| (vd == vds[0] || vd == vds[1], false);
        assert_eq!(leg::observe(Some(&all), "d", &spec, &observation(&spec, none_of_the_second, true)), None);
        let survivors = state(&spec, &[&vds[0], &vds[2], &vds[3]]);
        let new =
            leg::observe(Some(&survivors), "d", &spec, &observation(&spec, |_| (true, false), true)).unwrap();
        assert_eq!(new.in_sync, [vds[0].clone(), vds[2].clone()], "never one that was out of sync");
    }

    #[test]
    fn an_election_prefers_who_kept_its_power() {
        let spec = spec(1, 3);
        let vds = vds(&spec);
        let report = |boots: [&str; 3], full: bool, needs_election: bool| {
            let mut report = observation(&spec, |_| (true, full), needs_election);
            for (member, boot) in report.members.iter_mut().zip(boots) {
                boot.clone_into(&mut member.boot);
            }
            report
        };
        let all = leg::observe(None, "d", &spec, &report(["a1", "b1", "c1"], true, false)).unwrap();
        assert_eq!(all.boots.iter().map(|b| b.boot.as_str()).collect::<Vec<_>>(), ["a1", "b1", "c1"]);
        let elected = |boots: [&str; 3]| {
            leg::observe(Some(&all), "d", &spec, &report(boots, false, true)).unwrap().in_sync.remove(0)
        };
        assert_eq!(elected(["a1", "b1", "c1"]), vds[0]);
        assert_eq!(elected(["a2", "b1", "c1"]), vds[1]);
        assert_eq!(elected(["a2", "b2", "c1"]), vds[2]);
        assert_eq!(elected(["a2", "b2", "c2"]), vds[0], "if none did, the first that can be reached");
        let mut away = report(["a2", "b1", "c2"], false, true);
        away.members[1].status = None;
        let new = leg::observe(Some(&all), "d", &spec, &away).unwrap();
        assert_eq!(new.in_sync, [vds[0].clone()], "and not one that cannot be reached");
        // A member in sync is recorded with the boot with which it is, the others are not.
        let rebuilt = leg::observe(Some(&new), "d", &spec, &report(["a2", "b1", "c2"], true, false)).unwrap();
        assert_eq!(rebuilt.boots.iter().map(|b| b.boot.as_str()).collect::<Vec<_>>(), ["a2", "b1", "c2"]);
        assert_eq!(leg::observe(Some(&rebuilt), "d", &spec, &report(["a2", "b1", "c2"], true, false)), None);
    }

    #[test]
    fn initialised_is_never_forgotten() {
        let spec = spec(1, 1);
        let old = state(&spec, &[&vds(&spec)[0]]);
        let forgot = v1::LegState { initialised: false, ..old.clone() };
        assert!(leg::store(CnId::new(1), DaId::new(1), Some(&old), forgot).is_err());
        let mut report = observation(&spec, |_| (true, true), false);
        report.initialised = false;
        assert_eq!(leg::observe(Some(&old), "d", &spec, &report), None);
        assert_eq!(leg::observe(None, "d", &spec, &report), None, "not assembled yet");
    }

    proptest! {
        /// Random reports: a set never ends up without a member in sync, and nobody enters without being a full member beside one that was.
        #[test]
        fn data_is_never_given_up(reports in prop::collection::vec((any::<[bool; 6]>(), any::<[bool; 6]>(), any::<bool>()), 1..30)) {
            let spec = spec(2, 3);
            let vds = vds(&spec);
            let mut current = state(&spec, &vds.iter().collect::<Vec<_>>());
            for (reachable, full, needs_election) in reports {
                let at = |vd: &str| vds.iter().position(|v| v == vd).unwrap();
                let observed = observation(&spec, |vd| (reachable[at(vd)], full[at(vd)]), needs_election);
                let Some(new) = leg::observe(Some(&current), "d", &spec, &observed) else { continue };
                prop_assert!(new.initialised);
                for set in &spec.groups[0].sets {
                    let members: Vec<_> = set.members.iter().map(|m| &m.vd_id).filter(|vd| new.in_sync.contains(vd)).collect();
                    prop_assert!(members.iter().any(|vd| current.in_sync.contains(vd)), "somebody with the data stays");
                    for vd in members.iter().filter(|vd| !current.in_sync.contains(vd)) {
                        prop_assert!(full[at(vd)] && !needs_election);
                    }
                }
                current = new;
            }
        }
    }
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
