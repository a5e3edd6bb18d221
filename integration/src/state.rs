//! What is left: in etcd, and in the data planes.

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use serde_json::{Value, json};
use vda_store::{EtcdConfig, EtcdKv, Kv as _, RangeRequest};

use crate::{Cluster, Role, cluster::Layout, ready::eventually, rpc};

/// Things that should not be there: keys of etcd, and objects of targets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers(pub BTreeSet<String>);

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// The discovery subsystem is every target's own.
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// All keys under `prefix`, without it.
pub(crate) async fn etcd_keys(endpoints: &str, prefix: &str) -> anyhow::Result<BTreeSet<String>> {
    let kv = EtcdKv::new(EtcdConfig::new(endpoints));
    let prefix = format!("{prefix}/");
    let reply = kv.range(RangeRequest::prefix(prefix.clone())).await?;
    Ok(reply.kvs.into_iter().map(|kv| kv.key.trim_start_matches(&prefix).to_owned()).collect())
}

/// The revision of the last change of a key below `prefix`; 0: there is none.
async fn etcd_revision(endpoints: &str, prefix: String) -> anyhow::Result<u64> {
    let reply = EtcdKv::new(EtcdConfig::new(endpoints)).range(RangeRequest::prefix(prefix)).await?;
    Ok(reply.kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or(0))
}

/// Everything in the target at `socket` that was put there, as `kind name`.
pub(crate) async fn target_objects(socket: &Path) -> anyhow::Result<BTreeSet<String>> {
    let families = [
        ("nvmf_get_subsystems", Value::Null, "subsystem", "nqn"),
        ("bdev_lvol_get_lvols", Value::Null, "lvol", "alias"),
        ("bdev_lvol_get_lvstores", Value::Null, "lvstore", "name"),
        ("bdev_get_bdevs", Value::Null, "bdev", "name"),
        ("bdev_nvme_get_controllers", Value::Null, "controller", "name"),
        ("bdev_raid_get_bdevs", json!({"category": "all"}), "raid", "name"),
    ];
    let mut objects = BTreeSet::new();
    for (method, params, kind, key) in families {
        let list = rpc::call(socket, method, params).await?;
        let names = list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str());
        objects.extend(names.filter(|name| *name != DISCOVERY).map(|name| format!("{kind} {name}")));
    }
    Ok(objects)
}

/// Monitors that run, and answers kept for repeated requests: both live under a lease.
fn is_transient(key: &str) -> bool {
    key.starts_with("req/") || key.starts_with("member/")
}

/// Keys that nodes and their disks have without any array.
fn is_of_nodes(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    matches!(
        parts.as_slice(),
        ["dn" | "cn", _, "spec" | "gen" | "cap"]
            | ["dn", _, "pd", _]
            | ["name", "dn" | "cn", _]
            | ["status", "dn" | "cn", _, "node"]
            | ["status", "dn", _, "boot"]
    )
}

/// What a disk has without any array.
fn is_of_disks(object: &str) -> bool {
    object.starts_with("bdev vda-pd-") || object.starts_with("lvstore vda-pdlvs-")
}

/// What is left. With `nodes_stay` that of nodes and disks does not count.
pub async fn leftovers(
    endpoints: &str,
    prefix: &str,
    targets: impl IntoIterator<Item = impl AsRef<Path>>,
    nodes_stay: bool,
) -> anyhow::Result<Leftovers> {
    let keys = etcd_keys(endpoints, prefix).await?;
    let counts = |key: &String| !(is_transient(key) || nodes_stay && is_of_nodes(key));
    let mut left: BTreeSet<_> =
        keys.iter().filter(|key| counts(key)).map(|key| format!("etcd {key}")).collect();
    for socket in targets {
        let name = socket.as_ref().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let objects = target_objects(socket.as_ref()).await?;
        let counts = |object: &String| !(nodes_stay && is_of_disks(object));
        left.extend(objects.iter().filter(|object| counts(object)).map(|object| format!("{name} {object}")));
    }
    Ok(Leftovers(left))
}

/// What etcd says of deleted arrays that a node has not confirmed yet; usable while the cluster's processes come and go.
#[derive(Clone, Debug)]
pub struct Tombstones {
    endpoints: String,
}

impl Tombstones {
    /// Their keys.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub async fn outstanding(&self) -> anyhow::Result<BTreeSet<String>> {
        let keys = etcd_keys(&self.endpoints, Layout::PREFIX).await?;
        Ok(keys.into_iter().filter(|key| key.starts_with("tomb/")).collect())
    }

    /// Waits until none of `these` is outstanding.
    ///
    /// # Errors
    /// Those that are left at the end of `limit`.
    pub async fn completed(&self, these: &BTreeSet<String>, limit: Duration) -> anyhow::Result<()> {
        eventually("deletions are confirmed", limit, || async {
            let left: Vec<_> = self.outstanding().await?.intersection(these).cloned().collect();
            anyhow::ensure!(left.is_empty(), "still outstanding: {left:?}");
            Ok(())
        })
        .await
    }
}

impl Cluster {
    /// See [`Tombstones`].
    pub fn tombstones(&self) -> Tombstones {
        Tombstones { endpoints: self.etcd_address() }
    }

    /// All keys under the cluster's prefix, without the prefix.
    pub async fn etcd_keys(&self) -> anyhow::Result<BTreeSet<String>> {
        etcd_keys(&self.etcd_address(), Layout::PREFIX).await
    }

    /// The revision of the last change of a key of the cluster below `prefix`; 0: there is none.
    pub async fn etcd_revision(&self, prefix: &str) -> anyhow::Result<u64> {
        etcd_revision(&self.etcd_address(), format!("{}/{prefix}", Layout::PREFIX)).await
    }

    /// Everything that was put into a target, as `kind name`.
    pub async fn target_objects(&self, target: Role) -> anyhow::Result<BTreeSet<String>> {
        target_objects(&self.layout.socket(target)).await
    }

    /// Waits until no array has left a trace; the error lists what remains. With `nodes_stay` nodes and disks may be there.
    pub async fn nothing_left(&self, nodes_stay: bool, limit: Duration) -> anyhow::Result<()> {
        let sockets: Vec<_> = self.targets().into_iter().map(|target| self.layout.socket(target)).collect();
        eventually("nothing is left", limit, || async {
            let left = leftovers(&self.etcd_address(), Layout::PREFIX, &sockets, nodes_stay).await?;
            anyhow::ensure!(left.0.is_empty(), "left:\n{left}");
            Ok(())
        })
        .await
    }

    /// The data planes of all nodes.
    pub fn targets(&self) -> Vec<Role> {
        let dns = (0..self.layout.dns.len()).map(Role::DnTarget);
        dns.chain((0..self.layout.cns.len()).map(Role::CnTarget)).collect()
    }
}
