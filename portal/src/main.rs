//! `vda_portal`.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use vda_portal::{Config, Portal, serve};
use vda_store::{EtcdConfig, EtcdKv, Store};

fn main() -> ExitCode {
    let config = Config::parse();
    let log = config.log.clone();
    vda_telemetry::run("portal", &log, |shutdown| async move {
        let listener = tokio::net::TcpListener::bind(config.portal_address)
            .await
            .with_context(|| format!("cannot listen on --portal-address {}", config.portal_address))?;
        let kv = EtcdKv::new(EtcdConfig::new(&config.etcd_endpoints));
        let store = Store::new(Arc::new(kv), config.prefix.clone());
        tracing::info!(address = %config.portal_address, etcd = config.etcd_endpoints, prefix = %config.prefix, "serving");
        let portal = Portal::start(store, &shutdown);
        serve(portal, listener, shutdown).await.context("the gRPC server ended")
    })
}
