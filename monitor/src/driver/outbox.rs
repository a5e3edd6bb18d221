//! What an agent told and etcd has not been told yet. Only the newest of each thing is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use vda_model::delta::Node;
use vda_model::ids::DaId;
use vda_proto::v1::ResourceStatus;
use vda_store::Snapshot;

use crate::boot;
use crate::record::{ComponentEntry, Entry, NodeEntry, ending_pds, is_news};
use crate::report::{ComponentStatus, NodeStatus};

/// Components in one transaction: each may take six operations at its end.
const BATCH: usize = 16;
/// How long a change may wait that nobody waits for: a generation, free space.
const LAZY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) components: BTreeMap<DaId, ComponentStatus>,
    /// When the node's own status is to be recorded.
    node_due: Option<Instant>,
    agent: Option<ResourceStatus>,
    reported: Option<NodeStatus>,
    generation: u64,
}

impl Outbox {
    /// The node's own status is to be recorded at this time, or earlier.
    pub(super) fn node_due(&mut self, at: Instant) {
        self.node_due = Some(self.node_due.map_or(at, |due| due.min(at)));
    }

    /// Its agent has accepted `generation`.
    pub(super) fn generation(&mut self, generation: u64, now: Instant) {
        if generation > self.generation {
            // Some wait for the first one: it tells that the node has been in contact at all.
            let at = if self.generation == 0 { now } else { now + LAZY };
            self.generation = generation;
            self.node_due(at);
        }
    }

    pub(super) fn agent(&mut self, verdict: Option<ResourceStatus>, now: Instant) {
        self.agent = verdict;
        self.node_due(now);
    }

    pub(super) fn node(&mut self, status: NodeStatus, now: Instant) {
        let lazy = self.reported.as_ref().is_some_and(|before| essence(before) == essence(&status));
        self.reported = Some(status);
        self.node_due(if lazy { now + LAZY } else { now });
    }

    /// Whether the agent told this boot already.
    pub(super) fn knows_boot(&self, boot: &str) -> bool {
        matches!(&self.reported, Some(NodeStatus::Dn(told)) if told.boot == boot)
    }

    /// Whether etcd has another boot of the node than its agent told.
    pub(super) fn boot_differs(&self, snapshot: &Snapshot, node: Node) -> bool {
        match (node, &self.reported) {
            (Node::Dn(dn), Some(NodeStatus::Dn(told))) => boot::differs(snapshot, dn, told),
            _ => false,
        }
    }

    /// When there is something to record.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.components.is_empty() { self.node_due } else { Some(Instant::now()) }
    }

    /// The next entry to record, if something is due. What etcd has already is dropped.
    pub(super) fn take(&mut self, snapshot: &Snapshot, node: Node, now: Instant) -> Option<Entry> {
        let mut entry = Entry::default();
        while entry.components.len() < BATCH
            && let Some((da, status)) = self.components.pop_first()
        {
            if is_news(snapshot, node, da, &status) {
                entry.components.push(ComponentEntry::new(snapshot, node, da, status));
            }
        }
        if self.node_due.is_some_and(|due| due <= now) {
            self.node_due = None;
            entry.node = Some(NodeEntry {
                agent: self.agent.clone(),
                reported: self.reported.clone(),
                generation: self.generation,
                pds: ending_pds(snapshot, node),
            });
        }
        (entry != Entry::default()).then_some(entry)
    }

    /// It was not recorded. What has been told since is newer.
    pub(super) fn put_back(&mut self, entry: &Entry, now: Instant) {
        for component in &entry.components {
            self.components.entry(component.da).or_insert_with(|| component.status.clone());
        }
        if entry.node.is_some() {
            self.node_due(now);
        }
    }
}

/// A status without what changes all the time.
fn essence(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    match &mut status {
        NodeStatus::Dn(dn) => {
            dn.observed_generation = 0;
            dn.pds.iter_mut().for_each(|pd| pd.free_bytes = 0);
        }
        NodeStatus::Cn(cn) => cn.observed_generation = 0,
    }
    status
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
