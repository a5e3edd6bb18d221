//! The NVMe/TCP target: subsystems, namespaces, listeners, hosts, as SPDK's `nvmf` behaves.
//!
//! A connection is one task that owns its queue ([`vda_nvme::controller::ControllerQueue`]), executes commands and collects
//! their ends; all else is shared through `Rc`. A connection counts as gone only when every I/O it began has ended: that is
//! what makes `nvmf_subsystem_remove_host` a fence.

mod admin;
mod buffer_pool;
mod connect;
mod connection;
mod controller;
mod error;
mod identify;
mod io;
mod listener;
mod logpage;
mod namespace;
mod nqn;
mod referral;
mod reservation;
mod subsystem;
mod transport;
mod view;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;
use vda_nvme::DISCOVERY_NQN;
use vda_nvme::controller::events::Notice;
use vda_nvme::log::AnaState;

pub use buffer_pool::{DEFAULT_CAPACITY, LARGE_POOL, SMALL_POOL};
pub use error::TargetError;
use listener::ListeningSocket;
use namespace::{Ids, Namespace};
use reservation::Reserved;
use subsystem::Subsystem;
pub use subsystem::SubsystemConfig;
pub use transport::{TransportOptions, socket_address};
pub use view::ana_state_from_call;

use crate::bdev::{BdevEvent, ClaimType, Events, IoType, Registry};
use crate::page_buffers::PageBuffers;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

/// How long `nvmf_subsystem_remove_host` waits without `timeout_ms` (SPDK's `NVMF_CTRLR_RESET_SHN_TIMEOUT_IN_MS`).
const REMOVE_HOST_TIMEOUT: Duration = Duration::from_secs(15);
/// Module that claims the bdevs of namespaces.
const MODULE: &str = "NVMe-oF Target";

/// Counters of `nvmf_get_stats`.
#[derive(Debug, Default)]
struct Counters {
    admin_qpairs: Cell<u32>,
    io_qpairs: Cell<u32>,
    current_admin_qpairs: Cell<u32>,
    current_io_qpairs: Cell<u32>,
    unassociated: Cell<u32>,
    completed: Cell<u64>,
}

fn add(cell: &Cell<u32>, n: i32) {
    cell.set(cell.get().saturating_add_signed(n));
}

/// What `nvmf_subsystem_add_ns` asks for.
#[derive(Debug, Clone, Default)]
pub struct NamespaceRequest {
    /// Name, alias or UUID of the bdev.
    pub bdev_name: String,
    /// First free one if absent.
    pub nsid: Option<u32>,
    /// 32 hexadecimal digits; the bdev's UUID if absent, as in SPDK.
    pub nguid: Option<String>,
    /// 16 hexadecimal digits.
    pub eui64: Option<String>,
    /// The bdev's if absent.
    pub uuid: Option<Uuid>,
    /// The namespace id if absent.
    pub ana_group: Option<u32>,
    /// File for reservations that persist through power loss; without they cannot.
    pub ptpl_file: Option<PathBuf>,
    /// No host sees it until it is shown to one (`nvmf_ns_add_host`).
    pub no_auto_visible: bool,
}

/// The target.
pub struct Target {
    registry: Registry,
    transport: Cell<Option<TransportOptions>>,
    /// In the order of creation; the discovery subsystem first.
    subsystems: RefCell<Vec<Rc<Subsystem>>>,
    sockets: RefCell<BTreeMap<SocketAddr, Rc<ListeningSocket>>>,
    referrals: RefCell<Vec<referral::Referral>>,
    discovery_generation: Cell<u64>,
    counters: Counters,
    read_buffers: PageBuffers,
    buffers: Rc<buffer_pool::Pool>,
}

impl Target {
    /// A target with nothing but its discovery subsystem.
    #[must_use]
    pub fn new(registry: Registry) -> Rc<Self> {
        let config =
            SubsystemConfig { discovery: true, max_namespaces: 0, ..SubsystemConfig::new(DISCOVERY_NQN) };
        Rc::new(Self {
            registry,
            transport: Cell::new(None),
            subsystems: RefCell::new(vec![Rc::new(Subsystem::new(config, true))]),
            sockets: RefCell::default(),
            referrals: RefCell::default(),
            discovery_generation: Cell::new(0),
            counters: Counters::default(),
            read_buffers: PageBuffers::default(),
            buffers: buffer_pool::Pool::new(DEFAULT_CAPACITY),
        })
    }

    /// `nvmf_create_transport`.
    ///
    /// # Errors
    /// [`TargetError::TransportExists`].
    pub fn create_transport(&self, options: TransportOptions) -> Result<(), TargetError> {
        if self.transport.get().is_some() {
            return Err(TargetError::TransportExists { trtype: "TCP".into() });
        }
        self.transport.set(Some(options));
        Ok(())
    }

    /// Sets how much memory data of commands may take, over all connections, bytes (`iobuf_set_options`).
    pub fn set_data_buffers(&self, bytes: usize) {
        self.buffers.resize(bytes);
    }

    /// The options of the TCP transport, if it was created.
    pub fn transport(&self) -> Option<TransportOptions> {
        self.transport.get()
    }

    /// `nvmf_create_subsystem`.
    ///
    /// # Errors
    /// A taken or malformed NQN, a controller id range or text that is not allowed.
    pub fn create_subsystem(
        &self,
        mut config: SubsystemConfig,
        allow_any_host: bool,
    ) -> Result<(), TargetError> {
        config.check()?;
        if config.max_namespaces == 0 {
            config.max_namespaces = 32;
        }
        if self.subsystem(&config.nqn).is_ok() {
            return Err(TargetError::CannotCreate { nqn: config.nqn, reason: "the NQN is taken" });
        }
        tracing::info!(nqn = %config.nqn, "subsystem created");
        self.subsystems.borrow_mut().push(Rc::new(Subsystem::new(config, allow_any_host)));
        Ok(())
    }

    fn subsystem(&self, nqn: &str) -> Result<Rc<Subsystem>, TargetError> {
        let found = self.subsystems.borrow().iter().find(|s| s.config.nqn == nqn).cloned();
        found.ok_or_else(|| TargetError::NoSubsystem { nqn: nqn.to_owned() })
    }

    /// `nvmf_delete_subsystem`: disconnects its hosts, waits for their I/O, closes its bdevs.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub async fn delete_subsystem(&self, nqn: &str) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        subsystem.closed.set(true);
        let addresses: Vec<_> = subsystem.listeners.borrow().iter().map(|l| l.address).collect();
        for address in addresses {
            subsystem.remove_listener(address);
            self.release_socket(address);
        }
        subsystem.disconnect(|_| true).await;
        let namespaces = std::mem::take(&mut *subsystem.namespaces.borrow_mut());
        for ns in namespaces.values() {
            ns.close().await;
        }
        self.subsystems.borrow_mut().retain(|s| !Rc::ptr_eq(s, &subsystem));
        self.discovery_changed(None);
        tracing::info!(nqn, "subsystem deleted");
        Ok(())
    }

    /// `nvmf_subsystem_add_ns`: gives the namespace id.
    ///
    /// # Errors
    /// No subsystem or bdev, a namespace id that is taken or too large, an identifier that is malformed, a claimed bdev.
    pub fn add_ns(self: &Rc<Self>, nqn: &str, r: &NamespaceRequest) -> Result<u32, TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let nguid = r.nguid.as_deref().map(|t| namespace::parse_id("nguid", t)).transpose()?;
        let eui64 = r.eui64.as_deref().map(|t| namespace::parse_id("eui64", t)).transpose()?;
        let nsid = free_nsid(&subsystem, r.nsid)?;
        let group = r.ana_group.filter(|g| *g != 0).unwrap_or(nsid);
        if group > subsystem.config.max_namespaces {
            return Err(TargetError::invalid("anagrpid", group, "above max_namespaces"));
        }
        let bdev_error =
            |e: crate::bdev::BdevError| TargetError::invalid("bdev_name", &r.bdev_name, e.to_string());
        let (mut bdev, events) = self.registry.open(&r.bdev_name, true).map_err(bdev_error)?;
        bdev.claim(ClaimType::ExclusiveWrite, MODULE).map_err(bdev_error)?;
        if !bdev.block_size().is_power_of_two() {
            return Err(TargetError::invalid("bdev_name", &r.bdev_name, "block size is no power of two"));
        }
        let nguid = nguid.filter(|id| *id != [0; 16]).or_else(|| Some(*bdev.uuid().as_bytes()));
        let uuid = r.uuid.filter(|u| !u.is_nil()).unwrap_or_else(|| bdev.uuid());
        let reservations = Reserved::load(r.ptpl_file.clone(), bdev.uuid())?;
        let ids = Ids { nguid, eui64, uuid };
        let ns = Rc::new(Namespace::new(nsid, group, ids, bdev, reservations, r.no_auto_visible));
        subsystem.namespaces.borrow_mut().insert(nsid, Rc::clone(&ns));
        tokio::task::spawn_local(watch(Rc::downgrade(self), nqn.to_owned(), Rc::downgrade(&ns), events));
        subsystem.namespace_changed(&ns);
        Ok(nsid)
    }

    /// `nvmf_subsystem_remove_ns`: answers when no I/O of the namespace is in flight any more.
    ///
    /// # Errors
    /// No subsystem, no namespace.
    pub async fn remove_ns(&self, nqn: &str, nsid: u32) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let ns = subsystem.namespaces.borrow_mut().remove(&nsid);
        let ns = ns.ok_or_else(|| TargetError::invalid("nsid", nsid, "no such namespace"))?;
        subsystem.namespace_changed(&ns);
        ns.close().await;
        Ok(())
    }

    /// `nvmf_ns_add_host`, and with `visible: false` `nvmf_ns_remove_host`: hidden, it answers when the I/O that had begun has ended.
    ///
    /// # Errors
    /// No subsystem or namespace, a malformed name, a namespace that all hosts see.
    pub async fn set_ns_visible(
        &self,
        nqn: &str,
        nsid: u32,
        host: &str,
        visible: bool,
    ) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        if !nqn::is_valid(host) {
            return Err(TargetError::invalid("host", host, "malformed NQN"));
        }
        let ns = subsystem.namespaces.borrow().get(&nsid).cloned();
        let ns = ns.ok_or_else(|| TargetError::invalid("nsid", nsid, "no such namespace"))?;
        let changed = ns.set_visible(host, visible);
        if changed.ok_or_else(|| TargetError::invalid("nsid", nsid, "all hosts see it"))? {
            for c in subsystem.all_controllers().iter().filter(|c| c.hostnqn == host) {
                c.namespace_changed(nsid);
            }
            if !visible {
                ns.drain_begun().await;
            }
        }
        Ok(())
    }

    /// `nvmf_subsystem_set_ns_ana_group`.
    ///
    /// # Errors
    /// No subsystem, namespace or group.
    pub fn set_ns_ana_group(&self, nqn: &str, nsid: u32, group: u32) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let ns = subsystem.namespaces.borrow().get(&nsid).cloned();
        let ns = ns.ok_or_else(|| TargetError::invalid("nsid", nsid, "no such namespace"))?;
        if group == 0 || group > subsystem.config.max_namespaces {
            return Err(TargetError::invalid("anagrpid", group, "from 1 to max_namespaces"));
        }
        ns.ana_group.set(group);
        for c in subsystem.all_controllers() {
            c.post(Notice::Ana);
        }
        Ok(())
    }

    /// `nvmf_subsystem_add_host`.
    ///
    /// # Errors
    /// No subsystem, the host is there already, or its name is malformed.
    pub fn add_host(&self, nqn: &str, host: &str) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        if !nqn::is_valid(host) {
            return Err(TargetError::Internal { reason: format!("{host} is not an NQN") });
        }
        if subsystem.hosts.borrow().iter().any(|h| h == host) {
            return Err(TargetError::Internal { reason: format!("{host} is allowed already") });
        }
        subsystem.hosts.borrow_mut().push(host.to_owned());
        self.discovery_changed(Some(host));
        Ok(())
    }

    /// `nvmf_subsystem_remove_host`: a fence. When it succeeds no connection of the host exists and no I/O that it began is
    /// in flight; new connections are refused from the call on. A host that is off the list but still has connections (an earlier
    /// call ran into its timeout) is waited for again.
    ///
    /// # Errors
    /// No subsystem, host unknown, or [`TargetError::RemovalTimeout`].
    pub async fn remove_host(
        &self,
        nqn: &str,
        host: &str,
        timeout: Option<Duration>,
    ) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let listed = {
            let mut hosts = subsystem.hosts.borrow_mut();
            let before = hosts.len();
            hosts.retain(|h| h != host);
            before != hosts.len()
        };
        let connected = subsystem.all_controllers().iter().any(|c| c.hostnqn == host);
        let to_wait_for = listed || connected && !subsystem.allows(host);
        if !to_wait_for {
            return Err(TargetError::Internal { reason: format!("{host} is not allowed") });
        }
        self.discovery_changed(Some(host));
        let gone = subsystem.disconnect(|c| c.hostnqn == host);
        match tokio::time::timeout(timeout.unwrap_or(REMOVE_HOST_TIMEOUT), gone).await {
            Ok(()) => Ok(()),
            Err(_) => Err(TargetError::RemovalTimeout { nqn: nqn.to_owned(), host: host.to_owned() }),
        }
    }

    /// `nvmf_subsystem_allow_any_host`. Hosts that are connected stay so, as in SPDK.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn allow_any_host(&self, nqn: &str, allow: bool) -> Result<(), TargetError> {
        self.subsystem(nqn)?.allow_any_host.set(allow);
        self.discovery_changed(None);
        Ok(())
    }

    /// `nvmf_subsystem_add_listener`.
    ///
    /// # Errors
    /// No subsystem, no transport, the listener exists, the address cannot be bound.
    pub fn add_listener(
        self: &Rc<Self>,
        nqn: &str,
        address: SocketAddr,
        state: AnaState,
    ) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let invalid = |reason: String| TargetError::invalid("listen_address", address, reason);
        let options = self.transport.get().ok_or_else(|| invalid("no TCP transport".into()))?;
        if subsystem.listener(address).is_some() {
            return Err(invalid("the listener exists".into()));
        }
        let known = self.sockets.borrow().get(&address).cloned();
        let socket = match known {
            Some(s) => s,
            None => {
                let opened = ListeningSocket::open(self, address, options.acceptor_backlog);
                let socket = Rc::new(opened.map_err(|e| invalid(e.to_string()))?);
                self.sockets.borrow_mut().insert(address, Rc::clone(&socket));
                socket
            }
        };
        socket.users.set(socket.users.get() + 1);
        subsystem.add_listener(address, state);
        self.discovery_changed(None);
        Ok(())
    }

    /// `nvmf_subsystem_remove_listener`: connections through it are dropped; it does not wait for their I/O.
    ///
    /// # Errors
    /// No subsystem, no such listener.
    pub fn remove_listener(&self, nqn: &str, address: SocketAddr) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        if !subsystem.remove_listener(address) {
            return Err(TargetError::invalid("listen_address", address, "no such listener"));
        }
        self.release_socket(address);
        for c in subsystem.all_controllers() {
            if c.listener.as_ref().is_some_and(|l| l.address == address) {
                c.disconnect(true);
            }
        }
        self.discovery_changed(None);
        Ok(())
    }

    fn release_socket(&self, address: SocketAddr) {
        let mut sockets = self.sockets.borrow_mut();
        let Some(socket) = sockets.get(&address) else { return };
        socket.users.set(socket.users.get().saturating_sub(1));
        if socket.users.get() == 0 {
            sockets.remove(&address);
        }
    }

    /// `nvmf_subsystem_listener_set_ana_state`: of one group, or of all with `None`. Does not wait for I/O in flight.
    ///
    /// # Errors
    /// No subsystem; no ANA reporting, no such listener or group.
    pub fn set_ana_state(
        &self,
        nqn: &str,
        address: SocketAddr,
        state: AnaState,
        group: Option<u32>,
    ) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let error = |reason: &str| TargetError::AnaState { reason: format!("{address}: {reason}") };
        if !subsystem.config.ana_reporting {
            return Err(error("ANA reporting is off"));
        }
        let listener = subsystem.listener(address).ok_or_else(|| error("no such listener"))?;
        if !listener.set_ana_state(group.unwrap_or(0), state) {
            return Err(error("no such group"));
        }
        subsystem.ana_changed(address);
        Ok(())
    }

    /// Tells the hosts of the discovery subsystem (all, or one) that their log changed.
    fn discovery_changed(&self, host: Option<&str>) {
        self.discovery_generation.set(self.discovery_generation.get() + 1);
        let Ok(discovery) = self.subsystem(DISCOVERY_NQN) else { return };
        for c in discovery.all_controllers() {
            if host.is_none_or(|h| h == c.hostnqn) {
                c.post(Notice::Discovery);
            }
        }
    }

    /// Closes all listeners, disconnects all hosts and waits for their I/O: for an orderly end of the process.
    pub async fn shutdown(&self) {
        self.sockets.borrow_mut().clear();
        let subsystems = self.subsystems.borrow().clone();
        for s in &subsystems {
            s.closed.set(true);
            s.disconnect(|_| true).await;
        }
    }
}

fn free_nsid(subsystem: &Subsystem, wanted: Option<u32>) -> Result<u32, TargetError> {
    let taken = subsystem.namespaces.borrow();
    let max = subsystem.config.max_namespaces;
    match wanted.filter(|n| *n != 0) {
        Some(n) if n > max => Err(TargetError::invalid("nsid", n, format!("from 1 to {max}"))),
        Some(n) if taken.contains_key(&n) => Err(TargetError::invalid("nsid", n, "is in use")),
        Some(n) => Ok(n),
        None => (1..=max)
            .find(|n| !taken.contains_key(n))
            .ok_or_else(|| TargetError::invalid("nsid", 0, "all namespace ids are in use")),
    }
}

/// Follows the bdev of a namespace: growth is announced, removal takes the namespace away.
async fn watch(target: std::rc::Weak<Target>, nqn: String, ns: std::rc::Weak<Namespace>, mut events: Events) {
    while let Some(event) = events.recv().await {
        let (Some(target), Some(ns)) = (target.upgrade(), ns.upgrade()) else { return };
        let Ok(subsystem) = target.subsystem(&nqn) else { return };
        match event {
            BdevEvent::Resized => subsystem.namespace_changed(&ns),
            BdevEvent::Removed => {
                tracing::info!(%nqn, nsid = ns.nsid, bdev = %ns.bdev_name, "bdev of a namespace was removed");
                let ours = subsystem.namespaces.borrow().get(&ns.nsid).is_some_and(|n| Rc::ptr_eq(n, &ns));
                if ours {
                    subsystem.namespaces.borrow_mut().remove(&ns.nsid);
                    subsystem.namespace_changed(&ns);
                }
                ns.close().await;
                return;
            }
        }
    }
}

/// Whether all bdevs of a subsystem support an I/O type.
fn all_support(subsystem: &Subsystem, io: IoType) -> bool {
    let namespaces = subsystem.namespaces.borrow();
    namespaces.values().all(|ns| ns.begin().is_none_or(|(bdev, _busy)| bdev.supports(io)))
}
