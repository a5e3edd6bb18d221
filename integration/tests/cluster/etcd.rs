//! etcd is not there when everything starts, and goes away later.

use std::time::Duration;

use vda_integration::{Cluster, Role, da_request, eventually};
use vda_proto::v1::{ListDaRequest, resource_ref::Kind};

use crate::CLEAN_UP;

#[tokio::test]
async fn etcd_may_come_up_last() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().prepare()?;
    for role in cluster.roles().into_iter().filter(|role| *role != Role::Etcd) {
        cluster.launch(role)?;
    }
    // The portal's gRPC server is up without etcd, or the connection is refused: both must be said in words, with code 5.
    let run = cluster.vdacli("da list --timeout 5s").await?;
    assert_eq!(run.code, 5, "{run:?}");
    cluster.start(Role::Etcd).await?;
    for role in cluster.roles() {
        cluster.answering(role).await?;
    }
    cluster.add_nodes().await?;
    cluster.end().await
}

#[tokio::test]
async fn etcd_lost_in_mid_run_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let mut portal = cluster.portal(0)?;
    portal.create_da(da_request("before", 16, 1, 2)).await?;
    cluster.ready(Kind::Da, "before").await?;
    cluster.kill(Role::Etcd).await?;
    let run = cluster.vdacli("da create during --size 16MiB --timeout 15s --request-id the-one").await?;
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.stderr.contains("etcd"), "the message names what is missing: {run:?}");
    cluster.start(Role::Etcd).await?;
    // By itself, and the same request again is done once.
    let again = "da create during --size 16MiB --request-id the-one --wait=60s";
    eventually("the portal serves again", Duration::from_secs(60), || cluster.vdacli_ok(again)).await?;
    cluster.vdacli_ok(again).await?;
    let das = cluster.portal(0)?.list_da(ListDaRequest::default()).await?.into_inner().das;
    let names: Vec<_> = das.into_iter().map(|da| da.spec.unwrap_or_default().da_name).collect();
    assert_eq!(names, ["before", "during"]);
    for name in names {
        cluster.vdacli_ok(&format!("da delete {name} --wait=60s")).await?;
    }
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}
