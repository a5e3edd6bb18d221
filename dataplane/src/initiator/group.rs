//! A group: the paths to one subsystem under one name, and the namespaces they show (SPDK's `nbdev_ctrlr`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::namespace::Namespace;
use super::path::{Order, Path, PathState, Resilience};
use super::session::{HostOptions, NamespaceData, Session};
use super::{CommandError, ConnectError};

/// What a group tells its owner.
pub trait GroupEvents {
    /// A namespace appeared.
    fn added(&self, namespace: &Rc<Namespace>);
    /// The size of a namespace changed.
    fn resized(&self, namespace: &Rc<Namespace>);
    /// No path shows the namespace any more.
    fn removed(&self, nsid: u32);
    /// The last path is gone.
    fn emptied(&self);
}

/// Which path carries a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The first path in the best ANA state.
    #[default]
    ActivePassive,
    /// All paths in the best ANA state in turn, `min_io` commands each.
    RoundRobin { min_io: u32 },
    /// Of the paths in the best ANA state the one with the fewest commands.
    QueueDepth,
}

/// The paths to one subsystem.
pub struct Group {
    pub name: String,
    pub subnqn: String,
    /// Retries of a command that failed otherwise than by its path; -1 for no limit.
    pub retries: i32,
    paths: RefCell<Vec<Rc<Path>>>,
    namespaces: RefCell<BTreeMap<u32, Rc<Namespace>>>,
    change: Notify,
    events: Box<dyn GroupEvents>,
    policy: Cell<Policy>,
    generation: Cell<u64>,
}

impl Group {
    /// A group without paths.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        subnqn: impl Into<String>,
        retries: i32,
        events: Box<dyn GroupEvents>,
    ) -> Rc<Self> {
        Rc::new(Self {
            name: name.into(),
            subnqn: subnqn.into(),
            retries,
            paths: RefCell::default(),
            namespaces: RefCell::default(),
            change: Notify::new(),
            events,
            policy: Cell::default(),
            generation: Cell::default(),
        })
    }

    /// The paths, in the order in which they were attached.
    pub fn paths(&self) -> Vec<Rc<Path>> {
        self.paths.borrow().clone()
    }

    /// What a command may carry on every connected path, bytes; `None` without one.
    pub(super) fn smallest_transfer(&self) -> Option<usize> {
        self.paths.borrow().iter().filter_map(|p| p.session()).map(|s| s.max_transfer).min()
    }

    /// The namespaces that paths show, by id.
    pub fn namespaces(&self) -> Vec<Rc<Namespace>> {
        self.namespaces.borrow().values().cloned().collect()
    }

    /// Which path carries a command of a namespace that appears.
    pub fn policy(&self) -> Policy {
        self.policy.get()
    }

    /// Changes which path carries a command, for namespaces that appear from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.set(policy);
    }

    /// Connects a path and waits for its namespaces.
    ///
    /// # Errors
    /// Why the controller cannot be connected, or its namespaces not read; the group is unchanged then.
    pub async fn attach(
        self: &Rc<Self>,
        address: SocketAddr,
        options: HostOptions,
        resilience: Resilience,
    ) -> Result<Rc<Path>, ConnectError> {
        let session = Session::connect(address, &self.subnqn, &options).await?;
        let path = Rc::new(Path::new(address, options, resilience));
        let scanned = self.scan(&path, &session).await;
        if let Err(error) = scanned {
            self.forget_unseen(None);
            return Err(ConnectError::identifying(address, error));
        }
        path.adopt(session);
        self.insert(&path);
        Ok(path)
    }

    /// Adds a path that is not connected yet: it is tried in the background.
    pub fn attach_later(self: &Rc<Self>, address: SocketAddr, options: HostOptions, resilience: Resilience) {
        self.insert(&Rc::new(Path::new(address, options, resilience)));
    }

    fn insert(self: &Rc<Self>, path: &Rc<Path>) {
        self.paths.borrow_mut().push(Rc::clone(path));
        tokio::task::spawn_local(Rc::clone(path).run(Rc::downgrade(self)));
        self.changed();
    }

    /// Something changed that waiting I/O may have waited for.
    pub(super) fn changed(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
        self.change.notify_waiters();
    }

    /// Number of changes so far: what was chosen under another number is to be chosen again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The next change. To be created before the state is looked at.
    pub(super) fn next_change(&self) -> impl Future<Output = ()> + '_ {
        self.change.notified()
    }

    pub(super) async fn rescan(self: &Rc<Self>, path: &Path, session: &Session) {
        if let Err(error) = self.scan(path, session).await {
            tracing::warn!(group = %self.name, address = %path.address, %error, "reading the namespaces failed");
        }
    }

    pub(super) async fn scan(self: &Rc<Self>, path: &Path, session: &Session) -> Result<(), CommandError> {
        // Re-armed first: what changes while the namespaces are read is announced again.
        if let Err(CommandError::Lost) = session.clear_changed_namespaces().await {
            return Err(CommandError::Lost);
        }
        let found = session.namespaces().await?;
        path.read_ana(session).await;
        let usable: BTreeMap<u32, u32> =
            found.iter().filter(|d| self.learn(path, d)).map(|d| (d.nsid, d.identify.ana_group)).collect();
        *path.nsids.borrow_mut() = usable;
        self.forget_unseen(Some(path));
        self.changed();
        Ok(())
    }

    /// Takes in a namespace that a path shows; whether the path may be used for it.
    fn learn(self: &Rc<Self>, path: &Path, data: &NamespaceData) -> bool {
        let known = self.namespaces.borrow().get(&data.nsid).cloned();
        if let Some(ns) = known {
            if ns.ids != data.ids || ns.block_shift != data.identify.block_shift {
                let (group, address) = (&self.name, path.address);
                tracing::error!(%group, %address, nsid = data.nsid, "path shows another namespace: not used");
                return false;
            }
            if ns.set_blocks(data.identify.blocks) {
                self.events.resized(&ns);
            }
            return true;
        }
        if !(9..=16).contains(&data.identify.block_shift) {
            tracing::warn!(group = %self.name, nsid = data.nsid, "namespace has a block size that is not supported");
            return false;
        }
        let ns = Rc::new(Namespace::new(self, data));
        self.namespaces.borrow_mut().insert(data.nsid, Rc::clone(&ns));
        // The bdev needs to find its path while it is announced.
        path.nsids.borrow_mut().insert(data.nsid, data.identify.ana_group);
        self.events.added(&ns);
        true
    }

    /// Removes namespaces that no path shows: not of those in the group, nor `joining`.
    fn forget_unseen(&self, joining: Option<&Path>) {
        let paths = self.paths();
        let seen = |nsid: &u32| {
            let shows = |p: &Path| p.nsids.borrow().contains_key(nsid);
            joining.is_some_and(shows) || paths.iter().any(|p| shows(p))
        };
        let all: Vec<u32> = self.namespaces.borrow().keys().copied().collect();
        for nsid in all.into_iter().filter(|n| !seen(n)) {
            self.namespaces.borrow_mut().remove(&nsid);
            self.events.removed(nsid);
        }
    }

    pub(super) fn path_gone(&self, path: &Rc<Path>) {
        self.paths.borrow_mut().retain(|p| !Rc::ptr_eq(p, path));
        self.forget_unseen(None);
        self.changed();
        if self.paths.borrow().is_empty() {
            self.events.emptied();
        }
    }

    /// Takes the path away; it is gone when [`Group::wait_gone`] resolves.
    pub fn detach(&self, path: &Path) {
        path.command(Order::Delete);
    }

    /// Resolves when a path has left the group.
    pub async fn wait_gone(&self, path: &Rc<Path>) {
        loop {
            let change = self.next_change();
            if !self.paths.borrow().iter().any(|p| Rc::ptr_eq(p, path)) {
                return;
            }
            change.await;
        }
    }

    /// Disconnects and connects again; resolves when the path is connected, or cannot be: whether it is. A disabled path stays so,
    /// and that is no failure (SPDK's `bdev_nvme_reset_controller`).
    pub async fn reset(&self, path: &Path) -> bool {
        if path.state() == PathState::Disabled {
            return true;
        }
        let before = path.attempts();
        path.command(Order::Reset);
        self.wait_attempt(path, before).await
    }

    /// Resolves when there was another attempt to connect a path: whether it is connected.
    async fn wait_attempt(&self, path: &Path, before: u64) -> bool {
        loop {
            let change = self.next_change();
            match path.state() {
                PathState::Deleting => return false,
                state if path.attempts() != before => return state == PathState::Enabled,
                _ => change.await,
            }
        }
    }

    /// Disconnects a path and leaves it so.
    pub async fn disable(&self, path: &Path) {
        if path.state() == PathState::Disabled {
            return;
        }
        path.command(Order::Disable);
        loop {
            let change = self.next_change();
            match path.state() {
                PathState::Disabled | PathState::Deleting => return,
                _ => change.await,
            }
        }
    }

    /// Connects a disabled path again: whether it is connected. Any other path is left as it is.
    pub async fn enable(&self, path: &Path) -> bool {
        if path.state() != PathState::Disabled {
            return true;
        }
        let before = path.attempts();
        path.command(Order::Enable);
        self.wait_attempt(path, before).await
    }

    /// Takes all paths away and waits until they are gone.
    pub async fn close(self: &Rc<Self>) {
        for path in self.paths() {
            self.detach(&path);
            self.wait_gone(&path).await;
        }
    }
}

/// Events of a group whose owner looks at its state itself.
pub struct NoEvents;

impl GroupEvents for NoEvents {
    fn added(&self, _: &Rc<Namespace>) {}
    fn resized(&self, _: &Rc<Namespace>) {}
    fn removed(&self, _: u32) {}
    fn emptied(&self) {}
}

/// A weak handle, for events that need their group.
pub type WeakGroup = Weak<Group>;
