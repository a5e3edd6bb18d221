//! One connection: its task reads many PDUs at a time, executes, and sends what is ready in one call.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Buf;
use futures::future::{Abortable, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use vda_nvme::controller::{ControllerQueue, QueueError, Request};
use vda_nvme::fabrics::{Connect, fctype};
use vda_nvme::status::Status;

use super::buffer_pool::Share;
use super::controller::{Controller, Link};
use super::io::{self as nvm, Begun, Done, Tags};
use super::{Target, add, admin, connect};
use crate::socket::{poll_receive, poll_send};

mod abort;

/// No more is read from the peer, and nothing more is begun, while this much waits to be sent: a peer that does not receive gets no more
/// work done, and what is sent is still in the processor's cache.
const SEND_HIGH_WATER: usize = 512 << 10;
/// Rounds before other tasks get their turn.
const ROUNDS: usize = 8;
/// Time a peer has for Connect (SPDK's `association_timeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for the last bytes, a termination request, to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the host")]
    Eof,
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] QueueError),
    #[error("keep-alive timeout")]
    KeepAlive,
    #[error("no Connect within {CONNECT_TIMEOUT:?}")]
    NotConnected,
    #[error("disconnected by the target")]
    Closed,
}

/// Serves an accepted connection.
pub(super) fn spawn(target: &Rc<Target>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let Some(options) = target.transport() else { return };
    let connection = Connection {
        target: Rc::clone(target),
        queue: ControllerQueue::new(options.queue_config()),
        link: Rc::new(Link::new(peer, local)),
        controller: None,
        running: FuturesUnordered::new(),
        share: target.buffers.join(),
        held_back: abort::HeldBack::default(),
        timer: Some(Box::pin(tokio::time::sleep(CONNECT_TIMEOUT))),
    };
    add(&target.counters.unassociated, 1);
    tokio::task::spawn_local(connection.serve(stream));
}

struct Connection {
    target: Rc<Target>,
    queue: ControllerQueue,
    link: Rc<Link>,
    controller: Option<Rc<Controller>>,
    /// I/O that has begun and not ended.
    running: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    /// What it holds of the target's memory for data; dropped after the I/O that uses it has ended.
    share: Share,
    /// Those of them that a limit holds back, which can still be aborted.
    held_back: abort::HeldBack,
    /// Connect timeout, then keep-alive on the admin queue.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream) {
        let end = poll_fn(|cx| self.poll(cx, &mut stream)).await;
        self.log_end(&end);
        self.link.close();
        if matches!(end, End::Protocol(_)) {
            let flush = poll_fn(|cx| poll_send(&stream, cx, self.queue.outbox()));
            let _ = tokio::time::timeout(LAST_WORDS, flush).await;
        }
        drop(stream);
        self.queue.outbox().clear();
        self.share.release(self.queue.take_freed());
        self.share.settle();
        self.refuse_aborts();
        self.held_back.abort_all();
        // I/O that has begun is never abandoned: whoever waits for this connection to be gone relies on it (host removal).
        while self.running.next().await.is_some() {}
        match self.controller.take() {
            Some(c) => {
                let qid = self.link.qid.get();
                let n = &self.target.counters;
                add(if qid == 0 { &n.current_admin_qpairs } else { &n.current_io_qpairs }, -1);
                c.unlink(qid);
            }
            None => add(&self.target.counters.unassociated, -1),
        }
    }

    fn log_end(&self, end: &End) {
        let peer = self.link.peer;
        let Some(c) = &self.controller else {
            tracing::debug!(%peer, %end, "connection ended");
            return;
        };
        let (nqn, host, cntlid, qid) = (&c.subsystem.config.nqn, &c.hostnqn, c.cntlid, self.link.qid.get());
        match end {
            End::Eof | End::Closed | End::Lost(_) => {
                tracing::info!(%nqn, %host, cntlid, qid, %peer, %end, "queue disconnected");
            }
            End::Protocol(_) | End::KeepAlive | End::NotConnected => {
                tracing::warn!(%nqn, %host, cntlid, qid, %peer, %end, "queue disconnected");
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<End> {
        for _ in 0..ROUNDS {
            match self.round(cx, stream) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Everything that can be done now; whether something was.
    fn round(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Result<bool, End> {
        let mut progress = self.reap(cx);
        while let Some((tag, result)) = self.link.poll_mail(cx.waker()) {
            self.queue.complete(tag, Status::SUCCESS, result.into(), None);
            progress = true;
        }
        progress |= self.serve_aborts();
        if self.link.is_closing() {
            return Err(End::Closed);
        }
        // What is here first: else what comes would be put behind it, in a larger chunk.
        progress |= self.execute()?;
        progress |= self.receive(cx, stream)?;
        progress |= self.execute()?;
        progress |= self.send(cx, stream)?;
        self.settle_buffers();
        if self.share.waits() {
            self.share.wake_later(cx.waker());
        }
        self.check_timer(cx)?;
        Ok(progress)
    }

    /// Gives back the memory that is not needed any more, for whoever waits for it.
    fn settle_buffers(&mut self) {
        self.share.release(self.queue.take_freed());
        if !self.queue.waits_for_buffer() {
            self.share.settle();
        }
    }

    fn reap(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Poll::Ready(Some(done)) = self.running.poll_next_unpin(cx) {
            self.finish(done);
            progress = true;
        }
        progress
    }

    fn finish(&mut self, done: Done) {
        self.held_back.remove(done.tag);
        let n = &self.target.counters.completed;
        if let Some((first, status)) = done.first {
            n.set(n.get() + 1);
            self.queue.complete(first, status, 0, None);
        }
        n.set(n.get() + 1);
        self.queue.complete(done.tag, done.status, 0, done.data);
    }

    fn receive(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Result<bool, End> {
        if self.queue.outbox().remaining() >= SEND_HIGH_WATER {
            return Ok(false);
        }
        let hints = (self.queue.missing(), self.queue.expected());
        match poll_receive(stream, cx, self.queue.buffer(), hints) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(End::Eof),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(e)) => Err(e.into()),
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, stream: &TcpStream) -> Result<bool, End> {
        let before = self.queue.outbox().remaining();
        let sent = poll_send(stream, cx, self.queue.outbox());
        while let Some(payload) = self.queue.outbox().take_spent() {
            self.target.read_buffers.give_bytes(payload);
        }
        match sent {
            Poll::Ready(Err(e)) => Err(e.into()),
            Poll::Pending | Poll::Ready(Ok(())) => Ok(self.queue.outbox().remaining() < before),
        }
    }

    fn execute(&mut self) -> Result<bool, End> {
        let mut progress = false;
        // What was received goes on when there is room again: one read of commands can ask for a thousand times its size.
        while self.queue.outbox().remaining() < SEND_HIGH_WATER {
            let Some(request) = self.queue.poll(&mut &self.share)? else { break };
            self.dispatch(request);
            progress = true;
        }
        Ok(progress)
    }

    fn dispatch(&mut self, r: Request) {
        let tag = r.tag;
        let Some(controller) = self.controller.clone() else {
            return self.connect(&r);
        };
        if self.link.qid.get() != 0 && !r.sqe.is_fabrics() {
            return self.begin(&controller, r);
        }
        if abort::is_abort(&controller, &r) {
            return self.abort(&controller, &r);
        }
        match admin::execute(&self.target, &controller, &r) {
            Ok(Some(a)) => self.queue.complete(tag, Status::SUCCESS, a.result, a.data),
            Ok(None) => {}
            Err(status) => self.queue.complete(tag, status, 0, None),
        }
        // Setting the keep-alive timer or the time of the first Connect may have moved the deadline.
        self.arm_timer();
    }

    fn begin(&mut self, controller: &Controller, r: Request) {
        let tags = Tags::of(&r);
        match nvm::begin(controller, &self.target.read_buffers, r) {
            Err(status) => self.finish(tags.refused(status)),
            Ok(Begun { mut io, wait: None }) => {
                // Most I/O to memory ends at once, without the cost of a place among the running.
                match io.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(done) => self.finish(done),
                    Poll::Pending => self.running.push(io),
                }
            }
            Ok(Begun { io, wait: Some(wait) }) => {
                let io = Abortable::new(io, self.held_back.insert(tags.tag, wait));
                let aborted = tags.refused(Status::ABORTED_BY_REQUEST);
                self.running.push(Box::pin(async move { io.await.unwrap_or(aborted) }));
            }
        }
    }

    fn connect(&mut self, r: &Request) {
        if !r.sqe.is_fabrics() || r.sqe.fctype() != fctype::CONNECT {
            return self.queue.complete(r.tag, Status::SEQUENCE_ERROR.dnr(), 0, None);
        }
        let request = Connect::decode(&r.sqe, &r.data);
        let made = request.and_then(|c| connect::connect(&self.target, &self.link, &c).map(|ctrl| (c, ctrl)));
        match made {
            Err(refusal) => {
                tracing::info!(peer = %self.link.peer, ?refusal, "connect refused");
                self.queue.complete(r.tag, refusal.status, refusal.result.into(), None);
            }
            Ok((c, controller)) => {
                let n = &self.target.counters;
                let (total, current) = match c.qid {
                    0 => (&n.admin_qpairs, &n.current_admin_qpairs),
                    _ => (&n.io_qpairs, &n.current_io_qpairs),
                };
                add(&n.unassociated, -1);
                add(total, 1);
                add(current, 1);
                if c.qid != 0 {
                    // To SPDK the Connect of an I/O queue is the first command that ended on it.
                    n.completed.set(n.completed.get() + 1);
                }
                self.queue.connected(c.qid, c.sqsize, c.no_sq_flow_control);
                self.queue.complete(r.tag, Status::SUCCESS, controller.cntlid.into(), None);
                self.controller = Some(controller);
                self.timer = None;
                self.arm_timer();
            }
        }
    }

    /// Keep-alive runs on the admin queue. The timer is only set when there is none: when it fires it looks at the real deadline.
    fn arm_timer(&mut self) {
        let Some(c) = self.controller.as_ref().filter(|_| self.link.qid.get() == 0) else { return };
        let deadline = c.state.borrow().keep_alive.deadline();
        let sooner = |t: &Pin<Box<Sleep>>, d: Instant| t.deadline().into_std() > d;
        match (deadline, &self.timer) {
            (None, _) => self.timer = None,
            (Some(d), Some(t)) if !sooner(t, d) => {}
            (Some(d), _) => self.timer = Some(Box::pin(tokio::time::sleep_until(d.into()))),
        }
    }

    fn check_timer(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.timer = None;
            let Some(c) = &self.controller else { return Err(End::NotConnected) };
            let mut state = c.state.borrow_mut();
            if state.keep_alive.expired(Instant::now()) {
                state.properties.set_fatal();
                return Err(End::KeepAlive);
            }
            drop(state);
            self.arm_timer();
        }
        Ok(())
    }
}
