//! Calls to agents. Connections are made when needed.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use vda_model::delta::Node;
use vda_proto::v1::cn_agent_client::CnAgentClient;
use vda_proto::v1::dn_agent_client::DnAgentClient;
use vda_proto::v1::{CnSyncRequest, DnSyncRequest, ObserveRequest, SyncReply};
use vda_telemetry::{RequestId, propagate, with_request_id};

use crate::report::Report;

/// A node with 10,000 arrays sends and gets messages of this order.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An agent answers once the request is on its disk.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

type Wire = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// What an agent is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SyncRequest {
    Dn(Box<DnSyncRequest>),
    Cn(Box<CnSyncRequest>),
}

/// An agent of either kind.
#[derive(Clone)]
pub(crate) enum Agent {
    Dn(DnAgentClient<Wire>),
    Cn(CnAgentClient<Wire>),
}

impl Agent {
    /// `address`: host:port.
    ///
    /// # Errors
    /// If that is not an address.
    pub(crate) fn new(node: Node, address: &str) -> Result<Self, String> {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).map_err(|e| format!("{address:?}: {e}"))?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy();
        let wire =
            InterceptedService::new(channel, propagate as fn(Request<()>) -> Result<Request<()>, Status>);
        Ok(match node {
            Node::Dn(_) => Self::Dn(DnAgentClient::new(wire).max_decoding_message_size(MAX_MESSAGE_BYTES)),
            Node::Cn(_) => Self::Cn(CnAgentClient::new(wire).max_decoding_message_size(MAX_MESSAGE_BYTES)),
        })
    }

    /// Tells it what is wanted, because of request `id`.
    pub(crate) async fn sync(self, request: SyncRequest, id: RequestId) -> Result<SyncReply, Status> {
        let call = async {
            match (self, request) {
                (Self::Dn(mut agent), SyncRequest::Dn(request)) => agent.sync(*request).await,
                (Self::Cn(mut agent), SyncRequest::Cn(request)) => agent.sync(*request).await,
                _ => Err(Status::internal("a request for another kind of node")),
            }
        };
        let limited = tokio::time::timeout(SYNC_TIMEOUT, with_request_id(id, call));
        match limited.await {
            Ok(reply) => reply.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer to Sync within {SYNC_TIMEOUT:?}"))),
        }
    }

    /// Asks for everything it observes, and then for every change.
    pub(crate) async fn observe(
        self,
        node_id: String,
    ) -> Result<BoxStream<'static, Result<Report, Status>>, Status> {
        let request = ObserveRequest { node_id };
        match self {
            Self::Dn(mut agent) => {
                let stream = agent.observe(request).await?.into_inner();
                Ok(stream.map_ok(Report::from).boxed())
            }
            Self::Cn(mut agent) => {
                let stream = agent.observe(request).await?.into_inner();
                Ok(stream.map_ok(Report::from).boxed())
            }
        }
    }
}

/// A status in one line, with what the transport says.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
