//! Command line and environment.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use vda_model::ids::MonitorId;
use vda_model::keys::Prefix;
use vda_store::EtcdConfig;
use vda_telemetry::LogArgs;

/// Drives the nodes of a VDA cluster: tells their agents what is wanted, records what they report, finishes deletions.
///
/// Stateless: all it knows is in etcd. Any number may run; they share the nodes among themselves, and when one dies the others take over its
/// nodes after --member-ttl. Without any, volumes keep serving, but nothing new becomes usable and no deletion completes.
#[derive(Clone, Debug, Parser)]
#[command(name = "vda_monitor", version)]
pub struct Args {
    /// etcd members, `host:port`, separated by commas. While none answers, agents keep what they have; the monitor comes back by itself
    #[arg(long, env = "VDA_ETCD_ENDPOINTS", default_value = "localhost:2379")]
    pub etcd_endpoints: String,

    /// Root of all keys of the cluster, the same for its portals and monitors. Another prefix is another cluster
    #[arg(long, env = "VDA_PREFIX", default_value = "/vda")]
    pub prefix: String,

    /// Id of this monitor, 16 hex digits; random if absent. Two running with the same id take each other's place: both drive the same nodes,
    /// which is harmless but useless
    #[arg(long, env = "VDA_MONITOR_ID")]
    pub monitor_id: Option<String>,

    /// Seconds after which a monitor that was not heard of is taken for dead and its nodes are driven by others. Shorter: faster
    /// take-over, more keep-alive traffic, and hand-overs when etcd is slow
    #[arg(long, env = "VDA_MEMBER_TTL", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=60))]
    pub member_ttl: u64,

    /// Milliseconds of silence after which a node is reported unreachable. Agents are heard at least every second; a shorter time than
    /// that reports healthy nodes as lost
    #[arg(long, env = "VDA_NODE_TIMEOUT_MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1500..=60_000))]
    pub node_timeout_ms: u64,

    #[command(flatten)]
    pub log: LogArgs,
}

/// The validated arguments.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach etcd.
    pub etcd: EtcdConfig,
    /// Root of all keys.
    pub prefix: Prefix,
    /// Id of this monitor.
    pub id: MonitorId,
    /// Seconds of its lease.
    pub member_ttl_s: u64,
    /// Silence after which a node is unreachable.
    pub node_timeout: Duration,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let etcd = EtcdConfig::new(&args.etcd_endpoints);
        if etcd.endpoints.is_empty() {
            bail!("--etcd-endpoints {:?}: at least one host:port is needed", args.etcd_endpoints);
        }
        let prefix = Prefix::new(&args.prefix).context("--prefix")?;
        let id = match &args.monitor_id {
            Some(text) => text.parse().with_context(|| format!("--monitor-id {text:?}"))?,
            None => MonitorId::new(rand::random()),
        };
        let node_timeout = Duration::from_millis(args.node_timeout_ms);
        Ok(Self { etcd, prefix, id, member_ttl_s: args.member_ttl, node_timeout })
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
