//! One connection: reads requests, starts their handlers, writes answers as they become ready.
//!
//! A peer that does not read its answers gets no more calls started: what waits to be written is bounded in number, because a call is in
//! flight until its answer is on its way, and in bytes.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use futures::future::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use vda_spdk::code;
use vda_spdk::framing::Framer;

use super::request::{Incoming, Message, answer, parse};
use crate::app::App;
use crate::rpc::{Methods, RpcError};

/// The longest request or batch accepted, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// How many calls of one connection run or wait to be answered at a time, those of batches included; the next ones stay in the socket. No
/// batch has more.
const MAX_IN_FLIGHT: u32 = 1024;

/// The longest answer to a batch, in bytes: the largest buffer that SPDK answers from.
const MAX_BATCH_ANSWER: usize = 32 << 20;

/// No call is started while more bytes of answers than this wait for the peer to read.
const HIGH_WATER: usize = 1 << 20;

/// What the calls of a connection share.
struct Context {
    app: Rc<App>,
    methods: Rc<Methods>,
    in_flight: std::sync::Arc<Semaphore>,
}

/// An answer that is ready. Its call is in flight until it has been written.
struct Answer {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

/// Answers that wait to be written, in bytes.
#[derive(Default)]
struct Backlog {
    bytes: Cell<usize>,
    /// Nobody writes any more.
    closed: Cell<bool>,
    changed: Notify,
}

impl Backlog {
    /// Waits until it is not too much.
    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.closed.get() || self.bytes.get() <= HIGH_WATER {
                return;
            }
            changed.await;
        }
    }

    fn written(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.changed.notify_waiters();
    }
}

/// Where the calls of a connection leave their answers.
#[derive(Clone)]
struct Answers {
    /// Has room for as many as there are permits.
    queue: mpsc::Sender<Answer>,
    backlog: Rc<Backlog>,
}

impl Answers {
    fn send(&self, mut bytes: Vec<u8>, permit: OwnedSemaphorePermit) {
        bytes.push(b'\n');
        let length = bytes.len();
        // Nobody reads it when the connection is gone.
        if self.queue.try_send(Answer { bytes, _permit: permit }).is_ok() {
            self.backlog.bytes.set(self.backlog.bytes.get() + length);
        }
    }
}

/// Serves a connection until the peer closes it, sends something that is not JSON, or the process stops. Calls it started run to
/// their end in any case.
pub(super) async fn serve(stream: UnixStream, app: Rc<App>, methods: Rc<Methods>) {
    let (reader, writer) = stream.into_split();
    let (sender, queue) = mpsc::channel(MAX_IN_FLIGHT as usize);
    let answers = Answers { queue: sender, backlog: Rc::default() };
    let context =
        Context { app, methods, in_flight: std::sync::Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)) };
    let writing = tokio::task::spawn_local(write(writer, queue, Rc::clone(&answers.backlog)));
    match read(reader, &context, answers).await {
        // What is still being answered is written: the writer ends when the last call has given its sender back.
        Ok(()) => {
            let _ = writing.await;
        }
        Err(error) => {
            tracing::info!(%error, "closing a connection");
            writing.abort();
        }
    }
}

async fn read(mut reader: OwnedReadHalf, context: &Context, answers: Answers) -> io::Result<()> {
    let mut framer = Framer::new(MAX_REQUEST);
    loop {
        let buffer = framer.buffer();
        buffer.reserve(4096);
        let received = tokio::select! {
            received = reader.read_buf(buffer) => received?,
            () = context.app.shutdown().cancelled() => return Ok(()),
        };
        if received == 0 {
            return Ok(());
        }
        while let Some(value) = framer.next_value().map_err(io::Error::other)? {
            let message = parse(value).map_err(io::Error::other)?;
            start(context, message, &answers).await;
            tokio::select! {
                () = answers.backlog.room() => {}
                () = context.app.shutdown().cancelled() => return Ok(()),
            }
        }
    }
}

/// Starts the calls of a message; returns before they are done.
async fn start(context: &Context, message: Message<'_>, answers: &Answers) {
    let calls = match &message {
        Message::Single(_) => Some(1),
        Message::Batch(batch) => u32::try_from(batch.len()).ok().filter(|n| *n <= MAX_IN_FLIGHT),
    };
    // The semaphore is never closed.
    let permit = std::sync::Arc::clone(&context.in_flight).acquire_many_owned(calls.unwrap_or(1)).await;
    let Ok(permit) = permit else { return };
    match message {
        Message::Batch(_) if calls.is_none() => {
            let refusal = RpcError::new(code::INVALID_REQUEST, "A batch of more than 1024 requests");
            answers.send(answer(None, &Err(refusal)), permit);
        }
        Message::Single(incoming) => {
            let call = call(context, incoming);
            spawn(permit, answers.clone(), call);
        }
        Message::Batch(batch) => {
            let calls: Vec<_> = batch.into_iter().map(|incoming| call(context, incoming)).collect();
            spawn(permit, answers.clone(), answer_batch(calls));
        }
    }
    // Most calls are answered now, and their answers count before the next call is started.
    tokio::task::yield_now().await;
}

/// Runs calls at once and gives their answers as one array, in their order; `None` if there are none. If the array would be too long it is an
/// error instead: all calls were made, but what they answered is lost.
async fn answer_batch(calls: Vec<impl Future<Output = Option<Vec<u8>>>>) -> Option<Vec<u8>> {
    let mut answered = vec![None; calls.len()];
    let numbered = calls.into_iter().enumerate();
    let mut running: FuturesUnordered<_> = numbered.map(|(n, call)| call.map(move |a| (n, a))).collect();
    let mut bytes = 1;
    while let Some((n, answer)) = running.next().await {
        bytes += answer.as_ref().map_or(0, |a| a.len() + 1);
        if bytes > MAX_BATCH_ANSWER {
            answered.clear();
        } else {
            answered[n] = answer;
        }
    }
    if bytes > MAX_BATCH_ANSWER {
        let error = RpcError::internal("The answers to the batch are too long: make the calls one by one");
        return Some(answer(None, &Err(error)));
    }
    let answered: Vec<Vec<u8>> = answered.into_iter().flatten().collect();
    if answered.is_empty() { None } else { Some([b"[", &*answered.join(&b','), b"]"].concat()) }
}

fn spawn(
    permit: OwnedSemaphorePermit,
    answers: Answers,
    call: impl Future<Output = Option<Vec<u8>>> + 'static,
) {
    tokio::task::spawn_local(async move {
        if let Some(bytes) = call.await {
            answers.send(bytes, permit);
        }
    });
}

/// Starts a call. The future gives the bytes of its answer, `None` for a notification.
fn call(context: &Context, incoming: Incoming<'_>) -> impl Future<Output = Option<Vec<u8>>> + 'static {
    let started = std::time::Instant::now();
    let running = incoming.map(|request| {
        let outcome = context.methods.dispatch(&context.app, &request.method, request.params);
        (request.id, request.method, outcome)
    });
    async move {
        let (id, method, outcome) = match running {
            Ok(running) => running,
            Err(error) => return Some(answer(None, &Err(error))),
        };
        let outcome = outcome.await;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(_) => tracing::debug!(method, micros, "answered"),
            Err(error) => tracing::debug!(method, micros, %error, "refused"),
        }
        id.map(|id| answer(Some(&id), &outcome))
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Answer>,
    backlog: Rc<Backlog>,
) -> io::Result<()> {
    let _closing = Closing(Rc::clone(&backlog));
    while let Some(first) = queue.recv().await {
        let mut together = vec![first];
        let mut bytes = std::mem::take(&mut together[0].bytes);
        while bytes.len() < 64 * 1024
            && let Ok(more) = queue.try_recv()
        {
            bytes.extend_from_slice(&more.bytes);
            together.push(more);
        }
        writer.write_all(&bytes).await?;
        backlog.written(bytes.len());
    }
    Ok(())
}

/// Tells whoever waits for room that nobody writes any more.
struct Closing(Rc<Backlog>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.changed.notify_waiters();
    }
}
