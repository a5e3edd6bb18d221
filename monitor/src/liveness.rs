//! Whether a node counts as reachable. Slow is not dead, and a node that comes and goes is not written about each time: it is unreachable
//! when nothing was heard of it for the timeout, and reachable when it has told everything it has to tell.

use std::time::Duration;

use tokio::time::Instant;
use vda_proto::v1::{Condition, ResourceStatus};

/// What is known about a node's agent. Times are of the monotonic clock; the status carries wall-clock time.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    timeout: Duration,
    last_heard: Instant,
    verdict: Option<ResourceStatus>,
    detail: String,
}

impl Liveness {
    /// Before the first contact: whatever is stored stands until the timeout.
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, last_heard: now, verdict: None, detail: "no contact yet".to_owned() }
    }

    /// Something was heard. `listed`: the agent has told everything on this connection. True if the verdict changes.
    pub(crate) fn heard(&mut self, now: Instant, listed: bool, now_ms: i64) -> bool {
        self.last_heard = now;
        if !listed || self.is(Condition::Ready) {
            return false;
        }
        let status = ResourceStatus {
            condition: Condition::Ready.into(),
            since_ms: now_ms,
            ..ResourceStatus::default()
        };
        self.verdict = Some(status);
        true
    }

    /// The connection was lost, or could not be made.
    pub(crate) fn lost(&mut self, detail: String) {
        self.detail = detail;
    }

    /// The agent is there, but not the one we need.
    pub(crate) fn refused(&mut self, detail: &str, now_ms: i64) -> bool {
        self.fail(detail.to_owned(), now_ms)
    }

    /// When to call [`Liveness::check`] next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.is(Condition::Failed)).then(|| self.last_heard + self.timeout)
    }

    /// True if the verdict changes.
    pub(crate) fn check(&mut self, now: Instant, now_ms: i64) -> bool {
        if self.is(Condition::Failed) || now < self.last_heard + self.timeout {
            return false;
        }
        self.fail(format!("agent unreachable: {}", self.detail), now_ms)
    }

    fn fail(&mut self, message: String, now_ms: i64) -> bool {
        if self.is(Condition::Failed) {
            return false;
        }
        let status = ResourceStatus {
            condition: Condition::Failed.into(),
            message,
            since_ms: now_ms,
            ..ResourceStatus::default()
        };
        self.verdict = Some(status);
        true
    }

    fn is(&self, condition: Condition) -> bool {
        self.verdict.as_ref().is_some_and(|v| v.condition() == condition)
    }

    /// `None`: not known yet.
    pub(crate) fn verdict(&self) -> Option<&ResourceStatus> {
        self.verdict.as_ref()
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
