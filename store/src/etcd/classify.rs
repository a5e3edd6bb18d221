//! What an error of the client library means for us. Only what is certain not to have been applied may be called unavailable.

use std::error::Error as StdError;

use etcd_client::Error;
use tonic::{Code, Status};

use crate::KvError;

/// `write`: the call changes something, so that a lost answer leaves its outcome unknown.
pub(super) fn classify(error: &Error, write: bool) -> KvError {
    match error {
        Error::GRpcStatus(status) => by_status(status, write),
        Error::LeaseKeepAliveError(text) if text.contains("not found") => KvError::LeaseGone { lease: 0 },
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::InvalidMetadataValue(_)
        | Error::Utf8Error(_) => KvError::Invalid { detail: error.to_string() },
        other => lost(describe(other), write),
    }
}

fn by_status(status: &Status, write: bool) -> KvError {
    let text = status.message();
    let detail = || describe(status);
    if never_sent(status) {
        return KvError::Unavailable { detail: detail() };
    }
    match status.code() {
        Code::ResourceExhausted if text.contains("too many requests") => {
            KvError::Unavailable { detail: detail() }
        }
        Code::ResourceExhausted if text.contains("space exceeded") => KvError::NoSpace { detail: detail() },
        Code::ResourceExhausted => KvError::TooLarge { detail: detail() },
        Code::InvalidArgument if text.contains("too large") || text.contains("too many operations") => {
            KvError::TooLarge { detail: detail() }
        }
        Code::OutOfRange if text.contains("compacted") => KvError::Compacted { requested: 0, oldest: 0 },
        Code::NotFound if text.contains("lease not found") => KvError::LeaseGone { lease: 0 },
        Code::Unavailable if text.contains("etcdserver: no leader") => {
            KvError::Unavailable { detail: detail() }
        }
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => lost(detail(), write),
        _ => KvError::Invalid { detail: detail() },
    }
}

fn lost(detail: String, write: bool) -> KvError {
    if write { KvError::Ambiguous { detail } } else { KvError::Unavailable { detail } }
}

/// Whether no connection could be made at all.
fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<tonic::ConnectError>())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e| (*e).source())
}

/// The error and its causes, each once: tonic's own text is only "transport error".
fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text =
            cause.downcast_ref::<Status>().map_or_else(|| cause.to_string(), |s| s.message().to_owned());
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}
