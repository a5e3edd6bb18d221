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
use crate::kv::{Compare, KeyValue, Kv, RangeRequest, Txn, TxnReply, Write};
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
            Ok(TxnReply::Refused { found, .. }) => return judge(kv, footprint, mark, found, detail).await,
            Err(KvError::Ambiguous { .. } | KvError::Unavailable { .. }) if Instant::now() < deadline => {}
            Err(KvError::Ambiguous { .. } | KvError::Unavailable { .. }) => {
                return Err(KvError::Ambiguous { detail });
            }
            Err(error) => return Err(error),
        }
    }
}

/// The repetition was refused, so the first sending was either applied or never will be.
async fn judge(
    kv: &dyn Kv,
    footprint: &Footprint,
    mark: u64,
    found: Vec<(String, Option<KeyValue>)>,
    detail: String,
) -> Result<Outcome, KvError> {
    if footprint.writes.is_empty() {
        // It only verified what a refusal is based on.
        return Ok(Outcome::Refused(found));
    }
    let now: BTreeMap<&str, &KeyValue> =
        found.iter().filter_map(|(key, kv)| Some((key.as_str(), kv.as_ref()?))).collect();
    let marked = marked(mark);
    let with_mark = footprint.writes.iter().find_map(|(key, new)| {
        let kv = now.get(key.as_str())?;
        (new.as_ref()?.generation && kv.value.starts_with(&marked)).then_some(kv.mod_revision)
    });
    if let Some(revision) = with_mark {
        return Ok(Outcome::Committed(revision));
    }
    // A key that existed, was to be changed, and has not: revisions only grow, so it was not applied. (A key that was absent and is absent
    // proves nothing: it may have been created and deleted since.)
    let guards: Vec<(&str, u64)> = footprint
        .writes
        .keys()
        .filter_map(|key| Some((key.as_str(), footprint.reads.get(key).copied()?)))
        .collect();
    let untouched =
        |(key, read): &(&str, u64)| *read > 0 && now.get(key).is_some_and(|kv| kv.mod_revision == *read);
    if guards.iter().any(untouched) {
        return Ok(Outcome::Refused(found));
    }
    let unknown =
        || KvError::Ambiguous { detail: format!("{detail}; what it wrote was changed again since") };
    let followed = guards.iter().find_map(|(key, read)| Some((*key, *read, *now.get(key)?)));
    let Some((key, read, latest)) = followed else { return Err(unknown()) };
    let Some(revision) = next_write(kv, key, read, latest).await? else { return Err(unknown()) };
    match (was_ours(kv, footprint, &marked, revision).await?, read) {
        (true, _) => Ok(Outcome::Committed(revision)),
        // It may have been created by us, deleted, and created again.
        (false, 0) => Err(unknown()),
        (false, _) => Ok(Outcome::Refused(found)),
    }
}

/// Steps back in the history of one key.
const MAX_STEPS: usize = 64;

/// The first revision after `read` at which `key`, which now is `latest`, was written: the only one at which a transaction that compared it
/// with `read` can have been applied. `None`: too long ago to be found out.
async fn next_write(kv: &dyn Kv, key: &str, read: u64, latest: &KeyValue) -> Result<Option<u64>, KvError> {
    if read == 0 {
        return Ok(Some(latest.create_revision));
    }
    let mut revision = latest.mod_revision;
    for _ in 0..MAX_STEPS {
        let request = RangeRequest { revision: revision - 1, ..RangeRequest::key(key) };
        let before = match kv.range(request).await {
            Ok(reply) => reply.kvs.into_iter().next(),
            Err(KvError::Compacted { .. }) => return Ok(None),
            Err(error) => return Err(KvError::Ambiguous { detail: error.to_string() }),
        };
        match before {
            Some(before) if before.mod_revision == read => return Ok(Some(revision)),
            Some(before) if before.mod_revision > read => revision = before.mod_revision,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether everything this transaction puts was put at `revision`. One record may be the same as somebody else would have written it (the
/// books after an equal request); all of them, with the mark of the generations and new ids in keys, are not.
async fn was_ours(kv: &dyn Kv, footprint: &Footprint, marked: &[u8], revision: u64) -> Result<bool, KvError> {
    for (key, new) in &footprint.writes {
        let Some(new) = new else { continue };
        let request = RangeRequest { revision, ..RangeRequest::key(key.as_str()) };
        let reply = kv.range(request).await.map_err(|e| KvError::Ambiguous { detail: e.to_string() })?;
        let ours =
            |value: &[u8]| if new.generation { value.starts_with(marked) } else { value == &*new.bytes };
        if !reply.kvs.first().is_some_and(|kv| kv.mod_revision == revision && ours(&kv.value)) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
