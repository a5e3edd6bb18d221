//! A request of the lane, without its types.

use std::error::Error as StdError;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::tx::Footprint;
use crate::{Abort, Committed, KvError, StmError, Tx};

/// What a run came to.
pub(super) enum Verdict {
    /// It finished; if it refused, there are no writes.
    Done(Footprint),
    /// A read failed.
    Failed(KvError),
}

/// What became of a request.
pub(super) enum Fate {
    Committed(u64),
    Conflict(u32),
    Failed(KvError),
}

pub(super) trait Job: Send {
    fn run(&self, tx: Tx) -> BoxFuture<'static, Verdict>;
    fn answer(self: Box<Self>, fate: Fate);
    /// Answers before it is given back to the queue, which then drops it.
    fn fail(&self, error: KvError);
    /// Nobody waits for the answer.
    fn abandoned(&self) -> bool;
}

impl std::fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

type Reply<T, E> = oneshot::Sender<Result<Committed<T>, StmError<E>>>;

pub(super) struct Request<T, E: StdError + 'static, F> {
    body: Arc<F>,
    /// Result of the last run.
    last: Arc<Mutex<Option<Result<T, E>>>>,
    reply: Mutex<Option<Reply<T, E>>>,
    span: tracing::Span,
}

impl<T, E: StdError + 'static, F> Request<T, E, F> {
    pub(super) fn new(name: &'static str, body: F, reply: Reply<T, E>) -> Self {
        let span = tracing::info_span!("lane", name);
        Self { body: Arc::new(body), last: Arc::default(), reply: Mutex::new(Some(reply)), span }
    }

    fn reply(&self, answer: Result<Committed<T>, StmError<E>>) {
        if let Some(reply) = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The caller may have gone away; then nobody is interested.
            reply.send(answer).ok();
        }
    }
}

impl<T, E, F, Fut> Job for Request<T, E, F>
where
    T: Send + 'static,
    E: StdError + Send + 'static,
    F: Fn(Tx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, Abort<E>>> + Send + 'static,
{
    fn run(&self, tx: Tx) -> BoxFuture<'static, Verdict> {
        let (body, last) = (self.body.clone(), self.last.clone());
        let run = async move {
            let (result, footprint) = match crate::stm::run(body.as_ref(), tx).await {
                Ok(ran) => ran,
                Err(error) => return Verdict::Failed(error),
            };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Verdict::Done(footprint)
        };
        // A panic of one closure must not take the others with it.
        let guarded = AssertUnwindSafe(run.instrument(self.span.clone())).catch_unwind();
        let panicked =
            || Verdict::Failed(KvError::Invalid { detail: "the closure of the transaction panicked".into() });
        guarded.map(move |ran| ran.unwrap_or_else(|_| panicked())).boxed()
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = match (fate, last) {
            (Fate::Committed(revision), Some(Ok(value))) => Ok(Committed { value, revision }),
            (Fate::Committed(_), Some(Err(error))) => Err(StmError::Domain(error)),
            (Fate::Committed(_), None) => {
                Err(StmError::Kv(KvError::Invalid { detail: "committed a request that never ran".into() }))
            }
            (Fate::Conflict(attempts), _) => Err(StmError::Conflict { attempts }),
            (Fate::Failed(error), _) => Err(StmError::from_kv(error)),
        };
        self.reply(answer);
    }

    fn fail(&self, error: KvError) {
        self.reply(Err(StmError::from_kv(error)));
    }

    fn abandoned(&self) -> bool {
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}
