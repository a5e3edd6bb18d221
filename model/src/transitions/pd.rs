//! Physical disks.

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    defaults::MAX_PDS_PER_DN,
    delta::{Delta, Versioned},
    error::{Error, Kind, Resource, check_revision},
    ids::{DnId, PdId},
    keys::{DnCapacityKey, PdSpecKey},
    requests::NewPd,
    transitions::{dn::users, qos},
};

/// What a new PD depends on.
#[derive(Debug, Clone, Copy)]
pub struct CreateView<'a> {
    pub dn: DnId,
    pub spec: &'a v1::DnSpec,
    pub capacity: &'a v1::DnCapacity,
    /// Specs of all PDs the books list.
    pub pds: &'a [v1::PdSpec],
}

/// What a change of a PD depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub dn: DnId,
    pub pd: PdId,
    pub spec: &'a Versioned<v1::PdSpec>,
    pub capacity: &'a v1::DnCapacity,
}

/// A change of a PD; `None`: as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    pub revision: u64,
    pub offline: Option<bool>,
    pub qos_budget: Option<v1::Qos>,
}

impl View<'_> {
    fn resource(&self) -> Resource {
        Resource::of(Kind::Pd, &self.capacity.address, &self.spec.value.pd_name)
    }

    fn books(&self) -> Result<&v1::PdCapacity, Error> {
        let pd = self.pd.to_string();
        let found = self.capacity.pds.iter().find(|p| p.pd_id == pd);
        found.ok_or_else(|| Error::broken(self.resource(), "it is not in the books of its DN"))
    }

    /// Stores the spec, and the copies of its fields in the books.
    fn put(&self, spec: v1::PdSpec) -> Delta {
        let mut capacity = self.capacity.clone();
        for pd in capacity.pds.iter_mut().filter(|p| p.pd_id == spec.pd_id) {
            pd.offline = spec.offline || spec.deleting;
            pd.qos_budget = spec.qos_budget;
        }
        let mut delta = Delta::default();
        if capacity != *self.capacity {
            delta.put(DnCapacityKey(self.dn), capacity);
        }
        delta.put(PdSpecKey(self.dn, self.pd), spec);
        delta
    }
}

/// Adds a PD to a DN. Nothing is placed on it until the DN has reported its lvstore.
///
/// # Errors
/// [`Error::Deleting`] (the DN), [`Error::Exists`] (name or medium), [`Error::Limit`].
pub fn create(view: CreateView<'_>, new: &NewPd, pd: PdId, now_ms: i64) -> Result<Delta, Error> {
    let dn = || Resource::new(Kind::Dn, &view.spec.address);
    if view.spec.deleting {
        return Err(Error::Deleting(dn()));
    }
    if let Some(other) = view.pds.iter().find(|p| p.pd_name == new.pd_name) {
        let resource = Resource::of(Kind::Pd, &new.dn_address, &new.pd_name);
        return Err(Error::Exists { resource, deleting: other.deleting });
    }
    if let Some(other) = view.pds.iter().find(|p| same_medium(p.backend.as_ref(), Some(&new.backend))) {
        let resource =
            Resource::of(Kind::Pd, &new.dn_address, &format!("{} on the same medium", other.pd_name));
        return Err(Error::Exists { resource, deleting: other.deleting });
    }
    if view.pds.len() >= MAX_PDS_PER_DN {
        return Err(Error::Limit { resource: dn(), what: "PDs", limit: MAX_PDS_PER_DN });
    }
    let mut capacity = view.capacity.clone();
    capacity.pds.push(v1::PdCapacity {
        pd_id: pd.into(),
        pd_name: new.pd_name.clone(),
        offline: new.offline,
        qos_budget: Some(new.qos_budget),
        ..v1::PdCapacity::default()
    });
    let mut delta = Delta::default();
    delta.put(DnCapacityKey(view.dn), capacity);
    delta.put(
        PdSpecKey(view.dn, pd),
        v1::PdSpec {
            schema_version: SCHEMA_VERSION,
            pd_id: pd.into(),
            pd_name: new.pd_name.clone(),
            backend: Some(new.backend.clone()),
            offline: new.offline,
            deleting: false,
            qos_budget: Some(new.qos_budget),
            created_ms: now_ms,
        },
    );
    Ok(delta)
}

/// Two lvstores on one medium destroy each other. Malloc disks are each their own.
fn same_medium(a: Option<&v1::PdBackend>, b: Option<&v1::PdBackend>) -> bool {
    use v1::pd_backend::Kind::{Aio, Malloc, Nvme, Uring};
    let medium = |b: Option<&v1::PdBackend>| match b.and_then(|b| b.kind.as_ref()) {
        Some(Aio(file) | Uring(file)) => Some(file.filename.clone()),
        Some(Nvme(nvme)) => Some(nvme.traddr.clone()),
        Some(Malloc(_)) | None => None,
    };
    medium(a).is_some_and(|m| medium(b).as_ref() == Some(&m))
}

/// Changes a PD. A budget below what is promised already stops new promises only.
///
/// # Errors
/// [`Error::Changed`], [`Error::Deleting`].
pub fn modify(view: View<'_>, change: &Change) -> Result<Delta, Error> {
    let old = &view.spec.value;
    check_revision(|| view.resource(), change.revision, view.spec.revision)?;
    if old.deleting {
        return Err(Error::Deleting(view.resource()));
    }
    view.books()?;
    let spec = v1::PdSpec {
        offline: change.offline.unwrap_or(old.offline),
        qos_budget: change.qos_budget.or(old.qos_budget),
        ..old.clone()
    };
    if spec == *old { Ok(Delta::default()) } else { Ok(view.put(spec)) }
}

/// Marks a PD for deletion. Virtual disks that are being deleted are waited for; live ones are in the way.
///
/// # Errors
/// [`Error::Changed`], [`Error::InUse`].
pub fn delete(view: View<'_>, revision: u64) -> Result<Delta, Error> {
    let old = &view.spec.value;
    check_revision(|| view.resource(), revision, view.spec.revision)?;
    let books = view.books()?;
    if books.live_vds > 0 {
        return Err(Error::InUse { resource: view.resource(), by: vec![users(books)] });
    }
    if old.deleting {
        return Ok(Delta::default());
    }
    Ok(view.put(v1::PdSpec { deleting: true, ..old.clone() }))
}

/// Books one more VD of `bytes` on a PD. `false`, and nothing done: it does not fit, or nothing may be placed there.
pub(crate) fn allocate(books: &mut v1::PdCapacity, bytes: u64, promise: &v1::Qos) -> bool {
    let free = books.total_bytes.saturating_sub(books.used_bytes);
    let used = books.qos_used.unwrap_or_default();
    let qos_fits = qos::exceeded(&books.qos_budget.unwrap_or_default(), &used, promise).is_empty();
    if books.offline || books.cluster_bytes == 0 || free < bytes || !qos_fits {
        return false;
    }
    books.used_bytes += bytes;
    books.live_vds += 1;
    books.qos_used = Some(qos::plus(&used, promise));
    true
}
