//! What a report changes in etcd, as the body of one transaction: statuses that differ from the stored ones, the ends of deletions, the
//! books of a DN, the state of legs. The decisions are `vda_model`'s transitions.
//!
//! Rules that hold whoever else writes: a status never replaces one about a newer revision; `initialised` stays once it was stored; a leg's
//! state changes only by a report made knowing that state (see docs/adr/0005-mirror-membership.md).

use std::collections::{BTreeMap, BTreeSet};

use vda_model::Error;
use vda_model::delta::Node;
use vda_model::ids::{CnId, DaId, DnId, ExpId, PdId};
use vda_model::keys::{
    AnyKey, CnCapacityKey, CnSpecKey, CnStatusKey, CntlrSpecKey, CntlrStatusKey, DaTombstoneKey,
    DnCapacityKey, DnShareKey, DnSpecKey, DnStatusKey, ExpSpecKey, LegStateKey, PdSpecKey, ShareStatusKey,
};
use vda_model::transitions::{finish, leg, reported};
use vda_proto::SCHEMA_VERSION;
use vda_proto::v1::{
    CnStatus, CntlrSpec, CntlrStatus, Condition, DnCapacity, DnStatus, ResourceStatus, ShareStatus, VdStatus,
};
use vda_store::{Abort, KvError, OrAbort, Snapshot, Tx, Versioned};

use crate::boot;
use crate::desired::{exps_of, pds_of};
use crate::report::{ComponentStatus, NodeStatus};

/// What one transaction records about a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    /// Also the node's own status is to be recorded.
    pub(crate) node: Option<NodeEntry>,
    pub(crate) components: Vec<ComponentEntry>,
}

/// About the node itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeEntry {
    /// Whether its agent is reachable; `None`: not known yet, what is stored stands.
    pub(crate) agent: Option<ResourceStatus>,
    /// As the agent last reported it.
    pub(crate) reported: Option<NodeStatus>,
    /// Highest generation its agent is known to have accepted.
    pub(crate) generation: u64,
    /// PDs that may be at their end.
    pub(crate) pds: Vec<PdId>,
}

/// About a component.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ComponentEntry {
    pub(crate) da: DaId,
    pub(crate) status: ComponentStatus,
    /// EXPs of the array on this CN.
    pub(crate) exps: Vec<ExpId>,
}

impl ComponentEntry {
    pub(crate) fn new(snapshot: &Snapshot, node: Node, da: DaId, status: ComponentStatus) -> Self {
        let exps = match node {
            Node::Cn(cn) => exps_of(snapshot, cn, da),
            Node::Dn(_) => Vec::new(),
        };
        Self { da, status, exps }
    }
}

/// PDs of a node that are being deleted.
pub(crate) fn ending_pds(snapshot: &Snapshot, node: Node) -> Vec<PdId> {
    let Node::Dn(dn) = node else { return Vec::new() };
    let deleting =
        |pd: &PdId| snapshot.get(&PdSpecKey(dn, *pd)).ok().flatten().is_some_and(|spec| spec.value.deleting);
    pds_of(snapshot, dn).into_iter().filter(deleting).collect()
}

/// Whether the node itself, or a PD of it, is being deleted.
pub(crate) fn is_ending(snapshot: &Snapshot, node: Node) -> bool {
    let deleting = match node {
        Node::Dn(dn) => snapshot.get(&DnSpecKey(dn)).ok().flatten().is_some_and(|spec| spec.value.deleting),
        Node::Cn(cn) => snapshot.get(&CnSpecKey(cn)).ok().flatten().is_some_and(|spec| spec.value.deleting),
    };
    deleting || !ending_pds(snapshot, node).is_empty()
}

/// Whether recording this status may change anything. When in doubt, yes.
pub(crate) fn is_news(snapshot: &Snapshot, node: Node, da: DaId, status: &ComponentStatus) -> bool {
    match (node, status) {
        (Node::Dn(dn), ComponentStatus::Share(new)) => {
            let stored = snapshot.get(&ShareStatusKey(dn, da)).ok().flatten();
            new.gone || stored.is_none_or(|old| merge_share(Some(&old.value), new) != old.value)
        }
        (Node::Cn(cn), ComponentStatus::Cntlr(new)) => {
            let stored = snapshot.get(&CntlrStatusKey(cn, da)).ok().flatten();
            let legs_behind = || {
                let spec = snapshot.get(&CntlrSpecKey(cn, da)).ok().flatten();
                spec.is_none_or(|spec| {
                    new.legs.iter().any(|observed| {
                        let state = snapshot.get(&LegStateKey(da, observed.leg)).ok().flatten();
                        leg_change(&spec.value, state.as_ref(), new, observed.leg).is_some()
                    })
                })
            };
            let ended = new.gone || new.exps.iter().any(|exp| exp.gone);
            let stamped = CntlrStatus { schema_version: SCHEMA_VERSION, ..new.clone() };
            ended || stored.is_none_or(|old| old.value != stamped) || legs_behind()
        }
        _ => false,
    }
}

/// The keys that the transaction is going to read, as far as they are known beforehand.
pub(crate) fn reads(snapshot: &Snapshot, node: Node, entry: &Entry) -> Vec<AnyKey> {
    let mut keys = Vec::new();
    match node {
        Node::Dn(dn) => {
            for da in entry.components.iter().map(|c| c.da) {
                keys.extend([AnyKey::DnShare(dn, da), AnyKey::ShareStatus(dn, da), AnyKey::DaTombstone(da)]);
            }
            keys.extend([
                AnyKey::DnSpec(dn),
                AnyKey::DnStatus(dn),
                AnyKey::DnBoot(dn),
                AnyKey::DnCapacity(dn),
            ]);
            keys.extend(entry.node.iter().flat_map(|n| &n.pds).map(|pd| AnyKey::PdSpec(dn, *pd)));
        }
        Node::Cn(cn) => {
            for component in &entry.components {
                let da = component.da;
                keys.extend([
                    AnyKey::CntlrSpec(cn, da),
                    AnyKey::CntlrStatus(cn, da),
                    AnyKey::DaTombstone(da),
                ]);
                keys.extend(component.exps.iter().map(|exp| AnyKey::ExpSpec(cn, da, *exp)));
                if let Ok(Some(spec)) = snapshot.get(&CntlrSpecKey(cn, da)) {
                    keys.extend(spec.value.legs.iter().map(|leg| AnyKey::LegState(da, leg.leg)));
                }
            }
            keys.extend([AnyKey::CnSpec(cn), AnyKey::CnStatus(cn), AnyKey::CnCapacity(cn)]);
        }
    }
    keys
}

/// The body of the transaction.
pub(crate) async fn record(tx: Tx, node: Node, entry: &Entry) -> Result<(), Abort<Error>> {
    for component in &entry.components {
        match (node, &component.status) {
            (Node::Dn(dn), ComponentStatus::Share(status)) => {
                record_share(&tx, dn, component.da, status).await?
            }
            (Node::Cn(cn), ComponentStatus::Cntlr(status)) => {
                record_cntlr(&tx, cn, component, status).await?
            }
            _ => {}
        }
    }
    match (node, &entry.node) {
        (Node::Dn(dn), Some(entry)) => record_dn(&tx, dn, entry).await,
        (Node::Cn(cn), Some(entry)) => record_cn(&tx, cn, entry).await,
        (_, None) => Ok(()),
    }
}

async fn record_share(tx: &Tx, dn: DnId, da: DaId, new: &ShareStatus) -> Result<(), Abort<Error>> {
    let key = ShareStatusKey(dn, da);
    let Some(share) = tx.get(&DnShareKey(dn, da)).await? else {
        // Its end is recorded already; a status would outlive it.
        return Ok(());
    };
    let stored = tx.get(&key).await?.map(|s| s.value);
    if stored.as_ref().is_some_and(|old| old.observed_revision > new.observed_revision) {
        return Ok(());
    }
    if share.value.deleting && new.gone {
        let capacity = dn_capacity(tx, dn).await?;
        let tombstone = tx.get(&DaTombstoneKey(da)).await?.map(|t| t.value);
        let (status, tombstone) = (Some(new), tombstone.as_ref());
        let view = finish::ShareView {
            dn,
            da,
            share: &share,
            status,
            capacity: &capacity,
            tombstone,
            forced: false,
        };
        if let Some(delta) = finish::share(view).or_abort()? {
            tx.apply(&delta);
            return Ok(());
        }
    }
    let merged = merge_share(stored.as_ref(), new);
    if stored.as_ref() != Some(&merged) {
        tx.put(&key, &merged);
    }
    Ok(())
}

async fn dn_capacity(tx: &Tx, dn: DnId) -> Result<DnCapacity, KvError> {
    Ok(tx.get(&DnCapacityKey(dn)).await?.map(|c| c.value).unwrap_or_default())
}

/// `initialised` stays, also of VDs that an agent which lost its memory does not list.
fn merge_share(old: Option<&ShareStatus>, new: &ShareStatus) -> ShareStatus {
    let mut merged = ShareStatus { schema_version: SCHEMA_VERSION, ..new.clone() };
    for was in old.iter().flat_map(|old| &old.vds).filter(|vd| vd.initialised) {
        match merged.vds.iter_mut().find(|vd| vd.vd_id == was.vd_id) {
            Some(vd) => vd.initialised = true,
            None => merged.vds.push(was.clone()),
        }
    }
    merged
}

async fn record_cntlr(
    tx: &Tx,
    cn: CnId,
    entry: &ComponentEntry,
    new: &CntlrStatus,
) -> Result<(), Abort<Error>> {
    let (da, key) = (entry.da, CntlrStatusKey(cn, entry.da));
    let Some(spec) = tx.get(&CntlrSpecKey(cn, da)).await? else { return Ok(()) };
    let stored = tx.get(&key).await?.map(|s| s.value);
    if stored.as_ref().is_some_and(|old| old.observed_revision > new.observed_revision) {
        return Ok(());
    }
    if spec.value.deleting && new.gone && finish_cntlr(tx, cn, entry, &spec, new).await? {
        return Ok(());
    }
    let merged = CntlrStatus { schema_version: SCHEMA_VERSION, ..new.clone() };
    if stored.as_ref() != Some(&merged) {
        tx.put(&key, &merged);
    }
    finish_exps(tx, cn, entry, &spec, new).await?;
    record_legs(tx, cn, da, &spec.value, new).await
}

async fn finish_cntlr(
    tx: &Tx,
    cn: CnId,
    entry: &ComponentEntry,
    spec: &Versioned<CntlrSpec>,
    status: &CntlrStatus,
) -> Result<bool, Abort<Error>> {
    let mut exps = Vec::new();
    for exp in &entry.exps {
        if let Some(found) = tx.get(&ExpSpecKey(cn, entry.da, *exp)).await? {
            exps.push((*exp, found.revision));
        }
    }
    let capacity = tx.get(&CnCapacityKey(cn)).await?.map(|c| c.value).unwrap_or_default();
    let tombstone = tx.get(&DaTombstoneKey(entry.da)).await?.map(|t| t.value);
    let view = finish::CntlrView {
        cn,
        da: entry.da,
        spec,
        exps: &exps,
        status: Some(status),
        capacity: &capacity,
        tombstone: tombstone.as_ref(),
        forced: false,
    };
    let delta = finish::cntlr(view).or_abort()?;
    if let Some(delta) = &delta {
        tx.apply(delta);
    }
    Ok(delta.is_some())
}

async fn finish_exps(
    tx: &Tx,
    cn: CnId,
    entry: &ComponentEntry,
    spec: &Versioned<CntlrSpec>,
    status: &CntlrStatus,
) -> Result<(), Abort<Error>> {
    let mut ended = false;
    for exp in &entry.exps {
        let Some(found) = tx.get(&ExpSpecKey(cn, entry.da, *exp)).await? else { continue };
        if let Some(delta) = finish::exp(cn, entry.da, *exp, &found, Some(status), false) {
            tx.apply(&delta);
            ended = true;
        }
    }
    if ended {
        // The revision of what the agent is told is the highest of its records. Without this it would fall, and the agent, which never goes
        // back to an older revision, would not learn that the EXP is no longer listed.
        tx.put(&CntlrSpecKey(cn, entry.da), &spec.value);
    }
    Ok(())
}

async fn record_legs(
    tx: &Tx,
    cn: CnId,
    da: DaId,
    spec: &CntlrSpec,
    status: &CntlrStatus,
) -> Result<(), Abort<Error>> {
    for observed in &status.legs {
        let state = tx.get(&LegStateKey(da, observed.leg)).await?;
        let spec = if observed.needs_election { &by_seniority(tx, da, spec).await? } else { spec };
        if let Some(new) = leg_change(spec, state.as_ref(), status, observed.leg) {
            let delta = leg::store(cn, da, state.as_ref().map(|s| &s.value), new).or_abort()?;
            tx.apply(&delta);
        }
    }
    Ok(())
}

/// The same with the members of each set in the order in which they are to be elected: those whose VDs have been READY for longest come first. A
/// member that was lost because its DN or its data plane restarted lacks what was written meanwhile, and if the controller died before it could
/// report the loss, this is the only trace of it.
async fn by_seniority(tx: &Tx, da: DaId, spec: &CntlrSpec) -> Result<CntlrSpec, KvError> {
    let mut spec = spec.clone();
    let mut since: BTreeMap<String, i64> = BTreeMap::new();
    let sets = || spec.legs.iter().flat_map(|l| &l.groups).flat_map(|g| &g.sets);
    let dns: BTreeSet<DnId> = sets().flat_map(|s| &s.members).filter_map(|m| m.dn_id.parse().ok()).collect();
    for dn in dns {
        let Some(share) = tx.get(&ShareStatusKey(dn, da)).await? else { continue };
        let ready = |vd: VdStatus| {
            let status = vd.status.filter(|s| s.condition() == Condition::Ready)?;
            Some((vd.vd_id, status.since_ms))
        };
        since.extend(share.value.vds.into_iter().filter_map(ready));
    }
    for set in spec.legs.iter_mut().flat_map(|l| &mut l.groups).flat_map(|g| &mut g.sets) {
        // Stable: without evidence the order of the record stands.
        set.members.sort_by_key(|member| since.get(&member.vd_id).copied().unwrap_or(i64::MAX));
    }
    Ok(spec)
}

/// What a controller's report changes in the state of one of its legs. A report made before the agent knew the present state says nothing about
/// it: a report delayed since before an election must not bring back the members that lost it.
fn leg_change(
    spec: &CntlrSpec,
    state: Option<&Versioned<vda_proto::v1::LegState>>,
    status: &CntlrStatus,
    leg: u32,
) -> Option<vda_proto::v1::LegState> {
    let knows_it = state.is_none_or(|state| state.revision > 0 && status.observed_revision >= state.revision);
    if !knows_it || !spec.primary || spec.deleting {
        return None;
    }
    let of = spec.legs.iter().find(|l| l.leg == leg)?;
    let observed = status.legs.iter().find(|l| l.leg == leg)?;
    leg::observe(state.map(|s| &s.value), &spec.da_id, of, observed)
}

async fn record_dn(tx: &Tx, dn: DnId, entry: &NodeEntry) -> Result<(), Abort<Error>> {
    let Some(spec) = tx.get(&DnSpecKey(dn)).await? else { return Ok(()) };
    let stored = tx.get(&DnStatusKey(dn)).await?.map(|s| s.value);
    let mut capacity = dn_capacity(tx, dn).await?;
    let reported = match &entry.reported {
        Some(NodeStatus::Dn(reported)) => Some(reported),
        _ => None,
    };
    if let Some(delta) = reported.and_then(|reported| reported::capacity(dn, &capacity, reported)) {
        tx.apply(&delta);
        capacity = dn_capacity(tx, dn).await?;
    }
    // What the agent says now, not what is kept of what it said before.
    let observed_generation = stored.as_ref().map_or(0, |s| s.observed_generation).max(entry.generation);
    let said = reported.map(|r| DnStatus { observed_generation, ..r.clone() });
    for pd in &entry.pds {
        let Some(spec) = tx.get(&PdSpecKey(dn, *pd)).await? else { continue };
        if let Some(delta) = finish::pd(dn, *pd, &spec, &capacity, said.as_ref(), false).or_abort()? {
            tx.apply(&delta);
            capacity = dn_capacity(tx, dn).await?;
        }
    }
    let merged = merge_dn(dn, stored.as_ref(), reported, entry, &capacity);
    if stored.as_ref() != Some(&merged) {
        tx.put(&DnStatusKey(dn), &merged);
    }
    if let Some(boot) = reported.and_then(|reported| reported.boot.parse().ok()) {
        boot::record(tx, dn, boot).await?;
    }
    if let Some(delta) = finish::dn(dn, &spec, &capacity, said.as_ref(), false) {
        tx.apply(&delta);
    }
    Ok(())
}

/// The status to store. PDs of the books that the agent does not list keep what is known of them.
fn merge_dn(
    dn: DnId,
    old: Option<&DnStatus>,
    reported: Option<&DnStatus>,
    entry: &NodeEntry,
    capacity: &DnCapacity,
) -> DnStatus {
    let old = old.cloned().unwrap_or_default();
    let mut merged = reported.cloned().unwrap_or_else(|| old.clone());
    merged.schema_version = SCHEMA_VERSION;
    merged.dn_id = dn.to_string();
    merged.agent = entry.agent.clone().or_else(|| old.agent.clone());
    merged.observed_generation = entry.generation.max(old.observed_generation);
    for was in &old.pds {
        match merged.pds.iter_mut().find(|pd| pd.pd_id == was.pd_id) {
            Some(pd) => pd.initialised |= was.initialised,
            None => merged.pds.push(was.clone()),
        }
    }
    merged.pds.retain(|pd| capacity.pds.iter().any(|known| known.pd_id == pd.pd_id));
    merged
}

async fn record_cn(tx: &Tx, cn: CnId, entry: &NodeEntry) -> Result<(), Abort<Error>> {
    let Some(spec) = tx.get(&CnSpecKey(cn)).await? else { return Ok(()) };
    let stored = tx.get(&CnStatusKey(cn)).await?.map(|s| s.value);
    let old = stored.clone().unwrap_or_default();
    let reported = match &entry.reported {
        Some(NodeStatus::Cn(reported)) => Some(reported),
        _ => None,
    };
    let merged = CnStatus {
        schema_version: SCHEMA_VERSION,
        cn_id: cn.to_string(),
        observed_generation: entry.generation.max(old.observed_generation),
        agent: entry.agent.clone().or(old.agent),
        target: reported.map_or(old.target, |r| r.target.clone()),
    };
    if stored.as_ref() != Some(&merged) {
        tx.put(&CnStatusKey(cn), &merged);
    }
    let capacity = tx.get(&CnCapacityKey(cn)).await?.map(|c| c.value).unwrap_or_default();
    if let Some(delta) = finish::cn(cn, &spec, &capacity, Some(&merged), false) {
        tx.apply(&delta);
    }
    Ok(())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
