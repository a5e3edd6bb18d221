//! A strict model of a controller node's data plane, and of the data on the VDs.

use std::collections::{BTreeMap, BTreeSet};

use vda_model::ids::{DaId, VdId};
use vda_proto::v1::Member;
use vda_reconcile::parts::export::{ExportAction, ExportState};
use vda_reconcile::parts::lvol::{Limits, LvolAction, LvolState};
use vda_reconcile::parts::lvstore::{LvstoreAction, LvstoreState};
use vda_reconcile::{Actual, Fault, Observed};
use vda_spdk::{
    BdevRaidCreate, ControllerState, ListenAddress, NvmfHost, NvmfNamespace, NvmfSubsystem, RaidLevel,
    SubsystemType, Trid,
};

use crate::mirror::MirrorState;
use crate::resources::{Action, Array, Id, MemberState, State, member_bdev};
use crate::stack_tests::DA;

/// What a VD holds. Version 0: nothing was ever written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Content {
    version: u64,
    /// Of writes that were in flight when a data plane died: each member may have other blocks of them. 0: none.
    torn: u64,
    lvstore: bool,
    volume: bool,
}

impl Content {
    /// What all mirror sets of the array have in common.
    const fn whole(self) -> Self {
        Self { torn: 0, ..self }
    }
}

#[derive(Debug, Clone, Default)]
struct Vd {
    exported: bool,
    up: bool,
    /// Under which it is exported now. If mirrored, it ends with the number of starts of its node.
    nqn: String,
    content: Content,
    /// What a loss of power leaves of it.
    flushed: Content,
}

/// How a controller has attached a VD.
#[derive(Debug, Clone)]
struct Attached {
    hostnqn: String,
    nqn: String,
}

#[derive(Debug, Clone)]
struct Raid {
    level: RaidLevel,
    slots: Vec<Option<String>>,
    rebuild: Option<String>,
    rebuilt: BTreeSet<String>,
}

pub(crate) struct World {
    da: DaId,
    vds: BTreeMap<VdId, Vd>,
    attached: BTreeMap<VdId, Attached>,
    nulls: BTreeSet<String>,
    raids: BTreeMap<String, Raid>,
    /// Name and base bdev.
    lvstore: Option<(String, String)>,
    volume: Option<u64>,
    exports: BTreeMap<String, NvmfSubsystem>,
    version: u64,
    /// The last write before an acknowledged flush.
    flushed: u64,
    /// Some node lost its power: what was not flushed may be gone, but nothing else.
    powerless: bool,
    replicated: bool,
    /// Some member was found to be lost since this was asked last.
    dropped: bool,
    /// Raids deleted in this wave: what is done at the same time may find them or not.
    deleted: BTreeSet<String>,
    pub(crate) violations: Vec<String>,
}

type Done = Result<(), Fault>;

fn no(op: &str, why: impl Into<String>) -> Done {
    Err(Fault::refused(op, why))
}

impl World {
    pub(crate) fn new<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let vd = |m: &Member| Vd { exported: true, up: true, nqn: m.nqn.clone(), ..Vd::default() };
        let vds: BTreeMap<VdId, Vd> = members.map(|m| (m.vd_id.parse().unwrap(), vd(m))).collect();
        let stripes: BTreeSet<u64> = vds.keys().map(|v| (v.bits() - 1) / 16).collect();
        let replicated = vds.len() > stripes.len();
        Self {
            da: DA.parse().unwrap(),
            vds,
            attached: BTreeMap::new(),
            nulls: BTreeSet::new(),
            raids: BTreeMap::new(),
            lvstore: None,
            volume: None,
            exports: BTreeMap::new(),
            version: 0,
            flushed: 0,
            powerless: false,
            dropped: false,
            deleted: BTreeSet::new(),
            replicated,
            violations: Vec::new(),
        }
    }

    pub(crate) fn vds(&self) -> impl Iterator<Item = VdId> + '_ {
        self.vds.keys().copied()
    }

    pub(crate) fn attached(&self) -> usize {
        self.attached.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.attached.is_empty()
            && self.nulls.is_empty()
            && self.raids.is_empty()
            && self.lvstore.is_none()
            && self.exports.is_empty()
    }

    fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    fn vd_of(&self, bdev: &str) -> Option<VdId> {
        self.vds.keys().copied().find(|vd| member_bdev(self.da, *vd) == bdev)
    }

    // ---- what happens to it ----

    /// The data plane dies, with writes in flight to an array that is in use.
    pub(crate) fn crash(&mut self) {
        if self.lvstore.is_some() {
            for mirror in self.mirrors() {
                for (torn, vd) in (1..).zip(self.sources(&mirror)) {
                    self.vds.get_mut(&vd).unwrap().content.torn = self.version * 16 + torn;
                }
            }
        }
        self.restart();
    }

    /// The data plane dies, idle.
    pub(crate) fn restart(&mut self) {
        self.attached.clear();
        self.nulls.clear();
        self.raids.clear();
        self.lvstore = None;
        self.volume = None;
        self.exports.clear();
    }

    /// Somebody deletes the volume.
    pub(crate) fn lose_volume(&mut self) {
        self.volume = None;
        self.vds.values_mut().for_each(|vd| vd.content.volume = false);
        self.exports.values_mut().for_each(|export| export.namespaces = Some(Vec::new()));
    }

    pub(crate) fn has_volume(&self) -> bool {
        self.volume.is_some()
    }

    pub(crate) fn unexport(&mut self, vd: VdId) {
        if !self.attached.contains_key(&vd) {
            self.vds.get_mut(&vd).unwrap().exported = false;
        }
    }

    pub(crate) fn all_back(&mut self) {
        for vd in self.vds.values_mut() {
            vd.exported = true;
            vd.up = true;
        }
    }

    pub(crate) fn give_back(&mut self, vd: VdId) {
        self.vds.get_mut(&vd).unwrap().up = true;
    }

    /// A mirror set drops a lost member; the last one takes the set, and all that is on it, with it. I/O of an unmirrored set waits.
    pub(crate) fn lose(&mut self, vd: VdId) {
        self.vds.get_mut(&vd).unwrap().up = false;
        if !self.replicated {
            return;
        }
        self.drop_lost();
    }

    /// Its node loses its power, and is back at once: nobody has noticed.
    pub(crate) fn lose_power(&mut self, vd: VdId) {
        if !self.replicated {
            return;
        }
        let vd = self.vds.get_mut(&vd).unwrap();
        vd.content = vd.flushed;
        let (name, starts) = vd.nqn.rsplit_once(':').unwrap();
        vd.nqn = format!("{name}:{:016x}", u64::from_str_radix(starts, 16).unwrap() + 1);
        self.powerless = true;
    }

    /// A node is not reachable, and nobody has noticed.
    pub(crate) fn cut_off(&mut self, vd: VdId) {
        self.vds.get_mut(&vd).unwrap().up = false;
    }

    pub(crate) fn attached_as(&self, vd: VdId) -> &str {
        &self.attached[&vd].nqn
    }

    /// The last write of which a VD has its part.
    pub(crate) fn version(&self, vd: VdId) -> u64 {
        self.vds[&vd].content.version
    }

    pub(crate) fn nqn(&self, vd: VdId) -> String {
        self.vds[&vd].nqn.clone()
    }

    /// An initiator connects again only to a name that is there.
    fn connected(&self, vd: VdId) -> bool {
        let there = &self.vds[&vd];
        there.up && self.attached.get(&vd).is_some_and(|attached| attached.nqn == there.nqn)
    }

    /// I/O finds out who is not there.
    fn drop_lost(&mut self) {
        if !self.replicated {
            return;
        }
        for name in self.mirrors() {
            let lost: Vec<VdId> = self.vds.keys().copied().filter(|vd| !self.connected(*vd)).collect();
            for vd in lost {
                self.take_out(&name, &member_bdev(self.da, vd));
            }
            if self.raids.contains_key(&name) && self.sources(&name).is_empty() {
                self.collapse(&name);
            }
        }
    }

    fn take_out(&mut self, raid: &str, bdev: &str) {
        let Some(raid) = self.raids.get_mut(raid) else { return };
        for slot in raid.slots.iter_mut().filter(|slot| slot.as_deref() == Some(bdev)) {
            *slot = None;
            self.dropped = true;
        }
        raid.rebuild.take_if(|target| target == bdev);
    }

    pub(crate) fn begin_wave(&mut self) {
        self.deleted.clear();
    }

    pub(crate) fn has_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }

    /// A host flushes, if it can.
    pub(crate) fn flush(&mut self) {
        self.drop_lost();
        if self.is_served() {
            let sources: Vec<VdId> = self.mirrors().iter().flat_map(|name| self.sources(name)).collect();
            self.flushed = sources.iter().map(|vd| self.vds[vd].content.version).min().unwrap_or(0);
            for id in sources {
                let vd = self.vds.get_mut(&id).unwrap();
                vd.flushed = vd.content;
            }
        }
    }

    /// A bdev vanishes with everything on it.
    fn collapse(&mut self, name: &str) {
        self.raids.remove(name);
        let above: Vec<String> = self
            .raids
            .iter()
            .filter(|(_, raid)| raid.slots.contains(&Some(name.to_owned())))
            .map(|(n, _)| n.clone())
            .collect();
        for raid in above {
            self.collapse(&raid);
        }
        if self.lvstore.as_ref().is_some_and(|(_, base)| base == name) {
            self.lvstore = None;
            self.volume = None;
            for export in self.exports.values_mut() {
                export.namespaces = Some(Vec::new());
            }
        }
    }

    pub(crate) fn finish_rebuilds(&mut self) {
        self.drop_lost();
        let names: Vec<String> = self.raids.keys().cloned().collect();
        for name in names {
            let Some(target) = self.raids[&name].rebuild.clone() else { continue };
            let source = self.sources(&name).into_iter().next().expect("a rebuild has a source");
            let content = self.vds[&source].content;
            let target = self.vd_of(&target).unwrap();
            let target = self.vds.get_mut(&target).unwrap();
            (target.content, target.flushed) = (content, content);
            let raid = self.raids.get_mut(&name).unwrap();
            raid.rebuilt.extend(raid.rebuild.take());
        }
    }

    /// A host can reach the volume.
    pub(crate) fn is_served(&self) -> bool {
        let served = self.exports.values().any(|e| e.namespaces.as_ref().is_some_and(|ns| !ns.is_empty()));
        served && self.volume.is_some()
    }

    /// A host writes, if it can.
    pub(crate) fn write(&mut self) {
        self.drop_lost();
        if self.is_served() {
            self.change(|_| {});
        }
    }

    /// VDs of a raid1 that hold its data.
    fn sources(&self, raid: &str) -> Vec<VdId> {
        let raid = &self.raids[raid];
        let slots = raid.slots.iter().flatten().filter(|b| raid.rebuild.as_ref() != Some(b));
        slots.filter_map(|b| self.vd_of(b)).collect()
    }

    fn mirrors(&self) -> Vec<String> {
        self.raids.iter().filter(|(_, r)| r.level == RaidLevel::Raid1).map(|(n, _)| n.clone()).collect()
    }

    /// Changes the contents everywhere the array has them.
    fn change(&mut self, how: impl Fn(&mut Content)) {
        self.version += 1;
        for mirror in self.mirrors() {
            for vd in self.sources(&mirror) {
                let vd = self.vds.get_mut(&vd).unwrap();
                vd.content.version = self.version;
                how(&mut vd.content);
                // Metadata is flushed at once.
                let made = |c: &Content| (c.lvstore, c.volume);
                if made(&vd.content) != made(&vd.flushed) {
                    vd.flushed = vd.content;
                }
            }
        }
    }

    /// Reads through the whole stack; answers what is there.
    fn read(&mut self) -> Content {
        self.drop_lost();
        let mut seen = Vec::new();
        for mirror in self.mirrors() {
            let placeholders = self.raids[&mirror].slots.iter().flatten().any(|b| self.nulls.contains(b));
            if placeholders {
                self.violation(format!("read from a placeholder of {mirror}"));
            }
            let members: Vec<_> = self.sources(&mirror).into_iter().map(|vd| self.vds[&vd].content).collect();
            if members.windows(2).any(|pair| pair[0] != pair[1]) {
                self.violation(format!("members that differ are read: {members:?}"));
            }
            seen.extend(members.into_iter().map(Content::whole));
        }
        if !self.powerless && seen.windows(2).any(|pair| pair[0] != pair[1]) {
            self.violation(format!("mirror sets that differ are read: {seen:?}"));
        }
        let newest = self.vds.values().map(|vd| vd.content.version).max().unwrap_or(0);
        let read = seen.iter().min_by_key(|content| content.version).copied().unwrap_or_default();
        if read.version < self.flushed && !seen.is_empty() {
            self.violation(format!("a flushed write is gone: {}, read is {}", self.flushed, read.version));
        }
        if !self.powerless && read.version != newest {
            self.violation(format!("stale data: version {}, written was {newest}", read.version));
        }
        read
    }

    /// Everything is in sync and holds what was written last.
    pub(crate) fn check_whole(&mut self) {
        let read = self.read();
        assert!(read.lvstore && read.volume);
        if !self.powerless {
            assert!(self.vds.values().all(|vd| vd.content.whole() == read), "{:?}", self.vds);
            assert_eq!(read.version, self.version);
        }
        for mirror in self.mirrors() {
            let members = self.raids[&mirror].slots.iter().flatten().count();
            assert_eq!(self.sources(&mirror).len(), members, "{mirror} is whole");
        }
        assert!(self.vds.keys().all(|vd| self.connected(*vd)), "{:?} {:?}", self.vds, self.attached);
        assert!(self.nulls.is_empty(), "no placeholder stays: {:?}", self.nulls);
    }

    // ---- calls ----

    pub(crate) fn apply(&mut self, action: &Action) -> Done {
        match action {
            Action::Attach(call) => {
                let (hostnqn, nqn) = (call.hostnqn.clone().unwrap(), call.subnqn.clone().unwrap());
                self.attach(&call.name, Attached { hostnqn, nqn })
            }
            Action::Detach { name } => self.detach(name),
            Action::CreateNull { name, .. } => {
                if self.nulls.insert(name.clone()) {
                    Ok(())
                } else {
                    no("bdev_null_create", "exists")
                }
            }
            Action::DeleteNull { name } => {
                if self.raids.values().any(|raid| raid.slots.contains(&Some(name.clone()))) {
                    return no("bdev_null_delete", "in use");
                }
                if self.nulls.remove(name) { Ok(()) } else { no("bdev_null_delete", "absent") }
            }
            Action::CreateRaid(call) => self.create_raid(call),
            Action::DeleteRaid { name } => self.delete_raid(name),
            Action::AddBase { raid, bdev } => self.add_base(raid, bdev),
            Action::RemoveBase { bdev } => self.remove_base(bdev),
            Action::Lvstore(action) => self.lvstore_call(action),
            Action::Lvol(action) => self.lvol_call(action),
            Action::Export(action) => self.export_call(action),
        }
    }

    fn attach(&mut self, name: &str, how: Attached) -> Done {
        let vd = self.vds.keys().copied().find(|vd| Id::Member(self.da, *vd).name() == name).unwrap();
        let there = &self.vds[&vd];
        if self.attached.contains_key(&vd) || !there.exported || !there.up || there.nqn != how.nqn {
            return no("bdev_nvme_attach_controller", "Input/output error");
        }
        self.attached.insert(vd, how);
        Ok(())
    }

    fn detach(&mut self, name: &str) -> Done {
        let vd = self.vds.keys().copied().find(|vd| Id::Member(self.da, *vd).name() == name).unwrap();
        if self.raids.values().any(|raid| raid.slots.contains(&Some(member_bdev(self.da, vd)))) {
            self.violation("a member is detached under its mirror set");
        }
        if self.attached.remove(&vd).is_some() { Ok(()) } else { no("bdev_nvme_detach_controller", "absent") }
    }

    fn is_bdev(&self, name: &str) -> bool {
        let member = self.vd_of(name).is_some_and(|vd| self.attached.contains_key(&vd));
        member || self.nulls.contains(name) || self.raids.contains_key(name)
    }

    fn create_raid(&mut self, call: &BdevRaidCreate) -> Done {
        if self.raids.contains_key(&call.name) {
            return no("bdev_raid_create", "exists");
        }
        if let Some(missing) = call.base_bdevs.iter().find(|base| !self.is_bdev(base)) {
            if self.deleted.contains(missing) {
                return no("bdev_raid_create", "a base is gone");
            }
            self.violation(format!("{} is created without {missing}", call.name));
        }
        if call.raid_level == RaidLevel::Raid1 {
            let members = call.base_bdevs.iter().filter_map(|b| self.vd_of(b));
            let content = |vd: VdId| (self.vds[&vd].content.version, self.vds[&vd].content.torn);
            let contents: BTreeSet<_> = members.map(content).collect();
            if contents.len() > 1 {
                self.violation(format!("members that differ are assembled as equal: {contents:?}"));
            }
        }
        let slots = call.base_bdevs.iter().cloned().map(Some).collect();
        self.raids.insert(
            call.name.clone(),
            Raid { level: call.raid_level, slots, rebuild: None, rebuilt: BTreeSet::new() },
        );
        Ok(())
    }

    fn delete_raid(&mut self, name: &str) -> Done {
        if !self.raids.contains_key(name) {
            return no("bdev_raid_delete", "absent");
        }
        let on_it = |raid: &Raid| raid.slots.contains(&Some(name.to_owned()));
        let used = self.raids.values().any(on_it) || !self.exports.is_empty();
        if used && self.sources(name).into_iter().any(|vd| self.connected(vd)) {
            self.violation(format!("{name} is deleted under something"));
        }
        self.collapse(name);
        self.deleted.insert(name.to_owned());
        Ok(())
    }

    fn add_base(&mut self, raid: &str, bdev: &str) -> Done {
        let up = self.vd_of(bdev).is_some_and(|vd| self.connected(vd));
        let Some(raid) = self.raids.get_mut(raid) else { return no("bdev_raid_add_base_bdev", "absent") };
        let Some(slot) = raid.slots.iter().position(Option::is_none) else {
            return no("bdev_raid_add_base_bdev", "full");
        };
        if raid.rebuild.is_some() || !up {
            return no("bdev_raid_add_base_bdev", "busy");
        }
        raid.slots[slot] = Some(bdev.to_owned());
        raid.rebuilt.remove(bdev);
        raid.rebuild = Some(bdev.to_owned());
        Ok(())
    }

    fn remove_base(&mut self, bdev: &str) -> Done {
        if let Some(vd) = self.vd_of(bdev) {
            let stays = |name: &String| {
                let sources = self.sources(name);
                !sources.contains(&vd) || sources.iter().any(|other| *other != vd && self.connected(*other))
            };
            if self.connected(vd) || !self.mirrors().iter().all(stays) {
                self.violation(format!("member {bdev} is taken out"));
            }
        }
        let holds = |raid: &Raid| raid.slots.iter().any(|s| s.as_deref() == Some(bdev));
        let Some((name, raid)) = self.raids.iter_mut().find(|(_, raid)| holds(raid)) else {
            return no("bdev_raid_remove_base_bdev", "absent");
        };
        for slot in raid.slots.iter_mut().filter(|s| s.as_deref() == Some(bdev)) {
            *slot = None;
        }
        // As in SPDK: the removal of the last one deletes the raid.
        if raid.slots.iter().all(Option::is_none) {
            let name = name.clone();
            self.collapse(&name);
        } else if raid.rebuild.as_deref() == Some(bdev) {
            raid.rebuild = None;
        }
        Ok(())
    }

    fn lvstore_call(&mut self, action: &LvstoreAction) -> Done {
        match action {
            LvstoreAction::Examine { bdev } => {
                if !self.raids.contains_key(bdev) {
                    return no("bdev_examine", "absent");
                }
                if self.read().lvstore {
                    self.lvstore = Some((Id::Lvstore(self.da, 0).name(), bdev.clone()));
                    self.volume = self.read().volume.then_some(32 << 20);
                }
                Ok(())
            }
            LvstoreAction::Expect { missing, .. } => {
                if self.lvstore.is_some() {
                    Ok(())
                } else {
                    no("bdev_examine", missing.clone())
                }
            }
            LvstoreAction::Create { bdev, name, .. } => {
                self.drop_lost();
                if self.lvstore.is_some() {
                    return Ok(());
                }
                if !self.raids.contains_key(bdev) {
                    return no("bdev_lvol_create_lvstore", "absent");
                }
                if self.vds.values().any(|vd| vd.content.lvstore) {
                    self.violation("live data is formatted");
                }
                self.change(|content| content.lvstore = true);
                self.lvstore = Some((name.clone(), bdev.clone()));
                Ok(())
            }
            LvstoreAction::Delete { .. } => {
                self.violation("an lvstore is destroyed");
                Ok(())
            }
        }
    }

    fn lvol_call(&mut self, action: &LvolAction) -> Done {
        match action {
            LvolAction::Create { mib, .. } => {
                self.drop_lost();
                if self.lvstore.is_none() {
                    return no("bdev_lvol_create", "no lvstore");
                }
                if self.vds.values().any(|vd| vd.content.volume) {
                    self.violation("a volume is created again");
                }
                self.change(|content| content.volume = true);
                self.volume = Some(mib << 20);
                Ok(())
            }
            LvolAction::Grow { mib, .. } => {
                self.volume = Some(mib << 20);
                Ok(())
            }
            LvolAction::SetLimits { .. } => Ok(()),
            LvolAction::Delete { .. } => {
                self.violation("a volume is deleted");
                Ok(())
            }
        }
    }

    fn export_call(&mut self, action: &ExportAction) -> Done {
        const OP: &str = "nvmf";
        if let ExportAction::Create(call) = action {
            if self.exports.contains_key(&call.nqn) {
                return no(OP, "exists");
            }
            let mut subsystem = NvmfSubsystem {
                serial_number: call.serial_number.clone(),
                model_number: call.model_number.clone(),
                min_cntlid: call.min_cntlid.map(u32::from),
                max_cntlid: call.max_cntlid.map(u32::from),
                ..NvmfSubsystem::new(call.nqn.clone(), SubsystemType::Nvme, vec![], false, vec![])
            };
            subsystem.namespaces = Some(Vec::new());
            self.exports.insert(call.nqn.clone(), subsystem);
            return Ok(());
        }
        let volume = self.volume.is_some();
        match action {
            ExportAction::Delete { nqn } => {
                return if self.exports.remove(nqn).is_some() { Ok(()) } else { no(OP, "absent") };
            }
            ExportAction::AddNamespace { .. } if !volume => return no(OP, "no such bdev"),
            _ => {}
        }
        let Some(export) = self.exports.values_mut().next() else { return no(OP, "absent") };
        match action {
            ExportAction::AllowHost { host, .. } => export.hosts.push(NvmfHost::new(host.clone())),
            ExportAction::AddNamespace { namespace, .. } => {
                let ns = NvmfNamespace {
                    uuid: Some(namespace.uuid),
                    nguid: Some(namespace.nguid.clone()),
                    ..NvmfNamespace::new(1_u32, "volume", "volume")
                };
                export.namespaces = Some(vec![ns]);
            }
            ExportAction::AddListener { address, .. } => export.listen_addresses.push(trid(address)),
            other => panic!("not expected: {other:?}"),
        }
        Ok(())
    }

    // ---- what it shows ----

    pub(crate) fn actual(&self, ids: &BTreeSet<Id>) -> Actual<Array> {
        let mut actual = Actual::default();
        for id in ids {
            let (state, bases) = self.look(id);
            actual.saw(id.clone(), state, bases);
        }
        actual
    }

    fn look(&self, id: &Id) -> (Observed<State>, Vec<Id>) {
        let name = id.name();
        let found = |state: Option<State>| state.map_or(Observed::Absent, Observed::Known);
        let bases =
            |raid: &Raid| raid.slots.iter().flatten().filter_map(|b| Id::of_bdev(b)).collect::<Vec<_>>();
        match id {
            Id::Member(_, vd) => (found(self.member(*vd)), vec![]),
            Id::Spare(..) => (found(self.nulls.contains(&name).then_some(State::Spare)), vec![]),
            Id::Mirror(..) => {
                let state = self.raids.get(&name).map(|raid| {
                    State::Mirror(MirrorState {
                        online: true,
                        slots: raid.slots.clone(),
                        rebuild: raid.rebuild.clone().map(|target| (target, 50)),
                        unproven: BTreeSet::new(),
                        rebuilt: raid.rebuilt.clone(),
                    })
                });
                (found(state), self.raids.get(&name).map(bases).unwrap_or_default())
            }
            Id::Group(..) | Id::Concat(..) => {
                let state = self.raids.get(&name).map(|raid| State::Stack {
                    level: raid.level,
                    bases: raid.slots.iter().flatten().cloned().collect(),
                    online: true,
                });
                (found(state), self.raids.get(&name).map(bases).unwrap_or_default())
            }
            Id::Lvstore(..) => {
                let state = self.lvstore.as_ref().map(|(_, base)| {
                    State::Lvstore(LvstoreState {
                        uuid: "u".into(),
                        base: base.clone(),
                        cluster_bytes: 1 << 20,
                        total_clusters: 60,
                        free_clusters: 60,
                    })
                });
                (found(state), self.lvstore.iter().filter_map(|(_, base)| Id::of_bdev(base)).collect())
            }
            Id::Volume(da, leg) => {
                let volume = |size_bytes| {
                    State::Volume(LvolState { bdev: "volume".into(), size_bytes, limits: Limits::default() })
                };
                (found(self.volume.map(volume)), vec![Id::Lvstore(*da, *leg)])
            }
            Id::Export(nqn) => {
                let Some(subsystem) = self.exports.get(nqn).cloned() else {
                    return (Observed::Absent, vec![]);
                };
                let on = subsystem.namespaces.iter().flatten().map(|_| Id::Volume(self.da, 0)).collect();
                (found(Some(State::Export(Box::new(ExportState { subsystem, ana: None })))), on)
            }
        }
    }

    fn member(&self, id: VdId) -> Option<State> {
        let Attached { hostnqn, nqn } = self.attached.get(&id)?.clone();
        let path = match self.connected(id) {
            true => ControllerState::Enabled,
            false => ControllerState::ReconnectIsDelayed,
        };
        let trid = Trid {
            subnqn: Some(nqn),
            traddr: Some("127.0.0.1".into()),
            trsvcid: Some("4420".into()),
            ..Trid::new("TCP")
        };
        Some(State::Member(MemberState { path, trid, hostnqn, bdev: Some((4096, 16384)) }))
    }
}

fn trid(address: &ListenAddress) -> Trid {
    Trid {
        traddr: Some(address.traddr.clone()),
        adrfam: address.adrfam.clone(),
        trsvcid: address.trsvcid.clone(),
        ..Trid::new(address.trtype.clone())
    }
}
