//! What a driver is to look at again. Merged while it is busy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vda_model::delta::Node;
use vda_model::ids::DaId;

/// Merged messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mail {
    /// Everything of the node.
    pub(crate) everything: bool,
    /// The node itself: its spec, PDs, books, generation.
    pub(crate) node: bool,
    /// Components whose desired state may have changed.
    pub(crate) das: BTreeSet<DaId>,
    /// Components that wait for something which has happened.
    pub(crate) retry: BTreeSet<DaId>,
    /// Something that deletions wait for may have happened.
    pub(crate) held: bool,
    /// The generation was raised although nothing else changed: tell the agent everything again.
    pub(crate) resync: bool,
    /// The generation was raised.
    pub(crate) touched: bool,
}

impl Mail {
    pub(crate) fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.node |= other.node;
        self.held |= other.held;
        self.resync |= other.resync;
        self.touched |= other.touched;
        self.das.extend(other.das);
        self.retry.extend(other.retry);
    }
}

/// Of one driver.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    mail: Mutex<Option<Mail>>,
    wake: Notify,
}

impl Inbox {
    pub(crate) fn post(&self, mail: Mail) {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().merge(mail);
        self.wake.notify_one();
    }

    pub(crate) async fn next(&self) -> Mail {
        loop {
            if let Some(mail) = self.mail.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return mail;
            }
            self.wake.notified().await;
        }
    }
}

/// Of all drivers of this monitor.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    of: Mutex<BTreeMap<Node, Arc<Inbox>>>,
}

impl Inboxes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, Arc<Inbox>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, node: Node) -> Arc<Inbox> {
        self.lock().entry(node).or_default().clone()
    }

    pub(crate) fn remove(&self, node: Node) {
        self.lock().remove(&node);
    }

    /// To one node, if it is ours.
    pub(crate) fn post(&self, node: Node, mail: Mail) {
        let inbox = self.lock().get(&node).cloned();
        if let Some(inbox) = inbox {
            inbox.post(mail);
        }
    }

    pub(crate) fn post_all(&self, mail: &Mail) {
        self.lock().values().for_each(|inbox| inbox.post(mail.clone()));
    }

    /// The nodes that have one.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.lock().keys().copied().collect()
    }
}
