use proptest::prelude::*;
use vda_proto::v1;

use crate::defaults::MIB;
use crate::ids::{CnId, DaId};
use crate::transitions::leg;
use crate::transitions::world::{cluster, new_da, observation};

fn spec(stripes: u32, replicas: u32) -> v1::LegSpec {
    let mut world = cluster(replicas, 4);
    world.create_da(&new_da("da0", 64 * MIB, stripes, replicas), 0).unwrap().legs.remove(0)
}

fn vds(spec: &v1::LegSpec) -> Vec<String> {
    spec.groups[0].sets.iter().flat_map(|s| &s.members).map(|m| m.vd_id.clone()).collect()
}

fn state(spec: &v1::LegSpec, in_sync: &[&String]) -> v1::LegState {
    v1::LegState {
        schema_version: 1,
        da_id: "d".into(),
        leg: spec.leg,
        initialised: true,
        epoch: spec.epoch,
        in_sync: in_sync.iter().map(ToString::to_string).collect(),
        boots: Vec::new(),
    }
}

#[test]
fn the_first_assembly_makes_all_members_equal() {
    let spec = spec(2, 2);
    let new = leg::observe(None, "d", &spec, &observation(&spec, |_| (true, true), false)).unwrap();
    assert!(new.initialised);
    assert_eq!(new.in_sync, vds(&spec));
    let again = leg::observe(Some(&new), "d", &spec, &observation(&spec, |_| (true, true), false));
    assert_eq!(again, None, "nothing new");
}

#[test]
fn a_lost_member_leaves_and_comes_back_by_rebuild() {
    let spec = spec(1, 2);
    let vds = vds(&spec);
    let both = state(&spec, &[&vds[0], &vds[1]]);
    let lost = observation(&spec, |vd| (vd == vds[0], vd == vds[0]), false);
    let one = leg::observe(Some(&both), "d", &spec, &lost).unwrap();
    assert_eq!(one.in_sync, [vds[0].clone()]);
    let back = leg::observe(Some(&one), "d", &spec, &observation(&spec, |_| (true, true), false)).unwrap();
    assert_eq!(back.in_sync, vds);
}

#[test]
fn a_leg_that_is_not_assembled_tells_nothing() {
    let spec = spec(2, 2);
    let vds = vds(&spec);
    let all = state(&spec, &vds.iter().collect::<Vec<_>>());
    assert_eq!(leg::observe(Some(&all), "d", &spec, &observation(&spec, |_| (true, false), false)), None);
}

#[test]
fn a_stale_member_alone_is_not_believed() {
    let spec = spec(1, 2);
    let vds = vds(&spec);
    let survivor = state(&spec, &[&vds[1]]);
    let stale_only = observation(&spec, |vd| (vd == vds[0], vd == vds[0]), false);
    assert_eq!(leg::observe(Some(&survivor), "d", &spec, &stale_only), None);
}

#[test]
fn a_rebuilt_member_that_outlived_its_source_is_believed() {
    let spec = spec(1, 3);
    let vds = vds(&spec);
    let source = state(&spec, &[&vds[1]]);
    let mut report = observation(&spec, |vd| (vd != vds[1], vd != vds[1]), false);
    assert_eq!(leg::observe(Some(&source), "d", &spec, &report), None);
    report.members[0].rebuilt = true;
    let new = leg::observe(Some(&source), "d", &spec, &report).unwrap();
    assert_eq!(new.in_sync, [vds[0].clone(), vds[2].clone()], "and those that are full beside it");
    report.members[0].in_sync = false;
    assert_eq!(leg::observe(Some(&source), "d", &spec, &report), None, "not when it is a member no more");
}

#[test]
fn an_election_takes_one_reachable_member_of_each_set() {
    let spec = spec(2, 2);
    let vds = vds(&spec);
    let all = state(&spec, &vds.iter().collect::<Vec<_>>());
    let reachable = |vd: &str| (vd != vds[0], false);
    let new = leg::observe(Some(&all), "d", &spec, &observation(&spec, reachable, true)).unwrap();
    assert_eq!(new.in_sync, [vds[1].clone(), vds[2].clone()]);
    let none_of_the_second = |vd: &str| (vd == vds[0] || vd == vds[1], false);
    assert_eq!(leg::observe(Some(&all), "d", &spec, &observation(&spec, none_of_the_second, true)), None);
    let survivors = state(&spec, &[&vds[0], &vds[2], &vds[3]]);
    let new =
        leg::observe(Some(&survivors), "d", &spec, &observation(&spec, |_| (true, false), true)).unwrap();
    assert_eq!(new.in_sync, [vds[0].clone(), vds[2].clone()], "never one that was out of sync");
}

#[test]
fn an_election_prefers_who_kept_its_power() {
    let spec = spec(1, 3);
    let vds = vds(&spec);
    let report = |boots: [&str; 3], full: bool, needs_election: bool| {
        let mut report = observation(&spec, |_| (true, full), needs_election);
        for (member, boot) in report.members.iter_mut().zip(boots) {
            boot.clone_into(&mut member.boot);
        }
        report
    };
    let all = leg::observe(None, "d", &spec, &report(["a1", "b1", "c1"], true, false)).unwrap();
    assert_eq!(all.boots.iter().map(|b| b.boot.as_str()).collect::<Vec<_>>(), ["a1", "b1", "c1"]);
    let elected = |boots: [&str; 3]| {
        leg::observe(Some(&all), "d", &spec, &report(boots, false, true)).unwrap().in_sync.remove(0)
    };
    assert_eq!(elected(["a1", "b1", "c1"]), vds[0]);
    assert_eq!(elected(["a2", "b1", "c1"]), vds[1]);
    assert_eq!(elected(["a2", "b2", "c1"]), vds[2]);
    assert_eq!(elected(["a2", "b2", "c2"]), vds[0], "if none did, the first that can be reached");
    let mut away = report(["a2", "b1", "c2"], false, true);
    away.members[1].status = None;
    let new = leg::observe(Some(&all), "d", &spec, &away).unwrap();
    assert_eq!(new.in_sync, [vds[0].clone()], "and not one that cannot be reached");
    // A member in sync is recorded with the boot with which it is, the others are not.
    let rebuilt = leg::observe(Some(&new), "d", &spec, &report(["a2", "b1", "c2"], true, false)).unwrap();
    assert_eq!(rebuilt.boots.iter().map(|b| b.boot.as_str()).collect::<Vec<_>>(), ["a2", "b1", "c2"]);
    assert_eq!(leg::observe(Some(&rebuilt), "d", &spec, &report(["a2", "b1", "c2"], true, false)), None);
}

#[test]
fn initialised_is_never_forgotten() {
    let spec = spec(1, 1);
    let old = state(&spec, &[&vds(&spec)[0]]);
    let forgot = v1::LegState { initialised: false, ..old.clone() };
    assert!(leg::store(CnId::new(1), DaId::new(1), Some(&old), forgot).is_err());
    let mut report = observation(&spec, |_| (true, true), false);
    report.initialised = false;
    assert_eq!(leg::observe(Some(&old), "d", &spec, &report), None);
    assert_eq!(leg::observe(None, "d", &spec, &report), None, "not assembled yet");
}

proptest! {
    /// Random reports: a set never ends up without a member in sync, and nobody enters without being a full member beside one that was.
    #[test]
    fn data_is_never_given_up(reports in prop::collection::vec((any::<[bool; 6]>(), any::<[bool; 6]>(), any::<bool>()), 1..30)) {
        let spec = spec(2, 3);
        let vds = vds(&spec);
        let mut current = state(&spec, &vds.iter().collect::<Vec<_>>());
        for (reachable, full, needs_election) in reports {
            let at = |vd: &str| vds.iter().position(|v| v == vd).unwrap();
            let observed = observation(&spec, |vd| (reachable[at(vd)], full[at(vd)]), needs_election);
            let Some(new) = leg::observe(Some(&current), "d", &spec, &observed) else { continue };
            prop_assert!(new.initialised);
            for set in &spec.groups[0].sets {
                let members: Vec<_> = set.members.iter().map(|m| &m.vd_id).filter(|vd| new.in_sync.contains(vd)).collect();
                prop_assert!(members.iter().any(|vd| current.in_sync.contains(vd)), "somebody with the data stays");
                for vd in members.iter().filter(|vd| !current.in_sync.contains(vd)) {
                    prop_assert!(full[at(vd)] && !needs_election);
                }
            }
            current = new;
        }
    }
}
