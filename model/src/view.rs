//! What users are shown of a resource: derived from its parts, naming what is in the way.

mod da;
mod nodes;

use vda_proto::v1::{Condition, PartStatus, ResourceStatus};

pub use da::{CntlrPart, DaParts, SharePart, array, exporter};
pub use nodes::{cn, dn, pd};

/// Whether a node's agent and data plane both answer.
pub fn node_ready(agent: Option<&ResourceStatus>, target: Option<&ResourceStatus>) -> bool {
    let ready = |s: Option<&ResourceStatus>| s.is_some_and(|s| s.condition() == Condition::Ready);
    ready(agent) && ready(target)
}

/// A condition with nothing to explain.
pub fn plain(condition: Condition) -> ResourceStatus {
    ResourceStatus { condition: condition.into(), ..ResourceStatus::default() }
}

/// Waits for `on`.
pub fn blocked(on: impl Into<String>, since_ms: i64) -> ResourceStatus {
    ResourceStatus {
        condition: Condition::Blocked.into(),
        on: on.into(),
        since_ms,
        ..ResourceStatus::default()
    }
}

/// A status in one line: what it waits for, or what failed.
pub fn words(status: &ResourceStatus) -> String {
    match status.condition() {
        Condition::Blocked if !status.on.is_empty() => status.on.clone(),
        Condition::Failed => {
            let code = if status.code == 0 { String::new() } else { format!(" ({})", status.code) };
            let op = if status.op.is_empty() { String::new() } else { format!("{}: ", status.op) };
            format!("{op}{}{code}", status.message)
        }
        Condition::Unspecified | Condition::Pending | Condition::Blocked => "not ready yet".to_owned(),
        Condition::Ready => "ready".to_owned(),
        Condition::Degraded => "degraded".to_owned(),
        Condition::Deleting => "being deleted".to_owned(),
    }
}

/// One named part.
pub(crate) fn part(name: impl Into<String>, status: &ResourceStatus) -> PartStatus {
    PartStatus { part: name.into(), status: Some(status.clone()), progress_percent: 0 }
}

#[cfg(test)]
mod tests;
