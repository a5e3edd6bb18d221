//! The metadata I/O of one lvstore: load, journal with group commit, checkpoints, and the reserve of zeroed clusters.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::LvolError;
use super::alloc::Allocator;
use super::codec::{self, DecodeError};
use super::layout::{Layout, PAGE};
use super::state::{LvolId, Record, State};
use crate::bdev::{Descriptor, IoError, Registration};

/// Bytes zeroed together ahead of allocation.
const ZERO_AHEAD: u64 = 32 << 20;
/// The most clusters zeroed together.
const ZERO_AHEAD_CLUSTERS: u64 = 64;
/// Records that share a journal write at most.
const BATCH: usize = 1024;

struct Pending {
    record: Record,
    /// Answer only when it is durable.
    sync: bool,
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
    zeroing: Cell<bool>,
    zeroed: Notify,
    /// A freed cluster may have come to rest.
    pub(super) at_rest: Notify,
    /// Parts of lvols that are being mapped.
    pub(super) mapping: RefCell<BTreeSet<(LvolId, u64)>>,
    pub(super) mapped: Notify,
    /// One change of names and sizes at a time.
    pub(super) admin: std::sync::Arc<tokio::sync::Mutex<()>>,
    pub(super) volumes: RefCell<BTreeMap<LvolId, Registration>>,
}

fn bytes_of(pages: u32) -> BytesMut {
    BytesMut::zeroed(pages as usize * PAGE as usize)
}

/// Reads the superblock; `None` if there is no lvstore.
///
/// # Errors
/// I/O errors, and [`LvolError::Format`] for an lvstore that this version can not open.
pub(super) async fn read_super(base: &Descriptor) -> Result<Option<(Uuid, Layout)>, LvolError> {
    let block_size = u64::from(base.block_size());
    if !PAGE.is_multiple_of(block_size) || base.num_blocks() < 2 * PAGE / block_size {
        return Ok(None);
    }
    let pages = base.read(0, bytes_of(2)).await?;
    let mut damage = None;
    for page in pages.chunks(PAGE as usize) {
        match codec::decode_super(page) {
            Ok((uuid, layout)) if u64::from(layout.block_size) == block_size => {
                return Ok(Some((uuid, layout)));
            }
            Ok(_) => damage = Some("made with another block size"),
            // A torn superblock is that of an lvstore whose creation was never acknowledged.
            Err(DecodeError::NotOurs | DecodeError::Checksum) => {}
            Err(DecodeError::Malformed(why)) => damage = Some(why),
        }
    }
    damage.map_or(Ok(None), |why| Err(LvolError::Format(why)))
}

/// Makes an empty lvstore on `base`. The superblock is written last: half of a creation is no lvstore.
///
/// # Errors
/// I/O errors.
pub(super) async fn format(
    base: &Descriptor,
    uuid: Uuid,
    layout: Layout,
    name: &str,
) -> Result<State, LvolError> {
    wipe(base).await?;
    let state = State::new(name.to_owned(), layout.data_clusters(base.num_blocks()));
    let checkpoint = codec::encode_checkpoint(uuid, 1, &state);
    base.write(layout.page_lba(layout.checkpoint_page(1)), Bytes::from(checkpoint), false).await?;
    base.flush().await?;
    let page = codec::encode_super(uuid, &layout);
    base.write(0, Bytes::from([page.as_slice(), page.as_slice()].concat()), false).await?;
    base.flush().await?;
    Ok(state)
}

/// Makes `base` hold no lvstore.
///
/// # Errors
/// I/O errors.
pub(super) async fn wipe(base: &Descriptor) -> Result<(), LvolError> {
    base.write(0, bytes_of(2).freeze(), false).await?;
    base.flush().await?;
    Ok(())
}

async fn read_checkpoint(base: &Descriptor, uuid: Uuid, layout: &Layout) -> Result<(u64, State), LvolError> {
    let mut headers = Vec::new();
    for slot in [0, 1] {
        let page = layout.checkpoint_page(slot);
        let bytes = base.read(layout.page_lba(page), bytes_of(1)).await?;
        match codec::decode_checkpoint_header(&bytes, uuid) {
            Ok(header) if header.generation % 2 == slot => headers.push((header, page + 1)),
            Ok(_) => return Err(LvolError::Format("a checkpoint is in the wrong slot")),
            Err(_) => {}
        }
    }
    headers.sort_by_key(|(header, _)| std::cmp::Reverse(header.generation));
    for (header, page) in headers {
        let pages = header.body_len.div_ceil(PAGE);
        if pages >= u64::from(layout.checkpoint_pages) {
            continue;
        }
        let body = bytes_of(u32::try_from(pages).unwrap_or(u32::MAX));
        let body = base.read(layout.page_lba(page), body).await?;
        match codec::decode_checkpoint_body(&header, &body) {
            Ok(state) => {
                check_is_newest(base, uuid, layout, header.generation).await?;
                return Ok((header.generation, state));
            }
            // Half-written: the other one, with its journal, is current.
            Err(DecodeError::Checksum | DecodeError::NotOurs) => {}
            Err(DecodeError::Malformed(why)) => return Err(LvolError::Format(why)),
        }
    }
    Err(LvolError::Format("no checkpoint is intact"))
}

/// Refuses to go back in time: if the journal of the next generation was begun, its checkpoint had been written completely and
/// was damaged since.
async fn check_is_newest(
    base: &Descriptor,
    uuid: Uuid,
    layout: &Layout,
    generation: u64,
) -> Result<(), LvolError> {
    let next = generation + 1;
    let page = base.read(layout.page_lba(layout.journal_page(next)), bytes_of(1)).await?;
    match codec::decode_journal_page(&page, uuid, next, 0) {
        Err(DecodeError::NotOurs | DecodeError::Checksum) => Ok(()),
        Ok(_) | Err(DecodeError::Malformed(_)) => Err(LvolError::Format("the newest checkpoint is damaged")),
    }
}

async fn replay(
    base: &Descriptor,
    uuid: Uuid,
    layout: &Layout,
    generation: u64,
    state: &mut State,
) -> Result<u32, LvolError> {
    let start = layout.page_lba(layout.journal_page(generation));
    let journal = base.read(start, bytes_of(layout.journal_pages)).await?;
    for (n, page) in (0u32..).zip(journal.chunks(PAGE as usize)) {
        match codec::decode_journal_page(page, uuid, generation, n) {
            Ok(records) => {
                for record in &records {
                    state.apply(record).map_err(|e| LvolError::Format(e.0))?;
                }
            }
            Err(DecodeError::NotOurs | DecodeError::Checksum) => return Ok(n),
            Err(DecodeError::Malformed(why)) => return Err(LvolError::Format(why)),
        }
    }
    Ok(layout.journal_pages)
}

impl Store {
    /// Loads what `format` made and records changed since. Writes nothing.
    ///
    /// # Errors
    /// I/O errors, and [`LvolError::Format`] for damage.
    pub(super) async fn load(base: Descriptor, uuid: Uuid, layout: Layout) -> Result<Rc<Self>, LvolError> {
        let (generation, mut state) = read_checkpoint(&base, uuid, &layout).await?;
        let page = replay(&base, uuid, &layout, generation, &mut state).await?;
        if state.clusters > layout.data_clusters(base.num_blocks()) {
            return Err(LvolError::Format("the device is smaller than its lvstore"));
        }
        let used = state.used().map_err(|e| LvolError::Format(e.0))?;
        let position = Position { generation, page, stale: true };
        tracing::debug!(lvstore = %state.name, generation, page, lvols = state.lvols.len(), "lvstore loaded");
        Ok(Rc::new(Self {
            uuid,
            layout,
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
            at_rest: Notify::new(),
            mapping: RefCell::new(BTreeSet::new()),
            mapped: Notify::new(),
            admin: std::sync::Arc::default(),
            volumes: RefCell::new(BTreeMap::new()),
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

    /// Whether the journal holds records that a power cut could still take.
    pub(super) fn has_volatile_records(&self) -> bool {
        self.written.get() > self.durable.get()
    }

    /// Makes data and metadata durable that was acknowledged before.
    pub(super) async fn flush(&self) -> Result<(), IoError> {
        let written = self.written.get();
        self.on_base(Descriptor::flush)?.await?;
        self.now_durable(written);
        Ok(())
    }

    fn now_durable(&self, written: u64) {
        self.durable.set(self.durable.get().max(written));
        self.alloc.borrow_mut().promote(self.durable.get());
    }

    /// Makes a change; with `sync` it is durable when this resolves.
    pub(super) async fn commit(self: &Rc<Self>, record: Record, sync: bool) -> Result<(), IoError> {
        if let Some(e) = self.failed.get() {
            return Err(e);
        }
        let (done, outcome) = oneshot::channel();
        let lead = {
            let mut lane = self.lane.borrow_mut();
            lane.queue.push_back(Pending { record, sync, done });
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
        while let Some(pending) = lane.queue.pop_front() {
            let is_mapping = matches!(pending.record, Record::Map { .. } | Record::Unmap { .. });
            if !is_mapping && !batch.is_empty() {
                lane.queue.push_front(pending);
                break;
            }
            if self.is_late(&pending.record) {
                let _ = pending.done.send(Err(IoError::InvalidRange));
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

    /// Whether what a record is about was deleted or cut off before its turn came.
    fn is_late(&self, record: &Record) -> bool {
        let state = self.state.borrow();
        match record {
            Record::Map { id, index, .. } => state.lvols.get(id).is_none_or(|l| *index >= l.clusters),
            Record::Unmap { id, .. } => !state.lvols.contains_key(id),
            _ => false,
        }
    }

    async fn write_batch(&self, batch: &[Pending]) -> Result<(), IoError> {
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
        if batch.iter().any(|p| p.sync) {
            self.flush().await?;
        }
        Ok(())
    }

    fn encode(&self, batch: &[Pending], at: Position) -> Vec<u8> {
        codec::encode_journal(self.uuid, at.generation, at.page, batch.iter().map(|p| &p.record))
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
    async fn checkpoint(&self, generation: u64) -> Result<Position, IoError> {
        let written = self.written.get();
        let bytes = codec::encode_checkpoint(self.uuid, generation, &self.state.borrow());
        if bytes.len() as u64 > u64::from(self.layout.checkpoint_pages) * PAGE {
            return Err(IoError::Corrupt("the checkpoint does not fit its slot"));
        }
        // What the checkpoint refers to must not be younger on the disk than the checkpoint.
        let lba = self.layout.page_lba(self.layout.checkpoint_page(generation));
        self.on_base(|base| base.write(lba, Bytes::from(bytes), false))?.await?;
        self.on_base(Descriptor::flush)?.await?;
        self.now_durable(written);
        let position = Position { generation, page: 0, stale: false };
        self.position.set(position);
        Ok(position)
    }

    fn zero_ahead(&self) -> usize {
        let clusters = ZERO_AHEAD / u64::from(self.layout.cluster_size);
        // A small store keeps little back.
        let share = u64::from(self.state.borrow().clusters) / 16;
        clusters.min(share).clamp(1, ZERO_AHEAD_CLUSTERS) as usize
    }

    /// Takes a cluster that durably reads as zeros, zeroing more if there is none.
    pub(super) async fn take_zeroed(self: &Rc<Self>) -> Result<u32, IoError> {
        loop {
            let (cluster, left) = {
                let mut alloc = self.alloc.borrow_mut();
                (alloc.pop_zeroed(), alloc.zeroed())
            };
            if let Some(cluster) = cluster {
                if left < self.zero_ahead() / 2 && !self.zeroing.replace(true) {
                    let store = Rc::clone(self);
                    tokio::task::spawn_local(async move {
                        // Who needs a cluster finds out by itself why there is none.
                        let _ = store.zero_some(false).await;
                    });
                }
                return Ok(cluster);
            }
            if self.zeroing.replace(true) {
                self.zeroed.notified().await;
            } else {
                self.zero_some(true).await?;
            }
        }
    }

    async fn zero_some(&self, needed: bool) -> Result<(), IoError> {
        let result = self.zero_clusters(needed).await;
        self.zeroing.set(false);
        self.zeroed.notify_waiters();
        result
    }

    async fn zero_clusters(&self, needed: bool) -> Result<(), IoError> {
        let clusters = self.find_free(needed).await?;
        if clusters.is_empty() {
            return Ok(());
        }
        let result = self.zero_runs(&clusters).await;
        let mut alloc = self.alloc.borrow_mut();
        match result {
            Ok(()) => alloc.push_zeroed(clusters),
            Err(_) => alloc.untake(&clusters),
        }
        result
    }

    async fn find_free(&self, needed: bool) -> Result<Vec<u32>, IoError> {
        loop {
            let clusters = self.alloc.borrow_mut().take_free(self.zero_ahead());
            if !clusters.is_empty() || !needed {
                return Ok(clusters);
            }
            if !self.alloc.borrow().has_freed() {
                return Err(IoError::NoSpace);
            }
            let at_rest = self.at_rest.notified();
            self.flush().await?;
            let clusters = self.alloc.borrow_mut().take_free(self.zero_ahead());
            if !clusters.is_empty() {
                return Ok(clusters);
            }
            if self.has_volatile_records() {
                continue;
            }
            // Everything that is freed has I/O of its old owner on it.
            at_rest.await;
        }
    }

    async fn zero_runs(&self, clusters: &[u32]) -> Result<(), IoError> {
        let per_cluster = self.layout.blocks_per_cluster();
        let mut writes = Vec::new();
        for run in clusters.chunk_by(|a, b| a + 1 == *b) {
            let lba = self.layout.cluster_lba(run[0]);
            let blocks = run.len() as u64 * per_cluster;
            writes.push(self.on_base(|base| base.write_zeroes(lba, blocks, false))?);
        }
        futures::future::join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
        self.flush().await
    }
}
