//! The configuration of a process survives it: saved, loaded at the next start, saved again, it is the same.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vda_ports::Port;

#[allow(dead_code)]
#[path = "conformance/target.rs"]
mod target;

use target::Target;

const NQN: &str = "nqn.2016-06.io.spdk:s1";

fn call(target: &mut Target, method: &str, params: Value) -> Value {
    let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    if params != json!({}) {
        request["params"] = params;
    }
    let answer = target.exchange(&request);
    assert!(answer.get("error").is_none(), "{request}: {answer}");
    answer["result"].clone()
}

/// What `rpc.py save_config` writes.
fn save(target: &mut Target) -> Value {
    let subsystems = call(target, "framework_get_subsystems", json!({}));
    let saved = |subsystem: &Value| {
        let name = &subsystem["subsystem"];
        json!({"subsystem": name, "config": call(target, "framework_get_config", json!({"name": name}))})
    };
    json!({"subsystems": subsystems.as_array().unwrap().iter().map(saved).collect::<Vec<_>>()})
}

fn listen(port: &str) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port})
}

/// One of everything; names are such that their order is not that in which they have to be made.
fn build(target: &mut Target, dir: &Path, port: &str) {
    for name in ["disk", "ring"] {
        std::fs::File::create(dir.join(name)).unwrap().set_len(256 << 20).unwrap();
    }
    let (disk, ring) = (dir.join("disk"), dir.join("ring"));
    let second = json!({"nqn": "nqn.2016-06.io.spdk:s2", "host": "nqn.2016-06.io.spdk:h2"});
    let steps = [
        ("bdev_malloc_create", json!({"name": "zm0", "num_blocks": 16384, "block_size": 4096})),
        ("bdev_malloc_create", json!({"name": "zm1", "num_blocks": 16384, "block_size": 4096})),
        ("bdev_null_create", json!({"name": "null", "num_blocks": 65536, "block_size": 512})),
        ("bdev_aio_create", json!({"name": "yaio", "filename": disk, "block_size": 4096})),
        ("bdev_uring_create", json!({"name": "uring", "filename": ring, "block_size": 512})),
        (
            "bdev_delay_create",
            json!({"name": "delay", "base_bdev_name": "null", "avg_read_latency": 1, "p99_read_latency": 2,
                   "avg_write_latency": 3, "p99_write_latency": 4}),
        ),
        ("bdev_error_create", json!({"base_name": "delay"})),
        ("bdev_lvol_create_lvstore", json!({"bdev_name": "yaio", "lvs_name": "lvs", "cluster_sz": 1048576})),
        (
            "bdev_lvol_create",
            json!({"lvs_name": "lvs", "lvol_name": "thin", "size_in_mib": 8, "thin_provision": true}),
        ),
        ("bdev_lvol_create", json!({"lvs_name": "lvs", "lvol_name": "thick", "size_in_mib": 8})),
        ("bdev_set_qos_limit", json!({"name": "lvs/thin", "rw_ios_per_sec": 2000, "w_mbytes_per_sec": 7})),
        ("bdev_raid_set_options", json!({"process_window_size_kb": 2048, "process_max_bandwidth_mb_sec": 9})),
        ("bdev_raid_create", json!({"name": "araid", "raid_level": "raid1", "base_bdevs": ["zm0", "zm1"]})),
        (
            "bdev_raid_create",
            json!({"name": "astripe", "raid_level": "raid0", "strip_size_kb": 64, "base_bdevs": ["lvs/thick", "ring0"]}),
        ),
        (
            "nvmf_create_transport",
            json!({"trtype": "TCP", "in_capsule_data_size": 8192, "max_queue_depth": 64}),
        ),
        ("nvmf_discovery_add_referral", json!({"address": listen("8009")})),
        (
            "nvmf_create_subsystem",
            json!({"nqn": NQN, "serial_number": "SN1", "model_number": "M1", "ana_reporting": true,
                   "max_namespaces": 8, "min_cntlid": 10, "max_cntlid": 99}),
        ),
        (
            "nvmf_subsystem_add_ns",
            json!({"nqn": NQN, "namespace": {"bdev_name": "araid", "nsid": 3, "anagrpid": 2,
                   "nguid": "11111111111111111111111111111111"}}),
        ),
        ("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": "nqn.2016-06.io.spdk:h1"})),
        ("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": listen(port)})),
        (
            "nvmf_subsystem_listener_set_ana_state",
            json!({"nqn": NQN, "listen_address": listen(port), "ana_state": "inaccessible", "anagrpid": 2}),
        ),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.2016-06.io.spdk:s2", "allow_any_host": true})),
        ("nvmf_subsystem_add_host", second),
        (
            "nvmf_subsystem_add_ns",
            json!({"nqn": "nqn.2016-06.io.spdk:s2", "namespace": {"bdev_name": "lvs/thin"}}),
        ),
        (
            "nvmf_subsystem_add_ns",
            json!({"nqn": "nqn.2016-06.io.spdk:s2", "namespace": {"bdev_name": "uring", "nsid": 5, "no_auto_visible": true}}),
        ),
        (
            "nvmf_ns_add_host",
            json!({"nqn": "nqn.2016-06.io.spdk:s2", "nsid": 5, "host": "nqn.2016-06.io.spdk:h1"}),
        ),
        (
            "nvmf_ns_add_host",
            json!({"nqn": "nqn.2016-06.io.spdk:s2", "nsid": 5, "host": "nqn.2016-06.io.spdk:h2"}),
        ),
    ];
    for (method, params) in steps {
        call(target, method, params);
    }
}

/// All that the process shows of itself. What is saved twice can be equal though something is missing both times; what is shown cannot.
fn views(target: &mut Target) -> Vec<(&'static str, Value)> {
    let views = [
        ("bdev_get_bdevs", json!({})),
        ("bdev_nvme_get_controllers", json!({})),
        ("bdev_raid_get_bdevs", json!({"category": "all"})),
        ("bdev_lvol_get_lvstores", json!({})),
        ("bdev_lvol_get_lvols", json!({})),
        ("nvmf_get_transports", json!({})),
        ("nvmf_get_subsystems", json!({})),
        ("nvmf_subsystem_get_listeners", json!({"nqn": NQN})),
        ("nvmf_discovery_get_referrals", json!({})),
    ];
    let shown = views.into_iter().map(|(method, params)| {
        let mut view = call(target, method, params);
        // A controller id is given by the other side, a new one for every connection.
        blank(&mut view, "cntlid");
        view.as_array_mut().unwrap().sort_by_key(|element| element["name"].to_string());
        (method, view)
    });
    shown.collect()
}

/// Sets every field of that name to null.
fn blank(value: &mut Value, name: &str) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(|element| blank(element, name)),
        Value::Object(fields) => {
            for (field, value) in fields {
                match field == name {
                    true => *value = Value::Null,
                    false => blank(value, name),
                }
            }
        }
        _ => {}
    }
}

/// Starts a target, attached to a subsystem of `far` that serves one namespace.
fn start(dir: &Path, auto_examine: bool, far: &str) -> Target {
    let mut target = Target::start(dir, "near");
    call(&mut target, "bdev_set_options", json!({"bdev_auto_examine": auto_examine}));
    call(&mut target, "iobuf_set_options", json!({"small_pool_count": 1000, "large_bufsize": 65536}));
    let options = json!({"bdev_retry_count": 5, "ctrlr_loss_timeout_sec": 30, "reconnect_delay_sec": 2});
    call(&mut target, "bdev_nvme_set_options", options);
    call(&mut target, "framework_start_init", json!({}));
    let multipath = json!({"policy": "active_active", "selector": "queue_depth"});
    let attach = json!({"name": "remote", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": far,
        "subnqn": NQN, "hostnqn": "nqn.2016-06.io.spdk:h1", "ddgst": true, "multipath": "multipath",
        "ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1, "multipath_opts": multipath});
    assert_eq!(call(&mut target, "bdev_nvme_attach_controller", attach), json!(["remoten1"]));
    let policy = json!({"name": "remoten1", "policy": "active_active", "rr_min_io": 7});
    call(&mut target, "bdev_nvme_set_multipath_policy", policy);
    target
}

/// A target that serves a null bdev at `port`.
fn far_target(dir: &Path, port: &str) -> Target {
    let mut far = Target::start(dir, "far");
    for (method, params) in [
        ("framework_start_init", json!({})),
        ("bdev_null_create", json!({"name": "n", "num_blocks": 65536, "block_size": 512})),
        ("nvmf_create_transport", json!({"trtype": "TCP"})),
        ("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": true})),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "n"}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": listen(port)})),
    ] {
        call(&mut far, method, params);
    }
    far
}

/// Saved, killed, loaded at start, saved: equal. With and without automatic examine.
#[test]
fn a_saved_configuration_makes_the_same_process() {
    for auto_examine in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let reserved = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let [port, remote] = [0, 1].map(|i: usize| reserved[i].number().to_string());
        let _far = far_target(dir.path(), &remote);
        let mut target = start(dir.path(), auto_examine, &remote);
        let ring = json!({"name": "ring0", "num_blocks": 4096, "block_size": 4096});
        call(&mut target, "bdev_malloc_create", ring);
        build(&mut target, dir.path(), &port);
        let saved = save(&mut target);
        // No view shows who sees a namespace.
        let text = saved.to_string();
        assert_eq!(text.matches("\"nvmf_ns_add_host\"").count(), 2, "{text}");
        assert!(text.contains("\"no_auto_visible\":true"), "{text}");
        let buffers = json!({"small_pool_count": 1000, "large_pool_count": 1024, "small_bufsize": 8192,
            "large_bufsize": 65536, "enable_numa": false});
        let iobuf =
            json!({"subsystem": "iobuf", "config": [{"method": "iobuf_set_options", "params": buffers}]});
        assert_eq!(saved["subsystems"][0], iobuf);
        let shown = views(&mut target);
        drop(target);

        let file = dir.path().join("config.json");
        std::fs::write(&file, saved.to_string()).unwrap();
        let mut again = Target::start_with(dir.path(), "near", &["--json", file.to_str().unwrap()]);
        call(&mut again, "framework_start_init", json!({}));
        again.wait_loaded();
        assert_eq!(save(&mut again), saved, "examine: {auto_examine}");
        for (view, (method, before)) in views(&mut again).into_iter().zip(shown) {
            assert_eq!(view, (method, before), "examine: {auto_examine}");
        }
    }
}

/// A file as SPDK writes it: options of parts that are absent here, a delay bdev before the error bdev it is over, that before its disk, and two
/// that wait for bases which never came.
#[test]
fn a_configuration_that_spdk_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, include_str!("spdk_saved.json")).unwrap();
    let mut target = Target::start_with(dir.path(), "near", &["--json", file.to_str().unwrap()]);
    call(&mut target, "framework_start_init", json!({}));
    target.wait_loaded();
    let bdevs = call(&mut target, "bdev_get_bdevs", json!({}));
    let names: Vec<_> = bdevs.as_array().unwrap().iter().map(|bdev| &bdev["name"]).collect();
    assert_eq!(names, ["m", "EE_m", "d"]);
    let delay = &bdevs[2];
    assert_eq!(delay["uuid"], "9061a77a-a5b6-51ef-949e-79feda9ac8bc");
    assert_eq!(delay["driver_specific"]["delay"]["base_bdev_name"], "EE_m");
    assert_eq!(delay["assigned_rate_limits"]["rw_ios_per_sec"], 1000);
    assert_eq!(call(&mut target, "nvmf_get_transports", json!({}))[0]["trtype"], "TCP");
    // What waits is saved, and comes with its base.
    let saved = save(&mut target).to_string();
    assert!(saved.contains("later2"), "{saved}");
    let base = json!({"name": "later2", "num_blocks": 4096, "block_size": 4096});
    call(&mut target, "bdev_null_create", base);
    call(&mut target, "bdev_get_bdevs", json!({"name": "EE_later2"}));
}

/// Options of SPDK that would change what a host sees are not left out in silence.
#[test]
fn options_that_matter_are_not_left_out() {
    for (method, params) in [
        ("nvmf_set_crdt", json!({"crdt1": 0, "crdt2": 5})),
        ("nvmf_set_config", json!({"admin_cmd_passthru": {"identify_ctrlr": true}})),
        ("nvmf_set_config", json!({"discovery_filters": ["address"]})),
        ("nvmf_set_config", json!({"dup_host_policy": "restrict_per_listener"})),
        ("nbd_start_disk", json!({"bdev_name": "m", "nbd_device": "/dev/nbd0"})),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let call = json!({"method": method, "params": params});
        std::fs::write(&file, json!({"subsystems": [{"subsystem": "any", "config": [call]}]}).to_string())
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vda_dataplane"));
        command.arg("-r").arg(dir.path().join("refused.sock")).arg("-c").arg(&file);
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&format!("{method}: Method not found")), "{said}");
    }
}

/// A call that is refused ends the process with its name; it is only logged when that is asked for.
#[test]
fn a_refused_call_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let start = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vda_dataplane"));
        command.arg("-r").arg(dir.path().join("refused.sock")).arg("-c").arg(&file).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let refused = json!({"method": "bdev_malloc_create", "params": {"num_blocks": 0, "block_size": 512}});
    let kill = json!({"method": "spdk_kill_instance", "params": {"sig_name": "SIGTERM"}});
    let config = json!({"subsystems": [{"subsystem": "keyring", "config": null},
                                       {"subsystem": "bdev", "config": [[refused], kill]}]});
    std::fs::write(&file, config.to_string()).unwrap();
    let output = start(&[]).wait_with_output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bdev_malloc_create: Invalid argument"), "{said}");
    // The call after it is made, and ends the process in good order.
    let output = start(&["--json-ignore-init-errors"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(&file, "{}").unwrap();
    let output = start(&[]).wait_with_output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is no configuration as save_config writes it"), "{said}");
}
