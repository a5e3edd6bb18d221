//! A host, two controllers, one disk node. ANA says which controller serves; the disk node makes sure that no other can.

use serde_json::{Value, json};
use vda_integration::{
    Targets,
    linux_host::{Faults, Load, Testbed},
};

use crate::{
    paths, undisturbed,
    volume::{self, NQN},
};

const DISK_NODE: &str = "disk-node";
const CONTROLLERS: [&str; 2] = ["controller0", "controller1"];
const VD: &str = "nqn.2016-06.io.vda:test:vd";
const DEVICE: &str = "/dev/nvme0n1";

#[tokio::test]
async fn a_linux_host_follows_a_controller_that_dies_and_one_that_takes_over() -> anyhow::Result<()> {
    let Some(bed) = Testbed::open()? else { return Ok(()) };
    let mut targets = Targets::new()?;
    std::fs::File::create(targets.dir().join("disk"))?.set_len(64 << 20)?;
    start_disk_node(&mut targets).await?;
    start_controller(&mut targets, 0, "optimized").await?;
    start_controller(&mut targets, 1, "inaccessible").await?;
    let guest = bed.boot(targets.dir()).await?;
    paths::connect(&guest).await?;
    paths::have(&guest, ["optimized", "inaccessible"]).await?;
    guest.until("the device is there", paths::NOTICED, &format!("[ -b {DEVICE} ]")).await?;
    let load = Load::start(&guest, DEVICE, 8).await?;

    for (to, from) in [(1, 0), (0, 1)] {
        volume::set_ana(&targets, CONTROLLERS[from], from, "inaccessible").await?;
        volume::set_ana(&targets, CONTROLLERS[to], to, "optimized").await?;
        undisturbed(&load).await?;
    }
    guest.kernel_is_content(Faults::NoUsablePath).await?;

    targets.kill(CONTROLLERS[0]).await?;
    // What it has sent last must not come after what the other one writes.
    admit(&targets, "nvmf_subsystem_remove_host", 0).await?;
    volume::set_ana(&targets, CONTROLLERS[1], 1, "optimized").await?;
    paths::becomes(&guest, 0, "connecting").await?;
    undisturbed(&load).await?;
    admit(&targets, "nvmf_subsystem_add_host", 0).await?;
    start_controller(&mut targets, 0, "inaccessible").await?;
    paths::becomes(&guest, 0, "live").await?;
    paths::have(&guest, ["inaccessible", "optimized"]).await?;
    undisturbed(&load).await?;

    // The controllers wait for it, and the host for them.
    targets.kill(DISK_NODE).await?;
    start_disk_node(&mut targets).await?;
    undisturbed(&load).await?;
    load.stop().await?;
    guest.sh("nvme disconnect-all").await?;
    guest.kernel_is_content(Faults::Connections).await?;
    targets.end().await
}

fn disk_address() -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "4421"})
}

fn owner(controller: usize) -> String {
    format!("nqn.2016-06.io.vda:test:cntlr{controller}")
}

/// Says whether the disk node lets a controller in. Removing answers when nothing of it can reach the disk any more.
async fn admit(targets: &Targets, method: &str, controller: usize) -> anyhow::Result<()> {
    targets.rpc(DISK_NODE, method, json!({"nqn": VD, "host": owner(controller)})).await.map(drop)
}

async fn start_disk_node(targets: &mut Targets) -> anyhow::Result<()> {
    targets.start(DISK_NODE).await?;
    volume::open_disk(targets, DISK_NODE).await?;
    targets.rpc(DISK_NODE, "nvmf_create_transport", json!({"trtype": "TCP"})).await?;
    targets.rpc(DISK_NODE, "nvmf_create_subsystem", json!({"nqn": VD, "serial_number": "VD"})).await?;
    // All of its identity stays the same: else the controllers would rightly not use it again.
    let namespace = json!({
        "bdev_name": "disk", "uuid": "00000000-0000-4000-8000-0000000000d1", "nguid": "000000000000000000000000000000D1",
    });
    targets.rpc(DISK_NODE, "nvmf_subsystem_add_ns", json!({"nqn": VD, "namespace": namespace})).await?;
    for controller in 0..CONTROLLERS.len() {
        admit(targets, "nvmf_subsystem_add_host", controller).await?;
    }
    let listen = json!({"nqn": VD, "listen_address": disk_address()});
    targets.rpc(DISK_NODE, "nvmf_subsystem_add_listener", listen).await.map(drop)
}

/// Controllers of one subsystem have ids of their own each.
async fn start_controller(targets: &mut Targets, nth: usize, state: &str) -> anyhow::Result<()> {
    let name = CONTROLLERS[nth];
    targets.start(name).await?;
    let mut attach = disk_address();
    for (key, value) in [
        ("name", json!("vd")),
        ("subnqn", json!(VD)),
        ("hostnqn", json!(owner(nth))),
        ("ctrlr_loss_timeout_sec", json!(-1)),
        ("reconnect_delay_sec", json!(1)),
    ] {
        attach[key] = value;
    }
    targets.rpc(name, "bdev_nvme_attach_controller", attach).await?;
    targets.rpc(name, "nvmf_create_transport", json!({"trtype": "TCP"})).await?;
    let first = 1 + 1000 * nth;
    let create = json!({
        "nqn": NQN, "serial_number": "VDA0001", "model_number": "VDA", "ana_reporting": true, "allow_any_host": true,
        "min_cntlid": first, "max_cntlid": first + 999,
    });
    targets.rpc(name, "nvmf_create_subsystem", create).await?;
    let namespace = json!({
        "bdev_name": "vdn1", "nsid": 1, "uuid": "00000000-0000-4000-8000-000000000001", "nguid": "00000000000000000000000000000001",
    });
    targets.rpc(name, "nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace})).await?;
    let listen = json!({"nqn": NQN, "listen_address": volume::address(nth), "ana_state": state});
    targets.rpc(name, "nvmf_subsystem_add_listener", listen).await.map(drop)
}
