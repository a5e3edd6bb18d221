//! Abort (Base 5.1): what has not begun never will; what has begun runs to its end, and the host is told so.
//!
//! Not begun is a command whose data has not come yet, one that a limit of its bdev holds back, and an Asynchronous Event Request that waits.
//! SPDK hands the rest to the bdev, whose modules mostly cannot abort either.

use std::collections::BTreeMap;

use futures::future::{AbortHandle, AbortRegistration};
use vda_nvme::cmd::admin;
use vda_nvme::controller::{Abort, Request};
use vda_nvme::status::Status;

use super::Connection;
use crate::bdev::Waiting;
use crate::nvmf::controller::Controller;

/// Commands that wait for their turn under a limit, by tag.
#[derive(Default)]
pub(super) struct HeldBack(BTreeMap<u16, (Waiting, AbortHandle)>);

impl HeldBack {
    pub(super) fn insert(&mut self, tag: u16, wait: Waiting) -> AbortRegistration {
        let (handle, registration) = AbortHandle::new_pair();
        self.0.insert(tag, (wait, handle));
        registration
    }

    pub(super) fn remove(&mut self, tag: u16) {
        if !self.0.is_empty() {
            self.0.remove(&tag);
        }
    }

    /// No command that waits begins any more.
    pub(super) fn abort_all(&self) {
        for tag in self.0.keys() {
            self.abort(*tag);
        }
    }

    /// Whether the command was still waiting, and now will not begin.
    fn abort(&self, tag: u16) -> bool {
        match self.0.get(&tag) {
            Some((wait, handle)) if !wait.is_over() => {
                handle.abort();
                true
            }
            _ => false,
        }
    }
}

/// Whether the command is an Abort that is served here: an admin command, and not of a discovery controller.
pub(super) fn is_abort(c: &Controller, r: &Request) -> bool {
    r.sqe.opcode == admin::ABORT && !c.subsystem.config.discovery
}

impl Connection {
    /// An Abort command on this admin queue: SQID in dword 10 bits 15:0, CID in bits 31:16.
    pub(super) fn abort(&mut self, c: &Controller, r: &Request) {
        c.touch();
        let (sqid, cid) = ((r.sqe.cdw10[0] & 0xffff) as u16, (r.sqe.cdw10[0] >> 16) as u16);
        let other = c.links.borrow().get(&sqid).cloned();
        match other {
            Some(link) if sqid != 0 && !link.is_closing() => {
                if let Err(status) = link.ask_abort(cid, r.tag, &self.link) {
                    self.queue.complete(r.tag, status, 0, None);
                }
            }
            _ => {
                let aborted = sqid == 0 && self.abort_here(cid);
                self.queue.complete(r.tag, Status::SUCCESS, u64::from(!aborted), None);
            }
        }
    }

    /// Serves the Aborts that came for this queue.
    pub(super) fn serve_aborts(&mut self) -> bool {
        let mut progress = false;
        while let Some(request) = self.link.next_abort() {
            request.answer(self.abort_here(request.cid));
            progress = true;
        }
        progress
    }

    /// The connection ends, nothing is aborted any more.
    pub(super) fn refuse_aborts(&self) {
        while let Some(request) = self.link.next_abort() {
            request.answer(false);
        }
    }

    fn abort_here(&mut self, cid: u16) -> bool {
        match self.queue.abort(cid) {
            Abort::Aborted => true,
            Abort::Unknown => false,
            Abort::Executing(tag) => self.held_back.abort(tag) || self.abort_event_request(tag),
        }
    }

    fn abort_event_request(&mut self, tag: u16) -> bool {
        let admin = self.link.qid.get() == 0;
        let Some(c) = self.controller.as_ref().filter(|_| admin) else { return false };
        let waited = c.state.borrow_mut().events.abort(tag);
        if waited {
            self.queue.complete(tag, Status::ABORTED_BY_REQUEST, 0, None);
        }
        waited
    }
}
