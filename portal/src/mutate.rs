//! What all mutating calls share: one transaction through the lane, and the memory of requests that were answered.

use std::{future::Future, sync::Arc};

use prost::Message;
use tonic::Status;
use vda_model::{
    Delta, Error,
    keys::{Key, RequestKey, Sink},
    requests,
};
use vda_proto::{SCHEMA_VERSION, v1};
use vda_store::{Abort, KvError, LeaseId, StmError, Tx};

use crate::{random, server::Portal, status};

/// A reply that says at which revision its change was made.
pub(crate) trait Reply: Message + Default + Clone + Send + Sync + 'static {
    /// The revision; 0 in a transaction, which does not know it yet.
    fn revision(&mut self) -> &mut u64;
}

macro_rules! replies {
    ($($reply:ident.$field:ident),+) => {
        $(impl Reply for v1::$reply {
            fn revision(&mut self) -> &mut u64 {
                &mut self.$field
            }
        })+
    };
}
replies!(
    Dn.revision,
    Pd.revision,
    Cn.revision,
    Da.revision,
    Exp.revision,
    DeleteReply.revision,
    SyncupReply.generation
);

/// A mutating call as far as repeating it goes.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    request_id: String,
    digest: Vec<u8>,
    pub(crate) now_ms: i64,
}

impl Call {
    /// # Errors
    /// If `request_id` is not allowed.
    pub(crate) fn new(
        method: &'static str,
        request_id: &str,
        request: &impl Message,
    ) -> Result<Self, Status> {
        requests::request_id(request_id).map_err(|e| status::refused(&e))?;
        let digest = fnv1a(&request.encode_to_vec()).to_be_bytes().to_vec();
        Ok(Self { method, request_id: request_id.to_owned(), digest, now_ms: random::now_ms() })
    }

    fn key(&self) -> Option<RequestKey> {
        (!self.request_id.is_empty()).then(|| RequestKey(self.request_id.clone()))
    }

    /// The first answer, if there was one.
    async fn answered<R: Reply>(&self, tx: &Tx) -> Result<Option<R>, Abort<Refused>> {
        let Some(key) = self.key() else { return Ok(None) };
        let Some(first) = tx.get_speculative_absent(&key).await? else { return Ok(None) };
        if first.value.method != self.method || first.value.request_digest != self.digest {
            let method = first.value.method;
            return Err(Abort::Domain(Refused(Error::RequestReused {
                request_id: self.request_id.clone(),
                method,
            })));
        }
        let reply = R::decode(first.value.reply.as_slice());
        let mut reply = reply.map_err(|e| Error::broken(key.any(), e)).or_refuse()?;
        if *reply.revision() == 0 {
            *reply.revision() = first.revision;
        }
        Ok(Some(reply))
    }

    fn remember<R: Reply>(&self, tx: &Tx, reply: &R, lease: Option<LeaseId>) {
        let (Some(key), Some(lease)) = (self.key(), lease) else { return };
        let record = v1::RequestRecord {
            schema_version: SCHEMA_VERSION,
            method: self.method.to_owned(),
            request_digest: self.digest.clone(),
            reply: reply.encode_to_vec(),
            created_ms: self.now_ms,
        };
        tx.put_leased(&key, &record, lease);
    }
}

/// FNV-1a, 128 bits: tells an honest client's two requests apart, the same in every portal and release.
fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Writes a delta into a transaction. Generations and name indexes are the store's business.
pub(crate) fn apply(delta: &Delta, tx: &Tx) {
    struct Into<'a>(&'a Tx);
    impl Sink for Into<'_> {
        fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
            self.0.put(key, value);
        }
        fn delete<K: Key>(&mut self, key: &K) {
            self.0.delete(key);
        }
    }
    delta.apply(&mut Into(tx));
}

/// A plain refusal.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Refused(#[from] pub(crate) Error);

impl AsRef<Error> for Refused {
    fn as_ref(&self) -> &Error {
        &self.0
    }
}

/// `decide(…).or_refuse()?`: turns a refusal of the model into one of the transaction.
pub(crate) trait OrRefuse<T> {
    fn or_refuse(self) -> Result<T, Abort<Refused>>;
}

impl<T> OrRefuse<T> for Result<T, Error> {
    fn or_refuse(self) -> Result<T, Abort<Refused>> {
        self.map_err(|e| Abort::Domain(Refused(e)))
    }
}

impl Portal {
    /// Runs `body` as one transaction of the lane, once per `request_id`.
    pub(crate) async fn mutate<R, F, Fut>(&self, call: &Call, body: F) -> Result<R, Status>
    where
        R: Reply,
        F: Fn(Tx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Abort<Refused>>> + Send + 'static,
    {
        self.try_mutate(call, body).await.map_err(|e| failed(call.method, &e))
    }

    /// As [`Portal::mutate`], with an error the caller can look into.
    pub(crate) async fn try_mutate<R, F, Fut>(&self, call: &Call, body: F) -> Result<R, StmError<Refused>>
    where
        R: Reply,
        F: Fn(Tx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Abort<Refused>>> + Send + 'static,
    {
        let body = Arc::new(body);
        let origin = vda_telemetry::current();
        // A lost lease refuses the whole transaction: nothing was done, and with a new lease it is done once.
        loop {
            let lease = match call.key() {
                Some(_) => Some(self.leases.get(&self.store).await.map_err(StmError::Kv)?),
                None => None,
            };
            let (shared, told, origin) = (body.clone(), call.clone(), origin.clone());
            let run = move |tx: Tx| {
                let (body, call) = (shared.clone(), told.clone());
                // So that monitors and agents can log whose request they act on.
                origin.iter().for_each(|id| tx.origin(id.as_str()));
                async move {
                    if let Some(first) = call.answered::<R>(&tx).await? {
                        return Ok(first);
                    }
                    let reply = body(tx.clone()).await?;
                    call.remember(&tx, &reply, lease);
                    Ok(reply)
                }
            };
            match (self.store.lane().submit(call.method, run).await, lease) {
                (Err(StmError::Kv(KvError::LeaseGone { .. })), Some(lease)) => self.leases.forget(lease),
                (done, _) => {
                    return done.map(|committed| {
                        let mut reply = committed.value;
                        if *reply.revision() == 0 {
                            *reply.revision() = committed.revision;
                        }
                        reply
                    });
                }
            }
        }
    }
}

/// Logs what a user cannot do anything about, and answers.
pub(crate) fn failed(method: &'static str, error: &StmError<Refused>) -> Status {
    let status = status::transaction(error);
    match status.code() {
        tonic::Code::Internal => tracing::error!(method, %error, "failed"),
        tonic::Code::Unavailable => tracing::warn!(method, %error, "failed"),
        _ => tracing::debug!(method, %error, "refused"),
    }
    status
}
