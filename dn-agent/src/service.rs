//! The gRPC service.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context;
use futures::{Stream, stream};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status as RpcStatus};
use vda_proto::v1::dn_agent_server::{DnAgent, DnAgentServer};
use vda_proto::v1::{DnObservation, DnStatus, DnSyncRequest, ObserveRequest, SyncReply};
use vda_reconcile::{
    Accepted, Agent, AgentOptions, Batch, Fault, Ledger, NodeReport, Target, settings, status,
};
use vda_spdk::Client;
use vda_telemetry::{RequestIdLayer, Shutdown};

use crate::args::Args;
use crate::boot;
use crate::driver::{DiskNode, DnAgentHandle, Status};
use crate::resources::Key;
use crate::want;

/// Largest request accepted, in bytes: a full desired state of a node with tens of thousands of VDs.
const MAX_REQUEST: usize = 64 << 20;

/// Answers monitors.
pub struct Service<T: Target> {
    agent: DnAgentHandle<T>,
}

impl<T: Target> Service<T> {
    /// A service of `agent`.
    pub const fn new(agent: DnAgentHandle<T>) -> Self {
        Self { agent }
    }
}

#[tonic::async_trait]
impl<T: Target> DnAgent for Service<T> {
    async fn sync(&self, request: Request<DnSyncRequest>) -> Result<Response<SyncReply>, RpcStatus> {
        let request = request.into_inner();
        let (offer, listener) =
            want::offer::<T>(request).map_err(|e| RpcStatus::invalid_argument(e.to_string()))?;
        let (node, generation, full) = (offer.node_id.clone(), offer.generation, offer.full);
        let pds = want::pds(&offer.wants);
        let accepted = self.agent.accept(offer).await.map_err(|error| {
            tracing::error!(%error, "the ledger cannot be written");
            RpcStatus::unavailable(format!("the agent's ledger cannot be written: {error}"))
        })?;
        if matches!(accepted, Accepted::Accepted { .. }) {
            self.agent.driver().set_node(pds, &listener);
            self.agent.announce();
        }
        tracing::debug!(node, generation, full, ?accepted, "sync");
        Ok(Response::new(accepted.into()))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<DnObservation, RpcStatus>> + Send>>;

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, RpcStatus> {
        let node_id = request.into_inner().node_id;
        if !node_id.is_empty()
            && let Err(own) = self.agent.serves(&node_id)
        {
            return Err(RpcStatus::failed_precondition(format!("this agent serves DN {own}, not {node_id}")));
        }
        let agent = self.agent.clone();
        let feed = agent.observe();
        let messages = stream::unfold(Some((agent, feed, node_id)), |state| async move {
            let (agent, mut feed, node_id) = state?;
            match feed.next().await {
                Ok(batch) => {
                    let message = observation(&agent, &node_id, batch);
                    Some((Ok(message), Some((agent, feed, node_id))))
                }
                Err(end) => Some((Err(RpcStatus::unavailable(end.to_string())), None)),
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

fn observation<T: Target>(
    agent: &DnAgentHandle<T>,
    node_id: &str,
    batch: Batch<DiskNode<T>>,
) -> DnObservation {
    let about_node = batch.node.is_some() || batch.statuses.iter().any(|(key, _)| matches!(key, Key::Pd(_)));
    let node = about_node.then(|| node_status(agent, node_id, batch.node.unwrap_or_else(|| agent.node())));
    let shares = batch.statuses.into_iter().filter_map(|(_, status)| match status {
        Status::Share(share) => Some(share),
        Status::Pd(_) => None,
    });
    DnObservation { complete: batch.complete, generation: agent.generation(), node, shares: shares.collect() }
}

fn node_status<T: Target>(agent: &DnAgentHandle<T>, node_id: &str, report: NodeReport) -> DnStatus {
    let other = !node_id.is_empty() && node_id != report.node_id;
    let target = match agent.driver().conflict() {
        Some(message) => {
            let fault = Fault::refused("listener", message);
            vda_proto::v1::ResourceStatus { since_ms: report.target.since_ms, ..status::failed(&fault) }
        }
        None => report.target,
    };
    let pds = agent.statuses(|_, status| match status {
        Status::Pd(pd) => Some(pd.clone()),
        Status::Share(_) => None,
    });
    DnStatus {
        schema_version: vda_proto::SCHEMA_VERSION,
        dn_id: if other { node_id.to_owned() } else { report.node_id },
        observed_generation: if other { 0 } else { report.generation },
        agent: None,
        target: Some(target),
        pds,
        boot: agent.driver().boot_id().to_string(),
    }
}

/// Runs the agent until shutdown.
///
/// # Errors
/// If the boot id cannot be read, the ledger cannot be opened, or the address cannot be listened on.
pub async fn serve(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let boot = boot::read(&args.boot_id_path)?;
    let dir = settings::state_dir(args.state_dir.as_deref(), &args.sock_path);
    let ledger = Arc::new(Ledger::open(&dir).context("cannot open the ledger")?);
    let target = Client::new(&args.sock_path, args.sock_timeout);
    let node = DiskNode::new(target.clone(), args.tr_conf, args.lis_conf, boot, Arc::clone(&ledger));
    let options = AgentOptions { resync_interval: args.resync_interval, ..AgentOptions::default() };
    let agent = Agent::new(node, target, ledger, options, shutdown.token());
    let listener = TcpListener::bind(&args.address)
        .await
        .with_context(|| format!("cannot listen on --address {}", args.address))?;
    tracing::info!(address = %listener.local_addr()?, %boot, state_dir = %dir.display(), "serving");
    // A status change is a small message that nothing follows: it must not wait for the acknowledgement of the one before.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let worker = agent.clone();
    shutdown.spawn(async move { worker.run().await });
    let service = DnAgentServer::new(Service::new(agent)).max_decoding_message_size(MAX_REQUEST);
    tonic::transport::Server::builder()
        .layer(RequestIdLayer)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.triggered())
        .await
        .context("the gRPC server failed")
}
