//! An lvol as a bdev: translation of blocks to clusters.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::copy::{Change, Mapping, Unmapping};
use super::gate::{self, Gate};
use super::map::Entry;
use super::state::{Lvol, LvolId, Place, Record};
use super::store::{Order, Store};
use crate::bdev::{Bdev, IoError, IoFuture, IoType};

/// Module name of lvols.
pub(super) const MODULE: &str = "lvol";

/// The bdev of an lvol.
pub(super) struct Volume {
    pub(super) store: Rc<Store>,
    pub(super) id: LvolId,
    pub(super) uuid: Uuid,
    pub(super) gate: Rc<Gate>,
}

/// Keeps data clusters from being used again while I/O of their owner is on them.
pub(super) struct OnClusters {
    store: Rc<Store>,
    epoch: u64,
}

impl OnClusters {
    /// To be called before the clusters are looked up, or in the same breath.
    pub(super) fn begin(store: &Rc<Store>) -> Self {
        let epoch = store.alloc.borrow_mut().begin_io();
        Self { store: Rc::clone(store), epoch }
    }
}

impl Drop for OnClusters {
    fn drop(&mut self) {
        if self.store.alloc.borrow_mut().end_io(self.epoch) {
            self.store.at_rest.notify_waiters();
        }
    }
}

/// A range within one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) index: u64,
    /// First block within the cluster.
    pub(super) offset: u64,
    pub(super) blocks: u64,
}

/// Splits a range of blocks at cluster borders.
fn parts(lba: u64, blocks: u64, per_cluster: u64) -> impl Iterator<Item = Part> {
    let (mut at, end) = (lba, lba + blocks);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (index, offset) = (at / per_cluster, at % per_cluster);
        let blocks = (per_cluster - offset).min(end - at);
        at += blocks;
        Some(Part { index, offset, blocks })
    })
}

fn ready<T: 'static>(result: Result<T, IoError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

fn first_error(results: Vec<Result<(), IoError>>) -> Result<(), IoError> {
    results.into_iter().collect()
}

impl Store {
    fn place(&self, id: LvolId, index: u64) -> Result<Place, IoError> {
        self.state.borrow().place(id, index).ok_or(IoError::Removed)
    }

    fn lba(&self, cluster: u32, part: Part) -> u64 {
        self.layout.cluster_lba(cluster) + part.offset
    }

    /// Reads a part from where it is.
    pub(super) fn read_place(
        self: &Rc<Self>,
        place: Place,
        part: Part,
        mut buf: BytesMut,
    ) -> IoFuture<BytesMut> {
        match place {
            Place::Own(cluster) | Place::Inherited(cluster) => {
                let on = OnClusters::begin(self);
                let lba = self.lba(cluster, part);
                match self.on_base(|base| base.read(lba, buf)) {
                    Ok(read) => Box::pin(async move {
                        let result = read.await;
                        drop(on);
                        result
                    }),
                    Err(e) => ready(Err(e)),
                }
            }
            Place::External(uuid) => {
                let block = u64::from(self.layout.block_size);
                let offset = (part.index * self.layout.blocks_per_cluster() + part.offset) * block;
                match self.esnaps.borrow().get(&uuid) {
                    Some(esnap) => esnap.read(offset, buf),
                    None => ready(Err(IoError::Removed)),
                }
            }
            Place::Zeros => {
                buf.fill(0);
                ready(Ok(buf))
            }
        }
    }

    fn read_part(self: &Rc<Self>, id: LvolId, part: Part, buf: BytesMut) -> IoFuture<BytesMut> {
        match self.place(id, part.index) {
            Ok(place) => self.read_place(place, part, buf),
            Err(e) => ready(Err(e)),
        }
    }

    async fn write_part(
        self: Rc<Self>,
        id: LvolId,
        part: Part,
        data: Bytes,
        fua: bool,
    ) -> Result<(), IoError> {
        loop {
            let place = self.place(id, part.index)?;
            if let Place::Own(cluster) = place {
                return self.write_mapped(cluster, part, data, fua).await;
            }
            let mapped = self.mapped.notified();
            let Some(mapping) = Mapping::begin(&self, id, part.index) else {
                mapped.await;
                continue;
            };
            match place {
                Place::Zeros => self.write_over_zeros(&mapping, part, data).await?,
                _ => self.copy_on_write(&mapping, Change::Data(part, data)).await?,
            }
            return if fua { self.flush().await } else { Ok(()) };
        }
    }

    async fn write_mapped(
        self: &Rc<Self>,
        cluster: u32,
        part: Part,
        data: Bytes,
        fua: bool,
    ) -> Result<(), IoError> {
        let on = OnClusters::begin(self);
        let lba = self.lba(cluster, part);
        // The record that maps the cluster may be volatile still: then a flush, which covers both.
        let flush = fua && self.has_volatile_records();
        self.on_base(|base| base.write(lba, data, fua && !flush))?.await?;
        drop(on);
        if flush { self.flush().await } else { Ok(()) }
    }

    /// Makes a range read as zeros: takes whole clusters away from the lvol, and writes zeros where a range does not fill its cluster.
    async fn zero(self: &Rc<Self>, id: LvolId, lba: u64, blocks: u64) -> Result<(), IoError> {
        let per_cluster = self.layout.blocks_per_cluster();
        let (first, end) = (lba.div_ceil(per_cluster), (lba + blocks) / per_cluster);
        let mut ranges = Vec::new();
        if first < end {
            self.zero_whole(id, first..end).await?;
            let head = first * per_cluster - lba;
            let tail = lba + blocks - end * per_cluster;
            ranges.extend((head > 0).then_some((lba, head)));
            ranges.extend((tail > 0).then_some((end * per_cluster, tail)));
        } else {
            ranges.push((lba, blocks));
        }
        let pieces = ranges.into_iter().flat_map(|(lba, blocks)| parts(lba, blocks, per_cluster));
        first_error(join_all(pieces.map(|part| self.zero_part(id, part))).await)
    }

    /// Takes whole clusters away from an lvol.
    async fn zero_whole(self: &Rc<Self>, id: LvolId, range: std::ops::Range<u64>) -> Result<(), IoError> {
        let unmapping = Unmapping::begin(self, id, range.clone()).await;
        if !self.shows_something(id, range.clone())? {
            return Ok(());
        }
        let record = Record::Unmap { id, start: range.start, count: range.end - range.start };
        match self.commit(record, Order::Plain).await {
            // There is no room for more holes in the metadata, so zeros have to be stored.
            Err(IoError::NoSpace) => {}
            result => return result,
        }
        drop(unmapping);
        let per_cluster = self.layout.blocks_per_cluster();
        for index in range {
            self.zero_part(id, Part { index, offset: 0, blocks: per_cluster }).await?;
        }
        Ok(())
    }

    /// Whether something in a range is anything but zeros for certain.
    fn shows_something(&self, id: LvolId, range: std::ops::Range<u64>) -> Result<bool, IoError> {
        let state = self.state.borrow();
        let lvol = state.lvols.get(&id).ok_or(IoError::Removed)?;
        if !state.has_parent(id) {
            return Ok(
                lvol.map.mapped() > 0 && lvol.map.any(range.start, range.end, |e| e != Entry::Inherited)
            );
        }
        Ok(range.into_iter().any(|index| state.place(id, index) != Some(Place::Zeros)))
    }

    async fn zero_part(self: &Rc<Self>, id: LvolId, part: Part) -> Result<(), IoError> {
        loop {
            let place = self.place(id, part.index)?;
            match place {
                Place::Zeros => return Ok(()),
                Place::Own(cluster) => {
                    let on = OnClusters::begin(self);
                    let lba = self.lba(cluster, part);
                    self.on_base(|base| base.write_zeroes(lba, part.blocks, false))?.await?;
                    drop(on);
                    return Ok(());
                }
                Place::Inherited(_) | Place::External(_) => {}
            }
            let mapped = self.mapped.notified();
            let Some(mapping) = Mapping::begin(self, id, part.index) else {
                mapped.await;
                continue;
            };
            if part.blocks == self.layout.blocks_per_cluster() {
                return self.map_zeros(&mapping).await;
            }
            return self.copy_on_write(&mapping, Change::Zeros(part)).await;
        }
    }
}

impl Volume {
    fn with<T>(&self, f: impl FnOnce(&Lvol) -> T) -> Option<T> {
        self.store.state.borrow().lvols.get(&self.id).map(f)
    }

    fn per_cluster(&self) -> u64 {
        self.store.layout.blocks_per_cluster()
    }

    fn is_read_only(&self) -> bool {
        self.with(|l| l.read_only).unwrap_or(true)
    }

    fn part_bytes(&self, part: Part) -> usize {
        part.blocks as usize * self.store.layout.block_size as usize
    }

    /// Runs a change when the lvol is not frozen.
    fn gated(
        &self,
        entered: Option<gate::Change>,
        change: impl Future<Output = Result<(), IoError>> + 'static,
    ) -> IoFuture<()> {
        let (gate, store, id) = (Rc::clone(&self.gate), Rc::clone(&self.store), self.id);
        Box::pin(async move {
            let entered = match entered {
                Some(entered) => entered,
                None => {
                    let entered = gate.enter().await;
                    // What it waited for may have been that.
                    if store.state.borrow().lvols.get(&id).is_none_or(|l| l.read_only) {
                        return Err(IoError::WriteProtected);
                    }
                    entered
                }
            };
            let result = change.await;
            drop(entered);
            result
        })
    }

    /// A write to a cluster of the lvol's own, which is most of them.
    fn write_own(
        &self,
        part: Part,
        data: Bytes,
        entered: gate::Change,
    ) -> Result<IoFuture<()>, (Bytes, gate::Change)> {
        let Ok(Place::Own(cluster)) = self.store.place(self.id, part.index) else {
            return Err((data, entered));
        };
        let on = OnClusters::begin(&self.store);
        let lba = self.store.lba(cluster, part);
        match self.store.on_base(|base| base.write(lba, data, false)) {
            Ok(write) => Ok(Box::pin(async move {
                let result = write.await;
                drop((on, entered));
                result
            })),
            Err(e) => Ok(ready(Err(e))),
        }
    }

    fn zeroed(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        if self.is_read_only() {
            return ready(Err(IoError::WriteProtected));
        }
        let (store, id) = (Rc::clone(&self.store), self.id);
        self.gated(self.gate.try_enter(), async move {
            store.zero(id, lba, blocks).await?;
            if fua { store.flush().await } else { Ok(()) }
        })
    }
}

impl Bdev for Volume {
    fn product_name(&self) -> &'static str {
        "Logical Volume"
    }
    fn module(&self) -> &'static str {
        MODULE
    }
    fn block_size(&self) -> u32 {
        self.store.layout.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.with(|l| l.clusters).unwrap_or(0) * self.per_cluster()
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        match io {
            IoType::Read | IoType::Flush | IoType::Reset | IoType::Compare => true,
            IoType::Write | IoType::WriteZeroes | IoType::Unmap => !self.is_read_only(),
            IoType::CompareAndWrite | IoType::Abort => false,
        }
    }
    fn driver_specific(&self) -> Value {
        super::view::driver_specific(&self.store, self.id)
    }

    fn read(&self, lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let blocks = buf.len() as u64 / u64::from(self.block_size());
        let mut parts = parts(lba, blocks, self.per_cluster());
        let Some(first) = parts.next() else { return ready(Ok(buf)) };
        if first.blocks == blocks {
            return self.store.read_part(self.id, first, buf);
        }
        let mut reads = Vec::new();
        for part in std::iter::once(first).chain(parts) {
            let piece = buf.split_to(self.part_bytes(part));
            reads.push(self.store.read_part(self.id, part, piece));
        }
        Box::pin(async move {
            let mut whole = BytesMut::new();
            for piece in join_all(reads).await {
                whole.unsplit(piece?);
            }
            Ok(whole)
        })
    }

    fn write(&self, lba: u64, mut data: Bytes, fua: bool) -> IoFuture<()> {
        if self.is_read_only() {
            return ready(Err(IoError::WriteProtected));
        }
        let blocks = data.len() as u64 / u64::from(self.block_size());
        let mut parts = parts(lba, blocks, self.per_cluster());
        let Some(first) = parts.next() else { return ready(Ok(())) };
        let mut entered = self.gate.try_enter();
        if first.blocks == blocks {
            if !fua && let Some(change) = entered {
                match self.write_own(first, data, change) {
                    Ok(write) => return write,
                    Err((rest, change)) => (data, entered) = (rest, Some(change)),
                }
            }
            return self.gated(entered, Rc::clone(&self.store).write_part(self.id, first, data, fua));
        }
        let mut writes = Vec::new();
        for part in std::iter::once(first).chain(parts) {
            let piece = data.split_to(self.part_bytes(part));
            writes.push(Rc::clone(&self.store).write_part(self.id, part, piece, fua));
        }
        self.gated(entered, async move { first_error(join_all(writes).await) })
    }

    fn flush(&self) -> IoFuture<()> {
        let store = Rc::clone(&self.store);
        Box::pin(async move { store.flush().await })
    }

    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.zeroed(lba, blocks, false)
    }

    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        self.zeroed(lba, blocks, fua)
    }
}
