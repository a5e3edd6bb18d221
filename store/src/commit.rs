//! Sending a transaction, and finding out what became of it when the answer is lost.
//!
//! A commit whose answer is lost may have been applied, may not have been, or may still be under way in etcd. It is sent again *as it
//! is*, which is safe when one of its writes is guarded by one of its own compares: whichever of the two is applied first makes the
//! other one fail. If the repetition commits, the first one never will. If it is refused, the keys tell what happened: every generation it
//! wrote carries a random mark of this transaction, and the records it wrote are compared byte by byte.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::generation::marked;
use crate::kv::{Compare, KeyValue, Kv, Txn, TxnReply, Write};
use crate::store::{Counters, count};
use crate::tx::Footprint;
use crate::{Backoff, KvError};

/// Most compares, and most writes, of one transaction (etcd's default for `--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 128;

/// How long the outcome of a commit is looked for.
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed(u64),
    Refused(Vec<(String, Option<KeyValue>)>),
}

/// Commits a footprint. [`KvError::Ambiguous`] only if the outcome could not be found out.
pub(crate) async fn commit(
    kv: &dyn Kv,
    footprint: &Footprint,
    counters: &Counters,
) -> Result<Outcome, KvError> {
    let ops = footprint.reads.len().max(footprint.writes.len());
    if ops > MAX_TXN_OPS {
        let detail = format!("{ops} keys in one transaction, at most {MAX_TXN_OPS}");
        return Err(KvError::TooLarge { detail });
    }
    let mark: u64 = rand::random();
    let txn = txn_of(footprint, mark);
    let outcome = match kv.commit(txn.clone()).await {
        Ok(reply) => Ok(outcome_of(reply)),
        Err(KvError::Ambiguous { detail }) => {
            count(&counters.ambiguous, 1);
            resolve(kv, footprint, txn, mark, detail).await
        }
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(Outcome::Committed(_)) => count(&counters.commits, 1),
        Ok(Outcome::Refused(_)) => count(&counters.conflicts, 1),
        Err(_) => {}
    }
    outcome
}

fn outcome_of(reply: TxnReply) -> Outcome {
    match reply {
        TxnReply::Committed { revision } => Outcome::Committed(revision),
        TxnReply::Refused { found, .. } => Outcome::Refused(found),
    }
}

fn txn_of(footprint: &Footprint, mark: u64) -> Txn {
    let compare =
        |(key, mod_revision): (&String, &u64)| Compare { key: key.clone(), mod_revision: *mod_revision };
    let marked = marked(mark);
    let writes = footprint.writes.iter().map(|(key, new)| match new {
        Some(new) => {
            let value =
                if new.generation { [&marked[..], &new.bytes].concat().into() } else { new.bytes.clone() };
            Write::Put { key: key.clone(), value, lease: new.lease }
        }
        None => Write::Delete { key: key.clone() },
    });
    Txn {
        compares: footprint.reads.iter().map(compare).collect(),
        writes: writes.collect(),
        also_read: Vec::new(),
    }
}

/// Whether at most one of two sendings can be applied, or applying both is the same as one.
fn repeatable(footprint: &Footprint) -> bool {
    let guarded = footprint.writes.keys().any(|key| footprint.reads.contains_key(key));
    let only_generations =
        footprint.writes.values().all(|new| new.as_ref().is_some_and(|new| new.generation));
    guarded || only_generations
}

async fn resolve(
    kv: &dyn Kv,
    footprint: &Footprint,
    mut txn: Txn,
    mark: u64,
    detail: String,
) -> Result<Outcome, KvError> {
    if !repeatable(footprint) {
        return Err(KvError::Ambiguous { detail });
    }
    let room = MAX_TXN_OPS - txn.compares.len();
    txn.also_read = footprint
        .writes
        .keys()
        .filter(|key| !footprint.reads.contains_key(*key))
        .take(room)
        .cloned()
        .collect();
    let deadline = Instant::now() + RESOLVE_WITHIN;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        backoff.wait().await;
        match kv.commit(txn.clone()).await {
            Ok(TxnReply::Committed { revision }) => return Ok(Outcome::Committed(revision)),
            Ok(TxnReply::Refused { found, .. }) => return judge(footprint, mark, found, detail),
            Err(KvError::Ambiguous { .. } | KvError::Unavailable { .. }) if Instant::now() < deadline => {}
            Err(KvError::Ambiguous { .. } | KvError::Unavailable { .. }) => {
                return Err(KvError::Ambiguous { detail });
            }
            Err(error) => return Err(error),
        }
    }
}

/// The repetition was refused, so the first sending was either applied or never will be.
fn judge(
    footprint: &Footprint,
    mark: u64,
    found: Vec<(String, Option<KeyValue>)>,
    detail: String,
) -> Result<Outcome, KvError> {
    let now: BTreeMap<&str, &KeyValue> =
        found.iter().filter_map(|(key, kv)| Some((key.as_str(), kv.as_ref()?))).collect();
    let marked = marked(mark);
    let puts = || footprint.writes.iter().filter_map(|(key, new)| Some((key.as_str(), new.as_ref()?)));
    let with_mark = puts().find_map(|(key, new)| {
        let kv = now.get(key)?;
        (new.generation && kv.value.starts_with(&marked)).then_some(kv.mod_revision)
    });
    if let Some(revision) = with_mark {
        return Ok(Outcome::Committed(revision));
    }
    // A key that existed, was to be changed, and has not: revisions only grow, so it was not applied. (A key that was absent and is absent
    // proves nothing: it may have been created and deleted since.)
    let untouched = footprint.writes.keys().any(|key| {
        let read = footprint.reads.get(key).copied().unwrap_or(0);
        read > 0 && now.get(key.as_str()).is_some_and(|kv| kv.mod_revision == read)
    });
    if untouched {
        return Ok(Outcome::Refused(found));
    }
    let with_our_bytes = puts().find_map(|(key, new)| {
        let kv = now.get(key)?;
        let changed = footprint.reads.get(key) != Some(&kv.mod_revision);
        (!new.generation && changed && kv.value == new.bytes).then_some(kv.mod_revision)
    });
    match with_our_bytes {
        Some(revision) => Ok(Outcome::Committed(revision)),
        None => {
            Err(KvError::Ambiguous { detail: format!("{detail}; what it wrote was changed again since") })
        }
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
