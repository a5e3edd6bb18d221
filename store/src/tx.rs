//! The handle a closure gets: reads are remembered, writes are kept until the commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use vda_model::Delta;
use vda_model::ids::{CnId, DnId};
use vda_model::keys::{AnyKey, CnGenKey, DnGenKey, Key, Prefix, Sink};

use crate::cache::ReadCache;
use crate::kv::{KeyValue, Kv, LeaseId, RangeRequest};
use crate::store::{Raw, Versioned};
use crate::{KvError, derive, generation};

/// What is to be written to a key; `None`: it is to be removed.
pub(crate) type Writes = BTreeMap<String, Option<NewValue>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewValue {
    pub(crate) bytes: Bytes,
    pub(crate) lease: Option<LeaseId>,
    /// A generation: its bytes are the origin, the mark of the transaction comes before them.
    pub(crate) generation: bool,
}

/// Where reads come from when neither this transaction nor an earlier one of its batch has written the key.
pub(crate) struct Source {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) prefix: Prefix,
    pub(crate) known: ReadCache,
}

/// Reads and writes of one run of a closure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// `mod_revision` of every key read from the store; 0: absent.
    pub(crate) reads: BTreeMap<String, u64>,
    pub(crate) writes: Writes,
}

/// A transaction in progress. Cheap to clone; clones are the same transaction.
#[derive(Clone)]
pub struct Tx {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<Source>,
    /// Written by earlier requests of the same batch.
    below: Arc<Mutex<Writes>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reads: BTreeMap<String, u64>,
    writes: BTreeMap<AnyKey, Option<NewValue>>,
    origin: Option<String>,
}

/// What a key holds below this transaction.
enum Below {
    Stored(KeyValue),
    Pending(NewValue),
    Absent,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Tx").field("reads", &state.reads.len()).field("writes", &state.writes.len()).finish()
    }
}

impl Tx {
    pub(crate) fn new(source: Arc<Source>, below: Arc<Mutex<Writes>>) -> Self {
        Self { shared: Arc::new(Shared { source, below, state: Mutex::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a record as this transaction sees it, its own writes included. The commit verifies that it has not changed since.
    ///
    /// # Errors
    /// [`KvError::Unavailable`]; [`KvError::Corrupt`]. Return them with `?`.
    pub async fn get<K: Key>(&self, key: &K) -> Result<Option<Versioned<K::Value>>, KvError> {
        self.read::<K>(key, false).await
    }

    /// As [`Tx::get`] for a key that is expected not to exist: believed without asking, so that it costs no round trip. If the guess is
    /// wrong the commit is refused, which brings the truth back, and the closure runs again with it.
    ///
    /// # Errors
    /// As [`Tx::get`].
    pub async fn get_speculative_absent<K: Key>(
        &self,
        key: &K,
    ) -> Result<Option<Versioned<K::Value>>, KvError> {
        self.read::<K>(key, true).await
    }

    async fn read<K: Key>(
        &self,
        key: &K,
        guess_absent: bool,
    ) -> Result<Option<Versioned<K::Value>>, KvError> {
        let any = key.any();
        let own = self.state().writes.get(&any).cloned();
        let found = match own {
            Some(Some(new)) => Below::Pending(new),
            Some(None) => Below::Absent,
            None => self.below(&any, guess_absent).await?,
        };
        let raw = match found {
            Below::Absent => return Ok(None),
            Below::Pending(new) => Raw { bytes: new.bytes, revision: 0 },
            Below::Stored(kv) => Raw::from(kv),
        };
        raw.decode::<K>(&any).map(Some)
    }

    /// What the key held before this transaction.
    pub(crate) async fn before<K: Key>(
        &self,
        key: &K,
        guess_absent: bool,
    ) -> Result<Option<K::Value>, KvError> {
        let any = key.any();
        let raw = match self.below(&any, guess_absent).await? {
            Below::Absent => return Ok(None),
            Below::Pending(new) => Raw { bytes: new.bytes, revision: 0 },
            Below::Stored(kv) => Raw::from(kv),
        };
        raw.decode::<K>(&any).map(|versioned| Some(versioned.value))
    }

    async fn below(&self, key: &AnyKey, guess_absent: bool) -> Result<Below, KvError> {
        let path = key.path(&self.shared.source.prefix);
        let pending = self.shared.below.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
        match pending {
            Some(Some(new)) => return Ok(Below::Pending(new)),
            Some(None) => return Ok(Below::Absent),
            None => {}
        }
        let source = &self.shared.source;
        let found = match source.known.get(&path) {
            Some(known) => known,
            None if guess_absent => None,
            None => {
                let fetched = source.kv.range(RangeRequest::key(path.as_str())).await?.kvs.into_iter().next();
                source.known.learn(path.clone(), fetched.clone());
                fetched
            }
        };
        // A key read twice must be the same both times, or one of the two answers was based on stale data.
        let revision = found.as_ref().map_or(0, |kv| kv.mod_revision);
        self.state().reads.entry(path).or_insert(revision);
        Ok(found.map_or(Below::Absent, Below::Stored))
    }

    /// Creates or replaces a record.
    pub fn put<K: Key>(&self, key: &K, value: &K::Value) {
        self.write(key.any(), Some(value.encode_to_vec()), None);
    }

    /// As [`Tx::put`]; the record vanishes when the lease ends.
    pub fn put_leased<K: Key>(&self, key: &K, value: &K::Value, lease: LeaseId) {
        self.write(key.any(), Some(value.encode_to_vec()), Some(lease));
    }

    /// Removes a record, if it exists.
    pub fn delete<K: Key>(&self, key: &K) {
        self.write(key.any(), None, None);
    }

    /// Writes what a transition wants.
    pub fn apply(&self, delta: &Delta) {
        delta.apply(&mut self.clone());
    }

    /// Notes the id of the request that this transaction serves: it is kept with the generations it raises, so that whoever acts on them can log
    /// it. Of several requests in one commit the last one counts.
    pub fn origin(&self, request_id: &str) {
        self.state().origin = Some(request_id.to_owned());
    }

    /// Raises the generation of a DN although none of its records change ("sync it now"). Where they change it is raised anyway.
    pub fn touch_dn(&self, dn: DnId) {
        self.write(DnGenKey(dn).any(), Some(Vec::new()), None);
    }

    /// As [`Tx::touch_dn`], for a CN (also after a change of a leg state it depends on).
    pub fn touch_cn(&self, cn: CnId) {
        self.write(CnGenKey(cn).any(), Some(Vec::new()), None);
    }

    fn write(&self, key: AnyKey, bytes: Option<Vec<u8>>, lease: Option<LeaseId>) {
        let generation = matches!(key, AnyKey::DnGen(_) | AnyKey::CnGen(_));
        let new = bytes.map(|bytes| NewValue { bytes: Bytes::from(bytes), lease, generation });
        self.state().writes.insert(key, new);
    }

    pub(crate) fn written(&self) -> Vec<AnyKey> {
        self.state().writes.keys().cloned().collect()
    }

    pub(crate) fn own_write(&self, key: &AnyKey) -> Option<Option<Bytes>> {
        self.state().writes.get(key).map(|new| new.as_ref().map(|new| new.bytes.clone()))
    }

    /// Ends the run: adds the derived writes, or drops all writes if the closure refused.
    pub(crate) async fn finish(&self, keep_writes: bool) -> Result<Footprint, KvError> {
        if keep_writes {
            derive::derive(self).await?;
        }
        let prefix = &self.shared.source.prefix;
        let mut state = self.state();
        let reads = std::mem::take(&mut state.reads);
        let mut writes = std::mem::take(&mut state.writes);
        if let Some(origin) = &state.origin {
            let origin = generation::with_origin(origin);
            writes
                .values_mut()
                .flatten()
                .filter(|new| new.generation)
                .for_each(|new| new.bytes = origin.clone());
        }
        let writes = if keep_writes { writes } else { BTreeMap::new() };
        Ok(Footprint {
            reads,
            writes: writes.into_iter().map(|(key, new)| (key.path(prefix), new)).collect(),
        })
    }
}

/// As [`Tx::put`] and [`Tx::delete`].
impl Sink for Tx {
    fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
        Self::put(self, key, value);
    }

    fn delete<K: Key>(&mut self, key: &K) {
        Self::delete(self, key);
    }
}
