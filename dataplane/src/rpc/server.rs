//! JSON-RPC 2.0 on a Unix socket: requests follow one another without separator, answers end with a newline.

mod connection;
mod request;
mod socket;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::Methods;
use crate::app::App;
pub use socket::{BindError, OwnedSocket};

/// Connections served at a time, as in SPDK (`SPDK_JSONRPC_MAX_CONNS`); more of them wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// A socket that is listened on.
pub struct Server {
    socket: Rc<OwnedSocket>,
}

impl Server {
    /// Takes over `path`: a socket file left behind is replaced, one that somebody answers on is not.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        Ok(Self { socket: Rc::new(OwnedSocket::bind(path).await?) })
    }

    /// The socket. While somebody has it, no other process gets its path.
    pub fn socket(&self) -> Rc<OwnedSocket> {
        Rc::clone(&self.socket)
    }

    /// Serves connections until the process is asked to stop and the calls in flight are answered.
    pub async fn serve(self, app: Rc<App>, methods: Rc<Methods>) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accept = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await;
                self.socket.listener().accept().await.map(|(stream, _)| (stream, place))
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                () = app.shutdown().cancelled() => break,
            };
            match accepted {
                Ok((stream, place)) => {
                    let serving = connection::serve(stream, Rc::clone(&app), Rc::clone(&methods));
                    tokio::task::spawn_local(connections.track_future(async move {
                        serving.await;
                        drop(place);
                    }));
                }
                Err(error) => {
                    // Out of descriptors: those in use have to come back first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
