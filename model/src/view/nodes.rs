//! Nodes and physical disks.

use vda_proto::v1::{self, Condition, ResourceStatus};

use super::{blocked, plain, words};
use crate::error::{Kind, Resource};

fn node(
    resource: &Resource,
    deleting: bool,
    agent: Option<&ResourceStatus>,
    target: Option<&ResourceStatus>,
) -> ResourceStatus {
    let since = agent.map_or(0, |a| a.since_ms).max(target.map_or(0, |t| t.since_ms));
    let blocker = match (agent, target) {
        (None, _) => Some(format!("{resource}: its agent has not been reached yet")),
        (Some(agent), _) if agent.condition() != Condition::Ready => Some(say(resource, "agent", agent)),
        (_, None) => Some(format!("{resource}: its data plane has not been reached yet")),
        (_, Some(target)) if target.condition() != Condition::Ready => {
            Some(say(resource, "data plane", target))
        }
        _ => None,
    };
    match blocker {
        Some(on) if deleting => ResourceStatus { on, since_ms: since, ..plain(Condition::Deleting) },
        Some(on) => blocked(on, since),
        None if deleting => plain(Condition::Deleting),
        None => ResourceStatus { since_ms: since, ..plain(Condition::Ready) },
    }
}

/// "DN 127.0.0.1:9720: agent unreachable", whoever has written how much of it.
fn say(resource: &Resource, what: &str, status: &ResourceStatus) -> String {
    let words = words(status);
    let subject = resource.to_string();
    if words.starts_with(&subject) {
        words
    } else if words.starts_with(what) {
        format!("{subject}: {words}")
    } else {
        format!("{subject}: {what} {words}")
    }
}

/// The state of a DN.
pub fn dn(spec: &v1::DnSpec, observed: Option<&v1::DnStatus>) -> ResourceStatus {
    let resource = Resource::new(Kind::Dn, &spec.address);
    node(
        &resource,
        spec.deleting,
        observed.and_then(|s| s.agent.as_ref()),
        observed.and_then(|s| s.target.as_ref()),
    )
}

/// The state of a CN.
pub fn cn(spec: &v1::CnSpec, observed: Option<&v1::CnStatus>) -> ResourceStatus {
    let resource = Resource::new(Kind::Cn, &spec.address);
    node(
        &resource,
        spec.deleting,
        observed.and_then(|s| s.agent.as_ref()),
        observed.and_then(|s| s.target.as_ref()),
    )
}

/// The state of a PD whose spec is at `revision`, on a DN in state `node`. Ready means that its DN has reported the lvstore as the spec
/// has it, and that the books know its size: something can be placed.
pub fn pd(
    spec: &v1::PdSpec,
    revision: u64,
    books: Option<&v1::PdCapacity>,
    node: &ResourceStatus,
    observed: Option<&v1::PdStatus>,
) -> ResourceStatus {
    if spec.deleting {
        let waits = books
            .filter(|b| b.deleting_vds > 0)
            .map(|b| format!("{} virtual disks being deleted", b.deleting_vds));
        let on =
            if node.condition() == Condition::Ready { waits.unwrap_or_default() } else { node.on.clone() };
        return ResourceStatus { on, ..plain(Condition::Deleting) };
    }
    if node.condition() != Condition::Ready {
        return blocked(words(node), node.since_ms);
    }
    let Some(observed) = observed.filter(|o| o.observed_revision >= revision) else {
        return plain(Condition::Pending);
    };
    let status = observed.status.clone().unwrap_or_default();
    let sized = books.is_some_and(|b| b.cluster_bytes > 0);
    if status.condition() == Condition::Ready && !sized { plain(Condition::Pending) } else { status }
}
