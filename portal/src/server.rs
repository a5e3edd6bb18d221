//! The process: what its parts share, and how they are served.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};
use vda_proto::{DESCRIPTORS, v1::portal_server::PortalServer};
use vda_store::Store;
use vda_telemetry::{RequestIdLayer, Shutdown};

use crate::{cluster::Cluster, health, hub::Hub, lease::Leases};

/// How often a client that is connected but silent is asked whether it is still there: a `Watch` may be silent for days.
const PING: Duration = Duration::from_secs(20);

/// One portal. Cheap to clone; clones are the same portal.
#[derive(Debug, Clone)]
pub struct Portal {
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) hub: Hub,
    pub(crate) leases: Arc<Leases>,
    pub(crate) shutdown: Shutdown,
}

impl Portal {
    /// Starts to follow `store`, which need not answer yet. Ends with `shutdown`.
    #[must_use]
    pub fn start(store: Store, shutdown: &Shutdown) -> Self {
        let cluster = Cluster::start(&store, shutdown.token());
        let hub = Hub::start(cluster.cache.subscribe(), shutdown);
        Self { store, cluster, hub, leases: Arc::default(), shutdown: shutdown.clone() }
    }
}

/// Serves `portal` on `listener` until `shutdown`, with health and reflection (v1 and v1alpha).
///
/// # Errors
/// If the listener fails, or the descriptors compiled in are broken.
pub async fn serve(portal: Portal, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let (reporter, health_service) = health::service().await;
    shutdown.spawn(health::watch(portal.store.clone(), reporter, shutdown.token()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .layer(RequestIdLayer)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(PortalServer::new(portal))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.triggered(),
        )
        .await?;
    Ok(())
}
