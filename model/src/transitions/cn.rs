//! Controller nodes.

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    delta::{Delta, Versioned},
    error::{Error, Kind, Resource, check_revision},
    ids::CnId,
    keys::{CnCapacityKey, CnSpecKey, CnStatusKey},
    requests::{self, NewNode},
    transitions::dn::below_use,
};

/// What a change of a CN depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub cn: CnId,
    pub spec: &'a Versioned<v1::CnSpec>,
    pub capacity: &'a v1::CnCapacity,
}

impl View<'_> {
    fn resource(&self) -> Resource {
        Resource::new(Kind::Cn, &self.spec.value.address)
    }

    fn put(&self, spec: v1::CnSpec, max_cntlrs: u32) -> Delta {
        let mut delta = Delta::default();
        let capacity = v1::CnCapacity {
            location: spec.location.clone(),
            offline: spec.offline || spec.deleting,
            max_cntlrs,
            ..self.capacity.clone()
        };
        if capacity != *self.capacity {
            delta.put(CnCapacityKey(self.cn), capacity);
        }
        delta.put(CnSpecKey(self.cn), spec);
        delta
    }
}

/// A change of a CN; `None`: as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub revision: u64,
    pub offline: Option<bool>,
    pub location: Option<String>,
    pub max_cntlrs: Option<u32>,
}

/// Adds a CN. `taken`: the record of a CN that has this address.
///
/// # Errors
/// [`Error::Exists`].
pub fn create(taken: Option<&v1::CnSpec>, new: &NewNode, cn: CnId, now_ms: i64) -> Result<Delta, Error> {
    if let Some(other) = taken {
        let resource = Resource::new(Kind::Cn, &new.address);
        return Err(Error::Exists { resource, deleting: other.deleting });
    }
    let mut delta = Delta::default();
    delta.put(
        CnSpecKey(cn),
        v1::CnSpec {
            schema_version: SCHEMA_VERSION,
            cn_id: cn.into(),
            address: new.address.clone(),
            listener: Some(new.listener.clone()),
            location: new.location.clone(),
            offline: new.offline,
            deleting: false,
            created_ms: now_ms,
        },
    );
    delta.put(
        CnCapacityKey(cn),
        v1::CnCapacity {
            schema_version: SCHEMA_VERSION,
            cn_id: cn.into(),
            address: new.address.clone(),
            location: new.location.clone(),
            offline: new.offline,
            max_cntlrs: new.max_cntlrs,
            live_cntlrs: 0,
            deleting_cntlrs: 0,
        },
    );
    Ok(delta)
}

/// Changes a CN.
///
/// # Errors
/// [`Error::Changed`], [`Error::Deleting`], [`Error::Invalid`].
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
    if let Some(location) = &change.location {
        requests::location(location)?;
        spec.location.clone_from(location);
    }
    let used = view.capacity.live_cntlrs + view.capacity.deleting_cntlrs;
    let max_cntlrs = change.max_cntlrs.unwrap_or(view.capacity.max_cntlrs);
    if max_cntlrs == 0 || (change.max_cntlrs.is_some() && max_cntlrs < used) {
        return Err(below_use("max_cntlrs", max_cntlrs, used.max(1)));
    }
    if spec == *old && max_cntlrs == view.capacity.max_cntlrs {
        return Ok(Delta::default());
    }
    Ok(view.put(spec, max_cntlrs))
}

/// Marks a CN for deletion, or removes it at once if no agent has ever accepted it. Controllers that are being deleted are waited
/// for; live ones are in the way.
///
/// # Errors
/// [`Error::Changed`], [`Error::InUse`].
pub fn delete(view: View<'_>, status: Option<&v1::CnStatus>, revision: u64) -> Result<Delta, Error> {
    let old = &view.spec.value;
    check_revision(|| view.resource(), revision, view.spec.revision)?;
    let live = view.capacity.live_cntlrs;
    if live > 0 {
        return Err(Error::InUse {
            resource: view.resource(),
            by: vec![crate::error::counted(live, "controller of a DA", "controllers of DAs")],
        });
    }
    if view.capacity.deleting_cntlrs == 0 && status.is_none_or(|s| s.observed_generation == 0) {
        return Ok(remove(view.cn));
    }
    if old.deleting {
        return Ok(Delta::default());
    }
    Ok(view.put(v1::CnSpec { deleting: true, ..old.clone() }, view.capacity.max_cntlrs))
}

/// Removes every record of a CN that holds nothing.
pub(crate) fn remove(cn: CnId) -> Delta {
    let mut delta = Delta::default();
    delta.delete(CnSpecKey(cn));
    delta.delete(CnCapacityKey(cn));
    delta.delete(CnStatusKey(cn));
    delta
}
