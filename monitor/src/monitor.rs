//! The process.

use std::sync::Arc;

use vda_model::keys::Scope;
use vda_store::{EtcdKv, Kv, Membership, MembershipConfig, Store, WatchCache};
use vda_telemetry::Shutdown;

use crate::Config;
use crate::context::{Context, now_ms};
use crate::supervisor::Supervisor;

/// Runs a monitor until `shutdown`. etcd may be down at the start and go away at any time.
///
/// # Errors
/// None at present; what fails is retried.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::info!(id = %config.id, endpoints = ?config.etcd.endpoints, prefix = %config.prefix, "monitor");
    let kv: Arc<dyn Kv> = Arc::new(EtcdKv::new(config.etcd.clone()));
    run_on(kv, &config, &shutdown).await;
    Ok(())
}

/// The same on a given store.
pub(crate) async fn run_on(kv: Arc<dyn Kv>, config: &Config, shutdown: &Shutdown) {
    let store = Store::new(kv, config.prefix.clone());
    let scopes =
        vec![Scope::Dns, Scope::Cns, Scope::Legs, Scope::DaTombstones, Scope::Statuses, Scope::Monitors];
    let cache = WatchCache::start(&store, scopes, shutdown.token());
    let member = MembershipConfig {
        id: config.id,
        host: hostname(),
        ttl_s: config.member_ttl_s,
        started_ms: now_ms(),
    };
    let membership = Membership::join(store.clone(), member, shutdown.token());
    let context = Context {
        store,
        cache,
        inboxes: Arc::default(),
        node_timeout: config.node_timeout,
        cancelled: shutdown.token(),
    };
    Supervisor::new(context, config.id).run().await;
    membership.left().await;
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
