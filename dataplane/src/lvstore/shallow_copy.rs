//! Shallow copies: what an lvol itself has, its parents aside, is written to another bdev in the background.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::LvolError;
use super::lvols::Busy;
use super::map::Entry;
use super::module::LvolModule;
use super::state::{LvolId, Place};
use super::store::Store;
use super::volume::{MODULE, Part};
use crate::bdev::{ClaimType, Descriptor};

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;

/// All shallow copies whose end was not asked for yet.
#[derive(Default)]
pub(super) struct Copies {
    last: Cell<u32>,
    running: RefCell<BTreeMap<u32, Rc<Progress>>>,
}

struct Progress {
    copied: Cell<u64>,
    total: u64,
    done: Cell<bool>,
    /// Positive errno.
    error: Cell<Option<i32>>,
}

/// How far a shallow copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    pub copied_clusters: u64,
    pub total_clusters: u64,
    pub done: bool,
    /// Positive errno of a copy that failed.
    pub error: Option<i32>,
}

impl LvolModule {
    /// `bdev_lvol_start_shallow_copy`: begins to copy what a read-only lvol itself has to a bdev of at least its size; gives the number to
    /// ask with. What only comes up on the way is found by [`Self::check_shallow_copy`].
    ///
    /// # Errors
    /// -19 no such lvol; what the destination can not be opened for.
    pub async fn start_shallow_copy(
        self: &Rc<Self>,
        source: &str,
        destination: &str,
    ) -> Result<u32, LvolError> {
        let (store, id, _alone) = self.locked(source).await?;
        let number = self.copies.last.get() + 1;
        self.copies.last.set(number);
        let (mut target, _events) = self.registry.open(destination, false)?;
        target.claim(ClaimType::ReadManyWriteOne, MODULE)?;
        let total = store.state.borrow().lvols.get(&id).map_or(0, |l| l.allocated());
        let progress =
            Rc::new(Progress { copied: Cell::new(0), total, done: Cell::new(false), error: Cell::new(None) });
        self.copies.running.borrow_mut().insert(number, Rc::clone(&progress));
        let copy = check(&store, id, &target).and_then(|()| Busy::begin(&store, id));
        match copy {
            Err(e) => progress.error.set(Some(e.errno())),
            Ok(busy) => {
                tokio::task::spawn_local(async move {
                    let result = copy_all(&store, id, &target, &progress).await;
                    // Before the end is seen: whoever sees it may use both at once.
                    drop((busy, target));
                    match result {
                        Ok(()) => progress.done.set(true),
                        Err(e) => {
                            tracing::warn!(lvol = %store.name_of(id), error = %e, "shallow copy failed");
                            progress.error.set(Some(e.errno()));
                        }
                    }
                });
            }
        }
        Ok(number)
    }

    /// `bdev_lvol_check_shallow_copy`: how far it is; its end is told once.
    pub fn check_shallow_copy(&self, number: u32) -> Option<CopyStatus> {
        let mut running = self.copies.running.borrow_mut();
        let progress = running.get(&number)?;
        let status = CopyStatus {
            copied_clusters: progress.copied.get(),
            total_clusters: progress.total,
            done: progress.done.get(),
            error: progress.error.get(),
        };
        if status.done || status.error.is_some() {
            running.remove(&number);
        }
        Some(status)
    }
}

fn check(store: &Store, id: LvolId, target: &Descriptor) -> Result<(), LvolError> {
    let state = store.state.borrow();
    let lvol = state.lvols.get(&id).ok_or_else(|| LvolError::VolumeNotFound { name: id.to_string() })?;
    if !lvol.read_only {
        return Err(LvolError::ReadOnly { name: lvol.name.clone() });
    }
    let invalid = |value: u64, allowed| {
        Err(LvolError::Invalid { field: "dst_bdev_name", value: value.to_string(), allowed })
    };
    let bytes = target.num_blocks() * u64::from(target.block_size());
    if bytes < lvol.clusters * u64::from(store.layout.cluster_size) {
        return invalid(bytes, "a bdev of at least the lvol's size");
    }
    if !store.layout.block_size.is_multiple_of(target.block_size()) {
        return invalid(u64::from(target.block_size()), "a block size that divides the lvstore's");
    }
    Ok(())
}

async fn copy_all(
    store: &Rc<Store>,
    id: LvolId,
    target: &Descriptor,
    progress: &Progress,
) -> Result<(), LvolError> {
    let (clusters, sparse) =
        store.state.borrow().lvols.get(&id).map_or((0, true), |l| (l.clusters, !l.reserved));
    for index in 0..clusters {
        let entry = store.state.borrow().lvols.get(&id).map(|l| l.map.entry(index));
        match entry.unwrap_or(Entry::Inherited) {
            Entry::Mapped(cluster) => copy_cluster(store, Place::Own(cluster), index, target).await?,
            // The lvol itself says that there are zeros.
            Entry::Hole => {
                copy_cluster(store, Place::Zeros, index, target).await?;
                continue;
            }
            Entry::Inherited if sparse => continue,
            Entry::Inherited => copy_cluster(store, Place::Zeros, index, target).await?,
        }
        progress.copied.set(progress.copied.get() + 1);
    }
    // Whoever is told that it is complete may delete the source; a power cut must not take the copy then.
    target.flush().await?;
    Ok(())
}

async fn copy_cluster(
    store: &Rc<Store>,
    place: Place,
    index: u64,
    target: &Descriptor,
) -> Result<(), LvolError> {
    let (block, per_cluster) = (u64::from(store.layout.block_size), store.layout.blocks_per_cluster());
    let chunk = (CHUNK / block).min(per_cluster);
    let mut offset = 0;
    while offset < per_cluster {
        let part = Part { index, offset, blocks: chunk.min(per_cluster - offset) };
        let at = (index * per_cluster + offset) * block / u64::from(target.block_size());
        let buf = BytesMut::zeroed((part.blocks * block) as usize);
        let data: Bytes = store.read_place(place, part, buf).await?.freeze();
        target.write(at, data, false).await?;
        offset += part.blocks;
    }
    Ok(())
}

#[cfg(test)]
#[path = "shallow_copy_tests.rs"]
mod tests;
