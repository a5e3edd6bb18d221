//! What can go wrong between us and etcd, classified by what the caller may do about it.

use std::error::Error as StdError;

/// An operation on the key-value store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Not reached, or it could not serve: nothing was applied. Safe to try again.
    #[error("etcd is unavailable: {detail}")]
    Unavailable {
        /// What the connection or the server said.
        detail: String,
    },
    /// A write was sent and its answer lost: it may or may not have been applied, or may still be.
    #[error("the outcome of a write is unknown, its answer was lost: {detail}")]
    Ambiguous {
        /// What the connection or the server said.
        detail: String,
    },
    /// The requested revision is no longer kept.
    #[error("revision {requested} is compacted, the oldest one kept is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// What is still there; 0 if the server did not say.
        oldest: u64,
    },
    /// The transaction exceeds a limit of etcd.
    #[error("transaction is too large: {detail}")]
    TooLarge {
        /// Which limit, and by how much.
        detail: String,
    },
    /// etcd's quota is used up: it refuses writes until somebody compacts, defragments and disarms the alarm.
    #[error("etcd has no space left: {detail}")]
    NoSpace {
        /// What the server said.
        detail: String,
    },
    /// The lease has expired or was revoked.
    #[error("lease {lease:x} does not exist any more")]
    LeaseGone {
        /// Its id.
        lease: i64,
    },
    /// A record cannot be decoded.
    #[error("record {key} cannot be read: {detail}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A name index entry belongs to another record; the closure should have looked.
    #[error("index {key} already belongs to {holder:?}")]
    IndexTaken {
        /// Key of the index entry.
        key: String,
        /// Id of the record it belongs to.
        holder: String,
    },
    /// Refused for a reason that trying again does not change: a bug, missing permissions, a wrong endpoint.
    #[error("etcd refused the request: {detail}")]
    Invalid {
        /// What the server said.
        detail: String,
    },
}

impl KvError {
    /// Whether the same call may succeed later and is safe to repeat as it is.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// A short stable name, for metrics and error details.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "KV_UNAVAILABLE",
            Self::Ambiguous { .. } => "KV_AMBIGUOUS",
            Self::Compacted { .. } => "KV_COMPACTED",
            Self::TooLarge { .. } => "KV_TOO_LARGE",
            Self::NoSpace { .. } => "KV_NO_SPACE",
            Self::LeaseGone { .. } => "KV_LEASE_GONE",
            Self::Corrupt { .. } => "KV_CORRUPT",
            Self::IndexTaken { .. } => "KV_INDEX_TAKEN",
            Self::Invalid { .. } => "KV_INVALID",
        }
    }
}

/// Why the closure of a transaction gave up: its own reason, or the store's.
#[derive(Debug)]
pub enum Abort<E> {
    /// The request is refused; see [`OrAbort::or_abort`].
    Domain(E),
    /// A read failed. `?` on a [`crate::Tx`] read makes it.
    Kv(KvError),
}

impl<E> From<KvError> for Abort<E> {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

/// `model::da::create(…).or_abort()?` inside the closure of a transaction.
pub trait OrAbort<T, E> {
    /// Turns a domain error into [`Abort::Domain`].
    ///
    /// # Errors
    /// The domain error, wrapped.
    fn or_abort(self) -> Result<T, Abort<E>>;
}

impl<T, E> OrAbort<T, E> for Result<T, E> {
    fn or_abort(self) -> Result<T, Abort<E>> {
        self.map_err(Abort::Domain)
    }
}

/// A transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub enum StmError<E: StdError + 'static> {
    /// The closure refused, on data verified to be current.
    #[error(transparent)]
    Domain(E),
    /// Others kept changing what it read.
    #[error("gave up after {attempts} conflicts with concurrent changes")]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// It was not applied.
    #[error(transparent)]
    Kv(KvError),
    /// Whether it was applied could not be found out: etcd went away and stayed away, or everything it wrote was overwritten since.
    #[error("whether the change was made is not known: {detail}")]
    Ambiguous {
        /// What was tried.
        detail: String,
    },
}

impl<E: StdError + 'static> StmError<E> {
    /// Whether trying again may succeed and cannot apply anything twice.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Domain(_) | Self::Ambiguous { .. } => false,
            Self::Conflict { .. } => true,
            Self::Kv(error) => error.retryable(),
        }
    }

    pub(crate) fn from_kv(error: KvError) -> Self {
        match error {
            KvError::Ambiguous { detail } => Self::Ambiguous { detail },
            other => Self::Kv(other),
        }
    }
}
