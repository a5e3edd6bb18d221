//! Creates a second, and how that compares with etcd.
//!
//! Agents and data planes are stopped as soon as the disks are known: on one machine they would compete with what is measured for
//! its cores, while in a cluster they run elsewhere. etcd, the portal and the monitor run, and etcd syncs to its disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use vda_integration::{Cluster, Role, da_request};
use vda_proto::v1::{ListCnRequest, ModifyCnRequest};
use vda_store::{Compare, EtcdConfig, EtcdKv, Kv as _, Txn, Write};

use crate::{Effort, measure::load, report::Row};

const CLIENTS: [usize; 3] = [1, 8, 32];

pub(crate) async fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    // Sparse files: the space is only on the books.
    let mut cluster = Cluster::builder().pds(2, 128 << 10).start().await?;
    cluster.add_nodes().await?;
    room_for_all(&cluster).await?;
    for role in cluster.roles() {
        if matches!(role, Role::DnTarget(_) | Role::DnAgent(_) | Role::CnTarget(_) | Role::CnAgent(_)) {
            cluster.kill(role).await?;
        }
    }
    let mut rows = Vec::new();
    let number = Arc::new(AtomicU64::new(0));
    for clients in CLIENTS {
        let etcd_txn_per_s = etcd_rate(&cluster, clients, effort, &number).await?;
        let mut portals = Vec::new();
        for _ in 0..clients {
            portals.push(cluster.portal(0)?);
        }
        let next = Arc::clone(&number);
        let creates = load(portals, effort.time, move |mut portal| {
            let name = format!("da{}", next.fetch_add(1, Ordering::Relaxed));
            async move {
                portal.create_da(da_request(&name, 4, 1, 1)).await?;
                Ok(())
            }
        })
        .await?;
        rows.push(Row {
            clients,
            creates_per_s: creates.per_s,
            create_p50_ms: creates.ms(50.0),
            create_p99_ms: creates.ms(99.0),
            etcd_txn_per_s,
            ratio: creates.per_s / etcd_txn_per_s,
        });
    }
    cluster.kill_all().await?;
    Ok(rows)
}

/// Controller nodes take as many controllers as are created.
async fn room_for_all(cluster: &Cluster) -> anyhow::Result<()> {
    let mut portal = cluster.portal(0)?;
    for cn in portal.list_cn(ListCnRequest::default()).await?.into_inner().cns {
        let address = cn.spec.unwrap_or_default().address;
        let request = ModifyCnRequest { address, max_cntlrs: Some(1_000_000), ..Default::default() };
        portal.modify_cn(request).await?;
    }
    Ok(())
}

/// The same number of clients, each with a connection of its own, committing transactions of 1 compare and 6 puts of 200 bytes.
async fn etcd_rate(
    cluster: &Cluster,
    clients: usize,
    effort: &Effort,
    number: &Arc<AtomicU64>,
) -> anyhow::Result<f64> {
    let connections =
        (0..clients).map(|_| Arc::new(EtcdKv::new(EtcdConfig::new(&cluster.etcd_address())))).collect();
    let next = Arc::clone(number);
    let measured = load(connections, effort.time, move |kv: Arc<EtcdKv>| {
        let transaction = one_compare_six_puts(next.fetch_add(1, Ordering::Relaxed));
        async move {
            kv.commit(transaction).await?;
            Ok(())
        }
    })
    .await?;
    Ok(measured.per_s)
}

fn one_compare_six_puts(number: u64) -> Txn {
    let key = |put| format!("/vda-bench/{number}/{put}");
    let put = |put| Write::Put { key: key(put), value: vec![b'x'; 200].into(), lease: None };
    Txn {
        compares: vec![Compare { key: key(0), mod_revision: 0 }],
        writes: (0..6).map(put).collect(),
        also_read: vec![],
    }
}
