//! A controller: what one host's connections to a subsystem have in common.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use uuid::Uuid;
use vda_nvme::controller::events::{Events, Notice};
use vda_nvme::controller::state::{Features, KeepAlive, Properties};
use vda_nvme::limits::ABORTS;
use vda_nvme::log::AnaState;
use vda_nvme::reservation::Notification;
use vda_nvme::status::Status;

use super::listener::Listener;
use super::namespace::Namespace;
use super::reservation::Notifications;
use super::subsystem::Subsystem;

/// An Abort command for a command of another queue.
pub(super) struct AbortRequest {
    /// Identifier of the command to abort.
    pub(super) cid: u16,
    /// The Abort command on the admin queue.
    tag: u16,
    admin: Rc<Link>,
}

impl AbortRequest {
    /// Answers the Abort command: dword 0 is 0 if the command was aborted, 1 if not (Base 5.1).
    pub(super) fn answer(&self, aborted: bool) {
        self.admin.aborting.set(self.admin.aborting.get() - 1);
        self.admin.send((self.tag, u32::from(!aborted)));
    }
}

/// A connection as seen from outside of its task.
pub(super) struct Link {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) qid: Cell<u16>,
    closing: Cell<bool>,
    /// Completions of Asynchronous Event Requests: at most as many as there are requests.
    mail: RefCell<VecDeque<(u16, u32)>>,
    /// Aborts of commands of this queue: at most [`ABORTS`].
    aborts: RefCell<VecDeque<AbortRequest>>,
    /// Abort commands of this queue that other queues have not answered.
    aborting: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer,
            local,
            qid: Cell::new(0),
            closing: Cell::new(false),
            mail: RefCell::default(),
            aborts: RefCell::default(),
            aborting: Cell::new(0),
            waker: RefCell::default(),
        }
    }

    /// Makes the connection end. I/O it began goes on to its end first.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn wake(&self) {
        if let Some(w) = self.waker.borrow_mut().take() {
            w.wake();
        }
    }

    pub(super) fn send(&self, completion: (u16, u32)) {
        self.mail.borrow_mut().push_back(completion);
        self.wake();
    }

    /// Asks the queue to abort its command `cid` for the Abort command `tag` of `admin`.
    ///
    /// # Errors
    /// `ABORT_LIMIT_EXCEEDED` (Base 5.1).
    pub(super) fn ask_abort(&self, cid: u16, tag: u16, admin: &Rc<Self>) -> Result<(), Status> {
        if admin.aborting.get() >= ABORTS {
            return Err(Status::ABORT_LIMIT_EXCEEDED.dnr());
        }
        admin.aborting.set(admin.aborting.get() + 1);
        self.aborts.borrow_mut().push_back(AbortRequest { cid, tag, admin: Rc::clone(admin) });
        self.wake();
        Ok(())
    }

    pub(super) fn next_abort(&self) -> Option<AbortRequest> {
        self.aborts.borrow_mut().pop_front()
    }

    /// The next completion to send; wakes `waker` when there is one, or when the connection is to end.
    pub(super) fn poll_mail(&self, waker: &Waker) -> Option<(u16, u32)> {
        let next = self.mail.borrow_mut().pop_front();
        if next.is_none() {
            let mut slot = self.waker.borrow_mut();
            if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
                *slot = Some(waker.clone());
            }
        }
        next
    }
}

/// The parts of a controller that commands change.
pub(super) struct State {
    pub(super) properties: Properties,
    pub(super) events: Events,
    pub(super) keep_alive: KeepAlive,
    pub(super) kato_ms: u32,
    pub(super) features: Features,
    /// Namespaces that changed since the log page was read.
    pub(super) changed: BTreeSet<u32>,
    /// Reservation notifications that were not read.
    pub(super) notifications: Notifications,
}

/// A controller of a subsystem.
pub(super) struct Controller {
    pub(super) subsystem: Rc<Subsystem>,
    pub(super) cntlid: u16,
    pub(super) hostnqn: String,
    pub(super) hostid: Uuid,
    /// `None` for a discovery controller.
    pub(super) listener: Option<Rc<Listener>>,
    pub(super) state: RefCell<State>,
    /// By queue id; 0 is the admin queue.
    pub(super) links: RefCell<BTreeMap<u16, Rc<Link>>>,
}

impl Controller {
    /// The namespace, if it exists and the controller may see it.
    pub(super) fn namespace(&self, nsid: u32) -> Option<Rc<Namespace>> {
        self.subsystem.namespaces.borrow().get(&nsid).filter(|ns| ns.is_visible_to(&self.hostnqn)).cloned()
    }

    pub(super) fn ana_state(&self, group: u32) -> AnaState {
        match &self.listener {
            Some(l) if self.subsystem.config.ana_reporting => l.ana_state(group),
            _ => AnaState::Optimized,
        }
    }

    /// Sends an asynchronous event if the host asked for it.
    pub(super) fn post(&self, notice: Notice) {
        let completion = self.state.borrow_mut().events.post(notice);
        self.answer_event(completion);
    }

    pub(super) fn answer_event(&self, completion: Option<(u16, u32)>) {
        let admin = self.links.borrow().get(&0).cloned();
        if let (Some(c), Some(link)) = (completion, admin) {
            link.send(c);
        }
    }

    pub(super) fn namespace_changed(&self, nsid: u32) {
        self.state.borrow_mut().changed.insert(nsid);
        self.post(Notice::Namespaces);
    }

    pub(super) fn reservation_changed(&self, nsid: u32, what: Notification) {
        self.state.borrow_mut().notifications.push(nsid, what);
        self.post(Notice::Reservation);
    }

    /// Ends the I/O connections, and with `all` the admin connection.
    pub(super) fn disconnect(&self, all: bool) {
        for (qid, link) in self.links.borrow().iter() {
            if all || *qid != 0 {
                link.close();
            }
        }
    }

    /// A connection is gone, its I/O has ended. Without admin queue the others go too; the last one takes the controller along.
    pub(super) fn unlink(self: &Rc<Self>, qid: u16) {
        self.links.borrow_mut().remove(&qid);
        if qid == 0 {
            self.disconnect(false);
        }
        if self.links.borrow().is_empty() {
            self.subsystem.controllers.borrow_mut().remove(&self.cntlid);
        }
        self.subsystem.changed.notify_waiters();
    }

    pub(super) fn touch(&self) {
        self.state.borrow_mut().keep_alive.touch(Instant::now());
    }
}
