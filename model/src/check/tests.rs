//! Each kind of damage is found.

use vda_proto::v1;

use super::*;
use crate::{
    defaults::MIB,
    keys::*,
    transitions::world::{World, cluster, new_da},
};

fn world() -> World {
    let mut world = cluster(3, 1);
    world.create_da(&new_da("da0", 64 * MIB, 1, 2), 0).unwrap();
    world.create_da(&new_da("da1", 64 * MIB, 1, 2), 0).unwrap();
    world.delete_da("da1").unwrap();
    world.assert_clean();
    world
}

fn damaged<K: Key + TryFrom<AnyKey>>(change: impl FnOnce(&mut K::Value)) -> String {
    let mut world = world();
    let (key, record) = world.snapshot.all::<K>().next().unwrap();
    let mut value = record.value;
    change(&mut value);
    Sink::put(&mut world.snapshot, &key, &value);
    check(&world.snapshot).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn removed<K: Key + TryFrom<AnyKey>>() -> String {
    let mut world = world();
    let (key, _) = world.snapshot.all::<K>().next().unwrap();
    Sink::delete(&mut world.snapshot, &key);
    check(&world.snapshot).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn books_that_do_not_balance_are_found() {
    for (found, what) in [
        (damaged::<DnCapacityKey>(|c| c.pds[0].used_bytes += 1), "used_bytes"),
        (damaged::<DnCapacityKey>(|c| c.pds[0].live_vds += 1), "live_vds"),
        (damaged::<DnCapacityKey>(|c| c.pds[0].deleting_vds += 1), "deleting_vds"),
        (
            damaged::<DnCapacityKey>(|c| {
                c.pds[0].qos_used = Some(v1::Qos { rw_ios_per_sec: 5, ..Default::default() })
            }),
            "qos_used",
        ),
        (damaged::<DnCapacityKey>(|c| c.pds[0].total_bytes = 1), "exceeds total_bytes"),
        (damaged::<DnCapacityKey>(|c| c.offline = true), "offline differs"),
        (damaged::<DnCapacityKey>(|c| c.pds.clear()), "not in the books"),
        (damaged::<CnCapacityKey>(|c| c.live_cntlrs += 1), "controllers in the books"),
        (damaged::<DnShareKey>(|s| s.vds[0].size_bytes += 1), "used_bytes"),
    ] {
        assert!(found.contains(what), "{what}: {found}");
    }
}

#[test]
fn records_that_contradict_each_other_are_found() {
    for (found, what) in [
        (damaged::<DaKey>(|da| da.size_bytes += MIB), "its controller on CN"),
        (damaged::<DaKey>(|da| da.legs[0].owner_nqn.push('0')), "its share on DN"),
        (
            damaged::<DaKey>(|da| {
                let m = &mut da.legs[0].groups[0].sets[0].members;
                m[1].dn_id = m[0].dn_id.clone();
            }),
            "share a location",
        ),
        (damaged::<DaTombstoneKey>(|t| t.dn_ids.clear()), "nor its listed tombstone"),
        (damaged::<DnShareKey>(|s| s.deleting = !s.deleting), "nor its listed tombstone"),
        (damaged::<DnNameKey>(|i| i.id = "0000000000000000".into()), "not in the index"),
        (removed::<DaKey>(), "nor its listed tombstone"),
        (removed::<DaTombstoneKey>(), "nor its listed tombstone"),
        (removed::<DnNameKey>(), "not in the index"),
        (removed::<DnCapacityKey>(), "has no books"),
        (removed::<PdSpecKey>(), "without a spec"),
        (removed::<CntlrSpecKey>(), ""),
        (removed::<DnShareKey>(), ""),
    ] {
        assert!(!found.is_empty() && found.contains(what), "{what}: {found}");
    }
}

#[test]
fn leg_states_that_promise_too_much_are_found() {
    let mut world = world();
    let (key, cntlr) = world.snapshot.all::<CntlrSpecKey>().find(|(_, c)| !c.value.deleting).unwrap();
    let member = cntlr.value.legs[0].groups[0].sets[0].members[0].vd_id.clone();
    let state = |in_sync: Vec<String>| v1::LegState {
        schema_version: 1,
        initialised: true,
        in_sync,
        ..Default::default()
    };
    let mut with = |state: v1::LegState| {
        Sink::put(&mut world.snapshot, &LegStateKey(key.1, 0), &state);
        check(&world.snapshot).iter().map(ToString::to_string).collect::<String>()
    };
    assert_eq!(with(state(vec![member.clone()])), "");
    assert!(with(state(vec![member, "stranger".into()])).contains("not members"));
    assert!(with(state(vec![])).contains("no member in sync"));
}

#[test]
fn foreign_and_undecodable_keys_are_found() {
    let mut snapshot = Snapshot::default();
    let prefix = Prefix::default();
    snapshot.insert(&prefix, "/vda/dn/x/spec", vec![], 1);
    snapshot.insert(&prefix, "/vda/tomb/0000000000000001", vec![0xff], 2);
    let found = check(&snapshot).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(found.iter().any(|f| f == "/vda/dn/x/spec: not a key of VDA"), "{found:?}");
    assert!(found.iter().any(|f| f.ends_with("its value is not of its type")), "{found:?}");
}
