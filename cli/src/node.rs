//! What disk nodes and controller nodes have in common on the command line.

use std::net::SocketAddr;

use clap::Args;
use vda_proto::v1::NvmfListener;

use crate::failure::Failure;

/// The node's name: the address of its agent.
#[derive(Debug, Args)]
pub(crate) struct NodeAddress {
    /// Address of the node's agent, HOST:PORT, as given at its creation
    #[arg(value_name = "ADDRESS", required_unless_present = "sock_addr")]
    address: Option<String>,
    #[arg(long, hide = true, value_name = "ADDRESS", conflicts_with = "address")]
    sock_addr: Option<String>,
}

impl NodeAddress {
    pub(crate) fn take(self) -> String {
        self.address.or(self.sock_addr).unwrap_or_default()
    }
}

/// Where the node's target listens for NVMe/TCP.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Where the node's target serves NVMe/TCP, IP:PORT (IPv6 in brackets); other nodes and hosts connect there
    #[arg(long, value_name = "IP:PORT", required_unless_present = "tr_addr")]
    listen: Option<SocketAddr>,
    #[arg(long, hide = true, value_name = "TYPE", default_value = "tcp", conflicts_with = "listen")]
    tr_type: String,
    #[arg(long, hide = true, value_name = "IP", requires = "tr_svc_id", conflicts_with = "listen")]
    tr_addr: Option<String>,
    #[arg(long, hide = true, value_name = "FAMILY", default_value = "ipv4", conflicts_with = "listen")]
    adr_fam: String,
    #[arg(long, hide = true, value_name = "PORT", conflicts_with = "listen")]
    tr_svc_id: Option<String>,
}

impl Listen {
    pub(crate) fn listener(self) -> Result<NvmfListener, Failure> {
        if let Some(address) = self.listen {
            if address.ip().is_unspecified() || address.port() == 0 {
                return Err(Failure::usage(format!(
                    "--listen {address}: others connect to this address, so it must be one address and port of the node"
                )));
            }
            return Ok(NvmfListener {
                trtype: "tcp".into(),
                adrfam: if address.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
                traddr: address.ip().to_string(),
                trsvcid: address.port().to_string(),
            });
        }
        Ok(NvmfListener {
            trtype: self.tr_type,
            adrfam: self.adr_fam,
            traddr: self.tr_addr.unwrap_or_default(),
            trsvcid: self.tr_svc_id.unwrap_or_default(),
        })
    }
}
