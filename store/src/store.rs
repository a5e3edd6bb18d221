//! Typed access. Reads outside of transactions are here; transactions are in `stm` and `lane`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use vda_model::keys::{AnyKey, Key, Prefix, Scope};

use crate::kv::{KeyValue, Kv, LeaseId, RangeRequest};
use crate::{KvError, Lane};

/// `revision` is 0 for what was written by this transaction, or by one that is to be committed together with it.
pub use vda_model::Versioned;

/// A record as stored, decoded on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The encoded message.
    pub bytes: Bytes,
    /// `mod_revision`.
    pub revision: u64,
}

impl From<KeyValue> for Raw {
    fn from(kv: KeyValue) -> Self {
        Self { bytes: kv.value, revision: kv.mod_revision }
    }
}

impl Raw {
    /// Decodes it as what `K` keys hold. `key` is for the message of an error.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] if it is not such a record, or one of a newer schema than this program knows.
    pub fn decode<K: Key>(&self, key: &AnyKey) -> Result<Versioned<K::Value>, KvError> {
        let value = decode::<K::Value>(&self.bytes)
            .map_err(|detail| KvError::Corrupt { key: key.to_string(), detail })?;
        Ok(Versioned::new(value, self.revision))
    }
}

impl Raw {
    /// Of the value of a `gen` key: the id of the request that raised the generation, if it was one.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        crate::generation::origin_of(&self.bytes)
    }
}

/// Every record has its schema version in field 1.
pub(crate) fn decode<V: Message + Default>(bytes: &[u8]) -> Result<V, String> {
    const TAG: u8 = 1 << 3; // field 1, varint
    if bytes.first() == Some(&TAG) {
        let version = prost::decode_length_delimiter(&bytes[1..]).map_err(|e| e.to_string())?;
        if version > vda_proto::SCHEMA_VERSION as usize {
            return Err(format!(
                "its schema {version} is newer than {}, which this program knows",
                vda_proto::SCHEMA_VERSION
            ));
        }
    }
    V::decode(bytes).map_err(|e| e.to_string())
}

/// One page of a directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In order of keys. Keys that are not ours are left out.
    pub entries: Vec<(AnyKey, Raw)>,
    /// Revision of the store at which it was read.
    pub revision: u64,
    /// Pass it as `after` to get the next page; `None`: this was the last one.
    pub next: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) ambiguous: AtomicU64,
    pub(crate) lane_requests: AtomicU64,
    pub(crate) lane_batches: AtomicU64,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions sent and committed.
    pub commits: u64,
    /// Transactions refused because something read had changed.
    pub conflicts: u64,
    /// Commits whose answer was lost (and then found out, or not).
    pub ambiguous: u64,
    /// Requests answered by the lane.
    pub lane_requests: u64,
    /// Transactions they shared.
    pub lane_batches: u64,
}

/// The records of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) prefix: Prefix,
    pub(crate) counters: Arc<Counters>,
    lane: OnceLock<Lane>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// The records below `prefix` in `kv`.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, prefix: Prefix) -> Self {
        Self { inner: Arc::new(Inner { kv, prefix, counters: Arc::default(), lane: OnceLock::new() }) }
    }

    /// The key-value store below.
    #[must_use]
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.inner.kv
    }

    /// Root of the keys.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.inner.prefix
    }

    /// The group-commit lane of this store, started at the first call (needs a tokio runtime).
    pub fn lane(&self) -> &Lane {
        self.inner.lane.get_or_init(|| Lane::start(self))
    }

    /// Reads one record; `None`: there is none.
    ///
    /// # Errors
    /// [`KvError::Unavailable`], or [`KvError::Corrupt`] if it cannot be decoded.
    pub async fn get<K: Key>(&self, key: &K) -> Result<Option<Versioned<K::Value>>, KvError> {
        let any = key.any();
        let reply = self.inner.kv.range(RangeRequest::key(any.path(&self.inner.prefix))).await?;
        reply.kvs.into_iter().next().map(|kv| Raw::from(kv).decode::<K>(&any)).transpose()
    }

    /// One page of a directory, in order of keys: at most `limit` entries (0: all) after the key `after`, as of `revision` (0: now).
    ///
    /// # Errors
    /// [`KvError::Unavailable`]; [`KvError::Compacted`] if `revision` is too old.
    pub async fn list(
        &self,
        scope: Scope,
        after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<Listing, KvError> {
        let mut request = RangeRequest::prefix(scope.path(&self.inner.prefix));
        (request.limit, request.revision) = (limit, revision);
        if let Some(after) = after {
            request.start = format!("{after}\u{0}").max(request.start);
        }
        let reply = self.inner.kv.range(request).await?;
        let next = reply.more.then(|| reply.kvs.last().map(|kv| kv.key.clone())).flatten();
        let parse = |kv: KeyValue| Some((AnyKey::parse(&self.inner.prefix, &kv.key)?, Raw::from(kv)));
        Ok(Listing {
            entries: reply.kvs.into_iter().filter_map(parse).collect(),
            revision: reply.revision,
            next,
        })
    }

    /// A whole directory at one revision, read in pages.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_all(&self, scope: Scope, revision: u64) -> Result<Listing, KvError> {
        const PAGE: usize = 1000;
        let mut all = self.list(scope, None, PAGE, revision).await?;
        while let Some(after) = all.next.take() {
            let page = self.list(scope, Some(&after), PAGE, all.revision).await?;
            all.entries.extend(page.entries);
            all.next = page.next;
        }
        Ok(all)
    }

    /// A new lease of at least `ttl_s` seconds.
    ///
    /// # Errors
    /// [`KvError::Unavailable`].
    pub async fn grant(&self, ttl_s: u64) -> Result<LeaseId, KvError> {
        self.inner.kv.grant(ttl_s).await
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let c = &self.inner.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: load(&c.commits),
            conflicts: load(&c.conflicts),
            ambiguous: load(&c.ambiguous),
            lane_requests: load(&c.lane_requests),
            lane_batches: load(&c.lane_batches),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
