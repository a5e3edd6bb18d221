//! The resources of a disk node and their rules.

use std::fmt;

use vda_model::ids::{BootId, DaId, PdId, VdId};
use vda_model::names::OwnedName;
use vda_reconcile::parts::export::{ExportAction, ExportSpec, ExportState, ExportVerdict};
use vda_reconcile::parts::lvol::{LvolAction, LvolSpec, LvolState};
use vda_reconcile::parts::lvstore::{LvstoreAction, LvstoreState, bring_up};
use vda_reconcile::{Actual, Domain, Refusal, Removal, Verdict};

use crate::backend::{Backend, BdevState, Module};

/// A component of a disk node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Pd(PdId),
    /// The VDs of a DA.
    Share(DaId),
    /// What is left of a VD that no share mentions.
    Stray(VdId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pd(id) => write!(f, "pd {id}"),
            Self::Share(id) => write!(f, "share of da {id}"),
            Self::Stray(id) => write!(f, "stray vd {id}"),
        }
    }
}

/// A resource of a disk node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    Bdev(PdId),
    Lvstore(PdId),
    /// All lvols of a PD's lvstore; absent when there are none.
    Contents(PdId),
    Lvol(PdId, VdId),
    /// Of a mirrored VD with a boot in its name.
    Export(VdId, Option<BootId>),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bdev(pd) => OwnedName::PdBdev(*pd).fmt(f),
            Self::Lvstore(pd) => OwnedName::PdLvstore(*pd).fmt(f),
            Self::Contents(pd) => write!(f, "lvols of {}", OwnedName::PdLvstore(*pd)),
            Self::Lvol(pd, vd) => OwnedName::VdBdev(*pd, *vd).fmt(f),
            Self::Export(vd, boot) => OwnedName::VdSubsystem(*vd, *boot).fmt(f),
        }
    }
}

/// What a resource should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Bdev(Backend),
    Lvstore {
        bdev: String,
        initialised: bool,
        volatile: bool,
    },
    Lvol {
        lvol: LvolSpec,
        initialised: bool,
    },
    Export(Box<ExportSpec>),
    /// The VD cannot be exported where it should be.
    NoExport(String),
}

/// What a resource is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Bdev(BdevState),
    Lvstore(LvstoreState),
    Contents(Vec<String>),
    Lvol(LvolState),
    Export(Box<ExportState>),
}

/// A call to the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    CreateBdev {
        pd: PdId,
        backend: Backend,
    },
    DeleteBdev {
        pd: PdId,
        module: Module,
    },
    /// Fails if the medium holds something of others, unless `lvstore` is there now.
    Inspect {
        filename: String,
        lvstore: String,
    },
    Lvstore(LvstoreAction),
    Lvol(LvolAction),
    Export(ExportAction),
}

/// The family of resources of a disk node.
#[derive(Debug, Clone, PartialEq)]
pub struct Disk;

impl Domain for Disk {
    type Id = Id;
    type Spec = Spec;
    type State = State;
    type Action = Action;

    fn judge(id: &Id, spec: &Spec, actual: &Actual<Self>) -> Verdict<Self> {
        match (id, spec) {
            (Id::Bdev(pd), Spec::Bdev(backend)) => judge_bdev(*pd, backend, actual.known(id)),
            (Id::Lvstore(pd), Spec::Lvstore { bdev, initialised, volatile }) => {
                judge_lvstore(*pd, bdev, *initialised, *volatile, actual)
            }
            (Id::Lvol(..), Spec::Lvol { lvol, initialised }) => {
                judge_lvol(lvol, *initialised, actual.known(id))
            }
            (Id::Export(..), Spec::NoExport(why)) => {
                Verdict::Refuse(Refusal { op: "listener", message: why.clone() })
            }
            (Id::Export(vd, _), Spec::Export(export)) => judge_export(id, *vd, export, actual),
            // A spec is made together with its id.
            _ => Verdict::Refuse(Refusal {
                op: "reconcile",
                message: format!("{id} has the spec of something else"),
            }),
        }
    }

    fn remove(id: &Id, state: &State, erase: bool, _actual: &Actual<Self>) -> Removal<Self> {
        match (id, state) {
            (Id::Bdev(pd), State::Bdev(bdev)) => {
                let destructive = bdev.module == Module::Malloc;
                Removal::Steps {
                    actions: vec![Action::DeleteBdev { pd: *pd, module: bdev.module }],
                    destructive,
                }
            }
            (Id::Lvstore(_), _) if erase => {
                let delete = LvstoreAction::Delete { name: id.to_string() };
                Removal::Steps { actions: vec![Action::Lvstore(delete)], destructive: true }
            }
            (Id::Lvol(..), _) if erase => {
                let delete = LvolAction::Delete { alias: id.to_string() };
                Removal::Steps { actions: vec![Action::Lvol(delete)], destructive: true }
            }
            (Id::Export(..), _) => {
                let delete = ExportAction::Delete { nqn: id.to_string() };
                Removal::Steps { actions: vec![Action::Export(delete)], destructive: false }
            }
            _ => Removal::WithBase,
        }
    }
}

fn judge_bdev(pd: PdId, backend: &Backend, found: Option<&State>) -> Verdict<Disk> {
    let Some(State::Bdev(found)) = found else {
        let actions = vec![Action::CreateBdev { pd, backend: backend.clone() }];
        return Verdict::Create { actions, destructive: false };
    };
    match found.mismatch(backend) {
        Some(message) => Verdict::Refuse(Refusal { op: "bdev_get_bdevs", message }),
        None => Verdict::Fine,
    }
}

fn judge_lvstore(
    pd: PdId,
    bdev: &str,
    initialised: bool,
    volatile: bool,
    actual: &Actual<Disk>,
) -> Verdict<Disk> {
    if let Some(State::Lvstore(found)) = actual.known(&Id::Lvstore(pd)) {
        if found.base == bdev {
            return Verdict::Fine;
        }
        let message = format!("the PD's lvstore is on bdev {}, not on {bdev}", found.base);
        return Verdict::Refuse(Refusal { op: "bdev_lvol_get_lvstores", message });
    }
    let Some(State::Bdev(base)) = actual.known(&Id::Bdev(pd)) else {
        return Verdict::Wait(format!("bdev {bdev}"));
    };
    let name = OwnedName::PdLvstore(pd).to_string();
    let missing = if volatile {
        "its content is lost: a malloc disk is volatile, and the data plane was restarted. Delete what was on it, and the PD"
            .to_owned()
    } else {
        format!(
            "it was initialised, but holds no lvstore {name} now: another or a wiped medium? It is never formatted again"
        )
    };
    let calls = bring_up(&name, bdev, initialised, missing, base.format());
    let mut actions: Vec<Action> = calls.into_iter().map(Action::Lvstore).collect();
    if let (false, Some(filename)) = (initialised, &base.filename) {
        // After the examine, before the format.
        let inspect = Action::Inspect { filename: filename.clone(), lvstore: name };
        actions.insert(actions.len() - 1, inspect);
    }
    Verdict::Create { actions, destructive: !initialised }
}

fn judge_lvol(lvol: &LvolSpec, initialised: bool, found: Option<&State>) -> Verdict<Disk> {
    let wrap = |actions: Vec<LvolAction>| actions.into_iter().map(Action::Lvol).collect::<Vec<_>>();
    match found {
        Some(State::Lvol(found)) => match lvol.adjust(found) {
            actions if actions.is_empty() => Verdict::Fine,
            actions => Verdict::Update(wrap(actions)),
        },
        _ if initialised => Verdict::Refuse(Refusal {
            op: "bdev_lvol_get_lvols",
            message: "it was created once and is not there now: its data is lost. It is never created again"
                .to_owned(),
        }),
        _ => Verdict::Create { actions: wrap(lvol.create()), destructive: true },
    }
}

fn judge_export(id: &Id, vd: VdId, export: &ExportSpec, actual: &Actual<Disk>) -> Verdict<Disk> {
    let wrap = |actions: Vec<ExportAction>| actions.into_iter().map(Action::Export).collect::<Vec<_>>();
    let Some(State::Export(found)) = actual.known(id) else {
        return Verdict::Create { actions: wrap(export.create()), destructive: false };
    };
    let bdev = actual.seen.iter().find_map(|(id, seen)| match (id, seen.state.known()) {
        (Id::Lvol(_, of), Some(State::Lvol(lvol))) if *of == vd => Some(lvol.bdev.as_str()),
        _ => None,
    });
    match export.adjust(found, bdev) {
        ExportVerdict::Fine => Verdict::Fine,
        ExportVerdict::Adjust(actions) => Verdict::Update(wrap(actions)),
        ExportVerdict::Remake => Verdict::Remove,
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
