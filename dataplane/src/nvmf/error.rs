//! Why the target refuses an administrative call. `Display` is what SPDK answers, `reason` says more for the log.

/// A refusal. [`TargetError::code`] is the JSON-RPC code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The target has no such subsystem.
    #[error("Subsystem with NQN '{nqn}' not found")]
    NoSubsystem { nqn: String },
    /// The NQN is taken or malformed.
    #[error("Unable to create subsystem {nqn}")]
    CannotCreate { nqn: String, reason: &'static str },
    /// Not `1 <= min <= max <= 65519`.
    #[error("Invalid cntlid range [{min}-{max}]")]
    CntlidRange { min: u16, max: u16 },
    /// A parameter is not acceptable.
    #[error("Invalid parameters")]
    Invalid { field: &'static str, value: String, reason: String },
    /// The NGUID is not 32 hexadecimal digits, or the EUI64 not 16.
    #[error("Invalid {field}")]
    InvalidId { field: &'static str, value: String },
    /// The call contradicts the state of the subsystem.
    #[error("Internal error")]
    Internal { reason: String },
    /// The listener does not exist, or has no such group.
    #[error("error setting ANA state: -22")]
    AnaState { reason: String },
    /// The transport exists.
    #[error("Transport type '{trtype}' already exists")]
    TransportExists { trtype: String },
    /// Only TCP is served.
    #[error("Invalid transport type '{trtype}'")]
    TransportType { trtype: String },
    /// Connections of the host, or I/O they began, were still there when the time was over.
    #[error("Timeout reached during host removal")]
    RemovalTimeout { nqn: String, host: String },
    /// A referral by TCP or RDMA without service id.
    #[error("Service ID is required.")]
    NoService,
    /// The referral does not exist.
    #[error("Unable to remove a referral.")]
    NoReferral,
}

impl TargetError {
    /// Code of the JSON-RPC answer.
    pub fn code(&self) -> i64 {
        use vda_spdk::code::{INTERNAL_ERROR, INVALID_PARAMS};
        match self {
            Self::NoSubsystem { .. }
            | Self::CntlidRange { .. }
            | Self::Invalid { .. }
            | Self::InvalidId { .. }
            | Self::TransportType { .. } => INVALID_PARAMS,
            Self::CannotCreate { .. }
            | Self::Internal { .. }
            | Self::AnaState { .. }
            | Self::TransportExists { .. }
            | Self::NoService
            | Self::NoReferral
            | Self::RemovalTimeout { .. } => INTERNAL_ERROR,
        }
    }

    pub(super) fn invalid(field: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Invalid { field, value: value.to_string(), reason: reason.into() }
    }
}
