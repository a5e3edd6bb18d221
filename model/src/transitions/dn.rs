//! Disk nodes.

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    delta::{Delta, Versioned},
    error::{Error, Kind, Resource, Violation, check_revision, counted},
    ids::DnId,
    keys::{DnBootKey, DnCapacityKey, DnSpecKey, DnStatusKey},
    requests::{self, NewNode},
};

/// What a change of a DN depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub dn: DnId,
    pub spec: &'a Versioned<v1::DnSpec>,
    pub capacity: &'a v1::DnCapacity,
}

impl View<'_> {
    fn resource(&self) -> Resource {
        Resource::new(Kind::Dn, &self.spec.value.address)
    }

    fn put(&self, spec: v1::DnSpec) -> Delta {
        let mut delta = Delta::default();
        let capacity = v1::DnCapacity {
            location: spec.location.clone(),
            offline: spec.offline || spec.deleting,
            ..self.capacity.clone()
        };
        if capacity != *self.capacity {
            delta.put(DnCapacityKey(self.dn), capacity);
        }
        delta.put(DnSpecKey(self.dn), spec);
        delta
    }
}

/// A change of a DN; `None`: as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub revision: u64,
    pub offline: Option<bool>,
    pub location: Option<String>,
}

/// Adds a DN. `taken`: the record of a DN that has this address.
///
/// # Errors
/// [`Error::Exists`].
pub fn create(taken: Option<&v1::DnSpec>, new: &NewNode, dn: DnId, now_ms: i64) -> Result<Delta, Error> {
    if let Some(other) = taken {
        let resource = Resource::new(Kind::Dn, &new.address);
        return Err(Error::Exists { resource, deleting: other.deleting });
    }
    let mut delta = Delta::default();
    delta.put(
        DnSpecKey(dn),
        v1::DnSpec {
            schema_version: SCHEMA_VERSION,
            dn_id: dn.into(),
            address: new.address.clone(),
            listener: Some(new.listener.clone()),
            location: new.location.clone(),
            offline: new.offline,
            deleting: false,
            created_ms: now_ms,
        },
    );
    delta.put(
        DnCapacityKey(dn),
        v1::DnCapacity {
            schema_version: SCHEMA_VERSION,
            dn_id: dn.into(),
            address: new.address.clone(),
            location: new.location.clone(),
            offline: new.offline,
            pds: Vec::new(),
        },
    );
    Ok(delta)
}

/// Changes a DN. Its location may change only while it holds no virtual disks: mirrors were placed by it.
///
/// # Errors
/// [`Error::Changed`], [`Error::Deleting`], [`Error::InUse`], [`Error::Invalid`].
pub fn modify(view: View<'_>, change: &Change) -> Result<Delta, Error> {
    let old = &view.spec.value;
    check_revision(|| view.resource(), change.revision, view.spec.revision)?;
    if old.deleting {
        return Err(Error::Deleting(view.resource()));
    }
    let mut spec = old.clone();
    if let Some(offline) = change.offline {
        spec.offline = offline;
    }
    if let Some(location) = change.location.as_ref().filter(|l| **l != old.location) {
        requests::location(location)?;
        let users: Vec<String> =
            view.capacity.pds.iter().filter(|pd| pd.live_vds + pd.deleting_vds > 0).map(users).collect();
        if !users.is_empty() {
            return Err(Error::InUse { resource: view.resource(), by: users });
        }
        spec.location.clone_from(location);
    }
    if spec == *old {
        return Ok(Delta::default());
    }
    Ok(view.put(spec))
}

/// Who uses a PD, in words.
pub(crate) fn users(pd: &v1::PdCapacity) -> String {
    let live = counted(pd.live_vds, "virtual disk", "virtual disks");
    match pd.deleting_vds {
        0 => format!("{live} on PD {}", pd.pd_name),
        deleting => format!("{live} on PD {} and {deleting} being deleted", pd.pd_name),
    }
}

/// Marks a DN for deletion, or removes it at once if no agent has ever accepted it. Its PDs must have been deleted; those whose
/// deletion is not finished are waited for.
///
/// # Errors
/// [`Error::Changed`], [`Error::InUse`].
pub fn delete(
    view: View<'_>,
    pds: &[v1::PdSpec],
    status: Option<&v1::DnStatus>,
    revision: u64,
) -> Result<Delta, Error> {
    let old = &view.spec.value;
    check_revision(|| view.resource(), revision, view.spec.revision)?;
    let live: Vec<String> =
        pds.iter().filter(|pd| !pd.deleting).map(|pd| format!("PD {}", pd.pd_name)).collect();
    if !live.is_empty() {
        return Err(Error::InUse { resource: view.resource(), by: live });
    }
    if view.capacity.pds.is_empty() && status.is_none_or(|s| s.observed_generation == 0) {
        return Ok(remove(view.dn));
    }
    if old.deleting {
        return Ok(Delta::default());
    }
    Ok(view.put(v1::DnSpec { deleting: true, ..old.clone() }))
}

/// Removes every record of a DN that holds nothing.
pub(crate) fn remove(dn: DnId) -> Delta {
    let mut delta = Delta::default();
    delta.delete(DnSpecKey(dn));
    delta.delete(DnCapacityKey(dn));
    delta.delete(DnStatusKey(dn));
    delta.delete(DnBootKey(dn));
    delta
}

/// The violation of a limit that is below what is in use.
pub(crate) fn below_use(field: &str, value: u32, used: u32) -> Error {
    Error::Invalid(vec![Violation::new(field, value, format!("at least {used}, which are in use"))])
}
