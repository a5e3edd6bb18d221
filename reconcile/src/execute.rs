//! The executor: runs the steps of a wave, concurrently, each step's calls in order.

use std::collections::BTreeMap;
use std::future::Future;

use futures::future::join_all;

use crate::graph::Domain;
use crate::plan::{Plan, Step};

/// What kind of failure a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The data plane, or a check of the agent, said no.
    Refused,
    /// No connection to the data plane; whether the call had an effect is unknown.
    Unreachable,
    /// No answer in time. Slow is not dead: the call may still take effect.
    Timeout,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {message} (code {code})")]
pub struct Fault {
    /// SPDK method or agent step.
    pub op: String,
    /// JSON-RPC error code or negative errno; 0 if there is none.
    pub code: i32,
    pub message: String,
    pub kind: FaultKind,
}

impl Fault {
    /// A refusal by the agent itself.
    pub fn refused(op: impl Into<String>, message: impl Into<String>) -> Self {
        Self { op: op.into(), code: 0, message: message.into(), kind: FaultKind::Refused }
    }
}

impl From<vda_spdk::Error> for Fault {
    fn from(error: vda_spdk::Error) -> Self {
        use vda_spdk::Error as E;
        let op = error.method().to_owned();
        let code = error.code().and_then(|c| i32::try_from(c).ok()).unwrap_or(0);
        match error {
            E::Rpc { message, .. } => Self { op, code, message, kind: FaultKind::Refused },
            E::Timeout { after, .. } => {
                let message = format!("no answer from the data plane within {after:?}");
                Self { op, code, message, kind: FaultKind::Timeout }
            }
            E::Transport { endpoint, source, .. } => {
                let message = format!("no connection to the data plane at {endpoint}: {source}");
                Self { op, code, message, kind: FaultKind::Unreachable }
            }
            E::Decode { source, .. } => {
                let message = format!("the data plane's answer cannot be decoded: {source}");
                Self { op, code, message, kind: FaultKind::Refused }
            }
        }
    }
}

/// What carries actions out.
pub trait Perform<D: Domain>: Send + Sync {
    /// Carries one action out.
    ///
    /// # Errors
    /// What the data plane said. "Exists already" and "not there" are errors like others: the next observation decides what they mean.
    fn perform(&self, id: &D::Id, action: &D::Action) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Runs all steps of a wave at once and waits for all. Says for each resource how its step ended.
pub async fn execute<D: Domain, P: Perform<D>>(
    plan: &Plan<D>,
    performer: &P,
) -> BTreeMap<D::Id, Result<(), Fault>> {
    let runs =
        plan.steps.iter().map(|step| async move { (step.id.clone(), run_step(step, performer).await) });
    join_all(runs).await.into_iter().collect()
}

async fn run_step<D: Domain, P: Perform<D>>(step: &Step<D>, performer: &P) -> Result<(), Fault> {
    tracing::debug!(resource = %step.id, why = ?step.why, calls = step.actions.len(), "step");
    if step.destructive {
        tracing::info!(resource = %step.id, why = ?step.why, "destructive step");
    }
    for action in &step.actions {
        performer.perform(&step.id, action).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "execute_tests.rs"]
mod tests;
