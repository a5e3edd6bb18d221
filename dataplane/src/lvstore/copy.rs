//! Writing into parts of an lvol that have no cluster of their own yet.
//!
//! Over zeros: a cluster that is durably zeroed is written and mapped at the same time. Over what a parent has: the parent's content and
//! the change are written into a new cluster, and only when that is durable the cluster is mapped. So a power cut leaves the old or the new.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::state::{LvolId, Place, Record};
use super::store::{Order, Store};
use super::volume::{OnClusters, Part};
use crate::bdev::{Descriptor, IoError};

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;

/// Marks a part of an lvol as being mapped; others wait until it is dropped.
pub(super) struct Mapping {
    store: Rc<Store>,
    pub(super) key: (LvolId, u64),
}

impl Mapping {
    /// `None` while somebody else maps it, or it is being taken away.
    pub(super) fn begin(store: &Rc<Store>, id: LvolId, index: u64) -> Option<Self> {
        let key = (id, index);
        let is_unmapped =
            store.unmapping.borrow().iter().any(|(lvol, range)| *lvol == id && range.contains(&index));
        let is_free = !is_unmapped && store.mapping.borrow_mut().insert(key);
        is_free.then(|| Self { store: Rc::clone(store), key })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.store.mapping.borrow_mut().remove(&self.key);
        self.store.mapped.notify_waiters();
    }
}

/// Keeps a range of an lvol from being mapped while it is taken away: a copy made before would bring back what its parent has.
pub(super) struct Unmapping {
    store: Rc<Store>,
    range: (LvolId, std::ops::Range<u64>),
}

impl Unmapping {
    /// Waits until nothing in the range is being mapped.
    pub(super) async fn begin(store: &Rc<Store>, id: LvolId, range: std::ops::Range<u64>) -> Self {
        let key = (id, range.clone());
        store.unmapping.borrow_mut().push(key.clone());
        let this = Self { store: Rc::clone(store), range: key };
        loop {
            let mapped = store.mapped.notified();
            if store.mapping.borrow().range((id, range.start)..(id, range.end)).next().is_none() {
                return this;
            }
            mapped.await;
        }
    }
}

impl Drop for Unmapping {
    fn drop(&mut self) {
        let mut unmapping = self.store.unmapping.borrow_mut();
        if let Some(n) = unmapping.iter().position(|r| *r == self.range) {
            unmapping.swap_remove(n);
        }
        drop(unmapping);
        self.store.mapped.notify_waiters();
    }
}

/// What is put over the parent's content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Data(Part, Bytes),
    Zeros(Part),
    Nothing,
}

impl Change {
    fn range(&self) -> std::ops::Range<u64> {
        match self {
            Self::Data(part, _) | Self::Zeros(part) => part.offset..part.offset + part.blocks,
            Self::Nothing => 0..0,
        }
    }
}

impl Store {
    /// Whether the mapping that is under way for `id` may take a cluster: who has them reserved has its own, the others share what is free.
    fn has_room_for(&self, id: LvolId) -> bool {
        let state = self.state.borrow();
        let shares = |id: &LvolId| state.lvols.get(id).is_some_and(|l| !l.reserved);
        let is_pending = |(id, index): &&(LvolId, u64)| {
            shares(id) && state.lvols.get(id).is_some_and(|l| l.map.get(*index).is_none())
        };
        if !shares(&id) {
            return true;
        }
        let pending = self.mapping.borrow().iter().filter(is_pending).count() as u64;
        pending <= state.free_clusters()
    }

    /// Maps a taken cluster; gives it back if that is refused because the lvol was cut off, or others took what was free.
    async fn map(self: &Rc<Self>, mapping: &Mapping, cluster: u32, order: Order) -> Result<(), IoError> {
        let (id, index) = mapping.key;
        let committed = self.commit(Record::Map { id, index, cluster }, order).await;
        self.give_back_refused(cluster, committed)
    }

    /// Gives a taken cluster back if its record was refused: nothing on the disk names it. After any other error that is not known.
    fn give_back_refused(&self, cluster: u32, committed: Result<(), IoError>) -> Result<(), IoError> {
        if matches!(committed, Err(IoError::InvalidRange | IoError::NoSpace)) {
            self.alloc.borrow_mut().untake(&[cluster]);
        }
        committed
    }

    /// Writes into a zeroed cluster and maps it, at the same time: whichever reaches the disk alone is harmless.
    pub(super) async fn write_over_zeros(
        self: &Rc<Self>,
        mapping: &Mapping,
        part: Part,
        data: Bytes,
    ) -> Result<(), IoError> {
        if !self.has_room_for(mapping.key.0) {
            return Err(IoError::NoSpace);
        }
        let cluster = self.take_zeroed().await?;
        let on = OnClusters::begin(self);
        let lba = self.layout.cluster_lba(cluster) + part.offset;
        let write = self.on_base(|base| base.write(lba, data, false));
        let write = match write {
            Ok(write) => write,
            Err(e) => {
                self.alloc.borrow_mut().untake(&[cluster]);
                return Err(e);
            }
        };
        // The cluster is given back only when nothing is written to it any more.
        let (id, index) = mapping.key;
        let record = Record::Map { id, index, cluster };
        let (written, committed) = futures::join!(write, self.commit(record, Order::Plain));
        drop(on);
        let committed = self.give_back_refused(cluster, committed);
        written?;
        committed
    }

    /// Maps a cluster of zeros.
    pub(super) async fn map_zeros(self: &Rc<Self>, mapping: &Mapping) -> Result<(), IoError> {
        if !self.has_room_for(mapping.key.0) {
            return Err(IoError::NoSpace);
        }
        let cluster = self.take_zeroed().await?;
        self.map(mapping, cluster, Order::Plain).await
    }

    /// Gives a part of an lvol a cluster of its own with what its parent has there, and the change over it.
    pub(super) async fn copy_on_write(
        self: &Rc<Self>,
        mapping: &Mapping,
        change: Change,
    ) -> Result<(), IoError> {
        if !self.has_room_for(mapping.key.0) {
            return Err(IoError::NoSpace);
        }
        let cluster = self.take_any().await?;
        match self.copy(mapping, cluster, change).await {
            Ok(()) => self.map(mapping, cluster, Order::AfterData).await,
            Err(e) => {
                self.alloc.borrow_mut().untake(&[cluster]);
                Err(e)
            }
        }
    }

    async fn copy(self: &Rc<Self>, mapping: &Mapping, cluster: u32, change: Change) -> Result<(), IoError> {
        // The semaphore is never closed.
        let _permit = self.copies.acquire().await.map_err(|_| IoError::Aborted)?;
        let (id, index) = mapping.key;
        let source = self.state.borrow().place(id, index).ok_or(IoError::Removed)?;
        let on = OnClusters::begin(self);
        let per_cluster = self.layout.blocks_per_cluster();
        let chunk = (CHUNK / u64::from(self.layout.block_size)).min(per_cluster);
        let mut offset = 0;
        while offset < per_cluster {
            let part = Part { index, offset, blocks: chunk.min(per_cluster - offset) };
            let data = self.changed(source, part, &change).await?;
            let lba = self.layout.cluster_lba(cluster) + offset;
            self.on_base(|base: &Descriptor| base.write(lba, data, false))?.await?;
            offset += part.blocks;
        }
        drop(on);
        Ok(())
    }

    /// What a part of a cluster holds after a change.
    async fn changed(self: &Rc<Self>, source: Place, part: Part, change: &Change) -> Result<Bytes, IoError> {
        let block = u64::from(self.layout.block_size);
        let (whole, over) = (part.offset..part.offset + part.blocks, change.range());
        let common = whole.start.max(over.start)..whole.end.min(over.end);
        if common == whole
            && let Change::Data(_, data) = change
        {
            let from = ((whole.start - over.start) * block) as usize;
            return Ok(data.slice(from..from + (part.blocks * block) as usize));
        }
        let mut buf = BytesMut::zeroed((part.blocks * block) as usize);
        if common != whole {
            buf = self.read_place(source, part, buf).await?;
        }
        if !common.is_empty() {
            let at = |n: u64, from: u64| ((n - from) * block) as usize;
            let target = &mut buf[at(common.start, whole.start)..at(common.end, whole.start)];
            match change {
                Change::Data(_, data) => {
                    target.copy_from_slice(&data[at(common.start, over.start)..at(common.end, over.start)]);
                }
                Change::Zeros(_) | Change::Nothing => target.fill(0),
            }
        }
        Ok(buf.freeze())
    }
}
