//! Commands that wait for a buffer: in which order they get one, and how they stop waiting.

use bytes::Bytes;

use super::fused::shared_buffer;
use super::{Buffers, ControllerQueue, Request, Slot};
use crate::cmd::Sqe;
use crate::limits::buffer_size;
use crate::pdu::{Pdu, R2t};
use crate::status::Status;

impl ControllerQueue {
    /// A command with `length` bytes of data for the host: given out, or it waits.
    pub(super) fn read(
        &mut self,
        tag: u16,
        sqe: Sqe,
        length: u32,
        buffers: &mut impl Buffers,
    ) -> Option<Request> {
        // Without others that wait for a buffer it is this one's turn.
        if self.first_waiting().is_none()
            && let Some(request) = self.begin_read(tag, sqe, length, buffers)
        {
            return Some(request);
        }
        self.arrivals += 1;
        self.set(tag, Slot::Waiting { sqe, length, arrival: self.arrivals });
        self.waiting_reads.push_back(tag);
        None
    }

    /// Gives a command with data for the host out, if there is a buffer.
    fn begin_read(&mut self, tag: u16, sqe: Sqe, length: u32, buffers: &mut impl Buffers) -> Option<Request> {
        let held = buffer_size(length as usize);
        if !buffers.take(held) {
            return None;
        }
        self.execute(tag, sqe.cid, length, held);
        Some(Request { tag, sqe, data: Bytes::new(), buffer_len: length, compare: None })
    }

    /// The command whose turn it is to get a buffer: the oldest, but for writes that wait for the budget of this connection.
    pub(super) fn first_waiting(&self) -> Option<u16> {
        let arrival = |tag: &u16| match self.slots.get(usize::from(*tag)) {
            Some(&Slot::Waiting { arrival, length, .. } | &Slot::Receiving { arrival, length, .. }) => {
                Some((arrival, *tag, length as usize))
            }
            _ => None,
        };
        let read = self.waiting_reads.front().and_then(arrival);
        let write = self.waiting_writes.front().and_then(arrival);
        // One R2T is always allowed, or a large write would never be.
        let write = write.filter(|w| self.requested == 0 || self.requested + w.2 <= self.config.r2t_budget);
        read.into_iter().chain(write).min().map(|(_, tag, _)| tag)
    }

    /// Gives buffers to the commands that wait, in their order: sends R2Ts, gives out the first read that can go on.
    pub(super) fn serve_waiting(&mut self, buffers: &mut impl Buffers) -> Option<Request> {
        while !(self.waiting_reads.is_empty() && self.waiting_writes.is_empty()) {
            let tag = self.first_waiting()?;
            match self.slots.get_mut(usize::from(tag))? {
                &mut Slot::Waiting { sqe, length, .. } => {
                    let request = self.begin_read(tag, sqe, length, buffers)?;
                    self.waiting_reads.pop_front();
                    return Some(request);
                }
                Slot::Receiving { sqe, length, requested, .. } => {
                    let (cccid, length) = (sqe.cid, *length);
                    let shared = shared_buffer(sqe, length);
                    if shared > 0 && !buffers.take(shared) {
                        return None;
                    }
                    *requested = true;
                    self.waiting_writes.pop_front();
                    self.requested += length as usize;
                    self.outbox.push(Pdu::R2t(R2t { cccid, ttag: tag, offset: 0, length }));
                }
                // Neither waits: they are taken out of the queues when they stop waiting.
                Slot::Free | Slot::Executing { .. } => return None,
            }
        }
        None
    }

    /// Aborts the command `cid` if its execution has not begun (Base 5.1).
    ///
    /// One whose data was not asked for yet ends at once. One whose data is under way ends when that is here, but it is never executed.
    pub fn abort(&mut self, cid: u16) -> Abort {
        let is_it = |s: &Slot| match s {
            Slot::Receiving { sqe, .. } | Slot::Waiting { sqe, .. } => sqe.cid == cid,
            Slot::Executing { cid: c, .. } => *c == cid,
            Slot::Free => false,
        };
        let Some(index) = self.slots.iter().position(is_it) else { return Abort::Unknown };
        let tag = index as u16;
        match &self.slots[index] {
            Slot::Receiving { .. } | Slot::Waiting { .. } => {
                self.refuse(tag, Status::ABORTED_BY_REQUEST);
                self.unfuse(tag);
                Abort::Aborted
            }
            Slot::Executing { .. } | Slot::Free => Abort::Executing(tag),
        }
    }

    /// Ends a command that was not given out, with `status`; one whose data is under way, when that is here: its transfer tag has to stay valid
    /// until then.
    pub(super) fn refuse(&mut self, tag: u16, status: Status) {
        let cid = match self.slots.get_mut(usize::from(tag)) {
            None | Some(Slot::Free) => return,
            Some(Slot::Receiving { requested: true, refused, .. }) => {
                refused.get_or_insert(status);
                return;
            }
            Some(Slot::Receiving { sqe, .. } | Slot::Waiting { sqe, .. }) => {
                let cid = sqe.cid;
                self.waiting_reads.retain(|t| *t != tag);
                self.waiting_writes.retain(|t| *t != tag);
                cid
            }
            Some(&mut Slot::Executing { cid, .. }) => cid,
        };
        self.execute(tag, cid, 0, 0);
        self.complete(tag, status, 0, None);
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
