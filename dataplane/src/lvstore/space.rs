//! Where an lvstore's clusters come from and go to: zeroed ahead before they are handed out, cleared when they are given back.

use std::rc::Rc;

use super::state::LvolClear;
use super::store::Store;
use crate::bdev::{IoError, IoFuture, IoType};

/// Bytes zeroed together ahead of allocation.
const ZERO_AHEAD: u64 = 32 << 20;
/// The most clusters zeroed together.
const ZERO_AHEAD_CLUSTERS: u64 = 64;
/// The most bytes that are cleared by one request.
const CLEAR_BYTES: u64 = 1 << 30;

impl Store {
    fn zero_ahead(&self) -> usize {
        let clusters = ZERO_AHEAD / u64::from(self.layout.cluster_size);
        // A small store keeps little back.
        let share = u64::from(self.state.borrow().clusters) / 16;
        clusters.min(share).clamp(1, ZERO_AHEAD_CLUSTERS) as usize
    }

    /// Takes a cluster that may hold anything, to be written as a whole.
    pub(super) async fn take_any(self: &Rc<Self>) -> Result<u32, IoError> {
        let free = self.alloc.borrow_mut().take_free(1).pop();
        match free {
            Some(cluster) => Ok(cluster),
            None => self.take_zeroed().await,
        }
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

    async fn zero_some(self: &Rc<Self>, needed: bool) -> Result<(), IoError> {
        let result = self.zero_clusters(needed).await;
        self.zeroing.set(false);
        self.zeroed.notify_waiters();
        result
    }

    async fn zero_clusters(self: &Rc<Self>, needed: bool) -> Result<(), IoError> {
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

    async fn find_free(self: &Rc<Self>, needed: bool) -> Result<Vec<u32>, IoError> {
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
            // Everything that is freed has I/O of its old owner on it, or is being cleared.
            at_rest.await;
        }
    }

    async fn zero_runs(self: &Rc<Self>, clusters: &[u32]) -> Result<(), IoError> {
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

    /// Clears what was given back, in the background.
    pub(super) fn clear_freed(self: &Rc<Self>) {
        if self.clearing.replace(true) {
            return;
        }
        let store = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                let unclear = store.alloc.borrow_mut().take_unclear();
                if unclear.is_empty() {
                    break;
                }
                store.clear(&unclear).await;
                store.alloc.borrow_mut().cleared(&unclear);
                store.at_rest.notify_waiters();
            }
            store.clearing.set(false);
        });
    }

    /// Clears clusters, which are in order.
    async fn clear(&self, clusters: &[(u32, LvolClear)]) {
        let per_cluster = self.layout.blocks_per_cluster();
        let most = (CLEAR_BYTES / u64::from(self.layout.cluster_size)).max(1) as usize;
        let runs = clusters.chunk_by(|a, b| a.0 + 1 == b.0 && a.1 == b.1).flat_map(|run| run.chunks(most));
        for run in runs {
            let (lba, blocks) = (self.layout.cluster_lba(run[0].0), run.len() as u64 * per_cluster);
            let io = self.on_base(|base| match run[0].1 {
                LvolClear::Unmap if base.supports(IoType::Unmap) => {
                    Some(Box::pin(base.unmap(lba, blocks)) as IoFuture<()>)
                }
                LvolClear::WriteZeroes => {
                    Some(Box::pin(base.write_zeroes(lba, blocks, false)) as IoFuture<()>)
                }
                LvolClear::Unmap | LvolClear::None => None,
            });
            // Nobody owns them: a failure costs space on the base bdev, nothing else.
            if let Ok(Some(io)) = io
                && let Err(error) = io.await
            {
                tracing::warn!(bdev = %self.base_name(), %error, "clusters given back could not be cleared");
            }
        }
    }
}
