//! Host side of one NVMe/TCP connection: initialisation, submission, R2T flow, data, completions (TCP 3.3, 3.4).
//!
//! The shell puts received bytes into [`HostQueue::buffer`] and calls [`HostQueue::poll`] until it gives `None`.
//! `T` is the caller's own token of a command, given back with its completion.

use bytes::{Bytes, BytesMut};

use crate::cmd::{Cqe, Direction, Sgl, Sqe};
use crate::codec::{Decoder, Limits, Outbox, Role, check_ic};
pub use crate::controller::QueueError;
use crate::digest::Digests;
use crate::limits::{ADMIN_IN_CAPSULE, HOST_R2TS, MIN_H2C_DATA};
use crate::pdu::{C2hData, CapsuleCmd, Fes, H2cData, IcReq, IcResp, Pdu, R2t, Termination};
use crate::status::Status;

pub mod pulse;

/// What a host wants and takes on a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostConfig {
    /// Limits, see there.
    pub limits: Limits,
    /// Digests asked for; the controller may refuse them.
    pub digests: Digests,
}

/// A command and its data. The data pointer is filled in by the queue.
#[derive(Debug)]
pub struct Command<T> {
    /// The command; `cid` and data pointer are overwritten.
    pub sqe: Sqe,
    /// Data for the controller.
    pub data: Bytes,
    /// Buffer for data from the controller, its length is the length asked for.
    pub buffer: BytesMut,
    /// The caller's token.
    pub token: T,
}

/// End of a command.
#[derive(Debug)]
pub struct Completion<T> {
    /// Completion entry.
    pub cqe: Cqe,
    /// The buffer of the command.
    pub buffer: BytesMut,
    /// Bytes of `buffer` that the controller filled.
    pub received: usize,
    /// The caller's token.
    pub token: T,
}

/// What [`HostQueue::poll`] reports.
#[derive(Debug)]
pub enum Event<T> {
    /// The connection is initialised: commands may be submitted.
    Ready(Digests),
    /// A command ended.
    Completed(Completion<T>),
}

#[derive(Debug)]
struct Active<T> {
    direction: Direction,
    data: Bytes,
    /// Bytes of `data` that R2Ts have asked for.
    asked: usize,
    /// Position in the stream where the data of the last R2T ends: until that is sent the R2T is outstanding.
    asked_until: u64,
    buffer: BytesMut,
    received: usize,
    digest_ok: bool,
    token: T,
}

/// Host side of a connection.
#[derive(Debug)]
pub struct HostQueue<T> {
    config: HostConfig,
    decoder: Decoder,
    outbox: Outbox,
    slots: Vec<Option<Active<T>>>,
    free: Vec<u16>,
    depth: usize,
    in_capsule: u32,
    max_h2c_data: u32,
    /// Length of the buffers of commands outstanding.
    expected: usize,
    ready: bool,
    failed: Option<QueueError>,
}

impl<T> HostQueue<T> {
    /// Queue of a connection that was just opened; ICReq is in the outbox.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let mut outbox = Outbox::new();
        outbox.push(Pdu::IcReq(IcReq {
            pfv: 0,
            hpda: config.limits.alignment,
            digests: config.digests,
            maxr2t: HOST_R2TS - 1,
        }));
        Self {
            config,
            decoder: Decoder::new(Role::Host, config.limits),
            outbox,
            slots: Vec::new(),
            free: Vec::new(),
            depth: usize::from(config.limits.queue_depth),
            in_capsule: ADMIN_IN_CAPSULE,
            max_h2c_data: MIN_H2C_DATA,
            expected: 0,
            ready: false,
            failed: None,
        }
    }

    /// Sets the in-capsule data size of an I/O queue, from IOCCSZ of Identify Controller.
    pub fn set_in_capsule(&mut self, bytes: u32) {
        self.in_capsule = bytes;
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

    /// Bytes of data that were asked for and have, as far as is known, not come, a hint for reserving.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// What is to be sent.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Commands submitted and not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether a command can be submitted now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        // One entry of a queue stays empty (Base 3.3.1.2).
        self.ready && self.failed.is_none() && self.outstanding() + 1 < self.depth
    }

    /// Submits a command and gives its identifier.
    ///
    /// # Errors
    /// The command itself if the queue is full or not initialised.
    #[allow(clippy::result_large_err)] // nothing is lost and nothing allocated: the caller keeps its buffers
    pub fn submit(&mut self, command: Command<T>) -> Result<u16, Command<T>> {
        if !self.has_room() {
            return Err(command);
        }
        let Command { mut sqe, data, buffer, token } = command;
        let direction = sqe.direction();
        let cid = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u16
        });
        sqe.cid = cid;
        sqe.flags = sqe.flags & !(0b11 << 6) | 1 << 6;
        let in_capsule = direction == Direction::ToController
            && !data.is_empty()
            && data.len() <= (if sqe.is_fabrics() { ADMIN_IN_CAPSULE } else { self.in_capsule }) as usize;
        let length = if direction == Direction::ToController { data.len() } else { buffer.len() } as u32;
        let sgl = if in_capsule { Sgl::InCapsule { offset: 0, length } } else { Sgl::Transport { length } };
        sqe.dptr = sgl.encode();
        let payload = if in_capsule { data.clone() } else { Bytes::new() };
        self.outbox.push(Pdu::CapsuleCmd(CapsuleCmd { sqe, data: payload, digest_ok: true }));
        let data = if in_capsule { Bytes::new() } else { data };
        self.expected += buffer.len();
        let active =
            Active { direction, data, asked: 0, asked_until: 0, buffer, received: 0, digest_ok: true, token };
        self.slots[usize::from(cid)] = Some(active);
        Ok(cid)
    }

    /// The next event, `None` when more bytes are needed.
    ///
    /// # Errors
    /// Why the connection ends. What is in the outbox is still to be sent.
    pub fn poll(&mut self) -> Result<Option<Event<T>>, QueueError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        loop {
            let step = match self.decoder.decode() {
                Ok(None) => return Ok(None),
                Ok(Some(Pdu::C2hTermReq(t))) => Err(QueueError::ByPeer(t)),
                Ok(Some(pdu)) => self.handle(pdu).map_err(QueueError::from),
                Err(t) => Err(t.into()),
            };
            match step {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(Some(event)),
                Err(e) => return Err(self.fail(e)),
            }
        }
    }

    fn fail(&mut self, e: QueueError) -> QueueError {
        let e = e.because_of(self.decoder.last_header());
        if let QueueError::Terminated(t) = &e {
            self.outbox.push(Pdu::H2cTermReq(t.request()));
        }
        self.failed = Some(e.clone());
        e
    }

    /// Takes all commands that have not completed, when the connection is lost.
    pub fn drain(&mut self) -> Vec<(T, BytesMut)> {
        self.free.clear();
        self.expected = 0;
        let slots = std::mem::take(&mut self.slots);
        slots.into_iter().flatten().map(|a| (a.token, a.buffer)).collect()
    }

    fn handle(&mut self, pdu: Pdu) -> Result<Option<Event<T>>, Termination> {
        match pdu {
            Pdu::IcResp(resp) => self.initialised(resp).map(Some),
            Pdu::R2t(r2t) => self.send_data(r2t).map(|()| None),
            Pdu::C2hData(d) => self.receive(d),
            Pdu::CapsuleResp(cqe) => self.completed(cqe).map(Some),
            // The decoder lets nothing else through.
            other => Err(Termination::new(Fes::Sequence, 0, &[other.kind() as u8])),
        }
    }

    fn initialised(&mut self, resp: IcResp) -> Result<Event<T>, Termination> {
        check_ic(resp.pfv, resp.cpda)?;
        if resp.maxh2cdata < MIN_H2C_DATA {
            return Err(Termination::new(Fes::InvalidHeader, 12, &[]));
        }
        if self.config.digests.and(resp.digests) != resp.digests {
            return Err(Termination::new(Fes::InvalidHeader, 11, &[]));
        }
        self.max_h2c_data = resp.maxh2cdata & !3;
        self.decoder.establish(resp.digests);
        self.outbox.establish(resp.digests, resp.cpda);
        self.ready = true;
        Ok(Event::Ready(resp.digests))
    }

    fn active(&mut self, cid: u16) -> Result<&mut Active<T>, Termination> {
        let slot = self.slots.get_mut(usize::from(cid)).and_then(Option::as_mut);
        slot.ok_or_else(|| Termination::new(Fes::InvalidHeader, 8, &[]))
    }

    fn send_data(&mut self, r2t: R2t) -> Result<(), Termination> {
        let (max, sent) = (self.max_h2c_data as usize, self.outbox.sent_ever());
        let active = self.active(r2t.cccid)?;
        let (from, len) = (r2t.offset as usize, r2t.length as usize);
        let bad = |fes, fei| Err(Termination::new(fes, fei, &[]));
        if active.asked_until > sent {
            return bad(Fes::LimitExceeded, 0);
        }
        if from != active.asked {
            return bad(Fes::InvalidHeader, 12);
        }
        let Some(end) = from.checked_add(len).filter(|&e| e <= active.data.len()) else {
            return bad(Fes::OutOfRange, 0);
        };
        if len == 0 {
            return bad(Fes::InvalidHeader, 16);
        }
        active.asked = end;
        let data = active.data.slice(from..end);
        for at in (0..len).step_by(max) {
            let to = len.min(at + max);
            self.outbox.push(Pdu::H2cData(H2cData {
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                offset: (from + at) as u32,
                data: data.slice(at..to),
                last: to == len,
                digest_ok: true,
            }));
        }
        let until = self.outbox.end();
        self.active(r2t.cccid)?.asked_until = until;
        Ok(())
    }

    fn receive(&mut self, d: C2hData) -> Result<Option<Event<T>>, Termination> {
        let active = self.active(d.cccid)?;
        if active.direction != Direction::ToHost {
            return Err(Termination::new(Fes::InvalidHeader, 8, &[]));
        }
        let at = d.offset as usize;
        let target = active.buffer.get_mut(at..at.saturating_add(d.data.len()));
        let Some(target) = target.filter(|_| at == active.received) else {
            return Err(Termination::new(Fes::OutOfRange, 0, &[]));
        };
        target.copy_from_slice(&d.data);
        active.received += d.data.len();
        active.digest_ok &= d.digest_ok;
        match (d.success, d.last) {
            (true, true) => self.completed(Cqe { cid: d.cccid, ..Cqe::default() }).map(Some),
            (true, false) => Err(Termination::new(Fes::InvalidHeader, 1, &[])),
            _ => Ok(None),
        }
    }

    fn completed(&mut self, mut cqe: Cqe) -> Result<Event<T>, Termination> {
        let slot = self.slots.get_mut(usize::from(cqe.cid)).and_then(Option::take);
        let Some(active) = slot else {
            // The identifier is at byte 12 of the completion, which is at byte 8 of the PDU.
            return Err(Termination::new(Fes::InvalidHeader, 20, &[]));
        };
        self.free.push(cqe.cid);
        if !active.digest_ok && cqe.status.is_success() {
            cqe.status = Status::TRANSIENT_TRANSPORT_ERROR;
        }
        let Active { buffer, received, token, .. } = active;
        self.expected -= buffer.len();
        Ok(Event::Completed(Completion { cqe, buffer, received, token }))
    }
}
