//! From what happened to what is reported.

use std::collections::BTreeMap;

use vda_proto::v1::{Condition, ResourceStatus};

use crate::execute::Fault;
use crate::graph::Refusal;

/// As wanted.
pub fn ready() -> ResourceStatus {
    of(Condition::Ready)
}

/// Work is under way.
pub fn pending() -> ResourceStatus {
    of(Condition::Pending)
}

/// Serves, but not as wanted.
pub fn degraded(message: impl Into<String>) -> ResourceStatus {
    ResourceStatus { message: message.into(), ..of(Condition::Degraded) }
}

/// Wanted gone, not gone yet.
pub fn deleting() -> ResourceStatus {
    of(Condition::Deleting)
}

/// Waits for `on`.
pub fn blocked(on: impl Into<String>) -> ResourceStatus {
    ResourceStatus { on: on.into(), ..of(Condition::Blocked) }
}

/// A call failed.
pub fn failed(fault: &Fault) -> ResourceStatus {
    ResourceStatus {
        op: fault.op.clone(),
        code: fault.code,
        message: fault.message.clone(),
        ..of(Condition::Failed)
    }
}

/// A call is not made because of what it would do.
pub fn refused(refusal: &Refusal) -> ResourceStatus {
    ResourceStatus { op: refusal.op.to_owned(), message: refusal.message.clone(), ..of(Condition::Failed) }
}

fn of(condition: Condition) -> ResourceStatus {
    ResourceStatus { condition: condition.into(), ..ResourceStatus::default() }
}

/// How bad a condition is; the worst of its parts is that of a whole.
fn weight(status: &ResourceStatus) -> u8 {
    match status.condition() {
        Condition::Unspecified => 0,
        Condition::Ready => 1,
        Condition::Degraded => 2,
        Condition::Deleting => 3,
        Condition::Pending => 4,
        Condition::Blocked => 5,
        Condition::Failed => 6,
    }
}

/// The worst of several; of equals the first. Ready if there are none.
pub fn worst<'a>(parts: impl IntoIterator<Item = &'a ResourceStatus>) -> ResourceStatus {
    let mut worst: Option<&ResourceStatus> = None;
    for part in parts {
        if worst.is_none_or(|w| weight(part) > weight(w)) {
            worst = Some(part);
        }
    }
    worst.cloned().unwrap_or_else(ready)
}

/// Since when each part of a component is as it is.
#[derive(Debug, Clone, Default)]
pub struct Book {
    parts: BTreeMap<String, ResourceStatus>,
    /// Unix time in milliseconds, of the report that is being made.
    pub now_ms: i64,
}

impl Book {
    /// `status` with `since_ms`: now, or the time at which `part` came to be like this.
    pub fn stamp(&mut self, part: &str, mut status: ResourceStatus) -> ResourceStatus {
        let now_ms = self.now_ms;
        if let Some(before) = self.parts.get(part) {
            let same_condition =
                before.condition == status.condition && before.op == status.op && before.on == status.on;
            status.since_ms = if same_condition { before.since_ms } else { now_ms };
        } else {
            status.since_ms = now_ms;
        }
        self.parts.insert(part.to_owned(), status.clone());
        status
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
