//! The rules of a controller node, played against a strict model of a data plane and of what its members hold, with the monitor's own rules
//! for what is known about a leg.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use vda_model::ids::{BootId, DaId, VdId};
use vda_model::names::OwnedName;
use vda_proto::v1::{
    CntlrSpec, CntlrStatus, CntlrSync, Condition, ExpSpec, GroupSpec, LegSpec, LegState, Member, MirrorSet,
    NvmfListener,
};
use vda_reconcile::status::Book;
use vda_reconcile::{Actual, Desired, Observed, Plan, Settled, Wanted, plan};

use crate::resources::{Array, Id, State};
use crate::stack::{Initialised, desired};
use crate::want::{listen_address, want};
use crate::world_tests::World;

pub(crate) const DA: &str = "00000000000000a1";
const EXP_NQN: &str = "nqn.2016-06.io.vda:exp:da0:exp0:00000000000000e0";
const MIB: u64 = 1 << 20;

#[derive(Default)]
struct Ledger(BTreeSet<String>);

impl Initialised for Ledger {
    fn leg(&self, da: DaId, leg: u32) -> bool {
        self.0.contains(&crate::driver::leg_record(da, leg))
    }
    fn volume(&self, da: DaId) -> bool {
        self.0.contains(&crate::driver::volume_record(da))
    }
}

fn listener(port: &str) -> NvmfListener {
    NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: "127.0.0.1".into(),
        trsvcid: port.into(),
    }
}

pub(crate) fn vd(stripe: u32, replica: u32) -> VdId {
    VdId::new(u64::from(stripe) * 16 + u64::from(replica) + 1)
}

fn leg_spec(stripes: u32, replicas: u32, groups: u32) -> LegSpec {
    let member = |stripe, replica| Member {
        vd_id: vd(stripe, replica).to_string(),
        dn_address: format!("127.0.0.1:97{replica}0"),
        nqn: OwnedName::VdSubsystem(vd(stripe, replica), (replicas > 1).then_some(BootId::new(0)))
            .to_string(),
        listener: Some(listener("4420")),
        size_bytes: 64 * MIB,
        ..Member::default()
    };
    let set = |group: u32, stripe: u32| MirrorSet {
        stripe,
        members: (0..replicas).map(|replica| member(group * stripes + stripe, replica)).collect(),
    };
    let group =
        |group| GroupSpec { group, strip_size_kib: 64, sets: (0..stripes).map(|s| set(group, s)).collect() };
    LegSpec {
        leg: 0,
        epoch: 1,
        owner_nqn: "nqn.2016-06.io.vda:cntlr:00000000000000c1:0:1".into(),
        cluster_bytes: MIB,
        md_pages_per_cluster_ratio: 20,
        groups: (0..groups).map(group).collect(),
    }
}

fn sync(leg: &LegSpec, known: Option<&LegState>, deleting: bool) -> CntlrSync {
    let uuid = "6c1b4a3e-0000-4000-8000-000000000001";
    let spec = CntlrSpec {
        da_id: DA.into(),
        da_name: "da0".into(),
        primary: true,
        volume_uuid: uuid.into(),
        size_bytes: 32 * MIB,
        legs: vec![leg.clone()],
        deleting,
        ..CntlrSpec::default()
    };
    let exp = ExpSpec {
        exp_id: "00000000000000e1".into(),
        exp_name: "exp0".into(),
        nqn: EXP_NQN.into(),
        initiator_nqns: vec!["nqn.2014-08.org.example:host".into()],
        serial_number: "S".into(),
        model_number: "M".into(),
        ns_uuid: uuid.into(),
        ns_nguid: "6C1B4A3E000040008000000000000002".into(),
        min_cntlid: 1,
        max_cntlid: 4000,
        ana_state: "optimized".into(),
        ..ExpSpec::default()
    };
    CntlrSync { spec: Some(spec), exps: vec![exp], revision: 1, legs: known.into_iter().cloned().collect() }
}

/// One controller, its data plane, and its monitor.
struct Scene {
    leg: LegSpec,
    world: World,
    ledger: Ledger,
    known: Option<LegState>,
    /// Nobody records what the agent reports.
    unrecorded: bool,
    deleting: bool,
    book: Book,
    status: Option<CntlrStatus>,
    backwards: bool,
}

impl Scene {
    fn new(stripes: u32, replicas: u32, groups: u32) -> Self {
        let leg = leg_spec(stripes, replicas, groups);
        let world = World::new(leg.groups.iter().flat_map(|g| &g.sets).flat_map(|s| &s.members));
        Self {
            leg,
            world,
            ledger: Ledger::default(),
            known: None,
            unrecorded: false,
            deleting: false,
            book: Book::default(),
            status: None,
            backwards: false,
        }
    }

    fn want(&self) -> (DaId, Wanted<crate::want::Want>) {
        let address = listen_address(Some(&listener("4430"))).unwrap();
        want(sync(&self.leg, self.known.as_ref(), self.deleting), &address).unwrap()
    }

    fn plan(&self) -> (Desired<Array>, Actual<Array>, Plan<Array>) {
        let (da, wanted) = self.want();
        let desired = desired(da, &wanted.want, &self.ledger, None);
        let actual = self.world.actual(&desired.ids());
        let wave = plan(&desired, &actual);
        (desired, actual, wave)
    }

    /// The agent works until nothing can be done now, or it dies after `budget` calls; alive, it reports.
    fn agent(&mut self, mut budget: usize) {
        let mut failures = BTreeMap::new();
        for _ in 0..60 {
            let (desired, actual, mut wave) = self.plan();
            wave.steps.retain(|step| !failures.contains_key(&step.id));
            if wave.steps.is_empty() {
                return self.report(&desired, &actual, &wave, &failures);
            }
            // Steps of a wave are independent: they run at the same time, in any order.
            self.world.begin_wave();
            self.backwards = !self.backwards;
            if self.backwards {
                wave.steps.reverse();
            }
            for step in &wave.steps {
                for action in &step.actions {
                    if budget == 0 {
                        return;
                    }
                    budget -= 1;
                    self.ledger.0.extend(crate::driver::records_before(action));
                    if let Err(fault) = self.world.apply(action) {
                        failures.insert(step.id.clone(), fault);
                        break;
                    }
                }
            }
        }
        panic!("does not settle: {:?}", self.plan().2);
    }

    fn report(
        &mut self,
        desired: &Desired<Array>,
        actual: &Actual<Array>,
        wave: &Plan<Array>,
        failures: &BTreeMap<Id, vda_reconcile::Fault>,
    ) {
        let (da, wanted) = self.want();
        let settled = Settled { desired, actual, plan: wave, failures };
        let report =
            crate::report::report(&self.ledger, da, &wanted, &settled, self.status.as_ref(), &mut self.book)
                .unwrap();
        self.ledger.0.extend(report.initialised);
        self.ledger.0.retain(|record| !report.gone.contains(record));
        self.status = Some(report.status);
    }

    fn monitor(&mut self) {
        let Some(status) = &self.status else { return };
        if self.deleting || self.unrecorded {
            return;
        }
        let observed = &status.legs[0];
        if let Some(new) = vda_model::transitions::leg::observe(self.known.as_ref(), DA, &self.leg, observed)
        {
            self.known = Some(new);
        }
        self.tell_names();
    }

    /// What the monitor knows of the boots of nodes.
    fn tell_names(&mut self) {
        let sets = self.leg.groups.iter_mut().flat_map(|g| &mut g.sets);
        for member in sets.flat_map(|s| &mut s.members) {
            member.nqn = self.world.nqn(member.vd_id.parse().unwrap());
        }
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            self.agent(usize::MAX);
            self.monitor();
            self.world.finish_rebuilds();
            if self.condition() == Condition::Ready && self.plan().2.steps.is_empty() {
                return;
            }
        }
        panic!("never ready: {:#?}\n{:#?}\nknown: {:?}", self.status, self.plan().2, self.known);
    }

    fn condition(&self) -> Condition {
        self.status.as_ref().and_then(|s| s.status.as_ref()).map_or(Condition::Unspecified, |s| s.condition())
    }

    fn member(&self, n: usize) -> VdId {
        let all: Vec<VdId> = self.world.vds().collect();
        all[n % all.len()]
    }

    fn check(&self) {
        assert_eq!(self.world.violations, Vec::<String>::new());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Work,
    CrashAfter(usize),
    TargetDies,
    Lose(usize),
    Return(usize),
    LosePower(usize),
    Write,
    Flush,
    Rebuild,
    Unexport(usize),
    MonitorGoes,
    MonitorReturns,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Work),
        3 => (0..40_usize).prop_map(Op::CrashAfter),
        2 => Just(Op::TargetDies),
        2 => (0..12_usize).prop_map(Op::Lose),
        2 => (0..12_usize).prop_map(Op::Return),
        2 => (0..12_usize).prop_map(Op::LosePower),
        2 => Just(Op::Write),
        2 => Just(Op::Flush),
        1 => Just(Op::Rebuild),
        1 => (0..12_usize).prop_map(Op::Unexport),
        1 => Just(Op::MonitorGoes),
        1 => Just(Op::MonitorReturns),
    ]
}

fn play(scene: &mut Scene, op: &Op) {
    match op {
        Op::Work => scene.agent(usize::MAX),
        Op::CrashAfter(calls) => scene.agent(*calls),
        Op::TargetDies if !scene.world.is_served() => scene.world.restart(),
        Op::TargetDies => scene.world.crash(),
        Op::Lose(n) => scene.world.lose(scene.member(*n)),
        Op::Return(n) => scene.world.give_back(scene.member(*n)),
        // Known limit: what is lost while the array is made, before anybody knows of it, may not be noticed.
        Op::LosePower(n) if !scene.ledger.0.is_empty() => scene.world.lose_power(scene.member(*n)),
        Op::LosePower(_) => {}
        Op::Write => scene.world.write(),
        Op::Flush => scene.world.flush(),
        Op::Rebuild => scene.world.finish_rebuilds(),
        Op::Unexport(n) => scene.world.unexport(scene.member(*n)),
        Op::MonitorGoes => scene.unrecorded = true,
        Op::MonitorReturns => scene.unrecorded = false,
    }
    if scene.world.has_dropped() {
        // Known limit: a loss that is not recorded before the data plane dies as well is not known to the election.
        scene.agent(usize::MAX);
        scene.unrecorded = false;
    }
    scene.monitor();
    scene.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens: live data is never formatted, nothing is read from placeholders or stale members, members that differ are never
    /// assembled as equal, and when all is back the array serves what was written last.
    #[test]
    fn data_survives_everything(
        stripes in 1..3_u32, replicas in 1..4_u32, groups in 1..3_u32, unrecorded: bool,
        ops in prop::collection::vec(op(), 0..25)
    ) {
        let mut scene = Scene { unrecorded, ..Scene::new(stripes, replicas, groups) };
        for op in &ops {
            play(&mut scene, op);
        }
        scene.unrecorded = false;
        scene.world.all_back();
        scene.settle();
        scene.check();
        scene.world.check_whole();
        prop_assert!(scene.plan().2.settled(), "nothing to do for what is as wanted");
        let leg = &scene.status.as_ref().unwrap().legs[0];
        prop_assert!(leg.initialised && !leg.needs_election && leg.members.iter().all(|m| m.in_sync));
        prop_assert!(replicas == 1 || scene.known.as_ref().unwrap().boots.len() == leg.members.len());

        // Deleting takes everything away and destroys nothing.
        scene.deleting = true;
        for _ in 0..10 {
            scene.agent(7);
        }
        scene.agent(usize::MAX);
        prop_assert!(scene.status.as_ref().unwrap().gone, "{:?}", scene.status);
        prop_assert!(scene.world.is_empty());
        prop_assert!(scene.ledger.0.is_empty());
        scene.check();
    }

    #[test]
    fn the_order_of_lists_does_not_matter(replicas in 1..4_u32, seed in any::<u64>()) {
        let mut a = Scene::new(2, replicas, 1);
        let mut b = Scene::new(2, replicas, 1);
        b.leg.groups[0].sets.rotate_left((seed % 2) as usize);
        for _ in 0..3 {
            let (wave_a, wave_b) = (a.plan().2, b.plan().2);
            prop_assert_eq!(
                wave_a.steps.iter().map(|s| &s.id).collect::<Vec<_>>(),
                wave_b.steps.iter().map(|s| &s.id).collect::<Vec<_>>()
            );
            a.agent(5);
            b.agent(5);
        }
    }
}

#[test]
fn a_fresh_array_is_assembled_in_few_waves() {
    let mut scene = Scene::new(2, 2, 1);
    let mut waves = 0;
    loop {
        let (_, _, wave) = scene.plan();
        if wave.steps.is_empty() {
            break;
        }
        waves += 1;
        for action in wave.steps.iter().flat_map(|step| &step.actions) {
            scene.world.apply(action).unwrap();
        }
    }
    assert_eq!(waves, 6, "attach, mirror, stripe, lvstore, volume, export");
    scene.check();
}

#[test]
fn a_missing_member_is_named() {
    let mut scene = Scene::new(1, 2, 1);
    scene.world.unexport(vd(0, 1));
    scene.agent(usize::MAX);
    let status = scene.status.clone().unwrap();
    let whole = status.status.unwrap();
    assert_eq!(whole.condition(), Condition::Blocked);
    assert_eq!(whole.on, "DN 127.0.0.1:9710: VD not exported yet");
    assert!(!status.legs[0].initialised);
    assert_eq!(scene.world.attached(), 1, "what is there is attached");
}

#[test]
fn a_lost_member_degrades_and_is_rebuilt_when_it_is_back() {
    let mut scene = Scene::new(1, 2, 1);
    scene.settle();
    scene.world.lose(vd(0, 1));
    scene.agent(usize::MAX);
    scene.monitor();
    let whole = scene.status.clone().unwrap().status.unwrap();
    assert_eq!(whole.condition(), Condition::Degraded, "{whole:?}");
    assert!(whole.message.contains("1 of 2 members in sync"), "{whole:?}");
    assert_eq!(scene.known.as_ref().unwrap().in_sync, [vd(0, 0).to_string()]);
    scene.world.write();
    scene.world.give_back(vd(0, 1));
    scene.agent(usize::MAX);
    let member = |scene: &Scene| scene.status.as_ref().unwrap().legs[0].members[1].clone();
    assert!(!member(&scene).in_sync, "while it is rebuilt");
    scene.monitor();
    assert_eq!(scene.known.as_ref().unwrap().in_sync.len(), 1);
    scene.world.finish_rebuilds();
    scene.agent(usize::MAX);
    scene.monitor();
    assert!(member(&scene).in_sync);
    assert_eq!(scene.known.as_ref().unwrap().in_sync.len(), 2);
    scene.check();
}

#[test]
fn several_members_in_sync_wait_for_an_election() {
    let mut scene = Scene::new(1, 3, 1);
    scene.settle();
    scene.world.restart();
    scene.agent(usize::MAX);
    let status = scene.status.clone().unwrap();
    assert!(status.legs[0].needs_election);
    assert!(
        status.legs[0].members.iter().all(|m| m.status.as_ref().unwrap().condition() == Condition::Ready)
    );
    assert!(status.status.unwrap().on.contains("election"), "the blocker is named");
    scene.monitor();
    assert_eq!(scene.known.as_ref().unwrap().in_sync.len(), 1);
    scene.settle();
    scene.world.check_whole();
    scene.check();
}

/// An array in use: one write is flushed, another is not.
fn in_use(replicas: u32) -> Scene {
    let mut scene = Scene::new(1, replicas, 1);
    scene.settle();
    scene.world.write();
    scene.world.flush();
    scene.world.write();
    scene
}

fn recorded(scene: &Scene) -> Vec<String> {
    scene.known.as_ref().unwrap().in_sync.clone()
}

#[test]
fn a_member_whose_node_was_started_anew_leaves_and_is_rebuilt() {
    let mut scene = in_use(2);
    let written = scene.world.version(vd(0, 0));
    scene.world.lose_power(vd(0, 1));
    assert!(scene.world.version(vd(0, 1)) < written, "the write that was not flushed is gone there");
    scene.agent(usize::MAX);
    assert_eq!(recorded(&scene).len(), 2, "nobody can know it yet, and nobody reads there");
    // The monitor learns the new name of the VD.
    scene.tell_names();
    scene.agent(usize::MAX);
    let member = |scene: &Scene| scene.status.as_ref().unwrap().legs[0].members[1].clone();
    assert!(
        !member(&scene).in_sync && scene.world.attached_as(vd(0, 1)).ends_with('0'),
        "reported, and left as it is"
    );
    let joins = |scene: &Scene| {
        let steps = scene.plan().2.steps;
        let rebuild =
            |action: &crate::resources::Action| matches!(action, crate::resources::Action::AddBase { .. });
        steps.iter().flat_map(|step| &step.actions).any(rebuild)
    };
    scene.monitor();
    assert_eq!(recorded(&scene), [vd(0, 0).to_string()]);
    while !joins(&scene) {
        let step = scene.plan().2.steps.remove(0);
        step.actions.iter().for_each(|action| scene.world.apply(action).unwrap());
    }
    assert!(scene.world.attached_as(vd(0, 1)).ends_with('1'), "it is attached under the new name");
    scene.settle();
    assert_eq!((scene.world.version(vd(0, 0)), scene.world.version(vd(0, 1))), (written, written));
    assert_eq!(recorded(&scene).len(), 2);
    scene.check();
}

#[test]
fn an_agent_that_is_restarted_rebuilds_nothing() {
    let mut scene = in_use(2);
    (scene.status, scene.book) = (None, Book::default());
    assert!(scene.plan().2.steps.is_empty(), "{:?}", scene.plan().2.steps);
    scene.agent(usize::MAX);
    assert_eq!(scene.condition(), Condition::Ready);
}

#[test]
fn when_all_nodes_were_started_anew_one_is_elected_and_the_array_comes_back() {
    for replicas in [2, 3] {
        let mut scene = in_use(replicas);
        for replica in 0..replicas {
            scene.world.lose_power(vd(0, replica));
        }
        scene.tell_names();
        scene.agent(usize::MAX);
        assert!(!scene.world.is_served(), "the host is not left to believe that all is as it was");
        assert!(scene.status.as_ref().unwrap().legs[0].needs_election);
        scene.settle();
        scene.world.check_whole();
        scene.check();
    }
}

/// The other may have all that was written, or may have lost its power as well: that shows when it is back.
#[test]
fn a_member_that_is_started_anew_is_not_given_up_for_one_that_is_away() {
    for power_lost in [false, true] {
        let mut scene = in_use(2);
        let written = scene.world.version(vd(0, 0));
        scene.world.cut_off(vd(0, 0));
        scene.world.lose_power(vd(0, 1));
        scene.tell_names();
        scene.agent(usize::MAX);
        scene.monitor();
        assert_eq!(recorded(&scene).len(), 2);
        let whole = scene.status.clone().unwrap().status.unwrap();
        assert!(whole.on.contains("started anew") || whole.message.contains("started anew"), "{whole:?}");
        if power_lost {
            scene.world.lose_power(vd(0, 0));
        }
        scene.world.give_back(vd(0, 0));
        scene.tell_names();
        scene.settle();
        scene.world.check_whole();
        scene.check();
        assert!(power_lost || scene.world.version(vd(0, 1)) == written, "nothing acknowledged is lost");
    }
}

#[test]
fn of_two_that_must_be_elected_from_the_one_that_kept_its_power_is() {
    let mut scene = in_use(2);
    let written = scene.world.version(vd(0, 1));
    scene.world.lose_power(vd(0, 0));
    scene.world.restart();
    scene.tell_names();
    scene.agent(usize::MAX);
    assert!(scene.status.as_ref().unwrap().legs[0].needs_election);
    scene.monitor();
    assert_eq!(recorded(&scene), [vd(0, 1).to_string()]);
    scene.settle();
    assert_eq!(scene.world.version(vd(0, 0)), written);
    scene.check();
}

#[test]
fn while_the_boot_of_a_node_is_not_known_its_members_wait_and_stay() {
    let forget = |scene: &mut Scene| scene.leg.groups[0].sets[0].members[1].nqn.clear();
    let mut scene = in_use(2);
    forget(&mut scene);
    assert!(scene.plan().2.steps.is_empty(), "unknown is not another: {:?}", scene.plan().2.steps);
    let mut scene = Scene::new(1, 2, 1);
    forget(&mut scene);
    scene.agent(usize::MAX);
    let whole = scene.status.clone().unwrap().status.unwrap();
    assert_eq!(whole.on, "DN 127.0.0.1:9710: the boot of the node is not known yet");
    scene.check();
}

/// The agent's ledger alone knows that there is data: nobody has recorded the first report yet.
#[test]
fn an_assembly_that_nobody_recorded_is_not_repeated_as_a_new_one() {
    let mut scene = Scene { unrecorded: true, ..Scene::new(2, 2, 1) };
    scene.agent(usize::MAX);
    assert_eq!(scene.condition(), Condition::Ready);
    scene.world.write();
    scene.world.crash();
    scene.agent(usize::MAX);
    scene.check();
    assert_eq!(scene.known, None);
    assert!(scene.status.as_ref().unwrap().legs[0].needs_election);
    scene.unrecorded = false;
    scene.settle();
    scene.world.check_whole();
    scene.check();
}

#[test]
fn a_volume_that_is_gone_is_not_made_again() {
    // Who remembers it: the agent's ledger, what is recorded in etcd.
    for (ledger, recorded) in [(true, false), (false, true)] {
        let mut scene = Scene { unrecorded: !recorded, ..Scene::new(1, 2, 1) };
        scene.agent(usize::MAX);
        scene.monitor();
        if !ledger {
            scene.ledger = Ledger::default();
        }
        scene.world.lose_volume();
        scene.agent(usize::MAX);
        assert!(!scene.world.has_volume(), "{ledger} {recorded}");
        assert_eq!(scene.condition(), Condition::Failed, "{:?}", scene.status);
        scene.check();
    }
}

#[test]
fn a_set_without_a_member_in_sync_stays_down() {
    let mut scene = Scene::new(1, 2, 1);
    scene.settle();
    scene.known.as_mut().unwrap().in_sync.clear();
    scene.world.restart();
    scene.agent(usize::MAX);
    let whole = scene.status.clone().unwrap().status.unwrap();
    assert!(whole.on.contains("no member of mirror set 0/0/0"), "{whole:?}");
    scene.check();
}

#[test]
fn what_was_not_seen_is_not_reported_as_lost() {
    let mut scene = Scene::new(1, 2, 1);
    scene.settle();
    let (desired, actual, _) = scene.plan();
    let before = scene.status.clone();
    let mut blind = actual;
    for seen in blind.seen.values_mut().filter(|seen| matches!(seen.state.known(), Some(State::Mirror(_)))) {
        seen.state = Observed::Unknown;
    }
    let wave = plan(&desired, &blind);
    assert!(wave.steps.is_empty(), "nothing is done about what is not known: {wave:?}");
    let (da, wanted) = scene.want();
    let failures = BTreeMap::new();
    let settled = Settled { desired: &desired, actual: &blind, plan: &wave, failures: &failures };
    let report =
        crate::report::report(&scene.ledger, da, &wanted, &settled, before.as_ref(), &mut scene.book);
    assert!(report.is_none(), "the last report stands");
}
