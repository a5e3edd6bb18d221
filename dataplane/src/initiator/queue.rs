//! One connection of the host side: a task that owns the socket, and a handle that submits commands.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use vda_nvme::cmd::{Cqe, Sqe};
use vda_nvme::controller::QueueError;
use vda_nvme::host::{Command, Event, HostConfig, HostQueue};

use super::ConnectError;
use crate::socket::{poll_receive, poll_send};

/// Rounds before other tasks get their turn.
const ROUNDS: usize = 8;

/// End of a command.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) cqe: Cqe,
    pub(super) buffer: BytesMut,
    pub(super) received: usize,
}

/// The connection broke before the command ended. What the controller did with it is unknown.
#[derive(Debug)]
pub(super) struct Lost {
    /// The command's buffer, to be used again.
    pub(super) buffer: BytesMut,
}

type Answer = oneshot::Sender<Result<Reply, Lost>>;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the controller")]
    Eof,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] QueueError),
    #[error("closed by the host")]
    Closed,
}

struct Inner {
    address: SocketAddr,
    host: RefCell<HostQueue<Answer>>,
    /// Commands that found the queue full. Callers bound their number: each waits for its answer.
    waiting: RefCell<VecDeque<Command<Answer>>>,
    waker: RefCell<Option<Waker>>,
    ready: Cell<bool>,
    closing: Cell<bool>,
    ended: Cell<bool>,
    protocol_error: RefCell<Option<QueueError>>,
    changed: Notify,
}

/// Handle on a connection. The connection closes when [`Queue::close`] is called or the last handle is dropped.
pub(super) struct Queue(Rc<Inner>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    /// Opens a connection and initialises it.
    pub(super) async fn open(
        address: SocketAddr,
        config: HostConfig,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let late = |step| move |_| ConnectError::Timeout { address, step, after: timeout };
        let connecting = tokio::time::timeout(timeout, TcpStream::connect(address));
        let stream = connecting.await.map_err(late("TCP connect"))?;
        let stream = stream.and_then(|s| s.set_nodelay(true).map(|()| s));
        let stream = stream.map_err(|source| ConnectError::Unreachable { address, source })?;
        let inner = Rc::new(Inner {
            address,
            host: RefCell::new(HostQueue::new(config)),
            waiting: RefCell::default(),
            waker: RefCell::default(),
            ready: Cell::new(false),
            closing: Cell::new(false),
            ended: Cell::new(false),
            protocol_error: RefCell::default(),
            changed: Notify::new(),
        });
        tokio::task::spawn_local(Rc::clone(&inner).serve(stream));
        let queue = Self(inner);
        let initialised = tokio::time::timeout(timeout, queue.initialised());
        initialised.await.map_err(late("connection initialisation"))??;
        Ok(queue)
    }

    async fn initialised(&self) -> Result<(), ConnectError> {
        loop {
            let changed = self.0.changed.notified();
            if self.0.ready.get() {
                return Ok(());
            }
            if self.0.ended.get() {
                let address = self.0.address;
                return Err(match self.0.protocol_error.borrow_mut().take() {
                    Some(source) => ConnectError::Protocol { address, source },
                    None => ConnectError::Lost { address, step: "connection initialisation" },
                });
            }
            changed.await;
        }
    }

    /// In-capsule data of an I/O queue, bytes.
    pub(super) fn set_in_capsule(&self, bytes: u32) {
        self.0.host.borrow_mut().set_in_capsule(bytes);
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.0.ended.get() && !self.0.closing.get()
    }

    /// Ends the connection; commands in flight fail as lost.
    pub(super) fn close(&self) {
        self.0.closing.set(true);
        self.0.wake();
    }

    /// Resolves when the connection has ended.
    pub(super) async fn ended(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.ended.get() {
                return;
            }
            changed.await;
        }
    }

    /// Submits a command: it is on its way when this returns, the future is its end.
    pub(super) fn submit(
        &self,
        sqe: Sqe,
        data: Bytes,
        buffer: BytesMut,
    ) -> impl Future<Output = Result<Reply, Lost>> + use<> {
        let (answer, end) = oneshot::channel();
        let command = Command { sqe, data, buffer, token: answer };
        if self.is_alive() {
            self.0.enqueue(command);
        } else {
            let _ = command.token.send(Err(Lost { buffer: command.buffer }));
        }
        async move { end.await.unwrap_or_else(|_| Err(Lost { buffer: BytesMut::new() })) }
    }

    /// Commands on the queue or waiting for it.
    pub(super) fn load(&self) -> usize {
        self.0.host.borrow().outstanding() + self.0.waiting.borrow().len()
    }
}

impl Inner {
    fn wake(&self) {
        if let Some(w) = self.waker.borrow_mut().take() {
            w.wake();
        }
    }

    fn enqueue(&self, command: Command<Answer>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            if let Err(command) = self.host.borrow_mut().submit(command) {
                waiting.push_back(command);
            }
        } else {
            waiting.push_back(command);
        }
        drop(waiting);
        self.wake();
    }

    async fn serve(self: Rc<Self>, mut stream: TcpStream) {
        let end = poll_fn(|cx| self.poll(cx, &mut stream)).await;
        tracing::debug!(address = %self.address, %end, "connection ended");
        if let End::Protocol(e) = end {
            tracing::warn!(address = %self.address, error = %e, "connection terminated");
            // Last words: why. Whether they arrive does not matter.
            let _ = poll_fn(|cx| Poll::Ready(self.send(cx, &stream))).await;
            *self.protocol_error.borrow_mut() = Some(e);
        }
        drop(stream);
        self.ended.set(true);
        let active = self.host.borrow_mut().drain();
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for (answer, buffer) in active.into_iter().chain(waiting.into_iter().map(|c| (c.token, c.buffer))) {
            let _ = answer.send(Err(Lost { buffer }));
        }
        self.changed.notify_waiters();
    }

    fn poll(&self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<End> {
        for _ in 0..ROUNDS {
            if self.closing.get() {
                return Poll::Ready(End::Closed);
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            match self.round(cx, stream) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn round(&self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Result<bool, End> {
        let mut progress = self.receive(cx, stream)?;
        progress |= self.events()?;
        progress |= self.admit();
        progress |= self.send(cx, stream)?;
        Ok(progress)
    }

    fn receive(&self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Result<bool, End> {
        let mut host = self.host.borrow_mut();
        let hints = (host.missing(), host.expected());
        match poll_receive(stream, cx, host.buffer(), hints) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(End::Eof),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(e)) => Err(e.into()),
        }
    }

    fn events(&self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            let event = self.host.borrow_mut().poll()?;
            match event {
                None => return Ok(progress),
                Some(Event::Ready(_)) => {
                    self.ready.set(true);
                    self.changed.notify_waiters();
                }
                Some(Event::Completed(c)) => {
                    // Nobody waits for the end of a command whose future was dropped.
                    let _ = c.token.send(Ok(Reply { cqe: c.cqe, buffer: c.buffer, received: c.received }));
                }
            }
            progress = true;
        }
    }

    /// Moves waiting commands to the queue as far as there is room.
    fn admit(&self) -> bool {
        let (mut waiting, mut host) = (self.waiting.borrow_mut(), self.host.borrow_mut());
        let mut progress = false;
        while host.has_room()
            && let Some(command) = waiting.pop_front()
        {
            if let Err(command) = host.submit(command) {
                waiting.push_front(command);
                break;
            }
            progress = true;
        }
        progress
    }

    fn send(&self, cx: &mut Context<'_>, stream: &TcpStream) -> Result<bool, End> {
        let mut host = self.host.borrow_mut();
        let outbox = host.outbox();
        let before = outbox.remaining();
        match poll_send(stream, cx, outbox) {
            Poll::Ready(Err(e)) => Err(e.into()),
            Poll::Pending | Poll::Ready(Ok(())) => Ok(outbox.remaining() < before),
        }
    }
}
