//! `bdev_nvme`: namespaces of remote NVMe/TCP controllers as bdevs `{name}n{nsid}`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use uuid::Uuid;
use vda_nvme::identify::{ONCS_COMPARE, ONCS_DSM};
use vda_spdk::MultipathMode;

use super::{Bdev, BdevError, IoFuture, IoType, NewBdev, Registration, Registry};
use crate::initiator::group::GroupEvents;
use crate::initiator::{ConnectError, Group, HostOptions, Namespace, Path, Resilience};

mod multipath;
mod show;

pub use multipath::Multipath;
pub use show::{controller_state, trid};

/// Module name.
pub const MODULE: &str = "nvme";
/// How long a detach waits for whoever holds a bdev.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `bdev_nvme_set_options` that have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvmeOptions {
    /// Retries of an I/O that failed otherwise than by its path; -1 for no limit.
    pub retry_count: i32,
    /// For attachments that give none.
    pub resilience: Resilience,
    /// Keep Alive Timeout; zero for none.
    pub keep_alive: Duration,
    /// Time for each step of connecting.
    pub connect_timeout: Duration,
    /// For attachments that give none.
    pub multipath: Multipath,
    /// Time after which an admin command or an I/O is late, microseconds; shown, without effect.
    pub timeout_us: u64,
}

impl Default for NvmeOptions {
    fn default() -> Self {
        Self {
            retry_count: 3,
            resilience: Resilience { loss_timeout: Some(Duration::ZERO), ..Resilience::default() },
            keep_alive: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            multipath: Multipath::default(),
            timeout_us: 0,
        }
    }
}

/// Why an attachment, detachment or option is refused.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// The name has a path to this address, or multipath is disabled (-114).
    #[error("A controller named {name} already exists {why}")]
    Already { name: String, why: &'static str },
    /// The name is used with another subsystem or host (-22).
    #[error("A controller named {name} already exists, but uses a different {what} ({value})")]
    Different { name: String, what: &'static str, value: String },
    /// The name is used in another way (-22).
    #[error("controller {name} has {what}")]
    Invalid { name: String, what: &'static str },
    /// The subsystem is attached at this address under another name (-17).
    #[error("the subsystem at {address} is attached already")]
    Duplicate { address: SocketAddr },
    /// No controller of this name (-19).
    #[error("controller {name} does not exist")]
    NotFound { name: String },
    /// The controller has no such path (-6).
    #[error("controller {name} has no such path")]
    NoPath { name: String },
    /// The controller cannot be connected (-5).
    #[error("controller {name} cannot be connected")]
    Connect {
        name: String,
        #[source]
        source: ConnectError,
    },
    /// A bdev of a namespace cannot be registered: its name or UUID is taken (-17).
    #[error("bdev of controller {name} cannot be registered")]
    Register {
        name: String,
        #[source]
        source: BdevError,
    },
    /// Somebody held a bdev for too long (-110).
    #[error("a bdev of controller {name} is in use")]
    Held { name: String },
    /// Options cannot change while a controller is attached (-1).
    #[error("RPC not permitted with nvme controllers already attached")]
    Attached,
}

/// What an attachment asks for.
#[derive(Debug, Clone)]
pub struct Attach {
    pub name: String,
    pub address: SocketAddr,
    pub subnqn: String,
    /// The module's own if absent.
    pub hostnqn: Option<String>,
    pub header_digest: bool,
    pub data_digest: bool,
    pub io_queues: u16,
    /// The module's options if absent.
    pub resilience: Option<Resilience>,
    pub multipath: Multipath,
    /// What to do if the name already has a path.
    pub mode: MultipathMode,
}

/// A controller as it was attached.
pub struct Attached {
    pub group: Rc<Group>,
    pub mode: MultipathMode,
    pub multipath: Multipath,
}

struct Controller {
    group: Rc<Group>,
    bdevs: Rc<Bdevs>,
    hostnqn: String,
    mode: MultipathMode,
    multipath: Multipath,
    /// Addresses that attachments under way connect to: the same is not connected twice, and the name stays while one is.
    connecting: RefCell<Vec<SocketAddr>>,
}

/// The controllers and their bdevs.
pub struct NvmeModule {
    registry: Registry,
    controllers: RefCell<BTreeMap<String, Rc<Controller>>>,
    options: Cell<NvmeOptions>,
    host: HostOptions,
    me: Weak<Self>,
}

impl NvmeModule {
    /// Without controllers; its host name and id are random.
    #[must_use]
    pub fn new(registry: Registry) -> Rc<Self> {
        let id = Uuid::new_v4();
        let mut host = HostOptions::new(format!("nqn.2014-08.org.nvmexpress:uuid:{id}"));
        host.hostid = *id.as_bytes();
        Rc::new_cyclic(|me| Self {
            registry,
            controllers: RefCell::default(),
            options: Cell::default(),
            host,
            me: me.clone(),
        })
    }

    /// The options for attachments to come.
    pub fn options(&self) -> NvmeOptions {
        self.options.get()
    }

    /// `bdev_nvme_set_options`.
    ///
    /// # Errors
    /// [`NvmeError::Attached`].
    pub fn set_options(&self, options: NvmeOptions) -> Result<(), NvmeError> {
        if !self.controllers.borrow().is_empty() {
            return Err(NvmeError::Attached);
        }
        self.options.set(options);
        Ok(())
    }

    /// The group of a name.
    ///
    /// # Errors
    /// [`NvmeError::NotFound`].
    pub fn group(&self, name: &str) -> Result<Rc<Group>, NvmeError> {
        let found = self.controllers.borrow().get(name).map(|c| Rc::clone(&c.group));
        found.ok_or_else(|| NvmeError::NotFound { name: name.to_owned() })
    }

    /// All controllers, by name, with what their attachments asked for.
    pub fn attached(&self) -> Vec<Attached> {
        let controllers = self.controllers.borrow();
        let attached = |c: &Rc<Controller>| Attached {
            group: Rc::clone(&c.group),
            mode: c.mode,
            multipath: c.multipath,
        };
        controllers.values().map(attached).collect()
    }

    /// All groups, by name.
    pub fn groups(&self) -> Vec<Rc<Group>> {
        self.controllers.borrow().values().map(|c| Rc::clone(&c.group)).collect()
    }

    /// The group and namespace behind a bdev.
    pub fn find_bdev(&self, bdev: &str) -> Option<(Rc<Group>, Rc<Namespace>)> {
        let canonical = self.registry.canonical_name(bdev).ok()?;
        self.groups().into_iter().find_map(|g| {
            let ns = g.namespaces().into_iter().find(|ns| bdev_name(&g.name, ns.nsid) == canonical)?;
            Some((g, ns))
        })
    }

    /// Whether somebody has the bdev open.
    pub fn is_open(&self, bdev: &str) -> bool {
        self.registry.info(bdev).is_ok_and(|i| i.open > 0)
    }

    /// `bdev_nvme_attach_controller`: connects, makes the bdevs, gives their names.
    ///
    /// # Errors
    /// See [`NvmeError`].
    pub async fn attach(&self, a: Attach) -> Result<Vec<String>, NvmeError> {
        let hostnqn = a.hostnqn.clone().unwrap_or_else(|| self.host.hostnqn.clone());
        let controller = match self.existing(&a, &hostnqn)? {
            Some(c) => c,
            None if self.is_attached(&a, &hostnqn) => {
                return Err(NvmeError::Duplicate { address: a.address });
            }
            None => self.create(&a, hostnqn.clone()),
        };
        let o = self.options.get();
        let options = HostOptions {
            hostnqn,
            digests: vda_nvme::digest::Digests { header: a.header_digest, data: a.data_digest },
            io_queues: a.io_queues.max(1),
            keep_alive: o.keep_alive,
            connect_timeout: o.connect_timeout,
            ..self.host.clone()
        };
        let group = Rc::clone(&controller.group);
        controller.connecting.borrow_mut().push(a.address);
        let attached = group.attach(a.address, options, a.resilience.unwrap_or(o.resilience)).await;
        controller.connecting.borrow_mut().retain(|c| *c != a.address);
        let path = match attached {
            Ok(path) => path,
            Err(source) => {
                self.forget_if_empty(&group);
                return Err(NvmeError::Connect { name: a.name, source });
            }
        };
        let failed = controller.bdevs.failure.borrow_mut().take();
        if let Some(source) = failed {
            group.detach(&path);
            group.wait_gone(&path).await;
            return Err(NvmeError::Register { name: a.name, source });
        }
        let shown = group.namespaces().into_iter().filter(|ns| path.ana_state(ns.nsid).is_some());
        Ok(shown.map(|ns| bdev_name(&group.name, ns.nsid)).collect())
    }

    /// Whether a controller has a path for this host to this subsystem at this address.
    fn is_attached(&self, a: &Attach, hostnqn: &str) -> bool {
        self.controllers.borrow().values().any(|c| {
            let same = c.group.subnqn == a.subnqn && c.hostnqn == hostnqn;
            same && c.group.paths().iter().any(|p| p.address == a.address)
        })
    }

    fn existing(&self, a: &Attach, hostnqn: &str) -> Result<Option<Rc<Controller>>, NvmeError> {
        let Some(c) = self.controllers.borrow().get(&a.name).cloned() else { return Ok(None) };
        let already = |why| NvmeError::Already { name: a.name.clone(), why };
        if a.mode == MultipathMode::Disable {
            return Err(already("and multipath is disabled"));
        }
        let connected = c.group.paths().iter().any(|p| p.address == a.address);
        let same_path = connected || c.connecting.borrow().contains(&a.address);
        let different =
            |what, value: &str| NvmeError::Different { name: a.name.clone(), what, value: value.to_owned() };
        if same_path && c.group.subnqn == a.subnqn {
            return Err(already("with the specified network path"));
        }
        if c.group.subnqn != a.subnqn {
            return Err(different("subnqn", &c.group.subnqn));
        }
        if c.hostnqn != hostnqn {
            return Err(different("hostnqn", &c.hostnqn));
        }
        if c.mode == MultipathMode::Multipath && a.mode != c.mode {
            return Err(NvmeError::Invalid {
                name: a.name.clone(),
                what: "paths that are used at the same time",
            });
        }
        if c.mode != MultipathMode::Multipath && a.mode == MultipathMode::Multipath {
            return Err(NvmeError::Invalid { name: a.name.clone(), what: "paths that replace one another" });
        }
        if c.multipath != a.multipath {
            return Err(NvmeError::Invalid { name: a.name.clone(), what: "other multipath options" });
        }
        Ok(Some(c))
    }

    fn create(&self, a: &Attach, hostnqn: String) -> Rc<Controller> {
        let o = self.options.get();
        let bdevs = Rc::new(Bdevs {
            name: a.name.clone(),
            registry: self.registry.clone(),
            module: self.me.clone(),
            registrations: RefCell::default(),
            leaving: RefCell::default(),
            failure: RefCell::default(),
        });
        let events = Box::new(Rc::clone(&bdevs));
        let group = Group::new(a.name.clone(), a.subnqn.clone(), o.retry_count, events);
        group.set_policy(a.multipath.meaning().unwrap_or_default());
        let (mode, multipath) = (a.mode, a.multipath);
        let connecting = RefCell::default();
        let controller = Rc::new(Controller { group, bdevs, hostnqn, mode, multipath, connecting });
        self.controllers.borrow_mut().insert(a.name.clone(), Rc::clone(&controller));
        controller
    }

    fn forget_if_empty(&self, group: &Rc<Group>) {
        if group.paths().is_empty() {
            let stays = |c: &Controller| !Rc::ptr_eq(&c.group, group) || !c.connecting.borrow().is_empty();
            self.controllers.borrow_mut().retain(|_, c| stays(c));
        }
    }

    /// `bdev_nvme_detach_controller`: takes away the paths that `which` picks. When none is left the bdevs go as well.
    ///
    /// # Errors
    /// [`NvmeError::NotFound`], [`NvmeError::NoPath`], and [`NvmeError::Held`] when a bdev is still held after 10 s.
    pub async fn detach(&self, name: &str, which: impl Fn(&Group, &Path) -> bool) -> Result<(), NvmeError> {
        let found = self.controllers.borrow().get(name).cloned();
        let controller = found.ok_or_else(|| NvmeError::NotFound { name: name.to_owned() })?;
        let group = &controller.group;
        let paths: Vec<_> = group.paths().into_iter().filter(|p| which(group, p)).collect();
        if paths.is_empty() {
            return Err(NvmeError::NoPath { name: name.to_owned() });
        }
        let gone = async {
            for path in &paths {
                group.detach(path);
            }
            for path in &paths {
                group.wait_gone(path).await;
            }
            controller.bdevs.wait_gone().await;
        };
        match tokio::time::timeout(DETACH_TIMEOUT, gone).await {
            Ok(()) => Ok(()),
            Err(_) => Err(NvmeError::Held { name: name.to_owned() }),
        }
    }

    /// Detaches everything: for an orderly end of the process.
    pub async fn shutdown(&self) {
        for group in self.groups() {
            group.close().await;
        }
    }
}

fn bdev_name(controller: &str, nsid: u32) -> String {
    format!("{controller}n{nsid}")
}

/// The bdevs of one controller name.
struct Bdevs {
    name: String,
    registry: Registry,
    module: Weak<NvmeModule>,
    registrations: RefCell<BTreeMap<u32, Registration>>,
    /// Removals under way.
    leaving: RefCell<Vec<Registration>>,
    failure: RefCell<Option<BdevError>>,
}

impl Bdevs {
    async fn wait_gone(&self) {
        loop {
            let Some(r) = self.leaving.borrow().first().cloned() else { return };
            r.unregister().await;
            self.leaving.borrow_mut().retain(|l| l.name() != r.name());
        }
    }
}

impl GroupEvents for Rc<Bdevs> {
    fn added(&self, ns: &Rc<Namespace>) {
        // As SPDK: the NGUID names the bdev, the UUID only when there is none.
        let uuid = [ns.ids.nguid, ns.ids.uuid].into_iter().map(Uuid::from_bytes).find(|u| !u.is_nil());
        let bdev = NvmeBdev { ns: Rc::clone(ns), uuid: uuid.unwrap_or_else(Uuid::new_v4) };
        let new = NewBdev { name: bdev_name(&self.name, ns.nsid), aliases: Vec::new(), bdev: Rc::new(bdev) };
        match self.registry.register(new) {
            Ok(r) => {
                self.registrations.borrow_mut().insert(ns.nsid, r);
            }
            Err(error) => {
                tracing::warn!(controller = %self.name, nsid = ns.nsid, %error, "namespace gets no bdev");
                *self.failure.borrow_mut() = Some(error);
            }
        }
    }

    fn resized(&self, ns: &Rc<Namespace>) {
        if let Some(r) = self.registrations.borrow().get(&ns.nsid) {
            r.notify_resize();
        }
    }

    fn removed(&self, nsid: u32) {
        let Some(r) = self.registrations.borrow_mut().remove(&nsid) else { return };
        self.leaving.borrow_mut().push(r.clone());
        let me = Self::clone(self);
        tokio::task::spawn_local(async move {
            r.unregister().await;
            me.leaving.borrow_mut().retain(|l| l.name() != r.name());
        });
    }

    fn emptied(&self) {
        if let Some(module) = self.module.upgrade()
            && let Ok(group) = module.group(&self.name)
        {
            module.forget_if_empty(&group);
        }
    }
}

/// A namespace as a bdev.
struct NvmeBdev {
    ns: Rc<Namespace>,
    uuid: Uuid,
}

impl Bdev for NvmeBdev {
    fn product_name(&self) -> &'static str {
        "NVMe disk"
    }

    fn module(&self) -> &'static str {
        MODULE
    }

    fn block_size(&self) -> u32 {
        self.ns.block_size()
    }

    fn num_blocks(&self) -> u64 {
        self.ns.blocks()
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn supports(&self, io: IoType) -> bool {
        match io {
            IoType::Read | IoType::Write | IoType::Flush | IoType::Reset | IoType::WriteZeroes => true,
            IoType::Unmap => self.ns.optional_commands() & ONCS_DSM != 0,
            IoType::Compare => true,
            IoType::CompareAndWrite | IoType::Abort => false,
        }
    }

    fn driver_specific(&self) -> Value {
        self.ns.group().map_or_else(|| json!({}), |g| show::driver_specific(&g, &self.ns))
    }

    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        let ns = Rc::clone(&self.ns);
        Box::pin(async move { ns.read(lba, buf).await })
    }

    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        let ns = Rc::clone(&self.ns);
        Box::pin(async move { ns.write(lba, data, fua).await })
    }

    fn flush(&self) -> IoFuture<()> {
        let ns = Rc::clone(&self.ns);
        Box::pin(async move { ns.flush().await })
    }

    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        let ns = Rc::clone(&self.ns);
        Box::pin(async move { ns.unmap(lba, blocks).await })
    }

    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        let ns = Rc::clone(&self.ns);
        Box::pin(async move { ns.write_zeroes(lba, blocks, fua).await })
    }

    fn compare(&self, lba: u64, data: Bytes) -> IoFuture<()> {
        let ns = Rc::clone(&self.ns);
        if ns.optional_commands() & ONCS_COMPARE != 0 {
            return Box::pin(async move { ns.compare(lba, data).await });
        }
        Box::pin(async move {
            let stored = ns.read(lba, BytesMut::zeroed(data.len())).await?;
            if stored == data { Ok(()) } else { Err(super::IoError::Miscompare) }
        })
    }

    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}
