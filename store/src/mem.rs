//! etcd's semantics in memory, for tests: revisions, history until compacted, watches, leases on a clock that the test moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::kv::{prefix_end, *};
use crate::{KvError, MAX_TXN_OPS};

/// A store in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemKv {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    compacted: u64,
    /// Versions of every key, oldest first; `None`: removed.
    history: BTreeMap<String, Vec<(u64, Option<KeyValue>)>>,
    /// Which keys changed at a revision.
    log: BTreeMap<u64, BTreeSet<String>>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
    now: Duration,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Duration,
    keys: BTreeSet<String>,
}

impl Default for MemKv {
    fn default() -> Self {
        Self::new()
    }
}

impl MemKv {
    /// Empty, at revision 1, as a new etcd is.
    #[must_use]
    pub fn new() -> Self {
        let state = State { revision: 1, ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), revision: watch::Sender::new(1) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Forgets history up to and including `revision`, as etcd's compaction does.
    pub fn compact(&self, revision: u64) {
        let mut state = self.state();
        state.compacted = revision;
        state.log.retain(|at, _| *at > revision);
        for versions in state.history.values_mut() {
            let keep_from = versions.iter().rposition(|(at, _)| *at <= revision).unwrap_or(0);
            versions.drain(..keep_from);
        }
        drop(state);
        self.shared.revision.send_modify(|_| ());
    }

    /// Moves the clock of the leases forward; those whose time is up end.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now += by;
        let now = state.now;
        let ended: Vec<LeaseId> =
            state.leases.iter().filter(|(_, l)| l.expires <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            state.end_lease(lease);
        }
        self.publish(state);
    }

    /// All keys with their values, for assertions.
    #[must_use]
    pub fn dump(&self) -> BTreeMap<String, KeyValue> {
        let state = self.state();
        state.history.iter().filter_map(|(k, v)| Some((k.clone(), v.last()?.1.clone()?))).collect()
    }

    fn publish(&self, state: MutexGuard<'_, State>) {
        let revision = state.revision;
        drop(state);
        self.shared.revision.send_replace(revision);
    }

    fn commit_now(&self, txn: &Txn) -> Result<TxnReply, KvError> {
        check_limits(txn)?;
        let mut state = self.state();
        let holds =
            |c: &Compare| state.at(&c.key, u64::MAX).map_or(0, |kv| kv.mod_revision) == c.mod_revision;
        if !txn.compares.iter().all(holds) {
            let keys = txn.compares.iter().map(|c| &c.key).chain(&txn.also_read);
            let found = keys.map(|key| (key.clone(), state.at(key, u64::MAX).cloned())).collect();
            return Ok(TxnReply::Refused { revision: state.revision, found });
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !state.leases.contains_key(lease)
            {
                return Err(KvError::LeaseGone { lease: lease.0 });
            }
        }
        state.apply(&txn.writes);
        let revision = state.revision;
        self.publish(state);
        Ok(TxnReply::Committed { revision })
    }

    fn range_now(&self, request: &RangeRequest) -> Result<RangeReply, KvError> {
        let state = self.state();
        if request.revision > state.revision {
            return Err(KvError::Invalid { detail: "required revision is a future revision".into() });
        }
        if request.revision != 0 && request.revision < state.compacted {
            return Err(KvError::Compacted { requested: request.revision, oldest: state.compacted });
        }
        let as_of = if request.revision == 0 { u64::MAX } else { request.revision };
        let end = request.end.clone().unwrap_or_else(|| format!("{}\u{0}", request.start));
        let mut kvs: Vec<KeyValue> = state
            .history
            .range(request.start.clone()..end)
            .filter_map(|(key, _)| state.at(key, as_of).cloned())
            .collect();
        let more = request.limit > 0 && kvs.len() > request.limit;
        if more {
            kvs.truncate(request.limit);
        }
        Ok(RangeReply { kvs, revision: state.revision, more })
    }

    /// The changes after `seen`, or `None` if there are none yet.
    fn changes(&self, prefix: &str, seen: u64) -> Result<Option<WatchBatch>, KvError> {
        let state = self.state();
        if seen < state.compacted {
            return Err(KvError::Compacted { requested: seen + 1, oldest: state.compacted });
        }
        if seen >= state.revision {
            return Ok(None);
        }
        let end = prefix_end(prefix);
        let mut events = Vec::new();
        for (at, keys) in state.log.range(seen + 1..) {
            for key in keys.range(prefix.to_owned()..end.clone()) {
                events.push(match state.at(key, *at) {
                    Some(kv) => Event::Put(kv.clone()),
                    None => Event::Delete { key: key.clone(), mod_revision: *at },
                });
            }
        }
        Ok(Some(WatchBatch { revision: state.revision, events }))
    }
}

fn check_limits(txn: &Txn) -> Result<(), KvError> {
    let found = txn.compares.len() + txn.also_read.len();
    for (what, count) in [("compares", txn.compares.len()), ("writes", txn.writes.len()), ("reads", found)] {
        if count > MAX_TXN_OPS {
            return Err(KvError::TooLarge {
                detail: format!("{count} {what} in a transaction, at most {MAX_TXN_OPS}"),
            });
        }
    }
    let keys: BTreeSet<&str> = txn.writes.iter().map(Write::key).collect();
    if keys.len() != txn.writes.len() {
        return Err(KvError::Invalid { detail: "duplicate key given in txn request".into() });
    }
    Ok(())
}

impl State {
    /// What a key held at a revision.
    fn at(&self, key: &str, revision: u64) -> Option<&KeyValue> {
        self.history.get(key)?.iter().rev().find(|(at, _)| *at <= revision)?.1.as_ref()
    }

    fn apply(&mut self, writes: &[Write]) {
        let revision = self.revision + 1;
        let mut changed = BTreeSet::new();
        for write in writes {
            let old = self.at(write.key(), u64::MAX).cloned();
            if let Some(lease) = old.as_ref().and_then(|kv| kv.lease).and_then(|id| self.leases.get_mut(&id))
            {
                lease.keys.remove(write.key());
            }
            let new = match write {
                Write::Put { key, value, lease } => {
                    if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
                        lease.keys.insert(key.clone());
                    }
                    let create_revision = old.map_or(revision, |kv| kv.create_revision);
                    Some(KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision,
                        mod_revision: revision,
                        lease: *lease,
                    })
                }
                Write::Delete { .. } if old.is_none() => continue,
                Write::Delete { .. } => None,
            };
            self.history.entry(write.key().to_owned()).or_default().push((revision, new));
            changed.insert(write.key().to_owned());
        }
        if !changed.is_empty() {
            self.revision = revision;
            self.log.insert(revision, changed);
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        if let Some(ended) = self.leases.remove(&lease) {
            let deletes: Vec<Write> = ended.keys.into_iter().map(|key| Write::Delete { key }).collect();
            self.apply(&deletes);
        }
    }
}

impl Kv for MemKv {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(async move {
            // As with a real store, others get to run in between.
            tokio::task::yield_now().await;
            self.range_now(&request)
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let reply = self.commit_now(&txn);
            tokio::task::yield_now().await;
            reply
        })
    }

    fn watch(&self, prefix: String, from: u64) -> BoxFuture<'_, Result<WatchStream, KvError>> {
        let (kv, signal) = (self.clone(), self.shared.revision.subscribe());
        Box::pin(async move {
            let stream = futures::stream::unfold(Some((kv, signal, from.saturating_sub(1))), move |at| {
                let prefix = prefix.clone();
                async move {
                    let (kv, mut signal, seen) = at?;
                    loop {
                        signal.borrow_and_update();
                        match kv.changes(&prefix, seen) {
                            Err(error) => return Some((Err(error), None)),
                            Ok(Some(batch)) => {
                                let seen = batch.revision;
                                return Some((Ok(batch), Some((kv, signal, seen))));
                            }
                            Ok(None) => signal.changed().await.ok()?,
                        }
                    }
                }
            });
            Ok(Box::pin(stream) as WatchStream)
        })
    }

    fn grant(&self, ttl_s: u64) -> BoxFuture<'_, Result<LeaseId, KvError>> {
        Box::pin(async move {
            let mut state = self.state();
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            let ttl = Duration::from_secs(ttl_s);
            let expires = state.now + ttl;
            state.leases.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
            Ok(id)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let mut state = self.state();
            let now = state.now;
            let held = state.leases.get_mut(&lease).ok_or(KvError::LeaseGone { lease: lease.0 })?;
            held.expires = now + held.ttl;
            Ok(())
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let mut state = self.state();
            state.end_lease(lease);
            self.publish(state);
            Ok(())
        })
    }
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
