//! One data plane, two listeners.

use std::time::Duration;

use anyhow::ensure;
use vda_integration::{
    Targets,
    linux_host::{Faults, Guest, Load, PATHS, Testbed},
};

use crate::{
    paths, undisturbed,
    volume::{self, NQN, PORT, VOLUMES},
};

const TARGET: &str = "target";

/// How often the active path changes without a pause.
const QUICK_FLIPS: usize = 20;

/// As long as the array's host has to do without any path.
const OUTAGE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_linux_host_sees_no_error_and_loses_no_byte() -> anyhow::Result<()> {
    let Some(bed) = Testbed::open()? else { return Ok(()) };
    let mut targets = Targets::new()?;
    targets.start(TARGET).await?;
    volume::make(&targets, TARGET).await?;
    volume::export(&targets, TARGET).await?;
    let guest = bed.boot(targets.dir()).await?;
    connected(&guest).await?;
    file_systems_hold_what_was_written(&guest).await?;
    namespaces_grow_online(&targets, &guest).await?;
    unmap_gives_space_back(&targets, &guest).await?;
    guest.kernel_is_content(Faults::None).await?;

    let load = Load::start(&guest, &device("raw"), 8).await?;
    ana_flips(&targets, &guest, &load).await?;
    all_paths_inaccessible(&targets, &guest, &load).await?;
    guest.kernel_is_content(Faults::NoUsablePath).await?;
    a_listener_is_removed_and_restored(&targets, &guest, &load).await?;
    the_target_is_killed(&mut targets, &guest, &load).await?;
    load.stop().await?;
    guest.kernel_is_content(Faults::Connections).await?;

    what_was_synced_survives_everything(&bed, &mut targets, guest).await?;
    targets.end().await
}

/// The host's name of a volume.
fn device(volume: &str) -> String {
    let nth = VOLUMES.iter().position(|(name, _)| *name == volume).unwrap();
    format!("/dev/nvme0n{}", nth + 1)
}

async fn connected(guest: &Guest) -> anyhow::Result<()> {
    for path in PATHS {
        let found = guest.sh(&format!("nvme discover -t tcp -a {path} -s {PORT}")).await?;
        for listener in PATHS {
            let entry = found.split("=====Discovery Log Entry").find(|entry| {
                entry.contains(&format!("subnqn:  {NQN}\n"))
                    && entry.contains(&format!("traddr:  {listener}\n"))
            });
            ensure!(entry.is_some(), "{listener} is not in what {path} tells:\n{found}");
        }
    }
    paths::connect(guest).await?;
    for (volume, mib) in VOLUMES {
        has_size(guest, volume, mib).await?;
    }
    paths::have(guest, ["optimized", "non-optimized"]).await
}

async fn has_size(guest: &Guest, volume: &str, mib: u64) -> anyhow::Result<()> {
    let device = device(volume);
    let command = format!("[ $(blockdev --getsize64 {device}) = {} ]", mib << 20);
    guest.until(&format!("{device} has {mib} MiB"), paths::NOTICED, &command).await.map(drop)
}

/// ext4 and XFS: made, mounted, filled, and checked with nothing left in the host's memory.
async fn file_systems_hold_what_was_written(guest: &Guest) -> anyhow::Result<()> {
    for (fs, _) in &VOLUMES[1..] {
        let device = device(fs);
        let quiet = if *fs == "ext4" { "-q" } else { "-q -f" };
        guest.sh(&format!("mkfs.{fs} {quiet} {device} && mount {device} /mnt/{fs}")).await?;
        guest
            .sh(&format!(
                "mkdir /mnt/{fs}/small && for i in $(seq 100); do echo $i >/mnt/{fs}/small/$i; done"
            ))
            .await?;
        guest.sh(&format!("dd if=/dev/urandom of=/mnt/{fs}/big bs=1M count=48 status=none")).await?;
        guest.sh(&format!("(cd /mnt/{fs} && sha256sum big small/*) >/mnt/{fs}.sums")).await?;
        remounted_and_whole(guest, fs).await?;
    }
    Ok(())
}

async fn remounted_and_whole(guest: &Guest, fs: &str) -> anyhow::Result<()> {
    let device = device(fs);
    let check = if fs == "ext4" { "e2fsck -f -n" } else { "xfs_repair -n" };
    guest.sh(&format!("umount /mnt/{fs} && echo 3 >/proc/sys/vm/drop_caches && {check} {device}")).await?;
    guest
        .sh(&format!("mount {device} /mnt/{fs} && (cd /mnt/{fs} && sha256sum --quiet -c /mnt/{fs}.sums)"))
        .await
        .map(drop)
}

async fn namespaces_grow_online(targets: &Targets, guest: &Guest) -> anyhow::Result<()> {
    for (fs, mib) in &VOLUMES[1..] {
        volume::grow(targets, TARGET, fs, mib + 64).await?;
        has_size(guest, fs, mib + 64).await?;
        let before = blocks(guest, fs).await?;
        let grow =
            if *fs == "ext4" { format!("resize2fs {}", device(fs)) } else { "xfs_growfs /mnt/xfs".into() };
        guest.sh(&grow).await?;
        let more = blocks(guest, fs).await? - before;
        ensure!(more >= 48 << 10, "{fs} has grown by {more} KiB only");
        remounted_and_whole(guest, fs).await?;
    }
    Ok(())
}

/// Size of a file system in KiB.
async fn blocks(guest: &Guest, fs: &str) -> anyhow::Result<u64> {
    Ok(guest.sh(&format!("df --output=size /mnt/{fs} | tail -n 1")).await?.trim().parse()?)
}

/// What a file system trims is free in the lvstore.
async fn unmap_gives_space_back(targets: &Targets, guest: &Guest) -> anyhow::Result<()> {
    for (fs, _) in &VOLUMES[1..] {
        guest
            .sh(&format!("dd if=/dev/urandom of=/mnt/{fs}/trash bs=1M count=32 conv=fsync status=none"))
            .await?;
        let allocated = volume::allocated(targets, TARGET, fs).await?;
        guest.sh(&format!("rm /mnt/{fs}/trash && sync && fstrim /mnt/{fs}")).await?;
        let free = allocated - volume::allocated(targets, TARGET, fs).await?;
        ensure!(free >= 28 << 20, "{fs}: {free} bytes of 32 MiB came back to the lvstore");
        remounted_and_whole(guest, fs).await?;
    }
    Ok(())
}

/// The load moves from path to path and back: a few times with whole rounds in between, and many times within a round, so that
/// requests are on their way whenever a path becomes inaccessible.
async fn ana_flips(targets: &Targets, guest: &Guest, load: &Load<'_>) -> anyhow::Result<()> {
    for turn in 1..=QUICK_FLIPS + 2 {
        let (active, standby) = (turn % 2, 1 - turn % 2);
        volume::is_busy(targets, TARGET, "raw").await?;
        volume::set_ana(targets, TARGET, standby, "inaccessible").await?;
        volume::set_ana(targets, TARGET, active, "optimized").await?;
        let mut states = ["inaccessible"; 2];
        states[active] = "optimized";
        paths::have(guest, states).await?;
        if turn > QUICK_FLIPS {
            undisturbed(load).await?;
        }
    }
    Ok(())
}

/// I/O waits for a path, for as long as it takes.
async fn all_paths_inaccessible(targets: &Targets, guest: &Guest, load: &Load<'_>) -> anyhow::Result<()> {
    for path in [0, 1] {
        volume::set_ana(targets, TARGET, path, "inaccessible").await?;
    }
    paths::have(guest, ["inaccessible"; 2]).await?;
    let rounds = load.rounds()?;
    tokio::time::sleep(OUTAGE).await;
    ensure!(load.rounds()? <= rounds + 1, "I/O went on without a path");
    volume::set_ana(targets, TARGET, 1, "non_optimized").await?;
    volume::set_ana(targets, TARGET, 0, "optimized").await?;
    paths::have(guest, ["optimized", "non-optimized"]).await?;
    undisturbed(load).await
}

async fn a_listener_is_removed_and_restored(
    targets: &Targets,
    guest: &Guest,
    load: &Load<'_>,
) -> anyhow::Result<()> {
    for path in [0, 1] {
        volume::remove_listener(targets, TARGET, path).await?;
        paths::becomes(guest, path, "connecting").await?;
        undisturbed(load).await?;
        volume::add_listener(targets, TARGET, path).await?;
        paths::becomes(guest, path, "live").await?;
        undisturbed(load).await?;
    }
    Ok(())
}

async fn the_target_is_killed(targets: &mut Targets, guest: &Guest, load: &Load<'_>) -> anyhow::Result<()> {
    targets.kill(TARGET).await?;
    for path in [0, 1] {
        paths::becomes(guest, path, "connecting").await?;
    }
    serve_again(targets).await?;
    for path in [0, 1] {
        paths::becomes(guest, path, "live").await?;
    }
    undisturbed(load).await
}

async fn serve_again(targets: &mut Targets) -> anyhow::Result<()> {
    targets.start(TARGET).await?;
    volume::open_disk(targets, TARGET).await?;
    volume::export(targets, TARGET).await
}

/// Files that were synced are there after the host's power was cut and the target was killed, at once.
async fn what_was_synced_survives_everything(
    bed: &Testbed,
    targets: &mut Targets,
    guest: Guest,
) -> anyhow::Result<()> {
    let mut sums = String::new();
    for (fs, _) in &VOLUMES[1..] {
        guest.sh(&format!("dd if=/dev/urandom of=/mnt/{fs}/synced bs=1M count=8 conv=fsync status=none && sync /mnt/{fs}")).await?;
        sums.push_str(&guest.sh(&format!("sha256sum /mnt/{fs}/synced /mnt/{fs}/big")).await?);
        // And what nobody waits for.
        guest.sh(&format!("dd if=/dev/zero of=/mnt/{fs}/unsynced bs=1M count=8 status=none")).await?;
    }
    guest.power_cut().await?;
    targets.kill(TARGET).await?;
    serve_again(targets).await?;
    let guest = bed.boot(targets.dir()).await?;
    guest.sh(&format!("nvme connect -t tcp -a {} -s {PORT} -n {NQN}", PATHS[0])).await?;
    std::fs::write(guest.share().join("sums"), sums)?;
    for (fs, _) in &VOLUMES[1..] {
        guest.until("the device is there", paths::NOTICED, &format!("[ -b {} ]", device(fs))).await?;
        guest.sh(&format!("mount {} /mnt/{fs}", device(fs))).await?;
    }
    guest.sh("sha256sum --quiet -c /mnt/share/sums").await?;
    guest.sh("umount /mnt/ext4 /mnt/xfs && nvme disconnect-all").await?;
    guest.kernel_is_content(Faults::None).await
}
