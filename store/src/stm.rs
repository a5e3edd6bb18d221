//! One closure, one transaction.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Instrument;

use crate::cache::ReadCache;
use crate::commit::{Outcome, commit};
use crate::tx::{Footprint, Source, Writes};
use crate::{Abort, Backoff, KvError, StmError, Store, Tx};

/// More attempts than this mean that the record is contended beyond what this method is made for.
pub(crate) const MAX_ATTEMPTS: u32 = 16;

/// What a transaction gave, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// Revision of its writes; if it wrote nothing, one at which all it read was current.
    pub revision: u64,
}

impl Store {
    /// Runs `body` (load, one pure decision, put) and commits what it wrote if nothing that it read has changed; else runs it
    /// again. Everything that is not a function of what it reads (ids, timestamps) must be made outside of it, so that all runs are alike.
    /// Its refusal ([`Abort::Domain`]) is answered only after verifying that it was based on current data.
    ///
    /// # Errors
    /// See [`StmError`].
    pub async fn stm<T, E, F, Fut>(&self, name: &'static str, body: F) -> Result<Committed<T>, StmError<E>>
    where
        E: StdError + 'static,
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T, Abort<E>>>,
    {
        self.stm_inner(body).instrument(tracing::info_span!("stm", name)).await
    }

    async fn stm_inner<T, E, F, Fut>(&self, body: F) -> Result<Committed<T>, StmError<E>>
    where
        E: StdError + 'static,
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T, Abort<E>>>,
    {
        let inner = &self.inner;
        let known = ReadCache::new(4096);
        let source = Arc::new(Source { kv: inner.kv.clone(), prefix: inner.prefix.clone(), known });
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(200));
        for _ in 0..MAX_ATTEMPTS {
            let tx = Tx::new(source.clone(), Arc::new(Mutex::new(Writes::new())));
            let (result, footprint) = run(&body, tx).await.map_err(StmError::from_kv)?;
            match commit_if_needed(self, &footprint).await.map_err(StmError::from_kv)? {
                Outcome::Committed(revision) => {
                    return result.map(|value| Committed { value, revision }).map_err(StmError::Domain);
                }
                Outcome::Refused(found) => {
                    // All of one revision: the next run is based on these alone.
                    source.known.forget_all();
                    found.into_iter().for_each(|(key, kv)| source.known.learn(key, kv));
                    backoff.wait().await;
                }
            }
        }
        Err(StmError::Conflict { attempts: MAX_ATTEMPTS })
    }
}

async fn commit_if_needed(store: &Store, footprint: &Footprint) -> Result<Outcome, KvError> {
    if footprint.reads.is_empty() && footprint.writes.is_empty() {
        return Ok(Outcome::Committed(0));
    }
    commit(store.inner.kv.as_ref(), footprint, &store.inner.counters).await
}

/// One run of the closure, with what it read and, unless it refused, wrote.
pub(crate) async fn run<T, E, F, Fut>(body: &F, tx: Tx) -> Result<(Result<T, E>, Footprint), KvError>
where
    F: Fn(Tx) -> Fut,
    Fut: Future<Output = Result<T, Abort<E>>>,
{
    let result = match body(tx.clone()).await {
        Ok(value) => Ok(value),
        Err(Abort::Domain(error)) => Err(error),
        Err(Abort::Kv(error)) => return Err(error),
    };
    let footprint = tx.finish(result.is_ok()).await?;
    Ok((result, footprint))
}

#[cfg(test)]
#[path = "stm_tests.rs"]
mod tests;
