//! The lease under which answers to requests are remembered. One for many: granting one costs a write of etcd.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use vda_model::defaults::REQUEST_TTL_SECS;
use vda_store::{KvError, LeaseId, Store};

/// A lease is used for so long, and lives so much longer than an answer is promised to be remembered.
const USED_FOR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(crate) struct Leases {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl Leases {
    /// A lease that lives for at least 24 hours.
    pub(crate) async fn get(&self, store: &Store) -> Result<LeaseId, KvError> {
        let known = *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((lease, since)) = known
            && since.elapsed() < USED_FOR
        {
            return Ok(lease);
        }
        let ttl = u64::try_from(REQUEST_TTL_SECS).unwrap_or_default() + USED_FOR.as_secs();
        let since = Instant::now();
        let lease = store.grant(ttl).await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((lease, since));
        Ok(lease)
    }

    /// etcd does not know the lease any more: it was restored, or the lease revoked.
    pub(crate) fn forget(&self, lost: LeaseId) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_some_and(|(lease, _)| lease == lost) {
            *current = None;
        }
    }
}
