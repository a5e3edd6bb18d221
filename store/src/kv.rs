//! What is needed of etcd, and nothing more. Keys are UTF-8 paths, revisions as in etcd: one counter for the whole store, raised
//! once per transaction that changes something.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::KvError;

/// A lease of etcd; keys put under it vanish when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// The lease it is bound to, if any.
    pub lease: Option<LeaseId>,
}

/// A linearizable read of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// First key.
    pub start: String,
    /// First key after the range; `None`: only `start`.
    pub end: Option<String>,
    /// At most so many keys; 0: all.
    pub limit: usize,
    /// As of this revision; 0: the newest.
    pub revision: u64,
}

impl RangeRequest {
    /// One key.
    #[must_use]
    pub fn key(key: impl Into<String>) -> Self {
        Self { start: key.into(), end: None, limit: 0, revision: 0 }
    }

    /// All keys that start with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        let start = prefix.into();
        let end = Some(prefix_end(&start));
        Self { start, end, limit: 0, revision: 0 }
    }
}

/// The first key after all keys that start with `prefix`. Our prefixes are ASCII, so that the last byte can be raised.
pub(crate) fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    let last = end.pop().unwrap_or('\u{0}');
    debug_assert!(last.is_ascii() && last != '\u{7f}', "prefix {prefix:?} must end in ASCII");
    end.push(char::from(last as u8 + 1));
    end
}

/// Answer to a [`RangeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// In order of keys.
    pub kvs: Vec<KeyValue>,
    /// Revision of the store when it was read.
    pub revision: u64,
    /// Whether `limit` left some out.
    pub more: bool,
}

/// The condition that a key was last changed at `mod_revision`; 0: does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Its expected revision.
    pub mod_revision: u64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create or replace.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// Bind it to this lease.
        lease: Option<LeaseId>,
    },
    /// Remove; nothing happens if it does not exist.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// If all compares hold, all writes are applied at one revision; else nothing is, and what the keys hold now is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Changes; a key at most once.
    pub writes: Vec<Write>,
    /// Keys to read besides the compared ones if a condition does not hold.
    pub also_read: Vec<String>,
}

/// What became of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnReply {
    /// All conditions held.
    Committed {
        /// The revision of its writes (of the store, if it wrote nothing).
        revision: u64,
    },
    /// Some condition did not hold.
    Refused {
        /// Revision at which `found` was read.
        revision: u64,
        /// What the keys of `compares`, then those of `also_read`, hold now.
        found: Vec<(String, Option<KeyValue>)>,
    },
}

/// A change as a watch reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Created or replaced.
    Put(KeyValue),
    /// Removed.
    Delete {
        /// The key.
        key: String,
        /// The revision at which it was removed.
        mod_revision: u64,
    },
}

impl Event {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it happened.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// Changes of whole revisions, in order. Without events: nothing happened up to `revision`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything up to here has been reported.
    pub revision: u64,
    /// In order of revision.
    pub events: Vec<Event>,
}

/// Ends after an error; then watch again from the revision after the last one seen.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, KvError>>;

/// The operations. Dropping a future of [`Kv::commit`] leaves its outcome unknown.
pub trait Kv: Send + Sync + 'static {
    /// Reads. Never [`KvError::Ambiguous`].
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeReply, KvError>>;
    /// Commits; sent at most once.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>>;
    /// Changes of the keys that start with `prefix` from revision `from` on (inclusive, > 0).
    fn watch(&self, prefix: String, from: u64) -> BoxFuture<'_, Result<WatchStream, KvError>>;
    /// A new lease of (at least) `ttl_s` seconds.
    fn grant(&self, ttl_s: u64) -> BoxFuture<'_, Result<LeaseId, KvError>>;
    /// Starts its time anew; [`KvError::LeaseGone`] if it has ended.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>>;
    /// Ends it and removes its keys. No error if it has ended already.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>>;
}
