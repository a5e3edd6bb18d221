//! Disk arrays.

use std::collections::{BTreeMap, BTreeSet};

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    allocator::Placement,
    defaults::MAX_TXN_OPS,
    delta::{Delta, Versioned},
    error::{Error, Kind, Resource, check_revision},
    ids::{CnId, CntlrId, DaId, DnId, VdId},
    keys::{CnCapacityKey, CntlrSpecKey, DaKey, DaTombstoneKey, DnCapacityKey, DnShareKey},
    names::OwnedName,
    requests::NewDa,
    sizes::round_up,
    sizing::LegSize,
    transitions::{
        derived::{cns, cntlr_spec, da_id, resource, shares},
        pd, qos,
    },
};

/// Ids of a new DA and its parts.
#[derive(Debug, Clone)]
pub struct Ids {
    pub da: DaId,
    pub cntlr: CntlrId,
    /// One for each virtual disk: stripe by stripe, in each replica by replica.
    pub vds: Vec<VdId>,
    /// UUID of the volume's namespace, in its hyphenated lower-case form.
    pub volume_uuid: String,
}

/// A chosen node: its books as the transaction read them, and where it listens, which never changes.
#[derive(Debug, Clone)]
pub struct Place<C> {
    /// `None`: the node is gone.
    pub capacity: Option<C>,
    pub listener: v1::NvmfListener,
}

/// What a new DA depends on.
#[derive(Debug, Clone, Copy)]
pub struct CreateView<'a> {
    /// A DA that has this name.
    pub taken: Option<&'a v1::DaRecord>,
    pub dns: &'a BTreeMap<DnId, Place<v1::DnCapacity>>,
    pub cn: &'a Place<v1::CnCapacity>,
}

/// Adds a DA at the chosen places.
///
/// # Errors
/// [`Error::Exists`]; [`Error::PlacementStale`] if a place can no longer take its part.
pub fn create(
    view: CreateView<'_>,
    new: &NewDa,
    placement: &Placement,
    ids: &Ids,
    now_ms: i64,
) -> Result<(Delta, v1::DaRecord), Error> {
    if view.taken.is_some() {
        return Err(Error::Exists { resource: Resource::new(Kind::Da, &new.da_name), deleting: false });
    }
    let mut delta = Delta::default();
    let (members, books) = allocate(&view, new, placement, ids)?;
    let cn_capacity = occupy(&view, placement.cn)?;
    let record = record(&view, new, placement, ids, members, now_ms, &cn_capacity.address);
    for (dn, capacity) in books {
        delta.put(DnCapacityKey(dn), capacity);
    }
    delta.put(CnCapacityKey(placement.cn), cn_capacity);
    for (dn, share) in shares(&record)? {
        delta.put(DnShareKey(dn, ids.da), share);
    }
    for (cn, place) in cns(&record)? {
        delta.put(CntlrSpecKey(cn, ids.da), cntlr_spec(&record, place));
    }
    delta.put(DaKey(record.da_name.clone()), record.clone());
    bounded(&record, &delta)?;
    Ok((delta, record))
}

/// Books of the DNs that change, and the members of each mirror set.
type Allocated = (Vec<Vec<v1::Member>>, BTreeMap<DnId, v1::DnCapacity>);

fn allocate(
    view: &CreateView<'_>,
    new: &NewDa,
    placement: &Placement,
    ids: &Ids,
) -> Result<Allocated, Error> {
    let size = new.leg_size();
    let promise = qos::of_vd(&new.qos, new.stripes);
    let mut books: BTreeMap<DnId, v1::DnCapacity> = BTreeMap::new();
    let mut stale = BTreeSet::new();
    let mut vds = ids.vds.iter();
    let mut sets = Vec::new();
    for slots in &placement.sets {
        let mut set = Vec::new();
        let mut locations = BTreeSet::new();
        for slot in slots {
            let vd =
                *vds.next().ok_or_else(|| Error::broken(&new.da_name, "fewer ids than virtual disks"))?;
            let Some((place, capacity)) =
                view.dns.get(&slot.dn).and_then(|p| Some((p, p.capacity.as_ref()?)))
            else {
                stale.insert(slot.dn);
                continue;
            };
            let capacity = books.entry(slot.dn).or_insert_with(|| capacity.clone());
            let location = if capacity.location.is_empty() {
                (true, &capacity.dn_id)
            } else {
                (false, &capacity.location)
            };
            let apart = locations.insert((location.0, location.1.clone()));
            let pd_id = slot.pd.to_string();
            let pd = capacity.pds.iter_mut().find(|p| p.pd_id == pd_id);
            let bytes = pd.as_ref().map_or(0, |p| round_up(size.vd_bytes, p.cluster_bytes));
            let fits = !capacity.offline && apart && pd.is_some_and(|p| pd::allocate(p, bytes, &promise));
            if !fits {
                stale.insert(slot.dn);
            }
            set.push(v1::Member {
                vd_id: vd.into(),
                dn_id: slot.dn.into(),
                dn_address: capacity.address.clone(),
                pd_id,
                nqn: OwnedName::VdSubsystem(vd, None).to_string(),
                listener: Some(place.listener.clone()),
                size_bytes: bytes,
            });
        }
        sets.push(set);
    }
    if stale.is_empty() {
        return Ok((sets, books));
    }
    Err(Error::PlacementStale { dns: stale.into_iter().collect(), cns: Vec::new() })
}

fn occupy(view: &CreateView<'_>, cn: CnId) -> Result<v1::CnCapacity, Error> {
    let fits = |c: &&v1::CnCapacity| !c.offline && c.live_cntlrs + c.deleting_cntlrs < c.max_cntlrs;
    let books = view.cn.capacity.as_ref().filter(fits);
    let books = books.ok_or_else(|| Error::PlacementStale { dns: Vec::new(), cns: vec![cn] })?;
    Ok(v1::CnCapacity { live_cntlrs: books.live_cntlrs + 1, ..books.clone() })
}

fn record(
    view: &CreateView<'_>,
    new: &NewDa,
    placement: &Placement,
    ids: &Ids,
    sets: Vec<Vec<v1::Member>>,
    now_ms: i64,
    cn_address: &str,
) -> v1::DaRecord {
    let size = new.leg_size();
    v1::DaRecord {
        schema_version: SCHEMA_VERSION,
        da_id: ids.da.into(),
        da_name: new.da_name.clone(),
        size_bytes: new.size_bytes,
        physical_size_bytes: size.physical_bytes,
        stripes: new.stripes,
        strip_size_kib: new.strip_size_kib,
        replicas: new.replicas,
        qos: Some(new.qos),
        volume_uuid: ids.volume_uuid.clone(),
        legs: vec![leg(new, &size, ids.cntlr, sets)],
        cntlrs: vec![v1::CntlrPlace {
            cntlr_id: ids.cntlr.into(),
            cntlr_index: 0,
            cn_id: placement.cn.into(),
            cn_address: cn_address.to_owned(),
            listener: Some(view.cn.listener.clone()),
            primary: true,
        }],
        exps: Vec::new(),
        created_ms: now_ms,
    }
}

fn leg(new: &NewDa, size: &LegSize, cntlr: CntlrId, sets: Vec<Vec<v1::Member>>) -> v1::LegSpec {
    const LEG: u32 = 0;
    const FIRST_EPOCH: u64 = 1;
    let sets = (0_u32..).zip(sets).map(|(stripe, members)| v1::MirrorSet { stripe, members }).collect();
    v1::LegSpec {
        leg: LEG,
        epoch: FIRST_EPOCH,
        owner_nqn: OwnedName::Owner { cntlr, leg: LEG, epoch: FIRST_EPOCH }.to_string(),
        cluster_bytes: size.cluster_bytes,
        md_pages_per_cluster_ratio: size.md_pages_per_cluster_ratio,
        groups: vec![v1::GroupSpec { group: 0, strip_size_kib: new.strip_size_kib, sets }],
    }
}

/// One operation is left for the answer to the request.
fn bounded(record: &v1::DaRecord, delta: &Delta) -> Result<(), Error> {
    if delta.ops() < MAX_TXN_OPS {
        return Ok(());
    }
    Err(Error::broken(
        resource(record),
        format!("its change takes {} operations, etcd allows {MAX_TXN_OPS}", delta.ops()),
    ))
}

/// What a change of an existing DA depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub record: &'a Versioned<v1::DaRecord>,
    /// Books of all DNs the DA is on.
    pub dns: &'a BTreeMap<DnId, v1::DnCapacity>,
    /// Books of all CNs the DA is on.
    pub cns: &'a BTreeMap<CnId, v1::CnCapacity>,
}

/// Removes a DA; what is on nodes becomes tombstones, which hold the space until the nodes have confirmed.
///
/// # Errors
/// [`Error::Changed`], [`Error::InUse`] by its EXPs.
pub fn delete(view: View<'_>, revision: u64, now_ms: i64) -> Result<Delta, Error> {
    let record = &view.record.value;
    check_revision(|| resource(record), revision, view.record.revision)?;
    if !record.exps.is_empty() {
        let by = record.exps.iter().map(|e| format!("EXP {}/{}", record.da_name, e.exp_name)).collect();
        return Err(Error::InUse { resource: resource(record), by });
    }
    let da = da_id(record)?;
    let mut delta = Delta::default();
    let shares = shares(record)?;
    for (dn, share) in &shares {
        delta.put(DnCapacityKey(*dn), vds_deleting(dn_books(&view, *dn)?, share)?);
        delta.put(DnShareKey(*dn, da), v1::DnShare { deleting: true, ..share.clone() });
    }
    for (cn, place) in cns(record)? {
        let books = view
            .cns
            .get(&cn)
            .ok_or_else(|| Error::broken(resource(record), format!("CN {cn} has no books")))?;
        let live_cntlrs = less(books.live_cntlrs, "live_cntlrs", &books.address)?;
        let capacity =
            v1::CnCapacity { live_cntlrs, deleting_cntlrs: books.deleting_cntlrs + 1, ..books.clone() };
        delta.put(CnCapacityKey(cn), capacity);
        delta.put(CntlrSpecKey(cn, da), v1::CntlrSpec { deleting: true, ..cntlr_spec(record, place) });
    }
    delta.delete(DaKey(record.da_name.clone()));
    delta.put(
        DaTombstoneKey(da),
        v1::DaTombstone {
            schema_version: SCHEMA_VERSION,
            da_id: da.into(),
            da_name: record.da_name.clone(),
            dn_ids: shares.keys().map(ToString::to_string).collect(),
            cn_ids: record.cntlrs.iter().map(|c| c.cn_id.clone()).collect(),
            legs: u32::try_from(record.legs.len()).unwrap_or(u32::MAX),
            created_ms: now_ms,
        },
    );
    bounded(record, &delta)?;
    Ok(delta)
}

fn dn_books<'a>(view: &View<'a>, dn: DnId) -> Result<&'a v1::DnCapacity, Error> {
    view.dns
        .get(&dn)
        .ok_or_else(|| Error::broken(resource(&view.record.value), format!("DN {dn} has no books")))
}

/// One less of a count.
pub(crate) fn less(count: u32, what: &str, whose: &str) -> Result<u32, Error> {
    count.checked_sub(1).ok_or_else(|| Error::broken(whose, format!("{what} is 0 and one is taken away")))
}

fn vds_deleting(books: &v1::DnCapacity, share: &v1::DnShare) -> Result<v1::DnCapacity, Error> {
    let mut books = books.clone();
    for vd in &share.vds {
        let pd = pd_books(&mut books, &vd.pd_id)?;
        pd.live_vds = less(pd.live_vds, "live_vds", &pd.pd_name)?;
        pd.deleting_vds += 1;
    }
    Ok(books)
}

/// The books of one PD.
pub(crate) fn pd_books<'a>(
    books: &'a mut v1::DnCapacity,
    pd_id: &str,
) -> Result<&'a mut v1::PdCapacity, Error> {
    let address = books.address.clone();
    let found = books.pds.iter_mut().find(|p| p.pd_id == pd_id);
    found.ok_or_else(|| Error::broken(format!("DN {address}"), format!("PD {pd_id} is not in its books")))
}

/// Changes the limits of a DA, if its PDs can promise them.
///
/// # Errors
/// [`Error::Changed`]; [`Error::NoPlace`] if a PD's budget does not last.
pub fn modify(view: View<'_>, revision: u64, qos: Option<v1::Qos>) -> Result<(Delta, v1::DaRecord), Error> {
    let old = &view.record.value;
    check_revision(|| resource(old), revision, view.record.revision)?;
    let record = v1::DaRecord { qos: qos.or(old.qos), ..old.clone() };
    let mut delta = Delta::default();
    if record == *old {
        return Ok((delta, record));
    }
    let da = da_id(old)?;
    for (dn, share) in shares(&record)? {
        let books = dn_books(&view, dn)?;
        let changed = promise_changes(books, &share, old, &record)?;
        if changed != *books {
            delta.put(DnCapacityKey(dn), changed);
        }
        delta.put(DnShareKey(dn, da), share);
    }
    for (cn, place) in cns(&record)? {
        delta.put(CntlrSpecKey(cn, da), cntlr_spec(&record, place));
    }
    delta.put(DaKey(record.da_name.clone()), record.clone());
    bounded(&record, &delta)?;
    Ok((delta, record))
}

fn promise_changes(
    books: &v1::DnCapacity,
    share: &v1::DnShare,
    old: &v1::DaRecord,
    new: &v1::DaRecord,
) -> Result<v1::DnCapacity, Error> {
    use crate::allocator::{Refusal, RefusedCandidate, Rule};
    let before = qos::of_vd(&old.qos.unwrap_or_default(), old.stripes);
    let after = qos::of_vd(&new.qos.unwrap_or_default(), new.stripes);
    let mut books = books.clone();
    let address = books.address.clone();
    for vd in &share.vds {
        let pd = pd_books(&mut books, &vd.pd_id)?;
        let others = qos::minus(&pd.qos_used.unwrap_or_default(), &before);
        let failed = qos::exceeded(&pd.qos_budget.unwrap_or_default(), &others, &after);
        if !failed.is_empty() {
            let name = format!("PD {address}/{}", pd.pd_name);
            let candidates =
                vec![RefusedCandidate { name, failed: failed.into_iter().map(Rule::NoQos).collect() }];
            let wanted = format!("the new limits of DA {}", new.da_name);
            return Err(Error::NoPlace(Box::new(Refusal { wanted, candidates })));
        }
        pd.qos_used = Some(qos::plus(&others, &after));
    }
    Ok(books)
}
