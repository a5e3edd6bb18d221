//! A loaded lvstore, and how its metadata changes: a journal with group commit, and checkpoints.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};
use uuid::Uuid;

use super::LvolError;
use super::alloc::Allocator;
use super::codec;
use super::esnap::Esnap;
use super::gate::Gate;
use super::journal;
use super::layout::{Layout, PAGE};
use super::load::{self, Super};
use super::state::{LvolId, Record, State};
use crate::bdev::{Descriptor, IoError, Registration};
use crate::page;

/// Records that share a journal write at most.
const BATCH: usize = 1024;
/// Clusters that are copied at a time.
const COPIES: usize = 8;

/// When a record may be written, and when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Any time.
    Plain,
    /// Answered only when it is durable.
    Durable,
    /// Written only when all data written before is durable.
    AfterData,
}

struct Pending {
    record: Record,
    order: Order,
    done: oneshot::Sender<Result<(), IoError>>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Pending>,
    /// A task is writing what is queued.
    led: bool,
}

/// Where the next journal page goes.
#[derive(Clone, Copy, Debug)]
struct Position {
    generation: u64,
    page: u32,
    /// A checkpoint has to be written before the journal goes on: after a load its tail may be followed by pages of writes that
    /// were never acknowledged, and a record written before those would make them valid.
    stale: bool,
}

/// A loaded lvstore.
pub(super) struct Store {
    pub(super) uuid: Uuid,
    pub(super) layout: Layout,
    features: Cell<u64>,
    pub(super) state: RefCell<State>,
    pub(super) alloc: RefCell<Allocator>,
    /// Gone when the base bdev is.
    base: RefCell<Option<Descriptor>>,
    base_name: String,
    lane: RefCell<Lane>,
    position: Cell<Position>,
    /// Number of the last journal write, and of the last one known to be durable.
    written: Cell<u64>,
    durable: Cell<u64>,
    /// A metadata write failed: what is on the disk is not known any more, so nothing may change until the next load.
    failed: Cell<Option<IoError>>,
    pub(super) zeroing: Cell<bool>,
    pub(super) zeroed: Notify,
    pub(super) clearing: Cell<bool>,
    /// A freed cluster may have come to rest, or is clear.
    pub(super) at_rest: Notify,
    /// Parts of lvols that are being mapped.
    pub(super) mapping: RefCell<BTreeSet<(LvolId, u64)>>,
    pub(super) mapped: Notify,
    /// Ranges of lvols that are being taken away.
    pub(super) unmapping: RefCell<Vec<(LvolId, std::ops::Range<u64>)>>,
    pub(super) copies: Semaphore,
    /// One change of names and sizes at a time.
    pub(super) admin: std::sync::Arc<tokio::sync::Mutex<()>>,
    /// Lvols on which something long is under way.
    pub(super) busy: RefCell<BTreeSet<LvolId>>,
    pub(super) volumes: RefCell<BTreeMap<LvolId, Registration>>,
    pub(super) gates: RefCell<BTreeMap<LvolId, Rc<Gate>>>,
    /// External snapshots that are there.
    pub(super) esnaps: RefCell<BTreeMap<Uuid, Rc<Esnap>>>,
}

/// What is left for the records of a batch.
struct Room {
    clusters: u64,
    holes: u64,
}

impl Store {
    /// Loads what [`load::format`] made and records changed since. Writes nothing.
    ///
    /// # Errors
    /// I/O errors, and [`LvolError::Format`] for damage.
    pub(super) async fn load(base: Descriptor, sb: Super) -> Result<Rc<Self>, LvolError> {
        let Super { uuid, features, layout } = sb;
        let loaded = load::read_state(&base, uuid, &layout).await?;
        let (state, generation, page) = (loaded.state, loaded.generation, loaded.pages);
        let used = state.used().map_err(|e| LvolError::Format(e.0))?;
        let position = Position { generation, page, stale: true };
        tracing::debug!(lvstore = %state.name, generation, page, lvols = state.lvols.len(), "lvstore loaded");
        Ok(Rc::new(Self {
            uuid,
            layout,
            features: Cell::new(features),
            state: RefCell::new(state),
            alloc: RefCell::new(Allocator::new(used)),
            base_name: base.name().to_owned(),
            base: RefCell::new(Some(base)),
            lane: RefCell::new(Lane::default()),
            position: Cell::new(position),
            written: Cell::new(0),
            durable: Cell::new(0),
            failed: Cell::new(None),
            zeroing: Cell::new(false),
            zeroed: Notify::new(),
            clearing: Cell::new(false),
            at_rest: Notify::new(),
            mapping: RefCell::new(BTreeSet::new()),
            mapped: Notify::new(),
            unmapping: RefCell::new(Vec::new()),
            copies: Semaphore::new(COPIES),
            admin: std::sync::Arc::default(),
            busy: RefCell::new(BTreeSet::new()),
            volumes: RefCell::new(BTreeMap::new()),
            gates: RefCell::new(BTreeMap::new()),
            esnaps: RefCell::new(BTreeMap::new()),
        }))
    }

    /// Name of the base bdev.
    pub(super) fn base_name(&self) -> &str {
        &self.base_name
    }

    /// Begins something on the base bdev.
    ///
    /// # Errors
    /// [`IoError::Removed`] if it is gone.
    pub(super) fn on_base<T>(&self, begin: impl FnOnce(&Descriptor) -> T) -> Result<T, IoError> {
        self.base.borrow().as_ref().map(begin).ok_or(IoError::Removed)
    }

    /// Lets go of the base bdev.
    pub(super) fn close(&self) -> Option<Descriptor> {
        self.base.replace(None)
    }

    /// The gate of an lvol.
    pub(super) fn gate(&self, id: LvolId) -> Rc<Gate> {
        Rc::clone(self.gates.borrow_mut().entry(id).or_default())
    }

    /// Whether the journal holds records that a power cut could still take.
    pub(super) fn has_volatile_records(&self) -> bool {
        self.written.get() > self.durable.get()
    }

    /// Makes data and metadata durable that was acknowledged before.
    pub(super) async fn flush(self: &Rc<Self>) -> Result<(), IoError> {
        let written = self.written.get();
        self.on_base(Descriptor::flush)?.await?;
        self.now_durable(written);
        Ok(())
    }

    fn now_durable(self: &Rc<Self>, written: u64) {
        self.durable.set(self.durable.get().max(written));
        let has_unclear = self.alloc.borrow_mut().promote(self.durable.get());
        if has_unclear {
            self.clear_freed();
        }
    }

    /// Makes a change.
    pub(super) async fn commit(self: &Rc<Self>, record: Record, order: Order) -> Result<(), IoError> {
        if let Some(e) = self.failed.get() {
            return Err(e);
        }
        let (done, outcome) = oneshot::channel();
        let lead = {
            let mut lane = self.lane.borrow_mut();
            lane.queue.push_back(Pending { record, order, done });
            !std::mem::replace(&mut lane.led, true)
        };
        if lead {
            tokio::task::spawn_local(Rc::clone(self).lead());
        }
        outcome.await.unwrap_or(Err(IoError::Aborted))
    }

    /// Writes what is queued, in order, as long as there is something.
    async fn lead(self: Rc<Self>) {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                return;
            }
            let result = match self.failed.get() {
                Some(e) => Err(e),
                None => self.write_batch(&batch).await,
            };
            if let Err(e) = result
                && self.failed.replace(Some(e)).is_none()
            {
                tracing::error!(lvstore = %self.state.borrow().name, error = %e, "metadata write failed: no changes until the next load");
            }
            for pending in batch {
                // Whoever asked may be gone.
                let _ = pending.done.send(result);
            }
        }
    }

    /// The next records to write together. A change of lvols travels alone, so that the others can be checked against the state.
    fn next_batch(&self) -> Vec<Pending> {
        let mut lane = self.lane.borrow_mut();
        let mut batch = Vec::new();
        let mut room = self.room();
        while let Some(pending) = lane.queue.pop_front() {
            let is_mapping = pending.record.is_mapping();
            if !is_mapping && !batch.is_empty() {
                lane.queue.push_front(pending);
                break;
            }
            if let Some(refusal) = self.refusal(&pending.record, &mut room) {
                let _ = pending.done.send(Err(refusal));
                continue;
            }
            batch.push(pending);
            if !is_mapping || batch.len() == BATCH {
                break;
            }
        }
        lane.led = !batch.is_empty();
        batch
    }

    fn room(&self) -> Room {
        let state = self.state.borrow();
        let reserved = state.hole_runs() + 2 * u64::from(state.clusters);
        Room { clusters: state.free_clusters(), holes: self.layout.max_extents().saturating_sub(reserved) }
    }

    /// Why a record can not be written any more: what it is about was deleted or cut off before its turn came, or others took the
    /// last free cluster. Decided here because here nothing changes before it is written.
    fn refusal(&self, record: &Record, room: &mut Room) -> Option<IoError> {
        let state = self.state.borrow();
        let lvol = |id| state.lvols.get(id);
        let mut take = |clusters: u64| match room.clusters.checked_sub(clusters) {
            Some(left) => {
                room.clusters = left;
                None
            }
            None => Some(IoError::NoSpace),
        };
        if room.holes == 0 && state.adds_holes(record) {
            return Some(IoError::NoSpace);
        }
        match record {
            Record::Map { id, index, .. } => match lvol(id) {
                Some(lvol) if *index < lvol.clusters => {
                    // A thick lvol has its own already.
                    if lvol.reserved { None } else { take(1) }
                }
                _ => Some(IoError::InvalidRange),
            },
            Record::Unmap { id, .. } => match lvol(id) {
                None => Some(IoError::InvalidRange),
                Some(_) if !state.has_parent(*id) => None,
                Some(_) if room.holes == 0 => Some(IoError::NoSpace),
                Some(_) => {
                    room.holes -= 1;
                    None
                }
            },
            Record::Create { thin: false, clusters, .. } => take(*clusters),
            Record::Resize { id, clusters } => match lvol(id) {
                Some(lvol) if lvol.reserved => take(clusters.saturating_sub(lvol.clusters)),
                _ => None,
            },
            Record::Inflated { id } if lvol(id).is_some_and(|l| !l.reserved) => take(state.missing(*id)),
            _ => None,
        }
    }

    async fn write_batch(self: &Rc<Self>, batch: &[Pending]) -> Result<(), IoError> {
        if batch.iter().any(|p| p.record.needs_clones()) {
            self.add_feature(codec::FEATURE_CLONES).await?;
        }
        if batch.iter().any(|p| p.order == Order::AfterData) {
            self.flush().await?;
        }
        let mut at = self.position.get();
        let mut pages = self.encode(batch, at);
        if at.stale || u64::from(at.page) + pages.len() as u64 / PAGE > u64::from(self.layout.journal_pages) {
            at = self.checkpoint(at.generation + 1).await?;
            pages = self.encode(batch, at);
        }
        let count = (pages.len() as u64 / PAGE) as u32;
        let lba = self.layout.page_lba(self.layout.journal_page(at.generation) + u64::from(at.page));
        self.on_base(|base| base.write(lba, Bytes::from(pages), false))?.await?;
        self.position.set(Position { page: at.page + count, ..at });
        self.apply(batch)?;
        if batch.iter().any(|p| p.order == Order::Durable) {
            self.flush().await?;
        }
        Ok(())
    }

    /// Notes in the superblock that older versions must not open the lvstore any more: one copy after the other, so that one is
    /// intact at any time.
    async fn add_feature(&self, feature: u64) -> Result<(), IoError> {
        let features = self.features.get() | feature;
        if features == self.features.get() {
            return Ok(());
        }
        let page = Bytes::from(codec::encode_super(self.uuid, features, &self.layout));
        for copy in [0, 1] {
            let lba = self.layout.page_lba(copy);
            self.on_base(|base| base.write(lba, page.clone(), false))?.await?;
            self.on_base(Descriptor::flush)?.await?;
        }
        self.features.set(features);
        Ok(())
    }

    fn encode(&self, batch: &[Pending], at: Position) -> Vec<u8> {
        journal::encode_journal(self.uuid, at.generation, at.page, batch.iter().map(|p| &p.record))
    }

    fn apply(&self, batch: &[Pending]) -> Result<(), IoError> {
        let seq = self.written.get() + 1;
        self.written.set(seq);
        let (mut state, mut alloc) = (self.state.borrow_mut(), self.alloc.borrow_mut());
        for pending in batch {
            let freed = state.apply(&pending.record).map_err(|e| IoError::Corrupt(e.0))?;
            alloc.free_after(seq, freed);
        }
        alloc.grow(state.clusters);
        Ok(())
    }

    /// Writes the whole state into the other slot and starts its journal. Until the flush is through, the old slot with the old
    /// journal is what a load finds.
    async fn checkpoint(self: &Rc<Self>, generation: u64) -> Result<Position, IoError> {
        let written = self.written.get();
        let bytes = codec::encode_checkpoint(self.uuid, generation, &self.state.borrow());
        if bytes.len() as u64 > u64::from(self.layout.checkpoint_pages) * PAGE {
            return Err(IoError::Corrupt("the checkpoint does not fit its slot"));
        }
        let lba = self.layout.page_lba(self.layout.checkpoint_page(generation));
        let bytes = page::copied(&bytes).freeze();
        self.on_base(|base| base.write(lba, bytes, false))?.await?;
        self.on_base(Descriptor::flush)?.await?;
        self.now_durable(written);
        let position = Position { generation, page: 0, stale: false };
        self.position.set(position);
        Ok(position)
    }
}
