//! Options of the TCP transport (`nvmf_create_transport`) and transport addresses.

use std::net::{IpAddr, SocketAddr};

use vda_nvme::codec::Limits;
use vda_nvme::controller::ControllerConfig;
use vda_spdk::{ListenAddress, NvmfCreateTransport, NvmfTransport, Trid};

use super::TargetError;

/// Options of the TCP transport, with SPDK's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportOptions {
    /// Entries of an I/O queue.
    pub max_queue_depth: u16,
    /// I/O queues of a controller.
    pub max_io_qpairs: u16,
    /// In-capsule data of I/O commands, bytes.
    pub in_capsule_data_size: u32,
    /// Largest data of a command, bytes: a power of two times 4 KiB.
    pub max_io_size: u32,
    /// Entries of the admin queue.
    pub max_aq_depth: u16,
    /// Send data and success in one PDU.
    pub c2h_success: bool,
    /// Connections that wait to be accepted.
    pub acceptor_backlog: i32,
    /// Keep-alive granularity, 100 ms.
    pub kas: u16,
    /// Shortest keep-alive time, milliseconds.
    pub min_kato: u32,
    /// As given; reported, otherwise unused.
    pub sock_priority: u32,
    /// As given; reported, otherwise unused.
    pub abort_timeout_sec: u32,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            max_queue_depth: 128,
            max_io_qpairs: 127,
            in_capsule_data_size: 4096,
            max_io_size: 128 << 10,
            max_aq_depth: 128,
            c2h_success: true,
            acceptor_backlog: 100,
            kas: 100,
            min_kato: 10_000,
            sock_priority: 0,
            abort_timeout_sec: 1,
        }
    }
}

impl TransportOptions {
    /// From the parameters of `nvmf_create_transport`.
    ///
    /// # Errors
    /// The parameter that is out of range.
    pub fn from_call(c: &NvmfCreateTransport) -> Result<Self, TargetError> {
        check_type(&c.trtype)?;
        let d = Self::default();
        let options = Self {
            max_queue_depth: c.max_queue_depth.unwrap_or(d.max_queue_depth),
            max_io_qpairs: c.max_io_qpairs_per_ctrlr.unwrap_or(d.max_io_qpairs),
            in_capsule_data_size: c.in_capsule_data_size.unwrap_or(d.in_capsule_data_size),
            max_io_size: c.max_io_size.unwrap_or(d.max_io_size),
            max_aq_depth: c.max_aq_depth.map_or(Ok(d.max_aq_depth), |v| {
                u16::try_from(v).map_err(|_| TargetError::invalid("max_aq_depth", v, "at most 4096"))
            })?,
            c2h_success: c.c2h_success.unwrap_or(d.c2h_success),
            acceptor_backlog: c.acceptor_backlog.unwrap_or(d.acceptor_backlog),
            kas: c.kas.unwrap_or(d.kas),
            min_kato: c.min_kato.unwrap_or(d.min_kato),
            sock_priority: c.sock_priority.unwrap_or(d.sock_priority),
            abort_timeout_sec: c.abort_timeout_sec.unwrap_or(d.abort_timeout_sec),
        };
        options.check().map(|()| options)
    }

    fn check(&self) -> Result<(), TargetError> {
        let range = |field, value: u32, allowed: std::ops::RangeInclusive<u32>| {
            let reason = || format!("allowed: {} to {}", allowed.start(), allowed.end());
            if allowed.contains(&value) { Ok(()) } else { Err(TargetError::invalid(field, value, reason())) }
        };
        range("max_queue_depth", self.max_queue_depth.into(), 2..=4096)?;
        range("max_io_qpairs_per_ctrlr", self.max_io_qpairs.into(), 1..=1024)?;
        range("in_capsule_data_size", self.in_capsule_data_size, 0..=(1 << 20))?;
        range("max_io_size", self.max_io_size, 8192..=(16 << 20))?;
        range("max_aq_depth", self.max_aq_depth.into(), 32..=4096)?;
        if !self.max_io_size.is_power_of_two() {
            return Err(TargetError::invalid("max_io_size", self.max_io_size, "must be a power of two"));
        }
        if !self.in_capsule_data_size.is_multiple_of(16) {
            let v = self.in_capsule_data_size;
            return Err(TargetError::invalid("in_capsule_data_size", v, "must be a multiple of 16"));
        }
        Ok(())
    }

    /// What the queues of a connection offer and take.
    pub(super) fn queue_config(&self) -> ControllerConfig {
        ControllerConfig {
            limits: Limits {
                max_h2c_data: self.max_io_size,
                in_capsule_data: self.in_capsule_data_size,
                max_io_size: self.max_io_size,
                queue_depth: self.max_queue_depth.max(self.max_aq_depth),
                ..Limits::default()
            },
            c2h_success: self.c2h_success,
            r2t_budget: (2 << 20).max(self.max_io_size as usize),
            ..ControllerConfig::default()
        }
    }

    /// As `nvmf_get_transports` shows it.
    pub fn reply(&self) -> NvmfTransport {
        NvmfTransport {
            trtype: "TCP".into(),
            max_queue_depth: self.max_queue_depth.into(),
            max_io_qpairs_per_ctrlr: self.max_io_qpairs.into(),
            in_capsule_data_size: self.in_capsule_data_size,
            max_io_size: self.max_io_size,
            max_aq_depth: self.max_aq_depth.into(),
            io_unit_size: None,
            iobuf_small_cache_size: Some(u32::MAX),
            iobuf_large_cache_size: Some(u32::MAX),
            dif_insert_or_strip: Some(false),
            zcopy: Some(false),
            c2h_success: Some(self.c2h_success),
            sock_priority: Some(self.sock_priority),
            abort_timeout_sec: Some(self.abort_timeout_sec),
            ack_timeout: Some(0),
            data_wr_pool_size: Some(0),
            disable_command_passthru: Some(false),
            kas: Some(self.kas),
            min_kato: Some(self.min_kato),
        }
    }
}

fn check_type(trtype: &str) -> Result<(), TargetError> {
    if trtype.eq_ignore_ascii_case("tcp") {
        return Ok(());
    }
    Err(TargetError::TransportType { trtype: trtype.to_owned() })
}

/// The socket address of a listen address.
///
/// # Errors
/// [`TargetError::Invalid`] for another transport, a name instead of an address, or a missing or bad port.
pub fn socket_address(a: &ListenAddress) -> Result<SocketAddr, TargetError> {
    if !a.trtype.eq_ignore_ascii_case("tcp") {
        return Err(TargetError::invalid("trtype", &a.trtype, "only TCP is served"));
    }
    let ip: IpAddr =
        a.traddr.parse().map_err(|_| TargetError::invalid("traddr", &a.traddr, "must be an IP address"))?;
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    if let Some(f) = a.adrfam.as_ref().filter(|f| !f.eq_ignore_ascii_case(family)) {
        return Err(TargetError::invalid("adrfam", f, "does not fit traddr"));
    }
    let service = a.trsvcid.as_deref().unwrap_or("");
    match service.parse() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(TargetError::invalid("trsvcid", service, "must be a port from 1 to 65535")),
    }
}

/// A socket address as SPDK shows it.
pub(super) fn trid(address: SocketAddr) -> Trid {
    Trid {
        trtype: "TCP".into(),
        adrfam: Some(if address.is_ipv4() { "IPv4" } else { "IPv6" }.into()),
        traddr: Some(address.ip().to_string()),
        trsvcid: Some(address.port().to_string()),
        subnqn: None,
    }
}
