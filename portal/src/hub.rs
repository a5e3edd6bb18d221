//! Tells those who follow something that it may have changed. One watch on etcd serves all of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;
use vda_model::{
    ids::{CnId, DaId, DnId},
    keys::AnyKey,
};
use vda_store::Changes;
use vda_telemetry::Shutdown;

/// What can be followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    /// A DN, its PDs and its books.
    Dn(DnId),
    /// A CN and its books.
    Cn(CnId),
    /// What is on nodes for a DA, and what is known of it.
    Da(DaId),
    /// The record of the DA of this name.
    DaName(String),
}

/// What a change of `key` is about.
fn topic(key: AnyKey) -> Option<Topic> {
    match key {
        AnyKey::DnSpec(dn) | AnyKey::DnCapacity(dn) | AnyKey::PdSpec(dn, _) | AnyKey::DnStatus(dn) => {
            Some(Topic::Dn(dn))
        }
        AnyKey::CnSpec(cn) | AnyKey::CnCapacity(cn) | AnyKey::CnStatus(cn) => Some(Topic::Cn(cn)),
        AnyKey::DnShare(_, da)
        | AnyKey::CntlrSpec(_, da)
        | AnyKey::ExpSpec(_, da, _)
        | AnyKey::LegState(da, _)
        | AnyKey::DaTombstone(da)
        | AnyKey::ShareStatus(_, da)
        | AnyKey::CntlrStatus(_, da) => Some(Topic::Da(da)),
        AnyKey::Da(name) => Some(Topic::DaName(name)),
        AnyKey::DnGen(_)
        | AnyKey::DnBoot(_)
        | AnyKey::CnGen(_)
        | AnyKey::DnName(_)
        | AnyKey::CnName(_)
        | AnyKey::Request(_)
        | AnyKey::Monitor(_) => None,
    }
}

type Followers = HashMap<Topic, Vec<Weak<Notify>>>;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    followers: Arc<Mutex<Followers>>,
}

impl Hub {
    /// Passes on what `changes` brings until shutdown.
    pub(crate) fn start(mut changes: Changes, shutdown: &Shutdown) -> Self {
        let hub = Self::default();
        let told = hub.clone();
        shutdown.spawn(async move {
            while let Some(set) = changes.next().await {
                told.wake(&set.keys.into_iter().filter_map(topic).collect(), set.everything);
            }
        });
        hub
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, topics: &BTreeSet<Topic>, everything: bool) {
        let mut followers = self.followers();
        let wake = |topic: &Topic, of: &mut Vec<Weak<Notify>>| {
            of.retain(|follower| {
                let Some(follower) = follower.upgrade() else { return false };
                if everything || topics.contains(topic) {
                    follower.notify_one();
                }
                true
            });
            !of.is_empty()
        };
        if everything {
            followers.retain(|topic, of| wake(topic, of));
            return;
        }
        for topic in topics {
            if let Some(of) = followers.get_mut(topic)
                && !wake(topic, of)
            {
                followers.remove(topic);
            }
        }
    }

    /// Follows these topics from now on: whatever changes after this call wakes the follower.
    pub(crate) fn follow(&self, topics: impl IntoIterator<Item = Topic>) -> Follower {
        let mut follower = Follower { hub: self.clone(), wake: Arc::default(), topics: BTreeSet::new() };
        follower.also(topics);
        follower
    }
}

/// Wakes when something it follows may have changed.
#[derive(Debug)]
pub(crate) struct Follower {
    hub: Hub,
    wake: Arc<Notify>,
    topics: BTreeSet<Topic>,
}

impl Follower {
    /// Follows these topics too.
    pub(crate) fn also(&mut self, topics: impl IntoIterator<Item = Topic>) {
        let mut followers = self.hub.followers();
        for topic in topics {
            if self.topics.insert(topic.clone()) {
                followers.entry(topic).or_default().push(Arc::downgrade(&self.wake));
            }
        }
    }

    /// Waits for a change since the last call.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.hub.followers();
        for topic in &self.topics {
            if let Some(of) = followers.get_mut(topic) {
                of.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&self.wake)));
                if of.is_empty() {
                    followers.remove(topic);
                }
            }
        }
    }
}
