//! One connection: a task that writes, a task that reads, and the calls that wait for an answer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::Endpoint;
use crate::framing::{Framer, Response};

/// The longest answer accepted, in bytes.
const MAX_ANSWER: usize = 256 << 20;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Answer = Result<Response, Closed>;

/// Why a connection ended: an `io::Error` that can be given to every call in flight.
#[derive(Debug, Clone)]
struct Closed {
    kind: io::ErrorKind,
    reason: String,
}

impl Closed {
    fn new(error: &io::Error) -> Self {
        Self { kind: error.kind(), reason: error.to_string() }
    }

    fn to_io(&self) -> io::Error {
        io::Error::new(self.kind, self.reason.clone())
    }
}

/// A connection that is not served yet.
pub(super) struct Opened {
    reader: Reader,
    writer: Writer,
}

/// A connection with its tasks. They end when it is dropped, or when the peer goes away.
pub(super) struct Connection {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    state: Arc<Mutex<State>>,
    tasks: [tokio::task::AbortHandle; 2],
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    closed: Option<Closed>,
}

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint) -> io::Result<Opened> {
        Ok(match endpoint {
            Endpoint::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Opened { reader: Box::new(reader), writer: Box::new(writer) }
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                Opened { reader: Box::new(reader), writer: Box::new(writer) }
            }
        })
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).closed.is_none()
    }

    /// Sends a request and waits for the answer with its id. Dropping the future forgets the answer.
    pub(super) async fn exchange(&self, id: u64, request: Vec<u8>) -> io::Result<Response> {
        let answer = {
            let mut state = lock(&self.state);
            if let Some(closed) = &state.closed {
                return Err(closed.to_io());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(id, sender);
            receiver
        };
        let _forget = Forget { state: &self.state, id };
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.requests.send(request).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|closed| closed.to_io())
    }
}

impl Opened {
    /// Starts the tasks. `on_close` is called once, before the calls in flight fail.
    pub(super) fn start(self, on_close: impl Fn() + Send + Sync + 'static) -> Arc<Connection> {
        let (requests, queue) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State::default()));
        let on_close = Arc::new(on_close);
        let (for_reader, for_writer) = (Arc::clone(&state), Arc::clone(&state));
        let (reader, writer) = (self.reader, self.writer);
        let closing = Arc::clone(&on_close);
        let read = tokio::spawn(async move {
            let error = read(reader, &for_reader).await;
            close(&for_reader, &Closed::new(&error), &*closing);
        });
        let write = tokio::spawn(async move {
            if let Err(error) = write(writer, queue).await {
                close(&for_writer, &Closed::new(&error), &*on_close);
            }
        });
        Arc::new(Connection { requests, state, tasks: [read.abort_handle(), write.abort_handle()] })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// Removes a call that nobody waits for any more.
struct Forget<'a> {
    state: &'a Mutex<State>,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.state).waiting.remove(&self.id);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(state: &Mutex<State>, why: &Closed, on_close: &dyn Fn()) {
    let waiting = {
        let mut state = lock(state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.clone());
        std::mem::take(&mut state.waiting)
    };
    on_close();
    for (_, sender) in waiting {
        // The receiver may have timed out at this moment.
        let _ = sender.send(Err(why.clone()));
    }
}

/// Hands out answers until the stream ends; returns why it ended.
async fn read(mut reader: Reader, state: &Mutex<State>) -> io::Error {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut framer = Framer::new(MAX_ANSWER);
    loop {
        let buffer = framer.buffer();
        buffer.reserve(16 * 1024);
        match reader.read_buf(buffer).await {
            Ok(0) => {
                return io::Error::new(io::ErrorKind::ConnectionAborted, "the target closed the connection");
            }
            Ok(_) => {}
            Err(error) => return error,
        }
        loop {
            let value = match framer.next_value() {
                Ok(None) => break,
                Ok(Some(value)) => value,
                Err(error) => return invalid(error.to_string()),
            };
            match serde_json::from_slice::<Response>(value) {
                Ok(response) => deliver(state, response),
                Err(error) => return invalid(format!("not a JSON-RPC answer: {error}")),
            }
        }
    }
}

fn deliver(state: &Mutex<State>, response: Response) {
    let Some(id) = response.id else {
        tracing::warn!(error = ?response.error, "the target answered a request it could not identify");
        return;
    };
    // An answer nobody waits for any more belongs to a call that timed out.
    if let Some(sender) = lock(state).waiting.remove(&id) {
        let _ = sender.send(Ok(response));
    }
}

/// Writes requests, those that queued up in one go.
async fn write(mut writer: Writer, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) -> io::Result<()> {
    while let Some(mut bytes) = queue.recv().await {
        while let Ok(more) = queue.try_recv() {
            bytes.extend_from_slice(&more);
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
    }
    Ok(())
}
