//! Thin volumes in an lvstore on a file, exported as the namespaces of one subsystem on both paths.

use serde_json::{Value, json};
use vda_integration::{Targets, eventually, linux_host::PATHS};

use crate::paths::NOTICED;

pub(crate) const NQN: &str = "nqn.2016-06.io.vda:test:linux";
pub(crate) const PORT: &str = "4420";
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
const LVSTORE: &str = "lvs";

/// Namespaces in order of their numbers, from 1: name and size in MiB. XFS wants 300 MiB.
pub(crate) const VOLUMES: [(&str, u64); 3] = [("raw", 32), ("ext4", 128), ("xfs", 320)];

/// Clusters of the lvstore: the unit in which space is given back.
const CLUSTER: u64 = 1 << 20;

pub(crate) fn address(path: usize) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": PATHS[path], "trsvcid": PORT})
}

/// A disk with an lvstore and the volumes on target `name`.
pub(crate) async fn make(targets: &Targets, name: &str) -> anyhow::Result<()> {
    let file = std::fs::File::create(targets.dir().join("disk"))?;
    file.set_len(2 << 30)?;
    open_disk(targets, name).await?;
    let create = json!({"bdev_name": "disk", "lvs_name": LVSTORE, "cluster_sz": CLUSTER});
    targets.rpc(name, "bdev_lvol_create_lvstore", create).await?;
    for (volume, mib) in VOLUMES {
        let create =
            json!({"lvs_name": LVSTORE, "lvol_name": volume, "size_in_mib": mib, "thin_provision": true});
        targets.rpc(name, "bdev_lvol_create", create).await?;
    }
    Ok(())
}

/// The disk that a killed target had.
pub(crate) async fn open_disk(targets: &Targets, name: &str) -> anyhow::Result<()> {
    let create = json!({"name": "disk", "filename": targets.dir().join("disk"), "block_size": 4096});
    targets.rpc(name, "bdev_aio_create", create).await.map(drop)
}

/// Exports the volumes on both paths, the first of which is optimized; waits for those that examining the disk brings back.
pub(crate) async fn export(targets: &Targets, name: &str) -> anyhow::Result<()> {
    targets.rpc(name, "nvmf_create_transport", json!({"trtype": "TCP"})).await?;
    let create = json!({"nqn": NQN, "serial_number": "VDA0001", "model_number": "VDA", "ana_reporting": true, "allow_any_host": true});
    targets.rpc(name, "nvmf_create_subsystem", create).await?;
    for (nsid, (volume, _)) in (1..).zip(VOLUMES) {
        let bdev = alias(volume);
        targets.rpc(name, "bdev_get_bdevs", json!({"name": bdev, "timeout": 10_000})).await?;
        let namespace = json!({
            "bdev_name": bdev,
            "nsid": nsid,
            "uuid": format!("00000000-0000-4000-8000-00000000000{nsid}"),
            "nguid": format!("0000000000000000000000000000000{nsid}"),
        });
        targets.rpc(name, "nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace})).await?;
    }
    // Last: a host that finds the subsystem without its namespaces takes them for deleted.
    for path in 0..PATHS.len() {
        add_listener(targets, name, path).await?;
        let listen = json!({"nqn": DISCOVERY, "listen_address": address(path)});
        targets.rpc(name, "nvmf_subsystem_add_listener", listen).await?;
    }
    Ok(())
}

/// Adds the listener of a path, with the ANA state it has from the start.
pub(crate) async fn add_listener(targets: &Targets, name: &str, path: usize) -> anyhow::Result<()> {
    let state = if path == 0 { "optimized" } else { "non_optimized" };
    let listen = json!({"nqn": NQN, "listen_address": address(path), "ana_state": state});
    targets.rpc(name, "nvmf_subsystem_add_listener", listen).await.map(drop)
}

pub(crate) async fn remove_listener(targets: &Targets, name: &str, path: usize) -> anyhow::Result<()> {
    let listen = json!({"nqn": NQN, "listen_address": address(path)});
    targets.rpc(name, "nvmf_subsystem_remove_listener", listen).await.map(drop)
}

pub(crate) async fn set_ana(targets: &Targets, name: &str, path: usize, state: &str) -> anyhow::Result<()> {
    let set = json!({"nqn": NQN, "listen_address": address(path), "ana_state": state});
    targets.rpc(name, "nvmf_subsystem_listener_set_ana_state", set).await.map(drop)
}

pub(crate) async fn grow(targets: &Targets, name: &str, volume: &str, mib: u64) -> anyhow::Result<()> {
    targets.rpc(name, "bdev_lvol_resize", json!({"name": alias(volume), "size_in_mib": mib})).await.map(drop)
}

/// Bytes of a volume that have space of their own.
pub(crate) async fn allocated(targets: &Targets, name: &str, volume: &str) -> anyhow::Result<u64> {
    let bdevs = targets.rpc(name, "bdev_get_bdevs", json!({"name": alias(volume)})).await?;
    let clusters = bdevs[0]["driver_specific"]["lvol"]["num_allocated_clusters"].as_u64();
    clusters.map(|count| count * CLUSTER).ok_or_else(|| anyhow::anyhow!("no clusters in {bdevs}"))
}

/// Waits until requests for a volume are coming in.
pub(crate) async fn is_busy(targets: &Targets, name: &str, volume: &str) -> anyhow::Result<()> {
    let count = || async {
        let stats = targets.rpc(name, "bdev_get_iostat", json!({"names": [alias(volume)]})).await?;
        let ops = |kind: &str| stats["bdevs"][0][kind].as_u64().unwrap_or_default();
        anyhow::Ok(ops("num_read_ops") + ops("num_write_ops"))
    };
    let before = count().await?;
    eventually("requests come in", NOTICED, || async {
        let more = count().await? - before;
        anyhow::ensure!(more >= 32, "{more} requests");
        Ok(())
    })
    .await
}

fn alias(volume: &str) -> String {
    format!("{LVSTORE}/{volume}")
}
