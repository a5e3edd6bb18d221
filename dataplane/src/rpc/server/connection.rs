//! One connection: reads requests, starts their handlers, writes answers as they become ready.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use vda_spdk::framing::Framer;

use super::request::{Incoming, Message, answer, parse};
use crate::app::App;
use crate::rpc::Methods;

/// The longest request or batch accepted, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// How many calls of one connection run at a time; the next ones stay in the socket.
const MAX_IN_FLIGHT: usize = 1024;

/// What the calls of a connection share.
struct Context {
    app: Rc<App>,
    methods: Rc<Methods>,
    in_flight: std::sync::Arc<Semaphore>,
}

/// Serves a connection until the peer closes it, sends something that is not JSON, or the process stops. Calls it started run to
/// their end in any case.
pub(super) async fn serve(stream: UnixStream, app: Rc<App>, methods: Rc<Methods>) {
    let (reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::unbounded_channel();
    let context = Context { app, methods, in_flight: std::sync::Arc::new(Semaphore::new(MAX_IN_FLIGHT)) };
    let writing = tokio::task::spawn_local(write(writer, queue));
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

async fn read(
    mut reader: OwnedReadHalf,
    context: &Context,
    answers: mpsc::UnboundedSender<Vec<u8>>,
) -> io::Result<()> {
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
        }
    }
}

/// Starts the calls of a message; returns before they are done.
async fn start(context: &Context, message: Message<'_>, answers: &mpsc::UnboundedSender<Vec<u8>>) {
    // The semaphore is never closed.
    let Ok(permit) = std::sync::Arc::clone(&context.in_flight).acquire_owned().await else { return };
    match message {
        Message::Single(incoming) => {
            let call = call(context, incoming);
            spawn(permit, answers.clone(), call);
        }
        Message::Batch(batch) => {
            let calls: Vec<_> = batch.into_iter().map(|incoming| call(context, incoming)).collect();
            spawn(permit, answers.clone(), async move {
                let answered: Vec<_> = futures::future::join_all(calls).await.into_iter().flatten().collect();
                if answered.is_empty() { None } else { Some([b"[", &*answered.join(&b','), b"]"].concat()) }
            });
        }
    }
}

fn spawn(
    permit: OwnedSemaphorePermit,
    answers: mpsc::UnboundedSender<Vec<u8>>,
    call: impl Future<Output = Option<Vec<u8>>> + 'static,
) {
    tokio::task::spawn_local(async move {
        let _permit = permit;
        if let Some(mut bytes) = call.await {
            bytes.push(b'\n');
            // Nobody reads it when the connection is gone.
            let _ = answers.send(bytes);
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

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) -> io::Result<()> {
    while let Some(mut bytes) = queue.recv().await {
        while bytes.len() < 64 * 1024
            && let Ok(more) = queue.try_recv()
        {
            bytes.extend_from_slice(&more);
        }
        writer.write_all(&bytes).await?;
    }
    Ok(())
}
