//! A namespace: a bdev seen through a subsystem.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;
use uuid::Uuid;
use vda_nvme::identify::{self, NamespaceIds};

use super::TargetError;
use super::reservation::Reserved;
use crate::bdev::{Descriptor, IoType};

/// Identifiers of a namespace, as given to `nvmf_subsystem_add_ns`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) nguid: Option<[u8; 16]>,
    pub(super) eui64: Option<[u8; 8]>,
    pub(super) uuid: Uuid,
}

/// A namespace of a subsystem.
pub(super) struct Namespace {
    pub(super) nsid: u32,
    pub(super) bdev_name: String,
    pub(super) ids: Ids,
    pub(super) ana_group: Cell<u32>,
    /// `None` once the namespace was removed.
    bdev: RefCell<Option<Rc<Descriptor>>>,
    /// I/O that has begun and not ended, begun in even and in odd epochs.
    inflight: [Cell<usize>; 2],
    epoch: Cell<usize>,
    idle: Notify,
    /// Epochs change one after the other.
    draining: tokio::sync::Mutex<()>,
    pub(super) reservations: Reserved,
    /// The hosts that see it, the newest first; `None` if all do.
    seen_by: Option<RefCell<Vec<String>>>,
}

impl Namespace {
    /// With `masked` no host sees it until it is shown to one.
    pub(super) fn new(
        nsid: u32,
        ana_group: u32,
        ids: Ids,
        bdev: Descriptor,
        reservations: Reserved,
        masked: bool,
    ) -> Self {
        Self {
            nsid,
            bdev_name: bdev.name().to_owned(),
            ids,
            ana_group: Cell::new(ana_group),
            bdev: RefCell::new(Some(Rc::new(bdev))),
            inflight: Default::default(),
            epoch: Cell::new(0),
            idle: Notify::new(),
            draining: tokio::sync::Mutex::default(),
            reservations,
            seen_by: masked.then(RefCell::default),
        }
    }

    /// Whether the host sees it.
    pub(super) fn is_visible_to(&self, hostnqn: &str) -> bool {
        self.seen_by.as_ref().is_none_or(|hosts| hosts.borrow().iter().any(|host| host == hostnqn))
    }

    /// The hosts that see it, if not all do.
    pub(super) fn seen_by(&self) -> Option<Vec<String>> {
        self.seen_by.as_ref().map(|hosts| hosts.borrow().clone())
    }

    /// Shows it to a host, or hides it; whether that changed anything. `None` if all hosts see it.
    pub(super) fn set_visible(&self, hostnqn: &str, visible: bool) -> Option<bool> {
        let mut hosts = self.seen_by.as_ref()?.borrow_mut();
        let before = hosts.len();
        hosts.retain(|host| host != hostnqn);
        let was = before != hosts.len();
        if visible {
            hosts.insert(0, hostnqn.to_owned());
        }
        Some(was != visible)
    }

    /// The bdev and a guard that counts an I/O until it is dropped; `None` once removed.
    pub(super) fn begin(self: &Rc<Self>) -> Option<(Rc<Descriptor>, Busy)> {
        let bdev = self.bdev.borrow().clone()?;
        let epoch = self.epoch.get();
        self.inflight[epoch].set(self.inflight[epoch].get() + 1);
        Some((bdev, Busy { ns: Rc::clone(self), epoch }))
    }

    /// Lets no I/O begin any more, waits for what has begun, and closes the bdev.
    pub(super) async fn close(&self) {
        let bdev = self.bdev.borrow_mut().take();
        loop {
            let ended = self.idle.notified();
            if self.inflight.iter().all(|n| n.get() == 0) {
                break;
            }
            ended.await;
        }
        drop(bdev);
    }

    /// Waits for the I/O that has begun until now, not for what begins later.
    pub(super) async fn drain_begun(&self) {
        let _one = self.draining.lock().await;
        let old = self.epoch.get();
        // An earlier wait that was given up has left its I/O in the other epoch.
        self.ended(1 - old).await;
        self.epoch.set(1 - old);
        self.ended(old).await;
    }

    /// Waits until no I/O of the epoch is in flight.
    async fn ended(&self, epoch: usize) {
        loop {
            let ended = self.idle.notified();
            if self.inflight[epoch].get() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Identity of the bdev's contents; `None` once removed.
    pub(super) fn bdev_uuid(&self) -> Option<Uuid> {
        self.bdev.borrow().as_ref().map(|b| b.uuid())
    }

    /// Identify Namespace; `None` once removed.
    pub(super) fn identify(&self, ana_reporting: bool) -> Option<identify::Namespace> {
        let bdev = self.bdev.borrow().clone()?;
        Some(identify::Namespace {
            blocks: bdev.num_blocks(),
            block_shift: u8::try_from(bdev.block_size().trailing_zeros()).unwrap_or(9),
            thin: bdev.supports(IoType::Unmap),
            preferred_write: 0,
            rescap: self.reservations.capabilities(),
            ana_group: if ana_reporting { self.ana_group.get() } else { 0 },
            nguid: self.ids.nguid.unwrap_or_default(),
            eui64: self.ids.eui64.unwrap_or_default(),
        })
    }

    pub(super) fn descriptors(&self) -> NamespaceIds {
        NamespaceIds {
            eui64: self.ids.eui64.unwrap_or_default(),
            nguid: self.ids.nguid.unwrap_or_default(),
            uuid: *self.ids.uuid.as_bytes(),
        }
    }
}

/// An I/O in flight on a namespace.
pub(super) struct Busy {
    ns: Rc<Namespace>,
    epoch: usize,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let count = &self.ns.inflight[self.epoch];
        count.set(count.get() - 1);
        if count.get() == 0 {
            self.ns.idle.notify_waiters();
        }
    }
}

/// Parses `N` bytes of hexadecimal digits.
pub(super) fn parse_id<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], TargetError> {
    let error = || TargetError::InvalidId { field, value: text.to_owned() };
    if text.len() != N * 2 || !text.is_ascii() {
        return Err(error());
    }
    let mut id = [0; N];
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(|_| error())?;
    }
    Ok(id)
}

/// Upper-case hexadecimal digits.
pub(super) fn show_id(id: &[u8]) -> String {
    id.iter().map(|b| format!("{b:02X}")).collect()
}

#[cfg(test)]
#[path = "namespace_tests.rs"]
mod tests;
