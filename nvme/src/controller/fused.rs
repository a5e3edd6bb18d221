//! Fused operations (Base 3.4.2): a Compare and the Write that comes right behind it in the queue are executed as one, or not at all.
//!
//! Each half is a command of its own: it has its slot, its data, which may come later than that of the other, and its completion. A half
//! that waits for the other holds no more than [`FUSED_DATA`] bytes, as if its data had been in the capsule: it takes nothing of the memory that is
//! shared ([`super::Buffers`]), so halves of different queues cannot wait for each other.

use bytes::Bytes;

use super::{ControllerQueue, Request, Transfer};
use crate::cmd::{Fuse, Sgl, Sqe, io};
use crate::limits::{FUSED_DATA, buffer_size};
use crate::status::Status;

/// The first half of a fused operation, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Names the command in [`ControllerQueue::complete`].
    pub tag: u16,
    /// The command.
    pub sqe: Sqe,
    /// What the blocks are to hold.
    pub data: Bytes,
}

/// A fused operation that is not complete.
#[derive(Debug)]
struct Pair {
    first: u16,
    /// Not there yet, or the tag of the second half.
    second: Option<u16>,
    /// The halves whose data is here.
    ready: [Option<(Sqe, Bytes)>; 2],
}

/// Fused operations that are not complete, in the order of their first halves.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    /// The first half that came last, if the very next command is to be its second half.
    pub(super) fn lone_first(&self) -> Option<u16> {
        self.0.last().filter(|pair| pair.second.is_none()).map(|pair| pair.first)
    }

    fn position(&self, tag: u16) -> Option<usize> {
        self.0.iter().position(|pair| pair.first == tag || pair.second == Some(tag))
    }
}

/// Memory that a command's data takes of what is shared, bytes.
pub(super) fn shared_buffer(sqe: &Sqe, length: u32) -> usize {
    if sqe.fuse() == Fuse::None { buffer_size(length as usize) } else { 0 }
}

impl ControllerQueue {
    /// What becomes of a command that is half of a fused operation, or comes where a second half should.
    ///
    /// A half without its other half ends with `MISSING_FUSED`, as does one whose other half cannot be one. SPDK does the same.
    pub(super) fn fuse(
        &mut self,
        tag: u16,
        sqe: &Sqe,
        plan: Result<Transfer, Status>,
    ) -> Result<Transfer, Status> {
        let plan = plan.and_then(|transfer| self.check_half(sqe).map(|()| transfer));
        let first = self.pairs.lone_first();
        if sqe.fuse() == Fuse::Second && plan.is_ok() && first.is_some() {
            if let Some(pair) = self.pairs.0.last_mut() {
                pair.second = Some(tag);
            }
            return plan;
        }
        if let Some(first) = first {
            self.pairs.0.pop();
            self.refuse(first, Status::MISSING_FUSED);
        }
        match (sqe.fuse(), &plan) {
            (Fuse::First, Ok(_)) => self.pairs.0.push(Pair { first: tag, second: None, ready: [None, None] }),
            (Fuse::Second, Ok(_)) => return Err(Status::MISSING_FUSED),
            _ => {}
        }
        plan
    }

    /// Compare and Write is the only fused operation (FUSES, Base 5.17.2.1), and only I/O queues have it.
    fn check_half(&self, sqe: &Sqe) -> Result<(), Status> {
        let opcode = match sqe.fuse() {
            Fuse::None => return Ok(()),
            Fuse::First => io::COMPARE,
            Fuse::Second => io::WRITE,
            Fuse::Reserved => return Err(Status::INVALID_FIELD.dnr()),
        };
        if !self.takes_fused {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if sqe.opcode != opcode {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        if Sgl::decode(&sqe.dptr)?.length() > FUSED_DATA {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(())
    }

    /// A command with all of its data: given out, unless it is half of a fused operation that waits for the other half.
    pub(super) fn give_out(&mut self, tag: u16, sqe: Sqe, data: Bytes) -> Option<Request> {
        if sqe.fuse() == Fuse::None {
            return Some(Request { tag, sqe, data, buffer_len: 0, compare: None });
        }
        let at = self.pairs.position(tag)?;
        let pair = &mut self.pairs.0[at];
        pair.ready[usize::from(tag != pair.first)] = Some((sqe, data));
        let (Some(second), [Some(_), Some(_)]) = (pair.second, &pair.ready) else { return None };
        let pair = self.pairs.0.remove(at);
        let [Some(compare), Some(write)] = pair.ready else { return None };
        let compare = Compare { tag: pair.first, sqe: compare.0, data: compare.1 };
        Some(Request {
            tag: second,
            sqe: write.0,
            data: write.1,
            buffer_len: 0,
            compare: Some(Box::new(compare)),
        })
    }

    /// A command has failed before it was given out: if it is half of a fused operation, so has the other half.
    pub(super) fn unfuse(&mut self, tag: u16) {
        let Some(at) = self.pairs.position(tag) else { return };
        let pair = self.pairs.0.remove(at);
        let other = if pair.first == tag { pair.second } else { Some(pair.first) };
        if let Some(other) = other {
            self.refuse(other, Status::FAILED_FUSED);
        }
    }
}

#[cfg(test)]
#[path = "fused_tests.rs"]
mod tests;
