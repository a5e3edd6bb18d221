//! Exporters.

use vda_proto::v1;

use crate::{
    defaults::{MAX_EXPS_PER_DA, MAX_HOSTS_PER_EXP},
    delta::{Delta, Versioned},
    error::{Error, Kind, Resource, Violation, check_revision},
    ids::ExpId,
    keys::{DaKey, ExpSpecKey},
    names::OwnedName,
    requests::NewExp,
    transitions::derived::{cns, da_id, exp_spec, id},
};

fn exp_resource(record: &v1::DaRecord, exp_name: &str) -> Resource {
    Resource::of(Kind::Exp, &record.da_name, exp_name)
}

/// The EXP of this name.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find<'a>(record: &'a v1::DaRecord, exp_name: &str) -> Result<&'a v1::ExpRecord, Error> {
    let found = record.exps.iter().find(|e| e.exp_name == exp_name);
    found.ok_or_else(|| Error::NotFound(exp_resource(record, exp_name)))
}

/// A host sees an array once: through a second EXP it would find the same namespace UUID again.
fn host_is_free(record: &v1::DaRecord, nqn: &str, field: &str, except: Option<&str>) -> Result<(), Error> {
    let other = record
        .exps
        .iter()
        .filter(|e| Some(e.exp_id.as_str()) != except)
        .find(|e| e.initiator_nqns.iter().any(|n| n == nqn));
    let Some(other) = other else { return Ok(()) };
    let allowed = format!("a host that no other EXP of the DA admits (EXP {} does)", other.exp_name);
    Err(Error::Invalid(vec![Violation::new(field, nqn, allowed)]))
}

/// Exports a DA to some hosts.
///
/// # Errors
/// [`Error::Exists`], [`Error::Invalid`] (a host of another EXP), [`Error::NotServed`] (a second EXP).
pub fn create(
    view: &Versioned<v1::DaRecord>,
    new: &NewExp,
    exp: ExpId,
    now_ms: i64,
) -> Result<(Delta, v1::DaRecord), Error> {
    let mut record = view.value.clone();
    if record.exps.iter().any(|e| e.exp_name == new.exp_name) {
        return Err(Error::Exists { resource: exp_resource(&record, &new.exp_name), deleting: false });
    }
    for nqn in &new.initiator_nqns {
        host_is_free(&record, nqn, "initiator_nqns", None)?;
    }
    if record.exps.len() >= MAX_EXPS_PER_DA {
        return Err(Error::NotServed {
            field: "exp_name",
            value: new.exp_name.clone(),
            served: "one EXP per DA (a volume can be in one subsystem only); add the hosts to the EXP there is",
        });
    }
    let subsystem =
        OwnedName::ExpSubsystem { da_name: record.da_name.clone(), exp_name: new.exp_name.clone(), exp };
    let exp = v1::ExpRecord {
        exp_id: exp.into(),
        exp_name: new.exp_name.clone(),
        nqn: subsystem.to_string(),
        initiator_nqns: new.initiator_nqns.clone(),
        created_ms: now_ms,
    };
    record.exps.push(exp.clone());
    put(record, &exp, false)
}

/// Adds hosts to an EXP and removes some.
///
/// # Errors
/// [`Error::Changed`] (the revision is the DA's), [`Error::NotFound`], [`Error::Invalid`], [`Error::Limit`].
pub fn modify(
    view: &Versioned<v1::DaRecord>,
    request: &v1::ModifyExpRequest,
) -> Result<(Delta, v1::DaRecord), Error> {
    let mut record = view.value.clone();
    let old = find(&record, &request.exp_name)?.clone();
    check_revision(|| exp_resource(&record, &old.exp_name), request.revision, view.revision)?;
    let mut exp = old.clone();
    for nqn in &request.add_initiator_nqns {
        host_is_free(&record, nqn, "add_initiator_nqns", Some(&old.exp_id))?;
        if !exp.initiator_nqns.contains(nqn) {
            exp.initiator_nqns.push(nqn.clone());
        }
    }
    for nqn in &request.remove_initiator_nqns {
        if !old.initiator_nqns.contains(nqn) {
            return Err(Error::Invalid(vec![Violation::new(
                "remove_initiator_nqns",
                nqn,
                "a host the EXP admits",
            )]));
        }
        exp.initiator_nqns.retain(|n| n != nqn);
    }
    if exp.initiator_nqns.is_empty() {
        let allowed = "fewer: an EXP keeps at least one host (delete the EXP instead)";
        return Err(Error::Invalid(vec![Violation::new(
            "remove_initiator_nqns",
            request.remove_initiator_nqns.len(),
            allowed,
        )]));
    }
    if exp.initiator_nqns.len() > MAX_HOSTS_PER_EXP {
        let resource = exp_resource(&record, &old.exp_name);
        return Err(Error::Limit { resource, what: "hosts", limit: MAX_HOSTS_PER_EXP });
    }
    if exp == old {
        return Ok((Delta::default(), record));
    }
    for stored in record.exps.iter_mut().filter(|e| e.exp_id == exp.exp_id) {
        *stored = exp.clone();
    }
    put(record, &exp, false)
}

/// Removes an EXP; its specs become tombstones until the CNs have confirmed.
///
/// # Errors
/// [`Error::Changed`] (the revision is the DA's), [`Error::NotFound`].
pub fn delete(
    view: &Versioned<v1::DaRecord>,
    exp_name: &str,
    revision: u64,
) -> Result<(Delta, v1::ExpRecord), Error> {
    let mut record = view.value.clone();
    let exp = find(&record, exp_name)?.clone();
    check_revision(|| exp_resource(&record, exp_name), revision, view.revision)?;
    record.exps.retain(|e| e.exp_id != exp.exp_id);
    let (delta, _) = put(record, &exp, true)?;
    Ok((delta, exp))
}

fn put(record: v1::DaRecord, exp: &v1::ExpRecord, deleting: bool) -> Result<(Delta, v1::DaRecord), Error> {
    let da = da_id(&record)?;
    let exp_id: ExpId = id(&record, &exp.exp_id)?;
    let mut delta = Delta::default();
    for (cn, place) in cns(&record)? {
        let spec = v1::ExpSpec { deleting, ..exp_spec(&record, exp, place)? };
        delta.put(ExpSpecKey(cn, da, exp_id), spec);
    }
    delta.put(DaKey(record.da_name.clone()), record.clone());
    Ok((delta, record))
}
