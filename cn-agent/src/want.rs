//! Desired state as the agent uses it: parsed once, when it arrives.

use std::collections::{BTreeMap, BTreeSet};

use vda_model::ids::{DaId, VdId};
use vda_model::names::SetPosition;
use vda_proto::v1::{
    CnSyncRequest, CntlrSync, ExpSpec, GroupSpec, LegSpec, LegState, Member, MirrorSet, NvmfListener,
};
use vda_reconcile::parts::lvol::Limits;
use vda_reconcile::{Offer, Target, Wanted, settings};
use vda_spdk::{AnaState, ListenAddress, Uuid};

use crate::driver::ControllerNode;
use crate::resources::Key;

/// A desired state that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadSpec {
    /// Path of the field.
    pub field: String,
    /// What it holds, and what is allowed.
    pub problem: String,
}

fn bad(field: impl Into<String>, problem: impl ToString) -> BadSpec {
    BadSpec { field: field.into(), problem: problem.to_string() }
}

impl BadSpec {
    fn within(self, path: impl std::fmt::Display) -> Self {
        Self { field: format!("{path}.{}", self.field), ..self }
    }
}

/// A DA's controller on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    pub da_name: String,
    pub primary: bool,
    pub deleting: bool,
    pub volume_uuid: Uuid,
    pub size_bytes: u64,
    pub limits: Limits,
    pub legs: Vec<LegWant>,
    pub exps: Vec<ExpWant>,
    /// Where exports listen.
    pub listener: ListenAddress,
}

/// A leg.
#[derive(Debug, Clone, PartialEq)]
pub struct LegWant {
    pub leg: u32,
    /// The host NQN its VDs admit.
    pub owner: String,
    pub cluster_bytes: u32,
    pub md_pages_per_cluster_ratio: u32,
    pub groups: Vec<GroupWant>,
    /// What is known about its data; `None`: never assembled.
    pub known: Option<LegKnown>,
}

/// What is known about the data of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegKnown {
    pub initialised: bool,
    pub in_sync: BTreeSet<VdId>,
}

/// A group: raid0 over mirror sets.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupWant {
    pub group: u32,
    pub strip_size_kib: u32,
    pub sets: Vec<SetWant>,
}

/// A mirror set: raid1 over VDs.
#[derive(Debug, Clone, PartialEq)]
pub struct SetWant {
    pub position: SetPosition,
    pub members: Vec<MemberWant>,
}

/// A VD of a mirror set.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberWant {
    pub vd: VdId,
    pub dn_address: String,
    /// Its subsystem; `None`: not known, because the boot of its node is not.
    pub nqn: Option<String>,
    pub address: ListenAddress,
    pub size_bytes: u64,
}

/// An EXP.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpWant {
    pub id: String,
    pub name: String,
    pub nqn: String,
    pub hosts: BTreeSet<String>,
    pub serial_number: String,
    pub model_number: String,
    pub ns_uuid: Uuid,
    pub ns_nguid: String,
    pub cntlids: (u16, u16),
    pub ana: AnaState,
    pub deleting: bool,
}

impl LegWant {
    /// All its mirror sets.
    pub fn sets(&self) -> impl Iterator<Item = &SetWant> {
        self.groups.iter().flat_map(|group| &group.sets)
    }
}

/// The address of a listener that has to be there.
pub(crate) fn listen_address(listener: Option<&NvmfListener>) -> Result<ListenAddress, BadSpec> {
    listener.map(settings::listen_address).ok_or_else(|| bad("listener", "missing"))
}

/// Parses a request. Also answers where the node's EXPs are exported.
///
/// # Errors
/// Names the first field that is wrong.
pub(crate) fn offer<T: Target>(
    request: CnSyncRequest,
) -> Result<(Offer<ControllerNode<T>>, ListenAddress), BadSpec> {
    let node = request.node.ok_or_else(|| bad("node", "missing"))?;
    let listener = listen_address(node.listener.as_ref()).map_err(|e| e.within("node"))?;
    let mut wants = BTreeMap::new();
    for sync in request.cntlrs {
        let da = sync.spec.as_ref().map(|spec| spec.da_id.clone()).unwrap_or_default();
        let (id, wanted) = want(sync, &listener).map_err(|e| e.within(format!("cntlrs[{da}]")))?;
        wants.insert(Key::Da(id), wanted);
    }
    let offer = Offer {
        node_id: node.cn_id,
        generation: request.generation,
        full: request.full,
        base_generation: request.base_generation,
        wants,
        removed: da_keys("removed_da_ids", &request.removed_da_ids)?,
        retry: da_keys("retry_da_ids", &request.retry_da_ids)?,
        lists_all: |_| false,
    };
    Ok((offer, listener))
}

fn da_keys(field: &str, ids: &[String]) -> Result<BTreeSet<Key>, BadSpec> {
    ids.iter().map(|id| id.parse().map(Key::Da).map_err(|e| bad(field, e))).collect()
}

pub(crate) fn want(sync: CntlrSync, listener: &ListenAddress) -> Result<(DaId, Wanted<Want>), BadSpec> {
    let spec = sync.spec.ok_or_else(|| bad("spec", "missing"))?;
    let id: DaId = spec.da_id.parse().map_err(|e| bad("spec.da_id", e))?;
    let uuid =
        |field: &str, text: &str| text.parse::<Uuid>().map_err(|e| bad(field, format!("{text:?}: {e}")));
    if spec.size_bytes == 0 {
        return Err(bad("spec.size_bytes", "0, must be positive"));
    }
    let legs = spec.legs.iter().map(|leg| {
        let known = sync.legs.iter().find(|known| known.leg == leg.leg);
        leg_want(leg, known).map_err(|e| e.within(format!("spec.legs[{}]", leg.leg)))
    });
    let legs = legs.collect::<Result<Vec<_>, _>>()?;
    let exps =
        sync.exps.iter().map(|exp| exp_want(exp).map_err(|e| e.within(format!("exps[{}]", exp.exp_id))));
    let want = Want {
        da_name: spec.da_name.clone(),
        primary: spec.primary,
        deleting: spec.deleting,
        volume_uuid: uuid("spec.volume_uuid", &spec.volume_uuid)?,
        size_bytes: spec.size_bytes,
        limits: Limits::from(spec.qos.as_ref()),
        legs,
        exps: exps.collect::<Result<_, _>>()?,
        listener: listener.clone(),
    };
    Ok((id, Wanted { want, revision: sync.revision }))
}

fn leg_want(leg: &LegSpec, known: Option<&LegState>) -> Result<LegWant, BadSpec> {
    let groups = leg.groups.iter().map(|group| group_want(leg.leg, group)).collect::<Result<Vec<_>, _>>()?;
    if groups.is_empty() {
        return Err(bad("groups", "none, at least one is needed"));
    }
    let known = known.map(|known| -> Result<LegKnown, BadSpec> {
        let in_sync = known.in_sync.iter().map(|id| id.parse().map_err(|e| bad("in_sync", e)));
        Ok(LegKnown { initialised: known.initialised, in_sync: in_sync.collect::<Result<_, _>>()? })
    });
    Ok(LegWant {
        leg: leg.leg,
        owner: leg.owner_nqn.clone(),
        cluster_bytes: u32::try_from(leg.cluster_bytes).map_err(|e| bad("cluster_bytes", e))?,
        md_pages_per_cluster_ratio: leg.md_pages_per_cluster_ratio,
        groups,
        known: known.transpose()?,
    })
}

fn group_want(leg: u32, group: &GroupSpec) -> Result<GroupWant, BadSpec> {
    let sets = group.sets.iter().map(|set| {
        let position = SetPosition { leg, group: group.group, stripe: set.stripe };
        set_want(position, set).map_err(|e| e.within(format!("groups[{}].sets[{}]", group.group, set.stripe)))
    });
    let sets = sets.collect::<Result<Vec<_>, _>>()?;
    if sets.is_empty() {
        return Err(bad(format!("groups[{}].sets", group.group), "none, at least one is needed"));
    }
    Ok(GroupWant { group: group.group, strip_size_kib: group.strip_size_kib, sets })
}

fn set_want(position: SetPosition, set: &MirrorSet) -> Result<SetWant, BadSpec> {
    let members = set.members.iter().map(member_want).collect::<Result<Vec<_>, _>>()?;
    if members.is_empty() {
        return Err(bad("members", "none, at least one is needed"));
    }
    Ok(SetWant { position, members })
}

fn member_want(member: &Member) -> Result<MemberWant, BadSpec> {
    let vd: VdId = member.vd_id.parse().map_err(|e| bad("members.vd_id", e))?;
    Ok(MemberWant {
        vd,
        dn_address: member.dn_address.clone(),
        nqn: Some(member.nqn.clone()).filter(|nqn| !nqn.is_empty()),
        address: listen_address(member.listener.as_ref()).map_err(|e| e.within(format!("members[{vd}]")))?,
        size_bytes: member.size_bytes,
    })
}

fn exp_want(exp: &ExpSpec) -> Result<ExpWant, BadSpec> {
    let cntlid = |field: &str, id: u32| u16::try_from(id).map_err(|e| bad(field, format!("{id}: {e}")));
    let ana = exp.ana_state.parse::<AnaState>().map_err(|e| bad("ana_state", e))?;
    Ok(ExpWant {
        id: exp.exp_id.clone(),
        name: exp.exp_name.clone(),
        nqn: exp.nqn.clone(),
        hosts: exp.initiator_nqns.iter().cloned().collect(),
        serial_number: exp.serial_number.clone(),
        model_number: exp.model_number.clone(),
        ns_uuid: exp.ns_uuid.parse().map_err(|e| bad("ns_uuid", e))?,
        ns_nguid: exp.ns_nguid.clone(),
        cntlids: (cntlid("min_cntlid", exp.min_cntlid)?, cntlid("max_cntlid", exp.max_cntlid)?),
        ana,
        deleting: exp.deleting,
    })
}
