//! JSON-RPC 2.0 on a Unix socket: requests follow one another without separator, answers end with a newline.

mod connection;
mod request;
mod socket;

use std::path::Path;
use std::rc::Rc;

use tokio_util::task::TaskTracker;

use super::Methods;
use crate::app::App;
pub use socket::{BindError, OwnedSocket};

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
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.listener().accept() => accepted,
                () = app.shutdown().cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = connection::serve(stream, Rc::clone(&app), Rc::clone(&methods));
                    tokio::task::spawn_local(connections.track_future(serving));
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
