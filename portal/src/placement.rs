//! From what is known of the nodes to a transaction: choose outside, verify inside, choose again if somebody was faster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Status;
use vda_model::{
    Error,
    allocator::{self, CnCandidate, DnCandidate, Placement},
    ids::{CnId, CntlrId, DaId, DnId, VdId},
    keys::*,
    requests::NewDa,
    sizes::round_up,
    transitions::da,
};
use vda_proto::v1;
use vda_store::{Abort, StmError, Tx};

use crate::{
    cluster::{Chosen, KnownCn, KnownDn, Reservation},
    mutate::{Call, OrRefuse, Refused, apply, failed},
    random,
    server::Portal,
    status,
};

/// How often other places are chosen. Each time somebody else has made progress, so many losses in a row mean that the cluster is nearly
/// full and fought for.
const MAX_CHOICES: u32 = 32;
/// From this choice on the nodes are read anew before: what is known is not what is true.
const REFRESH_FROM: u32 = 3;
/// Up to this choice a create does not take places that cost other arrays theirs. It progresses even if all the others never let it.
const GUARD_UNTIL: u32 = MAX_CHOICES / 2;
/// Where so few mirror sets of its kind fit, a create reads the books of all nodes in its transaction, so that what it leaves is decided on
/// what is true. With more room left, whoever comes next evens out what was chosen on old knowledge.
const GUARDED_SETS: u64 = 256;
/// Most DNs whose books are read for that: with what a create of [`vda_model::defaults::MAX_DNS_PER_DA`] writes they stay below etcd's limit.
const GUARDED_DNS: usize = 64;

/// A create with its chosen places.
struct Plan {
    new: NewDa,
    placement: Placement,
    ids: da::Ids,
    now_ms: i64,
    /// The chosen ones; with `may_waste`, all.
    dns: BTreeMap<DnId, KnownDn>,
    cn: KnownCn,
    /// Mirror sets that the places may cost beyond their own; `None`: it does not matter.
    may_waste: Option<u64>,
    /// What the last run of the transaction found or left in the books.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    dns: Vec<(DnId, KnownDn, u64)>,
    cn: Option<(CnId, KnownCn, u64)>,
}

impl Portal {
    /// Places and creates a DA.
    pub(crate) async fn place_da(&self, call: &Call, new: NewDa) -> Result<v1::Da, Status> {
        let ids = ids(&new);
        for choice in 0..MAX_CHOICES {
            if choice >= REFRESH_FROM {
                self.cluster.refresh(&self.store).await.map_err(|e| status::store(&e))?;
            }
            let (plan, reservation) = self.choose(call, &new, &ids, choice < GUARD_UNTIL).await?;
            let plan = Arc::new(plan);
            let told = plan.clone();
            let created = self.try_mutate(call, move |tx| {
                let plan = told.clone();
                async move { plan.create(&tx).await }
            });
            let created = created.await;
            self.learn(&plan, created.as_ref().ok().map(|da| da.revision));
            drop(reservation);
            match created {
                Err(StmError::Domain(Refused(Error::PlacementStale { .. }))) => {
                    tracing::debug!(choice, "somebody else took a place, choosing again");
                }
                done => return done.map_err(|e| failed(call.method, &e)),
            }
        }
        Err(status::refused(&Error::PlacementStale { dns: Vec::new(), cns: Vec::new() }))
    }

    /// Chooses places. Refuses only what does not fit into the nodes as etcd has them, whatever becomes of the creates in flight.
    async fn choose(
        &self,
        call: &Call,
        new: &NewDa,
        ids: &da::Ids,
        guarded: bool,
    ) -> Result<(Plan, Reservation), Status> {
        let mut refreshed = false;
        loop {
            let settled = self.cluster.settled();
            let refusal =
                match self.cluster.choosing(|dns, cns| choose_among(call, new, ids, guarded, dns, cns)) {
                    Ok(chosen) => return Ok(chosen),
                    Err(refusal) => refusal,
                };
            if refusal.in_flight {
                self.cluster.settles_after(settled).await;
                continue;
            }
            if refreshed {
                return Err(status::refused(&refusal.error));
            }
            self.cluster.refresh(&self.store).await.map_err(|e| status::store(&e))?;
            refreshed = true;
        }
    }

    fn learn(&self, plan: &Plan, committed: Option<u64>) {
        let seen = std::mem::take(&mut *plan.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for (dn, known, revision) in seen.dns {
            self.cluster.learn(vec![(dn, known)], None, committed.unwrap_or(revision));
        }
        if let Some((cn, known, revision)) = seen.cn {
            self.cluster.learn(Vec::new(), Some((cn, known)), committed.unwrap_or(revision));
        }
    }
}

fn choose_among(
    call: &Call,
    new: &NewDa,
    ids: &da::Ids,
    guarded: bool,
    dns: &mut BTreeMap<DnId, KnownDn>,
    cns: &mut BTreeMap<CnId, KnownCn>,
) -> Result<Chosen<Plan>, Error> {
    let dn_candidates = dn_candidates(dns.iter());
    let cn_candidates: Vec<_> = cns
        .iter()
        .map(|(cn, known)| CnCandidate { cn: *cn, capacity: &known.capacity, status: known.status.as_ref() })
        .collect();
    let placement =
        allocator::place(new, &dn_candidates, &cn_candidates, random::bits()).map_err(Error::NoPlace)?;
    let may_waste = (guarded && new.replicas > 1 && dns.len() <= GUARDED_DNS)
        .then(|| allocator::cost(new, &dn_candidates, &placement))
        .and_then(|cost| (cost.sets_before <= GUARDED_SETS).then_some(cost.wasted));
    let cn =
        cns.remove(&placement.cn).ok_or_else(|| Error::broken(&new.da_name, "placed on an unknown CN"))?;
    let pds = taken(new, &placement, dns);
    if may_waste.is_none() {
        let used: BTreeSet<DnId> = placement.sets.iter().flatten().map(|slot| slot.dn).collect();
        dns.retain(|dn, _| used.contains(dn));
    }
    let plan = Plan {
        new: new.clone(),
        ids: ids.clone(),
        now_ms: call.now_ms,
        dns: std::mem::take(dns),
        cn,
        may_waste,
        seen: Mutex::default(),
        placement: placement.clone(),
    };
    Ok(Chosen { plan, pds, cn: placement.cn })
}

fn dn_candidates<'a>(dns: impl Iterator<Item = (&'a DnId, &'a KnownDn)>) -> Vec<DnCandidate<'a>> {
    dns.map(|(dn, known)| DnCandidate { dn: *dn, capacity: &known.capacity, status: known.status.as_ref() })
        .collect()
}

fn ids(new: &NewDa) -> da::Ids {
    da::Ids {
        da: DaId::new(random::bits()),
        cntlr: CntlrId::new(random::bits()),
        vds: (0..new.stripes * new.replicas).map(|_| VdId::new(random::bits())).collect(),
        volume_uuid: random::uuid(),
    }
}

/// Bytes that a placement takes of each PD.
fn taken(
    new: &NewDa,
    placement: &Placement,
    dns: &BTreeMap<DnId, KnownDn>,
) -> Vec<(vda_model::ids::PdId, u64)> {
    let vd_bytes = new.leg_size().vd_bytes;
    let bytes = |slot: &allocator::Slot| {
        let pd_id = slot.pd.to_string();
        let books = dns.get(&slot.dn).and_then(|dn| dn.capacity.pds.iter().find(|p| p.pd_id == pd_id));
        (slot.pd, round_up(vd_bytes, books.map_or(0, |b| b.cluster_bytes)))
    };
    placement.sets.iter().flatten().map(bytes).collect()
}

impl Plan {
    async fn create(&self, tx: &Tx) -> Result<v1::Da, Abort<Refused>> {
        let taken = tx.get_speculative_absent(&DaKey(self.new.da_name.clone())).await?.map(|t| t.value);
        let mut seen = Seen::default();
        let mut dns = BTreeMap::new();
        for (dn, known) in &self.dns {
            let books = tx.get(&DnCapacityKey(*dn)).await?;
            let capacity = books.as_ref().map(|b| b.value.clone());
            dns.insert(*dn, da::Place { capacity, listener: known.listener.clone() });
            let books = books.map_or_else(|| (gone(&known.capacity), 0), |b| (b.value, b.revision));
            seen.dns.push((*dn, KnownDn { capacity: books.0, ..known.clone() }, books.1));
        }
        let cn = self.placement.cn;
        let books = tx.get(&CnCapacityKey(cn)).await?;
        let cn_place = da::Place {
            capacity: books.as_ref().map(|b| b.value.clone()),
            listener: self.cn.listener.clone(),
        };
        if let Some(books) = books {
            seen.cn = Some((cn, KnownCn { capacity: books.value, ..self.cn.clone() }, books.revision));
        }
        let view = da::CreateView { taken: taken.as_ref(), dns: &dns, cn: &cn_place };
        let decided = da::create(view, &self.new, &self.placement, &self.ids, self.now_ms);
        let decided = decided.and_then(|done| self.costs_no_more(&seen).map(|()| done));
        if let Ok((delta, _)) = &decided {
            apply(delta, tx);
            for (dn, known, _) in &mut seen.dns {
                known.capacity = tx.get(&DnCapacityKey(*dn)).await?.map(|c| c.value).unwrap_or_default();
            }
            if let Some((cn, known, _)) = &mut seen.cn {
                known.capacity = tx.get(&CnCapacityKey(*cn)).await?.map(|c| c.value).unwrap_or_default();
            }
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let (_, record) = decided.or_refuse()?;
        let status = Some(vda_model::view::plain(v1::Condition::Pending));
        Ok(v1::Da { spec: Some(record), status, ..v1::Da::default() })
    }

    /// Places chosen on old knowledge may fit, and yet take the last ones that other arrays need.
    fn costs_no_more(&self, seen: &Seen) -> Result<(), Error> {
        let Some(may_waste) = self.may_waste else { return Ok(()) };
        let candidates = dn_candidates(seen.dns.iter().map(|(dn, known, _)| (dn, known)));
        if allocator::cost(&self.new, &candidates, &self.placement).wasted <= may_waste {
            return Ok(());
        }
        Err(Error::PlacementStale { dns: self.dns.keys().copied().collect(), cns: Vec::new() })
    }
}

/// A DN that has vanished: nothing is placed on it until the watch has noticed too.
fn gone(books: &v1::DnCapacity) -> v1::DnCapacity {
    v1::DnCapacity { offline: true, ..books.clone() }
}
