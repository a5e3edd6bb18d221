use super::*;

/// As SPDK v26.09-pre answers: with `uuid` twice.
const ANSWER: &str = r#"[{
    "name": "r1", "uuid": "00000000-0000-4000-8000-000000000001",
    "uuid": "00000000-0000-4000-8000-000000000002",
    "strip_size_kb": 0, "state": "online", "raid_level": "raid1", "superblock": false,
    "num_base_bdevs": 2, "num_base_bdevs_discovered": 1, "num_base_bdevs_operational": 1,
    "base_bdevs_list": [
        {"name": "n0n1", "uuid": "00000000-0000-4000-8000-000000000003", "is_configured": true, "data_offset": 0, "data_size": 8192},
        {"name": null, "uuid": "00000000-0000-0000-0000-000000000000", "is_configured": false, "data_offset": 0, "data_size": 8192}
    ]
}]"#;

#[test]
fn a_listing_with_the_uuid_twice_is_read() {
    let raids: Vec<RaidBdev> = serde_json::from_str(ANSWER).expect("what SPDK answers");
    assert_eq!(raids[0].name, "r1");
    assert_eq!(raids[0].info.state, RaidState::Online);
    assert_eq!(raids[0].info.uuid.to_string(), "00000000-0000-4000-8000-000000000002");
    assert_eq!(raids[0].info.base_bdevs_list.len(), 2);
}

#[test]
fn a_listing_without_a_name_or_a_state_is_not() {
    for missing in ["name", "state"] {
        let answer = ANSWER.replacen(&format!("\"{missing}\""), "\"other\"", 1);
        let error = serde_json::from_str::<Vec<RaidBdev>>(&answer).expect_err(missing);
        assert!(error.to_string().contains(missing), "{error}");
    }
}
