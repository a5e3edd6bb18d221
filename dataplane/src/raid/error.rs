//! Errors of raids.

use crate::bdev::BdevError;

/// Why an operation on a raid was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaidError {
    #[error("raid {name} does not exist")]
    NotFound { name: String },
    #[error("raid {name} exists")]
    Exists { name: String },
    #[error("{field} {value} is not valid: {allowed}")]
    Invalid { field: &'static str, value: String, allowed: &'static str },
    #[error("raid {name} has no empty slot")]
    Full { name: String },
    /// One rebuild at a time.
    #[error("raid {name} is being rebuilt")]
    Rebuilding { name: String },
    #[error(transparent)]
    Bdev(#[from] BdevError),
}

impl RaidError {
    /// The positive errno of SPDK's vocabulary.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound { .. } => libc::ENODEV,
            Self::Exists { .. } => libc::EEXIST,
            Self::Invalid { .. } | Self::Full { .. } => libc::EINVAL,
            Self::Rebuilding { .. } => libc::EPERM,
            Self::Bdev(e) => e.errno(),
        }
    }
}
