//! Controller side of one NVMe/TCP connection: initialisation, commands, R2T flow, responses (TCP 3.3, 3.4).
//!
//! A connection carries one queue. The shell puts received bytes into [`ControllerQueue::buffer`], calls
//! [`ControllerQueue::poll`] until it gives `None`, and answers each [`Request`] with [`ControllerQueue::complete`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::cmd::{Cqe, Direction, Sgl, Sqe};
use crate::codec::{Decoder, Limits, Outbox, Role, check_ic};
use crate::digest::Digests;
use crate::pdu::{C2hData, CapsuleCmd, Fes, H2cData, IcReq, IcResp, Pdu, R2t, TermReq, Termination};
use crate::status::Status;

pub mod events;
pub mod state;

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;

/// What a controller offers and takes on a connection.
#[derive(Debug, Clone, Copy)]
pub struct ControllerConfig {
    /// Limits, see there.
    pub limits: Limits,
    /// Digests agreed to if the host asks.
    pub digests: Digests,
    /// Send data and success in one PDU where possible (C2HData SUCCESS flag).
    pub c2h_success: bool,
    /// Bytes that R2Ts of this connection may have requested and not received: bounds memory.
    pub r2t_budget: usize,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            digests: Digests { header: true, data: true },
            c2h_success: true,
            r2t_budget: 2 << 20,
        }
    }
}

/// A command with all of its data, to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names the command in [`ControllerQueue::complete`].
    pub tag: u16,
    /// The command.
    pub sqe: Sqe,
    /// Data from the host.
    pub data: Bytes,
    /// Length of the host's buffer for data to the host, bytes.
    pub buffer_len: u32,
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The peer violated the protocol; a termination request is in the outbox.
    #[error("connection terminated: {0}")]
    Terminated(#[from] Termination),
    /// The peer sent a termination request.
    #[error("peer terminated the connection: {}", crate::codec::describe_termination(.0.fes))]
    ByPeer(TermReq),
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Waits for budget (`requested` false) or for data.
    Receiving {
        sqe: Sqe,
        length: u32,
        requested: bool,
        first: Bytes,
        rest: BytesMut,
        digest_ok: bool,
        /// An Abort came: the command ends when its data is here.
        aborted: bool,
    },
    Executing {
        cid: u16,
        buffer_len: u32,
    },
}

/// Controller side of a connection.
#[derive(Debug)]
pub struct ControllerQueue {
    config: ControllerConfig,
    decoder: Decoder,
    outbox: Outbox,
    slots: Vec<Slot>,
    free: Vec<u16>,
    depth: usize,
    /// Commands whose R2T waits for budget.
    starved: VecDeque<u16>,
    requested: usize,
    sq_head: u16,
    sq_size: u16,
    no_sq_flow_control: bool,
    failed: Option<QueueError>,
}

impl ControllerQueue {
    /// Queue of a connection that was just accepted.
    #[must_use]
    pub fn new(config: ControllerConfig) -> Self {
        let mut outbox = Outbox::new();
        outbox.keep_spent();
        Self {
            config,
            decoder: Decoder::new(Role::Controller, config.limits),
            outbox,
            slots: Vec::new(),
            free: Vec::new(),
            depth: usize::from(config.limits.queue_depth),
            starved: VecDeque::new(),
            requested: 0,
            sq_head: 0,
            sq_size: config.limits.queue_depth,
            no_sq_flow_control: false,
            failed: None,
        }
    }

    /// Where received bytes go; append only.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.decoder.buffer()
    }

    /// Bytes known to be missing of the PDU that has begun, a hint for reserving.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.decoder.missing()
    }

    /// Bytes of data that were asked for and have not come, a hint for reserving.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.requested
    }

    /// What is to be sent. Payloads that were sent wait in [`Outbox::take_spent`].
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Commands received and not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// After a successful Connect: the queue's size (SQSIZE, zero based) and whether flow control is off.
    pub fn connected(&mut self, sqsize: u16, no_sq_flow_control: bool) {
        self.sq_size = sqsize.saturating_add(1);
        // A command beyond the size could still be under way when flow control is on: none is lost by one more.
        self.depth = usize::from(sqsize) + 1;
        self.no_sq_flow_control = no_sq_flow_control;
        self.sq_head %= self.sq_size.max(1);
    }

    /// The next command that is ready to be executed, `None` when more bytes are needed.
    ///
    /// # Errors
    /// Why the connection ends. What is in the outbox is still to be sent.
    pub fn poll(&mut self) -> Result<Option<Request>, QueueError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        loop {
            let step = match self.decoder.decode() {
                Ok(None) => return Ok(None),
                Ok(Some(Pdu::H2cTermReq(t))) => Err(QueueError::ByPeer(t)),
                Ok(Some(pdu)) => self.handle(pdu).map_err(QueueError::from),
                Err(t) => Err(t.into()),
            };
            match step {
                Ok(None) => {}
                Ok(Some(request)) => return Ok(Some(request)),
                Err(e) => return Err(self.fail(e)),
            }
        }
    }

    fn fail(&mut self, e: QueueError) -> QueueError {
        if let QueueError::Terminated(t) = &e {
            self.outbox.push(Pdu::C2hTermReq(t.request()));
        }
        self.failed = Some(e.clone());
        e
    }

    fn handle(&mut self, pdu: Pdu) -> Result<Option<Request>, Termination> {
        match pdu {
            Pdu::IcReq(req) => self.initialise(req).map(|()| None),
            Pdu::CapsuleCmd(c) => self.command(c),
            Pdu::H2cData(d) => self.data(d),
            // The decoder lets nothing else through.
            other => Err(Termination::new(Fes::Sequence, 0, &[other.kind() as u8])),
        }
    }

    fn initialise(&mut self, req: IcReq) -> Result<(), Termination> {
        check_ic(req.pfv, req.hpda)?;
        let digests = self.config.digests.and(req.digests);
        self.outbox.push(Pdu::IcResp(IcResp {
            pfv: 0,
            cpda: self.config.limits.alignment,
            digests,
            maxh2cdata: self.config.limits.max_h2c_data,
        }));
        self.decoder.establish(digests);
        self.outbox.establish(digests, req.hpda);
        Ok(())
    }

    fn command(&mut self, c: CapsuleCmd) -> Result<Option<Request>, Termination> {
        if self.outstanding() >= self.depth {
            return Err(Termination::new(Fes::Sequence, 0, &[]));
        }
        self.sq_head = (self.sq_head + 1) % self.sq_size.max(1);
        let sqe = c.sqe;
        let plan = self.transfer(&sqe, &c);
        let tag = self.allocate();
        match plan {
            Err(status) => {
                self.execute(tag, sqe.cid, 0);
                self.complete(tag, status, 0, None);
                Ok(None)
            }
            Ok(Transfer::Now { data, buffer_len }) => {
                self.execute(tag, sqe.cid, buffer_len);
                Ok(Some(Request { tag, sqe, data, buffer_len }))
            }
            Ok(Transfer::Later { length }) => {
                let (first, rest) = (Bytes::new(), BytesMut::new());
                let slot = Slot::Receiving {
                    sqe,
                    length,
                    requested: false,
                    first,
                    rest,
                    digest_ok: true,
                    aborted: false,
                };
                self.set(tag, slot);
                self.starved.push_back(tag);
                self.request_data();
                Ok(None)
            }
        }
    }

    fn transfer(&self, sqe: &Sqe, c: &CapsuleCmd) -> Result<Transfer, Status> {
        if !c.digest_ok {
            return Err(Status::TRANSIENT_TRANSPORT_ERROR);
        }
        let max = self.config.limits.max_io_size;
        let direction = sqe.direction();
        if direction == Direction::None {
            return Ok(Transfer::Now { data: Bytes::new(), buffer_len: 0 });
        }
        match (direction, Sgl::decode(&sqe.dptr)?) {
            (_, sgl) if sgl.length() > max => Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
            (Direction::ToController, Sgl::InCapsule { offset, length }) => {
                let from = usize::try_from(offset).map_err(|_| Status::SGL_OFFSET_INVALID.dnr())?;
                if from > c.data.len() {
                    return Err(Status::SGL_OFFSET_INVALID.dnr());
                }
                if c.data.len() - from < length as usize {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
                }
                Ok(Transfer::Now { data: c.data.slice(from..from + length as usize), buffer_len: 0 })
            }
            (Direction::ToController, Sgl::Transport { length: 0 }) => {
                Ok(Transfer::Now { data: Bytes::new(), buffer_len: 0 })
            }
            (Direction::ToController, Sgl::Transport { length }) => Ok(Transfer::Later { length }),
            (Direction::ToHost, Sgl::Transport { length }) => {
                Ok(Transfer::Now { data: Bytes::new(), buffer_len: length })
            }
            _ => Err(Status::SGL_TYPE_INVALID.dnr()),
        }
    }

    fn allocate(&mut self) -> u16 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            (self.slots.len() - 1) as u16
        })
    }

    fn set(&mut self, tag: u16, slot: Slot) {
        if let Some(s) = self.slots.get_mut(usize::from(tag)) {
            *s = slot;
        }
    }

    fn execute(&mut self, tag: u16, cid: u16, buffer_len: u32) {
        self.set(tag, Slot::Executing { cid, buffer_len });
    }

    /// Sends R2Ts in the order of the commands as far as the budget goes; one is always allowed.
    fn request_data(&mut self) {
        while let Some(&tag) = self.starved.front() {
            let Some(Slot::Receiving { sqe, length, requested, .. }) = self.slots.get_mut(usize::from(tag))
            else {
                self.starved.pop_front();
                continue;
            };
            let length = *length;
            if self.requested > 0 && self.requested + length as usize > self.config.r2t_budget {
                return;
            }
            *requested = true;
            self.requested += length as usize;
            let r2t = R2t { cccid: sqe.cid, ttag: tag, offset: 0, length };
            self.outbox.push(Pdu::R2t(r2t));
            self.starved.pop_front();
        }
    }

    fn data(&mut self, d: H2cData) -> Result<Option<Request>, Termination> {
        let bad = |fes, fei| Err(Termination::new(fes, fei, &[]));
        let Some(Slot::Receiving { sqe, length, requested: true, first, rest, digest_ok, aborted }) =
            self.slots.get_mut(usize::from(d.ttag))
        else {
            return bad(Fes::InvalidHeader, 10);
        };
        if sqe.cid != d.cccid {
            return bad(Fes::InvalidHeader, 8);
        }
        let have = first.len() + rest.len();
        let end = have + d.data.len();
        if d.offset as usize != have || end > *length as usize {
            return bad(Fes::OutOfRange, 0);
        }
        if d.data.is_empty() || d.last != (end == *length as usize) {
            return bad(Fes::InvalidHeader, 1);
        }
        *digest_ok &= d.digest_ok;
        self.requested -= d.data.len();
        // The usual transfer is one PDU, which is handed on as it is; only more of them are gathered.
        if have == 0 {
            *first = d.data;
        } else {
            if rest.is_empty() {
                rest.reserve(*length as usize - first.len());
            }
            rest.extend_from_slice(&d.data);
        }
        if !d.last {
            return Ok(None);
        }
        let refused = match (*aborted, *digest_ok) {
            (true, _) => Some(Status::ABORTED_BY_REQUEST),
            (false, false) => Some(Status::TRANSIENT_TRANSPORT_ERROR),
            (false, true) => None,
        };
        let (sqe, data) = (*sqe, join(std::mem::take(first), std::mem::take(rest)));
        self.execute(d.ttag, sqe.cid, 0);
        self.request_data();
        if let Some(status) = refused {
            self.complete(d.ttag, status, 0, None);
            return Ok(None);
        }
        Ok(Some(Request { tag: d.ttag, sqe, data, buffer_len: 0 }))
    }

    /// Answers the command `tag`: status, dwords 0 and 1, and on success the data for the host, which is cut to the
    /// host's buffer.
    pub fn complete(&mut self, tag: u16, status: Status, result: u64, data: Option<Bytes>) {
        let Some(&Slot::Executing { cid, buffer_len }) = self.slots.get(usize::from(tag)) else {
            return;
        };
        self.set(tag, Slot::Free);
        self.free.push(tag);
        let mut success = false;
        if let Some(mut data) = data.filter(|d| status.is_success() && buffer_len > 0 && !d.is_empty()) {
            data.truncate(buffer_len as usize);
            success = self.config.c2h_success && result == 0;
            let pdu = C2hData { cccid: cid, offset: 0, data, last: true, success, digest_ok: true };
            self.outbox.push(Pdu::C2hData(pdu));
        }
        if !success {
            let sqhd = if self.no_sq_flow_control { 0xffff } else { self.sq_head };
            self.outbox.push(Pdu::CapsuleResp(Cqe { result, sqhd, sqid: 0, cid, status, phase: false }));
        }
    }

    /// Aborts the command `cid` if its execution has not begun (Base 5.1).
    ///
    /// One whose data was not asked for yet ends at once. One whose data is under way ends when that is here: its transfer tag has to stay
    /// valid until then, but it is never executed.
    pub fn abort(&mut self, cid: u16) -> Abort {
        let is_it = |s: &Slot| match s {
            Slot::Receiving { sqe, .. } => sqe.cid == cid,
            Slot::Executing { cid: c, .. } => *c == cid,
            Slot::Free => false,
        };
        let Some(index) = self.slots.iter().position(is_it) else { return Abort::Unknown };
        let tag = index as u16;
        match &mut self.slots[index] {
            Slot::Receiving { requested: true, aborted, .. } => *aborted = true,
            Slot::Receiving { .. } => {
                self.starved.retain(|t| *t != tag);
                self.execute(tag, cid, 0);
                self.complete(tag, Status::ABORTED_BY_REQUEST, 0, None);
            }
            Slot::Executing { .. } | Slot::Free => return Abort::Executing(tag),
        }
        Abort::Aborted
    }
}

/// What [`ControllerQueue::abort`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// The command is not and will not be executed; it ends with `ABORTED_BY_REQUEST`.
    Aborted,
    /// The command was given out with this tag: it is up to who executes it.
    Executing(u16),
    /// No such command is outstanding.
    Unknown,
}

enum Transfer {
    Now { data: Bytes, buffer_len: u32 },
    Later { length: u32 },
}

fn join(first: Bytes, rest: BytesMut) -> Bytes {
    if rest.is_empty() {
        return first;
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    all.freeze()
}
