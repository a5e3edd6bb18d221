//! Why a host cannot connect, and how commands fail.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use vda_nvme::controller::QueueError;
use vda_nvme::status::Status;

/// A connection to a controller could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("{address} cannot be reached")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// A step took too long.
    #[error("{address}: no answer to {step} within {after:?}")]
    Timeout { address: SocketAddr, step: &'static str, after: Duration },
    /// The subsystem does not allow this host, or not at this address (status 1/84h).
    #[error("{address}: host NQN {hostnqn} is not allowed on subsystem {subnqn}")]
    HostNotAllowed { address: SocketAddr, hostnqn: String, subnqn: String },
    /// The target does not know the subsystem.
    #[error("{address}: there is no subsystem {subnqn}")]
    NoSubsystem { address: SocketAddr, subnqn: String },
    /// The controller refused a command of the connection's set-up.
    #[error("{address}: {step} failed: {status}")]
    Refused { address: SocketAddr, step: &'static str, status: Status },
    /// The peer does not speak NVMe/TCP as it should.
    #[error("{address}: {source}")]
    Protocol {
        address: SocketAddr,
        #[source]
        source: QueueError,
    },
    /// The connection broke during set-up.
    #[error("{address}: connection lost during {step}")]
    Lost { address: SocketAddr, step: &'static str },
}

impl ConnectError {
    /// The namespaces of a controller could not be read.
    pub(super) fn identifying(address: SocketAddr, error: CommandError) -> Self {
        let step = "identifying namespaces";
        match error {
            CommandError::Status(status) => Self::Refused { address, step, status },
            CommandError::Lost | CommandError::Short { .. } => Self::Lost { address, step },
        }
    }

    /// Whether trying again, with nothing else changed, cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::HostNotAllowed { .. } | Self::NoSubsystem { .. })
    }
}

/// An admin command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The connection broke before the answer.
    #[error("connection lost")]
    Lost,
    /// The controller's status.
    #[error("{0}")]
    Status(Status),
    /// Fewer bytes than asked for.
    #[error("the answer has {received} of {wanted} bytes")]
    Short { received: usize, wanted: usize },
}
