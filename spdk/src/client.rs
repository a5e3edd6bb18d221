//! A client over one persistent connection.

mod connection;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::framing::Request;
use crate::{Call, Error, Rpc};
use connection::Connection;

/// Where a target answers JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Endpoint {
    /// `host:port` when it looks like one and has no `/`, else the path of a Unix socket.
    pub fn parse(address: &str) -> Self {
        let is_tcp = !address.contains('/')
            && address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if is_tcp { Self::Tcp(address.to_owned()) } else { Self::Unix(PathBuf::from(address)) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// The state of a client's connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// How many connections were made so far. A higher number than last time: the target may have been restarted.
    pub epoch: u64,
    /// Whether the last of them is open.
    pub up: bool,
}

/// Calls a target over one connection, with many calls in flight, answered in any order.
///
/// The connection is made by the first call and, after it was lost, by the next one; what was in flight fails with
/// [`Error::Transport`]. Nothing is sent twice. Clones share the connection. Needs a tokio runtime.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    endpoint: Endpoint,
    next_id: AtomicU64,
    connection: Mutex<Option<Arc<Connection>>>,
    link: watch::Sender<Link>,
}

impl Client {
    /// `address`: the path of a Unix socket, or `host:port`. `timeout`: for each call, connecting included.
    pub fn new(address: impl AsRef<str>, timeout: Duration) -> Self {
        Self::with_endpoint(Endpoint::parse(address.as_ref()), timeout)
    }

    /// Like [`Self::new`].
    pub fn with_endpoint(endpoint: Endpoint, timeout: Duration) -> Self {
        let shared = Shared {
            endpoint,
            next_id: AtomicU64::new(1),
            connection: Mutex::new(None),
            link: watch::Sender::new(Link::default()),
        };
        Self { shared: Arc::new(shared), timeout }
    }

    /// The same client with another timeout for its calls.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout }
    }

    /// Where the target is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// How many connections were made so far; see [`Link::epoch`].
    pub fn epoch(&self) -> u64 {
        self.shared.link.borrow().epoch
    }

    /// Follows the connection: a target's death is seen at once, without a call.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    async fn exchange<C: Call>(&self, call: &C, deadline: Instant) -> Result<Box<RawValue>, Error> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let request = encode(id, call).map_err(|source| Error::Decode { method: C::METHOD, source })?;
        let answer = tokio::time::timeout_at(deadline, async {
            let connection = self.shared.connection().await?;
            connection.exchange(id, request).await
        });
        match answer.await {
            Err(_) => Err(Error::Timeout { method: C::METHOD, after: self.timeout }),
            Ok(Err(source)) => Err(Error::Transport {
                method: C::METHOD,
                endpoint: self.shared.endpoint.to_string(),
                source,
            }),
            Ok(Ok(response)) => match (response.error, response.result) {
                (Some(error), _) => Err(Error::rpc(C::METHOD, error.code, error.message)),
                (None, Some(result)) => Ok(result),
                // `"result": null` arrives here as well.
                (None, None) => Ok(null()),
            },
        }
    }
}

impl Rpc for Client {
    async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Error> {
        let started = Instant::now();
        let result = self.exchange(&call, started + self.timeout).await;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Ok(_) => tracing::debug!(target: "vda_spdk", method = C::METHOD, micros, ?call, "call"),
            Err(error) => {
                tracing::debug!(target: "vda_spdk", method = C::METHOD, micros, ?call, %error, "call failed")
            }
        }
        serde_json::from_str(result?.get()).map_err(|source| Error::Decode { method: C::METHOD, source })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.shared.endpoint)
            .field("timeout", &self.timeout)
            .field("link", &*self.shared.link.borrow())
            .finish()
    }
}

impl Shared {
    /// The open connection, or a new one. Concurrent callers wait for the same attempt.
    async fn connection(&self) -> io::Result<Arc<Connection>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|c| c.is_open()) {
            return Ok(Arc::clone(connection));
        }
        *slot = None;
        let mut epoch = 0;
        let connection = Connection::open(&self.endpoint).await?;
        self.link.send_modify(|link| {
            link.epoch += 1;
            link.up = true;
            epoch = link.epoch;
        });
        let link = self.link.clone();
        let connection = connection.start(move || {
            link.send_if_modified(|link| {
                let ours = link.epoch == epoch && link.up;
                link.up &= !ours;
                ours
            });
        });
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

/// The request's bytes. Without any parameter `params` is left out: many methods refuse an empty object.
fn encode<C: Call>(id: u64, call: &C) -> serde_json::Result<Vec<u8>> {
    let params = serde_json::value::to_raw_value(call)?;
    let params = if matches!(params.get(), "{}" | "null") { None } else { Some(&params) };
    serde_json::to_vec(&Request { jsonrpc: "2.0", id, method: C::METHOD, params })
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
