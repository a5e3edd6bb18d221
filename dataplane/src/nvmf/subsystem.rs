//! A subsystem: who may use which namespaces, and where.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;
use vda_nvme::controller::events::Notice;
use vda_nvme::log::AnaState;

use super::controller::Controller;
use super::listener::Listener;
use super::namespace::Namespace;
use super::{TargetError, nqn};

/// Fixed properties of a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsystemConfig {
    pub nqn: String,
    /// Up to 20 printable characters.
    pub serial: String,
    /// Up to 40 printable characters.
    pub model: String,
    pub max_namespaces: u32,
    pub ana_reporting: bool,
    pub min_cntlid: u16,
    pub max_cntlid: u16,
    /// Reported only.
    pub dmrsl: u32,
    /// Reported only.
    pub wzsl: u8,
    pub discovery: bool,
}

impl SubsystemConfig {
    /// With SPDK's defaults.
    #[must_use]
    pub fn new(nqn: impl Into<String>) -> Self {
        Self {
            nqn: nqn.into(),
            serial: "00000000000000000000".into(),
            model: "SPDK bdev Controller".into(),
            max_namespaces: 32,
            ana_reporting: false,
            min_cntlid: 1,
            max_cntlid: MAX_CNTLID,
            dmrsl: 2_097_152,
            wzsl: 12,
            discovery: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), TargetError> {
        let printable = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b));
        if self.serial.len() > 20 || !printable(&self.serial) {
            let reason = "at most 20 printable characters";
            return Err(TargetError::invalid("serial_number", &self.serial, reason));
        }
        if self.model.len() > 40 || !printable(&self.model) {
            let reason = "at most 40 printable characters";
            return Err(TargetError::invalid("model_number", &self.model, reason));
        }
        if !nqn::is_valid(&self.nqn) {
            return Err(TargetError::CannotCreate { nqn: self.nqn.clone(), reason: "malformed NQN" });
        }
        if self.min_cntlid == 0 || self.min_cntlid > self.max_cntlid || self.max_cntlid > MAX_CNTLID {
            return Err(TargetError::CntlidRange { min: self.min_cntlid, max: self.max_cntlid });
        }
        if self.max_namespaces > MAX_NAMESPACES {
            let nqn = self.nqn.clone();
            return Err(TargetError::CannotCreate { nqn, reason: "max_namespaces is above 1024" });
        }
        Ok(())
    }
}

/// Largest controller id (Base 2.0: FFF0h and above are reserved).
const MAX_CNTLID: u16 = 0xffef;
/// Bound of memory per subsystem.
const MAX_NAMESPACES: u32 = 1024;

/// A subsystem.
pub(super) struct Subsystem {
    pub(super) config: SubsystemConfig,
    pub(super) allow_any_host: Cell<bool>,
    /// In the order in which they were added.
    pub(super) hosts: RefCell<Vec<String>>,
    pub(super) namespaces: RefCell<BTreeMap<u32, Rc<Namespace>>>,
    pub(super) listeners: RefCell<Vec<Rc<Listener>>>,
    pub(super) controllers: RefCell<BTreeMap<u16, Rc<Controller>>>,
    next_cntlid: Cell<u16>,
    next_listener: Cell<u16>,
    /// Signalled when a connection or controller goes away.
    pub(super) changed: Notify,
    /// Being deleted: no new connection.
    pub(super) closed: Cell<bool>,
}

impl Subsystem {
    pub(super) fn new(config: SubsystemConfig, allow_any_host: bool) -> Self {
        Self {
            next_cntlid: Cell::new(config.min_cntlid),
            config,
            allow_any_host: Cell::new(allow_any_host),
            hosts: RefCell::default(),
            namespaces: RefCell::default(),
            listeners: RefCell::default(),
            controllers: RefCell::default(),
            next_listener: Cell::new(0),
            changed: Notify::new(),
            closed: Cell::new(false),
        }
    }

    /// Whether the host may use the subsystem. Names are compared byte by byte.
    pub(super) fn allows(&self, host: &str) -> bool {
        self.allow_any_host.get() || self.hosts.borrow().iter().any(|h| h == host)
    }

    pub(super) fn listener(&self, address: SocketAddr) -> Option<Rc<Listener>> {
        self.listeners.borrow().iter().find(|l| l.address == address).cloned()
    }

    pub(super) fn add_listener(&self, address: SocketAddr, state: AnaState) {
        let id = self.next_listener.get();
        self.next_listener.set(id.wrapping_add(1));
        let listener = Listener::new(id, address, self.config.max_namespaces, state);
        // The newest is shown first, as in SPDK.
        self.listeners.borrow_mut().insert(0, Rc::new(listener));
    }

    pub(super) fn remove_listener(&self, address: SocketAddr) -> bool {
        let mut listeners = self.listeners.borrow_mut();
        let before = listeners.len();
        listeners.retain(|l| l.address != address);
        before != listeners.len()
    }

    pub(super) fn all_controllers(&self) -> Vec<Rc<Controller>> {
        self.controllers.borrow().values().cloned().collect()
    }

    /// A free controller id: ids go round, so that one that was just used is not given to another host.
    pub(super) fn free_cntlid(&self) -> Option<u16> {
        let (min, max) = (self.config.min_cntlid, self.config.max_cntlid);
        let used = self.controllers.borrow();
        let start = self.next_cntlid.get().clamp(min, max);
        let id = (start..=max).chain(min..start).find(|id| !used.contains_key(id))?;
        self.next_cntlid.set(if id == max { min } else { id + 1 });
        Some(id)
    }

    /// Tells every host that sees it that a namespace appeared, changed or vanished.
    pub(super) fn namespace_changed(&self, ns: &Namespace) {
        for c in self.all_controllers().iter().filter(|c| ns.is_visible_to(&c.hostnqn)) {
            c.namespace_changed(ns.nsid);
        }
    }

    pub(super) fn ana_changed(&self, address: SocketAddr) {
        for c in self.all_controllers() {
            if c.listener.as_ref().is_some_and(|l| l.address == address) {
                c.post(Notice::Ana);
            }
        }
    }

    /// Ends the connections of all controllers that `which` picks and waits until they, and all I/O they began, are gone.
    pub(super) async fn disconnect(&self, which: impl Fn(&Controller) -> bool) {
        loop {
            let gone = self.changed.notified();
            let mut left = false;
            for c in self.all_controllers().iter().filter(|c| which(c)) {
                c.disconnect(true);
                left = true;
            }
            if !left {
                return;
            }
            gone.await;
        }
    }
}
