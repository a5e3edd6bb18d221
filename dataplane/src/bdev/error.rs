//! Errors of I/O and of administration, with the codes by which NVMe and SPDK's JSON-RPC know them.

/// Why an I/O failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// Blocks beyond the end, or a length that is not a whole number of blocks.
    #[error("range is outside of the device or not a whole number of blocks")]
    InvalidRange,
    #[error("operation is not supported by the device")]
    Unsupported,
    /// A thin device could not allocate.
    #[error("no space left")]
    NoSpace,
    #[error("data differs")]
    Miscompare,
    #[error("device is read-only")]
    WriteProtected,
    /// The device is being removed or is gone.
    #[error("device was removed")]
    Removed,
    #[error("aborted")]
    Aborted,
    /// All paths to a remote device are down.
    #[error("no usable path to the device")]
    NoPath,
    /// Metadata on the medium contradicts itself.
    #[error("metadata is corrupt: {0}")]
    Corrupt(&'static str),
    /// What the operating system answered to a file operation.
    #[error("i/o error: {}", std::io::Error::from_raw_os_error(*errno))]
    Os { errno: i32 },
    /// Status of a remote NVMe command, passed on as it came (NVMe Base Specification 2.0, figure 90 on).
    #[error("nvme status sct {sct:#x} sc {sc:#x} dnr {dnr}")]
    Nvme { sct: u8, sc: u8, dnr: bool },
}

impl IoError {
    /// Status code type and status code for a completion queue entry (NVMe Base Specification 2.0, 3.3.3.2).
    pub fn nvme_status(self) -> (u8, u8) {
        match self {
            Self::InvalidRange => (0, 0x80),
            Self::Unsupported => (0, 0x01),
            Self::NoSpace => (0, 0x81),
            Self::WriteProtected => (0, 0x20),
            Self::Aborted => (0, 0x07),
            Self::Removed | Self::Corrupt(_) | Self::Os { .. } => (0, 0x06),
            Self::Miscompare => (2, 0x85),
            Self::NoPath => (3, 0x00),
            Self::Nvme { sct, sc, .. } => (sct, sc),
        }
    }

    /// Whether repeating the same command can not help ("do not retry").
    pub fn do_not_retry(self) -> bool {
        match self {
            Self::InvalidRange | Self::Unsupported | Self::Miscompare | Self::WriteProtected => true,
            Self::Nvme { dnr, .. } => dnr,
            Self::NoSpace
            | Self::Removed
            | Self::Aborted
            | Self::NoPath
            | Self::Corrupt(_)
            | Self::Os { .. } => false,
        }
    }

    /// Whether the request was at fault and not the device: a mirror must not drop a member for it.
    pub fn is_request_error(self) -> bool {
        matches!(self, Self::InvalidRange | Self::Miscompare | Self::Unsupported)
    }

    /// The errno with which an administrative method reports it.
    pub fn errno(self) -> i32 {
        match self {
            Self::InvalidRange => libc::EINVAL,
            Self::Unsupported => libc::ENOTSUP,
            Self::NoSpace => libc::ENOSPC,
            Self::Miscompare | Self::Corrupt(_) => libc::EILSEQ,
            Self::WriteProtected => libc::EROFS,
            Self::Removed => libc::ENODEV,
            Self::Aborted => libc::ECANCELED,
            Self::NoPath => libc::ENXIO,
            Self::Nvme { .. } => libc::EIO,
            Self::Os { errno } => errno,
        }
    }
}

impl From<rustix::io::Errno> for IoError {
    fn from(e: rustix::io::Errno) -> Self {
        match e {
            rustix::io::Errno::NOSPC => Self::NoSpace,
            e => Self::Os { errno: e.raw_os_error() },
        }
    }
}

impl From<std::io::Error> for IoError {
    fn from(e: std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::ENOSPC) => Self::NoSpace,
            Some(errno) => Self::Os { errno },
            None => Self::Os { errno: libc::EIO },
        }
    }
}

/// Why an administrative operation on bdevs was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BdevError {
    /// A bdev or an alias of that name is there (-17).
    #[error("bdev name {name} is already in use")]
    Exists { name: String },
    /// No bdev has that name or alias, or it belongs to another module (-19).
    #[error("bdev {name} does not exist")]
    NotFound { name: String },
    /// Somebody holds it (-16).
    #[error("bdev {name} is in use: {by}")]
    Busy { name: String, by: String },
    /// A module has claimed it (-1).
    #[error("bdev {name} is claimed by module {by}")]
    Claimed { name: String, by: String },
    /// A parameter is not acceptable (-22).
    #[error("{field} {value} is not valid: {allowed}")]
    Invalid { field: &'static str, value: String, allowed: &'static str },
    /// The device answered an I/O with an error (its errno).
    #[error("i/o on bdev {name} failed")]
    Io { name: String, source: IoError },
    /// Opening or examining a file failed (its errno).
    #[error("file {path}: {}", std::io::Error::from_raw_os_error(*errno))]
    File { path: String, errno: i32 },
}

impl BdevError {
    /// The positive errno that SPDK's methods answer (negated) for this.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Exists { .. } => libc::EEXIST,
            Self::NotFound { .. } => libc::ENODEV,
            Self::Busy { .. } => libc::EBUSY,
            Self::Claimed { .. } => libc::EPERM,
            Self::Invalid { .. } => libc::EINVAL,
            Self::Io { source, .. } => source.errno(),
            Self::File { errno, .. } => *errno,
        }
    }
}
