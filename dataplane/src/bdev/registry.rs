//! The names of bdevs, who holds them, and what happens to the holders when a bdev grows or goes away.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Instant;

use futures::future::LocalBoxFuture;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::descriptor::{Claim, ClaimType, Descriptor};
use super::qos::{QosError, QosLimits, QosUpdate, Throttle};
use super::stats::{IoStat, StatCells};
use super::{Bdev, BdevError};

/// What happens to an open bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BdevEvent {
    /// It is going away: I/O already fails with [`super::IoError::Removed`]; the holder drops its [`Descriptor`], and the
    /// removal completes when all have.
    Removed,
    /// `num_blocks` changed.
    Resized,
}

/// The events of one [`Descriptor`], in order.
pub type Events = mpsc::UnboundedReceiver<BdevEvent>;

/// A module that looks at bdevs for what it may find on them (an lvstore).
pub trait Examiner: 'static {
    fn examine(&self, registry: Registry, name: String) -> LocalBoxFuture<'static, ()>;
}

/// What a module gives to [`Registry::register`].
pub struct NewBdev {
    pub name: String,
    /// Further names; the uuid is added by the registry.
    pub aliases: Vec<String>,
    pub bdev: Rc<dyn Bdev>,
}

/// What `bdev_get_bdevs` shows of a bdev.
#[derive(Clone, Debug)]
pub struct BdevInfo {
    pub name: String,
    pub aliases: Vec<String>,
    pub product_name: &'static str,
    pub module: &'static str,
    pub block_size: u32,
    pub num_blocks: u64,
    pub uuid: Uuid,
    pub claim: Option<(ClaimType, &'static str)>,
    /// Open descriptors.
    pub open: usize,
    pub limits: QosLimits,
    pub driver_specific: Value,
    pub supported: Vec<super::IoType>,
}

/// A registered bdev.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bdev: Rc<dyn Bdev>,
    pub(super) aliases: RefCell<Vec<String>>,
    pub(super) removing: Cell<bool>,
    pub(super) inflight: Cell<usize>,
    pub(super) holders: RefCell<BTreeMap<u64, mpsc::UnboundedSender<BdevEvent>>>,
    pub(super) writers: Cell<usize>,
    pub(super) claim: RefCell<Option<Claim>>,
    pub(super) stats: StatCells,
    pub(super) throttle: Throttle,
    /// Signalled whenever a descriptor closes or an I/O ends while removing.
    pub(super) quiesced: Notify,
    pub(super) orphans: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
}

impl Entry {
    fn notify(&self, event: BdevEvent) {
        for holder in self.holders.borrow().values() {
            // A holder that closes its event stream first is on its way to close the descriptor.
            let _ = holder.send(event);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.holders.borrow().is_empty() && self.inflight.get() == 0
    }
}

struct State {
    /// In order of registration, which is the order of `bdev_get_bdevs`.
    entries: BTreeMap<u64, Rc<Entry>>,
    /// Names and aliases.
    names: BTreeMap<String, u64>,
    next_seq: u64,
    examiners: Vec<Rc<dyn Examiner>>,
    /// Names for which `bdev_examine` was called: such a bdev is examined when it appears. Forgotten when it goes.
    examine_allowed: BTreeSet<String>,
}

struct Inner {
    state: RefCell<State>,
    auto_examine: Cell<bool>,
    examining: Cell<usize>,
    examined: Notify,
    registered: Notify,
    next_holder: Cell<u64>,
    orphans: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
}

/// All bdevs of the process. Cloning gives another handle to the same registry.
#[derive(Clone)]
pub struct Registry(Rc<Inner>);

/// A module's handle on a bdev it registered. Dropping it does not unregister.
#[derive(Clone)]
pub struct Registration {
    registry: Weak<Inner>,
    entry: Rc<Entry>,
    seq: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty registry with automatic examine on, as SPDK starts. Must be called on the reactor (in a `LocalSet`).
    pub fn new() -> Self {
        let (orphans, mut adopted) = mpsc::unbounded_channel::<LocalBoxFuture<'static, ()>>();
        tokio::task::spawn_local(async move {
            while let Some(io) = adopted.recv().await {
                tokio::task::spawn_local(io);
            }
        });
        let state = State {
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            next_seq: 0,
            examiners: Vec::new(),
            examine_allowed: BTreeSet::new(),
        };
        Self(Rc::new(Inner {
            state: RefCell::new(state),
            auto_examine: Cell::new(true),
            examining: Cell::new(0),
            examined: Notify::new(),
            registered: Notify::new(),
            next_holder: Cell::new(0),
            orphans,
        }))
    }

    /// Makes a bdev visible under its name, aliases and uuid, and has it examined if that is wanted.
    ///
    /// # Errors
    /// [`BdevError::Exists`] if one of the names is taken, [`BdevError::Invalid`] if the name is empty.
    pub fn register(&self, new: NewBdev) -> Result<Registration, BdevError> {
        let NewBdev { name, mut aliases, bdev } = new;
        if name.is_empty() {
            return Err(BdevError::Invalid {
                field: "name",
                value: name,
                allowed: "a name of at least one character",
            });
        }
        let uuid = bdev.uuid();
        if !uuid.is_nil() && uuid.to_string() != name {
            aliases.push(uuid.to_string());
        }
        let entry = Rc::new(Entry {
            name: name.clone(),
            bdev,
            aliases: RefCell::new(aliases.clone()),
            removing: Cell::new(false),
            inflight: Cell::new(0),
            holders: RefCell::new(BTreeMap::new()),
            writers: Cell::new(0),
            claim: RefCell::new(None),
            stats: StatCells::default(),
            throttle: Throttle::default(),
            quiesced: Notify::new(),
            orphans: self.0.orphans.clone(),
        });
        let seq = {
            let mut state = self.0.state.borrow_mut();
            for n in std::iter::once(&name).chain(&aliases) {
                if state.names.contains_key(n) {
                    return Err(BdevError::Exists { name: n.clone() });
                }
            }
            let seq = state.next_seq;
            state.next_seq += 1;
            for n in std::iter::once(name).chain(aliases) {
                state.names.insert(n, seq);
            }
            state.entries.insert(seq, Rc::clone(&entry));
            seq
        };
        self.0.registered.notify_waiters();
        self.examine_new(&entry);
        Ok(Registration { registry: Rc::downgrade(&self.0), entry, seq })
    }

    fn examine_new(&self, entry: &Entry) {
        let allowed = self.0.auto_examine.get() || {
            let state = self.0.state.borrow();
            state.examine_allowed.contains(&entry.name)
                || entry.aliases.borrow().iter().any(|a| state.examine_allowed.contains(a))
        };
        if allowed {
            self.spawn_examine(entry.name.clone());
        }
    }

    fn find(&self, name: &str) -> Result<Rc<Entry>, BdevError> {
        let state = self.0.state.borrow();
        state
            .names
            .get(name)
            .and_then(|seq| state.entries.get(seq))
            .filter(|e| !e.removing.get())
            .cloned()
            .ok_or_else(|| BdevError::NotFound { name: name.to_owned() })
    }

    /// Opens a bdev by name or alias. The events tell when it grows or goes away.
    ///
    /// # Errors
    /// [`BdevError::NotFound`]; [`BdevError::Claimed`] when opening for writing what a module has claimed.
    pub fn open(&self, name: &str, write: bool) -> Result<(Descriptor, Events), BdevError> {
        let entry = self.find(name)?;
        if write && let Some(claim) = entry.claim.borrow().as_ref() {
            return Err(BdevError::Claimed { name: entry.name.clone(), by: claim.module.to_owned() });
        }
        let id = self.0.next_holder.get();
        self.0.next_holder.set(id + 1);
        let (sender, events) = mpsc::unbounded_channel();
        entry.holders.borrow_mut().insert(id, sender);
        Ok((Descriptor::new(entry, id, write), events))
    }

    /// The canonical name of a bdev, found by name or alias.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn canonical_name(&self, name: &str) -> Result<String, BdevError> {
        self.find(name).map(|e| e.name.clone())
    }

    /// The bdev behind a name or alias; modules use it to get at their own type by name.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn info(&self, name: &str) -> Result<BdevInfo, BdevError> {
        self.find(name).map(|e| info(&e))
    }

    /// Waits until a bdev of that name or alias is there.
    pub async fn wait_for(&self, name: &str) -> BdevInfo {
        loop {
            let registered = self.0.registered.notified();
            if let Ok(info) = self.info(name) {
                return info;
            }
            registered.await;
        }
    }

    /// All bdevs in the order in which they were registered, without those being removed.
    pub fn list(&self) -> Vec<BdevInfo> {
        let entries: Vec<_> = self.0.state.borrow().entries.values().cloned().collect();
        entries.iter().filter(|e| !e.removing.get()).map(info).collect()
    }

    /// The I/O counters of a bdev.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn iostat(&self, name: &str) -> Result<(String, IoStat), BdevError> {
        self.find(name).map(|e| (e.name.clone(), e.stats.snapshot()))
    }

    /// Forgets the counters, or with `only_extremes` the largest and smallest latency.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn reset_iostat(&self, name: &str, only_extremes: bool) -> Result<(), BdevError> {
        self.find(name).map(|e| e.stats.reset(only_extremes))
    }

    /// Changes the rate limits of a bdev.
    ///
    /// # Errors
    /// [`BdevError::NotFound`], or inside what [`QosLimits::updated`] refuses.
    pub fn set_qos(&self, name: &str, update: QosUpdate) -> Result<Result<(), QosError>, BdevError> {
        let entry = self.find(name)?;
        let new = entry.throttle.limits().updated(update);
        Ok(new.map(|limits| entry.throttle.set(limits, Instant::now())))
    }

    /// Removes a bdev of `module`: holders get [`BdevEvent::Removed`], and when all have closed it and its I/O has ended it is
    /// destructed and its names are free again. Waiting for that is up to the caller: dropping the future does not stop it.
    ///
    /// # Errors
    /// [`BdevError::NotFound`] if there is none, or it is of another module.
    pub fn unregister(
        &self,
        name: &str,
        module: &str,
    ) -> Result<impl Future<Output = ()> + use<>, BdevError> {
        let entry = self.find(name)?;
        if entry.bdev.module() != module {
            return Err(BdevError::NotFound { name: name.to_owned() });
        }
        let seq = self.0.state.borrow().names.get(&entry.name).copied();
        let seq = seq.ok_or_else(|| BdevError::NotFound { name: name.to_owned() })?;
        Ok(Registration { registry: Rc::downgrade(&self.0), entry, seq }.unregister())
    }

    /// Adds a module that examines bdevs.
    pub fn add_examiner(&self, examiner: Rc<dyn Examiner>) {
        self.0.state.borrow_mut().examiners.push(examiner);
    }

    /// Whether new bdevs are examined without being asked (`bdev_set_options`).
    pub fn is_auto_examine(&self) -> bool {
        self.0.auto_examine.get()
    }

    /// `bdev_set_options`: whether new bdevs are examined at once.
    pub fn set_auto_examine(&self, on: bool) {
        self.0.auto_examine.set(on);
    }

    /// `bdev_examine`: examines a bdev now, or as soon as one of that name appears.
    ///
    /// # Errors
    /// [`BdevError::Invalid`] while automatic examine is on, [`BdevError::Exists`] if it was asked for before.
    pub fn examine(&self, name: &str) -> Result<(), BdevError> {
        if self.0.auto_examine.get() {
            return Err(BdevError::Invalid {
                field: "name",
                value: name.to_owned(),
                allowed: "manual examine needs bdev_auto_examine false",
            });
        }
        if !self.0.state.borrow_mut().examine_allowed.insert(name.to_owned()) {
            return Err(BdevError::Exists { name: name.to_owned() });
        }
        if let Ok(entry) = self.find(name) {
            self.spawn_examine(entry.name.clone());
        }
        Ok(())
    }

    fn spawn_examine(&self, name: String) {
        let examiners = self.0.state.borrow().examiners.clone();
        if examiners.is_empty() {
            return;
        }
        self.0.examining.set(self.0.examining.get() + 1);
        let registry = self.clone();
        tokio::task::spawn_local(async move {
            for examiner in examiners {
                examiner.examine(registry.clone(), name.clone()).await;
            }
            let left = registry.0.examining.get() - 1;
            registry.0.examining.set(left);
            if left == 0 {
                registry.0.examined.notify_waiters();
            }
        });
    }

    /// `bdev_wait_for_examine`: resolves when no examination is under way.
    pub async fn wait_for_examine(&self) {
        while self.0.examining.get() > 0 {
            self.0.examined.notified().await;
        }
    }
}

fn info(e: &Rc<Entry>) -> BdevInfo {
    use super::IoType;
    let all = [
        IoType::Read,
        IoType::Write,
        IoType::Unmap,
        IoType::Flush,
        IoType::Reset,
        IoType::WriteZeroes,
        IoType::Compare,
        IoType::CompareAndWrite,
        IoType::Abort,
    ];
    BdevInfo {
        name: e.name.clone(),
        aliases: e.aliases.borrow().clone(),
        product_name: e.bdev.product_name(),
        module: e.bdev.module(),
        block_size: e.bdev.block_size(),
        num_blocks: e.bdev.num_blocks(),
        uuid: e.bdev.uuid(),
        claim: e.claim.borrow().as_ref().map(|c| (c.kind, c.module)),
        open: e.holders.borrow().len(),
        limits: e.throttle.limits(),
        driver_specific: e.bdev.driver_specific(),
        supported: all.into_iter().filter(|t| e.bdev.supports(*t)).collect(),
    }
}

impl Registration {
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Whether some descriptor other than for reading, or a claim, is on it.
    pub fn is_open_for_write(&self) -> bool {
        self.entry.writers.get() > 0 || self.entry.claim.borrow().is_some()
    }

    /// Whether it is open, or I/O is in flight on it.
    pub fn is_busy(&self) -> bool {
        !self.entry.is_idle()
    }

    /// Open descriptors.
    pub fn open_count(&self) -> usize {
        self.entry.holders.borrow().len()
    }

    /// Tells the holders that `num_blocks` changed.
    pub fn notify_resize(&self) {
        self.entry.notify(BdevEvent::Resized);
    }

    /// Replaces one alias by another (a rename).
    ///
    /// # Errors
    /// [`BdevError::Exists`] if the new one is taken.
    pub fn replace_alias(&self, old: &str, new: &str) -> Result<(), BdevError> {
        let Some(inner) = self.registry.upgrade() else { return Ok(()) };
        let mut state = inner.state.borrow_mut();
        if old == new {
            return Ok(());
        }
        if state.names.contains_key(new) {
            return Err(BdevError::Exists { name: new.to_owned() });
        }
        state.names.remove(old);
        state.names.insert(new.to_owned(), self.seq);
        for alias in self.entry.aliases.borrow_mut().iter_mut().filter(|a| *a == old) {
            new.clone_into(alias);
        }
        Ok(())
    }

    /// Removes the bdev, see [`Registry::unregister`]. Calling it again waits for the same removal.
    pub fn unregister(&self) -> impl Future<Output = ()> + use<> {
        let (done, finished) = tokio::sync::oneshot::channel();
        let first = !self.entry.removing.replace(true);
        let (registry, entry, seq) = (self.registry.clone(), Rc::clone(&self.entry), self.seq);
        if first {
            entry.notify(BdevEvent::Removed);
        }
        tokio::task::spawn_local(async move {
            if first {
                remove(registry, &entry, seq).await;
            } else {
                while is_listed(&registry, seq) {
                    entry.quiesced.notified().await;
                }
            }
            let _ = done.send(());
        });
        async move {
            // An error means that the reactor is shutting down.
            let _ = finished.await;
        }
    }
}

fn is_listed(registry: &Weak<Inner>, seq: u64) -> bool {
    registry.upgrade().is_some_and(|inner| inner.state.borrow().entries.contains_key(&seq))
}

async fn remove(registry: Weak<Inner>, entry: &Rc<Entry>, seq: u64) {
    while !entry.is_idle() {
        entry.quiesced.notified().await;
    }
    entry.bdev.destruct().await;
    if let Some(inner) = registry.upgrade() {
        let mut state = inner.state.borrow_mut();
        let state = &mut *state;
        let allowed = &mut state.examine_allowed;
        state.names.retain(|name, s| {
            let keep = *s != seq;
            if !keep {
                allowed.remove(name);
            }
            keep
        });
        state.entries.remove(&seq);
    }
    entry.quiesced.notify_waiters();
    tracing::debug!(bdev = %entry.name, "bdev removed");
}
