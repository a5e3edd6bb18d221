//! etcd itself. Connects when first used, and again by itself whenever the connection is lost.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use etcd_client as etcd;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::KvError;
use crate::kv::*;

mod classify;

use classify::classify;

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` or `http://host:port` of the members.
    pub endpoints: Vec<String>,
    /// Limit for one call, connecting included.
    pub request_timeout: Duration,
}

impl EtcdConfig {
    /// From a comma-separated list of endpoints.
    #[must_use]
    pub fn new(endpoints: &str) -> Self {
        let endpoints =
            endpoints.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned).collect();
        // etcd itself gives up after 5 s plus two election timeouts.
        Self { endpoints, request_timeout: Duration::from_secs(8) }
    }
}

/// Larger answers than this are refused; lists are read in pages.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// etcd disconnects clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// [`Kv`] over an etcd cluster.
pub struct EtcdKv {
    config: EtcdConfig,
    client: OnceCell<etcd::Client>,
}

impl std::fmt::Debug for EtcdKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdKv").field("endpoints", &self.config.endpoints).finish_non_exhaustive()
    }
}

impl EtcdKv {
    /// Does not connect yet: etcd may come up later than we do.
    #[must_use]
    pub fn new(config: EtcdConfig) -> Self {
        Self { config, client: OnceCell::new() }
    }

    /// Sets the client up; it connects, and reconnects, when it is used.
    async fn client(&self) -> Result<&etcd::Client, KvError> {
        let make = || async {
            let options = etcd::ConnectOptions::new()
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            etcd::Client::connect(&self.config.endpoints, Some(options)).await
        };
        let named = |e: KvError| match e {
            KvError::Invalid { detail } => {
                KvError::Invalid { detail: format!("etcd endpoints {:?}: {detail}", self.config.endpoints) }
            }
            other => other,
        };
        self.client.get_or_try_init(make).await.map_err(|e| named(classify(&e, false)))
    }

    /// Runs a call that changes nothing.
    async fn read<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, etcd::Error>>,
    ) -> Result<T, KvError> {
        match tokio::time::timeout(self.config.request_timeout, call).await {
            Ok(answer) => answer.map_err(|e| classify(&e, false)),
            Err(_) => Err(KvError::Unavailable { detail: self.no_answer(what) }),
        }
    }

    /// Runs a call that may have changed something when its answer is lost.
    async fn write<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, etcd::Error>>,
    ) -> Result<T, KvError> {
        match tokio::time::timeout(self.config.request_timeout, call).await {
            Ok(answer) => answer.map_err(|e| classify(&e, true)),
            Err(_) => Err(KvError::Ambiguous { detail: self.no_answer(what) }),
        }
    }

    fn no_answer(&self, what: &str) -> String {
        format!(
            "no answer to {what} from {} within {:?}",
            self.config.endpoints.join(","),
            self.config.request_timeout
        )
    }

    async fn range_once(&self, request: &RangeRequest) -> Result<RangeReply, KvError> {
        let mut client = self.client().await?.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let mut options = etcd::GetOptions::new().with_limit(limit).with_revision(to_i64(request.revision));
        if let Some(end) = &request.end {
            options = options.with_range(end.as_str());
        }
        let mut reply = self.read("range", client.get(request.start.as_str(), Some(options))).await.map_err(
            |e| match e {
                KvError::Compacted { oldest, .. } => {
                    KvError::Compacted { requested: request.revision, oldest }
                }
                other => other,
            },
        )?;
        let revision = header_revision(reply.header());
        let more = reply.more();
        let kvs = reply.take_kvs().into_iter().map(key_value).collect::<Result<_, _>>()?;
        Ok(RangeReply { kvs, revision, more })
    }
}

fn to_i64(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn to_u64(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn header_revision(header: Option<&etcd::ResponseHeader>) -> u64 {
    header.map_or(0, |h| to_u64(h.revision()))
}

fn key_value(kv: etcd::KeyValue) -> Result<KeyValue, KvError> {
    let (create_revision, mod_revision) = (to_u64(kv.create_revision()), to_u64(kv.mod_revision()));
    let lease = (kv.lease() != 0).then(|| LeaseId(kv.lease()));
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).map_err(|e| KvError::Corrupt {
        key: String::from_utf8_lossy(e.as_bytes()).into_owned(),
        detail: "its key is not UTF-8".into(),
    })?;
    Ok(KeyValue { key, value: Bytes::from(value), create_revision, mod_revision, lease })
}

fn request_of(txn: Txn) -> etcd::Txn {
    let compares: Vec<etcd::Compare> = txn
        .compares
        .iter()
        .map(|c| etcd::Compare::mod_revision(c.key.as_str(), etcd::CompareOp::Equal, to_i64(c.mod_revision)))
        .collect();
    let reads = txn.compares.into_iter().map(|c| c.key).chain(txn.also_read);
    let reads: Vec<etcd::TxnOp> = reads.map(|key| etcd::TxnOp::get(key, None)).collect();
    let writes: Vec<etcd::TxnOp> = txn.writes.into_iter().map(op_of).collect();
    etcd::Txn::new().when(compares).and_then(writes).or_else(reads)
}

fn op_of(write: Write) -> etcd::TxnOp {
    match write {
        Write::Put { key, value, lease } => {
            let options = lease.map(|lease| etcd::PutOptions::new().with_lease(lease.0));
            etcd::TxnOp::put(key, value, options)
        }
        Write::Delete { key } => etcd::TxnOp::delete(key, None),
    }
}

/// What the reads of the failure branch found, in the order of `keys`.
fn found_by(
    reply: &etcd::TxnResponse,
    keys: Vec<String>,
) -> Result<Vec<(String, Option<KeyValue>)>, KvError> {
    let answers = reply.op_responses();
    keys.into_iter()
        .zip(answers)
        .map(|(key, answer)| match answer {
            etcd::TxnOpResponse::Get(mut get) => {
                let found = get.take_kvs().into_iter().next().map(key_value).transpose()?;
                Ok((key, found))
            }
            _ => Err(KvError::Invalid {
                detail: format!("etcd did not answer the read of {key} with a range"),
            }),
        })
        .collect()
}

fn batch_of(reply: &etcd::WatchResponse, from: u64) -> Result<WatchBatch, KvError> {
    if reply.compact_revision() > 0 {
        return Err(KvError::Compacted { requested: from, oldest: to_u64(reply.compact_revision()) });
    }
    if reply.canceled() {
        return Err(KvError::Unavailable {
            detail: format!("etcd ended the watch: {}", reply.cancel_reason()),
        });
    }
    let mut events = Vec::with_capacity(reply.events().len());
    for event in reply.events() {
        let Some(kv) = event.kv().cloned() else { continue };
        let kv = key_value(kv)?;
        events.push(match event.event_type() {
            etcd::EventType::Put => Event::Put(kv),
            etcd::EventType::Delete => Event::Delete { key: kv.key, mod_revision: kv.mod_revision },
        });
    }
    // While the watch catches up the header is ahead of the events, so it counts only when there are none.
    let revision = events.last().map_or_else(|| header_revision(reply.header()), Event::revision);
    Ok(WatchBatch { revision, events })
}

impl Kv for EtcdKv {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(async move {
            match self.range_once(&request).await {
                // The first call after etcd was restarted meets the old connection.
                Err(error) if error.retryable() => self.range_once(&request).await,
                answer => answer,
            }
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move {
            let mut client = self.client().await?.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
            let changes = !txn.writes.is_empty();
            let keys: Vec<String> =
                txn.compares.iter().map(|c| c.key.clone()).chain(txn.also_read.clone()).collect();
            let call = client.txn(request_of(txn));
            let reply = if changes { self.write("txn", call).await? } else { self.read("txn", call).await? };
            let revision = header_revision(reply.header());
            if reply.succeeded() {
                return Ok(TxnReply::Committed { revision });
            }
            Ok(TxnReply::Refused { revision, found: found_by(&reply, keys)? })
        })
    }

    fn watch(&self, prefix: String, from: u64) -> BoxFuture<'_, Result<WatchStream, KvError>> {
        Box::pin(async move {
            let mut client = self.client().await?.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
            let options = etcd::WatchOptions::new()
                .with_range(prefix_end(&prefix))
                .with_start_revision(to_i64(from))
                .with_progress_notify();
            let stream = self.read("watch", client.watch(prefix, Some(options))).await?;
            // The sender half stays in the stream: etcd ends the watch when it is dropped.
            let batches = futures::stream::unfold(Some(stream), move |stream| async move {
                let mut stream = stream?;
                loop {
                    match stream.message().await {
                        Ok(Some(reply)) if reply.created() && !reply.canceled() => {}
                        Ok(Some(reply)) => {
                            let batch = batch_of(&reply, from);
                            let next = batch.is_ok().then_some(stream);
                            return Some((batch, next));
                        }
                        Ok(None) => {
                            let detail = "etcd closed the watch".to_owned();
                            return Some((Err(KvError::Unavailable { detail }), None));
                        }
                        Err(error) => return Some((Err(classify(&error, false)), None)),
                    }
                }
            });
            Ok(Box::pin(batches) as WatchStream)
        })
    }

    fn grant(&self, ttl_s: u64) -> BoxFuture<'_, Result<LeaseId, KvError>> {
        Box::pin(async move {
            let mut client = self.client().await?.lease_client();
            // A grant whose answer is lost leaves a lease without keys, which expires: not worth calling it a write.
            let reply = self.read("lease grant", client.grant(to_i64(ttl_s), None)).await?;
            Ok(LeaseId(reply.id()))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let mut client = self.client().await?.lease_client();
            match self.read("lease keep-alive", client.keep_alive(lease.0)).await {
                Ok(_) => Ok(()),
                Err(KvError::LeaseGone { .. }) => Err(KvError::LeaseGone { lease: lease.0 }),
                Err(error) => Err(error),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let mut client = self.client().await?.lease_client();
            match self.read("lease revoke", client.revoke(lease.0)).await {
                Ok(_) | Err(KvError::LeaseGone { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}
