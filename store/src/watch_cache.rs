//! A local copy of some directories, consistent at one revision, kept up to date by a watch. It lists at start, resumes the watch after a
//! lost connection, and lists again when the history it needs has been compacted or the store has gone back in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use vda_model::ids::MonitorId;
use vda_model::keys::{AnyKey, Key, Scope};

use crate::kv::{Event, RangeRequest, WatchBatch};
use crate::store::{Raw, Versioned};
use crate::{Backoff, KvError, Store};

/// The keys and values of one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    entries: BTreeMap<AnyKey, Raw>,
}

impl Snapshot {
    /// Decodes one record; `None`: there is none. One that cannot be decoded is an error.
    ///
    /// # Errors
    /// [`KvError::Corrupt`].
    pub fn get<K: Key>(&self, key: &K) -> Result<Option<Versioned<K::Value>>, KvError> {
        let any = key.any();
        self.entries.get(&any).map(|raw| raw.decode::<K>(&any)).transpose()
    }

    /// One record as stored.
    #[must_use]
    pub fn raw(&self, key: &AnyKey) -> Option<&Raw> {
        self.entries.get(key)
    }

    /// `mod_revision` of a key, 0 if it does not exist.
    #[must_use]
    pub fn revision_of(&self, key: &AnyKey) -> u64 {
        self.entries.get(key).map_or(0, |raw| raw.revision)
    }

    /// The records from key `first` to key `last` in the order of [`AnyKey`]: by kind, then by ids.
    pub fn range(&self, first: AnyKey, last: AnyKey) -> impl Iterator<Item = (&AnyKey, &Raw)> {
        // An inverted range would panic in the map.
        let ok = first <= last;
        let bounds = if ok { first..=last } else { last.clone()..=last };
        self.entries.range(bounds).filter(move |_| ok)
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = (&AnyKey, &Raw)> {
        self.entries.iter()
    }

    /// The running monitors; empty unless [`Scope::Monitors`] is part of the cache.
    #[must_use]
    pub fn monitors(&self) -> BTreeSet<MonitorId> {
        let all = AnyKey::Monitor(MonitorId::new(0))..=AnyKey::Monitor(MonitorId::new(u64::MAX));
        let ids = self.entries.range(all).filter_map(|(key, _)| match key {
            AnyKey::Monitor(id) => Some(*id),
            _ => None,
        });
        ids.collect()
    }
}

/// What changed since a subscriber last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Up to here.
    pub revision: u64,
    /// Keys that changed; those that were removed are no longer in the snapshot.
    pub keys: BTreeSet<AnyKey>,
    /// So much changed that `keys` was given up (or this is the first time): look at everything.
    pub everything: bool,
}

/// More changed keys than this are not told one by one.
const MAX_PENDING_KEYS: usize = 8192;

#[derive(Debug, Default)]
struct Pending {
    changes: Mutex<Option<ChangeSet>>,
    wake: Notify,
}

impl Pending {
    fn add(&self, revision: u64, keys: &[AnyKey], everything: bool) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let set = changes.get_or_insert_default();
        set.revision = revision;
        set.everything |= everything;
        if !set.everything {
            set.keys.extend(keys.iter().cloned());
            set.everything = set.keys.len() > MAX_PENDING_KEYS;
        }
        if set.everything {
            set.keys.clear();
        }
        drop(changes);
        self.wake.notify_one();
    }
}

/// A subscription: changes are merged while they are not asked for.
#[derive(Debug)]
pub struct Changes {
    pending: Arc<Pending>,
    cancelled: CancellationToken,
}

impl Changes {
    /// What changed since the last call; waits if nothing did. The first answer is `everything`, as soon as the cache is filled. `None`: the
    /// cache has ended.
    pub async fn next(&mut self) -> Option<ChangeSet> {
        loop {
            if let Some(set) = self.pending.changes.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Some(set);
            }
            tokio::select! {
                () = self.pending.wake.notified() => {}
                () = self.cancelled.cancelled() => return None,
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    filled: bool,
    connected: bool,
    revision: u64,
}

/// See the module. Cheap to clone; clones are the same cache.
#[derive(Clone, Debug)]
pub struct WatchCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    snapshot: RwLock<Snapshot>,
    progress: watch::Sender<Progress>,
    subscribers: Mutex<Vec<Weak<Pending>>>,
    cancelled: CancellationToken,
}

impl WatchCache {
    /// Starts to fill it with these directories; it ends with `cancelled`.
    #[must_use]
    pub fn start(store: &Store, scopes: Vec<Scope>, cancelled: CancellationToken) -> Self {
        Self::start_keeping(store, scopes, |_| true, cancelled)
    }

    /// As [`WatchCache::start`], but only the records that `keep` names are kept; of the others subscribers learn only that they
    /// changed. For processes that follow much and need little.
    #[must_use]
    pub fn start_keeping(
        store: &Store,
        scopes: Vec<Scope>,
        keep: fn(&AnyKey) -> bool,
        cancelled: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            snapshot: RwLock::default(),
            progress: watch::Sender::new(Progress::default()),
            subscribers: Mutex::default(),
            cancelled: cancelled.clone(),
        });
        let follower = Follower { store: store.clone(), scopes, keep, shared: shared.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                () = cancelled.cancelled() => {}
            }
        });
        Self { shared }
    }

    /// Looks at the snapshot. Updates wait meanwhile, so do not block in `look`.
    pub fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        look(&self.shared.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until it is filled for the first time; false if it ended before.
    pub async fn filled(&self) -> bool {
        self.wait(|progress| progress.filled).await
    }

    /// Waits until it has seen everything up to `revision`; false if it ended before. Bound the wait with a timeout: etcd may be away.
    pub async fn reached(&self, revision: u64) -> bool {
        self.wait(|progress| progress.filled && progress.revision >= revision).await
    }

    async fn wait(&self, condition: impl Fn(&Progress) -> bool) -> bool {
        let mut progress = self.shared.progress.subscribe();
        tokio::select! {
            reached = progress.wait_for(|p| condition(p)) => reached.is_ok(),
            () = self.shared.cancelled.cancelled() => false,
        }
    }

    /// Whether the watch is up, so that the snapshot is at most a round trip old.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.progress.borrow().connected
    }

    /// A subscription to what changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        let pending = Arc::new(Pending::default());
        self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pending));
        let progress = *self.shared.progress.borrow();
        if progress.filled {
            pending.add(progress.revision, &[], true);
        }
        Changes { pending, cancelled: self.shared.cancelled.clone() }
    }
}

impl Shared {
    fn publish(&self, keys: &[AnyKey], everything: bool) {
        let revision = self.snapshot.read().unwrap_or_else(PoisonError::into_inner).revision;
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else { return false };
            if everything || !keys.is_empty() {
                subscriber.add(revision, keys, everything);
            }
            true
        });
        self.progress.send_modify(|progress| {
            progress.filled = true;
            progress.revision = revision;
        });
    }

    fn set_connected(&self, connected: bool) {
        self.progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.connected, connected) != connected);
    }
}

/// Records read at once.
const LIST_PAGE: usize = 1000;

/// Why watching ended.
enum Ended {
    /// Watch again from where it ended.
    Lost(KvError),
    /// What lies between is gone: list again.
    Gap,
}

struct Follower {
    store: Store,
    scopes: Vec<Scope>,
    keep: fn(&AnyKey) -> bool,
    shared: Arc<Shared>,
}

impl Follower {
    async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut complained = false;
        let mut listed = false;
        loop {
            let step =
                if listed { self.follow(&mut backoff, &mut complained).await } else { self.list().await };
            match step {
                Ok(()) => listed = true,
                Err(Ended::Gap) => listed = false,
                Err(Ended::Lost(error)) => {
                    self.shared.set_connected(false);
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "lost the watch on etcd, trying to get it back");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    async fn list(&self) -> Result<(), Ended> {
        let mut fresh = Snapshot::default();
        for scope in &self.scopes {
            let mut after = None;
            loop {
                // All pages of all directories as of the revision of the first.
                let page = self.store.list(*scope, after.as_deref(), LIST_PAGE, fresh.revision).await;
                let page = match page {
                    Ok(page) => page,
                    Err(KvError::Compacted { .. }) => return Err(Ended::Gap),
                    Err(error) => return Err(Ended::Lost(error)),
                };
                if fresh.revision == 0 {
                    fresh.revision = page.revision;
                }
                fresh.entries.extend(page.entries.into_iter().filter(|(key, _)| (self.keep)(key)));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        *self.shared.snapshot.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.shared.publish(&[], true);
        Ok(())
    }

    async fn follow(&self, backoff: &mut Backoff, complained: &mut bool) -> Result<(), Ended> {
        let seen = self.shared.snapshot.read().unwrap_or_else(PoisonError::into_inner).revision;
        let root = format!("{}/", self.store.prefix());
        let kv = self.store.kv();
        let now = kv.range(RangeRequest::key(root.as_str())).await.map_err(Ended::Lost)?.revision;
        if now < seen {
            tracing::warn!(
                now,
                seen,
                "etcd has gone back to an older revision (restored?), reading everything again"
            );
            return Err(Ended::Gap);
        }
        let mut stream = kv.watch(root, seen + 1).await.map_err(Ended::Lost)?;
        self.shared.set_connected(true);
        while let Some(batch) = stream.next().await {
            match batch {
                Ok(batch) => {
                    self.apply(batch);
                    backoff.reset();
                    if std::mem::replace(complained, false) {
                        tracing::info!("the watch on etcd is back");
                    }
                }
                Err(KvError::Compacted { .. }) => return Err(Ended::Gap),
                Err(error) => return Err(Ended::Lost(error)),
            }
        }
        Err(Ended::Lost(KvError::Unavailable { detail: "the watch ended".into() }))
    }

    fn apply(&self, batch: WatchBatch) {
        let mut changed = Vec::with_capacity(batch.events.len());
        let mut snapshot = self.shared.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        for event in batch.events {
            let Some(key) = AnyKey::parse(self.store.prefix(), event.key()) else { continue };
            if !self.scopes.iter().any(|scope| scope.contains(&key)) {
                continue;
            }
            match event {
                Event::Put(kv) if (self.keep)(&key) => {
                    _ = snapshot.entries.insert(key.clone(), Raw::from(kv))
                }
                Event::Put(_) => {}
                Event::Delete { .. } => _ = snapshot.entries.remove(&key),
            }
            changed.push(key);
        }
        snapshot.revision = snapshot.revision.max(batch.revision);
        drop(snapshot);
        self.shared.publish(&changed, false);
    }
}

#[cfg(test)]
#[path = "watch_cache_tests.rs"]
mod tests;
