//! Disk nodes that lose their power while nobody uses the array: what they had acknowledged and not flushed is gone, and they are back before any
//! I/O to them has failed (ADR 0091).

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use vda_integration::{Cluster, Host, Role, eventually};
use vda_proto::v1::{GetDaRequest, LegState, resource_ref::Kind};

use crate::{
    CLEAN_UP,
    slice::{delete, exported},
};

const PATIENCE: Duration = Duration::from_secs(180);
/// Of the volume, and how much of it holds the data that is looked at.
const MIB: u64 = 40;
const DATA: u64 = 32;

/// One controller node, and disk nodes with one disk each.
async fn cluster() -> anyhow::Result<(Cluster, Host)> {
    let cluster = Cluster::builder().cns(1).pds(1, 96).start().await?;
    cluster.add_nodes().await?;
    let host = exported(&cluster, "da0", MIB, 1, 2).await?;
    Ok((cluster, host))
}

/// The states of the controller's connections to its members.
async fn connections(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let list = cluster.rpc(Role::CnTarget(0), "bdev_nvme_get_controllers", Value::Null).await?;
    let state = |c: &Value| c["ctrlrs"][0]["state"].as_str().unwrap_or_default().to_owned();
    Ok(list.as_array().into_iter().flatten().map(state).collect())
}

/// Waits until `lost` of the two members are not connected.
async fn noticed(cluster: &Cluster, lost: usize) -> anyhow::Result<()> {
    eventually(&format!("{lost} members are not connected"), PATIENCE, || async {
        let states = connections(cluster).await?;
        let connected = states.iter().filter(|state| *state == "enabled").count();
        ensure!(states.len() <= 2 && connected == 2 - lost, "{states:?}");
        Ok(())
    })
    .await
}

async fn leg(cluster: &Cluster) -> anyhow::Result<LegState> {
    let da = cluster.portal(0)?.get_da(GetDaRequest { da_name: "da0".into() }).await?.into_inner();
    Ok(da.legs.into_iter().next().unwrap_or_default())
}

/// Waits until both members are in sync, with the boots that their nodes have now.
async fn whole(cluster: &Cluster) -> anyhow::Result<()> {
    let now = [cluster.boot(0)?, cluster.boot(1)?];
    eventually("both members are in sync again", PATIENCE, || async {
        let leg = leg(cluster).await?;
        let known = now.iter().all(|boot| leg.boots.iter().any(|known| known.boot == *boot));
        ensure!(leg.in_sync.len() == 2 && known, "{leg:?}, the boots are {now:?}");
        Ok(())
    })
    .await?;
    cluster.ready(Kind::Da, "da0").await
}

/// A flush that succeeds, and many reads: whoever answers them has what was acknowledged.
async fn flushed_and_read(host: &Host, seed: u64) -> anyhow::Result<()> {
    host.ok("write", &format!("--random --offset {DATA}MiB --length 4KiB --seed {seed}")).await?;
    for _ in 0..8 {
        host.check(seed, DATA).await?;
    }
    Ok(())
}

/// What each member has by itself.
async fn each_alone(cluster: &mut Cluster, host: &Host, seed: u64) -> anyhow::Result<()> {
    for away in [0, 1] {
        for role in [Role::DnTarget(away), Role::DnAgent(away)] {
            cluster.kill(role).await?;
        }
        host.check(seed, DATA).await?;
        for role in [Role::DnTarget(away), Role::DnAgent(away)] {
            cluster.start(role).await?;
        }
        cluster.ready(Kind::Da, "da0").await?;
        whole(cluster).await?;
    }
    Ok(())
}

async fn clean_up(cluster: Cluster) -> anyhow::Result<()> {
    delete(&cluster, "da0").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}

#[tokio::test]
async fn a_member_that_lost_its_power_unnoticed_is_rebuilt_before_anybody_reads_there() -> anyhow::Result<()>
{
    let (mut cluster, host) = cluster().await?;
    host.fill(7, DATA).await?;
    let flushed = cluster.medium(1)?;
    host.fill_unflushed(8, DATA).await?;
    // Nobody uses the array until the node is back.
    cluster.cut_power(&flushed).await?;
    noticed(&cluster, 1).await?;
    cluster.power_on(1).await?;
    noticed(&cluster, 0).await?;
    flushed_and_read(&host, 8).await?;
    whole(&cluster).await?;
    each_alone(&mut cluster, &host, 8).await?;
    clean_up(cluster).await
}

#[tokio::test]
async fn an_array_whose_nodes_all_lost_their_power_comes_back_with_what_was_flushed() -> anyhow::Result<()> {
    let (mut cluster, host) = cluster().await?;
    host.fill(7, DATA).await?;
    let flushed = [cluster.medium(0)?, cluster.medium(1)?];
    host.fill_unflushed(8, DATA).await?;
    for medium in &flushed {
        cluster.cut_power(medium).await?;
    }
    noticed(&cluster, 2).await?;
    for dn in [0, 1] {
        cluster.power_on(dn).await?;
    }
    // By itself, and one of the two was elected: the other was rebuilt from it.
    whole(&cluster).await?;
    flushed_and_read(&host, 7).await?;
    each_alone(&mut cluster, &host, 7).await?;
    clean_up(cluster).await
}

#[tokio::test]
async fn processes_that_are_killed_on_a_node_that_keeps_its_power_cost_no_rebuild() -> anyhow::Result<()> {
    let (mut cluster, host) = cluster().await?;
    host.fill(7, DATA).await?;
    whole(&cluster).await?;
    let before = cluster.etcd_revision("leg/").await?;
    ensure!(before > 0, "the state of the leg is recorded");
    let names = cluster.target_objects(Role::DnTarget(1)).await?;
    cluster.kill(Role::DnTarget(1)).await?;
    cluster.kill(Role::DnAgent(1)).await?;
    noticed(&cluster, 1).await?;
    cluster.start(Role::DnTarget(1)).await?;
    cluster.start(Role::DnAgent(1)).await?;
    noticed(&cluster, 0).await?;
    assert_eq!(cluster.target_objects(Role::DnTarget(1)).await?, names, "found under the same names");
    flushed_and_read(&host, 7).await?;
    cluster.ready(Kind::Da, "da0").await?;
    assert_eq!(cluster.etcd_revision("leg/").await?, before, "no member was ever out of sync");
    clean_up(cluster).await
}
