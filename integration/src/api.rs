//! What tests ask portals for.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;
use tonic::transport::Channel;
use vda_proto::v1::{
    CreateCnRequest, CreateDaRequest, CreateDnRequest, CreateExpRequest, CreatePdRequest, FileBackend,
    NvmfListener, PdBackend, ResourceRef, WatchRequest, pd_backend, portal_client::PortalClient,
    resource_ref::Kind, watch_request::Until,
};

use crate::Cluster;

/// How long a resource may take to become what it should be, on a busy machine.
const SETTLE: Duration = Duration::from_secs(60);

/// A disk array, with defaults for what is not said.
pub fn da_request(name: &str, mib: u64, stripes: u32, replicas: u32) -> CreateDaRequest {
    CreateDaRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        da_name: name.to_owned(),
        size_bytes: mib << 20,
        stripes,
        replicas,
        ..Default::default()
    }
}

/// An exporter for one host.
pub fn exp_request(da: &str, exp: &str, host_nqn: &str) -> CreateExpRequest {
    CreateExpRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        da_name: da.to_owned(),
        exp_name: exp.to_owned(),
        initiator_nqns: vec![host_nqn.to_owned()],
    }
}

fn listener(address: &str) -> anyhow::Result<NvmfListener> {
    let (traddr, trsvcid) = address.rsplit_once(':').context("IP:PORT")?;
    Ok(NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: traddr.into(),
        trsvcid: trsvcid.into(),
    })
}

impl Cluster {
    /// Makes all nodes and their disks known, and waits until they are ready.
    pub async fn add_nodes(&self) -> anyhow::Result<()> {
        for dn in 0..self.layout.dns.len() {
            self.create_dn(dn).await?;
            for pd in 0..self.pds_per_dn() {
                self.create_pd(dn, pd).await?;
            }
        }
        for cn in 0..self.layout.cns.len() {
            self.create_cn(cn).await?;
        }
        for dn in 0..self.layout.dns.len() {
            for pd in 0..self.pds_per_dn() {
                self.ready(Kind::Pd, &format!("{}/pd{pd}", self.dn(dn))).await?;
            }
        }
        for cn in 0..self.layout.cns.len() {
            self.ready(Kind::Cn, &self.cn(cn)).await?;
        }
        Ok(())
    }

    /// Makes a disk node known.
    pub async fn create_dn(&self, dn: usize) -> anyhow::Result<()> {
        let request = CreateDnRequest {
            address: self.dn(dn),
            listener: Some(listener(&self.dn_listener(dn))?),
            location: format!("rack{dn}"),
            ..Default::default()
        };
        self.portal(0)?.create_dn(request).await?;
        Ok(())
    }

    /// Makes a physical disk known.
    pub async fn create_pd(&self, dn: usize, pd: usize) -> anyhow::Result<()> {
        let filename = self.pd_path(dn, pd).display().to_string();
        let request = CreatePdRequest {
            dn_address: self.dn(dn),
            pd_name: format!("pd{pd}"),
            backend: Some(PdBackend { kind: Some(pd_backend::Kind::Aio(FileBackend { filename })) }),
            ..Default::default()
        };
        self.portal(0)?.create_pd(request).await?;
        Ok(())
    }

    /// Makes a controller node known.
    pub async fn create_cn(&self, cn: usize) -> anyhow::Result<()> {
        let request = CreateCnRequest {
            address: self.cn(cn),
            listener: Some(listener(&self.cn_listener(cn))?),
            ..Default::default()
        };
        self.portal(0)?.create_cn(request).await?;
        Ok(())
    }

    /// Waits until a resource is ready.
    pub async fn ready(&self, kind: Kind, name: &str) -> anyhow::Result<()> {
        self.reach(kind, name, Until::Ready, String::new()).await
    }

    /// Waits until nothing is left of a deleted resource.
    pub async fn gone(&self, kind: Kind, name: &str, id: String) -> anyhow::Result<()> {
        self.reach(kind, name, Until::Gone, id).await
    }

    async fn reach(&self, kind: Kind, name: &str, until: Until, id: String) -> anyhow::Result<()> {
        let resource = Some(ResourceRef { kind: kind.into(), name: name.to_owned() });
        let request = WatchRequest { resource, until: until.into(), min_revision: 0, id };
        let mut last = String::from("nothing observed");
        let follow = follow(self.portal(0)?, request, &mut last);
        match timeout(SETTLE, follow).await {
            Ok(result) => result.with_context(|| format!("{kind:?} {name}")),
            Err(_) => bail!("{kind:?} {name} is not {until:?} after {SETTLE:?}: {last}"),
        }
    }
}

async fn follow(
    mut portal: PortalClient<Channel>,
    request: WatchRequest,
    last: &mut String,
) -> anyhow::Result<()> {
    let mut replies = portal.watch(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        if reply.met {
            return Ok(());
        }
        *last = format!("{reply:?}");
    }
    bail!("the watch ended: {last}")
}
