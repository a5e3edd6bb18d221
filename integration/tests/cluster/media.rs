//! Data survives what processes do not.

use std::time::Duration;

use vda_integration::{Cluster, Role, eventually};
use vda_proto::v1::{Condition, GetDaRequest, resource_ref::Kind};

use crate::{
    CLEAN_UP,
    slice::{delete, exported},
};

async fn condition(cluster: &Cluster, da: &str) -> anyhow::Result<Condition> {
    let da = cluster.portal(0)?.get_da(GetDaRequest { da_name: da.into() }).await?.into_inner();
    Ok(da.status.unwrap_or_default().condition())
}

#[tokio::test]
async fn data_survives_kill_9_of_every_data_plane() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let host = exported(&cluster, "da0", 32, 2, 2).await?;
    host.fill(7, 32).await?;
    let targets = cluster.targets();
    for target in &targets {
        cluster.kill(*target).await?;
    }
    for target in &targets {
        cluster.start(*target).await?;
    }
    serves_again(&cluster, &host, 7).await?;
    cluster.ready(Kind::Da, "da0").await?;
    host.check(7, 32).await?;
    delete(&cluster, "da0").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}

#[tokio::test]
async fn a_lost_mirror_member_does_not_stop_the_array_and_is_rebuilt() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let host = exported(&cluster, "da0", 32, 1, 2).await?;
    host.fill(7, 32).await?;
    cluster.kill(Role::DnTarget(1)).await?;
    cluster.kill(Role::DnAgent(1)).await?;
    host.check(7, 32).await?;
    host.fill(8, 32).await?;
    eventually("the array is degraded", Duration::from_secs(90), || async {
        let now = condition(&cluster, "da0").await?;
        anyhow::ensure!(now == Condition::Degraded, "{now:?}");
        Ok(())
    })
    .await?;
    cluster.start(Role::DnTarget(1)).await?;
    cluster.start(Role::DnAgent(1)).await?;
    cluster.ready(Kind::Da, "da0").await?;
    // Now the other member alone: it must hold what was written without it.
    cluster.kill(Role::DnTarget(0)).await?;
    cluster.kill(Role::DnAgent(0)).await?;
    host.check(8, 32).await?;
    cluster.start(Role::DnTarget(0)).await?;
    cluster.start(Role::DnAgent(0)).await?;
    cluster.ready(Kind::Da, "da0").await?;
    delete(&cluster, "da0").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}

async fn serves_again(cluster: &Cluster, host: &vda_integration::Host, seed: u64) -> anyhow::Result<()> {
    eventually("the array serves again", Duration::from_secs(60), || host.check(seed, 32)).await?;
    anyhow::ensure!(
        condition(cluster, "da0").await? != Condition::Failed,
        "it serves, and is reported as failed"
    );
    Ok(())
}
