//! Desired state as the agent uses it: parsed once, when it arrives.

use std::collections::{BTreeMap, BTreeSet};

use vda_model::ids::{DaId, PdId, VdId};
use vda_model::names::check_host_nqn;
use vda_proto::v1::{DnSyncRequest, PdSync, ShareSync, VdSpec};
use vda_reconcile::parts::lvol::Limits;
use vda_reconcile::settings::listen_address;
use vda_reconcile::{Offer, Target, Wanted};
use vda_spdk::ListenAddress;

use crate::backend::Backend;
use crate::driver::DiskNode;
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

pub(crate) fn bad(field: impl Into<String>, problem: impl ToString) -> BadSpec {
    BadSpec { field: field.into(), problem: problem.to_string() }
}

/// What is wanted of a component.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    Pd(PdWant),
    Share(ShareWant),
}

/// A PD.
#[derive(Debug, Clone, PartialEq)]
pub struct PdWant {
    pub backend: Backend,
    pub deleting: bool,
    /// Its lvstore was created once.
    pub initialised: bool,
}

/// The VDs of a DA on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareWant {
    pub vds: BTreeMap<VdId, VdWant>,
    pub deleting: bool,
    /// Where the VDs are exported.
    pub listener: ListenAddress,
}

/// A VD.
#[derive(Debug, Clone, PartialEq)]
pub struct VdWant {
    pub pd: PdId,
    pub size_bytes: u64,
    pub limits: Limits,
    /// Its mirror set has other members.
    pub mirrored: bool,
    /// The one host NQN that may connect.
    pub owner: String,
    /// Its lvol was created once.
    pub initialised: bool,
}

/// Parses a request. Also answers where the node's VDs are exported.
///
/// # Errors
/// Names the first field that is wrong.
pub(crate) fn offer<T: Target>(
    request: DnSyncRequest,
) -> Result<(Offer<DiskNode<T>>, ListenAddress), BadSpec> {
    let node = request.node.ok_or_else(|| bad("node", "missing"))?;
    let listener = node.listener.as_ref().ok_or_else(|| bad("node.listener", "missing"))?;
    let address = listen_address(listener);
    let mut wants = BTreeMap::new();
    for pd in request.pds {
        let (id, wanted) = pd_want(pd)?;
        wants.insert(Key::Pd(id), wanted);
    }
    for share in request.shares {
        let (id, wanted) = share_want(share, &address)?;
        wants.insert(Key::Share(id), wanted);
    }
    let offer = Offer {
        node_id: node.dn_id,
        generation: request.generation,
        full: request.full,
        base_generation: request.base_generation,
        wants,
        removed: share_keys("removed_da_ids", &request.removed_da_ids)?,
        retry: share_keys("retry_da_ids", &request.retry_da_ids)?,
        lists_all: |key| matches!(key, Key::Pd(_)),
    };
    Ok((offer, address))
}

/// The PDs among `wants`.
pub(crate) fn pds(wants: &BTreeMap<Key, Wanted<Want>>) -> BTreeMap<PdId, PdWant> {
    let pd = |(key, wanted): (&Key, &Wanted<Want>)| match (key, &wanted.want) {
        (Key::Pd(id), Want::Pd(pd)) => Some((*id, pd.clone())),
        _ => None,
    };
    wants.iter().filter_map(pd).collect()
}

fn share_keys(field: &str, ids: &[String]) -> Result<BTreeSet<Key>, BadSpec> {
    ids.iter().map(|id| id.parse().map(Key::Share).map_err(|e| bad(field, e))).collect()
}

fn pd_want(sync: PdSync) -> Result<(PdId, Wanted<Want>), BadSpec> {
    let spec = sync.spec.ok_or_else(|| bad("pds.spec", "missing"))?;
    let id: PdId = spec.pd_id.parse().map_err(|e| bad("pds.spec.pd_id", e))?;
    let backend = spec.backend.as_ref().and_then(Backend::of);
    let backend = backend.ok_or_else(|| bad(format!("pds[{id}].spec.backend"), "missing"))?;
    let want = PdWant { backend, deleting: spec.deleting, initialised: sync.initialised };
    Ok((id, Wanted { want: Want::Pd(want), revision: sync.revision }))
}

fn share_want(sync: ShareSync, listener: &ListenAddress) -> Result<(DaId, Wanted<Want>), BadSpec> {
    let spec = sync.spec.ok_or_else(|| bad("shares.spec", "missing"))?;
    let id: DaId = spec.da_id.parse().map_err(|e| bad("shares.spec.da_id", e))?;
    let initialised: BTreeSet<&str> = sync.initialised_vd_ids.iter().map(String::as_str).collect();
    let mut vds = BTreeMap::new();
    for vd in &spec.vds {
        let (vd_id, mut want) =
            vd_want(vd).map_err(|e| bad(format!("shares[{id}].{}", e.field), e.problem))?;
        want.initialised = initialised.contains(vd.vd_id.as_str());
        vds.insert(vd_id, want);
    }
    let want = ShareWant { vds, deleting: spec.deleting, listener: listener.clone() };
    Ok((id, Wanted { want: Want::Share(want), revision: sync.revision }))
}

fn vd_want(vd: &VdSpec) -> Result<(VdId, VdWant), BadSpec> {
    let id: VdId = vd.vd_id.parse().map_err(|e| bad("vds.vd_id", e))?;
    let pd = vd.pd_id.parse().map_err(|e| bad("vds.pd_id", e))?;
    if vd.size_bytes == 0 {
        return Err(bad(format!("vds[{id}].size_bytes"), "0, must be positive"));
    }
    check_host_nqn("owner_nqn", &vd.owner_nqn).map_err(|e| bad(format!("vds[{id}].owner_nqn"), e))?;
    let limits = Limits::from(vd.qos.as_ref());
    let want = VdWant {
        pd,
        size_bytes: vd.size_bytes,
        limits,
        mirrored: vd.mirrored,
        owner: vd.owner_nqn.clone(),
        initialised: false,
    };
    Ok((id, want))
}
