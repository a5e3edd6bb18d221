//! The only place where the portal takes ids and the time from. Transactions get them as arguments, so that every run of one is alike.

use std::time::{SystemTime, UNIX_EPOCH};

/// 64 random bits, for an id or a seed.
pub(crate) fn bits() -> u64 {
    rand::random()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A random UUID, hyphenated, lower-case.
pub(crate) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
