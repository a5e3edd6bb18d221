//! The rules of a disk node, played against a strict model of its data plane and its disks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use vda_model::ids::DaId;
use vda_model::names::Namespace;
use vda_reconcile::parts::export::{ExportAction, ExportState};
use vda_reconcile::parts::lvol::{Limits, LvolAction, LvolState};
use vda_reconcile::parts::lvstore::{LvstoreAction, LvstoreState};
use vda_reconcile::status::Book;
use vda_reconcile::{Actual, Fault, Observed, Settled, Wanted, plan};
use vda_spdk::{NvmfHost, NvmfNamespace, NvmfSubsystem, SubsystemType, Trid};

use super::*;
use crate::backend::{Backend, BdevState};
use crate::driver::Status;
use crate::resources::{Action, State};

const DA: DaId = DaId::new(0xda);

fn pd_id(n: usize) -> PdId {
    PdId::new(n as u64 + 1)
}

fn vd_id(n: usize) -> VdId {
    VdId::new(n as u64 + 1)
}

/// A disk: what is on it survives the data plane, unless it is volatile.
#[derive(Debug, Clone, Default)]
struct Medium {
    lvstore: bool,
    /// Something that is not ours.
    foreign: bool,
    lvols: BTreeMap<VdId, u64>,
}

#[derive(Default)]
struct World {
    media: BTreeMap<PdId, Medium>,
    bdevs: BTreeMap<PdId, Backend>,
    loaded: BTreeSet<PdId>,
    /// By VD and the boot in their name.
    exports: BTreeMap<(VdId, Option<BootId>), NvmfSubsystem>,
    /// Ever created and not given up on order.
    live: BTreeSet<(PdId, Option<VdId>)>,
    violations: Vec<String>,
}

type Done = Result<(), Fault>;

fn no(why: &str) -> Done {
    Err(Fault::refused("call", why))
}

fn pd_of(lvstore: &str) -> PdId {
    lvstore.strip_prefix("vda-pdlvs-").unwrap().parse().unwrap()
}

impl World {
    fn restart(&mut self) {
        for (pd, backend) in std::mem::take(&mut self.bdevs) {
            if backend.volatile() {
                self.media.remove(&pd);
                // The user's data is lost by the user's choice.
                self.live.retain(|(of, _)| *of != pd);
            }
        }
        self.loaded.clear();
        self.exports.clear();
    }

    fn apply(&mut self, action: &Action) -> Done {
        match action {
            Action::CreateBdev { pd, backend } => {
                if self.bdevs.insert(*pd, backend.clone()).is_some() {
                    return no("exists");
                }
                self.media.entry(*pd).or_default();
                Ok(())
            }
            Action::DeleteBdev { pd, .. } => {
                if self.loaded.contains(pd) && !self.media[pd].lvols.is_empty() {
                    self.violations.push(format!("pd {pd} is closed under its VDs"));
                }
                self.loaded.remove(pd);
                let backend = self.bdevs.remove(pd);
                if backend.as_ref().is_some_and(Backend::volatile) {
                    self.media.remove(pd);
                    self.live.retain(|(of, _)| of != pd);
                }
                if backend.is_some() { Ok(()) } else { no("absent") }
            }
            Action::Inspect { lvstore, .. } => {
                let pd = pd_of(lvstore);
                if self.media[&pd].foreign && !self.loaded.contains(&pd) {
                    no("holds something")
                } else {
                    Ok(())
                }
            }
            Action::Lvstore(action) => self.lvstore(action),
            Action::Lvol(action) => self.lvol(action),
            Action::Export(action) => self.export(action),
        }
    }

    fn lvstore(&mut self, action: &LvstoreAction) -> Done {
        match action {
            LvstoreAction::Examine { bdev } => {
                let pd: PdId = bdev.strip_prefix("vda-pd-").unwrap().parse().unwrap();
                if !self.bdevs.contains_key(&pd) {
                    return no("absent");
                }
                if self.media[&pd].lvstore {
                    self.loaded.insert(pd);
                }
                Ok(())
            }
            LvstoreAction::Expect { name, missing } => {
                if self.loaded.contains(&pd_of(name)) {
                    Ok(())
                } else {
                    no(missing)
                }
            }
            LvstoreAction::Create { name, .. } => {
                let pd = pd_of(name);
                if self.loaded.contains(&pd) {
                    return Ok(());
                }
                if self.media[&pd].foreign {
                    // The data plane knows its own lvstores only: what others wrote is found before, or lost.
                    self.violations.push(format!("pd {pd} held something of others and is formatted"));
                }
                if self.live.contains(&(pd, None)) {
                    self.violations.push(format!("live pd {pd} is formatted"));
                }
                self.media.insert(pd, Medium { lvstore: true, ..Medium::default() });
                self.loaded.insert(pd);
                self.live.insert((pd, None));
                Ok(())
            }
            LvstoreAction::Delete { name } => {
                let pd = pd_of(name);
                if !self.loaded.remove(&pd) {
                    return no("absent");
                }
                if !self.media[&pd].lvols.is_empty() {
                    self.violations.push(format!("the lvstore of pd {pd} is destroyed with VDs in it"));
                }
                self.media.insert(pd, Medium::default());
                self.live.remove(&(pd, None));
                Ok(())
            }
        }
    }

    fn lvol(&mut self, action: &LvolAction) -> Done {
        let split = |alias: &str| -> (PdId, VdId) {
            let (lvstore, lvol) = alias.split_once('/').unwrap();
            (pd_of(lvstore), lvol.strip_prefix("vda-vd-").unwrap().parse().unwrap())
        };
        match action {
            LvolAction::Create { lvstore, name, mib } => {
                let (pd, vd) = split(&format!("{lvstore}/{name}"));
                if !self.loaded.contains(&pd) {
                    return no("no lvstore");
                }
                if self.live.contains(&(pd, Some(vd))) {
                    self.violations.push(format!("live vd {vd} is created again"));
                }
                self.media.get_mut(&pd).unwrap().lvols.insert(vd, mib << 20);
                self.live.insert((pd, Some(vd)));
            }
            LvolAction::Grow { alias, mib } => {
                let (pd, vd) = split(alias);
                let size = self.media.get_mut(&pd).unwrap().lvols.get_mut(&vd).unwrap();
                if mib << 20 < *size {
                    self.violations.push(format!("vd {vd} is cut off"));
                }
                *size = mib << 20;
            }
            LvolAction::SetLimits { .. } => {}
            LvolAction::Delete { alias } => {
                let (pd, vd) = split(alias);
                if self.exports.keys().any(|(of, _)| *of == vd) {
                    self.violations.push(format!("vd {vd} is deleted under its export"));
                }
                if !self.loaded.contains(&pd) || self.media.get_mut(&pd).unwrap().lvols.remove(&vd).is_none()
                {
                    return no("absent");
                }
                self.live.remove(&(pd, Some(vd)));
            }
        }
        Ok(())
    }

    fn export(&mut self, action: &ExportAction) -> Done {
        let vd = |nqn: &str| match OwnedName::parse(Namespace::Nqn, nqn) {
            Some(OwnedName::VdSubsystem(vd, boot)) => (vd, boot),
            other => panic!("{nqn}: {other:?}"),
        };
        let there =
            |world: &Self, id: VdId| world.loaded.iter().any(|pd| world.media[pd].lvols.contains_key(&id));
        match action {
            ExportAction::Create(call) => {
                let mut new = NvmfSubsystem {
                    serial_number: call.serial_number.clone(),
                    model_number: call.model_number.clone(),
                    ..NvmfSubsystem::new(call.nqn.clone(), SubsystemType::Nvme, vec![], false, vec![])
                };
                new.namespaces = Some(vec![]);
                if self.exports.insert(vd(&call.nqn), new).is_some() { no("exists") } else { Ok(()) }
            }
            ExportAction::Delete { nqn } => {
                if self.exports.remove(&vd(nqn)).is_some() {
                    Ok(())
                } else {
                    no("absent")
                }
            }
            ExportAction::AddNamespace { nqn, namespace } => {
                if !there(self, vd(nqn).0) {
                    return no("no such bdev");
                }
                let holds = |e: &NvmfSubsystem| e.namespaces.as_ref().is_some_and(|ns| !ns.is_empty());
                if self.exports.iter().any(|((of, _), export)| *of == vd(nqn).0 && holds(export)) {
                    return no("claimed");
                }
                let ns =
                    NvmfNamespace { uuid: Some(namespace.uuid), ..NvmfNamespace::new(1_u32, "lvol", "lvol") };
                self.exports.get_mut(&vd(nqn)).unwrap().namespaces = Some(vec![ns]);
                Ok(())
            }
            ExportAction::AllowHost { nqn, host } => {
                let export = self.exports.get_mut(&vd(nqn)).unwrap();
                export.hosts.push(NvmfHost::new(host.clone()));
                if export.hosts.len() > 1 {
                    self.violations.push(format!("{nqn} has two owners"));
                }
                Ok(())
            }
            ExportAction::ForbidHost { nqn, host } => {
                self.exports.get_mut(&vd(nqn)).unwrap().hosts.retain(|h| h.nqn != *host);
                Ok(())
            }
            ExportAction::AddListener { nqn, address } => {
                let trid = Trid {
                    traddr: Some(address.traddr.clone()),
                    adrfam: address.adrfam.clone(),
                    trsvcid: address.trsvcid.clone(),
                    ..Trid::new("TCP")
                };
                self.exports.get_mut(&vd(nqn)).unwrap().listen_addresses.push(trid);
                Ok(())
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    fn actual(&self, ids: &BTreeSet<Id>) -> Actual<Disk> {
        let mut actual = Actual::default();
        for id in ids {
            let state = self.look(*id).map_or(Observed::Absent, Observed::Known);
            let bases: Vec<Id> = match id {
                Id::Bdev(_) => vec![],
                Id::Lvstore(pd) => vec![Id::Bdev(*pd)],
                Id::Contents(pd) | Id::Lvol(pd, _) => vec![Id::Lvstore(*pd)],
                Id::Export(vd, _) => {
                    ids.iter().filter(|i| matches!(i, Id::Lvol(_, v) if v == vd)).copied().collect()
                }
            };
            actual.saw(*id, state, bases);
        }
        actual
    }

    fn look(&self, id: Id) -> Option<State> {
        let medium = |pd: &PdId| self.media.get(pd).filter(|_| self.loaded.contains(pd));
        Some(match id {
            Id::Bdev(pd) => {
                let backend = self.bdevs.get(&pd)?;
                State::Bdev(BdevState {
                    name: backend.bdev(pd),
                    module: backend.module(),
                    filename: backend.filename().cloned(),
                    size_bytes: 1 << 30,
                })
            }
            Id::Lvstore(pd) => {
                medium(&pd)?;
                let base = self.bdevs[&pd].bdev(pd);
                let (cluster_bytes, total_clusters) = (1 << 20, 1000);
                State::Lvstore(LvstoreState {
                    uuid: "u".into(),
                    base,
                    cluster_bytes,
                    total_clusters,
                    free_clusters: 9,
                })
            }
            Id::Contents(pd) => {
                let names: Vec<String> = medium(&pd)?.lvols.keys().map(ToString::to_string).collect();
                if names.is_empty() {
                    return None;
                }
                State::Contents(names)
            }
            Id::Lvol(pd, vd) => {
                let size_bytes = *medium(&pd)?.lvols.get(&vd)?;
                State::Lvol(LvolState { bdev: "lvol".into(), size_bytes, limits: Limits::default() })
            }
            Id::Export(vd, boot) => {
                let subsystem = self.exports.get(&(vd, boot))?.clone();
                State::Export(Box::new(ExportState { subsystem, ana: None }))
            }
        })
    }
}

/// One disk node: what is wanted of it, its agent's memory, its data plane.
#[derive(Default)]
struct Scene {
    world: World,
    ledger: BTreeSet<String>,
    pds: BTreeMap<PdId, PdWant>,
    share: Option<ShareWant>,
    boot: u64,
}

impl Knowledge for Scene {
    fn initialised(&self, record: &str) -> bool {
        self.ledger.contains(record)
    }
    fn conflict(&self, _: &ListenAddress) -> Option<String> {
        None
    }
    fn boot(&self) -> BootId {
        BootId::new(self.boot)
    }
    fn given_up(&self, pd: PdId) -> bool {
        self.pds.get(&pd).is_none_or(|pd| pd.deleting || pd.backend.volatile())
    }
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self::default();
        for (n, backend) in [
            Backend::Aio { filename: "/a".into() },
            Backend::Uring { filename: "/b".into() },
            Backend::Malloc { size_bytes: 1 << 30 },
        ]
        .into_iter()
        .enumerate()
        {
            scene.pds.insert(pd_id(n), PdWant { backend, deleting: false, initialised: false });
        }
        scene
    }

    fn want_vds(&mut self, vds: &[usize], owner: u8) {
        let vd = |n: &usize| {
            let want = VdWant {
                pd: pd_id(n % 3),
                size_bytes: 8 << 20,
                limits: Limits::default(),
                mirrored: n.is_multiple_of(2),
                owner: format!("nqn.owner:{owner}"),
                initialised: false,
            };
            (vd_id(*n), want)
        };
        let listener = ListenAddress::tcp("127.0.0.1:4420".parse().unwrap());
        self.share = Some(ShareWant { vds: vds.iter().map(vd).collect(), deleting: false, listener });
    }

    fn components(&self) -> Vec<(Key, Want)> {
        let pds = self.pds.iter().map(|(id, pd)| (Key::Pd(*id), Want::Pd(pd.clone())));
        pds.chain(self.share.iter().map(|s| (Key::Share(DA), Want::Share(s.clone())))).collect()
    }

    /// Each component is worked on until nothing can be done now, or the agent dies after `budget` calls.
    fn agent(&mut self, mut budget: usize) -> Vec<Status> {
        let mut statuses = Vec::new();
        for (key, want) in self.components() {
            let mut failures = BTreeMap::new();
            loop {
                let desired = desired(&key, Some(&want), &BTreeSet::new(), self);
                let actual = self.world.actual(&desired.ids());
                let mut wave = plan(&desired, &actual);
                wave.steps.retain(|step| !failures.contains_key(&step.id));
                if wave.steps.is_empty() {
                    let settled =
                        Settled { desired: &desired, actual: &actual, plan: &wave, failures: &failures };
                    let wanted = Wanted { want: want.clone(), revision: 1 };
                    let mut book = Book::default();
                    let report = report::report(self, &key, &wanted, &settled, None, &mut book).unwrap();
                    self.ledger.extend(report.initialised);
                    self.ledger.retain(|record| !report.gone.contains(record));
                    statuses.push(report.status);
                    break;
                }
                for step in wave.steps.iter().rev() {
                    for action in &step.actions {
                        if budget == 0 {
                            return statuses;
                        }
                        budget -= 1;
                        if let Err(fault) = self.world.apply(action) {
                            failures.insert(step.id, fault);
                            break;
                        }
                    }
                }
            }
        }
        statuses
    }

    /// Another start of the node. The data plane is another one too, unless only the agent is told so.
    fn boots(&mut self, power_lost: bool) {
        self.boot += 1;
        if power_lost {
            self.world.restart();
        }
        // What `perform::withdraw_old_boots` does before anything else.
        let boot = BootId::new(self.boot);
        self.world.exports.retain(|(_, of), _| of.is_none_or(|of| of == boot));
    }

    /// Exactly the mirrored VDs are found under names of this boot only.
    fn check_names(&self) {
        for (vd, boot) in self.world.exports.keys() {
            let mirrored = (vd.bits() - 1).is_multiple_of(2);
            assert_eq!(*boot, mirrored.then(|| BootId::new(self.boot)), "vd {vd}");
        }
    }

    fn check(&self) {
        self.check_names();
        assert_eq!(self.world.violations, Vec::<String>::new());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Work,
    CrashAfter(usize),
    TargetDies,
    Boots(bool),
    Vds(Vec<usize>, u8),
    DeleteShare,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Work),
        3 => (0..20_usize).prop_map(Op::CrashAfter),
        2 => Just(Op::TargetDies),
        2 => any::<bool>().prop_map(Op::Boots),
        2 => (prop::collection::vec(0..6_usize, 1..5), 0..3_u8).prop_map(|(vds, owner)| Op::Vds(vds, owner)),
        1 => Just(Op::DeleteShare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens: no live disk is formatted, no live VD made again, nobody shares a VD; in the end all can be given up.
    #[test]
    fn disks_survive_everything(ops in prop::collection::vec(op(), 0..20)) {
        let mut scene = Scene::new();
        let mut deleting = false;
        for op in ops {
            match op {
                Op::Work => drop(scene.agent(usize::MAX)),
                Op::CrashAfter(calls) => drop(scene.agent(calls)),
                Op::TargetDies => scene.world.restart(),
                Op::Boots(power_lost) => scene.boots(power_lost),
                // VDs of a share do not come and go while it lives; only its owner changes.
                Op::Vds(vds, owner) if scene.share.is_none() => scene.want_vds(&vds, owner),
                Op::Vds(_, owner) => {
                    let share = scene.share.as_mut().unwrap();
                    share.vds.values_mut().for_each(|vd| vd.owner = format!("nqn.owner:{owner}"));
                }
                Op::DeleteShare => {
                    if let Some(share) = &mut scene.share {
                        share.deleting = true;
                        deleting = true;
                    }
                }
            }
            scene.check();
        }
        let statuses = scene.agent(usize::MAX);
        if let (false, Some(Status::Share(share))) = (deleting, statuses.last()) {
            for vd in &share.vds {
                let on_malloc = (vd.vd_id.parse::<VdId>().unwrap().bits() - 1) % 3 == 2;
                let ready = vd.status.as_ref().unwrap().condition() == vda_proto::v1::Condition::Ready;
                prop_assert!(ready || on_malloc, "{vd:?}");
                prop_assert!(!ready || vd.exported_to.starts_with("nqn.owner"));
            }
        }
        if let Some(share) = &mut scene.share {
            share.deleting = true;
        }
        scene.agent(usize::MAX);
        scene.pds.values_mut().for_each(|pd| pd.deleting = true);
        scene.agent(usize::MAX);
        for status in scene.agent(usize::MAX) {
            match status {
                Status::Pd(pd) => prop_assert!(pd.gone, "{pd:?}"),
                Status::Share(share) => prop_assert!(share.gone, "{share:?}"),
            }
        }
        prop_assert!(scene.world.bdevs.is_empty() && scene.world.exports.is_empty());
        prop_assert!(scene.ledger.is_empty(), "{:?}", scene.ledger);
        scene.check();
    }
}

#[test]
fn a_foreign_disk_is_never_formatted() {
    let mut scene = Scene::new();
    scene.world.media.insert(pd_id(0), Medium { foreign: true, ..Medium::default() });
    let statuses = scene.agent(usize::MAX);
    let Status::Pd(pd) = &statuses[0] else { panic!("{statuses:?}") };
    assert_eq!(pd.status.as_ref().unwrap().condition(), vda_proto::v1::Condition::Failed);
    assert!(!pd.initialised);
    assert!(scene.world.media[&pd_id(0)].foreign);
}

#[test]
fn a_wiped_disk_is_not_formatted_again() {
    let mut scene = Scene::new();
    scene.agent(usize::MAX);
    scene.world.restart();
    scene.world.media.insert(pd_id(0), Medium::default());
    let statuses = scene.agent(usize::MAX);
    let Status::Pd(pd) = &statuses[0] else { panic!("{statuses:?}") };
    let status = pd.status.as_ref().unwrap();
    assert!(status.message.contains("never formatted again"), "{status:?}");
    assert!(pd.initialised && !scene.world.media[&pd_id(0)].lvstore);
    scene.check();
}

#[test]
fn a_vd_on_a_disk_that_is_away_is_not_gone() {
    let mut scene = Scene::new();
    scene.want_vds(&[0], 0);
    scene.agent(usize::MAX);
    scene.world.restart();
    scene.share.as_mut().unwrap().deleting = true;
    // Only the share is looked at: its disk is not there yet.
    let share = scene.share.clone().unwrap();
    let key = Key::Share(DA);
    let want = Want::Share(share);
    let desired = desired(&key, Some(&want), &BTreeSet::new(), &scene);
    let actual = scene.world.actual(&desired.ids());
    let wave = plan(&desired, &actual);
    let failures = BTreeMap::new();
    let settled = Settled { desired: &desired, actual: &actual, plan: &wave, failures: &failures };
    let wanted = Wanted { want, revision: 1 };
    let mut book = Book::default();
    let report = report::report(&scene, &key, &wanted, &settled, None, &mut book).unwrap();
    let Status::Share(status) = report.status else { panic!("a share's status") };
    assert!(!status.gone && report.recheck.is_some());
}

#[test]
fn a_mirrored_vd_changes_its_name_with_the_boot_and_no_other_does() {
    let mut scene = Scene::new();
    scene.want_vds(&[0, 1], 0);
    let mirrored = (vd_id(0), Some(BootId::new(0)));
    let single = (vd_id(1), None);
    scene.agent(usize::MAX);
    assert!(scene.world.exports.keys().eq([&mirrored, &single]));
    // The agent or the data plane alone: the same names, so connections come back by themselves.
    scene.world.restart();
    scene.agent(usize::MAX);
    assert!(scene.world.exports.keys().eq([&mirrored, &single]));
    scene.boots(true);
    scene.agent(usize::MAX);
    assert!(scene.world.exports.keys().eq([&(vd_id(0), Some(BootId::new(1))), &single]));
    scene.check();
}
