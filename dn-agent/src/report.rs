//! What a disk node tells about its PDs and shares.

use std::collections::BTreeSet;
use std::time::Duration;

use vda_model::ids::{PdId, VdId};
use vda_proto::v1::{PdStatus, ResourceStatus, ShareStatus, VdStatus};
use vda_reconcile::status::{self, Book};
use vda_reconcile::{Blocker, Report, Settled, Wanted};

use crate::driver::Status;
use crate::layout::{Knowledge, export_id};
use crate::resources::{Disk, Id, Key, State};
use crate::want::{PdWant, ShareWant, VdWant, Want};

/// How a ledger names a PD.
pub(crate) fn pd_record(pd: PdId) -> String {
    format!("pd:{pd}")
}

/// How a ledger names a VD.
pub(crate) fn vd_record(vd: VdId) -> String {
    format!("vd:{vd}")
}

/// What blocks everything while the data plane cannot be asked.
const DATA_PLANE: &str = "the data plane of the disk node";
/// A deletion that waits for a disk is looked at again after this time.
const RECHECK: Duration = Duration::from_secs(2);

pub(crate) fn report(
    node: &impl Knowledge,
    key: &Key,
    wanted: &Wanted<Want>,
    settled: &Settled<'_, Disk>,
    previous: Option<&Status>,
    book: &mut Book,
) -> Option<Report<Status>> {
    // What was not seen is not known to be otherwise than before.
    if settled.uncertain() && previous.is_some() {
        return None;
    }
    match (key, &wanted.want) {
        (Key::Pd(id), Want::Pd(pd)) => Some(report_pd(node, *id, pd, wanted.revision, settled, book)),
        (Key::Share(id), Want::Share(share)) => {
            let mut report = report_share(node, share, settled, book);
            if let Status::Share(status) = &mut report.status {
                status.da_id = id.to_string();
                status.observed_revision = wanted.revision;
            }
            Some(report)
        }
        _ => None,
    }
}

/// The status of one resource.
fn of(id: Id, settled: &Settled<'_, Disk>) -> ResourceStatus {
    if let Some(fault) = settled.failures.get(&id) {
        return status::failed(fault);
    }
    if let Some(refusal) = settled.plan.refused.get(&id) {
        return status::refused(refusal);
    }
    match settled.plan.root_blocker(&id) {
        Some(Blocker::Outside(words)) => status::blocked(words),
        Some(Blocker::Unknown(_)) => status::blocked(DATA_PLANE),
        Some(Blocker::On(on)) => match settled.failures.get(on) {
            Some(fault) => status::failed(fault),
            None => match settled.plan.refused.get(on) {
                Some(refusal) => status::refused(refusal),
                None => status::blocked(waits_for(*on)),
            },
        },
        None => status::ready(),
    }
}

fn waits_for(id: Id) -> String {
    match id {
        Id::Bdev(pd) | Id::Lvstore(pd) => format!("PD {pd}: not ready"),
        Id::Contents(pd) => format!("VDs that are still on PD {pd}"),
        Id::Lvol(_, vd) | Id::Export(vd, _) => format!("VD {vd}"),
    }
}

fn report_pd(
    node: &impl Knowledge,
    id: PdId,
    pd: &PdWant,
    revision: u64,
    settled: &Settled<'_, Disk>,
    book: &mut Book,
) -> Report<Status> {
    let parts = [of(Id::Bdev(id), settled), of(Id::Lvstore(id), settled)];
    let gone = pd.deleting && settled.gone([]);
    let record = pd_record(id);
    let mut status = PdStatus {
        pd_id: id.to_string(),
        initialised: pd.initialised || node.initialised(&record),
        observed_revision: revision,
        gone,
        ..PdStatus::default()
    };
    let mut initialised = BTreeSet::new();
    if let Some(State::Lvstore(lvstore)) = settled.actual.known(&Id::Lvstore(id)) {
        initialised.insert(record.clone());
        status.initialised = true;
        status.lvs_uuid.clone_from(&lvstore.uuid);
        status.cluster_bytes = lvstore.cluster_bytes;
        status.total_bytes = lvstore.total_clusters.saturating_mul(lvstore.cluster_bytes);
        status.free_bytes = lvstore.free_clusters.saturating_mul(lvstore.cluster_bytes);
    }
    status.status = Some(book.stamp("", deletion(pd.deleting, gone, status::worst(&parts))));
    let gone = if gone { BTreeSet::from([record]) } else { BTreeSet::new() };
    Report { status: Status::Pd(status), recheck: None, initialised, gone }
}

/// Of something that is being deleted, that it is, unless something is in the way.
fn deletion(deleting: bool, gone: bool, status: ResourceStatus) -> ResourceStatus {
    use vda_proto::v1::Condition;
    match status.condition() {
        Condition::Ready | Condition::Pending if deleting && !gone => status::deleting(),
        _ => status,
    }
}

fn report_share(
    node: &impl Knowledge,
    share: &ShareWant,
    settled: &Settled<'_, Disk>,
    book: &mut Book,
) -> Report<Status> {
    let vds: Vec<(bool, VdStatus)> =
        share.vds.iter().map(|(id, vd)| report_vd(node, *id, vd, share.deleting, settled, book)).collect();
    let gone = share.deleting && vds.iter().all(|(gone, _)| *gone);
    let seen = |id: &VdId, vd: &VdWant| settled.actual.known(&Id::Lvol(vd.pd, *id)).is_some();
    let records = |pick: &dyn Fn(&VdId, &VdWant) -> bool| -> BTreeSet<String> {
        share.vds.iter().filter(|(id, vd)| pick(id, vd)).map(|(id, _)| vd_record(*id)).collect()
    };
    Report {
        initialised: records(&seen),
        gone: if gone { records(&|_, _| true) } else { BTreeSet::new() },
        recheck: (share.deleting && !gone).then_some(RECHECK),
        status: Status::Share(ShareStatus {
            gone,
            vds: vds.into_iter().map(|(_, status)| status).collect(),
            ..ShareStatus::default()
        }),
    }
}

/// Whether nothing of it is left, and its status.
fn report_vd(
    node: &impl Knowledge,
    id: VdId,
    vd: &VdWant,
    deleting: bool,
    settled: &Settled<'_, Disk>,
    book: &mut Book,
) -> (bool, VdStatus) {
    let (lvol, export) = (Id::Lvol(vd.pd, id), export_id(id, vd, node));
    let absent = settled.actual.absent(&lvol) && settled.actual.absent(&export);
    // An lvol is not gone because its lvstore is not loaded.
    let disk_seen = settled.actual.usable(&Id::Lvstore(vd.pd)) || node.given_up(vd.pd);
    let gone = deleting && absent && disk_seen;
    let mut condition = status::worst(&[of(lvol, settled), of(export, settled)]);
    if deleting && absent && !disk_seen {
        condition = status::blocked(waits_for(Id::Lvstore(vd.pd)));
    }
    let exported_to = match settled.actual.known(&export) {
        Some(State::Export(export)) => export.only_host().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let there = settled.actual.known(&lvol).is_some();
    let status = VdStatus {
        vd_id: id.to_string(),
        status: Some(book.stamp(&id.to_string(), deletion(deleting, gone, condition))),
        initialised: vd.initialised || there || node.initialised(&vd_record(id)),
        exported_to,
    };
    (gone, status)
}
