//! From a component's desired state to its resources.

use std::collections::BTreeSet;

use vda_model::ids::{BootId, PdId, VdId};
use vda_model::names::OwnedName;
use vda_reconcile::Desired;
use vda_reconcile::parts::export::{ExportSpec, NamespaceSpec};
use vda_reconcile::parts::lvol::LvolSpec;
use vda_spdk::ListenAddress;

use crate::identity::{ns_nguid, ns_uuid, serial};
use crate::report;
use crate::resources::{Disk, Id, Key, Spec};
use crate::want::{PdWant, ShareWant, VdWant, Want};

/// What the agent knows beside the desired state of one component.
pub(crate) trait Knowledge {
    /// Whether the ledger has this record.
    fn initialised(&self, record: &str) -> bool;

    /// Why nothing can be exported at `listener`.
    fn conflict(&self, listener: &ListenAddress) -> Option<String>;

    /// The boot of this node, which mirrored VDs are named by.
    fn boot(&self) -> BootId;

    /// Whether a VD that is not there can be taken for gone although the lvstore of its PD is not loaded: the PD is volatile (what was on
    /// it is lost), or is itself given up.
    fn given_up(&self, pd: PdId) -> bool;
}

/// The resources of a component.
pub(crate) fn desired(
    key: &Key,
    want: Option<&Want>,
    leftovers: &BTreeSet<Id>,
    knowledge: &impl Knowledge,
) -> Desired<Disk> {
    let mut desired = Desired::default();
    match (key, want) {
        (Key::Pd(id), Some(Want::Pd(pd))) => {
            let known = knowledge.initialised(&report::pd_record(*id));
            add_pd(&mut desired, *id, pd, known);
        }
        (_, Some(Want::Share(share))) => add_share(&mut desired, share, knowledge),
        _ => {}
    }
    for id in leftovers {
        match id {
            Id::Lvol(..) | Id::Export(..) => {
                desired.erase.insert(*id);
            }
            // A disk nobody mentions is let go, never erased, and not even that while there is something on it.
            Id::Bdev(pd) | Id::Lvstore(pd) => {
                desired.context.insert(Id::Contents(*pd));
            }
            Id::Contents(_) => {}
        }
    }
    desired
}

fn add_pd(desired: &mut Desired<Disk>, id: PdId, pd: &PdWant, known: bool) {
    if pd.deleting {
        desired.erase.extend([Id::Bdev(id), Id::Lvstore(id)]);
        desired.context.insert(Id::Contents(id));
        return;
    }
    let spec = Spec::Lvstore {
        bdev: pd.backend.bdev(id),
        initialised: pd.initialised || known,
        volatile: pd.backend.volatile(),
    };
    desired.want(Id::Bdev(id), Spec::Bdev(pd.backend.clone()), []);
    desired.want(Id::Lvstore(id), spec, [Id::Bdev(id)]);
}

fn add_share(desired: &mut Desired<Disk>, share: &ShareWant, knowledge: &impl Knowledge) {
    let conflict = knowledge.conflict(&share.listener);
    for (vd_id, vd) in &share.vds {
        let lvol = Id::Lvol(vd.pd, *vd_id);
        let name = export_id(*vd_id, vd, knowledge);
        desired.context.insert(Id::Lvstore(vd.pd));
        if share.deleting {
            desired.erase.extend([lvol, name]);
            continue;
        }
        let initialised = vd.initialised || knowledge.initialised(&report::vd_record(*vd_id));
        desired.want(lvol, Spec::Lvol { lvol: lvol_spec(*vd_id, vd), initialised }, [Id::Lvstore(vd.pd)]);
        let export = match &conflict {
            Some(why) => Spec::NoExport(why.clone()),
            None => Spec::Export(Box::new(export_spec(*vd_id, name, vd, &share.listener))),
        };
        desired.want(name, export, [lvol]);
    }
}

fn lvol_spec(id: VdId, vd: &VdWant) -> LvolSpec {
    LvolSpec {
        lvstore: OwnedName::PdLvstore(vd.pd).to_string(),
        name: OwnedName::VdLvol(id).to_string(),
        size_bytes: vd.size_bytes,
        limits: vd.limits,
    }
}

/// A mirrored VD's name ends with the boot of its node.
pub(crate) fn export_id(id: VdId, vd: &VdWant, knowledge: &impl Knowledge) -> Id {
    Id::Export(id, vd.mirrored.then(|| knowledge.boot()))
}

fn export_spec(id: VdId, name: Id, vd: &VdWant, listener: &ListenAddress) -> ExportSpec {
    ExportSpec {
        nqn: name.to_string(),
        serial_number: serial(id),
        model_number: "VDA virtual disk".to_owned(),
        cntlids: None,
        max_namespaces: 1,
        ana: None,
        hosts: BTreeSet::from([vd.owner.clone()]),
        listener: listener.clone(),
        namespace: NamespaceSpec {
            bdev: OwnedName::VdBdev(vd.pd, id).to_string(),
            uuid: ns_uuid(id),
            nguid: ns_nguid(id),
        },
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
