//! A store that fails on demand, in the ways a real one does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::KvError;
use crate::kv::*;

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It is not sent.
    Unavailable,
    /// It is applied, its answer is lost.
    ReplyLost,
    /// It is not applied, and neither does the caller learn so.
    RequestLost,
    /// Its caller is told that the answer is lost; it is applied after this time.
    Late(Duration),
    /// It is applied after this time.
    Slow(Duration),
}

type Script = Box<dyn FnMut(&Txn) -> Fault + Send>;

/// Wraps a store; clones share faults and state.
#[derive(Clone)]
pub struct FlakyKv {
    inner: Arc<dyn Kv>,
    planned: Arc<Mutex<VecDeque<Fault>>>,
    script: Arc<Mutex<Option<Script>>>,
    down: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for FlakyKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlakyKv")
            .field("planned", &self.planned)
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

impl FlakyKv {
    /// Without faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Kv>) -> Self {
        Self {
            inner,
            planned: Arc::default(),
            script: Arc::default(),
            down: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The next commits meet these faults, one each.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    /// Commits for which nothing is planned meet what `script` says.
    pub fn script(&self, script: impl FnMut(&Txn) -> Fault + Send + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// While down everything is unavailable, and watches end.
    pub fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }

    fn check(&self) -> Result<(), KvError> {
        if *self.down.borrow() { Err(unavailable()) } else { Ok(()) }
    }

    fn fault(&self, txn: &Txn) -> Fault {
        if let Some(fault) = self.planned.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
            return fault;
        }
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.as_mut().map_or(Fault::None, |script| script(txn))
    }
}

fn unavailable() -> KvError {
    KvError::Unavailable { detail: "injected".into() }
}

fn ambiguous() -> KvError {
    KvError::Ambiguous { detail: "injected".into() }
}

impl Kv for FlakyKv {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.range(request).await
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move {
            self.check()?;
            match self.fault(&txn) {
                Fault::None => self.inner.commit(txn).await,
                Fault::Unavailable => Err(unavailable()),
                Fault::ReplyLost => {
                    self.inner.commit(txn).await?;
                    Err(ambiguous())
                }
                Fault::RequestLost => Err(ambiguous()),
                Fault::Slow(delay) => {
                    tokio::time::sleep(delay).await;
                    self.inner.commit(txn).await
                }
                Fault::Late(delay) => {
                    let inner = self.inner.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        inner.commit(txn).await
                    });
                    Err(ambiguous())
                }
            }
        })
    }

    fn watch(&self, prefix: String, from: u64) -> BoxFuture<'_, Result<WatchStream, KvError>> {
        Box::pin(async move {
            self.check()?;
            let mut down = self.down.subscribe();
            let lost = async move {
                // An error means that nobody can take it down any more.
                if down.wait_for(|down| *down).await.is_err() {
                    futures::future::pending::<()>().await;
                }
            };
            let until_lost = self.inner.watch(prefix, from).await?.take_until(lost);
            Ok(until_lost.chain(futures::stream::once(async { Err(unavailable()) })).boxed())
        })
    }

    fn grant(&self, ttl_s: u64) -> BoxFuture<'_, Result<LeaseId, KvError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.grant(ttl_s).await
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.keep_alive(lease).await
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.revoke(lease).await
        })
    }
}
