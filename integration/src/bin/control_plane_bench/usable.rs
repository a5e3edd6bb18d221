//! How long from asking for an array until it is ready, with more and more arrays already there; and the memory of each process.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use vda_integration::{Cluster, da_request, usage};
use vda_proto::v1::resource_ref::Kind;

use crate::{
    Effort,
    measure::{histogram, micros, ms},
    report::Usable,
};

/// How many arrays are created at a time to fill the cluster.
const AT_A_TIME: usize = 8;

pub(crate) async fn measure(effort: &Effort) -> anyhow::Result<(Vec<Usable>, BTreeMap<String, f64>)> {
    let cluster = Cluster::builder().pds(2, 64 << 10).start().await?;
    cluster.add_nodes().await?;
    let mut rows = Vec::new();
    let mut there = 0;
    for existing in effort.existing {
        fill(&cluster, there, *existing).await.with_context(|| format!("creating {existing} arrays"))?;
        there = *existing;
        let mut latencies = histogram();
        for sample in 0..effort.samples {
            let name = format!("sample-{existing}-{sample}");
            let begun = Instant::now();
            create(&cluster, &name).await?;
            latencies.record(micros(begun.elapsed()))?;
            delete(&cluster, &name).await?;
        }
        rows.push(Usable { existing: *existing, p50_ms: ms(&latencies, 50.0), p99_ms: ms(&latencies, 99.0) });
    }
    let memory =
        cluster.pids().into_iter().map(|(role, pid)| anyhow::Ok((role.to_string(), usage::rss_mib(pid)?)));
    let memory = memory.collect::<anyhow::Result<_>>()?;
    cluster.kill_all().await?;
    Ok((rows, memory))
}

async fn fill(cluster: &Cluster, from: usize, to: usize) -> anyhow::Result<()> {
    let create = |number| async move { create(cluster, &format!("da{number}")).await };
    stream::iter(from..to).map(create).buffer_unordered(AT_A_TIME).try_collect().await
}

async fn create(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster.portal(0)?.create_da(da_request(name, 4, 1, 1)).await?;
    cluster.ready(Kind::Da, name).await
}

async fn delete(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let request = vda_proto::v1::DeleteDaRequest { da_name: name.to_owned(), ..Default::default() };
    let reply = cluster.portal(0)?.delete_da(request).await?.into_inner();
    cluster.gone(Kind::Da, name, reply.id).await
}
