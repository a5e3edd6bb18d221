//! What follows from a DA's record: the records its nodes are told. They are never changed in another way, so a change of a DA is a
//! change of its record, and these again.

use std::collections::BTreeMap;

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    defaults::{CNTLIDS_PER_CNTLR, MODEL_NUMBER},
    error::{Error, Kind, Resource},
    ids::{CnId, DaId, DnId, ExpId},
    transitions::qos,
};

/// The DA a record is about, as errors name it.
pub(crate) fn resource(record: &v1::DaRecord) -> Resource {
    Resource::new(Kind::Da, &record.da_name)
}

/// An id a record holds.
///
/// # Errors
/// [`Error::Broken`] if it is none.
pub(crate) fn id<I: std::str::FromStr<Err: std::fmt::Display>>(
    record: &v1::DaRecord,
    text: &str,
) -> Result<I, Error> {
    text.parse().map_err(|e: I::Err| Error::broken(resource(record), e))
}

/// The id of the DA itself.
///
/// # Errors
/// [`Error::Broken`].
pub fn da_id(record: &v1::DaRecord) -> Result<DaId, Error> {
    id(record, &record.da_id)
}

/// The CNs with a controller of the DA.
///
/// # Errors
/// [`Error::Broken`].
pub fn cns(record: &v1::DaRecord) -> Result<Vec<(CnId, &v1::CntlrPlace)>, Error> {
    record.cntlrs.iter().map(|place| Ok((id(record, &place.cn_id)?, place))).collect()
}

/// The DA's virtual disks on each of its DNs.
///
/// # Errors
/// [`Error::Broken`].
pub fn shares(record: &v1::DaRecord) -> Result<BTreeMap<DnId, v1::DnShare>, Error> {
    let cn_id = record.cntlrs.iter().find(|c| c.primary).map(|c| c.cn_id.clone()).unwrap_or_default();
    let promise = qos::of_vd(&record.qos.unwrap_or_default(), record.stripes);
    let mut shares: BTreeMap<DnId, v1::DnShare> = BTreeMap::new();
    for (leg, group, set, replica, member) in members(record) {
        let share = shares.entry(id(record, &member.dn_id)?).or_insert_with(|| v1::DnShare {
            schema_version: SCHEMA_VERSION,
            da_id: record.da_id.clone(),
            da_name: record.da_name.clone(),
            vds: Vec::new(),
            deleting: false,
            cn_id: cn_id.clone(),
        });
        share.vds.push(v1::VdSpec {
            vd_id: member.vd_id.clone(),
            pd_id: member.pd_id.clone(),
            size_bytes: member.size_bytes,
            qos: Some(promise),
            leg: leg.leg,
            group: group.group,
            stripe: set.stripe,
            replica,
            owner_nqn: leg.owner_nqn.clone(),
            mirrored: set.members.len() > 1,
        });
    }
    Ok(shares)
}

/// Every member of every mirror set with its position.
pub fn members(
    record: &v1::DaRecord,
) -> impl Iterator<Item = (&v1::LegSpec, &v1::GroupSpec, &v1::MirrorSet, u32, &v1::Member)> {
    record.legs.iter().flat_map(|leg| {
        leg.groups.iter().flat_map(move |group| {
            group.sets.iter().flat_map(move |set| {
                (0_u32..).zip(&set.members).map(move |(replica, member)| (leg, group, set, replica, member))
            })
        })
    })
}

/// The DA's controller at `place`.
pub fn cntlr_spec(record: &v1::DaRecord, place: &v1::CntlrPlace) -> v1::CntlrSpec {
    v1::CntlrSpec {
        schema_version: SCHEMA_VERSION,
        da_id: record.da_id.clone(),
        da_name: record.da_name.clone(),
        cntlr_id: place.cntlr_id.clone(),
        cntlr_index: place.cntlr_index,
        primary: place.primary,
        volume_uuid: record.volume_uuid.clone(),
        size_bytes: record.size_bytes,
        qos: record.qos,
        legs: record.legs.clone(),
        deleting: false,
    }
}

/// An EXP of the DA at `place`.
///
/// # Errors
/// [`Error::Broken`].
pub fn exp_spec(
    record: &v1::DaRecord,
    exp: &v1::ExpRecord,
    place: &v1::CntlrPlace,
) -> Result<v1::ExpSpec, Error> {
    let exp_id: ExpId = id(record, &exp.exp_id)?;
    let first = place.cntlr_index * CNTLIDS_PER_CNTLR;
    Ok(v1::ExpSpec {
        schema_version: SCHEMA_VERSION,
        exp_id: exp_id.into(),
        exp_name: exp.exp_name.clone(),
        da_id: record.da_id.clone(),
        da_name: record.da_name.clone(),
        nqn: exp.nqn.clone(),
        initiator_nqns: exp.initiator_nqns.clone(),
        // 19 of the 20 characters a serial number may have; it tells whose subsystem it is when a name is used again.
        serial_number: format!("VDA{exp_id}"),
        model_number: MODEL_NUMBER.to_owned(),
        ns_uuid: record.volume_uuid.clone(),
        ns_nguid: format!("{}{exp_id}", record.da_id),
        min_cntlid: first + 1,
        max_cntlid: first + CNTLIDS_PER_CNTLR,
        ana_state: if place.primary { "optimized" } else { "inaccessible" }.to_owned(),
        deleting: false,
    })
}
