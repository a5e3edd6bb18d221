//! Being a member: a key under a lease that is kept alive.

use std::time::Duration;

use prost::Message;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vda_model::ids::MonitorId;
use vda_model::keys::{Key, MonitorKey};
use vda_proto::v1::MemberRecord;

use crate::kv::{LeaseId, Txn, Write};
use crate::{Backoff, KvError, Store};

/// Who joins.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Its id, different in every process.
    pub id: MonitorId,
    /// Where it runs, for people.
    pub host: String,
    /// It is taken for dead when it was not heard of for so long.
    pub ttl_s: u64,
    /// Unix time in ms.
    pub started_ms: i64,
}

/// Keeps a monitor a member until it is cancelled; then the membership ends at once.
#[derive(Debug)]
pub struct Membership {
    task: JoinHandle<()>,
}

impl Membership {
    /// Joins in the background, and again whenever the lease was lost.
    #[must_use]
    pub fn join(store: Store, config: MembershipConfig, cancelled: CancellationToken) -> Self {
        let keeper = Keeper { store, config };
        Self { task: tokio::spawn(keeper.run(cancelled)) }
    }

    /// Waits until it has left, after it was cancelled.
    pub async fn left(self) {
        // A panic has been reported by the runtime already.
        self.task.await.ok();
    }
}

struct Keeper {
    store: Store,
    config: MembershipConfig,
}

impl Keeper {
    async fn run(self, cancelled: CancellationToken) {
        let mut held = None;
        tokio::select! {
            () = self.keep(&mut held) => {}
            () = cancelled.cancelled() => {}
        }
        if let Some(lease) = held
            && let Err(error) = self.store.kv().revoke(lease).await
        {
            tracing::info!(%error, "could not leave at once; the membership ends with its lease");
        }
    }

    async fn keep(&self, held: &mut Option<LeaseId>) {
        let beat = Duration::from_secs(self.config.ttl_s.max(1)) / 3;
        let mut backoff = Backoff::new(Duration::from_millis(100), beat);
        let mut complained = false;
        loop {
            let step = match *held {
                Some(lease) => self.store.kv().keep_alive(lease).await,
                None => self.enter().await.map(|lease| *held = Some(lease)),
            };
            match step {
                Ok(()) => {
                    complained = false;
                    backoff.reset();
                    tokio::time::sleep(beat).await;
                }
                Err(KvError::LeaseGone { .. }) => {
                    tracing::warn!(member = %self.config.id, "membership was lost, joining again");
                    *held = None;
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "cannot renew the membership, trying on");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    async fn enter(&self) -> Result<LeaseId, KvError> {
        let lease = self.store.kv().grant(self.config.ttl_s).await?;
        let record = MemberRecord {
            schema_version: vda_proto::SCHEMA_VERSION,
            member_id: self.config.id.to_string(),
            host: self.config.host.clone(),
            started_ms: self.config.started_ms,
        };
        let key = MonitorKey(self.config.id).path(self.store.prefix());
        let put = Write::Put { key, value: record.encode_to_vec().into(), lease: Some(lease) };
        // Blind and idempotent: if the answer is lost, the next attempt puts it again, under another lease.
        self.store.kv().commit(Txn { writes: vec![put], ..Txn::default() }).await?;
        Ok(lease)
    }
}
