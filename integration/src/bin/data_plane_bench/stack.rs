//! The stacks of bdevs under load, built by the calls that agents use.

use std::{fmt, path::Path};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::{Value, json};
use vda_integration::Target;

/// The subsystem under load.
pub(crate) const NQN: &str = "nqn.2016-06.io.vda:bench";
const BLOCK: u64 = 4096;
/// Size of the namespace under load: more than caches of a processor hold.
const MIB: u64 = 128;
/// No connection is lost while its process is stopped for the other's turn.
const KEEP_ALIVE_MS: u64 = 3_600_000;

/// What carries the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stack {
    /// Memory.
    Malloc,
    /// A file.
    Aio,
    /// A thin volume on memory.
    Lvol,
    /// Two memories, striped.
    Raid0,
    /// Two memories, mirrored.
    Raid1,
    /// A whole disk array, controller node and disk node in one process: a volume over two stripes over two mirrors over NVMe/TCP over
    /// four volumes on memory.
    Da,
}

impl Stack {
    pub(crate) const ALL: &[Self] =
        &[Self::Malloc, Self::Aio, Self::Lvol, Self::Raid0, Self::Raid1, Self::Da];
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malloc => "malloc",
            Self::Aio => "aio",
            Self::Lvol => "lvol",
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Da => "da",
        })
    }
}

/// Builds the stack and exports it as [`NQN`]. `file` is for the stack that needs one.
pub(crate) async fn build(stack: Stack, t: &Target, file: &Path) -> anyhow::Result<()> {
    t.call("nvmf_create_transport", json!({"trtype": "TCP"})).await?;
    let bdev = match stack {
        Stack::Malloc => malloc(t, "m0", MIB).await?,
        Stack::Aio => aio(t, file).await?,
        Stack::Lvol => {
            let memory = malloc(t, "m0", MIB + 128).await?;
            lvstore(t, &memory, "lvs").await?;
            lvol(t, "lvs", "volume", MIB).await?
        }
        Stack::Raid0 | Stack::Raid1 => {
            let (level, each) = if stack == Stack::Raid0 { ("raid0", MIB / 2) } else { ("raid1", MIB) };
            let members = [malloc(t, "m0", each).await?, malloc(t, "m1", each).await?];
            raid(t, "r", level, &members).await?
        }
        Stack::Da => array(t).await?,
    };
    export(t, NQN, &bdev).await
}

async fn array(t: &Target) -> anyhow::Result<String> {
    let no_timeouts = json!({"keep_alive_timeout_ms": KEEP_ALIVE_MS});
    t.call("bdev_nvme_set_options", no_timeouts).await?;
    let memory = malloc(t, "pd", MIB * 2 + 256).await?;
    lvstore(t, &memory, "pdlvs").await?;
    let mut stripes = Vec::new();
    for stripe in 0..2 {
        let mut mirrors = Vec::new();
        for mirror in 0..2 {
            let name = format!("vd{stripe}{mirror}");
            let nqn = format!("{NQN}:{name}");
            let volume = lvol(t, "pdlvs", &name, MIB / 2 + 40).await?;
            export(t, &nqn, &volume).await?;
            mirrors.push(attach(t, &format!("nc{stripe}{mirror}"), &nqn).await?);
        }
        stripes.push(raid(t, &format!("r1-{stripe}"), "raid1", &mirrors).await?);
    }
    let leg = raid(t, "r0", "raid0", &stripes).await?;
    lvstore(t, &leg, "lglvs").await?;
    lvol(t, "lglvs", "volume", MIB).await
}

/// Exports `bdev` as the only namespace of a new subsystem, to any host.
pub(crate) async fn export(t: &Target, nqn: &str, bdev: &str) -> anyhow::Result<()> {
    t.call("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true})).await?;
    // Identifiers of its own, not the bdev's: attached to the same process, both would be there under one.
    let id = uuid::Uuid::new_v4();
    let nguid = id.simple().to_string().to_uppercase();
    let namespace =
        json!({"nqn": nqn, "namespace": {"bdev_name": bdev, "uuid": id.to_string(), "nguid": nguid}});
    t.call("nvmf_subsystem_add_ns", namespace).await?;
    let listener = json!({"nqn": nqn, "listen_address": address(t)});
    t.call("nvmf_subsystem_add_listener", listener).await.map(drop)
}

fn address(t: &Target) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": t.port().to_string()})
}

/// A disk in memory.
pub(crate) async fn malloc(t: &Target, name: &str, mib: u64) -> anyhow::Result<String> {
    let disk = json!({"name": name, "num_blocks": (mib << 20) / BLOCK, "block_size": BLOCK});
    text(t.call("bdev_malloc_create", disk).await?)
}

async fn aio(t: &Target, file: &Path) -> anyhow::Result<String> {
    std::fs::File::create(file)
        .and_then(|f| f.set_len(MIB << 20))
        .with_context(|| format!("creating {}", file.display()))?;
    text(t.call("bdev_aio_create", json!({"name": "aio0", "filename": file, "block_size": BLOCK})).await?)
}

async fn lvstore(t: &Target, bdev: &str, name: &str) -> anyhow::Result<()> {
    let store = json!({"bdev_name": bdev, "lvs_name": name, "cluster_sz": 1 << 20, "clear_method": "none"});
    t.call("bdev_lvol_create_lvstore", store).await.map(drop)
}

async fn lvol(t: &Target, store: &str, name: &str, mib: u64) -> anyhow::Result<String> {
    let volume = json!({"lvs_name": store, "lvol_name": name, "size_in_mib": mib, "thin_provision": true});
    t.call("bdev_lvol_create", volume).await?;
    Ok(format!("{store}/{name}"))
}

async fn raid(t: &Target, name: &str, level: &str, members: &[String]) -> anyhow::Result<String> {
    let mut raid = json!({"name": name, "raid_level": level, "base_bdevs": members});
    if level == "raid0" {
        raid["strip_size_kb"] = json!(64);
    }
    t.call("bdev_raid_create", raid).await?;
    Ok(name.to_owned())
}

/// Attaches a subsystem of the target to the target itself.
async fn attach(t: &Target, name: &str, nqn: &str) -> anyhow::Result<String> {
    let mut path = address(t);
    path["name"] = json!(name);
    path["subnqn"] = json!(nqn);
    let bdevs = t.call("bdev_nvme_attach_controller", path).await?;
    text(bdevs[0].clone())
}

fn text(value: Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("not a name: {value}"))
}
