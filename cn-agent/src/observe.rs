//! Looking at a controller node.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use vda_model::names::{Namespace, OwnedName};
use vda_reconcile::parts::export::{self, ExportState};
use vda_reconcile::parts::lvol::LvolState;
use vda_reconcile::{Actual, Depth, Fault, Observed, rpc};
use vda_spdk::{
    Bdev, BdevGetBdevs, BdevLvolGetLvstores, BdevNvmeGetControllers, BdevRaidGetBdevs, NvmeControllerGroup,
    NvmfGetSubsystems, RaidCategory, RaidInfo, RaidState, Rpc,
};

use crate::mirror::MirrorState;
use crate::resources::{Array, Id, MemberState, State, member_bdev};

/// Looks at these, a call or two each.
pub(crate) async fn observe(target: &impl Rpc, ids: &BTreeSet<Id>, depth: Depth) -> Actual<Array> {
    let states = join_all(ids.iter().map(|id| look(target, id))).await;
    let mut found: BTreeMap<Id, Observed<State>> = ids.iter().cloned().zip(states).collect();
    if depth == Depth::Thorough {
        find_hidden_raids(target, &mut found).await;
    }
    with_bases(found)
}

async fn look(target: &impl Rpc, id: &Id) -> Observed<State> {
    let name = id.name();
    match id {
        Id::Member(da, vd) => member(target, &name, &member_bdev(*da, *vd)).await,
        Id::Spare(..) => rpc::bdev(target, &name).await.map(|_| State::Spare),
        Id::Mirror(..) | Id::Group(..) | Id::Concat(..) => match rpc::bdev(target, &name).await {
            Observed::Known(bdev) => raid_bdev(id, bdev),
            Observed::Absent => Observed::Absent,
            Observed::Unknown => Observed::Unknown,
        },
        Id::Lvstore(..) => rpc::lvstore(target, &name).await.map(|l| State::Lvstore(l.into())),
        Id::Volume(..) => rpc::bdev(target, &name).await.map(|b| State::Volume(LvolState::from(&b))),
        Id::Export(nqn) => export::observe(target, nqn, true).await.map(|e| State::Export(Box::new(e))),
    }
}

async fn member(target: &impl Rpc, controller: &str, bdev: &str) -> Observed<State> {
    let (controller, bdev) = futures::join!(rpc::controller(target, controller), rpc::bdev(target, bdev));
    match (controller, bdev) {
        (Observed::Known(controller), Observed::Known(bdev)) => member_state(controller, Some(&bdev)),
        (Observed::Known(controller), Observed::Absent) => member_state(controller, None),
        (Observed::Absent, Observed::Absent) => Observed::Absent,
        // A bdev without its controller: it is going away. Anything else: not known.
        _ => Observed::Unknown,
    }
}

fn member_state(group: NvmeControllerGroup, bdev: Option<&Bdev>) -> Observed<State> {
    let Some(path) = group.ctrlrs.into_iter().next() else { return Observed::Absent };
    Observed::Known(State::Member(MemberState {
        path: path.state,
        trid: path.trid,
        hostnqn: path.host.nqn,
        bdev: bdev.map(|b| (b.block_size, b.num_blocks)),
    }))
}

fn raid_bdev(id: &Id, bdev: Bdev) -> Observed<State> {
    match bdev.driver_specific.raid {
        Some(raid) => Observed::Known(raid_state(id, &raid)),
        // Something else has its name: not ours, and in the way.
        None => Observed::Unknown,
    }
}

fn raid_state(id: &Id, raid: &RaidInfo) -> State {
    match id {
        Id::Mirror(..) => State::Mirror(MirrorState::from(raid)),
        _ => State::Stack {
            level: raid.raid_level,
            bases: raid.base_bdevs_list.iter().filter_map(|slot| slot.name.clone()).collect(),
            online: raid.state == RaidState::Online,
        },
    }
}

/// A raid that is not online is no bdev: only a listing shows it.
async fn find_hidden_raids(target: &impl Rpc, found: &mut BTreeMap<Id, Observed<State>>) {
    let may_hide = |(id, state): &(&Id, &mut Observed<State>)| {
        matches!(id, Id::Mirror(..) | Id::Group(..) | Id::Concat(..)) && matches!(state, Observed::Absent)
    };
    let mut hidden = found.iter_mut().filter(may_hide).peekable();
    if hidden.peek().is_none() {
        return;
    }
    let raids = target.call(BdevRaidGetBdevs::new(RaidCategory::All)).await;
    match raids {
        Ok(raids) => {
            for (id, state) in hidden {
                let name = id.name();
                if let Some(raid) = raids.iter().find(|raid| raid.name == name) {
                    *state = Observed::Known(raid_state(id, &raid.info));
                }
            }
        }
        Err(_) => hidden.for_each(|(_, state)| *state = Observed::Unknown),
    }
}

/// Adds what each thing is built on.
fn with_bases(found: BTreeMap<Id, Observed<State>>) -> Actual<Array> {
    let volumes: BTreeMap<String, Id> = found
        .iter()
        .filter_map(|(id, state)| match state.known() {
            Some(State::Volume(volume)) => Some((volume.bdev.clone(), id.clone())),
            _ => None,
        })
        .collect();
    let mut actual = Actual::default();
    for (id, state) in found {
        let bases = bases(&id, &state, &volumes);
        actual.saw(id, state, bases);
    }
    actual
}

fn bases(id: &Id, state: &Observed<State>, volumes: &BTreeMap<String, Id>) -> Vec<Id> {
    match (id, state.known()) {
        (_, Some(State::Mirror(mirror))) => {
            mirror.slots.iter().flatten().filter_map(|name| Id::of_bdev(name)).collect()
        }
        (_, Some(State::Stack { bases, .. })) => bases.iter().filter_map(|name| Id::of_bdev(name)).collect(),
        (_, Some(State::Lvstore(lvstore))) => Id::of_bdev(&lvstore.base).into_iter().collect(),
        (Id::Volume(da, leg), _) => vec![Id::Lvstore(*da, *leg)],
        (_, Some(State::Export(export))) => {
            let namespaces = export.subsystem.namespaces.iter().flatten();
            namespaces.filter_map(|ns| volumes.get(&ns.bdev_name).cloned()).collect()
        }
        _ => Vec::new(),
    }
}

/// All mirror sets, with one call.
pub(crate) async fn mirrors(target: &impl Rpc) -> Result<BTreeMap<Id, MirrorState>, vda_spdk::Error> {
    let raids = target.call(BdevRaidGetBdevs::new(RaidCategory::All)).await?;
    let mirror = |raid: &vda_spdk::RaidBdev| match Id::of_bdev(&raid.name) {
        Some(id @ Id::Mirror(..)) => Some((id, MirrorState::from(&raid.info))),
        _ => None,
    };
    Ok(raids.iter().filter_map(mirror).collect())
}

/// Everything of ours on the node.
pub(crate) async fn observe_all(target: &impl Rpc) -> Result<Actual<Array>, Fault> {
    let (bdevs, controllers, raids, lvstores, subsystems) = futures::try_join!(
        target.call(BdevGetBdevs::default()),
        target.call(BdevNvmeGetControllers::default()),
        target.call(BdevRaidGetBdevs::new(RaidCategory::All)),
        target.call(BdevLvolGetLvstores::default()),
        target.call(NvmfGetSubsystems::default()),
    )?;
    let mut found = BTreeMap::new();
    let by_name: BTreeMap<&str, &Bdev> = bdevs.iter().map(|b| (b.name.as_str(), b)).collect();
    for controller in controllers {
        let name = OwnedName::parse(Namespace::NvmeController, &controller.name);
        if let Some(OwnedName::AttachedController(da, vd)) = name {
            let bdev = by_name.get(member_bdev(da, vd).as_str()).copied();
            found.insert(Id::Member(da, vd), member_state(controller, bdev));
        }
    }
    for raid in &raids {
        if let Some(id @ (Id::Mirror(..) | Id::Group(..) | Id::Concat(..))) = Id::of_bdev(&raid.name) {
            let state = raid_state(&id, &raid.info);
            found.insert(id, Observed::Known(state));
        }
    }
    for bdev in &bdevs {
        match std::iter::once(&bdev.name).chain(&bdev.aliases).find_map(|name| Id::of_bdev(name)) {
            Some(id @ Id::Spare(..)) => {
                found.insert(id, Observed::Known(State::Spare));
            }
            Some(id @ Id::Volume(..)) => {
                found.insert(id, Observed::Known(State::Volume(LvolState::from(bdev))));
            }
            _ => {}
        }
    }
    for lvstore in lvstores {
        if let Some(OwnedName::LegLvstore { da, leg }) = OwnedName::parse(Namespace::Lvstore, &lvstore.name) {
            found.insert(Id::Lvstore(da, leg), Observed::Known(State::Lvstore(lvstore.into())));
        }
    }
    for subsystem in subsystems {
        if let Some(OwnedName::ExpSubsystem { .. }) = OwnedName::parse(Namespace::Nqn, &subsystem.nqn) {
            let id = Id::Export(subsystem.nqn.clone());
            found.insert(id, Observed::Known(State::Export(Box::new(ExportState { subsystem, ana: None }))));
        }
    }
    Ok(with_bases(found))
}
