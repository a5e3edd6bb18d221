//! Which desired state is accepted.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use vda_proto::v1::{SyncReply, sync_reply::Outcome};

use super::{Agent, Driver, State, Wanted};
use crate::graph::Desired;
use crate::ledger::{LedgerError, Record};
use crate::target::Target;

/// A desired state, or a change of it, as a monitor sent it.
pub struct Offer<V: Driver> {
    pub node_id: String,
    pub generation: u64,
    /// Everything that is not in `wants` is not wanted.
    pub full: bool,
    /// Not full: the generation this is a change to.
    pub base_generation: u64,
    pub wants: BTreeMap<V::Key, Wanted<V::Want>>,
    pub removed: BTreeSet<V::Key>,
    /// Unchanged, but worth another try now.
    pub retry: BTreeSet<V::Key>,
    /// Of which components `wants` lists all, also when it is not full.
    pub lists_all: fn(&V::Key) -> bool,
}

/// The answer to an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable, and being worked on.
    Accepted { generation: u64 },
    /// A higher generation was accepted before.
    Stale { accepted: u64 },
    /// The base is not what was accepted last in this life.
    NeedFull { accepted: u64 },
    /// The agent serves another node, which still has something here.
    WrongNode { serves: String },
}

/// What a monitor is told.
impl From<Accepted> for SyncReply {
    fn from(accepted: Accepted) -> Self {
        let (outcome, generation, message) = match accepted {
            Accepted::Accepted { generation } => (Outcome::Accepted, generation, String::new()),
            Accepted::Stale { accepted } => {
                (Outcome::Stale, accepted, "a higher generation was accepted".to_owned())
            }
            Accepted::NeedFull { accepted } => {
                (Outcome::NeedFull, accepted, "not based on what was accepted last".to_owned())
            }
            Accepted::WrongNode { serves } => (Outcome::WrongNode, 0, serves),
        };
        Self { outcome: outcome.into(), generation, message }
    }
}

impl<V: Driver, T: Target> Agent<V, T> {
    /// Accepts or refuses; accepted means durable. Nothing is done about a desired state before it is durable: otherwise an older one
    /// could be accepted after a crash and hand a disk back to a controller that was fenced off.
    ///
    /// # Errors
    /// If the ledger cannot be written: then nothing was accepted.
    pub async fn accept(&self, offer: Offer<V>) -> Result<Accepted, LedgerError> {
        if let Some(refusal) = self.screen(&self.state(), &offer) {
            return Ok(refusal);
        }
        let (node_id, generation) = self.inner.ledger.position();
        let mut records = Vec::new();
        if node_id != offer.node_id {
            tracing::info!(node = offer.node_id, "serving this node from now on");
            records.push(Record::Node(offer.node_id.clone()));
        }
        if node_id != offer.node_id || generation < offer.generation {
            records.push(Record::Generation(offer.generation));
        }
        self.inner.ledger.remember(records).await?;
        let mut state = self.state();
        // Another one may have been accepted meanwhile.
        if let Some(refusal) = self.screen(&state, &offer) {
            return Ok(refusal);
        }
        let generation = offer.generation;
        self.apply(&mut state, offer);
        self.publish_node(&state);
        drop(state);
        self.inner.wake.notify_one();
        Ok(Accepted::Accepted { generation })
    }

    /// Whether the agent can serve this node: it does, or it serves none, or one that has nothing here any more.
    ///
    /// # Errors
    /// The node it serves.
    pub fn serves(&self, node_id: &str) -> Result<(), String> {
        let (own, _) = self.inner.ledger.position();
        let free = own.is_empty() || own == node_id || !self.occupied(&self.state());
        if free { Ok(()) } else { Err(own) }
    }

    fn occupied(&self, state: &State<V>) -> bool {
        self.inner.ledger.holds_data() || state.entries.values().any(|e| e.wanted.is_some())
    }

    fn screen(&self, state: &State<V>, offer: &Offer<V>) -> Option<Accepted> {
        let (node_id, generation) = self.inner.ledger.position();
        if node_id != offer.node_id {
            if !node_id.is_empty() && self.occupied(state) {
                return Some(Accepted::WrongNode { serves: node_id });
            }
            return (!offer.full).then_some(Accepted::NeedFull { accepted: 0 });
        }
        if offer.generation < generation {
            return Some(Accepted::Stale { accepted: generation });
        }
        let on_base = offer.full || state.accepted == Some(offer.base_generation);
        (!on_base).then_some(Accepted::NeedFull { accepted: generation })
    }

    fn apply(&self, state: &mut State<V>, offer: Offer<V>) {
        let unlisted: Vec<V::Key> = state
            .entries
            .iter()
            .filter(|(key, entry)| entry.wanted.is_some() && !offer.wants.contains_key(key))
            .filter(|(key, _)| offer.full || (offer.lists_all)(key) || offer.removed.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in unlisted {
            self.replace(state, &key, None);
        }
        for (key, wanted) in offer.wants {
            let held = state.entries.get(&key).and_then(|entry| entry.wanted.as_ref());
            let news = held.is_none_or(|held| held.revision <= wanted.revision && *held != wanted);
            if news {
                self.replace(state, &key, Some(wanted));
            }
        }
        let now = Instant::now();
        for key in offer.retry {
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.attempts = 0;
                state.mark(&key, now);
            }
        }
        if offer.full && !state.full_seen {
            state.full_seen = true;
            // What it does not list may still be on the node.
            self.inner.resync.notify_one();
        }
        state.accepted = Some(offer.generation);
    }

    /// Changes what is wanted of a component; what only the old version asked for becomes a leftover.
    fn replace(&self, state: &mut State<V>, key: &V::Key, wanted: Option<Wanted<V::Want>>) {
        let none = BTreeSet::new();
        let ids = |want: Option<&Wanted<V::Want>>| match want {
            Some(w) => self.inner.driver.desired(key, Some(&w.want), &none).own_ids(),
            None => Desired::<V::Domain>::default().own_ids(),
        };
        let entry = state.entries.entry(key.clone()).or_default();
        let (old, new) = (ids(entry.wanted.as_ref()), ids(wanted.as_ref()));
        entry.leftovers.extend(old.difference(&new).cloned());
        entry.leftovers.retain(|id| !new.contains(id));
        entry.wanted = wanted;
        entry.attempts = 0;
        for id in old.difference(&new) {
            if state.owner.get(id) == Some(key) {
                state.owner.remove(id);
            }
        }
        for id in new {
            if let Some(before) = state.owner.insert(id.clone(), key.clone())
                && before != *key
                && let Some(other) = state.entries.get_mut(&before)
            {
                other.leftovers.remove(&id);
            }
        }
        state.mark(key, Instant::now());
    }
}
