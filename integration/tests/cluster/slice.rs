//! From nothing to data on a disk array, and back to nothing.

use vda_integration::{Cluster, Host, Role, da_request, exp_request};
use vda_proto::v1::{DeleteDaRequest, DeleteExpRequest, resource_ref::Kind};

use crate::{CLEAN_UP, HOST};

/// An array that is ready and exported to [`HOST`]; the host.
pub(crate) async fn exported(
    cluster: &Cluster,
    da: &str,
    mib: u64,
    stripes: u32,
    replicas: u32,
) -> anyhow::Result<Host> {
    let mut portal = cluster.portal(0)?;
    portal.create_da(da_request(da, mib, stripes, replicas)).await?;
    let exp = portal.create_exp(exp_request(da, "exp0", HOST)).await?.into_inner();
    cluster.ready(Kind::Da, da).await?;
    cluster.ready(Kind::Exp, &format!("{da}/exp0")).await?;
    let paths = exp.paths.iter().filter_map(|path| path.listener.as_ref());
    let paths: Vec<_> = paths.map(|listener| format!("{}:{}", listener.traddr, listener.trsvcid)).collect();
    anyhow::ensure!(!paths.is_empty(), "the exporter has no path: {exp:?}");
    Ok(Host::new(HOST, &exp.spec.unwrap_or_default().nqn, &paths))
}

/// Deletes the exporter and the array and waits until both are gone.
pub(crate) async fn delete(cluster: &Cluster, da: &str) -> anyhow::Result<()> {
    let mut portal = cluster.portal(0)?;
    let exp = DeleteExpRequest { da_name: da.into(), exp_name: "exp0".into(), ..Default::default() };
    let exp = portal.delete_exp(exp).await?.into_inner();
    cluster.gone(Kind::Exp, &format!("{da}/exp0"), exp.id).await?;
    let gone =
        portal.delete_da(DeleteDaRequest { da_name: da.into(), ..Default::default() }).await?.into_inner();
    cluster.gone(Kind::Da, da, gone.id).await
}

#[tokio::test]
async fn two_stripes_of_two_replicas_are_written_read_and_deleted() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    let host = exported(&cluster, "da0", 64, 2, 2).await?;
    host.fill(1, 64).await?;
    host.check(1, 64).await?;
    // Another seed must not verify: the check can fail.
    let run = host.run("verify", "--length 64MiB --seed 2").await?;
    assert_eq!(run.code, 3, "{run:?}");
    delete(&cluster, "da0").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}

/// Every admission is exact: neither another host's NQN, nor a volume's owner's, nor a similar one gets in.
#[tokio::test]
async fn only_the_named_host_is_admitted() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let host = exported(&cluster, "da0", 16, 1, 1).await?;
    host.ok("identify", "").await?;
    for stranger in [
        "nqn.2014-08.org.nvmexpress:host:other",
        "nqn.2014-08.org.nvmexpress:host:tes",
        "nqn.2014-08.org.nvmexpress:host:test0",
    ] {
        let run = host.clone().with_nqn(stranger).run("identify", "").await?;
        assert_eq!(run.code, 4, "{stranger} must be refused: {run:?}");
    }
    // The virtual disks admit their controller and nobody else, not even that host.
    let subsystems = cluster.rpc(Role::DnTarget(0), "nvmf_get_subsystems", serde_json::Value::Null).await?;
    let other = cluster.rpc(Role::DnTarget(1), "nvmf_get_subsystems", serde_json::Value::Null).await?;
    let all = [subsystems, other];
    let vds: Vec<_> = all
        .iter()
        .flat_map(|list| list.as_array().expect("a list"))
        .filter(|s| s["nqn"].as_str().is_some_and(|nqn| nqn.starts_with("nqn.2016-06.io.vda:vd:")))
        .collect();
    assert_eq!(vds.len(), 1, "{vds:?}");
    assert_eq!(vds[0]["allow_any_host"], false);
    assert_eq!(vds[0]["hosts"].as_array().map(Vec::len), Some(1), "{}", vds[0]);
    let address = &vds[0]["listen_addresses"][0];
    let path = format!("{}:{}", address["traddr"].as_str().unwrap(), address["trsvcid"].as_str().unwrap());
    let intruder = Host::new(HOST, vds[0]["nqn"].as_str().unwrap(), &[path]);
    let run = intruder.run("identify", "").await?;
    assert_eq!(run.code, 4, "a virtual disk must refuse hosts: {run:?}");
    delete(&cluster, "da0").await?;
    cluster.end().await
}
