//! What to tell an agent, from a snapshot of etcd. Pure.
//!
//! A record that cannot be decoded withholds the whole request: leaving it out would mean that it is not wanted.

use std::collections::BTreeSet;

use vda_model::delta::Node;
use vda_model::ids::{BootId, CnId, DaId, DnId, ExpId, PdId};
use vda_model::keys::{
    AnyKey, CnGenKey, CnSpecKey, CnStatusKey, CntlrSpecKey, CntlrStatusKey, DnBootKey, DnGenKey, DnShareKey,
    DnSpecKey, DnStatusKey, ExpSpecKey, Key, LegStateKey, PdSpecKey, ShareStatusKey,
};
use vda_model::names::OwnedName;
use vda_proto::v1::{
    CnSyncRequest, CntlrSync, Condition, DnSyncRequest, Member, PdSync, ResourceStatus, ShareSync,
};
use vda_store::{KvError, Snapshot};

use crate::agent::SyncRequest;

/// How much to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Full,
    /// What changed on top of generation `base`.
    Delta { base: u64, das: BTreeSet<DaId> },
}

/// A request, and what it leaves untold for now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Built {
    pub(crate) request: SyncRequest,
    pub(crate) generation: u64,
    /// Deletions that must wait for the controller.
    pub(crate) held: BTreeSet<DaId>,
    /// It says nothing but the generation.
    pub(crate) empty: bool,
}

/// `mod_revision` of the node's generation key; 0: it has none.
pub(crate) fn generation(snapshot: &Snapshot, node: Node) -> u64 {
    match node {
        Node::Dn(dn) => snapshot.revision_of(&DnGenKey(dn).any()),
        Node::Cn(cn) => snapshot.revision_of(&CnGenKey(cn).any()),
    }
}

/// The id of the request that raised the node's generation last, if a request did.
pub(crate) fn origin(snapshot: &Snapshot, node: Node) -> Option<String> {
    let key = match node {
        Node::Dn(dn) => DnGenKey(dn).any(),
        Node::Cn(cn) => CnGenKey(cn).any(),
    };
    snapshot.raw(&key)?.origin().map(str::to_owned)
}

/// The request for a node; `None`: the node is not in etcd.
///
/// # Errors
/// [`KvError::Corrupt`].
pub(crate) fn build(
    snapshot: &Snapshot,
    node: Node,
    extent: &Extent,
    retry: &BTreeSet<DaId>,
) -> Result<Option<Built>, KvError> {
    match node {
        Node::Dn(dn) => build_dn(snapshot, dn, extent, retry),
        Node::Cn(cn) => build_cn(snapshot, cn, extent, retry),
    }
}

fn base_of(extent: &Extent) -> (bool, u64) {
    match extent {
        Extent::Full => (true, 0),
        Extent::Delta { base, .. } => (false, *base),
    }
}

fn ids(das: &BTreeSet<DaId>) -> Vec<String> {
    das.iter().map(ToString::to_string).collect()
}

fn build_dn(
    snapshot: &Snapshot,
    dn: DnId,
    extent: &Extent,
    retry: &BTreeSet<DaId>,
) -> Result<Option<Built>, KvError> {
    let Some(spec) = snapshot.get(&DnSpecKey(dn))? else { return Ok(None) };
    let generation = generation(snapshot, Node::Dn(dn));
    let (full, base_generation) = base_of(extent);
    let das = match extent {
        Extent::Full => shares_of(snapshot, dn),
        Extent::Delta { das, .. } => das.clone(),
    };
    let (mut shares, mut removed, mut held) = (Vec::new(), Vec::new(), BTreeSet::new());
    for da in das {
        match share(snapshot, dn, da)? {
            None => removed.push(da.to_string()),
            Some((told, waits)) => {
                if waits {
                    held.insert(da);
                }
                // A delta leaves the agent with what it has; in a full list it must be there, as if it were not deleted.
                if full || !waits {
                    shares.push(told);
                }
            }
        }
    }
    let empty = !full && shares.is_empty() && removed.is_empty() && retry.is_empty();
    let request = DnSyncRequest {
        generation,
        full,
        base_generation,
        node: Some(spec.value),
        pds: pds(snapshot, dn)?,
        shares,
        removed_da_ids: removed,
        retry_da_ids: ids(retry),
    };
    Ok(Some(Built { request: SyncRequest::Dn(Box::new(request)), generation, held, empty }))
}

/// The arrays with a share on a DN.
pub(crate) fn shares_of(snapshot: &Snapshot, dn: DnId) -> BTreeSet<DaId> {
    let (first, last) = (DnShareKey(dn, DaId::new(0)), DnShareKey(dn, DaId::new(u64::MAX)));
    let das = snapshot.range(first.any(), last.any()).filter_map(|(key, _)| match key {
        AnyKey::DnShare(_, da) => Some(*da),
        _ => None,
    });
    das.collect()
}

/// The PDs of a DN.
pub(crate) fn pds_of(snapshot: &Snapshot, dn: DnId) -> Vec<PdId> {
    let (first, last) = (PdSpecKey(dn, PdId::new(0)), PdSpecKey(dn, PdId::new(u64::MAX)));
    let pds = snapshot.range(first.any(), last.any()).filter_map(|(key, _)| match key {
        AnyKey::PdSpec(_, pd) => Some(*pd),
        _ => None,
    });
    pds.collect()
}

fn pds(snapshot: &Snapshot, dn: DnId) -> Result<Vec<PdSync>, KvError> {
    let status = snapshot.get(&DnStatusKey(dn))?.map(|s| s.value).unwrap_or_default();
    let initialised = |pd: &str| status.pds.iter().any(|p| p.pd_id == pd && p.initialised);
    let mut told = Vec::new();
    for pd in pds_of(snapshot, dn) {
        let Some(spec) = snapshot.get(&PdSpecKey(dn, pd))? else { continue };
        let initialised = initialised(&spec.value.pd_id);
        told.push(PdSync { spec: Some(spec.value), revision: spec.revision, initialised });
    }
    Ok(told)
}

/// A share as its DN is to be told, and whether its deletion is being held back.
fn share(snapshot: &Snapshot, dn: DnId, da: DaId) -> Result<Option<(ShareSync, bool)>, KvError> {
    let Some(stored) = snapshot.get(&DnShareKey(dn, da))? else { return Ok(None) };
    let (mut spec, revision) = (stored.value, stored.revision);
    let waits = spec.deleting && !controller_is_off(snapshot, &spec.cn_id, da)?;
    if waits {
        spec.deleting = false;
    }
    let status = snapshot.get(&ShareStatusKey(dn, da))?.map(|s| s.value).unwrap_or_default();
    let initialised_vd_ids = status.vds.into_iter().filter(|vd| vd.initialised).map(|vd| vd.vd_id).collect();
    Ok(Some((ShareSync { spec: Some(spec), revision, initialised_vd_ids }, waits)))
}

/// Whether the controller of a deleted array has let go of its VDs, or is in no position to say so. (The DN removes the admitted host before it
/// removes a VD, so that a controller which was only cut off from us loses access first.)
pub(crate) fn controller_is_off(snapshot: &Snapshot, cn_id: &str, da: DaId) -> Result<bool, KvError> {
    let Ok(cn) = cn_id.parse::<CnId>() else { return Ok(true) };
    if snapshot.raw(&CnSpecKey(cn).any()).is_none() {
        return Ok(true);
    }
    let revision = snapshot.revision_of(&CntlrSpecKey(cn, da).any());
    if revision == 0 {
        return Ok(true);
    }
    let told = snapshot.get(&CntlrStatusKey(cn, da))?;
    if told.is_some_and(|s| s.value.gone && s.value.observed_revision >= revision) {
        return Ok(true);
    }
    let node = snapshot.get(&CnStatusKey(cn))?.map(|s| s.value).unwrap_or_default();
    Ok(!(is_ready(node.agent.as_ref()) && is_ready(node.target.as_ref())))
}

fn is_ready(status: Option<&ResourceStatus>) -> bool {
    status.is_some_and(|s| s.condition() == Condition::Ready)
}

fn build_cn(
    snapshot: &Snapshot,
    cn: CnId,
    extent: &Extent,
    retry: &BTreeSet<DaId>,
) -> Result<Option<Built>, KvError> {
    let Some(spec) = snapshot.get(&CnSpecKey(cn))? else { return Ok(None) };
    let generation = generation(snapshot, Node::Cn(cn));
    let (full, base_generation) = base_of(extent);
    let das = match extent {
        Extent::Full => cntlrs_of(snapshot, cn),
        Extent::Delta { das, .. } => das.clone(),
    };
    let (mut cntlrs, mut removed) = (Vec::new(), Vec::new());
    for da in das {
        match cntlr(snapshot, cn, da)? {
            Some(told) => cntlrs.push(told),
            None => removed.push(da.to_string()),
        }
    }
    let empty = !full && cntlrs.is_empty() && removed.is_empty() && retry.is_empty();
    let request = CnSyncRequest {
        generation,
        full,
        base_generation,
        node: Some(spec.value),
        cntlrs,
        removed_da_ids: removed,
        retry_da_ids: ids(retry),
    };
    let request = SyncRequest::Cn(Box::new(request));
    Ok(Some(Built { request, generation, held: BTreeSet::new(), empty }))
}

/// The arrays with a controller on a CN.
pub(crate) fn cntlrs_of(snapshot: &Snapshot, cn: CnId) -> BTreeSet<DaId> {
    let (first, last) = (CntlrSpecKey(cn, DaId::new(0)), CntlrSpecKey(cn, DaId::new(u64::MAX)));
    let das = snapshot.range(first.any(), last.any()).filter_map(|(key, _)| match key {
        AnyKey::CntlrSpec(_, da) => Some(*da),
        _ => None,
    });
    das.collect()
}

/// The EXPs of an array on a CN, tombstones included.
pub(crate) fn exps_of(snapshot: &Snapshot, cn: CnId, da: DaId) -> Vec<ExpId> {
    let (first, last) = (ExpSpecKey(cn, da, ExpId::new(0)), ExpSpecKey(cn, da, ExpId::new(u64::MAX)));
    let exps = snapshot.range(first.any(), last.any()).filter_map(|(key, _)| match key {
        AnyKey::ExpSpec(_, _, exp) => Some(*exp),
        _ => None,
    });
    exps.collect()
}

fn cntlr(snapshot: &Snapshot, cn: CnId, da: DaId) -> Result<Option<CntlrSync>, KvError> {
    let Some(mut spec) = snapshot.get(&CntlrSpecKey(cn, da))? else { return Ok(None) };
    let mut revision = spec.revision;
    let mut exps = Vec::new();
    for exp in exps_of(snapshot, cn, da) {
        if let Some(found) = snapshot.get(&ExpSpecKey(cn, da, exp))? {
            revision = revision.max(found.revision);
            exps.push(found.value);
        }
    }
    let mut legs = Vec::new();
    for leg in &spec.value.legs {
        if let Some(found) = snapshot.get(&LegStateKey(da, leg.leg))? {
            revision = revision.max(found.revision);
            legs.push(found.value);
        }
    }
    let sets = spec.value.legs.iter_mut().flat_map(|leg| &mut leg.groups).flat_map(|group| &mut group.sets);
    for member in sets.filter(|set| set.members.len() > 1).flat_map(|set| &mut set.members) {
        revision = revision.max(name_by_boot(snapshot, member)?);
    }
    Ok(Some(CntlrSync { spec: Some(spec.value), exps, revision, legs }))
}

/// Gives a mirrored member the name that it has since its node was started last; none while that is not known. Answers the revision of that
/// knowledge: an agent never goes back to an older name.
fn name_by_boot(snapshot: &Snapshot, member: &mut Member) -> Result<u64, KvError> {
    let known = match member.dn_id.parse() {
        Ok(dn) => snapshot.get(&DnBootKey(dn))?,
        Err(_) => None,
    };
    let (boot, revision) = known.map_or((None, 0), |known| (known.value.boot.parse().ok(), known.revision));
    let named =
        |boot: BootId| member.vd_id.parse().ok().map(|vd| OwnedName::VdSubsystem(vd, Some(boot)).to_string());
    member.nqn = boot.and_then(named).unwrap_or_default();
    Ok(revision)
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
