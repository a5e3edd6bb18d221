//! A cluster in memory for tests of what changes it.

use std::collections::BTreeMap;

use vda_proto::v1;

use super::{cn, da, derived, dn, exp, finish, leg, pd, reported};
use crate::{
    Error,
    allocator::{self, CnCandidate, DnCandidate},
    check::check,
    defaults::{GIB, MAX_TXN_OPS, MIB},
    delta::{Delta, Versioned},
    ids::{CnId, CntlrId, DaId, DnId, ExpId, PdId, VdId},
    keys::*,
    requests::{NewDa, NewExp, NewNode, NewPd},
    snapshot::Snapshot,
};

/// A cluster in memory whose agents obey at once when asked to.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    ids: u64,
}

pub(crate) fn listener() -> v1::NvmfListener {
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

    pub(crate) fn commit(&mut self, delta: &Delta) -> u64 {
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

    pub(crate) fn pd_specs(&self, dn: DnId) -> Vec<v1::PdSpec> {
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

    pub(crate) fn dn_status(&self, dn: DnId) -> v1::DnStatus {
        self.snapshot.get(&DnStatusKey(dn)).map(|s| s.value).unwrap_or_default()
    }

    pub(crate) fn put_status(&mut self, dn: DnId, status: v1::DnStatus) {
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

    pub(crate) fn books(
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

    pub(crate) fn set_qos(&mut self, name: &str, qos: v1::Qos) -> Result<(), Error> {
        let record = self.load(DaKey(name.into()));
        let (dns, cns) = self.books(&record.value);
        let (delta, _) = da::modify(da::View { record: &record, dns: &dns, cns: &cns }, 0, Some(qos))?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn add_exp(&mut self, da_name: &str, exp_name: &str, host: &str) -> Result<(), Error> {
        let record = self.load(DaKey(da_name.into()));
        let new =
            NewExp { da_name: da_name.into(), exp_name: exp_name.into(), initiator_nqns: vec![host.into()] };
        let (delta, _) = exp::create(&record, &new, ExpId::new(self.id()), 1)?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn delete_exp(&mut self, da_name: &str, exp_name: &str) -> Result<(), Error> {
        let record = self.load(DaKey(da_name.into()));
        let (delta, _) = exp::delete(&record, exp_name, 0)?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn delete_pd(&mut self, dn: DnId, pd: PdId) -> Result<(), Error> {
        let (spec, capacity) = (self.load(PdSpecKey(dn, pd)), self.load(DnCapacityKey(dn)).value);
        let delta = pd::delete(pd::View { dn, pd, spec: &spec, capacity: &capacity }, 0)?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn delete_dn(&mut self, dn: DnId) -> Result<(), Error> {
        let (spec, capacity, pds) =
            (self.load(DnSpecKey(dn)), self.load(DnCapacityKey(dn)).value, self.pd_specs(dn));
        let status = self.snapshot.get(&DnStatusKey(dn)).map(|s| s.value);
        let delta = dn::delete(dn::View { dn, spec: &spec, capacity: &capacity }, &pds, status.as_ref(), 0)?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn delete_cn(&mut self, cn: CnId) -> Result<(), Error> {
        let (spec, capacity) = (self.load(CnSpecKey(cn)), self.load(CnCapacityKey(cn)).value);
        let delta = cn::delete(cn::View { cn, spec: &spec, capacity: &capacity }, None, 0)?;
        self.commit(&delta);
        Ok(())
    }

    pub(crate) fn tombstone(&self, da: DaId) -> Option<v1::DaTombstone> {
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
    pub(crate) fn assemble(&mut self) {
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
pub(crate) fn observation(
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
