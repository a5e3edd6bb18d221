//! All state of VDA is in etcd, and this is the only crate that talks to it.
//!
//! - [`Kv`] is what is needed of etcd: [`EtcdKv`], [`MemKv`] with the same semantics in memory, [`FlakyKv`] that loses answers.
//! - [`Store`] adds types ([`vda_model::keys::Key`]) and transactions: [`Store::stm`] runs one closure, [`Store::lane`] shares
//!   a commit among many ([`Lane`]).
//! - [`WatchCache`] is a local copy of part of the keys, consistent at one revision.
//! - [`Membership`] and [`owner_of`] split work among processes.
//!
//! The generations of nodes and the indexes of their names are derived from the other writes: no caller writes them.

mod backoff;
mod cache;
mod commit;
mod derive;
mod error;
mod etcd;
mod flaky;
mod generation;
mod kv;
mod lane;
mod mem;
mod membership;
mod rendezvous;
mod stm;
mod store;
mod tx;
mod watch_cache;

pub use backoff::Backoff;
pub use commit::MAX_TXN_OPS;
pub use error::{Abort, KvError, OrAbort, StmError};
pub use etcd::{EtcdConfig, EtcdKv};
pub use flaky::{Fault, FlakyKv};
pub use kv::{
    Compare, Event, KeyValue, Kv, LeaseId, RangeReply, RangeRequest, Txn, TxnReply, WatchBatch, WatchStream,
    Write,
};
pub use lane::Lane;
pub use mem::MemKv;
pub use membership::{Membership, MembershipConfig};
pub use rendezvous::owner_of;
pub use stm::Committed;
pub use store::{Listing, Raw, Stats, Store, Versioned};
pub use tx::Tx;
pub use watch_cache::{ChangeSet, Changes, Snapshot, WatchCache};
