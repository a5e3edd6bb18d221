//! The answers to what was asked of SPDK's own target, request by request.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use vda_spdk::LogLevel;

use super::*;
use crate::app::LogLevels;

struct Target {
    app: Rc<App>,
    methods: Methods,
    dir: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let app = App::new(LogLevels::new(LogLevel::Notice, |_| {}));
        let methods = Methods::all(&app);
        app.start().await.unwrap();
        Self { app, methods, dir: tempfile::tempdir().unwrap() }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        let params = (!params.is_null()).then(|| RawValue::from_string(params.to_string()).unwrap());
        let outcome = self.methods.dispatch(&self.app, method, params.as_deref()).await;
        outcome
            .map(|raw| serde_json::from_str(raw.get()).unwrap())
            .map_err(|e| (e.code, e.message.into_owned()))
    }

    fn file(&self, name: &str, len: u64) -> String {
        let path = self.dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Calls and compares: `Ok` with the value, `Err` with code and message.
    async fn expect(&self, method: &str, params: Value, want: Result<Value, (i64, &str)>) {
        let got = self.call(method, params.clone()).await;
        let want = want.map_err(|(code, message)| (code, message.to_owned()));
        assert_eq!(got, want, "{method} {params}");
    }
}

const DECODE: (i64, &str) = (-32603, "spdk_json_decode_object failed");
const NODEV: (i64, &str) = (-19, "No such device");
const EXIST: (i64, &str) = (-17, "File exists");
const INVAL: (i64, &str) = (-22, "Invalid argument");

#[tokio::test(flavor = "local")]
async fn disks_answer_as_recorded() {
    let t = Target::start().await;
    let uuid = "0a5c0b38-3b0a-4e3b-9b0e-000000000001";
    let m0 = json!({"name": "m0", "num_blocks": 16384, "block_size": 4096, "uuid": uuid});
    t.expect("bdev_get_bdevs", Value::Null, Ok(json!([]))).await;
    t.expect("bdev_malloc_create", m0.clone(), Ok(json!("m0"))).await;
    t.expect("bdev_malloc_create", m0, Err(EXIST)).await;
    for (params, want) in [
        (json!({"name": "m1", "num_blocks": 16384, "block_size": 4096, "uuid": uuid}), EXIST),
        (json!({"name": "mx", "num_blocks": 0, "block_size": 4096}), INVAL),
        (json!({"name": "mx", "num_blocks": 1024, "block_size": 500}), INVAL),
        (json!({"name": "mx", "num_blocks": "abc", "block_size": 512}), DECODE),
        (json!({"name": "mx"}), DECODE),
        (json!({"name": "mx", "num_blocks": 1024, "block_size": 512, "foo": 1}), DECODE),
    ] {
        t.expect("bdev_malloc_create", params, Err(want)).await;
    }
    let unnamed = json!({"num_blocks": 2048, "block_size": 512});
    t.expect("bdev_malloc_create", unnamed, Ok(json!("Malloc0"))).await;
    t.expect("bdev_malloc_delete", json!({"name": "nope"}), Err(NODEV)).await;
    t.expect("bdev_malloc_delete", json!({"name": "Malloc0"}), Ok(json!(true))).await;

    let file = t.file("aio0.img", 512 << 20);
    let aio = json!({"filename": file, "name": "aio0", "block_size": 4096});
    t.expect("bdev_aio_create", aio.clone(), Ok(json!("aio0"))).await;
    t.expect("bdev_aio_create", aio, Err(EXIST)).await;
    let missing = json!({"filename": "/nonexistent/missing.img", "name": "aiox", "block_size": 4096});
    t.expect("bdev_aio_create", missing, Err((-2, "No such file or directory"))).await;
    let odd = json!({"filename": file, "name": "aiobad", "block_size": 3000});
    t.expect("bdev_aio_create", odd, Err(INVAL)).await;
    t.expect("bdev_aio_delete", json!({"name": "nope"}), Err(NODEV)).await;
    t.expect("bdev_aio_delete", json!({"name": "m0"}), Err(NODEV)).await;

    let got = t.call("bdev_get_bdevs", json!({"name": uuid})).await.unwrap();
    assert_eq!(got[0]["name"], "m0");
    assert_eq!(got[0]["aliases"], json!([uuid]));
    assert_eq!(got[0]["product_name"], "Malloc disk");
    assert_eq!(got[0]["claimed"], false);
    assert_eq!(got[0]["driver_specific"], json!({}));
    let got = t.call("bdev_get_bdevs", json!({"name": "aio0"})).await.unwrap();
    assert_eq!(got[0]["num_blocks"], 131072);
    let want = json!({"aio": {"filename": file, "block_size_override": true, "readonly": false,
        "fallocate": false, "nowait": false}});
    assert_eq!(got[0]["driver_specific"], want);
    t.expect("bdev_get_bdevs", json!({"name": "nope"}), Err(NODEV)).await;
    let timed_out = (-110, "Connection timed out");
    t.expect("bdev_get_bdevs", json!({"name": "nope", "timeout": 20}), Err(timed_out)).await;
    t.expect("bdev_get_bdevs", json!({"bogus": 1}), Err(DECODE)).await;
    t.expect("bdev_examine", json!({"name": "aio0"}), Err(INVAL)).await;
    t.expect("bdev_wait_for_examine", Value::Null, Ok(json!(true))).await;
}

#[tokio::test(flavor = "local")]
async fn lvstores_and_lvols_answer_as_recorded() {
    let t = Target::start().await;
    let file = t.file("aio0.img", 512 << 20);
    t.call("bdev_aio_create", json!({"filename": file, "name": "aio0", "block_size": 4096})).await.unwrap();
    t.call("bdev_malloc_create", json!({"name": "m0", "num_blocks": 16384, "block_size": 4096}))
        .await
        .unwrap();
    let lvs0 =
        json!({"bdev_name": "aio0", "lvs_name": "lvs0", "cluster_sz": 1048576, "clear_method": "none"});
    t.call("bdev_lvol_create_lvstore", lvs0).await.unwrap();
    let create = "bdev_lvol_create_lvstore";
    for (params, want) in [
        (json!({"bdev_name": "aio0", "lvs_name": "lvs0b"}), (-1, "Operation not permitted")),
        (json!({"bdev_name": "nope", "lvs_name": "lvsx"}), NODEV),
        (json!({"bdev_name": "m0", "lvs_name": "lvs0"}), EXIST),
        (json!({"bdev_name": "m0", "lvs_name": "x".repeat(64)}), INVAL),
        (json!({"bdev_name": "m0", "lvs_name": "lvsm", "cluster_sz": 1000}), INVAL),
        (
            json!({"bdev_name": "m0", "lvs_name": "lvsm", "cluster_sz": 4194304, "clear_method": "bogus"}),
            DECODE,
        ),
    ] {
        t.expect(create, params, Err(want)).await;
    }
    t.call(create, json!({"bdev_name": "m0", "lvs_name": "lvsm"})).await.unwrap();
    let stores = t.call("bdev_lvol_get_lvstores", Value::Null).await.unwrap();
    assert_eq!(stores[1]["total_data_clusters"], 15);
    assert_eq!(stores[1]["cluster_size"], 4194304);
    for params in [json!({"lvs_name": "nope"}), json!({"uuid": "bad"})] {
        t.expect("bdev_lvol_get_lvstores", params, Err(NODEV)).await;
    }
    let rename = "bdev_lvol_rename_lvstore";
    t.expect(rename, json!({"old_name": "lvsm", "new_name": "lvsm2"}), Ok(json!(true))).await;
    let want = Err((-2, "Lvol store nope not found"));
    t.expect(rename, json!({"old_name": "nope", "new_name": "y"}), want).await;
    t.expect(rename, json!({"old_name": "lvsm2", "new_name": "lvs0"}), Err((-32602, "File exists"))).await;

    let thin = json!({"lvs_name": "lvs0", "lvol_name": "thin0", "size_in_mib": 200, "thin_provision": true});
    let thin_uuid = t.call("bdev_lvol_create", thin).await.unwrap();
    let thick =
        json!({"lvs_name": "lvs0", "lvol_name": "thick0", "size_in_mib": 100, "thin_provision": false});
    t.call("bdev_lvol_create", thick).await.unwrap();
    for (params, want) in [
        (json!({"lvs_name": "lvs0", "lvol_name": "thin0", "size_in_mib": 10}), EXIST),
        (json!({"lvs_name": "nope", "lvol_name": "l", "size_in_mib": 10}), NODEV),
        (json!({"lvs_name": "lvs0", "lvol_name": "l".repeat(64), "size_in_mib": 10}), INVAL),
        (
            json!({"lvs_name": "lvs0", "lvol_name": "b", "size_in_mib": 10000}),
            (-32602, "No space left on device"),
        ),
        (json!({"lvs_name": "lvs0", "lvol_name": "neg", "size_in_mib": -1}), DECODE),
        (json!({"lvs_name": "lvs0", "lvol_name": "old", "size": 10485760}), DECODE),
        (json!({"lvol_name": "l", "size_in_mib": 10}), INVAL),
        (
            json!({"lvs_name": "lvs0", "uuid": "00000000-0000-0000-0000-000000000000", "lvol_name": "l",
            "size_in_mib": 10}),
            INVAL,
        ),
    ] {
        t.expect("bdev_lvol_create", params, Err(want)).await;
    }
    let lvols = t.call("bdev_lvol_get_lvols", json!({"lvs_name": "lvs0"})).await.unwrap();
    assert_eq!(lvols[0]["alias"], "lvs0/thin0");
    assert_eq!(
        (&lvols[0]["num_allocated_clusters"], &lvols[1]["num_allocated_clusters"]),
        (&json!(0), &json!(100))
    );
    t.expect("bdev_lvol_get_lvols", json!({"lvs_name": "nope"}), Err(NODEV)).await;
    let bdev = t.call("bdev_get_bdevs", json!({"name": "lvs0/thin0"})).await.unwrap();
    assert_eq!(bdev[0]["name"], thin_uuid);
    assert_eq!(bdev[0]["aliases"], json!(["lvs0/thin0"]));
    assert_eq!(bdev[0]["driver_specific"]["lvol"]["base_bdev"], "aio0");
    let base = t.call("bdev_get_bdevs", json!({"name": "aio0"})).await.unwrap();
    assert_eq!((&base[0]["claimed"], &base[0]["claim_type"]), (&json!(true), &json!("read_many_write_one")));

    let resize = "bdev_lvol_resize";
    t.expect(resize, json!({"name": "lvs0/thin0", "size_in_mib": 300}), Ok(json!(true))).await;
    let want = Err((-32602, "No space left on device"));
    t.expect(resize, json!({"name": "lvs0/thick0", "size_in_mib": 9999}), want).await;
    t.expect(resize, json!({"name": "nope", "size_in_mib": 9}), Err(NODEV)).await;
    t.expect(resize, json!({"name": "lvs0/thin0", "size_in_mib": 200}), Ok(json!(true))).await;
    let (held, _events) = t.app.bdevs.open("lvs0/thin0", true).unwrap();
    let want = Err((-32602, "Device or resource busy"));
    t.expect(resize, json!({"name": "lvs0/thin0", "size_in_mib": 100}), want).await;
    assert_eq!(held.num_blocks(), 51200);
    drop(held);
    let rename = "bdev_lvol_rename";
    let want = Err((-32602, "File exists"));
    t.expect(rename, json!({"old_name": "lvs0/thick0", "new_name": "thin0"}), want).await;
    t.expect(rename, json!({"old_name": "lvs0/nope", "new_name": "zz"}), Err(NODEV)).await;
    t.expect(rename, json!({"old_name": "lvs0/thick0", "new_name": "t"}), Ok(json!(true))).await;
    t.expect("bdev_lvol_delete", json!({"name": "lvs0/t"}), Ok(json!(true))).await;
    t.expect("bdev_lvol_delete", json!({"name": "lvs0/t"}), Err(NODEV)).await;
    t.expect("bdev_lvol_delete", Value::Null, Err(DECODE)).await;
    t.expect("bdev_lvol_grow_lvstore", json!({"lvs_name": "nope"}), Err(NODEV)).await;
    t.expect("bdev_lvol_grow_lvstore", json!({"lvs_name": "lvs0"}), Ok(json!(true))).await;
    t.expect("bdev_lvol_delete_lvstore", json!({"lvs_name": "lvs0"}), Ok(json!(true))).await;
    t.expect("bdev_get_bdevs", json!({"name": thin_uuid}), Err(NODEV)).await;
}

#[tokio::test(flavor = "local")]
async fn limits_and_counters_answer_as_recorded() {
    let t = Target::start().await;
    t.call("bdev_malloc_create", json!({"name": "m0", "num_blocks": 64, "block_size": 4096})).await.unwrap();
    let qos = "bdev_set_qos_limit";
    t.expect(qos, json!({"name": "nope", "rw_ios_per_sec": 1000}), Err(NODEV)).await;
    t.expect(qos, json!({"name": "m0"}), Err((-22, "No rate limits specified"))).await;
    t.expect(qos, json!({"name": "m0", "rw_ios_per_sec": 1234, "w_mbytes_per_sec": 5}), Ok(json!(true)))
        .await;
    let got = t.call("bdev_get_bdevs", json!({"name": "m0"})).await.unwrap();
    let want =
        json!({"rw_ios_per_sec": 2000, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 5});
    assert_eq!(got[0]["assigned_rate_limits"], want);

    let (d, _events) = t.app.bdevs.open("m0", false).unwrap();
    d.read(0, bytes::BytesMut::zeroed(8192)).await.unwrap();
    let stat = "bdev_get_iostat";
    let got = t.call(stat, json!({"names": ["m0"], "reset_mode": "all"})).await.unwrap();
    assert_eq!((&got["bdevs"][0]["bytes_read"], &got["bdevs"][0]["num_read_ops"]), (&json!(8192), &json!(1)));
    let got = t.call(stat, json!({"names": ["m0"], "per_channel": true})).await.unwrap();
    assert_eq!((&got["name"], &got["channels"][0]["bytes_read"]), (&json!("m0"), &json!(0)));
    t.expect(stat, json!({"name": "m0"}), Err(DECODE)).await;
    t.expect(stat, json!({"names": ["nope"]}), Err(NODEV)).await;
    t.expect("bdev_reset_iostat", json!({"name": "nope"}), Err(NODEV)).await;
    t.expect("bdev_reset_iostat", json!({"name": "m0", "mode": "all"}), Ok(json!(true))).await;
}

#[tokio::test(flavor = "local")]
async fn raids_answer_as_recorded() {
    let t = Target::start().await;
    for (name, blocks) in [("e1", 16384), ("e2", 16384), ("e3", 8192)] {
        let params = json!({"name": name, "num_blocks": blocks, "block_size": 4096});
        t.call("bdev_malloc_create", params).await.unwrap();
    }
    let create = "bdev_raid_create";
    let parse = (-32700, "spdk_json_decode_object failed");
    let failed = |why| format!("Failed to create RAID bdev x: {why}");
    let (inval, perm) = (failed("Invalid argument"), failed("Operation not permitted"));
    for (level, strip, bases, want) in [
        ("raid1", 0, json!(["e1"]), (-22, inval.as_str())),
        ("raid9", 0, json!(["e1", "e2"]), parse),
        ("raid0", 0, json!(["e1", "e2"]), (-22, inval.as_str())),
        ("raid1", 64, json!(["e1", "e2"]), (-22, inval.as_str())),
        ("raid0", 63, json!(["e1", "e2"]), (-22, inval.as_str())),
        ("raid1", 0, json!(["e1", "e1"]), (-1, perm.as_str())),
    ] {
        let params = json!({"name": "x", "raid_level": level, "strip_size_kb": strip, "base_bdevs": bases});
        t.expect(create, params, Err(want)).await;
    }
    let miss =
        json!({"name": "miss", "raid_level": "raid1", "base_bdevs": ["e1", "nosuch"], "superblock": false});
    t.expect(create, miss, Ok(json!(true))).await;
    let got = t.call("bdev_raid_get_bdevs", json!({"category": "configuring"})).await.unwrap();
    assert_eq!((&got[0]["state"], &got[0]["num_base_bdevs_discovered"]), (&json!("configuring"), &json!(1)));
    assert_eq!(got[0]["uuid"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(got[0]["base_bdevs_list"][1]["is_configured"], false);
    t.expect("bdev_raid_delete", json!({"name": "miss"}), Ok(json!(true))).await;

    let x = json!({"name": "x", "raid_level": "raid1", "base_bdevs": ["e2", "e3"]});
    t.expect(create, x, Ok(json!(true))).await;
    let x = json!({"name": "x", "raid_level": "raid1", "base_bdevs": ["e1", "e2"]});
    t.expect(create, x, Err((-17, "Failed to create RAID bdev x: File exists"))).await;
    let y = json!({"name": "y", "raid_level": "raid1", "base_bdevs": ["e1", "e2"]});
    t.expect(create, y, Err((-1, "Failed to create RAID bdev y: Operation not permitted"))).await;
    let bdev = t.call("bdev_get_bdevs", json!({"name": "x"})).await.unwrap();
    assert_eq!((&bdev[0]["num_blocks"], &bdev[0]["product_name"]), (&json!(8192), &json!("Raid Volume")));
    assert_eq!(bdev[0]["driver_specific"]["raid"]["num_base_bdevs_operational"], 2);
    let base = t.call("bdev_get_bdevs", json!({"name": "e2"})).await.unwrap();
    assert_eq!(base[0]["claim_type"], "exclusive_write");
    for params in [json!({"category": "bogus"}), Value::Null] {
        t.expect("bdev_raid_get_bdevs", params, Err(parse)).await;
    }
    let add = "bdev_raid_add_base_bdev";
    let want = Err((-22, "Failed to add base bdev e1 to RAID bdev x: Invalid argument"));
    t.expect(add, json!({"raid_bdev": "x", "base_bdev": "e1"}), want).await;
    let want = Err((-19, "raid bdev nox is not found in config"));
    t.expect(add, json!({"raid_bdev": "nox", "base_bdev": "e1"}), want).await;
    let remove = "bdev_raid_remove_base_bdev";
    t.expect(remove, json!({"name": "nosuch"}), Err((-19, "Failed to remove base bdev from raid bdev")))
        .await;
    t.expect(remove, json!({"name": "e3"}), Ok(json!(true))).await;
    let got = t.call("bdev_raid_get_bdevs", json!({"category": "online"})).await.unwrap();
    assert_eq!(got[0]["base_bdevs_list"][1]["name"], Value::Null);
    t.expect(remove, json!({"name": "e2"}), Ok(json!(true))).await;
    t.expect("bdev_raid_get_bdevs", json!({"category": "all"}), Ok(json!([]))).await;
    t.expect("bdev_raid_delete", json!({"name": "x"}), Err((-19, "raid bdev x not found"))).await;
}

#[tokio::test(flavor = "local")]
async fn faults_are_injected_and_cleared() {
    let t = Target::start().await;
    t.call("bdev_malloc_create", json!({"name": "m", "num_blocks": 64, "block_size": 512})).await.unwrap();
    t.expect("bdev_error_create", json!({"base_name": "m"}), Ok(json!(true))).await;
    let (d, _events) = t.app.bdevs.open("EE_m", true).unwrap();
    let data = |tag: u8| bytes::Bytes::from(vec![tag; 512]);
    let buf = || bytes::BytesMut::zeroed(512);
    let inject = "bdev_error_inject_error";
    let fail = json!({"name": "EE_m", "io_type": "write", "error_type": "failure", "num": 2});
    t.expect(inject, fail, Ok(json!(true))).await;
    assert!(d.write(0, data(1), false).await.is_err());
    assert!(d.write(0, data(1), false).await.is_err());
    d.write(0, data(1), false).await.unwrap();
    let corrupt = json!({"name": "EE_m", "io_type": "read", "error_type": "corrupt_data", "corrupt_offset": 3,
        "corrupt_value": 255});
    t.expect(inject, corrupt, Ok(json!(true))).await;
    assert_eq!(d.read(0, buf()).await.unwrap()[3], 254);
    assert_eq!(d.read(0, buf()).await.unwrap()[3], 1);
    let pending = json!({"name": "EE_m", "io_type": "read", "error_type": "pending"});
    t.expect(inject, pending, Ok(json!(true))).await;
    let mut held = Box::pin(d.read(0, buf()));
    assert!(futures::poll!(&mut held).is_pending());
    t.expect("bdev_error_resume_pending", json!({"name": "EE_m"}), Ok(json!(true))).await;
    held.await.unwrap();
    t.expect(inject, json!({"name": "nope", "io_type": "all", "error_type": "failure"}), Err(NODEV)).await;
    drop(d);

    let delay = json!({"name": "slow", "base_bdev_name": "EE_m", "avg_read_latency": 20000, "p99_read_latency": 20000,
        "avg_write_latency": 0, "p99_write_latency": 0});
    t.expect("bdev_delay_create", delay, Ok(json!("slow"))).await;
    let (d, _events) = t.app.bdevs.open("slow", true).unwrap();
    let begun = std::time::Instant::now();
    d.read(0, buf()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
    let update = json!({"delay_bdev_name": "slow", "latency_type": "avg_read", "latency_us": 0});
    t.expect("bdev_delay_update_latency", update, Ok(json!(true))).await;
    drop(d);
    t.expect("bdev_error_delete", json!({"name": "EE_m"}), Ok(json!(true))).await;
    t.expect("bdev_get_bdevs", json!({"name": "slow"}), Err(NODEV)).await;
}

#[tokio::test(flavor = "local")]
async fn histograms_answer_as_spdk_does() {
    let t = Target::start().await;
    t.call("bdev_malloc_create", json!({"name": "m", "num_blocks": 64, "block_size": 512})).await.unwrap();
    let (enable, get) = ("bdev_enable_histogram", "bdev_get_histogram");
    let m = || json!({"name": "m"});
    t.expect(get, m(), Err((-12, "Cannot allocate memory"))).await;
    t.expect(get, json!({"name": "nope"}), Err(NODEV)).await;
    t.expect(enable, json!({"name": "nope", "enable": true}), Err(NODEV)).await;
    let bogus = json!({"name": "m", "enable": true, "opc": "bogus"});
    t.expect(enable, bogus, Err((-32603, "Invalid Io type"))).await;
    t.expect(enable, json!({"name": "m", "enable": true, "opc": "zcopy"}), Ok(json!(true))).await;
    let on = json!({"name": "m", "enable": true, "opc": "read", "granularity": 4, "min_nsec": 0,
        "max_nsec": 1_000_000_000});
    t.expect(enable, on, Ok(json!(true))).await;
    let (d, _events) = t.app.bdevs.open("m", true).unwrap();
    for _ in 0..3 {
        d.read(0, bytes::BytesMut::zeroed(512)).await.unwrap();
    }
    d.write(0, bytes::Bytes::from(vec![0; 512]), false).await.unwrap();
    assert_eq!(t.app.bdevs.histogram("m").unwrap().0.unwrap().total(), 3, "reads only");
    let got = t.call(get, m()).await.unwrap();
    assert_eq!(
        (&got["granularity"], &got["min_range"], &got["max_range"]),
        (&json!(4), &json!(0), &json!(26))
    );
    assert_eq!(got["tsc_rate"], 1_000_000_000);
    // 27 ranges of 16 counters of 8 bytes, in base64.
    assert_eq!(got["histogram"].as_str().unwrap().len(), 27 * 16 * 8 / 3 * 4);
    t.expect(enable, json!({"name": "m", "enable": false}), Ok(json!(true))).await;
    t.expect(get, m(), Err((-32603, "Bad address"))).await;
    drop(d);
    assert_eq!(t.call(get, m()).await.unwrap()["granularity"], 4, "nobody has it open: an empty one");
}

#[tokio::test(flavor = "local")]
async fn limits_errors_and_sizes_answer_as_spdk_does() {
    let t = Target::start().await;
    t.call("bdev_malloc_create", json!({"name": "m", "num_blocks": 64, "block_size": 512})).await.unwrap();
    t.call("bdev_null_create", json!({"name": "n", "num_blocks": 8192, "block_size": 512})).await.unwrap();
    let resize = "bdev_null_resize";
    for (name, new_size, want) in
        [("n", 8, Ok(json!(true))), ("n", 1, Err(INVAL)), ("m", 100, Err(INVAL)), ("x", 1, Err(NODEV))]
    {
        t.expect(resize, json!({"name": name, "new_size": new_size}), want).await;
    }
    let large = json!({"name": "n", "w_mbytes_per_sec": 1u64 << 60});
    t.expect("bdev_set_qos_limit", large, Ok(json!(true))).await;
    let none = json!({"name": "n", "r_mbytes_per_sec": u64::MAX});
    t.expect("bdev_set_qos_limit", none, Err((-22, "No rate limits specified"))).await;
    t.expect("bdev_reset_iostat", json!({"name": "nope", "mode": "none"}), Ok(json!(true))).await;
    t.expect("bdev_reset_iostat", json!({"name": "nope", "mode": "error"}), Err(NODEV)).await;

    t.call("bdev_error_create", json!({"base_name": "m"})).await.unwrap();
    let inject = "bdev_error_inject_error";
    let status = (-22, "nvme_sct or nvme_sc should be specified for NVMe error injection");
    for (kind, sct, sc, want) in [
        ("failure", 0, 6, Err(status)),
        ("nvme_failure", 0, 0, Err(status)),
        ("nvme_failure", 2, 129, Ok(json!(true))),
    ] {
        let params =
            json!({"name": "EE_m", "io_type": "read", "error_type": kind, "nvme_sct": sct, "nvme_sc": sc});
        t.expect(inject, params, want).await;
    }
    let (d, _events) = t.app.bdevs.open("EE_m", true).unwrap();
    let buf = || bytes::BytesMut::zeroed(1024);
    let status = crate::bdev::IoError::Nvme { sct: 2, sc: 129, dnr: false };
    assert_eq!(d.read(0, buf()).await, Err(status));
    let got = t.call("bdev_get_iostat", json!({"names": ["EE_m"], "reset_mode": "error"})).await.unwrap();
    assert_eq!(got["bdevs"][0]["io_error"], json!({"nvme_error": 1}));
    let got = t.call("bdev_get_iostat", json!({"names": ["EE_m"]})).await.unwrap();
    assert_eq!(got["bdevs"][0]["io_error"], json!({}));
    // Zeroes are no writes; what is beyond the data is not corrupted; the offset is in the data, not in a block.
    let corrupt = |offset: u64| {
        json!({"name": "EE_m", "io_type": "write", "error_type": "corrupt_data",
        "corrupt_offset": offset, "corrupt_value": 255})
    };
    t.expect(inject, corrupt(600), Ok(json!(true))).await;
    d.write_zeroes(0, 2, false).await.unwrap();
    d.write(0, buf().freeze(), false).await.unwrap();
    assert_eq!(d.read(0, buf()).await.unwrap().iter().position(|b| *b == 255), Some(600));
    t.expect(inject, corrupt(4000), Ok(json!(true))).await;
    d.write(0, buf().freeze(), false).await.unwrap();
    assert_eq!(d.read(0, buf()).await.unwrap(), buf());
    // Only when that many are in flight on the base.
    let deep = json!({"name": "EE_m", "io_type": "read", "error_type": "failure", "queue_depth": 1});
    t.expect(inject, deep, Ok(json!(true))).await;
    d.read(0, buf()).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn an_offline_raid_counts_as_spdk_does() {
    let t = Target::start().await;
    for name in ["x", "y", "z"] {
        t.call("bdev_malloc_create", json!({"name": name, "num_blocks": 4096, "block_size": 512}))
            .await
            .unwrap();
    }
    let r0 = json!({"name": "r0", "raid_level": "raid0", "strip_size_kb": 4, "base_bdevs": ["x", "y", "z"]});
    t.call("bdev_raid_create", r0).await.unwrap();
    let counts = async || {
        let got = t.call("bdev_raid_get_bdevs", json!({"category": "all"})).await.unwrap();
        let of = |field: &str| got[0][field].as_u64().unwrap();
        (got[0]["state"].clone(), of("num_base_bdevs_discovered"), of("num_base_bdevs_operational"))
    };
    t.call("bdev_malloc_delete", json!({"name": "y"})).await.unwrap();
    assert_eq!(counts().await, (json!("offline"), 2, 2));
    t.call("bdev_raid_remove_base_bdev", json!({"name": "x"})).await.unwrap();
    assert_eq!(counts().await, (json!("offline"), 1, 2));
    t.call("bdev_raid_remove_base_bdev", json!({"name": "z"})).await.unwrap();
    t.expect("bdev_raid_get_bdevs", json!({"category": "all"}), Ok(json!([]))).await;
}
