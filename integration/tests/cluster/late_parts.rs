//! Nodes that are down when something is created or deleted: it is accepted, says what it waits for, and is done when they are back.

use std::time::Duration;

use vda_integration::{Cluster, Role, da_request, eventually};
use vda_proto::v1::{DeleteDaRequest, GetDaRequest, resource_ref::Kind};

use crate::CLEAN_UP;

const NOTICED: Duration = Duration::from_secs(90);

/// Waits until the array's status names `blocker`.
async fn blocked_by(cluster: &Cluster, da: &str, blocker: &str) -> anyhow::Result<()> {
    eventually("the blocker is named", NOTICED, || async {
        let mut portal = cluster.portal(0)?;
        let da = portal.get_da(GetDaRequest { da_name: da.to_owned() }).await?.into_inner();
        let status = da.status.clone().unwrap_or_default();
        anyhow::ensure!(
            format!("{status:?}").contains(blocker),
            "{blocker} is not in {status:?}, parts {:?}",
            da.parts
        );
        Ok(())
    })
    .await
}

async fn created_while_down(role: Role, blocker: impl Fn(&Cluster) -> String) -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().cns(1).start().await?;
    cluster.add_nodes().await?;
    cluster.kill(role).await?;
    cluster.portal(0)?.create_da(da_request("da0", 16, 1, 2)).await?;
    blocked_by(&cluster, "da0", &blocker(&cluster)).await?;
    let run = cluster.vdacli("da create da1 --size 4MiB --replicas 2 --wait=1s").await?;
    assert_eq!(run.code, 6, "{run:?}");
    cluster.start(role).await?;
    cluster.ready(Kind::Da, "da0").await?;
    cluster.ready(Kind::Da, "da1").await?;
    for da in ["da0", "da1"] {
        cluster.vdacli_ok(&format!("da delete {da} --wait=60s")).await?;
    }
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}

#[tokio::test]
async fn created_while_a_dn_agent_is_down() -> anyhow::Result<()> {
    created_while_down(Role::DnAgent(1), |cluster| cluster.dn(1)).await
}

#[tokio::test]
async fn created_while_a_dn_data_plane_is_down() -> anyhow::Result<()> {
    created_while_down(Role::DnTarget(1), |cluster| cluster.dn(1)).await
}

#[tokio::test]
async fn created_while_the_cn_agent_is_down() -> anyhow::Result<()> {
    created_while_down(Role::CnAgent(0), |cluster| cluster.cn(0)).await
}

#[tokio::test]
async fn created_while_the_cn_data_plane_is_down() -> anyhow::Result<()> {
    created_while_down(Role::CnTarget(0), |cluster| cluster.cn(0)).await
}

#[tokio::test]
async fn deleted_while_a_dn_is_off() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let mut portal = cluster.portal(0)?;
    portal.create_da(da_request("da0", 16, 1, 2)).await?;
    cluster.ready(Kind::Da, "da0").await?;
    for role in [Role::DnAgent(1), Role::DnTarget(1)] {
        cluster.kill(role).await?;
    }
    let deleted =
        portal.delete_da(DeleteDaRequest { da_name: "da0".into(), ..Default::default() }).await?.into_inner();
    // The name is free at once; the space on the node that is off is not.
    portal.create_da(da_request("da0", 8, 1, 1)).await?;
    let summary = cluster.vdacli_ok("cluster summary -o json").await?;
    let summary: serde_json::Value = serde_json::from_str(&summary)?;
    assert_ne!(summary["deleting"], 0, "a tombstone stands for what is left on the node: {summary}");
    for role in [Role::DnTarget(1), Role::DnAgent(1)] {
        cluster.start(role).await?;
    }
    cluster.gone(Kind::Da, "da0", deleted.id).await?;
    cluster.ready(Kind::Da, "da0").await?;
    cluster.vdacli_ok("da delete da0 --wait=60s").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}
