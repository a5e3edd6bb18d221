//! What all drivers of a monitor share.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use vda_store::{Store, WatchCache};

use crate::inbox::Inboxes;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) cache: WatchCache,
    pub(crate) inboxes: Arc<Inboxes>,
    pub(crate) node_timeout: Duration,
    pub(crate) cancelled: CancellationToken,
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
