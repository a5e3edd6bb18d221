//! What is left: in etcd, and in the data planes.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde_json::{Value, json};
use vda_store::{EtcdConfig, EtcdKv, Kv as _, RangeRequest};

use crate::{Cluster, Role, cluster::Layout, ready::eventually};

/// Things that should not be there: keys of etcd, and bdevs, lvols and subsystems by the name of their target.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers(pub BTreeSet<String>);

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// The discovery subsystem is every target's own.
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

fn names<'a>(list: &'a Value, key: &'a str) -> impl Iterator<Item = String> + 'a {
    list.as_array().into_iter().flatten().filter_map(move |item| item[key].as_str().map(str::to_owned))
}

impl Cluster {
    /// All keys under the cluster's prefix, without the prefix.
    pub async fn etcd_keys(&self) -> anyhow::Result<BTreeSet<String>> {
        let kv = EtcdKv::new(EtcdConfig::new(&self.etcd_address()));
        let prefix = format!("{}/", Layout::PREFIX);
        let reply = kv.range(RangeRequest::prefix(prefix.clone())).await?;
        Ok(reply.kvs.into_iter().map(|kv| kv.key.trim_start_matches(&prefix).to_owned()).collect())
    }

    /// Subsystems, lvols and bdevs of one target, as `kind name`.
    pub async fn target_objects(&self, target: Role) -> anyhow::Result<BTreeSet<String>> {
        let mut objects = BTreeSet::new();
        let subsystems = self.rpc(target, "nvmf_get_subsystems", Value::Null).await?;
        objects.extend(
            names(&subsystems, "nqn").filter(|nqn| nqn != DISCOVERY).map(|nqn| format!("subsystem {nqn}")),
        );
        let lvols = self.rpc(target, "bdev_lvol_get_lvols", Value::Null).await?;
        objects.extend(names(&lvols, "alias").map(|alias| format!("lvol {alias}")));
        let lvstores = self.rpc(target, "bdev_lvol_get_lvstores", Value::Null).await?;
        objects.extend(names(&lvstores, "name").map(|name| format!("lvstore {name}")));
        let bdevs = self.rpc(target, "bdev_get_bdevs", Value::Null).await?;
        objects.extend(names(&bdevs, "name").map(|name| format!("bdev {name}")));
        let controllers = self.rpc(target, "bdev_nvme_get_controllers", Value::Null).await?;
        objects.extend(names(&controllers, "name").map(|name| format!("controller {name}")));
        let raids = self.rpc(target, "bdev_raid_get_bdevs", json!({"category": "all"})).await?;
        objects.extend(names(&raids, "name").map(|name| format!("raid {name}")));
        Ok(objects)
    }

    /// Everything of disk arrays: with the nodes and their disks still there, what remains of arrays in etcd and in the targets.
    pub async fn leftovers(&self) -> anyhow::Result<Leftovers> {
        let of_nodes = |key: &String| {
            let mut parts = key.split('/');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some("dn" | "cn"), Some(_), Some("spec" | "gen" | "cap"), None)
                | (Some("dn"), Some(_), Some("pd"), Some(_))
                | (Some("name"), Some("dn" | "cn"), Some(_), None)
                | (Some("status"), Some("dn" | "cn"), Some(_), Some("node"))
                // Answers to repeated requests live under a lease, members under theirs.
                | (Some("req" | "member"), ..) => true,
                _ => false,
            }
        };
        let keys = self.etcd_keys().await?;
        let mut left: BTreeSet<_> =
            keys.iter().filter(|key| !of_nodes(key)).map(|key| format!("etcd {key}")).collect();
        for target in self.targets() {
            let objects = self.target_objects(target).await?;
            let is_disk = |object: &String| {
                matches!(target, Role::DnTarget(_))
                    && (object.starts_with("bdev vda-pd-") || object.starts_with("lvstore vda-pdlvs-"))
            };
            left.extend(
                objects.iter().filter(|object| !is_disk(object)).map(|object| format!("{target} {object}")),
            );
        }
        Ok(Leftovers(left))
    }

    /// Waits until no array has left a trace; the error lists what remains.
    pub async fn nothing_left(&self, limit: Duration) -> anyhow::Result<()> {
        eventually("nothing is left", limit, || async {
            let left = self.leftovers().await?;
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
