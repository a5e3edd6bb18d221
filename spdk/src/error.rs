//! What can go wrong with a call, and what it means.

use std::io;
use std::time::Duration;

use crate::Errno;

/// Codes of JSON-RPC as SPDK uses them.
pub mod code {
    /// `SPDK_JSONRPC_ERROR_INVALID_STATE`: before or after `framework_start_init` only. Equal to `-EPERM`.
    pub const INVALID_STATE: i64 = -1;
    /// Malformed JSON; `bdev_raid_*` also answers it for bad parameters.
    pub const PARSE_ERROR: i64 = -32700;
    /// Not a JSON-RPC request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The target does not have the method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// Bad parameters of `nvmf_*`, and many refusals of `bdev_lvol_*`.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Bad parameters of most bdev methods, and some failures of `nvmf_*`.
    pub const INTERNAL_ERROR: i64 = -32603;
}

/// A word outside a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {word:?}, allowed: {}", allowed.join(", "))]
pub struct UnknownWord {
    pub word: String,
    pub allowed: &'static [&'static str],
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke before the answer. Whether the call was executed is unknown.
    #[error("{method}: no connection to the target at {endpoint}")]
    Transport {
        method: &'static str,
        endpoint: String,
        #[source]
        source: io::Error,
    },
    /// No answer in time. The target may still execute the call; a slow target is not a dead one.
    #[error("{method}: no answer from the target within {after:?}")]
    Timeout { method: &'static str, after: Duration },
    /// The answer has not the shape of the method's reply.
    #[error("{method}: the target's answer cannot be decoded")]
    Decode {
        method: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The target refused.
    #[error("{method}: {message} (code {code})")]
    Rpc {
        method: &'static str,
        code: i64,
        /// From the code, or from the message where the module hides it (lvol answers -32602 "File exists").
        errno: Option<Errno>,
        message: String,
    },
}

impl Error {
    /// The refusal of `method` with `code` and `message` as received.
    pub fn rpc(method: &'static str, code: i64, message: impl Into<String>) -> Self {
        let message = message.into();
        let errno = errno_of(code, &message);
        Self::Rpc { method, code, errno, message }
    }

    /// The method that failed.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Transport { method, .. }
            | Self::Timeout { method, .. }
            | Self::Decode { method, .. }
            | Self::Rpc { method, .. } => method,
        }
    }

    /// The target's code, when it answered.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Rpc { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The errno behind the target's answer, when it can be told.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Rpc { errno, .. } => *errno,
            _ => None,
        }
    }

    /// What the call would create is there already.
    pub fn is_exists(&self) -> bool {
        let Self::Rpc { code, errno, message, .. } = self else { return false };
        matches!(*errno, Some(Errno::EEXIST | Errno::EALREADY))
            || (is_protocol(*code) && message.ends_with("already exists"))
    }

    /// What the call is about is not there. Not for an unknown method: see [`Self::is_unknown_method`].
    pub fn is_not_found(&self) -> bool {
        let Self::Rpc { code, errno, message, .. } = self else { return false };
        *code != code::METHOD_NOT_FOUND
            && (matches!(*errno, Some(Errno::ENODEV | Errno::ENOENT | Errno::ENXIO))
                || message.ends_with("not found")
                || message.ends_with("does not exist"))
    }

    /// Something else uses it (a claim, an open descriptor).
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(Errno::EBUSY)
    }

    /// No room for what was asked.
    pub fn is_no_space(&self) -> bool {
        self.errno() == Some(Errno::ENOSPC)
    }

    /// The target does not know the method.
    pub fn is_unknown_method(&self) -> bool {
        self.code() == Some(code::METHOD_NOT_FOUND)
    }

    /// The method is not allowed before (or after) `framework_start_init`.
    pub fn is_invalid_state(&self) -> bool {
        matches!(self, Self::Rpc { code: code::INVALID_STATE, message, .. } if message.starts_with("Method may only be called"))
    }

    /// The target answered, whatever it said: it is alive.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Rpc { .. } | Self::Decode { .. })
    }

    /// Whether the same call may succeed later without anything else being changed.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } => true,
            Self::Decode { .. } => false,
            Self::Rpc { errno, message, .. } => {
                matches!(
                    *errno,
                    Some(
                        Errno::EAGAIN
                            | Errno::EBUSY
                            | Errno::EINTR
                            | Errno::EIO
                            | Errno::ENOMEM
                            | Errno::ETIMEDOUT
                            | Errno::ECONNREFUSED
                            | Errno::ECONNRESET
                            | Errno::EHOSTUNREACH
                    )
                ) || message.starts_with("Timeout reached")
            }
        }
    }
}

/// Codes of the protocol, behind which the errno is hidden.
fn is_protocol(code: i64) -> bool {
    (-32768..=-32000).contains(&code)
}

fn errno_of(code: i64, message: &str) -> Option<Errno> {
    if is_protocol(code) {
        // "File exists", or "Failed to configure rate limit: Resource temporarily unavailable".
        let tail = message.rsplit_once(": ").map_or(message, |(_, tail)| tail);
        return Errno::from_message(tail);
    }
    i32::try_from(-code).ok().filter(|e| (1..4096).contains(e)).map(Errno)
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
