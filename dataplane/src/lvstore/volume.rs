//! An lvol as a bdev: translation of blocks to clusters, and mapping on the first write.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::state::{Lvol, LvolId, Record};
use super::store::Store;
use crate::bdev::{Bdev, IoError, IoFuture, IoType};

/// Module name of lvols.
pub(super) const MODULE: &str = "lvol";

/// The bdev of an lvol.
pub(super) struct Volume {
    pub(super) store: Rc<Store>,
    pub(super) id: LvolId,
    pub(super) uuid: Uuid,
}

/// Keeps a data cluster from being used again while I/O of its owner is on it.
struct OnCluster {
    store: Rc<Store>,
    cluster: u32,
}

impl OnCluster {
    fn begin(store: &Rc<Store>, cluster: u32) -> Self {
        store.alloc.borrow_mut().begin_io(cluster);
        Self { store: Rc::clone(store), cluster }
    }
}

impl Drop for OnCluster {
    fn drop(&mut self) {
        if self.store.alloc.borrow_mut().end_io(self.cluster) {
            self.store.at_rest.notify_waiters();
        }
    }
}

/// Marks a part of an lvol as being mapped; others wait until it is dropped.
struct Mapping {
    store: Rc<Store>,
    key: (LvolId, u64),
}

impl Mapping {
    fn begin(store: &Rc<Store>, id: LvolId, index: u64) -> Option<Self> {
        let key = (id, index);
        store.mapping.borrow_mut().insert(key).then(|| Self { store: Rc::clone(store), key })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.store.mapping.borrow_mut().remove(&self.key);
        self.store.mapped.notify_waiters();
    }
}

/// A range within one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    index: u64,
    /// First block within the cluster.
    offset: u64,
    blocks: u64,
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

/// What is at a part of an lvol.
enum Place {
    At(u32),
    Nowhere,
}

fn ready<T: 'static>(result: Result<T, IoError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

fn first_error(results: Vec<Result<(), IoError>>) -> Result<(), IoError> {
    results.into_iter().collect()
}

impl Store {
    fn place(&self, id: LvolId, index: u64) -> Result<Place, IoError> {
        let state = self.state.borrow();
        let lvol = state.lvols.get(&id).ok_or(IoError::Removed)?;
        Ok(lvol.map.get(index).map_or(Place::Nowhere, Place::At))
    }

    /// Whether the mapping that is under way for `id` may take a cluster: a thick lvol has its own, thin ones share what is free.
    fn has_room_for(&self, id: LvolId) -> bool {
        let state = self.state.borrow();
        let is_thin = |id: &LvolId| state.lvols.get(id).is_some_and(|l| l.thin);
        let is_pending = |(id, index): &&(LvolId, u64)| {
            is_thin(id) && state.lvols.get(id).is_some_and(|l| l.map.get(*index).is_none())
        };
        if !is_thin(&id) {
            return true;
        }
        let pending = self.mapping.borrow().iter().filter(is_pending).count() as u64;
        pending <= state.free_clusters()
    }

    fn lba(&self, cluster: u32, part: Part) -> u64 {
        self.layout.cluster_lba(cluster) + part.offset
    }

    fn read_part(self: &Rc<Self>, id: LvolId, part: Part, mut buf: BytesMut) -> IoFuture<BytesMut> {
        match self.place(id, part.index) {
            Ok(Place::At(cluster)) => {
                let on = OnCluster::begin(self, cluster);
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
            Ok(Place::Nowhere) => {
                buf.fill(0);
                ready(Ok(buf))
            }
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
            match self.place(id, part.index)? {
                Place::At(cluster) => return self.write_mapped(cluster, part, data, fua).await,
                Place::Nowhere => match Mapping::begin(&self, id, part.index) {
                    Some(mapping) => return self.write_first(&mapping, part, data, fua).await,
                    None => self.mapped.notified().await,
                },
            }
        }
    }

    async fn write_mapped(
        self: &Rc<Self>,
        cluster: u32,
        part: Part,
        data: Bytes,
        fua: bool,
    ) -> Result<(), IoError> {
        let on = OnCluster::begin(self, cluster);
        let lba = self.lba(cluster, part);
        // The record that maps the cluster may be volatile still: then a flush, which covers both.
        let flush = fua && self.has_volatile_records();
        self.on_base(|base| base.write(lba, data, fua && !flush))?.await?;
        drop(on);
        if flush { self.flush().await } else { Ok(()) }
    }

    /// Writes into a zeroed cluster and maps it, at the same time: whichever reaches the disk alone is harmless.
    async fn write_first(
        self: &Rc<Self>,
        mapping: &Mapping,
        part: Part,
        data: Bytes,
        fua: bool,
    ) -> Result<(), IoError> {
        let (id, index) = mapping.key;
        if !self.has_room_for(id) {
            return Err(IoError::NoSpace);
        }
        let cluster = self.take_zeroed().await?;
        let on = OnCluster::begin(self, cluster);
        let lba = self.lba(cluster, part);
        let write = self.on_base(|base| base.write(lba, data, false))?;
        let record = Record::Map { id, index, cluster };
        let (written, committed) = futures::join!(write, self.commit(record, false));
        drop(on);
        if committed == Err(IoError::InvalidRange) {
            // The lvol was cut off meanwhile: nothing refers to the cluster.
            self.alloc.borrow_mut().untake(&[cluster]);
        }
        written?;
        committed?;
        if fua { self.flush().await } else { Ok(()) }
    }

    /// Takes whole clusters away from an lvol; does what `partial` says with ranges that do not fill theirs.
    async fn deallocate(
        self: Rc<Self>,
        id: LvolId,
        lba: u64,
        blocks: u64,
        partial: Partial,
    ) -> Result<(), IoError> {
        let per_cluster = self.layout.blocks_per_cluster();
        let (first, end) = (lba.div_ceil(per_cluster), (lba + blocks) / per_cluster);
        let mut ios = Vec::new();
        if first < end {
            if self.any_mapped(id, first, end)? {
                let record = Record::Unmap { id, start: first, count: end - first };
                self.commit(record, false).await?;
            }
            let head = first * per_cluster - lba;
            let tail = lba + blocks - end * per_cluster;
            ios.extend((head > 0).then_some((lba, head)));
            ios.extend((tail > 0).then_some((end * per_cluster, tail)));
        } else {
            ios.push((lba, blocks));
        }
        let ranges = ios.into_iter().flat_map(|(lba, blocks)| parts(lba, blocks, per_cluster));
        let ios: Vec<_> = ranges.map(|part| self.deallocate_part(id, part, partial)).collect();
        first_error(join_all(ios).await)
    }

    fn any_mapped(&self, id: LvolId, first: u64, end: u64) -> Result<bool, IoError> {
        let state = self.state.borrow();
        let lvol = state.lvols.get(&id).ok_or(IoError::Removed)?;
        Ok(lvol.map.any(first, end))
    }

    fn deallocate_part(self: &Rc<Self>, id: LvolId, part: Part, partial: Partial) -> IoFuture<()> {
        let cluster = match self.place(id, part.index) {
            Ok(Place::At(cluster)) => cluster,
            Ok(Place::Nowhere) => return ready(Ok(())),
            Err(e) => return ready(Err(e)),
        };
        let on = OnCluster::begin(self, cluster);
        let lba = self.lba(cluster, part);
        let io: Result<IoFuture<()>, _> = self.on_base(|base| match partial {
            Partial::Zero => Box::pin(base.write_zeroes(lba, part.blocks, false)) as IoFuture<()>,
            Partial::Unmap if base.supports(IoType::Unmap) => Box::pin(base.unmap(lba, part.blocks)),
            Partial::Unmap => ready(Ok(())),
        });
        Box::pin(async move {
            let result = io?.await;
            drop(on);
            result
        })
    }
}

/// What to do with less than a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Partial {
    Zero,
    Unmap,
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
        let (thin, allocated) = self.with(|l| (l.thin, l.allocated())).unwrap_or_default();
        json!({"lvol": {
            "lvol_store_uuid": self.store.uuid.to_string(),
            "base_bdev": self.store.base_name(),
            "thin_provision": thin,
            "num_allocated_clusters": allocated,
            "snapshot": false,
            "clone": false,
            "esnap_clone": false,
        }})
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
        if first.blocks == blocks {
            return Box::pin(Rc::clone(&self.store).write_part(self.id, first, data, fua));
        }
        let mut writes = Vec::new();
        for part in std::iter::once(first).chain(parts) {
            let piece = data.split_to(self.part_bytes(part));
            writes.push(Rc::clone(&self.store).write_part(self.id, part, piece, fua));
        }
        Box::pin(async move { first_error(join_all(writes).await) })
    }

    fn flush(&self) -> IoFuture<()> {
        let store = Rc::clone(&self.store);
        Box::pin(async move { store.flush().await })
    }

    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        if self.is_read_only() {
            return ready(Err(IoError::WriteProtected));
        }
        Box::pin(Rc::clone(&self.store).deallocate(self.id, lba, blocks, Partial::Unmap))
    }

    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        if self.is_read_only() {
            return ready(Err(IoError::WriteProtected));
        }
        let store = Rc::clone(&self.store);
        let id = self.id;
        Box::pin(async move {
            Rc::clone(&store).deallocate(id, lba, blocks, Partial::Zero).await?;
            if fua { store.flush().await } else { Ok(()) }
        })
    }
}
