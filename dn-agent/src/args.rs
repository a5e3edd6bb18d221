//! Command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use vda_reconcile::settings;
use vda_spdk::{ListenAddress, NvmfCreateTransport};
use vda_telemetry::LogArgs;

/// Agent of a disk node: makes the node's data plane export the virtual disks that the monitors ask for.
///
/// It talks to one data plane (spdk_tgt or vda_dataplane, started with --wait-for-rpc) over its JSON-RPC socket and is called by monitors
/// over gRPC. It keeps no desired state of its own, only a small ledger that must survive restarts.
#[derive(Debug, Clone, Parser)]
#[command(name = "vda_dn_agent", version)]
pub struct Args {
    /// Where monitors reach this agent. The DN is registered under this address: changing it means registering another DN
    #[arg(long, env = "VDA_DN_AGENT_ADDRESS", default_value = "127.0.0.1:9720", value_name = "HOST:PORT")]
    pub address: String,

    /// JSON-RPC socket of the data plane: a path, or host:port. While nobody answers there, nothing changes on the node and monitors
    /// see the data plane as failed
    #[arg(long, env = "VDA_DN_AGENT_SOCK_PATH", default_value = "dn.sock", value_name = "PATH")]
    pub sock_path: String,

    /// Time the data plane gets for one call. Too short: a busy data plane is suspected of being dead and its components are reported as
    /// unknown; too long: a hung one is noticed late
    #[arg(long, env = "VDA_DN_AGENT_SOCK_TIMEOUT", default_value = "10", value_parser = settings::duration, value_name = "SECONDS")]
    pub sock_timeout: Duration,

    /// Where this node's virtual disks are exported. Must be what the DN was registered with: on a mismatch nothing is exported, and both
    /// values are reported
    #[arg(
        long,
        env = "VDA_DN_AGENT_LIS_CONF",
        default_value = r#"{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}"#,
        value_parser = settings::listener,
        value_name = "JSON"
    )]
    pub lis_conf: ListenAddress,

    /// Parameters of nvmf_create_transport, used when the data plane has started anew. A change takes effect with its next restart
    #[arg(long, env = "VDA_DN_AGENT_TR_CONF", default_value = r#"{"trtype":"TCP"}"#, value_parser = settings::transport, value_name = "JSON")]
    pub tr_conf: NvmfCreateTransport,

    /// Directory of the ledger (highest accepted generation, what was initialised) [default: <SOCK_PATH>.agent]. Losing it while the node
    /// holds data removes one of the two guards against formatting initialised disks and against obeying an outdated monitor
    #[arg(long, env = "VDA_DN_AGENT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Everything is looked at again after this time: foreign changes and leftovers are found. Costs three listings of the data plane
    #[arg(long, env = "VDA_DN_AGENT_RESYNC_INTERVAL", default_value = "10", value_parser = settings::duration, value_name = "SECONDS")]
    pub resync_interval: Duration,

    /// File with the boot id of the node: a UUID that is another one after every start. Tests play a loss of power with it
    #[arg(
        long,
        env = "VDA_DN_AGENT_BOOT_ID_PATH",
        default_value = "/proc/sys/kernel/random/boot_id",
        value_name = "FILE",
        hide = true
    )]
    pub boot_id_path: PathBuf,

    #[command(flatten)]
    pub log: LogArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_command_line_is_understood() {
        let args = Args::try_parse_from([
            "vda_dn_agent",
            "--address",
            "127.0.0.1:9720",
            "--sock-path",
            "dn.sock",
            "--sock-timeout",
            "10",
            "--lis-conf",
            r#"{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}"#,
            "--tr-conf",
            r#"{"trtype":"TCP"}"#,
        ])
        .unwrap();
        let defaults = Args::try_parse_from(["vda_dn_agent"]).unwrap();
        assert_eq!(format!("{args:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn nonsense_is_refused_with_the_flag_named() {
        let error = Args::try_parse_from(["vda_dn_agent", "--lis-conf", "{}"]).unwrap_err().to_string();
        assert!(error.contains("--lis-conf") && error.contains("trtype"), "{error}");
    }
}
