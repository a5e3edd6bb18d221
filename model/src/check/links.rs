//! Every record has the records it depends on, and says the same as they do.

use std::collections::{BTreeMap, BTreeSet};

use vda_proto::v1;

use super::Findings;
use crate::{
    defaults::MAX_DNS_PER_DA,
    ids::{CnId, DaId, DnId},
    keys::{
        AnyKey, CnCapacityKey, CnNameKey, CnSpecKey, CntlrSpecKey, CntlrStatusKey, DaKey, DaTombstoneKey,
        DnCapacityKey, DnNameKey, DnShareKey, DnSpecKey, ExpSpecKey, Key, LegStateKey, PdSpecKey,
        ShareStatusKey,
    },
    snapshot::Snapshot,
    transitions::derived,
};

/// Nodes, their indexes, and what lies below a node that does not exist.
pub(crate) fn nodes(snapshot: &Snapshot, findings: &mut Findings) {
    for (key, spec) in snapshot.all::<DnSpecKey>() {
        let index = snapshot.get(&DnNameKey(spec.value.address.clone()));
        let indexed = index.is_some_and(|i| i.value.id == key.0.to_string());
        findings.require(indexed, key.any(), || "its address is not in the index".into());
        findings.require(snapshot.get(&DnCapacityKey(key.0)).is_some(), key.any(), || "has no books".into());
    }
    for (key, spec) in snapshot.all::<CnSpecKey>() {
        let index = snapshot.get(&CnNameKey(spec.value.address.clone()));
        let indexed = index.is_some_and(|i| i.value.id == key.0.to_string());
        findings.require(indexed, key.any(), || "its address is not in the index".into());
        findings.require(snapshot.get(&CnCapacityKey(key.0)).is_some(), key.any(), || "has no books".into());
    }
    for (key, index) in snapshot.all::<DnNameKey>() {
        let spec = index.value.id.parse().ok().and_then(|id| snapshot.get(&DnSpecKey(id)));
        findings.require(spec.is_some_and(|s| s.value.address == key.0), key.any(), || {
            "index of a DN that does not exist".into()
        });
    }
    for (key, index) in snapshot.all::<CnNameKey>() {
        let spec = index.value.id.parse().ok().and_then(|id| snapshot.get(&CnSpecKey(id)));
        findings.require(spec.is_some_and(|s| s.value.address == key.0), key.any(), || {
            "index of a CN that does not exist".into()
        });
    }
    orphans(snapshot, findings);
}

fn orphans(snapshot: &Snapshot, findings: &mut Findings) {
    let has_dn = |dn: &DnId| snapshot.get(&DnSpecKey(*dn)).is_some();
    let has_cn = |cn: &CnId| snapshot.get(&CnSpecKey(*cn)).is_some();
    for key in snapshot.keys() {
        let exists = match key {
            AnyKey::DnGen(dn) | AnyKey::PdSpec(dn, _) | AnyKey::DnShare(dn, _) => has_dn(dn),
            AnyKey::CnGen(cn) | AnyKey::CntlrSpec(cn, _) | AnyKey::ExpSpec(cn, ..) => has_cn(cn),
            // A status may come in while its record is being removed; its monitor cleans up.
            _ => true,
        };
        findings.require(exists, key, || "belongs to a node that does not exist".into());
    }
    for (key, _) in snapshot.all::<PdSpecKey>() {
        let books = snapshot.get(&DnCapacityKey(key.0)).map(|b| b.value.pds).unwrap_or_default();
        let booked = books.iter().any(|p| p.pd_id == key.1.to_string());
        findings.require(booked, key.any(), || "is not in the books of its DN".into());
    }
}

/// DAs: what the nodes are told is what the record says, and mirrors are apart.
pub(crate) fn arrays(snapshot: &Snapshot, findings: &mut Findings) {
    for (key, record) in snapshot.all::<DaKey>() {
        let (at, record) = (key.any(), record.value);
        findings.require(record.da_name == key.0, &at, || "its name is not its key's".into());
        if let Err(error) = array(snapshot, &record, &at, findings) {
            findings.add(&at, error.to_string());
        }
    }
}

fn array(
    snapshot: &Snapshot,
    record: &v1::DaRecord,
    at: &AnyKey,
    findings: &mut Findings,
) -> Result<(), crate::Error> {
    let da = derived::da_id(record)?;
    let shares = derived::shares(record)?;
    findings.require(shares.len() <= MAX_DNS_PER_DA, at, || format!("is on {} DNs", shares.len()));
    for (dn, share) in shares {
        let stored = snapshot.get(&DnShareKey(dn, da)).map(|s| s.value);
        findings.require(stored == Some(share), at, || format!("its share on DN {dn} is missing or differs"));
    }
    for (cn, place) in derived::cns(record)? {
        let stored = snapshot.get(&CntlrSpecKey(cn, da)).map(|s| s.value);
        let same = stored == Some(derived::cntlr_spec(record, place));
        findings.require(same, at, || format!("its controller on CN {cn} is missing or differs"));
        for exp in &record.exps {
            let wanted = derived::exp_spec(record, exp, place)?;
            let id = derived::id(record, &exp.exp_id)?;
            let stored = snapshot.get(&ExpSpecKey(cn, da, id)).map(|s| s.value);
            findings.require(stored == Some(wanted), at, || {
                format!("its EXP {} on CN {cn} is missing or differs", exp.exp_name)
            });
        }
    }
    mirrors(snapshot, record, at, findings);
    Ok(())
}

fn mirrors(snapshot: &Snapshot, record: &v1::DaRecord, at: &AnyKey, findings: &mut Findings) {
    for set in record.legs.iter().flat_map(|l| &l.groups).flat_map(|g| &g.sets) {
        let location = |m: &v1::Member| {
            let spec = m.dn_id.parse().ok().and_then(|id| snapshot.get(&DnSpecKey(id)));
            spec.map(|s| s.value.location)
                .filter(|l| !l.is_empty())
                .unwrap_or_else(|| format!("dn {}", m.dn_id))
        };
        let locations: BTreeSet<String> = set.members.iter().map(location).collect();
        findings.require(locations.len() == set.members.len(), at, || {
            format!("replicas of stripe {} share a location", set.stripe)
        });
    }
}

fn live_arrays(snapshot: &Snapshot) -> BTreeMap<String, v1::DaRecord> {
    snapshot.all::<DaKey>().map(|(_, record)| (record.value.da_id.clone(), record.value)).collect()
}

/// What is on nodes belongs to a DA, or is a tombstone that the DA's tombstone lists; and the other way round.
pub(crate) fn tombstones(snapshot: &Snapshot, findings: &mut Findings) {
    let live = live_arrays(snapshot);
    let traced = |da: DaId| snapshot.get(&DaTombstoneKey(da)).map(|t| t.value);
    for (key, share) in snapshot.all::<DnShareKey>() {
        let dn = key.0.to_string();
        let ok = match (share.value.deleting, live.get(&key.1.to_string())) {
            (false, Some(record)) => derived::members(record).any(|(.., m)| m.dn_id == dn),
            (true, None) => traced(key.1).is_some_and(|t| t.dn_ids.contains(&dn)),
            _ => false,
        };
        findings.require(ok, key.any(), || "is neither part of a DA nor its listed tombstone".into());
    }
    for (key, cntlr) in snapshot.all::<CntlrSpecKey>() {
        let cn = key.0.to_string();
        let ok = match (cntlr.value.deleting, live.get(&key.1.to_string())) {
            (false, Some(record)) => record.cntlrs.iter().any(|c| c.cn_id == cn),
            (true, None) => traced(key.1).is_some_and(|t| t.cn_ids.contains(&cn)),
            _ => false,
        };
        findings.require(ok, key.any(), || "is neither part of a DA nor its listed tombstone".into());
    }
    for (key, exp) in snapshot.all::<ExpSpecKey>() {
        let listed = live
            .get(&key.1.to_string())
            .is_some_and(|r| r.exps.iter().any(|e| e.exp_id == key.2.to_string()));
        findings.require(listed != exp.value.deleting, key.any(), || {
            "is neither an EXP of a DA nor a tombstone".into()
        });
        let carried = snapshot.get(&CntlrSpecKey(key.0, key.1)).is_some();
        findings.require(carried, key.any(), || "is on a CN without the DA's controller".into());
    }
    for (key, tombstone) in snapshot.all::<DaTombstoneKey>() {
        listed(snapshot, key.0, &tombstone.value, &live, findings);
    }
}

fn listed(
    snapshot: &Snapshot,
    da: DaId,
    tombstone: &v1::DaTombstone,
    live: &BTreeMap<String, v1::DaRecord>,
    findings: &mut Findings,
) {
    let at = DaTombstoneKey(da).any();
    findings.require(!live.contains_key(&da.to_string()), &at, || "tombstone of a DA that lives".into());
    let empty = tombstone.dn_ids.is_empty() && tombstone.cn_ids.is_empty();
    findings.require(!empty, &at, || "lists no node".into());
    for dn in &tombstone.dn_ids {
        let share = dn.parse().ok().and_then(|dn| snapshot.get(&DnShareKey(dn, da)));
        findings.require(share.is_some_and(|s| s.value.deleting), &at, || {
            format!("lists DN {dn}, which has no share of it")
        });
    }
    for cn in &tombstone.cn_ids {
        let cntlr = cn.parse().ok().and_then(|cn| snapshot.get(&CntlrSpecKey(cn, da)));
        findings.require(cntlr.is_some_and(|c| c.value.deleting), &at, || {
            format!("lists CN {cn}, which has no controller of it")
        });
    }
}

/// Leg states belong to a controller and name its members only.
pub(crate) fn legs(snapshot: &Snapshot, findings: &mut Findings) {
    let mut specs: BTreeMap<(DaId, u32), v1::LegSpec> = BTreeMap::new();
    for (key, cntlr) in snapshot.all::<CntlrSpecKey>() {
        specs.extend(cntlr.value.legs.into_iter().map(|leg| ((key.1, leg.leg), leg)));
    }
    for (key, state) in snapshot.all::<LegStateKey>() {
        let (at, state) = (key.any(), state.value);
        let Some(spec) = specs.get(&(key.0, key.1)) else {
            findings.add(&at, "state of a leg that no controller has");
            continue;
        };
        let members: BTreeSet<&String> =
            spec.groups.iter().flat_map(|g| &g.sets).flat_map(|s| &s.members).map(|m| &m.vd_id).collect();
        let strangers = state.in_sync.iter().filter(|vd| !members.contains(vd)).count();
        findings
            .require(strangers == 0, &at, || format!("{strangers} of in_sync are not members of the leg"));
        for set in spec.groups.iter().flat_map(|g| &g.sets).filter(|_| state.initialised) {
            let alive = set.members.iter().any(|m| state.in_sync.contains(&m.vd_id));
            findings.require(alive, &at, || format!("stripe {} has no member in sync", set.stripe));
        }
    }
    statuses(snapshot, findings);
}

/// A status of a share or controller that is gone would block a later one of the same id from being believed.
fn statuses(snapshot: &Snapshot, findings: &mut Findings) {
    for (key, status) in snapshot.all::<ShareStatusKey>() {
        let live = !status.value.gone || snapshot.get(&DnShareKey(key.0, key.1)).is_some();
        findings.require(live, key.any(), || "left behind".into());
    }
    for (key, status) in snapshot.all::<CntlrStatusKey>() {
        let live = !status.value.gone || snapshot.get(&CntlrSpecKey(key.0, key.1)).is_some();
        findings.require(live, key.any(), || "left behind".into());
    }
}
