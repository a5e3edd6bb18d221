//! The order of calls, and what is saved of a raid that is not whole.

use serde_json::json;
use vda_spdk::{RaidInfo, RaidLevel};

use super::*;

fn part(provides: &str, needs: &[&str]) -> Part {
    let calls = vec![ConfigEntry { method: provides.to_owned(), params: None }];
    let needs = needs.iter().map(|name| (*name).to_owned()).collect();
    Part { provides: vec![provides.to_owned()], needs, calls }
}

#[test]
fn what_is_needed_comes_first() {
    let parts = vec![
        part("raid", &["delay", "null", "gone"]),
        part("delay", &["malloc"]),
        part("null", &[]),
        part("on raid", &["raid"]),
        part("malloc", &[]),
    ];
    let order: Vec<_> = in_order(parts).into_iter().map(|call| call.method).collect();
    assert_eq!(order, ["null", "malloc", "delay", "raid", "on raid"]);
}

/// Only members that have all data are saved: a raid1 would take any other for one that has.
#[test]
fn a_member_that_is_being_rebuilt_is_not_saved() {
    let member = |name: Option<&str>| {
        json!({"name": name, "uuid": "00000000-0000-0000-0000-000000000001", "is_configured": true,
               "data_offset": 0, "data_size": 1})
    };
    let info = json!({
        "uuid": "00000000-0000-0000-0000-000000000002", "strip_size_kb": 0, "state": "online",
        "raid_level": "raid1", "superblock": false, "num_base_bdevs": 3, "num_base_bdevs_discovered": 2,
        "num_base_bdevs_operational": 2,
        "base_bdevs_list": [member(Some("a")), member(None), member(Some("b"))],
        "process": {"type": "rebuild", "target": "b", "progress": {"blocks": 1, "percent": 1}},
    });
    let info: RaidInfo = serde_json::from_value(info).expect("a raid");
    assert_eq!(info.raid_level, RaidLevel::Raid1);
    let part = raid_parts("r", &info);
    let expected = ["a", "removed_base_bdev_1", "removed_base_bdev_2"];
    assert_eq!(part.calls[0].params.as_ref().expect("parameters")["base_bdevs"], json!(expected));
}
