//! Controller side of one NVMe/TCP connection: initialisation, commands, R2T flow, responses (TCP 3.3, 3.4).
//!
//! A connection carries one queue. The shell puts received bytes into [`ControllerQueue::buffer`], calls
//! [`ControllerQueue::poll`] until it gives `None`, and answers each [`Request`] with [`ControllerQueue::complete`].
//!
//! Data that is not in a capsule needs a buffer, which may be shared with other queues ([`Buffers`]). A command that gets none waits, in order:
//! a read is not given out, a write's R2T is not sent. It is called again when there may be one.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::cmd::{Cqe, Direction, Fuse, Sgl, Sqe};
use crate::codec::{Decoder, Limits, Outbox, Role, check_ic};
use crate::digest::Digests;
use crate::limits::{ADMIN_IN_CAPSULE, buffer_size, check_command, check_transfer};
use crate::pdu::{C2hData, CapsuleCmd, Fes, H2cData, IcReq, IcResp, Pdu, TermReq, Termination};
use crate::status::Status;

pub mod events;
mod fused;
pub mod state;
mod waiting;

pub use fused::Compare;
pub use waiting::Abort;

use fused::{Pairs, shared_buffer};

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

/// Where the memory for the data of commands comes from.
pub trait Buffers {
    /// Takes memory of `bytes` bytes, which [`ControllerQueue::take_freed`] gives back later; `false` if it has to be waited for.
    fn take(&mut self, bytes: usize) -> bool;
}

/// As much memory as is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Buffers for Unlimited {
    fn take(&mut self, _bytes: usize) -> bool {
        true
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
    /// The first half of a fused operation, if this is the second one: each is to be completed.
    pub compare: Option<Box<Compare>>,
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

impl QueueError {
    /// With the header of the PDU that is to blame.
    pub(crate) fn because_of(self, header: &[u8]) -> Self {
        match self {
            Self::Terminated(t) => Self::Terminated(t.because_of(header)),
            by_peer => by_peer,
        }
    }
}

#[derive(Debug)]
enum Slot {
    Free,
    /// A command with data for the host that waits for a buffer.
    Waiting {
        sqe: Sqe,
        length: u32,
        arrival: u64,
    },
    /// Waits for budget or a buffer (`requested` false), or for data.
    Receiving {
        sqe: Sqe,
        arrival: u64,
        length: u32,
        requested: bool,
        first: Bytes,
        rest: BytesMut,
        digest_ok: bool,
        /// The command ends with this when its data is here: an Abort came, or the other half of a fused operation failed.
        refused: Option<Status>,
    },
    Executing {
        cid: u16,
        buffer_len: u32,
        /// Memory taken for it, bytes.
        held: usize,
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
    /// Commands with data for the host that wait for a buffer, and commands whose R2T waits for one, or for budget.
    waiting_reads: VecDeque<u16>,
    waiting_writes: VecDeque<u16>,
    /// Number of commands that had to wait, ever: gives them their order.
    arrivals: u64,
    requested: usize,
    /// Memory that is not needed any more, without that in the outbox, bytes.
    freed: usize,
    sq_head: u16,
    sq_size: u16,
    no_sq_flow_control: bool,
    /// Fused operations that are not complete. Only I/O queues take them.
    pairs: Pairs,
    takes_fused: bool,
    failed: Option<QueueError>,
}

impl ControllerQueue {
    /// Queue of a connection that was just accepted.
    #[must_use]
    pub fn new(config: ControllerConfig) -> Self {
        let mut outbox = Outbox::new();
        outbox.keep_spent();
        let in_capsule_data = config.limits.in_capsule_data.max(ADMIN_IN_CAPSULE);
        let limits = Limits { in_capsule_data, ..config.limits };
        Self {
            config,
            decoder: Decoder::new(Role::Controller, limits),
            outbox,
            slots: Vec::new(),
            free: Vec::new(),
            depth: usize::from(config.limits.queue_depth),
            waiting_reads: VecDeque::new(),
            waiting_writes: VecDeque::new(),
            arrivals: 0,
            requested: 0,
            freed: 0,
            sq_head: 0,
            sq_size: config.limits.queue_depth,
            no_sq_flow_control: false,
            pairs: Pairs::default(),
            takes_fused: false,
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

    /// Whether a command waits for a buffer.
    #[must_use]
    pub fn waits_for_buffer(&self) -> bool {
        self.first_waiting().is_some()
    }

    /// Memory that was taken and is not needed any more since this was last called, bytes.
    pub fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed) + self.outbox.take_freed()
    }

    /// After a successful Connect of queue `qid`: the queue's size (SQSIZE, zero based) and whether flow control is off.
    pub fn connected(&mut self, qid: u16, sqsize: u16, no_sq_flow_control: bool) {
        if qid != 0 {
            self.decoder.set_in_capsule(self.config.limits.in_capsule_data);
        }
        self.takes_fused = qid != 0;
        self.sq_size = sqsize.saturating_add(1);
        // A command beyond the size could still be under way when flow control is on: none is lost by one more.
        self.depth = usize::from(sqsize) + 1;
        self.no_sq_flow_control = no_sq_flow_control;
        self.sq_head %= self.sq_size.max(1);
    }

    /// The next command that is ready to be executed, `None` when more bytes, or a buffer, are needed.
    ///
    /// # Errors
    /// Why the connection ends. What is in the outbox is still to be sent.
    pub fn poll(&mut self, buffers: &mut impl Buffers) -> Result<Option<Request>, QueueError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        loop {
            if let Some(request) = self.serve_waiting(buffers) {
                return Ok(Some(request));
            }
            let step = match self.decoder.decode() {
                Ok(None) => return Ok(None),
                Ok(Some(Pdu::H2cTermReq(t))) => Err(QueueError::ByPeer(t)),
                Ok(Some(pdu)) => self.handle(pdu, buffers).map_err(QueueError::from),
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
        let e = e.because_of(self.decoder.last_header());
        if let QueueError::Terminated(t) = &e {
            self.outbox.push(Pdu::C2hTermReq(t.request()));
        }
        self.failed = Some(e.clone());
        e
    }

    fn handle(&mut self, pdu: Pdu, buffers: &mut impl Buffers) -> Result<Option<Request>, Termination> {
        match pdu {
            Pdu::IcReq(req) => self.initialise(req).map(|()| None),
            Pdu::CapsuleCmd(c) => self.command(c, buffers),
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

    fn command(&mut self, c: CapsuleCmd, buffers: &mut impl Buffers) -> Result<Option<Request>, Termination> {
        if self.outstanding() >= self.depth {
            return Err(Termination::new(Fes::Sequence, 0, &[]));
        }
        self.sq_head = (self.sq_head + 1) % self.sq_size.max(1);
        let sqe = c.sqe;
        let mut plan = self.transfer(&sqe, &c);
        let tag = self.allocate();
        if sqe.fuse() != Fuse::None || self.pairs.lone_first().is_some() {
            plan = self.fuse(tag, &sqe, plan);
        }
        match plan {
            Err(status) => {
                self.execute(tag, sqe.cid, 0, 0);
                self.complete(tag, status, 0, None);
                Ok(None)
            }
            Ok(Transfer::Here { data }) => {
                self.execute(tag, sqe.cid, 0, 0);
                Ok(self.give_out(tag, sqe, data))
            }
            Ok(Transfer::ToHost { length }) => Ok(self.read(tag, sqe, length, buffers)),
            Ok(Transfer::Later { length }) => {
                self.arrivals += 1;
                let slot = Slot::Receiving {
                    sqe,
                    arrival: self.arrivals,
                    length,
                    requested: false,
                    first: Bytes::new(),
                    rest: BytesMut::new(),
                    digest_ok: true,
                    refused: None,
                };
                self.set(tag, slot);
                self.waiting_writes.push_back(tag);
                Ok(None)
            }
        }
    }

    fn transfer(&self, sqe: &Sqe, c: &CapsuleCmd) -> Result<Transfer, Status> {
        if !c.digest_ok {
            return Err(Status::TRANSIENT_TRANSPORT_ERROR);
        }
        check_command(sqe)?;
        let direction = match sqe.direction() {
            Direction::None => return Ok(Transfer::Here { data: Bytes::new() }),
            // No command that is known moves data both ways.
            Direction::Both => return Err(Status::INVALID_OPCODE.dnr()),
            one_way => one_way,
        };
        let sgl = Sgl::decode(&sqe.dptr)?;
        check_transfer(sgl.length(), &self.config.limits)?;
        match (direction, sgl) {
            (_, Sgl::Transport { length: 0 }) => Ok(Transfer::Here { data: Bytes::new() }),
            (Direction::ToController, Sgl::InCapsule { offset, length }) => {
                let from = usize::try_from(offset).map_err(|_| Status::SGL_OFFSET_INVALID.dnr())?;
                if from > c.data.len() {
                    return Err(Status::SGL_OFFSET_INVALID.dnr());
                }
                if c.data.len() - from < length as usize {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
                }
                Ok(Transfer::Here { data: c.data.slice(from..from + length as usize) })
            }
            (Direction::ToController, Sgl::Transport { length }) => Ok(Transfer::Later { length }),
            (_, Sgl::Transport { length }) => Ok(Transfer::ToHost { length }),
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

    fn execute(&mut self, tag: u16, cid: u16, buffer_len: u32, held: usize) {
        self.set(tag, Slot::Executing { cid, buffer_len, held });
    }

    fn data(&mut self, d: H2cData) -> Result<Option<Request>, Termination> {
        let bad = |fes, fei| Err(Termination::new(fes, fei, &[]));
        let Some(Slot::Receiving { sqe, length, requested: true, first, rest, digest_ok, refused, .. }) =
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
        if d.data.is_empty() {
            return bad(Fes::InvalidHeader, 16);
        }
        if d.last != (end == *length as usize) {
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
        let refused = refused.or((!*digest_ok).then_some(Status::TRANSIENT_TRANSPORT_ERROR));
        let held = shared_buffer(sqe, *length);
        let (sqe, data) = (*sqe, join(std::mem::take(first), std::mem::take(rest)));
        self.execute(d.ttag, sqe.cid, 0, held);
        if let Some(status) = refused {
            self.complete(d.ttag, status, 0, None);
            self.unfuse(d.ttag);
            return Ok(None);
        }
        Ok(self.give_out(d.ttag, sqe, data))
    }

    /// Answers the command `tag`: status, dwords 0 and 1, and on success the data for the host, which is cut to the
    /// host's buffer.
    pub fn complete(&mut self, tag: u16, status: Status, result: u64, data: Option<Bytes>) {
        let Some(&Slot::Executing { cid, buffer_len, mut held }) = self.slots.get(usize::from(tag)) else {
            return;
        };
        self.set(tag, Slot::Free);
        self.free.push(tag);
        let mut success = false;
        if let Some(mut data) = data.filter(|d| status.is_success() && buffer_len > 0 && !d.is_empty()) {
            data.truncate(buffer_len as usize);
            // What is sent is in use until it has been sent.
            held -= buffer_size(data.len());
            success = self.config.c2h_success && result == 0;
            let pdu = C2hData { cccid: cid, offset: 0, data, last: true, success, digest_ok: true };
            self.outbox.push(Pdu::C2hData(pdu));
        }
        self.freed += held;
        if !success {
            let sqhd = if self.no_sq_flow_control { 0xffff } else { self.sq_head };
            self.outbox.push(Pdu::CapsuleResp(Cqe { result, sqhd, sqid: 0, cid, status, phase: false }));
        }
    }
}

enum Transfer {
    /// All data for the controller is here, or there is none.
    Here { data: Bytes },
    /// Data for the host.
    ToHost { length: u32 },
    /// Data for the controller, to be asked for.
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
