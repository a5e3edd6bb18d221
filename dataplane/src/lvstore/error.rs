//! Errors of lvstores and lvols.

use crate::bdev::{BdevError, IoError};

/// Why an operation on an lvstore or an lvol was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LvolError {
    #[error("lvstore {name} does not exist")]
    StoreNotFound { name: String },
    #[error("lvol {name} does not exist")]
    VolumeNotFound { name: String },
    #[error("{what} {name} exists")]
    Exists { what: &'static str, name: String },
    #[error("{field} {value} is not valid: {allowed}")]
    Invalid { field: &'static str, value: String, allowed: &'static str },
    #[error("not enough free clusters, or no room for more metadata")]
    NoSpace,
    #[error("the device has more clusters than an lvstore can describe: use a bigger cluster_sz")]
    TooManyClusters,
    /// A shrink of an lvol that somebody has open, or something long is under way on it.
    #[error("lvol {name} is in use")]
    Busy { name: String },
    #[error("lvol {name} is read-only")]
    ReadOnly { name: String },
    /// A snapshot with several clones can not be deleted.
    #[error("{name} has more than one clone")]
    HasClones { name: String },
    /// What SPDK answers in words.
    #[error("{0}")]
    Refused(&'static str),
    #[error(transparent)]
    Bdev(#[from] BdevError),
    /// Metadata could not be read or written.
    #[error("metadata i/o failed")]
    Io(#[from] IoError),
    /// What is on the disk is not an lvstore this version can use.
    #[error("lvstore is damaged or of a newer version: {0}")]
    Format(&'static str),
}

impl LvolError {
    /// The positive errno of SPDK's vocabulary.
    pub fn errno(&self) -> i32 {
        match self {
            Self::StoreNotFound { .. } | Self::VolumeNotFound { .. } => libc::ENODEV,
            Self::Exists { .. } => libc::EEXIST,
            Self::Invalid { .. } | Self::TooManyClusters => libc::EINVAL,
            Self::NoSpace => libc::ENOSPC,
            Self::Busy { .. } => libc::EBUSY,
            Self::ReadOnly { .. } | Self::HasClones { .. } => libc::EPERM,
            Self::Refused(_) => libc::EINVAL,
            Self::Bdev(e) => e.errno(),
            Self::Io(e) => e.errno(),
            Self::Format(_) => libc::EILSEQ,
        }
    }
}
