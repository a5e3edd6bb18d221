//! The names of bdevs, who holds them, and what happens to the holders when a bdev grows or goes away.

mod examine;
mod measure;
mod removal;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

pub use examine::Examiner;
pub use removal::Registration;

use super::atomic::Atomic;
use super::descriptor::{Claim, ClaimType, Descriptor};
use super::qos::{QosLimits, Throttle};
use super::stats::StatCells;
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

/// The events of one [`Descriptor`], in order. A holder that is behind hears of several resizes at once: it looks at the size anyway.
pub type Events = mpsc::Receiver<BdevEvent>;

/// Events that wait for a holder: a resize that it has not begun to look at, and the removal.
const EVENTS: usize = 2;

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
    pub(super) holders: RefCell<BTreeMap<u64, mpsc::Sender<BdevEvent>>>,
    pub(super) writers: Cell<usize>,
    pub(super) claim: RefCell<Option<Claim>>,
    pub(super) stats: StatCells,
    pub(super) throttle: Throttle,
    pub(super) atomic: Atomic,
    /// Signalled whenever a descriptor closes or an I/O ends while removing.
    pub(super) quiesced: Notify,
    /// Where I/O goes whose caller has dropped it. Its length is bounded by `orphaned`.
    pub(super) orphans: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
    /// I/O whose caller has dropped it, and that has not ended.
    pub(super) orphaned: Cell<usize>,
    pub(super) orphan_gone: Notify,
}

impl Entry {
    fn notify(&self, event: BdevEvent) {
        for holder in self.holders.borrow().values() {
            // The last place is for the removal. A resize that finds no other is already announced.
            if event == BdevEvent::Removed || holder.capacity() > 1 {
                // A holder that closes its event stream first is on its way to close the descriptor.
                let _ = holder.try_send(event);
            }
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
    next_unnamed: Cell<u64>,
    orphans: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
}

/// All bdevs of the process. Cloning gives another handle to the same registry.
#[derive(Clone)]
pub struct Registry(Rc<Inner>);

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
            next_unnamed: Cell::new(0),
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
            atomic: Atomic::default(),
            holders: RefCell::new(BTreeMap::new()),
            writers: Cell::new(0),
            claim: RefCell::new(None),
            stats: StatCells::default(),
            throttle: Throttle::default(),
            quiesced: Notify::new(),
            orphans: self.0.orphans.clone(),
            orphaned: Cell::new(0),
            orphan_gone: Notify::new(),
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
        let (sender, events) = mpsc::channel(EVENTS);
        entry.holders.borrow_mut().insert(id, sender);
        Ok((Descriptor::new(entry, id, write), events))
    }

    /// A number for the name of a bdev that was given none; none comes twice.
    pub(super) fn next_unnamed(&self) -> u64 {
        let number = self.0.next_unnamed.get();
        self.0.next_unnamed.set(number + 1);
        number
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
