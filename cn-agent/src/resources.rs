//! The resources of a controller node and their rules.

use std::collections::BTreeSet;
use std::fmt;

use vda_model::ids::{DaId, VdId};
use vda_model::names::{OwnedName, SetPosition};
use vda_reconcile::parts::export::{ExportAction, ExportSpec, ExportState, ExportVerdict};
use vda_reconcile::parts::lvol::{LvolAction, LvolSpec, LvolState};
use vda_reconcile::parts::lvstore::{Format, LvstoreAction, LvstoreState, bring_up};
use vda_reconcile::{Actual, Domain, Observed, Refusal, Removal, Verdict};
use vda_spdk::{BdevNvmeAttachController, BdevRaidCreate, ControllerState, RaidLevel, Trid};

use crate::mirror::{self, MirrorSpec, MirrorState};

/// A component of a controller node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A DA's controller.
    Da(DaId),
    /// An export that no controller mentions.
    Stray(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Da(id) => write!(f, "controller of da {id}"),
            Self::Stray(nqn) => write!(f, "stray export {nqn}"),
        }
    }
}

/// A resource of a controller node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// An attached VD: its NVMe controller and bdev.
    Member(DaId, VdId),
    /// A placeholder of an empty slot.
    Spare(DaId, SetPosition, u32),
    Mirror(DaId, SetPosition),
    Group(DaId, u32, u32),
    Concat(DaId, u32),
    Lvstore(DaId, u32),
    Volume(DaId, u32),
    /// By NQN.
    Export(String),
}

impl Id {
    /// What it is called in the data plane (a member: its NVMe controller).
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Member(da, vd) => OwnedName::AttachedController(*da, *vd).to_string(),
            Self::Spare(da, set, slot) => {
                OwnedName::SparePlaceholder { da: *da, set: *set, slot: *slot }.to_string()
            }
            Self::Mirror(da, set) => OwnedName::MirrorSet(*da, *set).to_string(),
            Self::Group(da, leg, group) => OwnedName::Group { da: *da, leg: *leg, group: *group }.to_string(),
            Self::Concat(da, leg) => OwnedName::Concat { da: *da, leg: *leg }.to_string(),
            Self::Lvstore(da, leg) => OwnedName::LegLvstore { da: *da, leg: *leg }.to_string(),
            Self::Volume(da, leg) => OwnedName::VolumeBdev { da: *da, leg: *leg }.to_string(),
            Self::Export(nqn) => nqn.clone(),
        }
    }

    /// The resource whose bdev has this name.
    pub(crate) fn of_bdev(name: &str) -> Option<Self> {
        use vda_model::names::Namespace;
        match OwnedName::parse(Namespace::Bdev, name)? {
            OwnedName::AttachedBdev(da, vd) => Some(Self::Member(da, vd)),
            OwnedName::SparePlaceholder { da, set, slot } => Some(Self::Spare(da, set, slot)),
            OwnedName::MirrorSet(da, set) => Some(Self::Mirror(da, set)),
            OwnedName::Group { da, leg, group } => Some(Self::Group(da, leg, group)),
            OwnedName::Concat { da, leg } => Some(Self::Concat(da, leg)),
            OwnedName::VolumeBdev { da, leg } => Some(Self::Volume(da, leg)),
            _ => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Name of the bdev of an attached VD.
pub(crate) fn member_bdev(da: DaId, vd: VdId) -> String {
    OwnedName::AttachedBdev(da, vd).to_string()
}

/// What a resource should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Member(Box<BdevNvmeAttachController>),
    /// There for a moment while its mirror set is made.
    Spare(SetPosition),
    Mirror(MirrorSpec),
    /// raid0 or concat.
    Stack(Box<BdevRaidCreate>),
    Lvstore {
        bdev: String,
        initialised: bool,
        format: Format,
    },
    Volume {
        lvol: LvolSpec,
        initialised: bool,
    },
    Export {
        export: Box<ExportSpec>,
        volume: Id,
    },
    /// It cannot be made here.
    Never(Refusal),
}

/// What an attached VD is.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberState {
    pub path: ControllerState,
    pub trid: Trid,
    pub hostnqn: String,
    /// Block size and number of blocks of its bdev; `None`: the VD is not visible.
    pub bdev: Option<(u32, u64)>,
}

/// What a resource is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Member(MemberState),
    Spare,
    Mirror(MirrorState),
    /// raid0 or concat: its level, base bdevs, and whether it is a bdev.
    Stack {
        level: RaidLevel,
        bases: Vec<String>,
        online: bool,
    },
    Lvstore(LvstoreState),
    Volume(LvolState),
    Export(Box<ExportState>),
}

/// A call to the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Attach(Box<BdevNvmeAttachController>),
    Detach { name: String },
    CreateNull { name: String, block_size: u32, blocks: u64 },
    DeleteNull { name: String },
    CreateRaid(Box<BdevRaidCreate>),
    DeleteRaid { name: String },
    AddBase { raid: String, bdev: String },
    RemoveBase { bdev: String },
    Lvstore(LvstoreAction),
    Lvol(LvolAction),
    Export(ExportAction),
}

/// The family of resources of a controller node.
#[derive(Debug, Clone, PartialEq)]
pub struct Array;

impl Domain for Array {
    type Id = Id;
    type Spec = Spec;
    type State = State;
    type Action = Action;

    fn judge(id: &Id, spec: &Spec, actual: &Actual<Self>) -> Verdict<Self> {
        match (id, spec) {
            (_, Spec::Never(refusal)) => Verdict::Refuse(refusal.clone()),
            (_, Spec::Member(attach)) => judge_member(id, attach, actual),
            (Id::Spare(da, ..), Spec::Spare(set)) => mirror::judge_spare(id, &Id::Mirror(*da, *set), actual),
            (Id::Mirror(..), Spec::Mirror(mirror)) => mirror::judge(id, mirror, actual),
            (_, Spec::Stack(create)) => judge_stack(create, actual.known(id)),
            (_, Spec::Lvstore { bdev, initialised, format }) => {
                judge_lvstore(&id.name(), bdev, *initialised, format, actual.known(id))
            }
            (_, Spec::Volume { lvol, initialised }) => judge_volume(lvol, *initialised, actual.known(id)),
            (_, Spec::Export { export, volume }) => {
                judge_export(export, actual.known(id), actual.known(volume))
            }
            // A spec is made together with its id.
            _ => Verdict::Refuse(Refusal {
                op: "reconcile",
                message: format!("{id} has the spec of something else"),
            }),
        }
    }

    fn remove(id: &Id, _state: &State, _erase: bool, _actual: &Actual<Self>) -> Removal<Self> {
        let action = match id {
            Id::Member(..) => Action::Detach { name: id.name() },
            Id::Spare(..) => Action::DeleteNull { name: id.name() },
            Id::Mirror(..) | Id::Group(..) | Id::Concat(..) => Action::DeleteRaid { name: id.name() },
            // INVARIANT: a controller node destroys nothing; the contents of an array go with its VDs.
            Id::Lvstore(..) | Id::Volume(..) => return Removal::WithBase,
            Id::Export(nqn) => Action::Export(ExportAction::Delete { nqn: nqn.clone() }),
        };
        Removal::Steps { actions: vec![action], destructive: false }
    }

    fn usable(_id: &Id, state: &State) -> bool {
        match state {
            State::Member(member) => member.path == ControllerState::Enabled && member.bdev.is_some(),
            State::Mirror(mirror) => mirror.usable(),
            State::Stack { online, .. } => *online,
            State::Spare | State::Lvstore(_) | State::Volume(_) | State::Export(_) => true,
        }
    }

    fn falls(id: &Id, sits_on: &BTreeSet<Id>, doomed: &BTreeSet<Id>) -> bool {
        match id {
            // A mirror set stands as long as one of its members does.
            Id::Mirror(..) => !sits_on.is_empty() && sits_on.iter().all(|base| doomed.contains(base)),
            _ => sits_on.iter().any(|base| doomed.contains(base)),
        }
    }
}

fn judge_member(id: &Id, attach: &BdevNvmeAttachController, actual: &Actual<Array>) -> Verdict<Array> {
    let Some(State::Member(found)) = actual.known(id) else {
        if attach.subnqn.is_none() {
            return Verdict::Wait("the boot of the node is not known yet".to_owned());
        }
        let actions = vec![Action::Attach(Box::new(attach.clone()))];
        return Verdict::Create { actions, destructive: false };
    };
    let same = Some(&found.hostnqn) == attach.hostnqn.as_ref()
        && found.trid.traddr.as_ref() == Some(&attach.traddr)
        && found.trid.trsvcid == attach.trsvcid;
    if !same {
        return Verdict::Remove;
    }
    if attach.subnqn.is_some() && found.trid.subnqn != attach.subnqn {
        // The name changes with the boot of the node. Its mirror set lets go of it, and stays if it can.
        let held = actual.seen.iter().any(|(on, seen)| {
            let holds = match seen.state {
                Observed::Known(_) => seen.sits_on.contains(id),
                Observed::Unknown => true,
                Observed::Absent => false,
            };
            matches!(on, Id::Mirror(..)) && holds
        });
        return match held {
            true => Verdict::Wait("the node was started anew, the VD has to be rebuilt".to_owned()),
            false => Verdict::Remove,
        };
    }
    match (found.path, found.bdev) {
        (ControllerState::Enabled, Some(_)) => Verdict::Fine,
        (ControllerState::Enabled, None) => Verdict::Wait("VD not exported yet".to_owned()),
        _ => Verdict::Wait("VD not reachable, connecting again".to_owned()),
    }
}

fn judge_stack(create: &BdevRaidCreate, found: Option<&State>) -> Verdict<Array> {
    match found {
        None => Verdict::Create {
            actions: vec![Action::CreateRaid(Box::new(create.clone()))],
            destructive: false,
        },
        Some(State::Stack { online: true, .. }) => Verdict::Fine,
        // It lost a base, or never had all of them: it holds nothing by itself and is made again.
        Some(_) => Verdict::Remove,
    }
}

fn judge_lvstore(
    name: &str,
    bdev: &str,
    initialised: bool,
    format: &Format,
    found: Option<&State>,
) -> Verdict<Array> {
    match found {
        Some(State::Lvstore(found)) if found.base == bdev => Verdict::Fine,
        Some(State::Lvstore(found)) => {
            let message = format!("the lvstore is on bdev {}, not on {bdev}", found.base);
            Verdict::Refuse(Refusal { op: "bdev_lvol_get_lvstores", message })
        }
        _ => {
            let missing = format!(
                "the array was initialised, but its members hold no lvstore {name} now: they are never formatted again"
            );
            let actions = bring_up(name, bdev, initialised, missing, format.clone());
            Verdict::Create {
                actions: actions.into_iter().map(Action::Lvstore).collect(),
                destructive: !initialised,
            }
        }
    }
}

fn judge_volume(lvol: &LvolSpec, initialised: bool, found: Option<&State>) -> Verdict<Array> {
    let wrap = |actions: Vec<LvolAction>| actions.into_iter().map(Action::Lvol).collect::<Vec<_>>();
    match found {
        Some(State::Volume(found)) => match lvol.adjust(found) {
            actions if actions.is_empty() => Verdict::Fine,
            actions => Verdict::Update(wrap(actions)),
        },
        _ if initialised => Verdict::Refuse(Refusal {
            op: "bdev_lvol_get_lvols",
            message: "the volume was created once and is not there now: its data is lost. It is never created again"
                .to_owned(),
        }),
        _ => Verdict::Create { actions: wrap(lvol.create()), destructive: true },
    }
}

fn judge_export(export: &ExportSpec, found: Option<&State>, volume: Option<&State>) -> Verdict<Array> {
    let wrap = |actions: Vec<ExportAction>| actions.into_iter().map(Action::Export).collect::<Vec<_>>();
    let Some(State::Export(found)) = found else {
        return Verdict::Create { actions: wrap(export.create()), destructive: false };
    };
    let bdev = match volume {
        Some(State::Volume(volume)) => Some(volume.bdev.as_str()),
        _ => None,
    };
    match export.adjust(found, bdev) {
        ExportVerdict::Fine => Verdict::Fine,
        ExportVerdict::Adjust(actions) => Verdict::Update(wrap(actions)),
        ExportVerdict::Remake => Verdict::Remove,
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
