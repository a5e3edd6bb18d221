//! Group commit. Requests that arrive while a transaction is in flight share the next one: one write to etcd's log for many of them.
//!
//! Each request runs on top of what the requests before it in the batch wrote, and on a cache of what keys held when last seen. A
//! request that needs a key which is not in the cache steps aside, fetches it, and comes back for a later batch, so that it does not hold up the
//! others. Refusals are isolated: the writes of a request that refuses are dropped; what it read is still compared before the refusal is
//! answered. If something was stale the whole batch runs again on the values that the refused transaction brought back.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use vda_model::keys::AnyKey;

use crate::cache::ReadCache;
use crate::commit::{MAX_TXN_OPS, Outcome, commit};
use crate::kv::KeyValue;
use crate::stm::MAX_ATTEMPTS;
use crate::store::{Counters, Raw, count};
use crate::tx::{Footprint, Source, Writes};
use crate::{Abort, Committed, KvError, StmError, Store, Tx};

mod request;

use request::{Fate, Job, Request, Verdict};

/// Requests that may wait for a batch before callers are held back.
const QUEUE: usize = 1024;
/// Keys whose last seen values are kept. Books are used again and again and stay; what was only created makes room: a few MiB in all.
const CACHED_KEYS: usize = 4096;
/// etcd accepts requests up to 1.5 MiB.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Handle of the lane; see [`Store::lane`].
#[derive(Clone)]
pub struct Lane {
    queue: mpsc::Sender<Box<dyn Job>>,
    source: Arc<Source>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    pub(crate) fn start(store: &Store) -> Self {
        let (queue, arriving) = mpsc::channel(QUEUE);
        let (back, returning) = mpsc::unbounded_channel();
        let known = ReadCache::new(CACHED_KEYS);
        let source =
            Arc::new(Source { kv: store.inner.kv.clone(), prefix: store.inner.prefix.clone(), known });
        let counters = store.inner.counters.clone();
        let shared = source.clone();
        let worker =
            Worker { source, counters, waiting: VecDeque::new(), arriving, back, returning, fetching: 0 };
        tokio::spawn(worker.run());
        Self { queue, source: shared }
    }

    /// Tells what a key held when the caller last saw it (`None`: nothing), so that a request which reads it need not fetch it. A guess: what
    /// the lane knows to be newer stands, and every read is verified by the commit.
    pub fn hint(&self, key: &AnyKey, seen: Option<&Raw>) {
        let path = key.path(&self.source.prefix);
        let seen = seen.map(|raw| KeyValue {
            key: path.clone(),
            value: raw.bytes.clone(),
            create_revision: raw.revision,
            mod_revision: raw.revision,
            lease: None,
        });
        if seen.is_some() || self.source.known.get(&path).is_none() {
            self.source.known.learn(path, seen);
        }
    }

    /// As [`Store::stm`], sharing the commit. `body` may run several times, and later than this call. Requests are served in the order in
    /// which they arrive, except that one which has to fetch something first is overtaken. Waits when the queue is full. A caller that
    /// goes away before its request was started withdraws it.
    ///
    /// # Errors
    /// See [`StmError`].
    pub async fn submit<T, E, F, Fut>(&self, name: &'static str, body: F) -> Result<Committed<T>, StmError<E>>
    where
        T: Send + 'static,
        E: StdError + Send + 'static,
        F: Fn(Tx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Abort<E>>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request: Box<dyn Job> = Box::new(Request::new(name, body, reply));
        let ended =
            || StmError::Kv(KvError::Unavailable { detail: "the group-commit lane has ended".into() });
        self.queue.send(request).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

struct Entry {
    job: Box<dyn Job>,
    attempts: u32,
    /// Its batch failed in a way that may be its fault: it gets its own.
    alone: bool,
}

struct Worker {
    source: Arc<Source>,
    counters: Arc<Counters>,
    waiting: VecDeque<Entry>,
    arriving: mpsc::Receiver<Box<dyn Job>>,
    back: mpsc::UnboundedSender<Entry>,
    returning: mpsc::UnboundedReceiver<Entry>,
    /// How many have stepped aside to fetch.
    fetching: usize,
}

/// The requests that share a transaction, and what they read and wrote together.
#[derive(Default)]
struct Batch {
    below: Arc<Mutex<Writes>>,
    footprint: Footprint,
    bytes: usize,
    keys: usize,
    members: Vec<Entry>,
}

impl Worker {
    async fn run(mut self) {
        while self.wait_for_work().await {
            let batch = self.gather().await;
            if !batch.members.is_empty() {
                self.commit(batch).await;
            }
        }
    }

    /// False when the store is gone and nothing is left to do.
    async fn wait_for_work(&mut self) -> bool {
        if self.waiting.is_empty() {
            tokio::select! {
                Some(entry) = self.returning.recv(), if self.fetching > 0 => self.returned(entry),
                job = self.arriving.recv() => match job {
                    Some(job) => self.waiting.push_back(Entry { job, attempts: 0, alone: false }),
                    None if self.fetching == 0 => return false,
                    None => if let Some(entry) = self.returning.recv().await { self.returned(entry) },
                },
            }
        }
        while let Ok(entry) = self.returning.try_recv() {
            self.returned(entry);
        }
        while self.waiting.len() < QUEUE
            && let Ok(job) = self.arriving.try_recv()
        {
            self.waiting.push_back(Entry { job, attempts: 0, alone: false });
        }
        true
    }

    /// They have waited already: they go first.
    fn returned(&mut self, entry: Entry) {
        self.fetching -= 1;
        self.waiting.push_front(entry);
    }

    async fn gather(&mut self) -> Batch {
        let mut batch = Batch::default();
        while let Some(entry) = self.waiting.pop_front() {
            if entry.job.abandoned() {
                continue;
            }
            if entry.alone && !batch.members.is_empty() {
                self.waiting.push_front(entry);
                break;
            }
            let tx = Tx::new(self.source.clone(), batch.below.clone());
            let mut run = entry.job.run(tx);
            match futures::poll!(&mut run) {
                std::task::Poll::Pending => self.step_aside(entry, run),
                std::task::Poll::Ready(Verdict::Failed(error)) => entry.job.answer(Fate::Failed(error)),
                std::task::Poll::Ready(Verdict::Done(footprint)) => {
                    let alone = entry.alone;
                    if let Err(entry) = batch.admit(entry, footprint) {
                        self.waiting.push_front(entry);
                        break;
                    }
                    if alone {
                        break;
                    }
                }
            }
        }
        batch
    }

    /// Lets the run finish on the side. What it fetches is in the cache afterwards; its result is not used.
    fn step_aside(&mut self, entry: Entry, run: BoxFuture<'static, Verdict>) {
        let back = self.back.clone();
        self.fetching += 1;
        tokio::spawn(async move {
            if let Verdict::Failed(error) = run.await {
                // It comes back nevertheless, to be counted, but with its answer given.
                entry.job.fail(error);
            }
            // Nobody takes it back only when the worker has ended.
            back.send(entry).ok();
        });
    }

    async fn commit(&mut self, batch: Batch) {
        let Batch { footprint, members, .. } = batch;
        count(&self.counters.lane_batches, 1);
        let nothing = footprint.reads.is_empty() && footprint.writes.is_empty();
        let outcome = if nothing {
            Ok(Outcome::Committed(0))
        } else {
            commit(self.source.kv.as_ref(), &footprint, &self.counters).await
        };
        match outcome {
            Ok(Outcome::Committed(revision)) => {
                self.learn(footprint, revision);
                count(&self.counters.lane_requests, members.len() as u64);
                members.into_iter().for_each(|entry| entry.job.answer(Fate::Committed(revision)));
            }
            Ok(Outcome::Refused(found)) => {
                found.into_iter().for_each(|(key, kv)| self.source.known.learn(key, kv));
                self.again(members).await;
            }
            Err(error) => self.failed(members, error),
        }
    }

    fn learn(&self, footprint: Footprint, revision: u64) {
        for (key, new) in footprint.writes {
            let Some(new) = new else {
                self.source.known.learn(key, None);
                continue;
            };
            if new.generation {
                continue;
            }
            let before = self.source.known.get(&key).flatten();
            let create_revision = before.map_or(revision, |kv| kv.create_revision);
            let value = KeyValue {
                key: key.clone(),
                value: new.bytes,
                create_revision,
                mod_revision: revision,
                lease: new.lease,
            };
            self.source.known.learn(key, Some(value));
        }
    }

    async fn again(&mut self, members: Vec<Entry>) {
        let tried = members.iter().map(|entry| entry.attempts + 1).max().unwrap_or(0);
        for mut entry in members.into_iter().rev() {
            entry.attempts += 1;
            if entry.attempts >= MAX_ATTEMPTS {
                let attempts = entry.attempts;
                entry.job.answer(Fate::Conflict(attempts));
            } else {
                self.waiting.push_front(entry);
            }
        }
        if tried > 2 {
            // Another writer is as fast as we are: get out of step with it.
            let most = Duration::from_millis(1 << tried.min(6));
            tokio::time::sleep(most.mul_f64(rand::random_range(0.0..1.0))).await;
        }
    }

    fn failed(&mut self, members: Vec<Entry>, error: KvError) {
        self.source.known.forget_all();
        let their_own_fault = !matches!(error, KvError::Unavailable { .. } | KvError::Ambiguous { .. });
        if their_own_fault && members.len() > 1 {
            for mut entry in members.into_iter().rev() {
                entry.alone = true;
                self.waiting.push_front(entry);
            }
            return;
        }
        members.into_iter().for_each(|entry| entry.job.answer(Fate::Failed(error.clone())));
    }
}

impl Batch {
    /// Takes a request in, or gives it back if it does not fit or is based on another state of a key than the others.
    fn admit(&mut self, entry: Entry, new: Footprint) -> Result<(), Entry> {
        let bytes: usize =
            new.writes.iter().map(|(key, v)| key.len() + v.as_ref().map_or(0, |v| v.bytes.len())).sum();
        if !self.members.is_empty() && !self.fits(&new, bytes) {
            return Err(entry);
        }
        self.bytes += bytes;
        self.footprint.reads.extend(new.reads);
        self.below.lock().unwrap_or_else(PoisonError::into_inner).extend(new.writes.clone());
        self.footprint.writes.extend(new.writes);
        self.keys = self.count_keys();
        self.members.push(entry);
        Ok(())
    }

    fn fits(&self, new: &Footprint, bytes: usize) -> bool {
        let (reads, writes) = (&self.footprint.reads, &self.footprint.writes);
        let agrees = new.reads.iter().all(|(key, revision)| reads.get(key).is_none_or(|r| r == revision));
        let unseen = |key: &&String| !reads.contains_key(*key) && !writes.contains_key(*key);
        let more = new.reads.keys().filter(unseen).count()
            + new.writes.keys().filter(|key| !new.reads.contains_key(*key)).filter(unseen).count();
        agrees && self.keys + more <= MAX_TXN_OPS && self.bytes + bytes <= MAX_BATCH_BYTES
    }

    /// Keys read or written.
    fn count_keys(&self) -> usize {
        let Footprint { reads, writes } = &self.footprint;
        reads.len() + writes.keys().filter(|key| !reads.contains_key(*key)).count()
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
