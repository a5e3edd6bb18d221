//! The end of deletions: removes what a node has confirmed to be gone, and gives the space back in the same transaction.
//!
//! Each function answers `None` while it is too early. `forced`: the node will never come back, and its word is not waited for.

use vda_proto::v1;

use crate::{
    delta::{Delta, Versioned},
    error::Error,
    ids::{CnId, DaId, DnId, ExpId, PdId},
    keys::{
        CnCapacityKey, CntlrSpecKey, CntlrStatusKey, DaTombstoneKey, DnCapacityKey, DnShareKey, ExpSpecKey,
        LegStateKey, PdSpecKey, ShareStatusKey,
    },
    transitions::{
        cn,
        da::{less, pd_books},
        dn, qos,
    },
};

/// Whether what was observed at `observed` is about the record as of `stored`. A revision of 0 is a write that is not committed yet.
const fn is_about(observed: u64, stored: u64) -> bool {
    stored > 0 && observed >= stored
}

/// What the end of a share depends on.
#[derive(Debug, Clone, Copy)]
pub struct ShareView<'a> {
    pub dn: DnId,
    pub da: DaId,
    pub share: &'a Versioned<v1::DnShare>,
    pub status: Option<&'a v1::ShareStatus>,
    pub capacity: &'a v1::DnCapacity,
    pub tombstone: Option<&'a v1::DaTombstone>,
    pub forced: bool,
}

/// Removes a DN's tombstone of a DA, and returns the space of its virtual disks.
///
/// # Errors
/// [`Error::Broken`] if the books do not have what is given back.
pub fn share(view: ShareView<'_>) -> Result<Option<Delta>, Error> {
    let share = &view.share.value;
    let confirmed = view.status.is_some_and(|s| s.gone && is_about(s.observed_revision, view.share.revision));
    if !share.deleting || !(confirmed || view.forced) {
        return Ok(None);
    }
    let mut delta = Delta::default();
    delta.put(DnCapacityKey(view.dn), given_back(view.capacity, &share.vds)?);
    delta.delete(DnShareKey(view.dn, view.da));
    delta.delete(ShareStatusKey(view.dn, view.da));
    let dn = view.dn.to_string();
    untrace(&mut delta, view.da, view.tombstone, |t| t.dn_ids.retain(|id| *id != dn));
    Ok(Some(delta))
}

/// Removes the virtual disks of a PD that will never come back from a tombstone, and the tombstone if it had no others.
///
/// # Errors
/// [`Error::Broken`].
pub fn lost_pd(view: ShareView<'_>, pd: PdId) -> Result<Option<Delta>, Error> {
    let pd = pd.to_string();
    let (lost, left): (Vec<_>, Vec<_>) = view.share.value.vds.iter().cloned().partition(|vd| vd.pd_id == pd);
    if !view.share.value.deleting || lost.is_empty() {
        return Ok(None);
    }
    if left.is_empty() {
        return share(ShareView { forced: true, ..view });
    }
    let mut delta = Delta::default();
    delta.put(DnCapacityKey(view.dn), given_back(view.capacity, &lost)?);
    delta.put(DnShareKey(view.dn, view.da), v1::DnShare { vds: left, ..view.share.value.clone() });
    Ok(Some(delta))
}

/// The books of a DN without these virtual disks, which were being deleted.
fn given_back(books: &v1::DnCapacity, vds: &[v1::VdSpec]) -> Result<v1::DnCapacity, Error> {
    let mut capacity = books.clone();
    for vd in vds {
        let pd = pd_books(&mut capacity, &vd.pd_id)?;
        pd.deleting_vds = less(pd.deleting_vds, "deleting_vds", &pd.pd_name)?;
        pd.used_bytes = pd.used_bytes.checked_sub(vd.size_bytes).ok_or_else(|| {
            let why = format!("{} of used bytes are given back, it has fewer", vd.size_bytes);
            Error::broken(format!("PD {}", pd.pd_name), why)
        })?;
        pd.qos_used = Some(qos::minus(&pd.qos_used.unwrap_or_default(), &vd.qos.unwrap_or_default()));
    }
    Ok(capacity)
}

/// Takes a node off the tombstone of a DA, and removes the tombstone with its last node.
fn untrace(
    delta: &mut Delta,
    da: DaId,
    tombstone: Option<&v1::DaTombstone>,
    change: impl FnOnce(&mut v1::DaTombstone),
) {
    let Some(tombstone) = tombstone else { return };
    let mut left = tombstone.clone();
    change(&mut left);
    if left.dn_ids.is_empty() && left.cn_ids.is_empty() {
        delta.delete(DaTombstoneKey(da));
    } else {
        delta.put(DaTombstoneKey(da), left);
    }
}

/// What the end of a controller depends on.
#[derive(Debug, Clone, Copy)]
pub struct CntlrView<'a> {
    pub cn: CnId,
    pub da: DaId,
    pub spec: &'a Versioned<v1::CntlrSpec>,
    /// Tombstones of EXPs of the DA that are still on the CN, at most 64 of them in one transaction.
    pub exps: &'a [(ExpId, u64)],
    pub status: Option<&'a v1::CntlrStatus>,
    pub capacity: &'a v1::CnCapacity,
    pub tombstone: Option<&'a v1::DaTombstone>,
    pub forced: bool,
}

/// Removes a CN's tombstone of a DA, with those of its EXPs and, if it is the last, what was known about its legs.
///
/// # Errors
/// [`Error::Broken`].
pub fn cntlr(view: CntlrView<'_>) -> Result<Option<Delta>, Error> {
    let latest = view.exps.iter().map(|(_, revision)| *revision).fold(view.spec.revision, u64::max);
    let confirmed = view.status.is_some_and(|s| s.gone && is_about(s.observed_revision, latest));
    if !view.spec.value.deleting || !(confirmed || view.forced) {
        return Ok(None);
    }
    let mut delta = Delta::default();
    for (exp, _) in view.exps {
        delta.delete(ExpSpecKey(view.cn, view.da, *exp));
    }
    delta.delete(CntlrSpecKey(view.cn, view.da));
    delta.delete(CntlrStatusKey(view.cn, view.da));
    let deleting_cntlrs = less(view.capacity.deleting_cntlrs, "deleting_cntlrs", &view.capacity.address)?;
    delta.put(CnCapacityKey(view.cn), v1::CnCapacity { deleting_cntlrs, ..view.capacity.clone() });
    let cn = view.cn.to_string();
    let last = view.tombstone.is_none_or(|t| t.cn_ids.iter().all(|id| *id == cn));
    if last {
        for leg in &view.spec.value.legs {
            delta.delete(LegStateKey(view.da, leg.leg));
        }
    }
    untrace(&mut delta, view.da, view.tombstone, |t| t.cn_ids.retain(|id| *id != cn));
    Ok(Some(delta))
}

/// Removes a CN's tombstone of an EXP, once the controller's status says that nothing of it is left.
pub fn exp(
    cn: CnId,
    da: DaId,
    exp: ExpId,
    spec: &Versioned<v1::ExpSpec>,
    status: Option<&v1::CntlrStatus>,
    forced: bool,
) -> Option<Delta> {
    let id = exp.to_string();
    let confirmed = status.is_some_and(|s| {
        is_about(s.observed_revision, spec.revision)
            && (s.gone || s.exps.iter().any(|e| e.exp_id == id && e.gone))
    });
    if !spec.value.deleting || !(confirmed || forced) {
        return None;
    }
    let mut delta = Delta::default();
    delta.delete(ExpSpecKey(cn, da, exp));
    Some(delta)
}

/// Removes a PD that holds no virtual disks any more, once its DN says that nothing of it is left.
///
/// # Errors
/// [`Error::Broken`].
pub fn pd(
    dn: DnId,
    pd: PdId,
    spec: &Versioned<v1::PdSpec>,
    capacity: &v1::DnCapacity,
    status: Option<&v1::DnStatus>,
    forced: bool,
) -> Result<Option<Delta>, Error> {
    let id = pd.to_string();
    let mut capacity = capacity.clone();
    let books = pd_books(&mut capacity, &id)?;
    let empty = books.live_vds == 0 && books.deleting_vds == 0;
    let report = status.and_then(|s| s.pds.iter().find(|p| p.pd_id == id));
    let confirmed = report.is_some_and(|p| p.gone && is_about(p.observed_revision, spec.revision));
    if !spec.value.deleting || !empty || !(confirmed || forced) {
        return Ok(None);
    }
    capacity.pds.retain(|p| p.pd_id != id);
    let mut delta = Delta::default();
    delta.put(DnCapacityKey(dn), capacity);
    delta.delete(PdSpecKey(dn, pd));
    Ok(Some(delta))
}

/// Removes a DN whose PDs are gone, once its agent has accepted that.
pub fn dn(
    dn: DnId,
    spec: &Versioned<v1::DnSpec>,
    capacity: &v1::DnCapacity,
    status: Option<&v1::DnStatus>,
    forced: bool,
) -> Option<Delta> {
    let confirmed = status.is_some_and(|s| is_about(s.observed_generation, spec.revision));
    let finished = spec.value.deleting && capacity.pds.is_empty() && (confirmed || forced);
    finished.then(|| dn::remove(dn))
}

/// Removes a CN without controllers, once its agent has accepted that.
pub fn cn(
    cn: CnId,
    spec: &Versioned<v1::CnSpec>,
    capacity: &v1::CnCapacity,
    status: Option<&v1::CnStatus>,
    forced: bool,
) -> Option<Delta> {
    let confirmed = status.is_some_and(|s| is_about(s.observed_generation, spec.revision));
    let empty = capacity.live_cntlrs == 0 && capacity.deleting_cntlrs == 0;
    let finished = spec.value.deleting && empty && (confirmed || forced);
    finished.then(|| cn::remove(cn))
}
