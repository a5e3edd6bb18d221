//! What monitors are told: first everything, then changes, and a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use vda_proto::v1::ResourceStatus;

use super::{Agent, Driver, State};
use crate::target::Target;

/// The longest silence.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Statuses in one message.
const BATCH: usize = 256;

/// What is known about the node itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub node_id: String,
    /// Highest generation ever accepted.
    pub generation: u64,
    /// The data plane.
    pub target: ResourceStatus,
}

pub(super) enum Change<V: Driver> {
    Node(NodeReport),
    Component(V::Key, V::Status),
}

/// One message to a monitor. Empty: a heartbeat.
#[derive(Debug, Clone)]
pub struct Batch<V: Driver> {
    /// The last one of the list of everything.
    pub complete: bool,
    pub node: Option<NodeReport>,
    pub statuses: Vec<(V::Key, V::Status)>,
}

impl<V: Driver> Batch<V> {
    const fn empty() -> Self {
        Self { complete: false, node: None, statuses: Vec::new() }
    }
}

/// Why there is nothing more to tell; the listener must connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedEnd {
    #[error("too slow: changes were lost, observe again")]
    TooSlow,
    #[error("the agent is stopping")]
    Stopping,
}

/// One monitor's view.
pub struct Feed<V: Driver> {
    backlog: std::vec::IntoIter<Batch<V>>,
    changes: broadcast::Receiver<Arc<Change<V>>>,
    shutdown: CancellationToken,
}

impl<V: Driver> Feed<V> {
    /// The next message, at the latest after a second.
    ///
    /// # Errors
    /// [`FeedEnd`].
    pub async fn next(&mut self) -> Result<Batch<V>, FeedEnd> {
        if let Some(batch) = self.backlog.next() {
            return Ok(batch);
        }
        let mut batch = Batch::empty();
        let change = tokio::select! {
            () = self.shutdown.cancelled() => return Err(FeedEnd::Stopping),
            change = timeout_at(Instant::now() + HEARTBEAT, self.changes.recv()) => change,
        };
        match change {
            Err(_) => return Ok(batch),
            Ok(Err(RecvError::Lagged(_))) => return Err(FeedEnd::TooSlow),
            Ok(Err(RecvError::Closed)) => return Err(FeedEnd::Stopping),
            Ok(Ok(change)) => batch.add(&change),
        }
        while batch.statuses.len() < BATCH {
            match self.changes.try_recv() {
                Ok(change) => batch.add(&change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(_)) => return Err(FeedEnd::TooSlow),
                Err(TryRecvError::Closed) => return Err(FeedEnd::Stopping),
            }
        }
        Ok(batch)
    }
}

impl<V: Driver> Batch<V> {
    fn add(&mut self, change: &Change<V>) {
        match change {
            Change::Node(node) => self.node = Some(node.clone()),
            Change::Component(key, status) => {
                // A newer status of the same component replaces the older one.
                self.statuses.retain(|(k, _)| k != key);
                self.statuses.push((key.clone(), status.clone()));
            }
        }
    }
}

impl<V: Driver, T: Target> Agent<V, T> {
    /// Everything there is to tell now, and from then on every change.
    pub fn observe(&self) -> Feed<V> {
        let state = self.state();
        let changes = self.inner.feed.subscribe();
        let node = self.node_report(&state);
        let statuses: Vec<_> = state
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key.clone(), entry.status.clone()?)))
            .collect();
        drop(state);
        let mut backlog: Vec<Batch<V>> = statuses
            .chunks(BATCH)
            .map(|chunk| Batch { statuses: chunk.to_vec(), ..Batch::empty() })
            .collect();
        if backlog.is_empty() {
            backlog.push(Batch::empty());
        }
        if let Some(first) = backlog.first_mut() {
            first.node = Some(node);
        }
        if let Some(last) = backlog.last_mut() {
            last.complete = true;
        }
        Feed { backlog: backlog.into_iter(), changes, shutdown: self.inner.shutdown.clone() }
    }

    /// The node id this agent serves; empty if none yet.
    pub fn node_id(&self) -> String {
        self.inner.ledger.position().0
    }

    /// The highest generation ever accepted.
    pub fn generation(&self) -> u64 {
        self.inner.ledger.position().1
    }

    /// The present status of a component.
    pub fn status(&self, key: &V::Key) -> Option<V::Status> {
        self.state().entries.get(key)?.status.clone()
    }

    /// The present statuses for which `pick` answers.
    pub fn statuses<R>(&self, pick: impl Fn(&V::Key, &V::Status) -> Option<R>) -> Vec<R> {
        self.state().entries.iter().filter_map(|(key, entry)| pick(key, entry.status.as_ref()?)).collect()
    }

    pub(super) fn node_report(&self, state: &State<V>) -> NodeReport {
        let (node_id, generation) = self.inner.ledger.position();
        NodeReport { node_id, generation, target: state.target.clone() }
    }

    /// What is there to tell about the node.
    pub fn node(&self) -> NodeReport {
        self.node_report(&self.state())
    }

    /// Tells listeners about the node again.
    pub fn announce(&self) {
        self.publish_node(&self.state());
    }

    pub(super) fn publish_node(&self, state: &State<V>) {
        let _ = self.inner.feed.send(Arc::new(Change::Node(self.node_report(state))));
    }

    pub(super) fn publish_status(&self, key: &V::Key, status: V::Status) {
        let _ = self.inner.feed.send(Arc::new(Change::Component(key.clone(), status)));
    }
}
