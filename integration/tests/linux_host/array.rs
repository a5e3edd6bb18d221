//! A disk array, made and exported with vdacli, in use by a Linux host while data planes die.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use vda_integration::{
    Cluster, Role, eventually,
    linux_host::{Faults, Guest, Load, PATHS, Testbed},
};
use vda_proto::v1::{Condition, GetDaRequest, resource_ref::Kind};

use crate::undisturbed;

/// The guest's own, which `nvme connect` is told.
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
const DEVICE: &str = "/dev/nvme0n1";
const NOTICED: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_mounted_array_survives_kill_9_of_its_data_planes() -> anyhow::Result<()> {
    let Some(bed) = Testbed::open()? else { return Ok(()) };
    let mut cluster = Cluster::builder().storage(PATHS[0]).start().await?;
    cluster.add_nodes().await?;
    let guest = bed.boot(cluster.dir()).await?;
    let controller = connected(&cluster, &guest).await?;
    guest.sh(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt/ext4")).await?;
    guest.sh("dd if=/dev/urandom of=/mnt/ext4/file bs=1M count=32 conv=fsync status=none").await?;
    guest.sh("sha256sum /mnt/ext4/file >/mnt/sums").await?;
    guest.kernel_is_content(Faults::None).await?;

    let load = Load::start(&guest, "/mnt/ext4/load", 8).await?;
    for dn in [1, 0] {
        // The mirrors lose a member, which comes back and is rebuilt before the other goes.
        cluster.kill(Role::DnTarget(dn)).await?;
        degraded(&cluster).await?;
        undisturbed(&load).await?;
        cluster.start(Role::DnTarget(dn)).await?;
        cluster.ready(Kind::Da, "da0").await?;
        undisturbed(&load).await?;
    }
    // There was a connection to the controller all the time.
    guest.kernel_is_content(Faults::None).await?;

    cluster.kill(controller).await?;
    guest.until("the host has noticed", NOTICED, "grep -qx connecting /sys/class/nvme/nvme0/state").await?;
    cluster.start(controller).await?;
    guest.until("the host is connected", NOTICED, "grep -qx live /sys/class/nvme/nvme0/state").await?;
    undisturbed(&load).await?;
    load.stop().await?;

    guest
        .sh(&format!("umount /mnt/ext4 && echo 3 >/proc/sys/vm/drop_caches && e2fsck -f -n {DEVICE}"))
        .await?;
    guest
        .sh(&format!("mount {DEVICE} /mnt/ext4 && sha256sum --quiet -c /mnt/sums && umount /mnt/ext4"))
        .await?;
    guest.sh("nvme disconnect-all").await?;
    guest.kernel_is_content(Faults::Connections).await?;
    cluster.vdacli_ok("exp delete da0 exp0 --wait=60s").await?;
    cluster.vdacli_ok("da delete da0 --wait=60s").await?;
    cluster.nothing_left(true, NOTICED).await?;
    cluster.end().await
}

/// Connects with the line that `vdacli exp get` prints; the controller that serves.
async fn connected(cluster: &Cluster, guest: &Guest) -> anyhow::Result<Role> {
    cluster.vdacli_ok("da create da0 --size 96MiB --stripes 2 --replicas 2 --wait=60s").await?;
    cluster.vdacli_ok(&format!("exp create da0 exp0 --host {HOST} --wait=60s")).await?;
    let shown = cluster.vdacli_ok("exp get da0 exp0").await?;
    let line = shown
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("nvme connect "))
        .context("a line to type")?;
    guest.sh(line).await?;
    guest.until("the array is there", NOTICED, &format!("[ -b {DEVICE} ]")).await?;
    let serving = (0..2).find(|n| {
        let (_, port) = cluster
            .cn_listener(*n)
            .rsplit_once(':')
            .map(|(ip, port)| (ip.to_owned(), port.to_owned()))
            .unwrap();
        line.contains(&format!("-s {port} "))
    });
    Ok(Role::CnTarget(serving.context("a controller node")?))
}

async fn degraded(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("the array is degraded", NOTICED, || async {
        let da = cluster.portal(0)?.get_da(GetDaRequest { da_name: "da0".into() }).await?.into_inner();
        let now = da.status.unwrap_or_default().condition();
        ensure!(now == Condition::Degraded, "{now:?}");
        Ok(())
    })
    .await
}
