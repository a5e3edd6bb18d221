//! Arguments, and the configuration they make.

use std::net::SocketAddr;

use clap::Parser;
use vda_model::keys::Prefix;
use vda_telemetry::LogArgs;

/// The API server of VDA: gRPC service vda.v1.Portal, with health and reflection services.
///
/// It is stateless; run as many as you like on the same etcd. It starts without etcd too: calls answer UNAVAILABLE, and health says
/// NOT_SERVING, until etcd answers.
#[derive(Debug, Clone, Parser)]
#[command(name = "vda_portal", version)]
pub struct Config {
    /// Address to serve on. Anybody who can connect can create and delete everything: there is no authentication
    #[arg(long, env = "VDA_PORTAL_ADDRESS", default_value = "127.0.0.1:9520", value_name = "IP:PORT")]
    pub portal_address: SocketAddr,

    /// Client endpoints of etcd, separated by commas. All members of one etcd cluster: with one of them down the others are used
    #[arg(long, env = "VDA_ETCD_ENDPOINTS", default_value = "localhost:2379", value_name = "HOST:PORT,…")]
    pub etcd_endpoints: String,

    /// Root of all keys in etcd. Portals and monitors of one VDA cluster share it; another prefix is another cluster, and nodes
    /// must not be part of two
    #[arg(long, env = "VDA_PREFIX", default_value = "/vda", value_name = "PATH")]
    pub prefix: Prefix,

    #[command(flatten)]
    pub log: LogArgs,
}
