//! Looking at a disk node.

use std::collections::BTreeSet;

use futures::future::join_all;
use vda_model::ids::{PdId, VdId};
use vda_model::names::{Namespace, OwnedName};
use vda_reconcile::parts::export::{self, ExportState};
use vda_reconcile::parts::lvol::LvolState;
use vda_reconcile::{Actual, Fault, Observed, rpc};
use vda_spdk::{BdevGetBdevs, BdevLvolGetLvols, BdevLvolGetLvstores, NvmfGetSubsystems, Rpc};

use crate::resources::{Disk, Id, State};

/// Looks at these, one call each.
pub(crate) async fn observe(target: &impl Rpc, ids: &BTreeSet<Id>) -> Actual<Disk> {
    let states = join_all(ids.iter().map(|id| look(target, *id))).await;
    let mut actual = Actual::default();
    for (id, state) in ids.iter().zip(states) {
        actual.saw(*id, state, bases(*id, ids));
    }
    actual
}

async fn look(target: &impl Rpc, id: Id) -> Observed<State> {
    match id {
        Id::Bdev(pd) => bdev(target, pd).await,
        Id::Lvstore(_) => rpc::lvstore(target, &id.to_string()).await.map(|l| State::Lvstore(l.into())),
        Id::Contents(pd) => contents(target, pd).await,
        Id::Lvol(..) => rpc::bdev(target, &id.to_string()).await.map(|b| State::Lvol(LvolState::from(&b))),
        Id::Export(..) => {
            export::observe(target, &id.to_string(), false).await.map(|e| State::Export(Box::new(e)))
        }
    }
}

/// A PCIe disk's bdev has another name than the others.
async fn bdev(target: &impl Rpc, pd: PdId) -> Observed<State> {
    let (plain, nvme) = (OwnedName::PdBdev(pd).to_string(), OwnedName::PdNvmeBdev(pd).to_string());
    let found = match futures::join!(rpc::bdev(target, &plain), rpc::bdev(target, &nvme)) {
        (Observed::Known(bdev), _) | (_, Observed::Known(bdev)) => Observed::Known(bdev),
        (Observed::Unknown, _) | (_, Observed::Unknown) => Observed::Unknown,
        (Observed::Absent, Observed::Absent) => Observed::Absent,
    };
    found.map(|b| State::Bdev(b.into()))
}

async fn contents(target: &impl Rpc, pd: PdId) -> Observed<State> {
    let lvs_name = Some(OwnedName::PdLvstore(pd).to_string());
    match target.call(BdevLvolGetLvols { lvs_name, lvs_uuid: None }).await {
        Ok(lvols) if lvols.is_empty() => Observed::Absent,
        Ok(lvols) => Observed::Known(State::Contents(lvols.into_iter().map(|l| l.name).collect())),
        Err(error) if error.is_not_found() => Observed::Absent,
        Err(_) => Observed::Unknown,
    }
}

/// What a resource is built on.
fn bases(id: Id, among: &BTreeSet<Id>) -> Vec<Id> {
    match id {
        Id::Bdev(_) => Vec::new(),
        Id::Lvstore(pd) => vec![Id::Bdev(pd)],
        Id::Contents(pd) | Id::Lvol(pd, _) => vec![Id::Lvstore(pd)],
        Id::Export(vd, _) => lvols_of(vd, among).collect(),
    }
}

fn lvols_of(vd: VdId, among: &BTreeSet<Id>) -> impl Iterator<Item = Id> + '_ {
    among.iter().filter(move |id| matches!(id, Id::Lvol(_, of) if *of == vd)).copied()
}

/// Everything of ours on the node.
pub(crate) async fn observe_all(target: &impl Rpc) -> Result<Actual<Disk>, Fault> {
    let (bdevs, lvstores, subsystems) = futures::try_join!(
        target.call(BdevGetBdevs::default()),
        target.call(BdevLvolGetLvstores::default()),
        target.call(NvmfGetSubsystems::default()),
    )?;
    let mut found = Vec::new();
    for bdev in bdevs {
        let names = std::iter::once(&bdev.name).chain(&bdev.aliases);
        let owned = names.filter_map(|name| OwnedName::parse(Namespace::Bdev, name)).next();
        match owned {
            Some(OwnedName::PdBdev(pd) | OwnedName::PdNvmeBdev(pd)) => {
                found.push((Id::Bdev(pd), State::Bdev(bdev.into())));
            }
            Some(OwnedName::VdBdev(pd, vd)) => {
                found.push((Id::Lvol(pd, vd), State::Lvol(LvolState::from(&bdev))));
            }
            _ => {}
        }
    }
    for lvstore in lvstores {
        if let Some(OwnedName::PdLvstore(pd)) = OwnedName::parse(Namespace::Lvstore, &lvstore.name) {
            found.push((Id::Lvstore(pd), State::Lvstore(lvstore.into())));
        }
    }
    for subsystem in subsystems {
        if let Some(OwnedName::VdSubsystem(vd, boot)) = OwnedName::parse(Namespace::Nqn, &subsystem.nqn) {
            found.push((Id::Export(vd, boot), State::Export(Box::new(ExportState { subsystem, ana: None }))));
        }
    }
    let ids: BTreeSet<Id> = found.iter().map(|(id, _)| *id).collect();
    let mut actual = Actual::default();
    for (id, state) in found {
        actual.saw(id, Observed::Known(state), bases(id, &ids));
    }
    Ok(actual)
}
