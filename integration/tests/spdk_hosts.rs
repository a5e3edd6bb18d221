//! SPDK's own NVMe/TCP hosts against the data plane, where they are given: `VDA_SPDK_PERF=/path/to/spdk_nvme_perf` and
//! `VDA_BDEVPERF=/path/to/bdevperf`.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{process::Command, time::timeout};
use vda_integration::Targets;
use vda_ports::Port;

const NQN: &str = "nqn.2016-06.io.vda:test:spdk";
const TARGET: &str = "target";

/// Seconds of load for each pattern.
const SECONDS: &str = "2";

/// SPDK's start and end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The program that an environment variable names.
fn given(variable: &str) -> Option<PathBuf> {
    let program = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if program.is_none() {
        eprintln!("===== SKIPPED: {variable} is not set");
    }
    program
}

/// A thin volume on a file, exported at a port of loopback.
async fn exported() -> anyhow::Result<(Targets, Port)> {
    let port = Port::reserve()?;
    let mut targets = Targets::new()?;
    targets.start(TARGET).await?;
    let disk = targets.dir().join("disk");
    std::fs::File::create(&disk)?.set_len(256 << 20)?;
    let listen = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.number().to_string()});
    for (method, params) in [
        ("bdev_aio_create", json!({"name": "disk", "filename": disk, "block_size": 4096})),
        ("bdev_lvol_create_lvstore", json!({"bdev_name": "disk", "lvs_name": "lvs"})),
        (
            "bdev_lvol_create",
            json!({"lvs_name": "lvs", "lvol_name": "volume", "size_in_mib": 64, "thin_provision": true}),
        ),
        ("nvmf_create_transport", json!({"trtype": "TCP"})),
        ("nvmf_create_subsystem", json!({"nqn": NQN, "serial_number": "VDA0001", "allow_any_host": true})),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "lvs/volume"}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": listen})),
    ] {
        targets.rpc(TARGET, method, params).await?;
    }
    Ok((targets, port))
}

/// What a host printed; it must have ended well, and have said nothing of failures.
async fn run(command: &mut Command) -> anyhow::Result<String> {
    let child = command.args(["--no-huge", "-s", "1024"]).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(LIMIT, child).await.with_context(|| format!("not in {LIMIT:?}: {command:?}"))??;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    let bad = said.lines().find(|line| {
        let complains =
            ["completed with error", "*ERROR*", "starting I/O failed"].iter().any(|text| line.contains(text));
        // What spdk_nvme_perf always says when it disconnects at its end, also from SPDK.
        complains && !line.contains("DISCONNECTED] CQ transport error -6")
    });
    ensure!(bad.is_none(), "{command:?}:\n{said}");
    Ok(said)
}

#[tokio::test]
async fn spdk_nvme_perf_reads_and_writes_without_an_error() -> anyhow::Result<()> {
    let Some(perf) = given("VDA_SPDK_PERF") else { return Ok(()) };
    let (targets, port) = exported().await?;
    let transport = format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", port.number());
    for (size, depth, digests) in [("4096", "32", true), ("131072", "8", false), ("4096", "256", false)] {
        let mut command = Command::new(&perf);
        command.args(["-q", depth, "-o", size, "-w", "randrw", "-M", "50", "-t", SECONDS, "-r", &transport]);
        if digests {
            command.args(["-H", "-I"]);
        }
        let said = run(&mut command).await?;
        let total = said
            .lines()
            .find(|line| line.starts_with("Total"))
            .with_context(|| format!("no total in\n{said}"))?;
        // `Total : IOPS MiB/s ...`
        let iops: f64 = total.split_whitespace().nth(2).context("IOPS")?.parse()?;
        ensure!(iops > 100.0, "{iops} IOPS:\n{said}");
    }
    targets.end().await
}

#[tokio::test]
async fn bdevperf_verifies_what_it_wrote() -> anyhow::Result<()> {
    let Some(bdevperf) = given("VDA_BDEVPERF") else { return Ok(()) };
    let (targets, port) = exported().await?;
    let attach = json!({
        "name": "nvme", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.number().to_string(), "subnqn": NQN,
        "hdgst": true, "ddgst": true,
    });
    let config = json!({"subsystems": [{
        "subsystem": "bdev",
        "config": [{"method": "bdev_nvme_attach_controller", "params": attach}, {"method": "bdev_wait_for_examine"}],
    }]});
    let path = targets.dir().join("bdevperf.json");
    std::fs::write(&path, config.to_string())?;
    for (pattern, size, depth) in [
        ("verify", "4096", "64"),
        ("verify", "131072", "8"),
        ("write_zeroes", "131072", "8"),
        ("unmap", "131072", "8"),
        ("flush", "4096", "8"),
        ("reset", "4096", "8"),
    ] {
        let mut command = Command::new(&bdevperf);
        command.arg("-c").arg(&path).arg("-r").arg(targets.dir().join("bdevperf.sock"));
        let said = run(command.args(["-q", depth, "-o", size, "-w", pattern, "-t", SECONDS])).await?;
        ensure!(said.contains("Nvme") || said.contains("nvme"), "no result:\n{said}");
    }
    targets.end().await
}
